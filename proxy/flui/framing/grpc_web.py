"""What gRPC-Web (PROTOCOL-WEB) adds to gRPC's messages: trailers as a last message of their own, and all of it as base64.

    0 | 1, length, message     as in `framing/grpc.py`, both ways
    0x80, length, fields       the trailers, `name: value` CRLF each: the last of an answer

In its text form the octets travel as base64, padded wherever a sender likes.
"""

from __future__ import annotations

import binascii
from typing import Final

from flui.framing.base import Message, MessageLimits
from flui.framing.grpc import GrpcInspector, GrpcReader, GrpcWriter, coding_of
from flui.model.fault import Fault
from flui.model.fields import Field

TRAILERS: Final = 0x80
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_QUAD: Final = 4


def trailer_frame(fields: list[Field]) -> bytes:
    """The frame that ends an answer."""
    block = b"".join([line.wire for line in fields])
    return b"\x80" + len(block).to_bytes(4, "big") + block


def text_of(octets: bytes) -> bytes:
    """Octets in the text form."""
    return binascii.b2a_base64(octets, newline=False)


class TextReader:
    """Text in, octets out, however the text is cut."""

    __slots__ = ("_held", "broken")

    def __init__(self) -> None:
        self._held = b""
        self.broken = False
        """It is no base64. What came before stays."""

    def receive(self, chunk: bytes) -> bytes:
        """The octets that `chunk` completes. Never raises: what is wrong becomes `broken`."""
        if self.broken:
            return b""
        text = self._held + chunk if self._held else chunk
        if text.translate(None, _ALPHABET):
            self.broken = True
            return b""
        whole = len(text) - len(text) % _QUAD
        self._held = text[whole:]
        text = text[:whole]
        if b"=" not in text or text.find(b"=") >= whole - 2:
            return self._decoded(text)
        # padded within: several runs, each whole
        out: list[bytes] = []
        begun = 0
        while begun < whole:
            pad = text.find(b"=", begun)
            end = whole if pad < 0 else pad - pad % _QUAD + _QUAD
            out.append(self._decoded(text[begun:end]))
            begun = end
        return b"".join(out)

    def _decoded(self, text: bytes) -> bytes:
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            self.broken = True
            return b""

    def finish(self) -> None:
        """No text follows; a part of four letters is broken."""
        if self._held:
            self.broken = True


class GrpcWebReader:
    """Messages of one direction in the text form. In the binary form they are gRPC's, and so is their reader."""

    __slots__ = ("_credit", "_inner", "_malformed", "_owed", "_text", "fault")

    def __init__(self, limits: MessageLimits, coded: bool, malformed: Fault) -> None:
        self._inner = GrpcReader(limits, coded, malformed)
        self._text = TextReader()
        self._malformed = malformed
        self._owed = 0
        """Octets that were decoded and not credited."""
        self._credit = 0
        """Octets of text beyond those that they say, and not credited: in proportion to what is taken."""
        self.fault: Fault | None = None

    def receive(self, chunk: bytes) -> None:
        """Takes text as it comes."""
        if self.fault is not None:
            return
        octets = self._text.receive(chunk)
        self._credit += len(chunk) - len(octets)
        self._owed += len(octets)
        if octets:
            self._inner.receive(octets)
        if self._text.broken:
            self.fault = self._malformed

    def finish(self) -> None:
        """No text follows."""
        self._text.finish()
        if self._text.broken and self.fault is None:
            self.fault = self._malformed
        self._inner.finish()

    def take(self) -> Message | None:
        """The next message, if it is whole. Those before what is no base64 were whole."""
        message = self._inner.take()
        if message is None and self.fault is None:
            self.fault = self._inner.fault
        return message

    def credit(self) -> int:
        """Octets that the sender may send anew."""
        octets = self._inner.credit()
        more = self._credit * octets // self._owed if self._owed > octets else self._credit
        self._owed -= octets
        self._credit -= more
        return octets + more


class GrpcWebWriter:
    """Messages of one direction in the text form, each in base64 of its own."""

    __slots__ = ("_inner", "_left", "pending")

    def __init__(self, limits: MessageLimits, coded: bool) -> None:
        self._inner = GrpcWriter(limits, coded)
        self._left = b""
        self.pending = 0

    def send(self, message: Message) -> Fault | None:
        """Frames `message`, unless it is too long, or one too many."""
        fault = self._inner.send(message)
        if fault is None:
            self._left += text_of(self._inner.take(self._inner.pending))
            self.pending = len(self._left)
        return fault

    def take(self, credit: int) -> bytes:
        """Text to send."""
        text = self._left[: max(0, credit)]
        self._left = self._left[len(text) :]
        self.pending = len(self._left)
        return text


class GrpcWebInspector:
    """Counts and bounds the messages of one direction in the text form."""

    __slots__ = ("_inner", "_malformed", "_text", "fault")

    def __init__(self, limits: MessageLimits, coded: bool, malformed: Fault) -> None:
        self._inner = GrpcInspector(limits, coded, malformed)
        self._text = TextReader()
        self._malformed = malformed
        self.fault: Fault | None = None

    @property
    def at_rest(self) -> bool:
        """The text so far ends where a message ends."""
        return self.fault is None and self._inner.at_rest

    @property
    def messages(self) -> int:
        """Begun so far."""
        return self._inner.messages

    def inspect(self, chunk: bytes) -> int:
        """Number of messages whose prefix ends in `chunk`."""
        if self.fault is not None:
            return 0
        begun = self._inner.inspect(self._text.receive(chunk))
        self.fault = self._malformed if self._text.broken else self._inner.fault
        return begun

    def finish(self) -> Fault | None:
        """No text follows."""
        self._text.finish()
        if self.fault is None:
            self.fault = self._malformed if self._text.broken else self._inner.finish()
        return self.fault


class GrpcWebTextFraming:
    """gRPC-Web's messages in the text form, under given limits."""

    __slots__ = ("limits",)

    def __init__(self, limits: MessageLimits) -> None:
        self.limits = limits

    def reader(self, fields: list[Field], malformed: Fault) -> GrpcWebReader:
        """For text of a peer that is to be understood."""
        return GrpcWebReader(self.limits, bool(coding_of(fields)), malformed)

    def writer(self, fields: list[Field]) -> GrpcWebWriter:
        """For messages that are to be sent under a head with `fields`."""
        return GrpcWebWriter(self.limits, bool(coding_of(fields)))

    def inspector(self, fields: list[Field], malformed: Fault) -> GrpcWebInspector:
        """For text of a peer that passes."""
        return GrpcWebInspector(self.limits, bool(coding_of(fields)), malformed)

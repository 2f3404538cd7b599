"""What gRPC-Web (PROTOCOL-WEB) adds to gRPC's messages: trailers as a last message of their own, and all of it as base64.

    0 | 1, length, message     as in `framing/grpc.py`, both ways
    0x80, length, fields       the trailers, `name: value` CRLF each: the last of an answer

In its text form the octets travel as base64, padded wherever a sender likes.
"""

from __future__ import annotations

import binascii
from typing import Final

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

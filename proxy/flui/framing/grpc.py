"""gRPC's length-prefixed messages (PROTOCOL-HTTP2, Length-Prefixed-Message).

    1 octet   0: as it is; 1: compressed by the `grpc-encoding` of the head, which must then be there
    4 octets  length, most significant first
    length    the message

The borders of DATA frames mean nothing. Refused: any other first octet, 1 without a coding, a length above the limit
(before an octet of it is kept), an end inside a message.
"""

from __future__ import annotations

from typing import Final

from flui.framing._parts import Outgoing
from flui.framing.base import Message, MessageLimits
from flui.model.fault import Fault
from flui.model.fields import Field

PREFIX: Final = 5
_MOST: Final = 0xFFFF_FFFF
_IDENTITY: Final = b"identity"


def coding_of(fields: list[Field]) -> bytes:
    """The `grpc-encoding` of a head in lower case; empty when its messages are as they are."""
    for field in fields:
        if field.name == b"grpc-encoding":
            coding = field.value.lower()
            return b"" if coding == _IDENTITY else coding
    return b""


def framed(payload: bytes, *, coded: bool = False) -> bytes:
    """A message, framed."""
    return (b"\1" if coded else b"\0") + len(payload).to_bytes(4, "big") + payload


class GrpcReader:
    """Messages of one direction. An octet is copied once, or twice when its message came in several chunks."""

    __slots__ = ("_at", "_chunk", "_coded", "_credit", "_ended", "_held", "_limits", "_malformed", "_paid", "fault", "messages")

    def __init__(self, limits: MessageLimits, coded: bool, malformed: Fault) -> None:
        self._limits = limits
        self._coded = coded
        self._malformed = malformed
        # A chunk is read where it lies. Only what of it is not a whole message yet, or not asked for, moves to `_held`.
        self._chunk = b""
        self._at = 0
        self._held = bytearray()
        self._paid = 0
        """Octets at the front of what is held whose credit was said already."""
        self._credit = 0
        self._ended = False
        self.fault: Fault | None = None
        self.messages = 0
        """Taken so far."""

    def receive(self, chunk: bytes) -> None:
        """Takes octets as they come."""
        assert not self._ended, "octets after the end"
        if self.fault is not None:
            return
        if not self._held and self._at == len(self._chunk):
            self._chunk = chunk
            self._at = 0
            return
        self._keep()
        self._held += chunk

    def _keep(self) -> None:
        if self._at < len(self._chunk):
            self._held += self._chunk[self._at :] if self._at else self._chunk
        self._chunk = b""
        self._at = 0

    def finish(self) -> None:
        """No octets follow."""
        self._ended = True

    def take(self) -> Message | None:
        """The next message, if it is whole."""
        if self.fault is not None:
            return None
        if self._held:
            return self._take_held()
        chunk, at = self._chunk, self._at
        have = len(chunk) - at
        if have >= PREFIX:
            flag = chunk[at]
            length = chunk[at + 1] << 24 | chunk[at + 2] << 16 | chunk[at + 3] << 8 | chunk[at + 4]
            if not self._admits(flag, length):
                return None
            if have >= PREFIX + length:
                self._at = at + PREFIX + length
                payload = chunk[at + PREFIX : self._at]
                if self._at == len(chunk):
                    self._chunk = b""
                    self._at = 0
                return self._taken(payload, flag, PREFIX + length)
        if have:
            self._keep()
        self._wait()
        return None

    def _take_held(self) -> Message | None:
        held = self._held
        if len(held) >= PREFIX:
            flag = held[0]
            length = held[1] << 24 | held[2] << 16 | held[3] << 8 | held[4]
            if not self._admits(flag, length):
                return None
            whole = PREFIX + length
            if len(held) >= whole:
                payload = bytes(memoryview(held)[PREFIX:whole])
                if len(held) == whole:
                    self._held = bytearray()
                else:
                    del held[:whole]  # moves the front, not the rest
                return self._taken(payload, flag, whole)
        self._wait()
        return None

    def _admits(self, flag: int, length: int) -> bool:
        if flag > 1 or (flag and not self._coded):
            self._fail(self._malformed)
        elif length > self._limits.message_octets or 0 < self._limits.messages <= self.messages:
            self._fail(Fault.BODY_TOO_LARGE)
        return self.fault is None

    def _taken(self, payload: bytes, flag: int, whole: int) -> Message:
        self._credit += whole - self._paid
        self._paid = 0
        self.messages += 1
        return Message(payload, flag == 1)

    def _wait(self) -> None:
        """Of the message in front, more must come: its octets are credited, or it never would. The limit bounds them."""
        have = len(self._held)
        if self._ended:
            if have:
                self._fail(self._malformed)
            return
        self._credit += have - self._paid
        self._paid = have

    def _fail(self, fault: Fault) -> None:
        self.fault = fault
        self._chunk = b""
        self._at = 0
        self._held = bytearray()

    def credit(self) -> int:
        """Octets that the sender may send anew."""
        credit = self._credit
        self._credit = 0
        return credit


class GrpcWriter(Outgoing):
    """Messages of one direction, framed."""

    __slots__ = ("_coded",)

    def __init__(self, limits: MessageLimits, coded: bool) -> None:
        super().__init__(limits)
        self._coded = coded

    def send(self, message: Message) -> Fault | None:
        """Frames `message`, unless it is too long, or one too many."""
        length = len(message.payload)
        if length > _MOST or not self.admits(message):
            return Fault.BODY_TOO_LARGE
        assert self._coded or not message.coded, "compressed, under a head that names no coding"
        self.push(framed(message.payload, coded=message.coded))
        return None


class GrpcInspector:
    """Counts and bounds the messages of one direction. Keeps no octet but the length of the message that is passing."""

    __slots__ = ("_coded", "_have", "_left", "_length", "_limits", "_malformed", "at_rest", "fault", "largest", "messages", "octets")

    def __init__(self, limits: MessageLimits, coded: bool, malformed: Fault) -> None:
        self._limits = limits
        self._coded = coded
        self._malformed = malformed
        self._have = 0
        """Octets of the prefix that were seen."""
        self._length = 0
        self._left = 0
        """Octets of the message that must still come."""
        self.fault: Fault | None = None
        self.at_rest = True
        self.messages = 0
        """Begun so far: their prefix was seen whole."""
        self.octets = 0
        """Of their payloads, as the prefixes say."""
        self.largest = 0

    def inspect(self, chunk: bytes) -> int:
        """Number of messages whose prefix ends in `chunk`."""
        if self.fault is not None:
            return 0
        size = len(chunk)
        at = self._left
        if at > size:
            self._left = at - size
            return 0
        before = self.messages
        self._left = 0
        while at < size:
            if self._have or size - at < PREFIX:  # the prefix came in several chunks
                octet = chunk[at]
                if self._have:
                    self._length = self._length << 8 | octet
                elif octet and not self._admits_flag(octet):
                    return self.messages - before
                self._have += 1
                at += 1
                if self._have < PREFIX:
                    continue
                length = self._length
                self._have = self._length = 0
            else:
                if chunk[at] and not self._admits_flag(chunk[at]):
                    return self.messages - before
                length = chunk[at + 1] << 24 | chunk[at + 2] << 16 | chunk[at + 3] << 8 | chunk[at + 4]
                at += PREFIX
            if not self._begins(length):
                return self.messages - before
            at += length
        if at > size:
            self._left = at - size
        self.at_rest = at == size and not self._have
        return self.messages - before

    def _admits_flag(self, flag: int) -> bool:
        if flag == 1 and self._coded:
            return True
        self.fault = self._malformed
        self.at_rest = False
        return False

    def _begins(self, length: int) -> bool:
        limits = self._limits
        if length > limits.message_octets or 0 < limits.messages <= self.messages:
            self.fault = Fault.BODY_TOO_LARGE
            self.at_rest = False
            return False
        self.messages += 1
        self.octets += length
        self.largest = length if length > self.largest else self.largest
        return True

    def finish(self) -> Fault | None:
        """No octets follow."""
        if self.fault is None and not self.at_rest:
            self.fault = self._malformed
        return self.fault


class GrpcFraming:
    """gRPC's messages under given limits."""

    __slots__ = ("limits",)

    def __init__(self, limits: MessageLimits) -> None:
        self.limits = limits

    def reader(self, fields: list[Field], malformed: Fault) -> GrpcReader:
        """For octets of a peer that are to be understood."""
        return GrpcReader(self.limits, bool(coding_of(fields)), malformed)

    def writer(self, fields: list[Field]) -> GrpcWriter:
        """For messages that are to be sent under a head with `fields`."""
        return GrpcWriter(self.limits, bool(coding_of(fields)))

    def inspector(self, fields: list[Field], malformed: Fault) -> GrpcInspector:
        """For octets of a peer that pass."""
        return GrpcInspector(self.limits, bool(coding_of(fields)), malformed)

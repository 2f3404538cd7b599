"""One message a line (NDJSON): a line feed ends it, a carriage return before that is no part of it, blank lines say nothing.

The last line needs no line feed. What stands in a line is not looked at: that it is JSON is the business of who reads it.
"""

from __future__ import annotations

from flui.framing._parts import Incoming, Outgoing
from flui.framing.base import Message, MessageLimits
from flui.model.fault import Fault
from flui.model.fields import Field

_BLANK = b" \t\r"


def line_of(payload: bytes) -> bytes:
    """A message, framed. It holds no line feed."""
    return payload + b"\n"


class NdjsonReader(Incoming):
    """Lines of one direction."""

    __slots__ = ("_scanned",)

    def __init__(self, limits: MessageLimits, malformed: Fault) -> None:
        super().__init__(limits, malformed)
        self._scanned = 0
        """Octets at the front of which none is a line feed."""

    def cut(self) -> bytes | None:
        """The next line that is not blank."""
        while True:
            held = self.held
            end = held.find(b"\n", self._scanned)
            if end < 0:
                if not self.ended or not held:
                    self._scanned = len(held)
                    if len(held) > self.limits.message_octets + 1:  # a carriage return may be the last
                        self.fail(Fault.BODY_TOO_LARGE)
                    return None
                end = len(held)
            text = bytes(held[:end]).rstrip(b"\r")
            self.drop(min(end + 1, len(held)))
            self._scanned = 0
            if text.strip(_BLANK):
                return text


class NdjsonWriter(Outgoing):
    """Lines of one direction."""

    __slots__ = ()

    def send(self, message: Message) -> Fault | None:
        """Frames `message`, unless it is too long, one too many, or more than a line."""
        payload = message.payload
        if b"\n" in payload:
            return Fault.MALFORMED
        if not self.admits(message):
            return Fault.BODY_TOO_LARGE
        self.push(line_of(payload))
        return None


class NdjsonInspector:
    """Counts and bounds the lines of one direction, and keeps none of them."""

    __slots__ = ("_length", "_limits", "at_rest", "fault", "messages")

    def __init__(self, limits: MessageLimits) -> None:
        self._limits = limits
        self._length = 0
        self.fault: Fault | None = None
        self.at_rest = True
        self.messages = 0
        """Begun so far."""

    def inspect(self, chunk: bytes) -> int:
        """Number of lines that are not blank and begin in `chunk`."""
        if self.fault is not None:
            return 0
        before = self.messages
        at = 0
        while at < len(chunk):
            end = chunk.find(b"\n", at)
            part = chunk[at : end if end >= 0 else len(chunk)]
            if self.at_rest and part.strip(_BLANK):
                if 0 < self._limits.messages <= self.messages:
                    self._fail()
                    break
                self.messages += 1
                self.at_rest = False
            self._length += len(part)
            if self._length > self._limits.message_octets + 1:
                self._fail()
                break
            if end < 0:
                break
            self._length = 0
            self.at_rest = True
            at = end + 1
        return self.messages - before

    def _fail(self) -> None:
        self.fault = Fault.BODY_TOO_LARGE
        self.at_rest = False

    def finish(self) -> Fault | None:
        """No octets follow; the last line needs no end of its own."""
        if self.fault is None:
            self.at_rest = True
        return self.fault


class NdjsonFraming:
    """Lines under given limits."""

    __slots__ = ("limits",)

    def __init__(self, limits: MessageLimits) -> None:
        self.limits = limits

    def reader(self, fields: list[Field], malformed: Fault) -> NdjsonReader:
        """For octets of a peer that are to be understood."""
        del fields
        return NdjsonReader(self.limits, malformed)

    def writer(self, fields: list[Field]) -> NdjsonWriter:
        """For messages that are to be sent."""
        del fields
        return NdjsonWriter(self.limits)

    def inspector(self, fields: list[Field], malformed: Fault) -> NdjsonInspector:
        """For octets of a peer that pass."""
        del fields, malformed
        return NdjsonInspector(self.limits)

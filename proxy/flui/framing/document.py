"""A body that is one message, whole: a JSON document, say. It has no border but the end of the body."""

from __future__ import annotations

from flui.framing._parts import Incoming, Outgoing
from flui.framing.base import Message, MessageLimits
from flui.model.fault import Fault
from flui.model.fields import Field


class DocumentReader(Incoming):
    """The one message of one direction; an empty body is an empty message."""

    __slots__ = ()

    def cut(self) -> bytes | None:
        """The body, once it has ended."""
        if len(self.held) > self.limits.message_octets:
            self.fail(Fault.BODY_TOO_LARGE)
            return None
        if not self.ended or self.messages:
            return None
        payload = bytes(self.held)
        self.drop(len(payload))
        return payload


class DocumentWriter(Outgoing):
    """Takes one message, and no second one."""

    __slots__ = ()

    def send(self, message: Message) -> Fault | None:
        """Frames `message`, unless it is too long, or not the first."""
        if self.messages or not self.admits(message):
            return Fault.BODY_TOO_LARGE
        self.push(message.payload)
        return None


class DocumentInspector:
    """Bounds the one message of one direction."""

    __slots__ = ("_limits", "_octets", "at_rest", "fault", "messages")

    def __init__(self, limits: MessageLimits) -> None:
        self._limits = limits
        self._octets = 0
        self.fault: Fault | None = None
        self.at_rest = True
        """It may end anywhere: how long it is, nobody says within it."""
        self.messages = 0

    def inspect(self, chunk: bytes) -> int:
        """1 with the first octet."""
        if self.fault is not None or not chunk:
            return 0
        self._octets += len(chunk)
        if self._octets > self._limits.message_octets:
            self.fault = Fault.BODY_TOO_LARGE
            self.at_rest = False
        if self.messages:
            return 0
        self.messages = 1
        return 1

    def finish(self) -> Fault | None:
        """No octets follow."""
        return self.fault


class DocumentFraming:
    """Whole bodies under given limits."""

    __slots__ = ("limits",)

    def __init__(self, limits: MessageLimits) -> None:
        self.limits = limits

    def reader(self, fields: list[Field], malformed: Fault) -> DocumentReader:
        """For octets of a peer that are to be understood."""
        del fields
        return DocumentReader(self.limits, malformed)

    def writer(self, fields: list[Field]) -> DocumentWriter:
        """For the message that is to be sent."""
        del fields
        return DocumentWriter(self.limits)

    def inspector(self, fields: list[Field], malformed: Fault) -> DocumentInspector:
        """For octets of a peer that pass."""
        del fields, malformed
        return DocumentInspector(self.limits)

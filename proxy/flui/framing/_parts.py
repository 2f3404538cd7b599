"""What framings have in common: messages that wait to leave, and octets that wait to become messages."""

from __future__ import annotations

from collections import deque

from flui.framing.base import Message, MessageLimits
from flui.model.fault import Fault


class Outgoing:
    """Framed messages; each leaves in as few pieces as credit allows. The writer of a framing says how one is framed."""

    __slots__ = ("_at", "_limits", "_queue", "messages", "pending")

    def __init__(self, limits: MessageLimits) -> None:
        self._limits = limits
        self._queue: deque[bytes] = deque()
        self._at = 0
        self.pending = 0
        self.messages = 0
        """Framed so far."""

    def admits(self, message: Message) -> bool:
        """Whether it is neither too long nor one too many."""
        limits = self._limits
        return len(message.payload) <= limits.message_octets and not 0 < limits.messages <= self.messages

    def push(self, framed: bytes) -> None:
        """The octets of one message."""
        self._queue.append(framed)
        self.pending += len(framed)
        self.messages += 1

    def take(self, credit: int) -> bytes:
        """Octets to send."""
        queue = self._queue
        if not queue or credit <= 0:
            return b""
        if not self._at and len(queue) == 1 and credit >= self.pending:
            self.pending = 0
            return queue.popleft()
        parts: list[bytes] = []
        while queue and credit:
            first = queue[0]
            part = first[self._at : self._at + credit]
            parts.append(part)
            credit -= len(part)
            self.pending -= len(part)
            self._at += len(part)
            if self._at == len(first):
                queue.popleft()
                self._at = 0
        return b"".join(parts)


class Incoming:
    """Octets of a text framing, and the credit for them. The reader of a framing says in `cut` where a message ends."""

    __slots__ = ("_credit", "_paid", "ended", "fault", "held", "limits", "malformed", "messages")

    def __init__(self, limits: MessageLimits, malformed: Fault) -> None:
        self.limits = limits
        self.malformed = malformed
        self.held = bytearray()
        """What was received and is no part of a message that was taken."""
        self.ended = False
        self._paid = 0
        """Octets at the front of `held` whose credit was said already."""
        self._credit = 0
        self.fault: Fault | None = None
        self.messages = 0
        """Taken so far."""

    def receive(self, chunk: bytes) -> None:
        """Takes octets as they come."""
        assert not self.ended, "octets after the end"
        if self.fault is None:
            self.held += chunk

    def finish(self) -> None:
        """No octets follow."""
        self.ended = True

    def take(self) -> Message | None:
        """The next message, if it is whole."""
        if self.fault is not None:
            return None
        payload = self.cut()
        if payload is not None:
            if len(payload) > self.limits.message_octets or 0 < self.limits.messages <= self.messages:
                self.fail(Fault.BODY_TOO_LARGE)
                return None
            self.messages += 1
            return Message(payload)
        # Of the message in front more must come: its octets are credited, or it never would. Its limit bounds them.
        self._credit += len(self.held) - self._paid
        self._paid = len(self.held)
        return None

    def cut(self) -> bytes | None:
        """The payload of the message in front, whose octets are `drop`ped; None while it is not whole, or after `fail`."""
        raise NotImplementedError

    def drop(self, octets: int) -> None:
        """So many octets at the front are done with."""
        del self.held[:octets]  # moves the front, not the rest
        paid = self._paid
        self._credit += max(0, octets - paid)
        self._paid = max(0, paid - octets)

    def fail(self, fault: Fault) -> None:
        """No more messages come."""
        self.fault = fault
        self.held = bytearray()
        self._paid = 0

    def credit(self) -> int:
        """Octets that the sender may send anew."""
        credit = self._credit
        self._credit = 0
        return credit

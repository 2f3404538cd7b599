"""What turns octets into messages and back, one direction of one exchange at a time.

    octets ─▶ Reader ─▶ Message      Message ─▶ Writer ─▶ octets      octets ─▶ Inspector ─▶ the same octets
       ◀── credit ──                    ◀── pending ──

A translation joins the `Reader` of one framing to the `Writer` of another; it asks for the next message only while the
writer holds nothing, so what is not taken far away is not credited near by. A flow that only needs its messages counted
or bounded goes past an `Inspector`, and its octets are never touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flui.model.fault import Fault
from flui.model.fields import Field
from flui.model.units import MIB


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """What one direction of one exchange may carry."""

    message_octets: int = 4 * MIB
    """Longest message, as it is on the wire; what gRPC libraries accept unless told otherwise."""
    messages: int = 0
    """Most messages; 0: any number, as long-lived streams need."""


class Message:
    """One framed unit. Shared, so never changed."""

    __slots__ = ("coded", "payload")

    def __init__(self, payload: bytes, coded: bool = False) -> None:
        self.payload = payload
        """Its octets, without framing."""
        self.coded = coded
        """They are compressed in the way that the head of the exchange says."""

    def __repr__(self) -> str:
        return f"Message({len(self.payload)} octets{', coded' if self.coded else ''})"


class Reader(Protocol):
    """Octets in, messages out."""

    fault: Fault | None
    """Why no more messages come. Those before it were whole and stay so."""

    def receive(self, chunk: bytes) -> None:
        """Takes octets as they come, cut anywhere. Never raises: what is wrong becomes `fault`."""

    def finish(self) -> None:
        """No octets follow. Whole messages can still be taken; a part of one becomes a fault."""

    def take(self) -> Message | None:
        """The next message; None while there is none, and after a fault."""

    def credit(self) -> int:
        """Octets that the sender may send anew, each said once: those of taken messages, and those of a message of which more must come."""


class Writer(Protocol):
    """Messages in, octets out."""

    pending: int
    """Octets that wait for credit. Whoever feeds it waits while this is not 0."""

    def send(self, message: Message) -> Fault | None:
        """Frames `message`; a fault when it cannot be framed, and then nothing was."""

    def take(self, credit: int) -> bytes:
        """Octets to send, `credit` at most; empty when there are none."""


class Inspector(Protocol):
    """Looks on while octets pass."""

    fault: Fault | None
    """Why they must not pass any more."""
    at_rest: bool
    """The octets so far end where a message ends."""

    def inspect(self, chunk: bytes) -> int:
        """Number of messages that begin in `chunk`: what a rule per message is asked before `chunk` passes. Sets `fault`."""

    def finish(self) -> Fault | None:
        """No octets follow: the fault, also that of a message cut short."""


class Framing(Protocol):
    """Makes the three for one direction of an exchange.

    All take the fields of the direction's head, which may say how its messages are coded, and the fault of octets that
    are no messages: `MALFORMED` for those of the caller, `UPSTREAM_MALFORMED` for those of the service.
    """

    def reader(self, fields: list[Field], malformed: Fault) -> Reader:
        """For octets of a peer that are to be understood."""

    def writer(self, fields: list[Field]) -> Writer:
        """For messages that are to be sent under a head with `fields`."""

    def inspector(self, fields: list[Field], malformed: Fault) -> Inspector:
        """For octets of a peer that pass."""

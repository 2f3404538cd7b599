"""What stands between a caller that speaks no gRPC and the splice of its call.

    caller's codec ── events ──▶ Translation.hear ── gRPC's events ──▶ Hears.heard   ─┐
                                                                                     the splice (`call.py`)
    caller's codec ◀── events ── Translation.send ◀── gRPC's events ── Splice.down ◀──┘

To its splice it is the caller: so deadlines, limits, retries and refusals are gRPC's own, and each is put into the caller's
dialect in one place.
"""

from __future__ import annotations

from typing import Final, Protocol

from flui.answer import answer
from flui.codecs.base import Events
from flui.model.events import Credit, Data, End, Event, RequestHead, Reset, ResponseHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import Field, field
from flui.model.grpc import Status
from flui.model.spoken import Dialect, Spoken
from flui.translate.status import Ending


class Hears(Protocol):
    """The splice of a call, as a translation sees it."""

    fault: Fault | None
    """Why we ended it; None when the service did, or nobody yet."""
    ended: Status | None
    """How the call ended, as it is counted."""
    status: int
    octets_out: int

    def heard(self, event: Event) -> None:
        """Takes what the caller says, in gRPC's events."""

    def give_up(self, fault: Fault, status: Status, message: str) -> None:
        """Ends the call for what the caller sent, or what cannot be said to it; it is told through `Translation.end`.

        Args:
            fault: What is logged and counted.
            status: As gRPC has it.
            message: What the caller is told. It may name the request, never the inside.
        """


class _Nobody:
    """In the place of a splice that is done."""

    __slots__ = ("ended", "fault", "octets_out", "status")

    def __init__(self) -> None:
        self.ended: Status | None = None
        self.fault: Fault | None = None
        self.status = 0
        self.octets_out = 0

    def heard(self, event: Event) -> None:
        """It is too late for that."""

    def give_up(self, fault: Fault, status: Status, message: str) -> None:
        """It has ended."""


_NOBODY: Final = _Nobody()


class Translation:
    """One call of a caller in its own dialect. The base is for dialects whose messages pass as they are."""

    __slots__ = ("_extra", "_splice", "begun", "codec", "over", "sent", "stream")

    def __init__(self, codec: Events, stream: int, extra: list[Field] | None) -> None:
        """A call that is about to begin.

        Args:
            codec: Of the caller.
            stream: Number of the exchange there.
            extra: What each answer carries besides its own fields: what a browser asks for (`cors`).
        """
        self.codec = codec
        self.stream = stream
        self._extra = extra
        self._splice: Hears
        self.begun = False
        """The head of the answer is out."""
        self.over = False
        """The answer is complete, or cut."""
        self.sent = 0
        """Octets of body that the caller was sent."""

    def attach(self, splice: Hears) -> None:
        """Gives it the splice of its call, before anything else."""
        self._splice = splice

    def release(self) -> None:
        """Lets go of the splice, which is done."""
        self._splice = _NOBODY

    @property
    def streams(self) -> bool:
        """Between two messages of the caller there may be any time."""
        return True

    @property
    def passes(self) -> bool:
        """What the caller says after the head is gRPC's as it stands: nobody has to `hear` it."""
        return True

    # The caller's side.

    def hear(self, event: Event) -> None:
        """Takes what the caller says after the head."""
        self._splice.heard(event)

    # The side of the splice, which takes us for the caller's codec.

    def open(self) -> int:
        """There is one exchange, and the caller has begun it."""
        raise AssertionError

    def events(self) -> list[Event]:
        """Nothing waits here."""
        return []

    def send(self, event: Event) -> None:
        """Takes what the caller is to be told, as gRPC says it."""
        if type(event) is Data:
            self.tell(event)
        elif type(event) is End:
            self.finish(event)
        elif type(event) is ResponseHead:
            if event.status >= 200:
                self.begin(event)
        elif type(event) is Credit:
            self.credit(event)
        elif type(event) is Reset:
            self.cut(event)
        else:
            raise AssertionError("a service sends no requests")

    def begin(self, head: ResponseHead) -> None:
        """The service answers; a head of length 0 is all of its answer, the status included (Trailers-Only)."""
        raise NotImplementedError

    def tell(self, data: Data) -> None:
        """Messages of the service."""
        self.sent += len(data.chunk)
        self.codec.send(data)

    def finish(self, end: End) -> None:
        """The answer is complete."""
        raise NotImplementedError

    def end(self, ending: Ending) -> None:
        """Tells the caller how the call ended. Messages that were told stay told."""
        raise NotImplementedError

    def turn_away(self, ending: Ending, fault: Fault, path: bytes, trace: bytes, allow: bytes) -> None:
        """Answers a request that names a method but is none of its: with a problem document, for it may be of no dialect at all."""
        del ending
        more = [field(b"allow", allow)] if allow else []
        if self._extra is not None:
            more += self._extra
        self.begun = self.over = True
        self._splice.status = DIALECTS[fault].http
        self._splice.octets_out = answer(self.codec, self.stream, fault, path, trace, more=more)

    def credit(self, credit: Credit) -> None:
        """The service takes more."""
        self.codec.send(credit)

    def cut(self, reset: Reset) -> None:
        """Breaks off an answer that has begun: within a message, so that nobody takes a part of it for the whole."""
        if not self.over:
            self.over = True
            self.codec.send(reset)

    # What the dialects share.

    def say_head(self, status: int, fields: list[Field], length: int, extra: list[Field] | None = None) -> None:
        """Sends the head of an answer.

        Args:
            status: HTTP status.
            fields: Its fields, which are not changed.
            length: Octets of body; `UNKNOWN` where they are not known.
            extra: What the relay adds.
        """
        self.begun = True
        head = ResponseHead(self.stream, status, fields, length)
        if self._extra is not None:
            extra = [*extra, *self._extra] if extra else self._extra
        head.extra = extra
        self._splice.status = status
        self.codec.send(head)

    def say(self, octets: bytes) -> None:
        """Sends octets of an answer's body."""
        if octets:
            self.sent += len(octets)
            self.codec.send(Data(self.stream, octets))

    def say_end(self, trailers: list[Field] | None = None) -> None:
        """Sends the end of an answer."""
        self.over = True
        self._splice.octets_out = self.sent
        self.codec.send(End(self.stream, trailers))


class Refused:
    """Why a request that names its method cannot be carried out. Its caller hears of it only if policy lets it in."""

    __slots__ = ("allow", "asked", "fault", "status", "why")

    def __init__(self, fault: Fault, status: Status, why: str, allow: bytes = b"", asked: bytes = b"") -> None:
        self.fault = fault
        self.status = status
        self.why = why
        """What the caller is told."""
        self.allow = allow
        """Methods that the path has; empty: that is not what is wrong."""
        self.asked = asked
        """Path of the request, which a problem document names; empty: it is the call's."""


class Mapped(Spoken):
    """A request whose call is known, and how it is translated."""

    __slots__ = ("refused",)

    def __init__(self, dialect: Dialect, head: RequestHead, epoch: int) -> None:
        self.dialect = dialect
        self.head = head
        self.epoch = epoch
        self.refused: Refused | None = None
        """It cannot be carried out; None: it can."""

    @property
    def formats(self) -> tuple[str, str]:
        """In words for operators, how the messages of the caller are put, and those that it gets; empty where it gets none."""
        raise NotImplementedError

    def translation(self, codec: Events, stream: int, extra: list[Field] | None, length: int) -> Translation:
        """A translation for one request of these.

        Args:
            codec: Of the caller.
            stream: Number of the exchange there.
            extra: What each answer carries besides its own fields.
            length: Octets of the request's body; `UNKNOWN` where they are not known.
        """
        raise NotImplementedError


HTTP_FAULTS: Final = frozenset((Fault.NO_ROUTE, Fault.METHOD_NOT_ALLOWED, Fault.UNSUPPORTED_TYPE))
"""What is wrong with a request as HTTP has it, whatever dialect it would have been."""

"""A gRPC call: a splice that knows messages and statuses, on the same two ports.

    head, messages ──▶ bounded ──▶ up
    down ◀── messages ◀── bounded ◀── up ── an answer that is none of gRPC's becomes a status
    whatever ends it ends in `grpc-status`: HTTP 200 and a head that is all there is, trailers, or a reset within a message

Octets pass as they came: of a message only the prefix is looked at, and not even an object is made for one that comes whole
in one piece. What does not belong to gRPC never comes here.
"""

from __future__ import annotations

from typing import Final, Protocol

from flui.answer import answer_call, clean
from flui.codecs.base import Events
from flui.codecs.grpc import STATUS_LINES, answered, grpc_trailers, is_foreign, timeout_text, type_of
from flui.codecs.http2.server import Http2Server
from flui.framing.base import MessageLimits
from flui.framing.grpc import PREFIX, GrpcInspector, coding_of
from flui.model.decision import Decision, Forward
from flui.model.events import Data, End, Event, RequestHead, Reset, ResponseHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import Field, field
from flui.model.grpc import STATUSES, Status, call_status, counted_as, message_said, status_of_http, status_said
from flui.model.spoken import Dialect
from flui.splice import Splice

_LONGEST: Final = 0xFFFF_FFFF
_STATUS: Final = frozenset((b"grpc-status", b"grpc-message", b"grpc-status-details-bin"))
_BOUNDS: Final[dict[int, MessageLimits]] = {}
"""By the length of a message."""
_NO_STATUS: Final = (
    STATUS_LINES[Status.UNKNOWN],
    field(b"grpc-message", b"the service ended its answer without a grpc-status"),
)


class Hook(Protocol):
    """Who is asked about messages before they pass."""

    def messages(self, number: int, *, asked: bool) -> Fault | None:
        """Says why messages that are about to pass must not, and ends the call so.

        Args:
            number: How many begin now; at least 1.
            asked: They are the caller's, else the service's.
        """


class Behind(Protocol):
    """What calls are said through to a module that speaks no gRPC (`translate.grpc_rest`)."""

    def codec(self, up: Events, splice: Call) -> Says:
        """Stands in front of the module's codec, for one try."""


class Says(Events, Protocol):
    """A codec of gRPC to the splice, of something else to the module."""

    def hear(self, events: list[Event]) -> None:
        """Takes what the module says; `events` says it in gRPC's."""


class Call(Splice):
    """One gRPC call."""

    __slots__ = (
        "_answer_head",
        "_at_rest",
        "_bounds",
        "_heard_at",
        "_heeding",
        "_hook",
        "_looks",
        "_messages_in",
        "_messages_out",
        "_says",
        "behind",
        "dialect",
        "ended",
    )

    def __init__(
        self,
        down: Events,
        head: RequestHead,
        decision: Decision,
        now: float,
        trace: bytes,
        origin: Field | None,
        octets: int = 0,
        hook: Hook | None = None,
    ) -> None:
        """A call that has been decided. See `Splice`.

        Args:
            down: Codec the request came from.
            head: Validated head.
            decision: What becomes of it.
            now: When the head was complete; monotonic seconds.
            trace: traceparent to send on; empty: the caller's stays.
            origin: Ready Forwarded field; None to say nothing.
            octets: Of the longest message that may pass, as it is on the wire; 0: any, and unless there is a hook nobody looks.
            hook: Asked about messages; None: nobody is.
        """
        super().__init__(down, head, decision, now, trace, origin)
        bounds = _BOUNDS.get(octets)
        if bounds is None:
            bounds = _BOUNDS[octets] = MessageLimits(octets or _LONGEST)
        self._bounds = bounds
        self._looks = bool(octets) or hook is not None
        self._messages_in: GrpcInspector | None = None
        self._messages_out: GrpcInspector | None = None
        self._answer_head: ResponseHead | None = None
        self._at_rest = True
        self._hook = hook
        self._says: Says | None = None
        self._heard_at = 0.0
        self._heeding = False
        self.behind: Behind | None = None
        """The module speaks no gRPC: calls are said to it so. Set before the call is sent anywhere."""
        self.dialect: Dialect | None = None
        """What its caller speaks; None: gRPC."""
        self.ended: Status | None = None
        """How it ended, once its end was said to the caller."""

    def release(self) -> None:
        """See `Splice`."""
        super().release()
        if self._says is not None:
            self._says = self.up = None

    # The caller's side.

    def from_down(self, event: Event) -> None:
        """Takes what the caller says after the head."""
        if self._looks and not self.done:
            fault: Fault | None = None
            if isinstance(event, Data):
                fault = self._look(event.chunk, asked=True)
            elif isinstance(event, End) and self._messages_in is not None:
                fault = self._messages_in.finish()
                self.request_ended = True
            if fault is not None:
                self.fail(fault)
                return
        super().from_down(event)

    def _look(self, chunk: bytes, *, asked: bool) -> Fault | None:
        """Why a chunk must not pass."""
        bounds = self._bounds
        inspector = self._messages_in if asked else self._messages_out
        begun = 1
        if inspector is None:
            size = len(chunk) - PREFIX
            # One whole message, by far the most usual chunk: nothing of it has to be remembered.
            whole = size >= 0 and not chunk[0] and size == int.from_bytes(chunk[1:PREFIX], "big")
            if not whole or size > bounds.message_octets:
                head = self._answer_head
                fields = self.head.fields if asked or head is None else head.fields
                inspector = GrpcInspector(bounds, bool(coding_of(fields)), Fault.MALFORMED if asked else Fault.UPSTREAM_MALFORMED)
                if asked:
                    self._messages_in = inspector
                else:
                    self._messages_out = inspector
        if inspector is not None:
            begun = inspector.inspect(chunk)
            if inspector.fault is not None:
                return inspector.fault
        return self._hook.messages(begun, asked=asked) if self._hook is not None and begun else None

    def attach(self, up: Events, now: float) -> None:
        """See `Splice.attach`."""
        if self.behind is not None:
            up = self._says = self.behind.codec(up, self)
        super().attach(up, now)

    def told(self) -> None:
        """What stands between us and the service's codec has something to say."""
        if self._says is not None:
            self._heed(self._says, self._heard_at or self.attached_at)

    def _heed(self, says: Says, now: float) -> None:
        """Hears one thing after the other: what comes of hearing it waits, or a later message would stand before an earlier one."""
        self._heard_at = now
        if self._heeding:
            return
        self._heeding = True
        events = says.events()
        while events:
            self._hear(events, now)
            events = says.events()
        self._heeding = False

    def _left(self, now: float) -> Field:
        return field(b"grpc-timeout", timeout_text(self.left_ms(now)))

    def _number(self, extra: list[Field], attempt: int) -> None:
        super()._number(extra, attempt)
        extra.append(field(b"grpc-previous-rpc-attempts", b"%d" % (attempt - 1)))

    # The endpoint's side.

    def from_up(self, events: list[Event], now: float) -> None:
        """Takes what the endpoint says."""
        says = self._says
        if says is None:
            self._hear(events, now)
        else:
            says.hear(events)
            self._heed(says, now)

    def _hear(self, events: list[Event], now: float) -> None:
        down = self.down
        for event in events:
            if self.deaf:
                return
            event.stream = self.stream
            if type(event) is Data:
                if self._looks:
                    fault = self._look(event.chunk, asked=False)
                    if fault is not None:
                        self.fail(fault)
                        return
                    inspector = self._messages_out
                    self._at_rest = inspector is None or inspector.at_rest
                else:
                    self._at_rest = False  # nobody knows
                self.octets_out += len(event.chunk)
                down.send(event)
            elif type(event) is End:
                if self._messages_out is not None:
                    fault = self._messages_out.finish()
                    if fault is not None:
                        self.fail(fault)
                        return
                down.send(self._with_status(event))
                self.done = self.deaf = True
            elif type(event) is ResponseHead:
                self._answer(event, now)
            elif type(event) is Reset and event.fault is Fault.UPSTREAM_RESET and self._is_due(now):
                self.fail(Fault.DEADLINE_PASSED)  # the module was told when to give up, and some say so by a reset (grpc-go)
            else:
                super().from_up([event], now)

    def _is_due(self, now: float) -> bool:
        """What the endpoint was told of the deadline is over; its clock may be a millisecond ahead of ours."""
        forward = self.decision.action
        bounded = self.head.deadline >= 0 or (isinstance(forward, Forward) and forward.timeout_s > 0)
        return bounded and self.left_ms(now) <= 1

    def _answer(self, event: ResponseHead, now: float) -> None:
        if event.status < 200:
            super()._answer(event, now)
            return
        if event.local:
            clean(event)
        ended = answered(event)
        if ended is not None and ended is not Status.OK:
            self.refusal = event.refusal
            retrier = self.retrier
            if retrier is not None and retrier.again(event):
                self.deaf = True
                return
        if ended is not None and is_foreign(event):
            self._translate(event, ended, now)
            return
        if event.status != 200:
            event = ResponseHead(event.stream, 200, event.fields, event.length)  # what it says counts, and no HTTP status says otherwise
        self._answer_head = event
        super()._answer(event, now)

    def _translate(self, event: ResponseHead, status: Status, now: float) -> None:
        """An answer of somebody who speaks no gRPC: the caller gets what its HTTP status means, and its body goes no further."""
        said = f"the service answered with HTTP status {event.status} and not in gRPC"
        up = self.up
        if up is not None and (event.length or not self.request_ended):
            up.send(Reset(self.up_stream, Fault.CALLER_GONE))
        self.status = 200
        self.ended = status
        self.first_at = now
        if not self.mirror:
            self._kept = None
        self.done = self.deaf = True
        fields = [type_of(self.head), STATUS_LINES[status], field(b"grpc-message", message_said(said))]
        self.down.send(ResponseHead(self.stream, 200, fields, 0))
        self.down.send(End(self.stream))

    def _with_status(self, event: End) -> End:
        """The end of an answer, which never is without a status."""
        trailers = event.trailers
        for line in trailers or ():
            if line.name == b"grpc-status":
                self.ended = status_said(line.value)
                return event
        head = self._answer_head
        # A head that was all there is says it, however many octets the caller's dialect took to say so.
        fields = head.fields if head is not None and not (head.length and self.octets_out) else []
        self.ended = call_status(200, fields, None, bodyless=True)
        said = [line for line in fields if line.name in _STATUS]
        if head is not None and said:
            return event if not head.length else End(event.stream, [*(trailers or ()), *said])
        return End(event.stream, [*(trailers or ()), *_NO_STATUS])

    # Endings that nobody sent.

    def _cut(self, fault: Fault) -> None:
        """Ends an answer that has begun: with trailers where a message ends, else the caller would take what is missing for whole."""
        if self._at_rest and isinstance(self.down, Http2Server):
            self.down.send(End(self.stream, grpc_trailers(fault)))
        else:
            super()._cut(fault)

    def _refuse(self, fault: Fault, status: int, retry_after_s: int, *, said: bool) -> None:
        self.status = 200
        self.ended = status_of_http(status) if status and status != DIALECTS[fault].http else STATUSES[DIALECTS[fault].grpc]
        answer_call(self.down, self.stream, self.head, fault, self.ended, retry_after_s, said=said)

    @property
    def may_pause(self) -> bool:
        """See `Splice`."""
        return True

    @property
    def may_fork(self) -> bool:
        """See `Splice`. What is said in REST is said by one try at a time."""
        return self.behind is None

    def outcome(self) -> Status:
        """How it ended."""
        if self.ended is not None:
            return self.ended
        return STATUSES[DIALECTS[self.fault].grpc] if self.fault is not None else Status.UNKNOWN

    def judged(self) -> int:
        """See `Splice.judged`."""
        return counted_as(self.outcome())

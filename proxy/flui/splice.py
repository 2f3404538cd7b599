"""Joins two event ports under one decision: what leaves one side enters the other, credit flows back.

    down ── RequestHead, Data, End ──▶ up
    down ◀── ResponseHead, Data, End ── up
    each side's Credit goes to the other side, so nobody is read who cannot be passed on

Before there is an upstream, what the caller sends is kept: at most one window, because no credit is given back
meanwhile. A request that may be sent again is kept until its answer begins, up to a bound; past it the second try is
given up, never the body. The splice also is the record of its exchange: what it counts here, telemetry reads at the end.
"""

from __future__ import annotations

from math import ceil
from typing import Final, Protocol

from flui.answer import answer, clean
from flui.codecs.base import Events
from flui.model.decision import Decision, Forward
from flui.model.events import Credit, Data, End, Event, RequestHead, Reset, ResponseHead
from flui.model.fault import DIALECTS, SHED, UNSENT, Fault
from flui.model.fields import TRACE, Field, field
from flui.model.resilience import PRIORITY_NAMES

_FRESH_S: Final = 0.001
"""A request that is sent on within it carries the ready deadline of its decision."""


class Retrier(Protocol):
    """Who may send a request once more."""

    def again(self, head: ResponseHead | None, *, unsent: bool = False) -> bool:
        """Whether the try that ended so is to be forgotten, because another one follows.

        Args:
            head: Its answer, of which nothing has been passed on; None when there is none.
            unsent: The upstream has proven that it did not look at it.
        """


class Splice:
    """One exchange."""

    __slots__ = (
        "_ahead",
        "_credited",
        "_kept",
        "_kept_room",
        "_origin",
        "attached_at",
        "begun_at",
        "deaf",
        "decide_s",
        "decision",
        "done",
        "down",
        "endpoint",
        "fault",
        "first_at",
        "head",
        "minted",
        "mirror",
        "octets_in",
        "octets_out",
        "refusal",
        "request_ended",
        "retrier",
        "sent",
        "status",
        "stream",
        "taken",
        "trace",
        "tries",
        "up",
        "up_stream",
    )

    def __init__(self, down: Events, head: RequestHead, decision: Decision, now: float, trace: bytes, origin: Field | None) -> None:
        """An exchange that has been decided.

        Args:
            down: Codec the request came from.
            head: Validated head.
            decision: What becomes of it.
            now: When the head was complete; monotonic seconds.
            trace: traceparent to send on in place of the one that the request carries, if any; empty: that one stays.
            origin: Ready Forwarded field that says where the request came from; None to say nothing.
        """
        self.down = down
        self.head = head
        self.stream = head.stream
        self.decision = decision
        self.up: Events | None = None
        self.up_stream = 0
        self._origin = origin
        self._kept: list[Event] | None = None
        self._kept_room = -1
        """Octets of body that may still be kept for sending again; -1: it is not kept beyond the first try."""
        self._credited = 0
        self._ahead = 0
        """Octets that the caller was credited for by an earlier try, and which the next one will ask for again."""
        self.retrier: Retrier | None = None
        """Asked when a try fails and nothing of its answer has been passed on; None: there is one try."""
        self.mirror = ""
        """Cluster that gets a copy of the request when the exchange is over: its body is kept until then."""
        self.request_ended = False
        """The caller has sent the whole request."""
        self.done = False
        """Both directions are complete, or the exchange is dead."""
        self.deaf = False
        """What the upstream says is not heard any more: the exchange is done, or this try is given up."""
        self.sent = False
        """Octets of the request have been given to an upstream: only one that may be repeated is sent to another."""
        self.taken = False
        """An upstream has it that may act on it: a caller's sidecar must not be told that another endpoint may be asked."""
        self.tries = 0
        """Upstream connections that the request was sent on."""
        self.fault: Fault | None = None
        self.status = 0
        """Status of the final response; 0 before it."""
        self.refusal = b""
        """The fault for which another sidecar refused, as its answer says; empty when the service itself answered."""
        self.octets_in = 0
        """Body of the request so far."""
        self.octets_out = 0
        """Body of the response so far."""
        self.begun_at = now
        self.attached_at = 0.0
        """When the upstream connection was there that was asked last; 0 before."""
        self.first_at = 0.0
        """When the final response head came; 0 before."""
        self.decide_s = 0.0
        """What deciding took; 0 when the flow table knew."""
        self.endpoint = b""
        """Name of the endpoint that was picked last."""
        self.trace = trace or head.trace
        self.minted = trace is not head.trace and bool(trace)
        """`trace` is not what the head says: it was made here."""

    # The caller's side.

    def keep(self, octets: int) -> None:
        """Keeps the request's body, up to `octets`, so that it can be sent again; call it before the first event."""
        self._kept = []
        self._kept_room = octets

    def release(self) -> None:
        """It is done and on record: lets go of whatever holds it in turn, or only a collection would free the two."""
        self.retrier = None

    def from_down(self, event: Event) -> None:
        """Takes what the caller says after the head."""
        if type(event) is End:
            self.request_ended = True
        elif type(event) is Data:
            self.octets_in += len(event.chunk)
        elif type(event) is Reset:
            self.reset(event.fault)
            return
        if self.done:
            if isinstance(event, Data):
                self._kept = None  # what is kept is not the whole request any more
            return
        up = self.up
        if up is None or self._kept is not None:
            self._keep(event, up)
        if up is not None:
            event.stream = self.up_stream
            up.send(event)

    def _keep(self, event: Event, up: Events | None) -> None:
        kept = self._kept
        if kept is None:
            kept = self._kept = []
        if isinstance(event, Data):
            self._kept_room -= len(event.chunk)
            if self._kept_room < 0:
                self.retrier = None  # too long to be sent twice; what has not been sent once stays, of course
                if up is not None:
                    self._kept = None
                    return
        elif not isinstance(event, End):
            return
        kept.append(event)

    @property
    def may_pause(self) -> bool:
        """Between two pieces of the request there may be any time."""
        return False

    @property
    def may_fork(self) -> bool:
        """What an upstream is sent can be sent to a second one as it stands, beside the first."""
        return True

    @property
    def can_repeat(self) -> bool:
        """Everything that the caller has sent so far is still here."""
        return self._kept is not None or not self.head.length

    @property
    def kept_octets(self) -> int:
        """Body that waits here to be sent, or to be sent again."""
        return sum(len(event.chunk) for event in self._kept if isinstance(event, Data)) if self._kept else 0

    def kept(self) -> list[Event]:
        """What the caller has sent after the head, to be sent to somebody else too. Only while `can_repeat`."""
        if self._kept is not None:
            return list(self._kept)
        return [End(self.stream)] if self.request_ended else []

    def copy(self, now: float) -> Splice:
        """The same request, complete and kept, as a first try that begins at `now` and has the time that the original had.

        It shares the original's head and body; its answer goes nowhere. Only when the original is over.
        """
        copy = self._twin(now)
        copy.minted = self.minted
        for event in self.kept():
            copy.from_down(event)
        return copy

    def _twin(self, now: float) -> Splice:
        """The same request, of which nothing was said yet."""
        return type(self)(self.down, self.head, self.decision, now, self.trace, self._origin)

    def attach(self, up: Events, now: float) -> None:
        """An upstream connection is there: the request goes out, with everything that waited."""
        self.up = up
        self.attached_at = now
        self.tries += 1
        self.up_stream = self.say(up, now)
        kept = self.kept() if self.sent else self._kept
        self.sent = self.taken = True
        if kept:
            for event in kept:
                event.stream = self.up_stream
                up.send(event)
        if self._kept_room < 0:
            self._kept = None  # sent once it is not kept, or it outgrew its bound between two tries: this one is the last

    def say(self, up: Events, now: float) -> int:
        """Sends the head to an upstream.

        Returns:
            Number of its stream there.
        """
        forward = self.decision.action
        assert isinstance(forward, Forward)
        said = head = self.head
        extra = list(forward.add)
        if self.minted or self.trace is not head.trace:  # or the caller has since repeated its head with another one
            extra.append(field(b"traceparent", self.trace))
            if head.trace:
                head = _untraced(head)
        if said.deadline >= 0:
            extra.append(self._left(now))
        elif forward.deadline is not None:
            fresh = now - self.begun_at < _FRESH_S
            extra.append(forward.deadline if fresh else self._left(now))
        if said.forwarded is not None and forward.keep_forwarded:
            extra.extend(said.forwarded)
        if self._origin is not None:
            extra.append(self._origin)
        if self.tries > 1 or said.attempt > 1:
            self._number(extra, said.attempt + max(0, self.tries - 1))
        if said.priority > forward.priority:
            extra = [f for f in extra if f.name != b"flui-priority"]
            extra.append(field(b"flui-priority", PRIORITY_NAMES[said.priority]))
        head.extra = extra
        head.stream = stream = up.open()
        up.send(head)
        return stream

    def _left(self, now: float) -> Field:
        """What is left of the deadline, as the next hop reads it."""
        return field(b"flui-deadline", b"%d" % self.left_ms(now))

    def _number(self, extra: list[Field], attempt: int) -> None:
        """Says which attempt this is, counted from 1."""
        extra.append(field(b"flui-attempt", b"%d" % attempt))

    def adopt(self, up: Events, stream: int, attached_at: float) -> None:
        """Another upstream than the first one answers: it has been told everything, and is the one that is heard from now on."""
        self.up = up
        self.taken = True
        self.up_stream = stream
        self.attached_at = attached_at

    def detach(self) -> None:
        """The try is given up, and may be repeated: the next `attach` begins anew with what was kept."""
        self.up = None
        self.taken = False
        self.deaf = False
        self._ahead = self._credited

    def left_ms(self, now: float) -> int:
        """Milliseconds left of the caller's deadline and the route's timeout; never below 0."""
        forward = self.decision.action
        assert isinstance(forward, Forward)
        spent = ceil((now - self.begun_at) * 1000)  # a part of one is one: over many quick hops time would else stand still
        left = self.head.deadline
        if forward.timeout_s:
            route = int(forward.timeout_s * 1000)
            if left < 0 or route < left:
                left = route
        return max(0, left - spent)

    # The endpoint's side.

    def from_up(self, events: list[Event], now: float) -> None:
        """Takes what the endpoint says."""
        down = self.down
        for event in events:
            if self.deaf:
                return
            event.stream = self.stream
            if type(event) is Data:
                self.octets_out += len(event.chunk)
                down.send(event)
            elif type(event) is ResponseHead:
                self._answer(event, now)
            elif type(event) is End:
                down.send(event)
                self.done = self.deaf = True
            elif type(event) is Credit:
                self._credit(event)
            elif type(event) is Reset:
                retrier = self.retrier
                # What cannot be understood is no failure that a second try would mend.
                fault = event.fault
                if (
                    retrier is not None
                    and not self.status
                    and fault is not Fault.UPSTREAM_MALFORMED
                    and (retrier.again(None, unsent=True) if fault is Fault.UPSTREAM_UNSENT else retrier.again(None))
                ):
                    self.deaf = True
                else:
                    self.fail(event.fault)

    def _answer(self, event: ResponseHead, now: float) -> None:
        status = event.status
        if event.local:
            clean(event)
        if status >= 200:
            if status >= 400 or event.refusal:  # gRPC-Web and streams of Connect are refused with 200
                self.refusal = event.refusal
                retrier = self.retrier
                if retrier is not None and retrier.again(event):
                    self.deaf = True
                    return
            self.status = status
            self.first_at = now
            if not self.mirror:
                self._kept = None
            forward = self.decision.action
            if isinstance(forward, Forward) and forward.server_timing:
                event.extra = [self._timing(now)]
        self.down.send(event)

    def _credit(self, event: Credit) -> None:
        octets = event.octets
        self._credited += octets
        if self._ahead:
            before = min(self._ahead, octets)
            self._ahead -= before
            self._credited -= before
            event.octets -= before
            if not event.octets:
                return
        self.down.send(event)

    def _timing(self, now: float) -> Field:
        """Where the time went until now (W3C Server Timing)."""
        begun = self.begun_at
        queue_s = max(0.0, self.attached_at - begun - self.decide_s)
        value = b"flui-decide;dur=%.3f, flui-queue;dur=%.3f, flui-upstream;dur=%.3f" % (
            self.decide_s * 1e3,
            queue_s * 1e3,
            (now - self.attached_at) * 1e3,
        )
        return field(b"server-timing", value)

    # Endings that nobody sent.

    def fail(self, fault: Fault, status: int = 0, retry_after_s: int = 0) -> None:
        """Ends the exchange from our side: with an answer in the caller's dialect, or by cutting a response that has begun.

        Args:
            fault: Why.
            status: HTTP status of the answer, where it is not the fault's own.
            retry_after_s: When to come back, where it is not the fault's own.
        """
        if self.done:
            return
        self.fault = fault
        self.done = self.deaf = True
        up = self.up
        if up is not None:
            up.send(Reset(self.up_stream, fault))
        if self.status:
            self._cut(fault)
        else:
            self._refuse(fault, status, retry_after_s, said=fault in SHED or (fault in UNSENT and not self.taken))

    def _cut(self, fault: Fault) -> None:
        """Ends a response that has begun."""
        self.down.send(Reset(self.stream, fault))

    def _refuse(self, fault: Fault, status: int, retry_after_s: int, *, said: bool) -> None:
        """Answers in place of the service."""
        self.status = status or DIALECTS[fault].http
        octets = answer(self.down, self.stream, fault, self.head.path, self.trace, self.status, retry_after_s, said=said)
        if self.head.method != b"HEAD":
            self.octets_out = octets

    def judged(self) -> int:
        """The HTTP status that says as much as the answer did: what its endpoint is judged by, and metrics count."""
        return self.status if not self.refusal or self.status >= 400 else DIALECTS[Fault.APP_UNAVAILABLE].http

    def reset(self, fault: Fault) -> None:
        """The caller broke off, or what it sends is malformed: the upstream is told, the caller answered if it can be."""
        if self.done:
            return
        if fault is Fault.CALLER_GONE:
            self.fault = fault
            self.done = self.deaf = True
            self.status = self.status or DIALECTS[fault].http
            if self.up is not None:
                self.up.send(Reset(self.up_stream, fault))
        else:
            self.fail(fault)


def _untraced(head: RequestHead) -> RequestHead:
    """The same head without its traceparent, for one that is another span's child from here on."""
    kept = [f for f in head.fields if f.kind != TRACE]
    copy = RequestHead(0, head.method, head.scheme, head.authority, head.path, head.query, kept, head.length, protocol=head.protocol)
    copy.grpc = head.grpc
    return copy

"""Joins two event ports under one decision: what leaves one side enters the other, credit flows back.

    down ── RequestHead, Data, End ──▶ up
    down ◀── ResponseHead, Data, End ── up
    each side's Credit goes to the other side, so nobody is read who cannot be passed on

Before there is an upstream, what the caller sends is kept: at most one window, because no credit is given back
meanwhile. The splice also is the record of its exchange: what it counts here, telemetry reads at the end.
"""

from __future__ import annotations

from typing import Final

from flui.codecs.base import Events
from flui.codecs.validate import connection_options
from flui.model.decision import Decision, Forward
from flui.model.events import Credit, Data, End, Event, RequestHead, Reset, ResponseHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import CONNECTION, KEPT, Field, field

_PROBLEM: Final = field(b"content-type", b"application/problem+json")
_NO_STORE: Final = field(b"cache-control", b"no-store")


class Splice:
    """One exchange."""

    __slots__ = (
        "_origin",
        "_pending",
        "attached_at",
        "begun_at",
        "decide_s",
        "decision",
        "done",
        "down",
        "endpoint",
        "fault",
        "first_at",
        "head",
        "octets_in",
        "octets_out",
        "request_ended",
        "sent",
        "status",
        "stream",
        "trace",
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
            trace: traceparent to use when the request carries none.
            origin: Ready Forwarded field that says where the request came from; None to say nothing.
        """
        self.down = down
        self.head = head
        self.stream = head.stream
        self.decision = decision
        self.up: Events | None = None
        self.up_stream = 0
        self._origin = origin
        self._pending: list[Event] | None = None
        self.request_ended = False
        """The caller has sent the whole request."""
        self.done = False
        """Both directions are complete, or the exchange is dead."""
        self.sent = False
        """Octets of the request have been given to an upstream: it must not be sent to another."""
        self.fault: Fault | None = None
        self.status = 0
        """Status of the final response; 0 before it."""
        self.octets_in = 0
        """Body of the request so far."""
        self.octets_out = 0
        """Body of the response so far."""
        self.begun_at = now
        self.attached_at = 0.0
        """When an upstream connection was there; 0 before."""
        self.first_at = 0.0
        """When the final response head came; 0 before."""
        self.decide_s = 0.0
        """What deciding took; 0 when the flow table knew."""
        self.endpoint = b""
        """Name of the endpoint that was picked last."""
        self.trace = head.trace or trace

    # The caller's side.

    def from_down(self, event: Event) -> None:
        """Takes what the caller says after the head."""
        if isinstance(event, End):
            self.request_ended = True
        elif isinstance(event, Data):
            self.octets_in += len(event.chunk)
        elif isinstance(event, Reset):
            self.reset(event.fault)
            return
        if self.done:
            return
        up = self.up
        if up is not None:
            event.stream = self.up_stream
            up.send(event)
        elif self._pending is None:
            self._pending = [event]
        else:
            self._pending.append(event)

    def attach(self, up: Events, now: float) -> None:
        """An upstream connection is there: the request goes out, with everything that waited."""
        forward = self.decision.action
        assert isinstance(forward, Forward)
        self.up = up
        self.attached_at = now
        self.sent = True
        head = self.head
        extra = list(forward.add)
        if not head.trace:
            extra.append(field(b"traceparent", self.trace))
        if head.deadline >= 0:
            extra.append(field(b"flui-deadline", b"%d" % self.left_ms(now)))
        elif forward.deadline is not None:
            fresh = now - self.begun_at < 0.001
            extra.append(forward.deadline if fresh else field(b"flui-deadline", b"%d" % self.left_ms(now)))
        if head.forwarded is not None and forward.keep_forwarded:
            extra.extend(head.forwarded)
        if self._origin is not None:
            extra.append(self._origin)
        head.extra = extra
        head.stream = self.up_stream = up.open()
        up.send(head)
        pending = self._pending
        if pending is not None:
            self._pending = None
            for event in pending:
                event.stream = self.up_stream
                up.send(event)

    def left_ms(self, now: float) -> int:
        """Milliseconds left of the caller's deadline and the route's timeout; never below 0."""
        forward = self.decision.action
        assert isinstance(forward, Forward)
        spent = int((now - self.begun_at) * 1000)
        left = self.head.deadline
        if forward.timeout_s:
            route = int(forward.timeout_s * 1000)
            if left < 0 or route < left:
                left = route
        return max(0, left - spent)

    # The endpoint's side.

    def from_up(self, event: Event, now: float) -> None:
        """Takes what the endpoint says."""
        if self.done:
            return
        event.stream = self.stream
        if isinstance(event, Data):
            self.octets_out += len(event.chunk)
            self.down.send(event)
        elif isinstance(event, ResponseHead):
            if event.local:
                event.fields = _forwardable(event.fields)
                event.http1 = b""
            if event.status >= 200:
                self.status = event.status
                self.first_at = now
            self.down.send(event)
        elif isinstance(event, End):
            self.down.send(event)
            self.done = True
        elif isinstance(event, Credit):
            self.down.send(event)
        elif isinstance(event, Reset):
            self.fail(event.fault)

    # Endings that nobody sent.

    def fail(self, fault: Fault) -> None:
        """Ends the exchange from our side: with an answer in the caller's dialect, or by cutting a response that has begun."""
        if self.done:
            return
        self.fault = fault
        self.done = True
        up = self.up
        if up is not None:
            up.send(Reset(self.up_stream, fault))
        if self.status:
            self.down.send(Reset(self.stream, fault))
            return
        self.status = DIALECTS[fault].http
        octets = answer(self.down, self.stream, fault, self.head.path, self.trace)
        if self.head.method != b"HEAD":
            self.octets_out = octets

    def reset(self, fault: Fault) -> None:
        """The caller broke off, or what it sends is malformed: the upstream is told, the caller answered if it can be."""
        if self.done:
            return
        if fault is Fault.CALLER_GONE:
            self.fault = fault
            self.done = True
            self.status = self.status or DIALECTS[fault].http
            if self.up is not None:
                self.up.send(Reset(self.up_stream, fault))
        else:
            self.fail(fault)


def _forwardable(fields: list[Field]) -> list[Field]:
    """RFC 9110 7.6.1 for responses: without the fields of this hop, and without what its Connection field names."""
    options: tuple[bytes, ...] = ()
    for candidate in fields:
        if candidate.kind == CONNECTION:
            options += connection_options(candidate.value) or ()
    return [f for f in fields if f.kind <= KEPT and f.name not in options]


def answer(down: Events, stream: int, fault: Fault, path: bytes, trace: bytes) -> int:
    """Answers a request with a problem document (RFC 9457) that names the request and never the inside.

    Returns:
        Octets of its body.
    """
    dialect = DIALECTS[fault]
    instance = b',"instance":"%b"' % path if path else b""
    trace_id = b',"trace":"%b"' % trace[3:35] if trace else b""
    body = b'{"type":"about:blank","title":"%b","status":%d,"code":"%b"%b%b}\n' % (
        dialect.title.encode(),
        dialect.http,
        fault.value.encode(),
        instance,
        trace_id,
    )
    fields = [_PROBLEM, _NO_STORE, field(b"content-length", b"%d" % len(body))]
    if dialect.retry_after_s:
        fields.append(field(b"retry-after", b"%d" % dialect.retry_after_s))
    down.send(ResponseHead(stream, dialect.http, fields, len(body)))
    down.send(Data(stream, body))
    down.send(End(stream))
    return len(body)

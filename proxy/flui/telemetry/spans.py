"""Spans: which requests get one, and what it says. Pure; nothing here knows who sends them (`telemetry/otlp.py` does).

    no traceparent ──▶ root: by its share of the trace ids      ┐ at most `per_s` of both together,
    sampled parent ──▶ follow: always, as the parent says (W3C) ┘ the rest is counted and passed on as it is
    unsampled parent ─▶ follow: never

Whether a request has a span of ours is seen on its traceparent alone (`has_span`): sampled, and not the caller's own.
"""

from __future__ import annotations

from binascii import unhexlify
from enum import Enum
from random import Random
from typing import Final, Protocol

from flui.call import Call
from flui.model.config import Tracing
from flui.model.fields import is_sampled
from flui.model.resilience import WHOLE_BP
from flui.splice import Splice
from flui.telemetry.accesslog import safe

_OUTBOUND: Final = "outbound"
_METHODS: Final[dict[bytes, str]] = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
}
_NAMELESS: Final = "-"
"""Route and service of a request that found none."""
_HOST_LIMIT: Final = 255


class Sampler:
    """Gives requests their traceparent, and so decides which of them get a span. For one thread.

    Args:
        tracing: How much of it; None: no request gets a span.
        random: Where ids come from. They are no secrets, but `Random` must be seeded differently in each sidecar.
    """

    __slots__ = ("_at", "_bits", "_burst", "_per_s", "_threshold", "_tokens", "over_rate")

    def __init__(self, tracing: Tracing | None, random: Random) -> None:
        self._bits = random.getrandbits
        self._threshold = b""
        self._per_s = 0.0
        self._burst = 0.0
        self._tokens = 0.0
        self._at = float("-inf")
        self.over_rate = 0
        """Requests that would have been sampled, had there not been too many."""
        self.replace(tracing)

    def replace(self, tracing: Tracing | None) -> None:
        """Puts another configuration in force; what was counted stays."""
        share_bp = tracing.share_bp if tracing is not None else 0
        # compared with the last half of the trace id, as OpenTelemetry's TraceIdRatioBased does; nine octets hold all of it
        self._threshold = ((share_bp << 64) // WHOLE_BP).to_bytes(9, "big")[1:] if share_bp < WHOLE_BP else b"\xff" * 9
        self._per_s = tracing.per_s if tracing is not None else 0.0
        # a second's worth: what comes at once is sampled, and no second has more than twice the rate
        self._burst = max(1.0, self._per_s) if self._per_s > 0 else 0.0
        self._tokens = self._burst

    def root(self, now: float) -> bytes:
        """A traceparent for a request that carries none (W3C Trace Context 3.2), sampled or not.

        Args:
            now: Monotonic seconds.
        """
        ids = self._bits(192).to_bytes(24, "big")
        sampled = ids[8:16] < self._threshold and self._admit(now)
        return f"00-{ids.hex('-', -16)}-{'01' if sampled else '00'}".encode()

    def follow(self, traceparent: bytes, now: float) -> bytes:
        """What to send on for a request that carries `traceparent`, which is well-formed.

        Returns:
            The same trace and flags with a new span id, which is ours; or `traceparent` itself, the same object, when we
            make no span: it is not sampled, nothing is traced here, or there are too many.
        """
        if is_sampled(traceparent) and self._burst and self._admit(now):
            return b"%b%016x%b" % (traceparent[:36], self._bits(64) or 1, traceparent[52:])
        return traceparent

    def samples(self) -> list[tuple[tuple[str, ...], float]]:
        """For `Meters.read` with `families.SPANS`."""
        return [(("over_rate",), self.over_rate)]

    def _admit(self, now: float) -> bool:
        """A token bucket."""
        tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if tokens < 1.0:
            self._tokens = tokens
            self.over_rate += 1
            return False
        self._tokens = tokens - 1.0
        return True


def has_span(splice: Splice) -> bool:
    """Whether an exchange has a span of ours: its traceparent is sampled and was made here."""
    return splice.minted and is_sampled(splice.trace)


class SpanSink(Protocol):
    """Where spans go."""

    def offer(self, span: SpanRecord) -> None:
        """Takes one; never waits."""


class SpanKind(Enum):
    """Which side of a request we are."""

    SERVER = "server"
    """It came to our service."""
    CLIENT = "client"
    """Our service asks."""


class SpanRecord:
    """One hop of one request, ready to be sent. Made a few hundred times a second at most, never changed."""

    __slots__ = ("attributes", "end_ns", "failed", "kind", "name", "parent_id", "span_id", "start_ns", "trace_id")

    def __init__(
        self,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes,
        name: str,
        kind: SpanKind,
        start_ns: int,
        end_ns: int,
        attributes: dict[str, str | int | float],
        failed: bool,
    ) -> None:
        self.trace_id = trace_id
        """16 octets."""
        self.span_id = span_id
        """8 octets."""
        self.parent_id = parent_id
        """8 octets; empty: the trace begins here."""
        self.name = name
        """Method and route: both from closed sets, never the path (threats C13)."""
        self.kind = kind
        self.start_ns = start_ns
        """Unix nanoseconds, as `end_ns`."""
        self.end_ns = end_ns
        self.attributes = attributes
        """OpenTelemetry's names for HTTP where it has one, `flui.` before ours; `docs/tracing.md` lists them."""
        self.failed = failed
        """Its status is an error."""


def span_of(splice: Splice, tls_s: float, ended_at: float, now: float, path: bytes = b"") -> SpanRecord:
    """The span of an exchange that is over and for which `has_span` holds.

    Args:
        splice: Its record. Its own traceparent is `trace`, the caller's is `head.trace`.
        tls_s: What the handshake took, on the first exchange of a connection; else 0.
        ended_at: When it ended; Unix seconds.
        now: The same moment; monotonic seconds.
        path: Its path as the access log may show it; empty: the span says none.
    """
    head = splice.head
    why = splice.decision.why
    own = splice.trace
    parent = head.trace
    method = _METHODS.get(head.method, "")
    attributes: dict[str, str | int | float] = {
        "http.request.method": method or "_OTHER",
        "url.scheme": head.scheme.decode(),
        # the validator lets nothing but letters, digits and `-._:[]` into a host
        "server.address": head.host[:_HOST_LIMIT].decode("ascii", "backslashreplace").strip("[]"),
        "flui.principal": why.principal,
        "flui.rule": why.rule,
        "flui.service": why.service,
        "flui.route": why.route,
    }
    if not method:
        attributes["http.request.method_original"] = safe(head.method, 64).decode()
    port = head.authority[len(head.host) + 1 :]
    if port.isdigit():
        attributes["server.port"] = int(port)
    if path:
        attributes["url.path"] = safe(path).decode()
    status = splice.status
    if status:
        attributes["http.response.status_code"] = status
    fault = splice.fault
    failed = fault is not None or status >= 500
    error = str(status)
    if isinstance(splice, Call):
        said = splice.outcome()
        failed = fault is not None or splice.judged() >= 500
        error = said.name
        attributes["rpc.system"] = "grpc"
        attributes["rpc.grpc.status_code"] = said.value
    if failed:
        attributes["error.type"] = fault.value if fault is not None else error
    if splice.endpoint:
        attributes["flui.upstream"] = splice.endpoint.decode("ascii", "backslashreplace")
    if splice.tries:
        attributes["flui.attempts"] = splice.tries
    if tls_s:
        attributes["flui.tls_ms"] = tls_s * 1e3
    if splice.decide_s:
        attributes["flui.decide_ms"] = splice.decide_s * 1e3
    attached = splice.attached_at
    if attached:
        attributes["flui.queue_ms"] = max(0.0, attached - splice.begun_at - splice.decide_s) * 1e3
        if splice.first_at:
            attributes["flui.upstream_ms"] = max(0.0, splice.first_at - attached) * 1e3
    end_ns = int(ended_at * 1e9)
    return SpanRecord(
        trace_id=unhexlify(own[3:35]),
        span_id=unhexlify(own[36:52]),
        parent_id=unhexlify(parent[36:52]),
        name=(method or "HTTP") if why.route == _NAMELESS else f"{method or 'HTTP'} {why.route}",
        kind=SpanKind.CLIENT if why.listener == _OUTBOUND else SpanKind.SERVER,
        start_ns=end_ns - max(0, int((now - splice.begun_at) * 1e9)),
        end_ns=end_ns,
        attributes=attributes,
        failed=failed,
    )

"""What a route or a cluster asks for when its neighbour is slow, wrong, overloaded or gone. Frozen values, safe by default.

Shares are basis points (1 % = 100), times are seconds, as everywhere. The algorithms stand in `resilience/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from flui.model.units import KIB

WHOLE_BP: Final = 10_000
"""All of something, in basis points."""

HIGH: Final = 0
NORMAL: Final = 1
LOW: Final = 2
PRIORITIES: Final[dict[str, int]] = {"high": HIGH, "normal": NORMAL, "low": LOW}
"""What is shed last, and first. A caller's `flui-priority` can only lower what its route says."""
PRIORITY_NAMES: Final = (b"high", b"normal", b"low")
"""By number."""

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
"""Methods whose request may be sent again (RFC 9110 9.2.2)."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often a request is sent again: only if that cannot do its work twice (threats H2)."""

    attempts: int = 2
    """Tries altogether, the first one included; 1: never again."""
    statuses: tuple[int, ...] = (502, 503)
    """Answers that count as a failed try. An answer that says it was shed is never tried again (threats H1)."""
    per_try_s: float = 0.0
    """Longest wait for the head of an answer, per try; 0: only the request's own deadline."""
    backoff_s: float = 0.025
    """First pause at most; it doubles, and each is drawn anew between 0 and its bound (full jitter)."""
    backoff_max_s: float = 0.25
    after_s: float = 1.0
    """Longest `retry-after` that is waited for; an answer that asks for more is passed on."""
    body_octets: int = 64 * KIB
    """Body kept for sending again; a longer one is sent once."""
    hedge_s: float = 0.0
    """With no answer's head after so long, a second try begins beside the first, and the first answer wins; 0: never."""
    grpc_statuses: tuple[int, ...] = (14,)
    """Ends of gRPC calls that count as a failed try, if not one message came before."""
    repeats_calls: bool = False
    """gRPC calls may be sent again although they might have been served already: nothing in a call says so of itself."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds what retries and hedges add to the load of a cluster."""

    share_bp: int = 2_000
    """Of the requests in flight."""
    least: int = 3
    """Retries at a time that are always allowed."""


class RateBy(Enum):
    """Who shares a bucket."""

    ALL = "all"
    """Everyone."""
    PRINCIPAL = "principal"
    """Each principal has its own."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket."""

    per_s: float
    burst: int
    by: RateBy = RateBy.ALL


@dataclass(frozen=True, slots=True)
class Breaker:
    """What a cluster may cost us at a time, all its endpoints together."""

    connections: int = 4_096
    pending: int = 16_384
    """Requests that wait for a connection."""
    requests: int = 65_536
    """Requests in flight."""


@dataclass(frozen=True, slots=True)
class Concurrency:
    """A limit on requests in flight that finds itself: it grows while latency stays, and shrinks when latency does not."""

    least: int = 4
    most: int = 1_000
    start: int = 32
    tolerance: float = 1.5
    """Latency that is still fine, as a multiple of the latency without load."""


@dataclass(frozen=True, slots=True)
class Outlier:
    """When an endpoint is taken out, and how it comes back."""

    consecutive: int = 5
    """Failures in a row; 0: not looked at."""
    share_bp: int = 5_000
    """Failed part of an interval's requests; 0: not looked at."""
    volume: int = 10
    """Requests in an interval below which neither share nor latency is judged."""
    slowness: float = 5.0
    """Latency as a multiple of the median of the others; 0: not looked at."""
    slow_s: float = 0.01
    """Latency below which nobody is slow, whatever the others do."""
    interval_s: float = 1.0
    eject_s: float = 4.0
    """First time out; each further one in a row lasts that much longer."""
    eject_max_s: float = 12.0
    most_bp: int = 5_000
    """Part of the endpoints that may be out at a time; one always may, if there are two."""
    slow_start_s: float = 8.0
    """From its first request after coming back to its full share."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Asks every endpoint whether it is well, whoever else does."""

    path: bytes = b"/healthz"
    interval_s: float = 5.0
    timeout_s: float = 1.0
    unhealthy: int = 3
    """Failures in a row after which it gets no requests."""
    healthy: int = 2
    """Successes in a row after which it does again."""
    statuses: tuple[int, int] = (200, 399)
    """First and last status that means well."""
    grpc: bytes | None = None
    """Service whose health is asked for by gRPC's own protocol (`grpc.health.v1`), empty for the whole server; None: over HTTP."""


class Panic(Enum):
    """What happens when fewer than half of the endpoints are well (threats H4)."""

    ALL = "all"
    """All are used, for it is likelier that the judgement is wrong, or that the rest would break down too."""
    FAIL = "fail"
    """503."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of a part of the traffic, whose answers nobody reads."""

    cluster: str
    share_bp: int = WHOLE_BP


@dataclass(frozen=True, slots=True)
class Injection:
    """Faults made on purpose."""

    delay_s: float = 0.0
    delay_bp: int = WHOLE_BP
    """Part of the requests that wait before they are sent."""
    abort_status: int = 0
    """Answered in place of the service; 0: none."""
    abort_bp: int = WHOLE_BP


@dataclass(frozen=True, slots=True)
class Overload:
    """When the sidecar itself has too much to do: measured as the time that work waits for the event loop."""

    lag_s: float = 1.0
    """Above it low priority is shed, above twice of it normal; high never. 0: never anything."""


NO_RETRY: Final = Retry(attempts=1)

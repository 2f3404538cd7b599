"""What is shown of one sidecar: frozen numbers, ready to be drawn or printed. Shares are parts of 1, times are seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Head:
    """The sidecar itself. What its page does not tell is None or empty."""

    sidecar: str
    identity: str
    ready: bool
    why: str
    """Why it is not ready."""
    up_s: float | None
    policy: str
    version: str
    form: str
    """`pure` or `compiled`."""
    lag_s: float | None
    """How long work waits for the event loop."""
    overload: int
    """0: nothing is shed; 1: low priority; 2: also normal."""
    cpu: float | None
    """Of the sidecar's process, in cores: 0.5 is half of one."""
    memory_octets: int | None
    """Resident, of the sidecar's process."""
    module_cpu: float | None
    """The same of the module beside it."""
    module_memory_octets: int | None
    connections: int
    """Downstream, open now."""
    requests_per_s: float
    errors_per_s: float
    p50_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A listener, service and route."""

    listener: str
    service: str
    route: str
    requests_per_s: float
    errors_per_s: float
    """Answers from 500 up."""
    error_share: float
    p50_s: float | None
    """None: nothing ended. The highest bound of the histogram stands for all that is above it."""
    p99_s: float | None
    in_flight: float
    """Mean over the time looked at, from how long the exchanges that ended in it took (Little's law)."""
    requests: int
    """Since its start."""


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """An endpoint of a cluster."""

    cluster: str
    endpoint: str
    address: str
    health: str
    """`ok`, `warming` or `out`."""
    why: str
    """Why it is out."""
    share: float
    """Part of its full share that it gets."""
    active: int
    requests_per_s: float | None
    """None: the sidecar does not count them."""
    ejections: int
    """Since the sidecar's start."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What is used of a limit."""

    what: str
    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """How a cluster copes: retries, hedges, limits."""

    cluster: str
    retries_per_s: float
    over_budget_per_s: float
    """Retries that the budget refused."""
    hedges_per_s: float
    retries_active: int
    retries_allowed: int | None
    breaker: tuple[Gate, ...]
    concurrency_limit: int | None
    panic: bool
    """Fewer than half of the endpoints are well."""
    idle: int
    """Connections."""
    busy: int


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """Something that was refused, or failed, and how often."""

    kind: str
    """`fault`, `rule`, `rate limit`, `shed`, `breaker`, `handshake`, `connection`. One exchange may be in several of them."""
    what: str
    where: str
    """Listener, route or cluster."""
    per_s: float
    total: int
    """Since the sidecar's start."""


@dataclass(frozen=True, slots=True)
class PeerRow:
    """Who asks."""

    listener: str
    peer: str
    requests_per_s: float
    error_share: float
    mean_s: float | None
    requests: int
    """Since the sidecar's start."""


@dataclass(frozen=True, slots=True)
class View:
    """One sidecar, over some time. Every table has its busiest rows first, endpoints those that are not well."""

    head: Head
    over_s: float
    """The time that the rates are of."""
    since_start: bool
    """They are of its whole life: nothing earlier is known."""
    routes: tuple[RouteRow, ...]
    endpoints: tuple[EndpointRow, ...]
    clusters: tuple[ClusterRow, ...]
    refusals: tuple[RefusalRow, ...]
    peers: tuple[PeerRow, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """A sidecar that did not answer."""

    sidecar: str
    why: str

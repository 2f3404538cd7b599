"""Where requests can go: endpoints, clusters, routes. All frozen and hashable: built once, swapped whole."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from flui.model.resilience import (
    NORMAL,
    Breaker,
    Budget,
    Concurrency,
    HealthCheck,
    Injection,
    Mirror,
    Outlier,
    Panic,
    Rate,
    Retry,
)

APP: Final = "@app"
"""Name of the cluster that is the module beside us; no service can be called so."""
SELF: Final = "@flui"
"""Where a request goes that the sidecar answers itself; there is no such cluster."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a socket is: host and TCP port, or a Unix socket path (then the port is 0)."""

    host: str
    port: int = 0

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member of a cluster."""

    name: str
    """Stable name of the member; what rings hash, so that a new address does not move its keys."""
    address: Address
    weight: int = 1
    """Share of the traffic and of the ring, relative to the other members."""


class Policy(Enum):
    """How an endpoint is picked."""

    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    """The less loaded of two picked at random (Mitzenmacher 2001)."""
    RING = "ring"
    """Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018)."""


class KeySource(Enum):
    """What a ring hashes."""

    FLUI_KEY = "flui-key"
    HEADER = "header"
    PATH_PART = "path"
    PRINCIPAL = "principal"


@dataclass(frozen=True, slots=True)
class HashKey:
    """Where the key of a request is. A request without the key is picked by the less loaded of two."""

    source: KeySource = KeySource.FLUI_KEY
    name: bytes = b""
    """Lower-case field name, for HEADER."""
    part: int = 0
    """Number of the path segment from 1, for PATH_PART: in `/items/7`, 2 is `7`."""


@dataclass(frozen=True, slots=True)
class Balance:
    """How a cluster spreads its load."""

    policy: Policy = Policy.LEAST_LOADED
    key: HashKey = HashKey()
    excess_bp: int = 2500
    """RING: no endpoint above (1 + excess) of the mean load, in basis points (2500 = 0.25)."""


class Protocol(Enum):
    """What is spoken to the endpoints of a cluster."""

    AUTO = "auto"
    """Over TLS whatever of HTTP/2 and HTTP/1.1 the endpoint picks (ALPN, RFC 7301); over plain text HTTP/1.1."""
    HTTP1 = "http1"
    """HTTP/1.1; over TLS nothing else is offered."""
    HTTP2 = "http2"
    """HTTP/2; over plain text with prior knowledge (RFC 9113 3.3). An endpoint that picks something else is not asked."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A named set of endpoints that serve alike."""

    name: str
    endpoints: tuple[Endpoint, ...]
    balance: Balance = Balance()
    identity: str | None = None
    """SPIFFE ID that every endpoint must prove before the first octet is sent; None: plain text, no TLS."""
    local: bool = False
    """The module beside us: refusing a connection means that it is not up yet."""
    budget: Budget = Budget()
    breaker: Breaker = Breaker()
    concurrency: Concurrency | None = None
    """None: only the breaker bounds what is in flight."""
    outlier: Outlier | None = Outlier()
    """None: an endpoint stays whatever it does."""
    health: HealthCheck | None = None
    rates: tuple[Rate, ...] = ()
    """Of all requests to it, whatever route they take."""
    protocol: Protocol = Protocol.AUTO


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A condition on a field: every value that the request carries under `name` must equal `value`."""

    name: bytes
    value: bytes | None = None
    """None: the field must only be there."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a route asks of a request; every part that is given must hold."""

    hosts: tuple[str, ...] = ()
    """Lower-case authorities without port; empty: any."""
    path: str = "/*"
    """An object pattern: exact, or a final `/*`, `:name` for one segment; `/*` alone also matches `/`."""
    methods: tuple[str, ...] = ()
    headers: tuple[HeaderMatch, ...] = ()
    principals: tuple[str, ...] = ()
    """Who asks: exact, or everyone below with a final `/*`; empty: anyone."""


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster and its share of the route's traffic."""

    cluster: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """A match and what follows."""

    name: str
    match: Match
    to: tuple[Target, ...]
    timeout_s: float = 15.0
    """From the request's head to the end of the response; 0: none."""
    idle_timeout_s: float = 60.0
    """Longest silence in both directions while the exchange is open."""
    key: HashKey | None = None
    """Overrides the cluster's hash key."""
    retry: Retry = Retry()
    priority: int = NORMAL
    panic: Panic = Panic.ALL
    rates: tuple[Rate, ...] = ()
    mirror: Mirror | None = None
    inject: Injection | None = None


APP_ROUTE: Final = Route("app", Match(), (Target(APP),), retry=Retry(statuses=(), grpc_statuses=()))
"""What becomes of a request that may come in, unless configuration says otherwise. The module's own answers are final: whoever
called may know other replicas, and tries there."""

SELF_ROUTE: Final = Route("flui-health", Match(), (Target(SELF),), retry=Retry(attempts=1))
"""What becomes of a call that asks how the sidecar itself is."""

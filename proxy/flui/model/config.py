"""The typed configuration of one sidecar: what is in force, with every default. Read once, then frozen.

`runtime/configfile.py` makes it from a file or from flags; nothing below reads files or the environment.
"""

from __future__ import annotations

from dataclasses import dataclass

from flui.model.api import NO_API, Api
from flui.model.resilience import WHOLE_BP, Overload
from flui.model.topology import APP_ROUTE, Address, Cluster, Route
from flui.model.units import GIB, KIB, MIB


class ConfigError(Exception):
    """The operator's mistakes, all at once. Each names file, line, key and the fix."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in one file: `file:line: key: what is wrong; what to write instead`."""

    file: str
    line: int
    """From 1; 0 when the mistake has no line (a missing file, a flag)."""
    key: str
    what: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f"{self.key}: " if self.key else ""
        return f"{place}: {key}{self.what}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers that bound what a peer can make us hold. All are on by default (threats A10, C7, C8)."""

    fields: int = 100
    """Fields in a head or a trailer section."""
    head_octets: int = 60 * KIB
    """Start line, names, values and trailers of one message together."""
    target_octets: int = 8 * KIB
    """Request target."""
    body_octets: int = 1 * GIB
    """Request body; 0: no limit."""
    window_octets: int = 124 * KIB
    """Octets of body on the way between the two sides of an exchange, per direction; as many as one read brings (`transport.inbox`)."""
    stream_window_octets: int = 64 * KIB
    """The same for a stream of HTTP/2, of which a connection has many: each may hold as much while its siblings go on."""
    interim_responses: int = 16
    connections: int = 10_000
    """Open downstream connections per listener; past it new ones wait in the kernel's queue. From 90 % on, only sources are
    let in from which somebody with a valid identity is connected already (threats C9)."""
    connections_per_source: int = 4_000
    """Of them from one address, on a listener that speaks TLS."""
    handshakes: int = 1_000
    """TLS handshakes under way per listener; past it the one that has waited longest is given up for a new one."""
    body_rate: int = 500
    """Octets per second below which a request body is a slow attack (threats C8)."""
    flows: int = 65_536
    """Entries of the flow table, which is cleared when it is full."""
    grpc_message_octets: int = 4 * MIB
    """One gRPC message, of either side; 0: no limit. What gRPC libraries take unless told otherwise."""

    def credit_octets(self, window_octets: int) -> int:
        """Octets that a codec may have sent without giving credit for them.

        At most half of its own window, and three quarters of the smaller of the two: whatever the other side of an exchange speaks, and
        whatever a translation makes of a window (base64 becomes three quarters of it), nobody waits for credit that nobody gives.

        Args:
            window_octets: Its own, `window_octets` or `stream_window_octets`.
        """
        return min(window_octets // 2, min(self.window_octets, self.stream_window_octets) * 3 // 4)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Every wait has an end. Seconds."""

    handshake_s: float = 10.0
    """TLS handshake, from accept."""
    header_s: float = 10.0
    """From the first octet of a request to the end of its head."""
    connect_s: float = 2.0
    """TCP and TLS to an endpoint, per try."""
    body_idle_s: float = 30.0
    """Silence inside a request body."""
    keepalive_s: float = 60.0
    """An idle connection, downstream; upstream it is given up a little earlier."""
    drain_s: float = 15.0
    """From SIGTERM to the end of the last exchange."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Accepts connections for one direction."""

    name: str
    """`inbound` or `outbound`; a label of metrics and logs."""
    address: Address
    tls: bool
    """TLS 1.3 with a required client certificate; else plain text."""
    authorize: bool
    """Requests need a rule that allows them."""
    trusted_hops: tuple[str, ...] = ()
    """SPIFFE IDs whose Forwarded fields are kept and appended to (threats E1)."""
    timeout_s: float = 0.0
    """Longest time that any exchange may take; 0: as long as its route and its caller allow."""
    server_timing: tuple[str, ...] = ()
    """Who is told where the time went, in a `server-timing` field: SPIFFE IDs, or `*`."""


@dataclass(frozen=True, slots=True)
class AccessLogging:
    """What is written of exchanges, and where."""

    file: str = "-"
    """`-` standard output, `off`, or a file."""
    successes_bp: int = WHOLE_BP
    """Part of the exchanges without fault and with a status below 400 that is written; all others always are."""
    rotate_octets: int = 0
    """A file that has grown past it is renamed to NAME.1 and begun anew; 0: never."""
    keep: int = 5
    """Renamed files kept."""
    redact: tuple[str, ...] = ()
    """Object patterns of paths: what `:name` and a final `/*` match is written as `-`."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """Spans, sent by OTLP over HTTP."""

    endpoint: str
    """`http://HOST:PORT/v1/traces`."""
    share_bp: int = 100
    """Part of the requests without a traceparent that is sampled; others follow their parent."""
    per_s: float = 100.0
    """Sampled requests per second at most."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Everything one sidecar is told."""

    service: str
    app: Address | None
    """The module beside us; None: the sidecar only calls out. It is also a cluster of its own, named `topology.APP`."""
    listeners: tuple[Listener, ...]
    admin: Address | None
    certs: str | None
    """Folder with ca.pem, SERVICE.pem, SERVICE.key; None: only plain text listeners and clusters."""
    policy: str | None
    """Folder with model.conf and *.csv; None: every request is denied where the listener authorizes."""
    clusters: tuple[Cluster, ...] = ()
    routes: tuple[Route, ...] = ()
    """Outbound routes, first match wins; after them a service's own name is a route to it."""
    app_route: Route = APP_ROUTE
    """What becomes of a request that may come in, unless one of `app_routes` matches."""
    app_routes: tuple[Route, ...] = ()
    """Exceptions from it, first match wins; all lead to the module."""
    api: Api = NO_API
    """The module's interface."""
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    overload: Overload = Overload()
    access_log: AccessLogging = AccessLogging()
    tracing: Tracing | None = None
    source: str = ""
    """File it was read from, for watching; empty when it came from flags alone."""

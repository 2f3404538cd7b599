"""The typed configuration of one sidecar: what is in force, with every default. Read once, then frozen.

`runtime/configfile.py` makes it from a file or from flags; nothing below reads files or the environment.
"""

from __future__ import annotations

from dataclasses import dataclass

from flui.model.topology import APP_ROUTE, Address, Cluster, Route
from flui.model.units import GIB, KIB


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
    window_octets: int = 64 * KIB
    """Octets of body on the way between the two sides of an exchange, per direction."""
    interim_responses: int = 16
    connections: int = 10_000
    """Open downstream connections per listener; past it new ones wait in the kernel's queue."""
    flows: int = 65_536
    """Entries of the flow table, which is cleared when it is full."""


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
    """What becomes of a request that may come in: its timeouts."""
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    access_log: str = "-"
    """`-` standard output, `off`, or a file."""
    source: str = ""
    """File it was read from, for watching; empty when it came from flags alone."""

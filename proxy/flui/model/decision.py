"""What was decided for a flow: a value that can be cached, printed, logged, tested, and executed by any relay."""

from __future__ import annotations

from dataclasses import dataclass, field

from flui.model.fault import Fault
from flui.model.fields import Field
from flui.model.resilience import NO_RETRY, NORMAL, Injection, Mirror, Rate, Retry
from flui.model.topology import HashKey, Target


@dataclass(frozen=True, slots=True)
class Why:
    """The names of what decided: for the log, `flui explain`, tests."""

    listener: str
    service: str
    route: str
    rule: str
    """`file:line` of the deciding policy rule, or why there is none."""
    principal: str


@dataclass(frozen=True, slots=True)
class Forward:
    """Send it on."""

    targets: tuple[Target, ...]
    """Clusters and their shares; most often one."""
    timeout_s: float
    idle_timeout_s: float
    key: HashKey | None
    """Overrides the cluster's hash key."""
    add: tuple[Field, ...]
    """Ready fields that the forwarded request carries in addition."""
    deadline: Field | None
    """Ready flui-deadline of a request whose caller set none; None when the route has no timeout either."""
    keep_forwarded: bool
    """The caller is an allow-listed hop: its Forwarded fields stay."""
    retry: Retry = NO_RETRY
    repeatable: bool = False
    """Its method may be sent again (RFC 9110 9.2.2)."""
    priority: int = NORMAL
    fails_in_panic: bool = False
    rates: tuple[Rate, ...] = ()
    mirror: Mirror | None = None
    inject: Injection | None = None
    server_timing: bool = False
    """The caller is told where the time went."""
    special: bool = False
    """Some of what few routes ask for is asked for: rates, a mirror, injected faults, a pause before a second try."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer it here."""

    fault: Fault


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for every request with the same facts, while its snapshot lives."""

    action: Forward | Reply
    why: Why
    expires_at: float
    """Monotonic seconds after which it must be made again; `inf` when nothing in it can lapse."""
    labels: tuple[str, ...]
    """Label values of its metrics, all from configuration and policy: listener, service, route, peer, rule."""
    log_text: bytes
    """The fixed part of its access-log lines, ready JSON members."""
    epoch: int = field(default=0, compare=False, repr=False)
    """That of the snapshot it was made under (`Snapshot.epoch`): under another one it means nothing."""

"""Taps: exchanges shown while they happen, to whom the policy allows it.

    Recorder ── offer(record) ──▶ Tap: filters ─▶ may this user see it? ─▶ queue ──20 ms──▶ sink ──▶ the one who looks

Who looks is a user of this machine, `uid:NUMBER`, as the kernel says it of the Unix socket's other end. An exchange is shown only
if the policy in force allows (uid, service, `TAP`, path); a new policy holds for running taps at once. What is shown is the
access log's line with the paths redacted as there, and filters see no more than that: nobody can find out by filtering what
he is not shown. Headers, query strings and bodies are not there.

Bounded: 8 taps, 1,024 records waiting for each. Whoever does not read loses records, is told how many, and slows nobody.
Without taps the data path asks one attribute, `Taps.active`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from flui.model.decision import Why
from flui.model.fault import Fault
from flui.model.resilience import WHOLE_BP
from flui.policy.base import ANY, Policy
from flui.policy.index import Index
from flui.routing.pattern import Pattern, complaint
from flui.telemetry.accesslog import RANDOM_FROM, RANDOM_TO, sample_bound
from flui.telemetry.journal import Journal

ACTION: Final = "TAP"
"""What policy calls it."""
TAPS: Final = 8
"""Open at once."""
QUEUED: Final = 1_024
"""Records that wait for one tap."""

_FLUSH_S: Final = 0.02
"""Records wait so long for others: sending each by itself would cost a system call in the middle of the data path."""
_BATCH: Final = 32
"""Records written together."""
_KNOWN: Final = 4_096
_KNOWN_OCTETS: Final = 256
"""Paths whose verdict is remembered, and their length."""

_NO_SERVICE: Final = "-"
# What was refused before anything was decided has no service, and a path that no rule may be asked for: it is judged as this path
# of our own service, which no request and no pattern but `/*` has.
_ANYTHING: Final = "//"

_STATUS: Final = re.compile(r"(>=|<=|>|<)?([0-9]{1,3})|([1-5])xx")
_SHARE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,2})?)%|(0?\.[0-9]{1,4}|1(?:\.0{1,4})?)")
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"))


class Record(NamedTuple):
    """An exchange that ended."""

    line: bytes
    """Its line of the access log, with the path as it may be shown."""
    why: Why
    path: bytes
    """What policy is asked about: the path itself, or empty where nothing was decided."""
    shown: bytes
    """What filters see: the path as it may be shown."""
    trace: bytes
    """traceparent, or empty."""
    method: bytes
    status: int
    fault: str
    """`Fault.value`; empty when there was none."""
    total_s: float


class Sink(Protocol):
    """Where a tap's octets go."""

    @property
    def writable(self) -> bool:
        """False while the other end does not read; `Tap.resume` is called when it does again."""
        ...

    def write(self, octets: bytes) -> None:
        """Sends them."""
        ...

    def finish(self) -> None:
        """There is no more."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why somebody may not tap."""

    status: int
    """As in HTTP."""
    title: str
    detail: str
    row: str = ""
    """What would have to be in the policy; empty when that is not what is missing."""


class FilterError(ValueError):
    """A filter that is none; its text is `name: what is wrong; what to write instead`."""


class Filters:
    """What one tap wants to see. Every filter that is given must hold.

    Args:
        values: by name, each as text. `listener`, `service`, `route`, `method`: exact. `principal`: exact, or a beginning and a
            final `*`. `path`: an object pattern. `status`: `500`, `5xx`, `>=400`. `fault`: its name, or `*` for any. `min_ms`:
            milliseconds that it took at least. `sample`: the part of the traces that is shown, `0.1` or `10%`. `limit`: end
            after so many.

    Raises:
        FilterError: one of them cannot be understood.
    """

    __slots__ = ("_holds", "limit")

    NAMES: Final = ("listener", "service", "route", "principal", "method", "path", "status", "fault", "min_ms", "sample", "limit")

    def __init__(self, values: Mapping[str, str]) -> None:
        self.limit = 0
        """Records after which the tap ends; 0: none."""
        holds: list[Callable[[Record], bool]] = []
        for name, value in values.items():
            if name not in self.NAMES:
                raise FilterError(f"{name}: is no filter; there are {', '.join(self.NAMES)}")
            if not value:
                raise FilterError(f"{name}: is empty; give a value, or leave it out")
            if name == "limit":
                self.limit = _count(value)
            else:
                holds.append(_test(name, value))
        self._holds = tuple(holds)

    def hold(self, record: Record) -> bool:
        """Whether every filter holds."""
        for holds in self._holds:  # noqa: SIM110 - all() of a generator costs a microsecond more, and this runs for every exchange
            if not holds(record):
                return False
        return True


class Tap:
    """One who looks. Made by `Taps.attach`; whoever has the sink calls `start` once, and `stop` when the other end is gone."""

    __slots__ = (
        "_ending",
        "_filters",
        "_known",
        "_left",
        "_policy",
        "_queue",
        "_sink",
        "_taps",
        "_timer",
        "asked",
        "dropped",
        "shown",
        "subject",
    )

    def __init__(self, taps: Taps, subject: str, filters: Filters, asked: str) -> None:
        self.subject = subject
        self.asked = asked
        """The filters, as they were given."""
        self.shown = 0
        self.dropped = 0
        self._taps = taps
        self._filters = filters
        self._left = filters.limit
        self._policy = taps.policy()
        self._known: dict[tuple[str, bytes], bool] = {}
        """What the policy said, by service and path."""
        self._queue: deque[Record | _Gap] = deque()
        self._sink: Sink | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: bytes | None = None
        """What is said last; None while it goes on."""

    def start(self, sink: Sink) -> None:
        """From now on exchanges are shown."""
        self._sink = sink
        self._taps.enter(self)

    def resume(self) -> None:
        """The sink can be written to again."""
        self._flush()

    def stop(self) -> None:
        """The other end is gone."""
        self._sink = None
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._taps.leave(self)

    def offer(self, record: Record) -> None:
        """Shows an exchange, if it is one that was asked for and may be seen. Never raises, never waits."""
        policy = self._taps.policy()
        if policy is not self._policy:
            self._policy = policy
            self._known.clear()
            if not may_tap(policy, self.subject):
                self._end(b'{"ended":"the policy in force does not let %b tap any more"}\n' % self.subject.encode())
                return
        if not self._filters.hold(record) or not self._may_see(policy, record.why.service, record.path):
            return
        queue = self._queue
        if len(queue) >= QUEUED:
            self.dropped += 1
            last = queue[-1]
            if isinstance(last, _Gap):
                last.records += 1
            else:
                queue.append(_Gap())
            return
        queue.append(record)
        self.shown += 1
        if self._left and self.shown >= self._left:
            self._end(b"")
        else:
            self._schedule()

    def _may_see(self, policy: Policy, service: str, path: bytes) -> bool:
        if service == _NO_SERVICE:
            path = b""
        key = (service, path)
        known = self._known
        seen = known.get(key)
        if seen is None:
            if service == _NO_SERVICE:
                seen = policy.decide(self.subject, self._taps.service, ACTION, _ANYTHING).allowed
            else:
                seen = policy.decide(self.subject, service, ACTION, path.decode("ascii", "backslashreplace")).allowed
            if len(path) <= _KNOWN_OCTETS:
                if len(known) >= _KNOWN:
                    known.clear()
                known[key] = seen
        return seen

    def _end(self, said: bytes) -> None:
        self._ending = said
        self._taps.leave(self)
        self._schedule()

    def _schedule(self) -> None:
        sink = self._sink
        if self._timer is None and sink is not None and sink.writable:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sink = self._sink
        if sink is None:
            return
        queue = self._queue
        while queue and sink.writable:
            sink.write(b"".join([queue.popleft().line for _ in range(min(len(queue), _BATCH))]))
        if not queue and self._ending is not None:
            self._sink = None
            if self._ending:
                sink.write(self._ending)
            sink.finish()


class Taps:
    """All taps of one sidecar. For the event loop's thread.

    Args:
        service: whose sidecar it is.
        policy: gives the policy in force.
        journal: is told who looks, and for what.
    """

    __slots__ = ("_journal", "_taps", "active", "policy", "service")

    def __init__(self, service: str, policy: Callable[[], Policy], journal: Journal) -> None:
        self.service = service
        self.policy = policy
        self.active = False
        """Somebody looks: `offer` is worth calling."""
        self._journal = journal
        self._taps: tuple[Tap, ...] = ()

    def attach(self, uid: int | None, values: Mapping[str, str]) -> Tap | Refusal:
        """A tap for a user of this machine, to be started.

        Args:
            uid: who asks, as the kernel says it; None when it does not.
            values: see `Filters`.
        """
        if uid is None:
            return Refusal(403, "Forbidden", "exchanges are shown over the sidecar's Unix socket only, where the system says who asks")
        subject = f"uid:{uid}"
        policy = self.policy()
        if not may_tap(policy, subject):
            return self._refused(policy, subject)
        if len(self._taps) >= TAPS:
            return Refusal(503, "Service Unavailable", f"{TAPS} taps are open; end one of them")
        try:
            filters = Filters(values)
        except FilterError as error:
            return Refusal(400, "Bad Request", str(error))
        return Tap(self, subject, filters, " ".join(f"{name}={value}" for name, value in values.items()))

    def offer(self, record: Record) -> None:
        """Shows an exchange to everybody who asked for it and may see it. Worth calling only while `active`."""
        for tap in self._taps:
            tap.offer(record)

    def enter(self, tap: Tap) -> None:
        """A tap begins."""
        self._taps = (*self._taps, tap)
        self.active = True
        self._journal.info("tap opened", subject=tap.subject, filters=tap.asked)

    def leave(self, tap: Tap) -> None:
        """A tap has ended, or ends when what it has was read."""
        if tap in self._taps:
            self._taps = tuple(other for other in self._taps if other is not tap)
            self.active = bool(self._taps)
            self._journal.info("tap ended", subject=tap.subject, shown=tap.shown, dropped=tap.dropped)

    def _refused(self, policy: Policy, subject: str) -> Refusal:
        self._journal.warn("tap refused", subject=subject)
        row = f"p, {subject}, {self.service}, {ACTION}, /*"
        verdict = policy.decide(subject, self.service, ACTION, "/")
        if verdict.failed:
            return Refusal(
                403, "Forbidden", f"only a policy can allow it, and none is in force ({verdict.rule}); it would need `{row}`", row
            )
        return Refusal(
            403, "Forbidden", f"no rule of the policy lets {subject} tap; to allow it, add the row `{row}` to a *.csv of it", row
        )


class _Gap:
    """Records that were lost at this place."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records = 1

    @property
    def line(self) -> bytes:
        return b'{"dropped":%d}\n' % self.records


def may_tap(policy: Policy, subject: str) -> bool:
    """Whether some rule of a policy lets a subject see anything at all."""
    if not isinstance(policy, Index):
        return False  # there is none
    held = {subject, ANY, *policy.roles(subject)}
    return any(rule.allow and rule.action in {ACTION, ANY} and rule.subject in held for rule in policy.rules)


def _test(name: str, value: str) -> Callable[[Record], bool]:
    match name:
        case "listener":
            return lambda record: record.why.listener == value
        case "service":
            return lambda record: record.why.service == value
        case "route":
            return lambda record: record.why.route == value
        case "principal":
            if value.endswith("*"):
                return lambda record: record.why.principal.startswith(value[:-1])
            return lambda record: record.why.principal == value
        case "method":
            return _method(value)
        case "path":
            wrong = complaint(value) if value.isascii() else (f"{value!r} is not ASCII", "write it as requests do: percent-encoded")
            if wrong is not None:
                raise FilterError(f"path: {wrong[0]}; {wrong[1]}")
            pattern = Pattern(value)
            return lambda record: pattern.matches(record.shown)
        case "status":
            return _status(value)
        case "fault":
            return _fault(value)
        case "min_ms":
            return _least(value)
        case _:
            return _sample(value)


def _method(value: str) -> Callable[[Record], bool]:
    if value.upper() in _METHODS and value != value.upper():
        raise FilterError(f"method: methods tell cases apart, {value!r} is not {value.upper()!r}; write {value.upper()}")
    method = value.encode()
    return lambda record: record.method == method


def _status(value: str) -> Callable[[Record], bool]:
    found = _STATUS.fullmatch(value)
    if found is None:
        raise FilterError(f"status: {value!r} is no status; write 500, 5xx or >=400")
    comparison, number, hundreds = found.groups()
    if hundreds is not None:
        hundred = int(hundreds)
        return lambda record: record.status // 100 == hundred
    status = int(number)
    match comparison:
        case ">=":
            return lambda record: record.status >= status
        case "<=":
            return lambda record: record.status <= status
        case ">":
            return lambda record: record.status > status
        case "<":
            return lambda record: record.status < status
        case _:
            return lambda record: record.status == status


def _fault(value: str) -> Callable[[Record], bool]:
    if value == ANY:
        return lambda record: record.fault != ""
    if value not in (names := [fault.value for fault in Fault]):
        raise FilterError(f"fault: {value!r} is no fault; write * for any, or one of {', '.join(names)}")
    return lambda record: record.fault == value


def _least(value: str) -> Callable[[Record], bool]:
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", value) is None:
        raise FilterError(f"min_ms: {value!r} is no number of milliseconds; write 20 or 0.5")
    least_s = float(value) / 1e3
    return lambda record: record.total_s >= least_s


def _sample(value: str) -> Callable[[Record], bool]:
    found = _SHARE.fullmatch(value)
    share = 0
    if found is not None:
        share = round(float(found[1]) * 100) if found[1] is not None else round(float(found[2]) * WHOLE_BP)
    if not 0 < share <= WHOLE_BP:
        raise FilterError(f"sample: {value!r} is no part; write 0.1 or 10%, at least 0.01% and at most all")
    bound = sample_bound(share, WHOLE_BP)
    return lambda record: bound is None or record.trace[RANDOM_FROM:RANDOM_TO] < bound


def _count(value: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,8}", value) is None:
        raise FilterError(f"limit: {value!r} is no number of exchanges; write 1 or more")
    return int(value)

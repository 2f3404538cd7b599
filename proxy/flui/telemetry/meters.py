"""Meters: plain integers that the data path adds to and the exposition reads.

    exchange ──▶ Series of (labels, status) ──▶ Totals of the route, of the peer, of the rule ──▶ page
                 2,048 kept, the oldest leaves           `limit` time series, then `other`

An exchange costs one dictionary lookup and five additions into the series of all its labels together. Listener, service,
route, peer and rule multiply, so few of these series are kept and none is shown: what they hold is moved on to the totals
of each axis when one must leave, and when the page is read. Nothing is lost by leaving.

What is shown is bounded too (threats C13): label values come from configuration or from our own enumerations, and past
`limit` time series, counted as Prometheus counts them, what is new becomes `other`, each axis for itself. A part of the
limit is kept for each axis, so that many peers cannot hide a route. Nothing here reads a clock or formats text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, NamedTuple

from flui.model.fault import DIALECTS
from flui.telemetry.families import FAMILIES, Family, Kind

OTHER: Final = "other"
"""The label value of everything that came after the limit."""
ERRORS: Final = "5xx"
"""The status code of every server error that has no series of its own: it still counts as one (`code=~"5.."`)."""

BOUNDS: Final[tuple[float, ...]] = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the duration buckets, in seconds, each inclusive; what is longer falls in a last bucket without bound."""

KEPT: Final = 2_048
"""Series of labels and status that are kept at a time: some 650 octets each."""

Samples = Iterable[tuple[tuple[str, ...], float]]
"""Label values, in the family's order, and the number."""

_LABELS: Final = ("listener", "service", "route", "peer", "rule")
# an upstream may answer with any three digits: what is not registered shares one series
_CODES: Final[dict[int, str]] = {
    code: str(code) for code in (*(status.value for status in HTTPStatus), *(dialects.http for dialects in DIALECTS.values()))
}

# the parts of the limit, see `Room`
_ROUTES: Final = 0
_PEERS: Final = 1
_RULES: Final = 2
_EVENTS: Final = 3
_FOLDED: Final = 4
_KEPT_SHARES: Final = (5, 10, 10, 10)

# both codes that are not numbers may always be needed
_SHORT_CODES: Final = 2
# buckets with the unbounded one, their sum and count, both octet counters
_ROUTE_COST: Final = len(BOUNDS) + 1 + 2 + 2 + _SHORT_CODES
# sum and count
_OTHER_COST: Final = 2 + _SHORT_CODES
_LISTENERS: Final = 4
# kept free for `other`: of each listener and of listeners past the fourth, and of each counted family
_RESERVE: Final = (_LISTENERS + 1) * (_ROUTE_COST + 2 * _OTHER_COST) + len(FAMILIES)
_FOLDED_EVENTS: Final = 50


class Totals:
    """What was counted of one route, peer or rule since the start."""

    __slots__ = ("buckets", "codes", "octets_in", "octets_out", "seconds")

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        """Exchanges by status code; their sum is the number of exchanges."""
        self.seconds = 0.0
        self.buckets = [0] * (len(BOUNDS) + 1)
        """Routes only: exchanges by duration, not cumulative."""
        self.octets_in = 0
        """Routes only, as `octets_out`."""
        self.octets_out = 0


class Series:
    """The numbers of one set of labels and one status since they were last moved on."""

    __slots__ = ("buckets", "folded", "into", "octets_in", "octets_out", "seconds")

    def __init__(self, into: tuple[tuple[Totals, str], ...], *, folded: bool) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.octets_in = 0
        self.octets_out = 0
        self.into = into
        """Where they belong: the totals and the code of the route, the peer and the rule."""
        self.folded = folded
        """One of these is `other` because there was no room."""

    def move(self) -> int:
        """Moves the numbers on to the totals; says how many exchanges they were."""
        buckets = self.buckets
        exchanges = sum(buckets)
        if exchanges:
            seconds = self.seconds
            for totals, code in self.into:
                totals.codes[code] += exchanges
                totals.seconds += seconds
            route = self.into[0][0]
            route.octets_in += self.octets_in
            route.octets_out += self.octets_out
            for at, count in enumerate(buckets):
                if count:
                    route.buckets[at] += count
                    buckets[at] = 0
            self.seconds = 0.0
            self.octets_in = self.octets_out = 0
        return exchanges


class View(NamedTuple):
    """What is shown of exchanges. The totals grow when there is a next view; they are not to be changed."""

    routes: dict[tuple[str, ...], Totals]
    """By listener, service, route."""
    peers: dict[tuple[str, ...], Totals]
    """By listener and peer: who asked."""
    rules: dict[tuple[str, ...], Totals]
    """By listener and rule: what decided."""
    folded: int
    """Exchanges and events that were counted under `other` for want of room."""


class Room:
    """How many time series may still be made: some for anyone, some for each part."""

    __slots__ = ("_common", "_own")

    def __init__(self, common: int, own: tuple[int, ...]) -> None:
        self._common = common
        self._own = list(own)

    def take(self, part: int, many: int) -> bool:
        """Whether there is room for so many more. If so it is taken, the part's own first."""
        missing = many - self._own[part]
        if missing <= 0:
            self._own[part] -= many
        elif missing <= self._common:
            self._own[part] = 0
            self._common -= missing
        else:
            return False
        return True


class Axis:
    """The totals by one choice of labels, of which the first is the listener."""

    __slots__ = ("_cost", "_part", "_room", "totals")

    def __init__(self, room: Room, part: int, cost: int) -> None:
        self._room = room
        self._part = part
        self._cost = cost
        self.totals: dict[tuple[str, ...], Totals] = {}

    def place(self, labels: tuple[str, ...], status: int, listener: str) -> tuple[tuple[Totals, str], bool]:
        """Where an exchange is counted, and whether that is `other` for want of room.

        Args:
            labels: values of this axis.
            status: what downstream was told.
            listener: what the listener is called when the rest becomes `other`.
        """
        totals = self.totals.get(labels)
        folded = totals is None and not self._room.take(self._part, self._cost)
        if totals is None:
            if folded:
                labels = (listener,) + (OTHER,) * (len(labels) - 1)
            totals = self.totals.setdefault(labels, Totals())
        code = _CODES.get(status, "")
        if code not in totals.codes:
            full = bool(code) and not self._room.take(self._part, 1)
            if full or not code:
                code = ERRORS if 500 <= status < 600 else OTHER
            folded = folded or full
            totals.codes.setdefault(code, 0)
        return (totals, code), folded


class Meters:
    """All numbers of one sidecar. For one thread: the event loop's.

    Args:
        limit: time series that `exchange` and `count` may make together, as Prometheus counts them: a route costs
            21 and one for each status code seen, a peer or a rule 4 and one for each code, a counter's label values
            one. What `read` gives comes on top.
    """

    __slots__ = ("_counts", "_folded", "_listeners", "_peers", "_readings", "_room", "_routes", "_rules", "_series")

    def __init__(self, limit: int = 2_000) -> None:
        free = limit - _RESERVE - _FOLDED_EVENTS
        assert free > 0, f"a limit of {limit} leaves no room: {_RESERVE + _FOLDED_EVENTS} are kept for `other`"
        own = tuple(free // share for share in _KEPT_SHARES)
        self._room = Room(free - sum(own), (*own, _FOLDED_EVENTS))
        self._routes = Axis(self._room, _ROUTES, _ROUTE_COST)
        self._peers = Axis(self._room, _PEERS, _OTHER_COST)
        self._rules = Axis(self._room, _RULES, _OTHER_COST)
        self._listeners: set[str] = set()
        self._series: dict[tuple[tuple[str, ...], int], Series] = {}
        self._counts: dict[Family, dict[tuple[str, ...], int]] = {}
        self._readings: dict[Family, list[Callable[[], Samples]]] = {}
        self._folded = 0

    def exchange(self, labels: tuple[str, ...], status: int, seconds: float, octets_in: int, octets_out: int) -> None:
        """Counts an exchange that ended.

        Args:
            labels: listener, service, route, peer, rule, all from configuration or policy (`Decision.labels`).
            status: what downstream was told.
            seconds: from the request's head to the end.
            octets_in: request body.
            octets_out: response body.
        """
        try:
            series = self._series[labels, status]
        except KeyError:
            series = self._admit(labels, status)
        series.seconds += seconds
        series.octets_in += octets_in
        series.octets_out += octets_out
        series.buckets[bisect_left(BOUNDS, seconds)] += 1

    def count(self, family: Family, *labels: str, by: int = 1) -> None:
        """Adds to a counter. With `by=0` it only becomes visible, which lets rates start from zero.

        Args:
            family: one of `families.FAMILIES`.
            labels: label values in the family's order, from configuration or an enumeration, never from a peer.
            by: how many.
        """
        counts = self._counts.get(family)
        if counts is None:
            assert family in FAMILIES, f"{family.name} is not listed"
            counts = self._counts[family] = {}
        if labels not in counts:
            assert len(labels) == len(family.labels), f"{family.name} has the labels {family.labels}"
            if not self._room.take(_EVENTS, 1):
                self._folded += by
                others = (OTHER,) * len(labels)
                labels = labels[:1] + others[1:] if len(labels) > 1 else others
                if labels not in counts and not self._room.take(_FOLDED, 1):
                    labels = others
            counts.setdefault(labels, 0)
        counts[labels] += by

    def read(self, family: Family, source: Callable[[], Samples]) -> None:
        """Registers a source that is asked each time the page is.

        Args:
            family: a counter or a gauge, of `families.FAMILIES` or of a room's own; several sources may share it.
            source: gives label values and numbers; it must not block.
        """
        assert family.kind in {Kind.COUNTER, Kind.GAUGE}, f"{family.name}: a source gives single numbers"
        self._readings.setdefault(family, []).append(source)

    def view(self) -> View:
        """Everything that `exchange` counted, and what was folded, as of now."""
        for series in self._series.values():
            self._leave(series)
        return View(self._routes.totals, self._peers.totals, self._rules.totals, self._folded)

    @property
    def folded(self) -> int:
        """Exchanges and events that were counted under `other` for want of room."""
        return self.view().folded

    def routes(self) -> dict[tuple[str, ...], Totals]:
        """The numbers by listener, service, route."""
        return self.view().routes

    def requests(self) -> list[tuple[tuple[str, ...], int]]:
        """Exchanges by listener, service, route, code."""
        return [((*labels, code), count) for labels, totals in self.view().routes.items() for code, count in totals.codes.items()]

    def samples(self, family: Family) -> dict[tuple[str, ...], float]:
        """What was counted for, or is now read of, a family that `count` or `read` fills. Numbers with the same labels are added."""
        samples: dict[tuple[str, ...], float] = dict(self._counts.get(family, ()))
        for source in self._readings.get(family, ()):
            for labels, number in source():
                samples[labels] = samples.get(labels, 0) + number
        return samples

    def more(self) -> tuple[Family, ...]:
        """Families that `read` was given and `families.FAMILIES` does not list, in the order in which they came."""
        return tuple(family for family in self._readings if family not in FAMILIES)

    def _admit(self, labels: tuple[str, ...], status: int) -> Series:
        """A new series for what the fast path did not find; the oldest leaves when there are too many."""
        assert len(labels) == len(_LABELS), f"labels are {_LABELS}"
        if len(self._series) >= KEPT:
            oldest = next(iter(self._series))
            self._leave(self._series.pop(oldest))
        listener, _, _, peer, rule = labels
        near = listener
        if listener not in self._listeners:
            if len(self._listeners) < _LISTENERS:
                self._listeners.add(listener)
            else:
                near = OTHER
        route, no_route = self._routes.place(labels[:3], status, near)
        asked, no_peer = self._peers.place((listener, peer), status, near)
        decided, no_rule = self._rules.place((listener, rule), status, near)
        series = self._series[labels, status] = Series((route, asked, decided), folded=no_route or no_peer or no_rule)
        return series

    def _leave(self, series: Series) -> None:
        exchanges = series.move()
        if series.folded:
            self._folded += exchanges

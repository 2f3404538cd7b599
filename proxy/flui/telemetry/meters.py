"""Meters: plain integers that the data path adds to and the exposition reads.

An exchange costs one dictionary lookup and five additions. What is kept is bounded (threats C13): label values come
from configuration or from our own enumerations, and past `limit` time series, counted as Prometheus counts them, every
new label value becomes `other`. Nothing here reads a clock or formats text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from flui.model.fault import DIALECTS
from flui.telemetry.families import FAMILIES, Family

OTHER: Final = "other"
"""The label value of everything that came after the limit."""

BOUNDS: Final[tuple[float, ...]] = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the duration buckets, in seconds, each inclusive; what is longer falls in a last bucket without bound."""


Samples = Iterable[tuple[tuple[str, ...], float]]
"""Label values, in the family's order, and the number."""

_ROUTE: Final = ("listener", "service", "route")
_CODES: Final = frozenset(status.value for status in HTTPStatus) | frozenset(dialects.http for dialects in DIALECTS.values())
# an upstream may answer with any three digits: what is not registered shares one series per route
_UNKNOWN: Final = 0
# histogram buckets with the unbounded one, its sum and count, both octet counters
_PER_ROUTE: Final = len(BOUNDS) + 1 + 2 + 2
# kept free for `other`: one route with every code, and one series for each counted family
_RESERVE: Final = _PER_ROUTE + len(_CODES) + 1 + len(FAMILIES)


class Series:
    """The numbers of one route and status."""

    __slots__ = ("buckets", "octets_in", "octets_out", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        """Exchanges by duration, not cumulative; their sum is the number of exchanges."""
        self.seconds = 0.0
        self.octets_in = 0
        self.octets_out = 0

    def add(self, other: Series) -> None:
        """Takes the numbers of `other` in."""
        self.seconds += other.seconds
        self.octets_in += other.octets_in
        self.octets_out += other.octets_out
        for at, count in enumerate(other.buckets):
            self.buckets[at] += count


class Meters:
    """All numbers of one sidecar. For one thread: the event loop's.

    Args:
        limit: time series that `exchange` and `count` may make together, as Prometheus counts them: a route costs
            19 and one for each status code seen, a counter's label values one. What `read` gives comes on top.
    """

    __slots__ = ("_counts", "_held", "_limit", "_readings", "_routes", "_series", "folded")

    def __init__(self, limit: int = 2_000) -> None:
        assert limit > _RESERVE, f"a limit of {limit} leaves no room: {_RESERVE} are kept for `other`"
        self._limit = limit - _RESERVE
        self._held = 0
        self._series: dict[tuple[tuple[str, ...], int], Series] = {}
        self._routes: set[tuple[str, ...]] = set()
        self._counts: dict[tuple[Family, tuple[str, ...]], int] = {}
        self._readings: list[tuple[Family, Callable[[], Samples]]] = []
        self.folded = 0
        """Exchanges and events that were counted under `other`."""

    def exchange(self, labels: tuple[str, ...], status: int, seconds: float, octets_in: int, octets_out: int) -> None:
        """Counts an exchange that ended.

        Args:
            labels: listener, service, route, all from configuration (`Decision.labels`).
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
            family: one of the constants of this module.
            labels: label values in the family's order, from configuration or an enumeration, never from a peer.
            by: how many.
        """
        key = (family, labels)
        counts = self._counts
        if key not in counts:
            assert len(labels) == len(family.labels), f"{family.name} has the labels {family.labels}"
            if self._held >= self._limit:
                self.folded += by
                key = (family, (OTHER,) * len(labels))
            else:
                self._held += 1
            counts.setdefault(key, 0)
        counts[key] += by

    def read(self, family: Family, source: Callable[[], Samples]) -> None:
        """Registers a source that is asked each time the page is.

        Args:
            family: one of the constants of this module; several sources may share it.
            source: gives label values and numbers; it must not block.
        """
        self._readings.append((family, source))

    def routes(self) -> dict[tuple[str, ...], Series]:
        """The numbers of each route, all status codes together. A copy."""
        routes: dict[tuple[str, ...], Series] = {}
        for (labels, _), series in self._series.items():
            routes.setdefault(labels, Series()).add(series)
        return routes

    def requests(self) -> list[tuple[tuple[str, ...], int]]:
        """Exchanges by listener, service, route, code."""
        return [((*labels, str(status or OTHER)), sum(series.buckets)) for (labels, status), series in self._series.items()]

    def samples(self, family: Family) -> dict[tuple[str, ...], float]:
        """What was counted for, or is now read of, a family that `count` or `read` fills. Numbers with the same labels are added."""
        samples: dict[tuple[str, ...], float] = {labels: number for (of, labels), number in self._counts.items() if of is family}
        for of, source in self._readings:
            if of is family:
                for labels, number in source():
                    samples[labels] = samples.get(labels, 0) + number
        return samples

    def _admit(self, labels: tuple[str, ...], status: int) -> Series:
        """The series of an exchange that the fast path did not find: new, shared, or `other`."""
        assert len(labels) == len(_ROUTE), f"labels are {_ROUTE}"
        if status not in _CODES:
            status = _UNKNOWN
        series = self._series.get((labels, status))
        if series is not None:
            return series
        known = labels in self._routes
        cost = 1 if known else 1 + _PER_ROUTE
        if self._held + cost > self._limit:
            self.folded += 1
            return self._series.setdefault(((OTHER, OTHER, OTHER), status), Series())
        self._held += cost
        self._routes.add(labels)
        series = self._series[labels, status] = Series()
        return series

"""Meters: plain integers that the data path adds to and the exposition reads.

An exchange costs one dictionary lookup and five additions. What is kept is bounded (threats C13): label values come
from configuration or from our own enumerations, and past `limit` time series, counted as Prometheus counts them, every
new label value becomes `other`. Nothing here reads a clock or formats text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from enum import Enum
from http import HTTPStatus
from typing import Final

from flui.model.fault import DIALECTS

OTHER: Final = "other"
"""The label value of everything that came after the limit."""

BOUNDS: Final[tuple[float, ...]] = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the duration buckets, in seconds, each inclusive; what is longer falls in a last bucket without bound."""


class Kind(Enum):
    """What a family's numbers are."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Family:
    """One metric: its name, what it counts, the names of its labels. Compared by identity; all are listed in `FAMILIES`."""

    __slots__ = ("help", "kind", "labels", "name")

    def __init__(self, name: str, kind: Kind, labels: tuple[str, ...], about: str) -> None:
        self.name = name
        self.kind = kind
        self.labels = labels
        self.help = about


_ROUTE: Final = ("listener", "service", "route")

# Filled by `Meters.exchange`.
REQUESTS: Final = Family("flui_requests_total", Kind.COUNTER, (*_ROUTE, "code"), "Exchanges that ended, by status code.")
DURATION: Final = Family(
    "flui_request_duration_seconds", Kind.HISTOGRAM, _ROUTE, "Time from the request's head to the end of the exchange."
)
REQUEST_OCTETS: Final = Family("flui_request_octets_total", Kind.COUNTER, _ROUTE, "Octets of request bodies.")
RESPONSE_OCTETS: Final = Family("flui_response_octets_total", Kind.COUNTER, _ROUTE, "Octets of response bodies.")
FOLDED: Final = Family(
    "flui_exchanges_folded_total", Kind.COUNTER, (), "Exchanges and events counted under `other`: the limit of series was reached."
)

# Filled by `Meters.count`.
FAULTS: Final = Family(
    "flui_faults_total", Kind.COUNTER, ("listener", "fault"), "Exchanges that ended in a fault, malformed requests included."
)
CONNECTIONS_ACCEPTED: Final = Family("flui_connections_accepted_total", Kind.COUNTER, ("listener",), "Downstream connections accepted.")
HANDSHAKES_REFUSED: Final = Family(
    "flui_handshakes_refused_total", Kind.COUNTER, ("listener", "reason"), "TLS handshakes and identities refused, by reason."
)
UPSTREAM_CONNECTS: Final = Family(
    "flui_upstream_connects_total", Kind.COUNTER, ("cluster", "outcome"), "Connections tried to endpoints, by outcome."
)
RELOADS: Final = Family(
    "flui_reloads_total", Kind.COUNTER, ("what", "outcome"), "Reloads of policy, configuration and certificates, by outcome."
)

# Read when the page is asked for: `Meters.read`.
FLOW_LOOKUPS: Final = Family("flui_flow_lookups_total", Kind.COUNTER, ("result",), "Look-ups in the flow table, hit or miss.")
LOG_LINES_DROPPED: Final = Family(
    "flui_log_lines_dropped_total", Kind.COUNTER, ("log",), "Log lines lost: nobody read them, or the disk failed."
)
CONNECTIONS_OPEN: Final = Family("flui_connections_open", Kind.GAUGE, ("listener",), "Downstream connections open now.")
UPSTREAM_CONNECTIONS: Final = Family("flui_upstream_connections", Kind.GAUGE, ("cluster", "state"), "Upstream connections, idle or busy.")
FLOWS: Final = Family("flui_flows", Kind.GAUGE, (), "Entries of the flow table.")
CERTIFICATE_EXPIRY: Final = Family(
    "flui_certificate_expiry_timestamp_seconds", Kind.GAUGE, ("certificate",), "Unix time at which the certificate ends."
)
POLICY_INFO: Final = Family("flui_policy_info", Kind.GAUGE, ("version",), "1 for the policy that is in force.")
BUILD_INFO: Final = Family("flui_build_info", Kind.GAUGE, ("version", "python", "form"), "1; form is pure or compiled.")
UPTIME: Final = Family("flui_uptime_seconds", Kind.GAUGE, (), "Seconds since the sidecar started.")

FAMILIES: Final = (
    REQUESTS,
    DURATION,
    REQUEST_OCTETS,
    RESPONSE_OCTETS,
    FOLDED,
    FAULTS,
    CONNECTIONS_ACCEPTED,
    HANDSHAKES_REFUSED,
    UPSTREAM_CONNECTS,
    RELOADS,
    FLOW_LOOKUPS,
    LOG_LINES_DROPPED,
    CONNECTIONS_OPEN,
    UPSTREAM_CONNECTIONS,
    FLOWS,
    CERTIFICATE_EXPIRY,
    POLICY_INFO,
    BUILD_INFO,
    UPTIME,
)
"""Every family, in the order of the page."""

Samples = Iterable[tuple[tuple[str, ...], float]]
"""Label values, in the family's order, and the number."""

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

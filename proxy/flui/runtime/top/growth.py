"""What grew between two metrics pages, and quantiles of what grew.

A counter that fell, and a sidecar whose uptime fell, began anew: then everything it counts is new. Time between two pages
is the sidecar's own, by its uptime: the way to us does not blur a rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import inf

from flui.runtime.top.sample import Labels, Sample
from flui.telemetry import families as of


class Growth:
    """Two pages, and what grew from one to the other."""

    __slots__ = ("_before", "_now", "over_s", "since_start")

    def __init__(self, before: Sample | None, now: Sample) -> None:
        self._now = now.metrics
        self._before: Mapping[str, Mapping[Labels, float]] = {}
        up = self.gauge(of.UPTIME.name)
        self.over_s = up or 0.0
        self.since_start = True
        if before is None:
            return
        up_before = sum(before.metrics.get(of.UPTIME.name, {}).values())
        if up is not None and up < up_before:
            return
        self._before = before.metrics
        self.since_start = False
        self.over_s = up - up_before if up is not None and up > up_before > 0 else now.at - before.at

    def gauge(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of a metric that have these labels; None: there are none."""
        numbers = [number for each, number in self._now.get(name, {}).items() if labels.items() <= dict(each).items()]
        return sum(numbers) if numbers else None

    def totals(self, name: str, by: tuple[str, ...]) -> dict[tuple[str, ...], float]:
        """What a metric says now, added up by some of its labels."""
        return _sums(self._now.get(name, {}), by)

    def grown(self, name: str, by: tuple[str, ...]) -> dict[tuple[str, ...], float]:
        """How much a counter grew, added up by some of its labels."""
        before = self._before.get(name, {})
        grown: dict[Labels, float] = {}
        for labels, number in self._now.get(name, {}).items():
            earlier = before.get(labels, 0.0)
            grown[labels] = number - earlier if number >= earlier else number
        return _sums(grown, by)

    def rates(self, name: str, by: tuple[str, ...]) -> dict[tuple[str, ...], float]:
        """How fast a counter grows."""
        return {labels: self.rate(number) for labels, number in self.grown(name, by).items()}

    def rate(self, number: float) -> float:
        """So much in the time between the pages, per second."""
        return number / self.over_s if self.over_s > 0 else 0.0


def quantile(buckets: Iterable[tuple[float, float]], q: float) -> float | None:
    """A quantile of a histogram, evenly spread within its bucket, as Prometheus estimates it.

    Args:
        buckets: upper bound, and how many are at or below it; the last bound is infinite.
        q: 0 to 1.

    Returns:
        In the unit of the bounds; of the last bucket the highest finite bound. None: the histogram is empty.
    """
    ordered = sorted(buckets)
    if not ordered or ordered[-1][1] <= 0:
        return None
    rank = q * ordered[-1][1]
    for (low, below), (high, up_to) in pairwise(((0.0, 0.0), *ordered)):
        if up_to >= rank and up_to > below:
            return low if high == inf else low + (high - low) * max(rank - below, 0.0) / (up_to - below)
    return None


def _sums(samples: Mapping[Labels, float], by: tuple[str, ...]) -> dict[tuple[str, ...], float]:
    sums: dict[tuple[str, ...], float] = {}
    for labels, number in samples.items():
        named = dict(labels)
        key = tuple(named.get(name, "") for name in by)
        sums[key] = sums.get(key, 0.0) + number
    return sums

"""From runs to figures: medians, ratios within a round, and the lines that must hold.

A machine drifts by a quarter within an hour, so a contender is compared only with the reference's run of the same round; the median of
those ratios is the figure, and the lowest and highest say how far to trust it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

REFERENCE: Final = "envoy same work"
HAPROXY: Final = "haproxy"
PURE: Final = "flui"
COMPILED: Final = "flui compiled"
CONTENDERS: Final = (REFERENCE, HAPROXY, PURE, COMPILED)
"""In the order in which they take turns."""


@dataclass(frozen=True, slots=True)
class Run:
    """One contender in one round."""

    cpu_us: float
    """CPU of its whole process tree per unit (request or MiB); 0 where nothing was asked of it."""
    rate: float
    """Units per second."""
    p50_ms: float
    p99_ms: float
    rss_mib: float
    """At the end of the run."""
    busy: float
    """Share of its core that it used; well below 1 means that the load, not the proxy, was the limit."""
    errors: int


Results = Mapping[str, Sequence[Run]]
"""Runs of each contender of one case, one per round, in the order of the rounds."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Summarises at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(results: Results, contender: str, of: Callable[[Run], float]) -> Spread | None:
    """What `of` says of a contender relative to the reference, round by round; None when one of them did not run or the reference has 0."""
    own, base = results.get(contender, ()), results.get(REFERENCE, ())
    if not own or len(own) != len(base) or any(of(run) <= 0 for run in base):
        return None
    return spread([of(mine) / of(theirs) for mine, theirs in zip(own, base, strict=True)])


def cpu(run: Run) -> float:
    """CPU per unit."""
    return run.cpu_us


def tail(run: Run) -> float:
    """p99."""
    return run.p99_ms


def memory(run: Run) -> float:
    """Resident MiB."""
    return run.rss_mib


@dataclass(frozen=True, slots=True)
class Limit:
    """One promise: the figure of a contender in a case stays at or below a bound."""

    case: str
    contender: str
    figure: str
    at_most: float
    of: Callable[[Run], float]
    relative: bool = True
    """The figure is the ratio to the reference, or to `base`; else the value itself."""
    base: str = ""
    """The contender's own runs of this case stand in for the reference's."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A promise and how it ended."""

    limit: Limit
    measured: Spread | None
    """None: the contender, or the reference, did not run."""
    excused: bool = False
    """It was not asked to run (there is no compiled form here)."""
    errors: int = 0
    """Errors in the contender's runs: a proxy that refuses is fast, so one fails the line."""

    @property
    def holds(self) -> bool:
        """True when it was measured and kept, or was not asked."""
        if self.measured is None:
            return self.excused
        return not self.errors and self.measured.median <= self.limit.at_most


CPU: Final = "CPU ratio"
P99: Final = "p99 ratio"

LIMITS: Final = (
    Limit("plain", PURE, CPU, 0.70, cpu),
    Limit("plain", COMPILED, CPU, 0.60, cpu),
    Limit("mtls", PURE, CPU, 0.90, cpu),
    Limit("mtls", COMPILED, CPU, 0.70, cpu),
    *(
        Limit(case, contender, figure, at_most, of)
        for case, figure, at_most, of in (
            ("body", CPU, 1.15, cpu),
            ("plain", P99, 1.3, tail),
            ("mtls", P99, 1.3, tail),
            ("pair", P99, 1.3, tail),
        )
        for contender in (PURE, COMPILED)
    ),
    *(
        Limit(case, COMPILED, CPU, at_most, cpu)
        for case, at_most in (("pair", 0.75), ("h2", 0.8), ("h2mtls", 0.8), ("grpc", 0.8), ("bidi", 1.0))
    ),
    *(
        Limit(case, contender, "CPU to grpcmtls", 1.2, cpu, base="grpcmtls")
        for case in ("grpcweb", "connect")
        for contender in (PURE, COMPILED)
    ),
    *(Limit(case, COMPILED, CPU, 1.5, cpu) for case in ("transcode", "rest")),
    *(Limit("idle", contender, "RSS, MiB", 60.0, memory, relative=False) for contender in (PURE, COMPILED)),
)
"""The acceptance of `make bench`."""


def judge(measured: Mapping[str, Results], excused: frozenset[str]) -> list[Verdict]:
    """Says of each promise about a measured case whether it held.

    Args:
        measured: Results by name of the case; cases that are not in it were not asked for and are not judged.
        excused: Contenders that were not asked to run.
    """
    verdicts = []
    for limit in LIMITS:
        if limit.case not in measured or (limit.base and limit.base not in measured):
            continue
        results = measured[limit.case]
        runs = results.get(limit.contender, ())
        if limit.base:
            beside = {REFERENCE: measured[limit.base].get(limit.contender, ()), limit.contender: runs}
            figure = ratio(beside, limit.contender, limit.of)
        else:
            figure = ratio(results, limit.contender, limit.of) if limit.relative else None
        if not limit.relative and runs:
            figure = spread([limit.of(run) for run in runs])
        verdicts.append(Verdict(limit, figure, limit.contender in excused, sum(run.errors for run in runs)))
    return verdicts

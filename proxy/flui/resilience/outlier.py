"""Which endpoints of a cluster are taken out for what they answered, and how they come back.

    WELL ── failures in a row, failed share, slowness, health check ──▶ OUT ◀── still bad: out for longer ──┐
      ▲                                                                  └── time over, healthy ──▶ RETURNING
      └── what it answers has been good until its share has grown to 1 ───────────────────────────────┘

The data path counts in `Vitals`; `Judge.judge` reads and clears the counts once an interval. It owns no clock and no
picker: it says what share of its normal traffic each endpoint may get, and the caller takes that to where picks are made.

*Slow* is a mean latency of several times the median of the others' means. Latencies are spread widely where nothing is
wrong, and often only few are known, so three things guard the judgement: one latency counts for at most twice what is
slow, so that one request can never tip it; fewer samples need a larger multiple; and it must hold in two intervals in a
row, so that endpoints that all get slower, but not in the same instant, stay.

*Returning* starts with so few requests that an endpoint that is still broken stays below 1 % of the traffic, or 2 % with
a picker that favours whoever is idle. Each good answer lets the share double at most (were it still failing half of its
requests, each good answer would be an even bet), and `slow_start_s` bounds it from above.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, sqrt
from typing import Final

from flui.model.resilience import WHOLE_BP, Outlier
from flui.resilience.vitals import CAP, NEVER, Standing, Vitals

__all__ = ["CONSECUTIVE", "FAILURES", "SLOW", "UNCHECKED", "UNHEALTHY", "Judge", "Standing", "Vitals"]

CONSECUTIVE: Final = "consecutive"
FAILURES: Final = "failures"
SLOW: Final = "slow"
UNHEALTHY: Final = "unhealthy"
UNCHECKED: Final = "unchecked"

_TRAFFIC: Final = 0.009
"""Part of the cluster's traffic that a returning endpoint gets at first. The less loaded of two gives up to twice as much."""
_PROBES: Final = 5
"""Answers that tell enough about a returning endpoint: it gets no more in its first interval, and with as many good ones it
can take its place if that is needed."""
_SHARE_MOST: Final = 0.1
"""A first share, however many others there are."""
_SAMPLES: Final = 3
"""Latencies at the limit that make a returning endpoint slow; as each counts for two at most, it takes more than one."""
_SURE: Final = 4.0
"""Standard errors that a slow mean must lie above the others', if the logarithm of a latency has a deviation of 1."""
_INTERVALS: Final = 5
"""After every so many, what an endpoint with little traffic answered fades."""


class Judge:
    """Takes the endpoints of one cluster out and brings them back."""

    __slots__ = ("_bearable", "_failures_count", "_rate", "_rules", "_vitals", "panicking")

    def __init__(self, rules: Outlier | None) -> None:
        """Begins without endpoints.

        Args:
            rules: None: nobody is out for what it answers, only for what its health check says.
        """
        self._rules = rules
        self._vitals: list[Vitals] = []
        self._failures_count = rules is not None and (rules.consecutive > 0 or rules.share_bp > 0)
        self._bearable = 1.0
        """Failed part of its results from which on a returning endpoint is still broken."""
        self._rate = 0.0
        """Results in the last interval per whole share."""
        self.panicking = False
        """Fewer than half of the endpoints are in service (threats H4)."""

    def update(self, vitals: Sequence[Vitals]) -> list[Vitals]:
        """Takes up a new membership; its endpoints keep their standings, also those they had with a judge of other rules.

        Returns:
            Those who come back because too many would be out among the rest.
        """
        self._vitals = list(vitals)
        changed: list[Vitals] = []
        for v in self._vitals:
            v.strikes = self._strikes(v)
        waiting = [v for v in self._vitals if v.standing is not Standing.WELL and not v.ill]
        waiting.sort(key=_nearest)
        excess = self._held() - self._room()
        for v in waiting[: max(0, excess)]:
            self._reinstate(v, v.until)
            changed.append(v)
        self._count()
        return changed

    def judge(self, now: float) -> list[Vitals]:
        """Judges the interval that ends; to be called every `interval_s`.

        Returns:
            Those whose `out` or `share` changed.
        """
        vitals = self._vitals
        rules = self._rules
        for v in vitals:
            self._fold(v)
        if rules is None:
            return []
        self._survey(rules)
        self._compare(rules)
        changed: list[Vitals] = []
        bad: list[tuple[int, float, int, str]] = []
        for index, v in enumerate(vitals):
            if v.standing is Standing.WELL:
                self._examine(v, index, bad, rules)
                if v.times and now >= v.until:
                    v.times -= 1
                    v.until += rules.eject_max_s
            elif v.standing is Standing.RETURNING:
                why = self._relapse(v, v.window.ok, v.window.failed, rules)
                if why:
                    self._eject(v, why, now, rules)
                    changed.append(v)
                else:
                    if self._grow(v, now, rules):
                        changed.append(v)
                    if v.window.ok + v.window.failed >= rules.volume or v.window.intervals >= _INTERVALS:
                        v.window.fade()
            elif now >= v.until:
                if v.ill:
                    v.why = v.why if v.why == UNCHECKED else UNHEALTHY
                else:
                    self._bring_back(v, now)
                    changed.append(v)
            v.new = v.new and v.out
        bad.sort(reverse=True)
        for _, _, index, why in bad:
            spare = self._make_room(now)
            if spare is not None and spare not in changed:
                changed.append(spare)
            if self._held() < self._room():
                self._eject(vitals[index], why, now, rules)
                changed.append(vitals[index])
        for v in vitals:
            v.hanging = 0
            v.hung = 0.0
            v.strikes = self._strikes(v)
        self._count()
        return changed

    def struck(self, vitals: Vitals, now: float) -> bool:
        """Judges one endpoint at once, after a failure with a streak of at least its `strikes`.

        Returns:
            Whether it has just gone out: its `out` and `share` changed.
        """
        rules = self._rules
        if rules is None or vitals.out or vitals not in self._vitals:
            return False
        if vitals.standing is Standing.RETURNING:
            why = self._relapse(vitals, vitals.window.ok + vitals.ok, vitals.window.failed + vitals.failed, rules)
        else:
            why = CONSECUTIVE if 0 < rules.consecutive <= vitals.streak else ""
            if why and self._held() >= self._room():
                # There is no place for it now: asking at every further failure would make failing costly.
                vitals.strikes = vitals.streak + rules.consecutive
                why = ""
        if not why:
            return False
        self._eject(vitals, why, now, rules)
        self._count()
        return True

    def set_healthy(self, vitals: Vitals, healthy: bool, now: float) -> bool:
        """Takes up what the health check says. An unhealthy endpoint is out, however many are.

        One that is healthy again returns as from any time out; one that was never in service begins with its full share.

        Returns:
            Whether its `out` or `share` changed.
        """
        if healthy is not vitals.ill:
            if not healthy and vitals.why == UNCHECKED:
                vitals.why = UNHEALTHY
            return False
        vitals.ill = not healthy
        was_out = vitals.out
        if not healthy:
            if not was_out:
                vitals.until = now
                vitals.why = UNHEALTHY
                _take_out(vitals)
        elif now >= vitals.until or self._held() > self._room():
            self._bring_back(vitals, now)
        self._count()
        return vitals.out is not was_out

    def await_check(self, vitals: Vitals) -> None:
        """Holds back an endpoint that has just joined, until its health check says something (`set_healthy`)."""
        if not vitals.ill:
            self.set_healthy(vitals, False, vitals.until)
            vitals.why = UNCHECKED

    def _fold(self, v: Vitals) -> None:
        window = v.window
        window.fresh_ok = v.ok
        window.fresh_failed = v.failed
        window.fresh_seconds = v.seconds
        if not v.out:
            window.ok += v.ok
            window.failed += v.failed
            window.seconds += v.seconds
            window.intervals += 1
        v.ok = 0
        v.failed = 0
        v.seconds = 0.0

    def _survey(self, rules: Outlier) -> None:
        """What the endpoints in service do together."""
        shares = fresh = ok = failed = 0.0
        for v in self._vitals:
            if not v.out:
                shares += v.share
                fresh += v.window.fresh_ok + v.window.fresh_failed
            if v.standing is Standing.WELL:
                ok += v.window.ok
                failed += v.window.failed
        self._rate = fresh / shares if shares else 0.0
        usual = failed / (ok + failed) if ok + failed else 0.0
        # Where everybody fails now and then, so may who returns.
        self._bearable = min(1.0, usual + (rules.share_bp or WHOLE_BP) / 2 / WHOLE_BP)

    def _compare(self, rules: Outlier) -> None:
        """Sets who is slow, as of the windows."""
        if not rules.slowness:
            for v in self._vitals:
                v.limit = v.cap = inf
                v.slow = False
            return
        known: list[tuple[float, int]] = []
        total = 0.0
        for index, v in enumerate(self._vitals):
            if v.standing is Standing.WELL and v.window.ok + v.hanging > 0:
                known.append((_mean(v), index))
                total += v.window.ok + v.hanging
        known.sort()
        place_of = {index: place for place, (_, index) in enumerate(known)}
        for index, v in enumerate(self._vitals):
            v.slow = False
            place = place_of.get(index, len(known))
            samples = v.window.ok + v.hanging
            others = total - samples if place < len(known) else total
            typical = _median_without(known, place)
            v.limit = max(rules.slowness * typical, rules.slow_s) if others > 0 else inf
            if not v.limit:
                v.limit = inf
            v.cap = CAP * v.limit
            if v.out or v.limit == inf or samples <= 0:
                continue
            if v.standing is Standing.RETURNING:
                v.slow = samples * _mean(v) >= v.limit * max(samples, float(_SAMPLES))
            else:
                # Either is enough: what it answered before must not hide that it answers no longer.
                v.slow = _is_slow(v, v.window.fresh_ok, v.window.fresh_seconds, typical, others) or _is_slow(
                    v, v.window.ok, v.window.seconds, typical, others
                )

    def _examine(self, v: Vitals, index: int, bad: list[tuple[int, float, int, str]], rules: Outlier) -> None:
        """Adds a well endpoint to the bad ones if it is: rank, how bad, its index, why."""
        window = v.window
        results = window.ok + window.failed
        enough = results >= rules.volume
        if 0 < rules.consecutive <= v.streak:
            bad.append((3, float(v.streak), index, CONSECUTIVE))
        elif rules.share_bp and enough and window.failed and window.failed * WHOLE_BP >= rules.share_bp * results:
            bad.append((2, window.failed / results, index, FAILURES))
        elif v.slow and v.suspect:
            bad.append((1, _mean(v) / v.limit, index, SLOW))
        # Hardly below the limit is no acquittal.
        v.suspect = v.slow or (v.suspect and _mean(v) * 2 > v.limit)
        if enough:
            window.clear()
        elif window.intervals >= _INTERVALS:
            window.fade()

    def _relapse(self, v: Vitals, ok: float, failed: float, rules: Outlier) -> str:
        """Why a returning endpoint must go again; empty: it need not."""
        if self._failures_count and failed:
            if 0 < rules.consecutive <= v.streak:
                return CONSECUTIVE
            if failed >= self._bearable * (ok + failed):
                return FAILURES
        return SLOW if v.slow else ""

    def _grow(self, v: Vitals, now: float, rules: Outlier) -> bool:
        window = v.window
        results = window.ok + window.failed
        if not window.fresh_ok and not window.fresh_failed and not v.hanging:
            # With hardly any traffic evidence does not come: then time has to do.
            v.silent += 1
            if v.silent * rules.interval_s * 2 < rules.slow_start_s:
                return False
            v.silent = 0
            v.grows_from = v.grows_from if v.good else now
            v.good += 1
        else:
            v.silent = 0
            fine = not window.failed or window.failed * 2 < self._bearable * results
            if not fine or _mean(v) * 2 > v.limit:
                v.grows_from = min(now, v.grows_from + rules.interval_s)
                return False
            if not v.good:
                v.grows_from = now
            v.good += window.fresh_ok
        by_time = (now - v.grows_from) / rules.slow_start_s if rules.slow_start_s > 0 else 1.0
        share = min(1.0, by_time, v.start * 2.0 ** min(v.good, 30))
        if share <= v.share:
            return False
        v.share = share
        if share >= 1.0:
            self._reinstate(v, now + rules.eject_max_s)
        return True

    def _eject(self, v: Vitals, why: str, now: float, rules: Outlier) -> None:
        v.new = False
        v.times += 1
        v.until = now + min(rules.eject_s * v.times, rules.eject_max_s)
        v.why = why
        _take_out(v)

    def _bring_back(self, v: Vitals, now: float) -> None:
        """Lets an endpoint return; in full where there are not enough others who could spare it."""
        rules = self._rules
        well = sum(1 for other in self._vitals if other.standing is Standing.WELL)
        if rules is None or v.new or well * 2 < len(self._vitals):
            self._reinstate(v, now + (rules.eject_max_s if rules is not None else 0.0))
            v.since = now
            return
        others = sum(other.share for other in self._vitals)
        start = min(_SHARE_MOST, _TRAFFIC * others)
        if self._rate * start > _PROBES:
            start = _PROBES / self._rate
        v.standing = Standing.RETURNING
        v.out = False
        v.share = v.start = start
        v.since = v.grows_from = now
        v.good = 0
        v.silent = 0
        _forget(v)
        v.strikes = self._strikes(v)

    def _reinstate(self, v: Vitals, forgiven: float) -> None:
        v.standing = Standing.WELL
        v.out = False
        v.share = 1.0
        v.why = ""
        v.until = forgiven
        _forget(v)
        v.strikes = self._strikes(v)

    def _make_room(self, now: float) -> Vitals | None:
        """Ends the return of one that has proven itself, if its place is needed by one that is bad now."""
        rules = self._rules
        if rules is None or self._held() < self._room():
            return None
        best: Vitals | None = None
        for v in self._vitals:
            if v.standing is Standing.RETURNING and v.good >= _PROBES and (best is None or v.share > best.share):
                best = v
        if best is not None:
            self._reinstate(best, now + rules.eject_max_s)
        return best

    def _held(self) -> int:
        """Those out or returning. Who returns keeps its place: else all could be held back while all fail."""
        return sum(1 for v in self._vitals if v.standing is not Standing.WELL)

    def _room(self) -> int:
        """How many may be held back."""
        count = len(self._vitals)
        if self._rules is None or count < 2:
            return 0
        return max(1, count * self._rules.most_bp // WHOLE_BP)

    def _strikes(self, v: Vitals) -> int:
        if self._rules is None or not self._failures_count:
            return NEVER
        if v.standing is Standing.RETURNING:
            return 1
        return self._rules.consecutive or NEVER

    def _count(self) -> None:
        self.panicking = sum(1 for v in self._vitals if not v.out) * 2 < len(self._vitals)


def _take_out(v: Vitals) -> None:
    v.standing = Standing.OUT
    v.out = True
    v.share = 0.0
    _forget(v)


def _forget(v: Vitals) -> None:
    """Results from before a change of standing say nothing about after it."""
    v.ok = v.failed = v.streak = v.hanging = 0
    v.seconds = v.hung = 0.0
    v.suspect = v.slow = False
    v.window.clear()


def _nearest(v: Vitals) -> tuple[bool, float, float]:
    """Orders those held back by how near they are to being well."""
    return v.out, -v.share, v.until


def _mean(v: Vitals) -> float:
    """Mean latency, as far as it is known; 0 without samples."""
    samples = v.window.ok + v.hanging
    return (v.window.seconds + v.hung) / samples if samples > 0 else 0.0


def _is_slow(v: Vitals, ok: float, seconds: float, typical: float, others: float) -> bool:
    """Whether these answers, and what is unanswered, are slow beyond chance: there are `others` samples of the others."""
    samples = ok + v.hanging
    if samples <= 0:
        return False
    mean = (seconds + v.hung) / samples
    return mean >= v.limit and mean >= typical * exp(_SURE * sqrt(1 / samples + 1 / others))


def _median_without(ordered: Sequence[tuple[float, int]], place: int) -> float:
    """Median of the ordered means but the one at `place` (none is left out when it lies behind the end); 0 without any."""
    count = len(ordered) - (place < len(ordered))
    if not count:
        return 0.0
    low, high = (count - 1) // 2, count // 2
    return (ordered[low + (low >= place)][0] + ordered[high + (high >= place)][0]) / 2

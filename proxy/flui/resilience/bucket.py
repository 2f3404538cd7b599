"""Token buckets: who may ask how often, exact within the burst over any window.

A bucket is kept as the time at which it is full again (the generic cell rate algorithm): one number, nothing to refill.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import Final

from flui.model.resilience import Rate, RateBy

_SLACK_S: Final = 1e-6
"""A token that is due within a microsecond is there: who waits as long as told is served, whatever floats round."""

_LOOKS: Final = 64
"""Buckets looked at for one newcomer at most, so that none waits long; the next newcomer looks further."""


class Bucket:
    """One token bucket: `burst` tokens at first, `per_s` new ones a second, never more than `burst`."""

    __slots__ = ("_ahead_s", "full_at", "gap_s")

    def __init__(self, rate: Rate) -> None:
        assert rate.per_s > 0.0, "a bucket without new tokens is empty for ever"
        assert rate.burst >= 1, "a bucket that holds no token lets nothing through"
        self.gap_s = 1.0 / rate.per_s
        """Seconds that a token costs."""
        self._ahead_s = (rate.burst - 1) * self.gap_s
        self.full_at = -inf
        """When all tokens are there again."""

    def take(self, now: float) -> float:
        """Takes a token.

        Args:
            now: Monotonic seconds; never less than before.

        Returns:
            0.0 when it was taken; else nothing was taken, and a token is there after so many seconds.
        """
        full_at = self.full_at
        if full_at < now:  # noqa: PLR1730 - max() is a call, five times as slow
            full_at = now
        wait_s = full_at - now - self._ahead_s
        if wait_s > _SLACK_S:
            return wait_s
        self.full_at = full_at + self.gap_s
        return 0.0

    def wait(self, now: float) -> float:
        """What `take` would return; nothing is taken."""
        wait_s = self.full_at - now - self._ahead_s
        return wait_s if wait_s > _SLACK_S else 0.0

    def retune(self, rate: Rate, now: float) -> None:
        """Takes up another rate; what is spent stays spent, up to the new burst."""
        missing = (self.full_at - now) / self.gap_s
        self.gap_s = 1.0 / rate.per_s
        self._ahead_s = (rate.burst - 1) * self.gap_s
        if missing > 0.0:
            self.full_at = now + min(missing, float(rate.burst)) * self.gap_s

    def tokens(self, now: float) -> float:
        """Tokens that are there."""
        missing = self.full_at - now
        held = self._ahead_s / self.gap_s + 1.0
        return held - missing / self.gap_s if missing > 0.0 else held


class Buckets:
    """A bucket for each principal, and never more than `limit` of them.

    A full bucket is as good as a new one, so full ones are forgotten for newcomers. While none is full, newcomers share one
    bucket: neither memory nor the rate can be had by coming under many names.
    """

    __slots__ = ("_by_key", "_due", "_limit", "_rate", "overflow")

    def __init__(self, rate: Rate, limit: int = 10_000) -> None:
        self._rate = rate
        self._limit = limit
        self._by_key: dict[str, Bucket] = {}
        # Each key once, with a time before which its bucket is surely not full.
        self._due: list[tuple[float, str]] = []
        self.overflow = Bucket(rate)
        """Shared by newcomers while there is no room."""

    def __len__(self) -> int:
        return len(self._by_key)

    def take(self, key: str, now: float) -> float:
        """Takes a token of a principal; see `Bucket.take`.

        Args:
            key: The principal.
            now: Monotonic seconds; never less than before.
        """
        bucket = self._by_key.get(key)
        if bucket is not None:
            if bucket.full_at < now:  # what `take` would find, too: the usual case without a call
                bucket.full_at = now + bucket.gap_s
                return 0.0
            return bucket.take(now)
        if len(self._by_key) >= self._limit and not self._forget(now):
            return self.overflow.take(now)
        bucket = self._by_key[key] = Bucket(self._rate)
        wait_s = bucket.take(now)
        heappush(self._due, (bucket.full_at, key))
        return wait_s

    def wait(self, key: str, now: float) -> float:
        """What `take` would return; nothing is taken."""
        bucket = self._by_key.get(key)
        if bucket is not None:
            return bucket.wait(now)
        if len(self._by_key) >= self._limit and not self._forget(now):
            return self.overflow.wait(now)
        return 0.0

    def retune(self, rate: Rate, now: float) -> None:
        """Takes up another rate for all; see `Bucket.retune`."""
        self._rate = rate
        self.overflow.retune(rate, now)
        for bucket in self._by_key.values():
            bucket.retune(rate, now)
        self._due = [(bucket.full_at, key) for key, bucket in self._by_key.items()]
        heapify(self._due)

    def _forget(self, now: float) -> bool:
        """Forgets a full bucket if there is one."""
        due = self._due
        for _ in range(_LOOKS):
            if not due or due[0][0] > now:
                return False
            key = due[0][1]
            full_at = self._by_key[key].full_at
            if full_at <= now:
                heappop(due)
                del self._by_key[key]
                return True
            heapreplace(due, (full_at, key))
        return False


class Rates:
    """Rates that must all hold. A request takes a token of each, or of none: what one of them refuses costs nobody anything."""

    __slots__ = ("_held",)

    def __init__(self, rules: Sequence[Rate]) -> None:
        self._held = [(rule, Buckets(rule)) for rule in rules]

    def __len__(self) -> int:
        return len(self._held)

    def take(self, principal: str, now: float) -> float:
        """Takes a token of each bucket that counts for a principal.

        Args:
            principal: Who asks.
            now: Monotonic seconds; never less than before.

        Returns:
            0.0 when they were taken; else nothing was taken, and all are there after so many seconds.
        """
        held = self._held
        if len(held) == 1:
            rule, buckets = held[0]
            return buckets.take(principal if rule.by is RateBy.PRINCIPAL else "", now)
        if len(held) > 1:
            longest_s = 0.0
            for rule, buckets in held:
                wait_s = buckets.wait(_key(rule, principal), now)
                if wait_s > longest_s:  # noqa: PLR1730 - max() is a call, five times as slow
                    longest_s = wait_s
            if longest_s > 0.0:
                return longest_s
        for rule, buckets in held:
            wait_s = buckets.take(_key(rule, principal), now)
            if wait_s > 0.0:
                return wait_s
        return 0.0

    def retune(self, rules: Sequence[Rate], now: float) -> None:
        """Takes up other rules. One that stays keeps its buckets; one that changes goes on with what was spent before."""
        left = list(self._held)
        found: list[Buckets | None] = []
        for rule in rules:
            same = next((pair for pair in left if pair[0] == rule), None)
            if same is not None:
                left.remove(same)
            found.append(same[1] if same is not None else None)
        held: list[tuple[Rate, Buckets]] = []
        for rule, buckets in zip(rules, found, strict=True):
            if buckets is None:
                alike = next((pair for pair in left if pair[0].by is rule.by), None)
                if alike is not None:
                    left.remove(alike)
                    buckets = alike[1]  # noqa: PLW2901 - what was found for it
                    buckets.retune(rule, now)
            held.append((rule, buckets or Buckets(rule)))
        self._held = held


def _key(rule: Rate, principal: str) -> str:
    return principal if rule.by is RateBy.PRINCIPAL else ""

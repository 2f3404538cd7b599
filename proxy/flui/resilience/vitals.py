"""What is known of one endpoint: the counts that the data path writes, and what `outlier.Judge` keeps beside them.

A count is one attribute store on the path of every request, so there is nothing here but numbers.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final

NEVER: Final = 1 << 60
"""A streak that is never reached."""

CAP: Final = 2.0
"""One latency counts as at most so many times what is slow."""


class Standing(Enum):
    """Where an endpoint is in its cycle."""

    WELL = "well"
    RETURNING = "returning"
    OUT = "out"


class Window:
    """What one endpoint answered until it was enough to be judged by."""

    __slots__ = ("failed", "fresh_failed", "fresh_ok", "fresh_seconds", "intervals", "ok", "seconds")

    def __init__(self) -> None:
        self.ok = 0.0
        self.failed = 0.0
        self.seconds = 0.0
        """Of the ok ones together, each bounded by `Vitals.cap`."""
        self.fresh_ok = 0
        self.fresh_failed = 0
        self.fresh_seconds = 0.0
        """Of the last interval."""
        self.intervals = 0

    def clear(self) -> None:
        """Forgets everything but the last interval's counts."""
        self.ok = self.failed = self.seconds = 0.0
        self.intervals = 0

    def fade(self) -> None:
        """Lets all results count for half."""
        self.ok /= 2
        self.failed /= 2
        self.seconds /= 2
        self.intervals = 0


class Vitals:
    """How one endpoint does. Outlives memberships; belongs to one `Judge`.

    The data path calls `succeeded` or `failed_now` at the end of every try; everything else is written by the judge.
    """

    __slots__ = (
        "cap",
        "failed",
        "good",
        "grows_from",
        "hanging",
        "hung",
        "ill",
        "limit",
        "new",
        "ok",
        "out",
        "seconds",
        "share",
        "silent",
        "since",
        "slow",
        "standing",
        "start",
        "streak",
        "strikes",
        "suspect",
        "times",
        "until",
        "why",
        "window",
    )

    def __init__(self) -> None:
        # Written by the data path, cleared by the judge.
        self.ok = 0
        self.failed = 0
        self.streak = 0
        """Failures in a row; lives on from interval to interval."""
        self.seconds = 0.0
        """Latencies of the ok ones of this interval together, each counted as `cap` at most."""
        self.hanging = 0
        self.hung = 0.0
        """Tries without an answer that are slow already, and their ages together."""
        # Read by the data path and by who picks.
        self.strikes = NEVER
        """Streak from which on `Judge.struck` is to be asked, at every failure."""
        self.cap = inf
        self.out = False
        """It gets no requests, unless the cluster panics and all are used."""
        self.share = 1.0
        """Part of its normal traffic that it may get: 0 while out, small and growing while it returns."""
        # The judge's own.
        self.standing = Standing.WELL
        self.why = ""
        """Why it is out, or is only returning: `consecutive`, `failures`, `slow`, `unhealthy`, `unchecked`; empty when well."""
        self.times = 0
        """Times out in a row; one is forgiven for every `eject_max_s` that it is well."""
        self.since = -inf
        """When it last came back; tries from before say nothing of it now."""
        self.until = 0.0
        """Out: when it may return. Well: when the next time out is forgiven."""
        self.ill = False
        """Its health check says so."""
        self.new = True
        """It was neither in service at the end of an interval nor ever taken out for what it answered."""
        self.window = Window()
        self.limit = inf
        """Mean latency from which on it is slow; infinite when there is nobody to compare it with."""
        self.slow = False
        self.suspect = False
        """It was slow, and has not been clearly below the limit since."""
        self.start = 0.0
        """Its first share when it came back."""
        self.good = 0
        """Good answers since it came back."""
        self.grows_from = 0.0
        """When the first of them was seen."""
        self.silent = 0
        """Intervals without any answer, in a row, while returning."""

    def succeeded(self, seconds: float) -> None:
        """Counts an answer.

        Args:
            seconds: From sending the request to the head of the answer.
        """
        self.ok += 1
        self.streak = 0
        self.seconds += seconds if seconds < self.cap else self.cap

    def failed_now(self) -> int:
        """Counts a failed try: no connection, a reset, a timeout, an answer that counts as one.

        Returns:
            Failures in a row. From `strikes` on, ask `Judge.struck`.
        """
        self.failed += 1
        self.streak += 1
        return self.streak

    def unanswered(self, began: float, now: float) -> None:
        """Tells of a try without an answer so far, so that who hardly ever answers is found slow as well.

        To be called right before `Judge.judge` for each try in flight, and when a try is given up because another one
        won or the caller left. Optional: without it, slowness is seen at the pace of the answers.

        Args:
            began: When the request was sent, monotonic seconds.
            now: The present.
        """
        age = now - began
        # A younger one is not known to be slow, and dropping it is no bias: it will count when it is answered.
        if age * CAP >= self.cap and began >= self.since:
            self.hanging += 1
            self.hung += age if age < self.cap else self.cap

    def __repr__(self) -> str:
        return f"Vitals({self.standing.value}, share={self.share:.4f}, why={self.why!r}, times={self.times})"

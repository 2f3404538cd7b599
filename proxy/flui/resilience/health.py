"""The active health check of one endpoint: when it is asked, and what its answers in a row mean.

    UNKNOWN ── first result ──▶ WELL ── `unhealthy` failures in a row ──▶ ILL
                        └─────▶ ILL ◀──                                    │
                                  └──── `healthy` successes in a row ──▶ WELL

The first result counts at once, whatever the thresholds say, as it does in Envoy. Also as there, an endpoint that joins a
cluster gets no requests before it: who adds one with a health check calls `Judge.await_check(vitals)` first.
When nothing is known about anybody, as at the start, the cluster panics, and the route says whether all are used or none.

Sending the request and reading the answer is not done here.
"""

from __future__ import annotations

from random import Random
from typing import Final

from flui.codecs.http1.lines import Malformed, parse_status_line
from flui.model.resilience import HealthCheck

_JITTER: Final = 0.1
"""Pauses differ by so much in both directions, so that sidecars that start together do not ask together."""
_FIRST: Final = 0.1
"""The first check comes within this part of an interval."""


class Check:
    """What is known about one endpoint's health."""

    __slots__ = ("_asked", "_rules", "_streak", "changed_at", "well")

    def __init__(self, rules: HealthCheck, well: bool | None = None) -> None:
        """Nothing has been asked yet.

        Args:
            rules: How often, and how many results it takes.
            well: What is known from checks under other rules; None: nothing.
        """
        self._rules = rules
        self._asked = False
        self._streak = 0
        """Results in a row that disagree with `well`."""
        self.well = well
        """None: not known yet."""
        self.changed_at = 0.0
        """When it last became known or other, monotonic seconds."""

    def result(self, well: bool, now: float) -> bool | None:
        """Takes up the result of one check.

        Args:
            well: It was answered in time, and the answer meant well.
            now: Monotonic seconds.

        Returns:
            The new standing, or None when it did not change.
        """
        if well is self.well:
            self._streak = 0
            return None
        self._streak += 1
        if self.well is not None and self._streak < (self._rules.healthy if well else self._rules.unhealthy):
            return None
        self._streak = 0
        self.well = well
        self.changed_at = now
        return well

    def next_at(self, now: float, random: Random) -> float:
        """When the next check is to begin; the first one soon.

        Args:
            now: When the last check began, so that slow answers do not stretch the interval; at first, the present.
            random: Source of chance, injected so that tests can repeat it.
        """
        interval = self._rules.interval_s
        if not self._asked:
            self._asked = True
            return now + interval * _FIRST * random.random()
        return now + interval * (1.0 - _JITTER + 2.0 * _JITTER * random.random())


def means_well(status: int, rules: HealthCheck) -> bool:
    """Whether a final status means well."""
    first, last = rules.statuses
    return first <= status <= last


def says_well(status_line: bytes, rules: HealthCheck) -> bool:
    """Whether a status line (RFC 9112 4, without its line end) means well; one that cannot be read does not."""
    try:
        _, status = parse_status_line(status_line)
    except Malformed:
        return False
    return means_well(status, rules)

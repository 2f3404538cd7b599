"""The sidecar's own overload, felt as the time that work waits for the event loop.

A long wait once is a pause: somebody else had the processor, or one piece of work was big. Overload is a wait that stands:
the shortest of the last moments, two measurements at least, is still too long (CoDel's idea, RFC 8289). It is over when the
longest of them is short again.
"""

from __future__ import annotations

from math import inf
from typing import Final

from flui.model.resilience import Overload

_PART_S: Final = 0.2
"""Two parts make the time that is looked back on: the one that runs, and the one before it."""


class Pressure:
    """What is shed now, told by whoever measures the lag, best every 0.05 to 0.1 s."""

    __slots__ = ("_before_most", "_before_s", "_high_s", "_least_s", "_most_s", "_since", "lag_s", "level")

    def __init__(self, rules: Overload) -> None:
        self._high_s = rules.lag_s
        self.level = 0
        """0: nothing is shed; 1: low priority; 2: also normal. High never."""
        self.lag_s = 0.0
        """The lag that stands: the shortest of the last moments."""
        self._since = -inf
        self._least_s = 0.0
        self._most_s = 0.0
        self._before_s = 0.0
        self._before_most = 0.0

    def felt(self, lag_s: float, now: float) -> int:
        """A lag was measured: how much later than asked for a timer ran.

        Args:
            lag_s: Seconds, from 0.0.
            now: Monotonic seconds.

        Returns:
            The new `level`.
        """
        if now - self._since >= _PART_S:
            self._since = now
            self._before_s = self._least_s
            self._before_most = self._most_s
            self._least_s = self._most_s = lag_s
        elif lag_s < self._least_s:
            self._least_s = lag_s
        elif lag_s > self._most_s:
            self._most_s = lag_s
        stands = self._least_s if self._least_s < self._before_s else self._before_s
        self.lag_s = stands
        high = self._high_s
        if high <= 0.0:
            return 0
        if stands > high:
            self.level = max(self.level, 2 if stands > 2.0 * high else 1)
        elif self.level:
            most = self._most_s if self._most_s > self._before_most else self._before_most
            # Half of what raised the level: else shedding would go on and off around it.
            if most < 0.5 * high:
                self.level = 0
            elif self.level == 2 and most < high:
                self.level = 1
        return self.level

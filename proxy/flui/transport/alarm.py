"""A lazy alarm: one timer per connection, however many deadlines come and go on it.

It is told when to ring *at the latest*. Only when it rings does its owner look what is due, and says when to ring
next. A deadline that is later than the one it stands at costs a comparison, so a busy connection touches the loop's timers
a few times a minute, not twice per request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_NEVER = float("inf")


class Alarm:
    """Rings no later than asked for."""

    __slots__ = ("_callback", "_handle", "_loop", "rings_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[float], None]) -> None:
        """A silent alarm.

        Args:
            loop: Whose timers carry it.
            callback: Called with monotonic seconds; the alarm is silent again then.
        """
        self._loop = loop
        self._callback: Callable[[float], None] | None = callback
        self._handle: asyncio.TimerHandle | None = None
        self.rings_at = _NEVER
        """Monotonic seconds; whoever has a later deadline need not say so."""

    def by(self, at: float, now: float) -> None:
        """Rings at `at` at the latest."""
        if at < self.rings_at and self._callback is not None:
            if self._handle is not None:
                self._handle.cancel()
            self.rings_at = at
            self._handle = self._loop.call_later(max(0.0, at - now), self._ring, at)

    def _ring(self, due: float) -> None:
        self._handle = None
        self.rings_at = _NEVER
        if self._callback is not None:
            self._callback(due)

    def stop(self) -> None:
        """Silences it for good. It lets go of its owner, so that both can be freed at once, and not by a collection some day."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._callback = None
        self.rings_at = _NEVER

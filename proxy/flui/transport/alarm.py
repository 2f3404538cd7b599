"""A lazy alarm: one timer per connection, however many deadlines come and go on it.

Setting it later than it stands costs an attribute. Only when it rings does it look whether it was moved meanwhile, and
goes back to sleep. So a busy connection touches the loop's timers a few times a minute, not twice per request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_NEVER = float("inf")


class Alarm:
    """Calls back at `at`, or a little later; never earlier."""

    __slots__ = ("_callback", "_handle", "_loop", "_rings_at", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[float], None]) -> None:
        """A silent alarm.

        Args:
            loop: Whose timers carry it.
            callback: Called with monotonic seconds when `at` has come; it sets the alarm again if it wants to.
        """
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._rings_at = _NEVER
        self.at = _NEVER
        """Monotonic seconds; read it, and change it with `set` only."""

    def set(self, at: float, now: float) -> None:
        """Moves the alarm to `at`."""
        self.at = at
        if at < self._rings_at:
            if self._handle is not None:
                self._handle.cancel()
            self._rings_at = at
            self._handle = self._loop.call_later(max(0.0, at - now), self._ring, at)

    def _ring(self, due: float) -> None:
        self._handle = None
        self._rings_at = _NEVER
        if self.at > due:
            if self.at != _NEVER:
                self.set(self.at, due)
            return
        self.at = _NEVER
        self._callback(due)

    def stop(self) -> None:
        """Silences it for good."""
        self.at = _NEVER
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._rings_at = _NEVER

"""Work that may block is done by a thread beside the event loop, which waits a moment for it and no longer.

A file system whose server is gone holds whoever asks it, and the kernel's table of sockets takes milliseconds to read. What
is not there in time is taken the next time it is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

WAIT_S: Final = 0.001
"""How long the asker is held at most."""
SPARE: Final = 100
"""Work that took a second rests for so many: a machine with thousands of processes is not searched all the time."""
STUCK_S: Final = 5.0
"""Work that takes longer has no result: an old number would hide that the file system does not answer."""


class Beside(Generic[T]):
    """The latest result of some work. For one thread, that of the event loop.

    Args:
        work: what is done; OSError and ValueError mean that there is no result.
        every_s: how old a result may be before the work is done again, if it is asked for.
        clock: monotonic seconds.
    """

    __slots__ = ("_began", "_clock", "_due", "_every_s", "_fresh", "_latest", "_took", "_work", "thread")

    def __init__(self, work: Callable[[], T], every_s: float, clock: Callable[[], float]) -> None:
        self._work = work
        self._every_s = every_s
        self._clock = clock
        self._due = clock()
        self._began = 0.0
        self._took = 0.0
        self._fresh: T | None = None
        self._latest: T | None = None
        self.thread: threading.Thread | None = None
        """At work now, or ended and not yet looked at."""

    def latest(self, *, anew: bool = False, wait_s: float = WAIT_S) -> T | None:
        """What the work gave last, done again if that is old; None when it never ended, or does not end now.

        Args:
            anew: whatever its age.
            wait_s: for work that is under way.
        """
        if self.thread is None and (anew or self._clock() >= self._due):
            self._start()
        if self.thread is not None:
            self.thread.join(wait_s)
            if self.thread.is_alive():
                return self._latest if self._clock() - self._began < STUCK_S else None
            self.thread = None
            self._latest = self._fresh
            self._due = self._began + max(self._every_s, SPARE * self._took)
        return self._latest

    def _start(self) -> None:
        self._began = self._clock()
        thread = threading.Thread(target=self._run, name="flui-beside", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread is to be had: the limit of processes is reached
            return
        self.thread = thread

    def _run(self) -> None:
        try:
            self._fresh = self._work()
        except (OSError, ValueError):
            self._fresh = None
        self._took = self._clock() - self._began

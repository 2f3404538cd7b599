"""Looks at several sidecars, again and again.

Each is asked from a thread of its own, as asking blocks: one that hangs holds up no other, neither the keyboard nor the end.

    tick --ask all that are idle--> answers … --all there, or out of patience--> told
                                        whoever has not answered then is lost, and not waited for again until it answers
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from flui.runtime.adminclient import NoAnswerError
from flui.runtime.top.rates import view
from flui.runtime.top.sample import Sample, Who, identify, look
from flui.runtime.top.view import Lost, View

_LONG_S: Final = 5.0
"""What CPU is averaged over: a sidecar reads it anew only once in a while."""

PATIENCE_S: Final = 2.0
"""How long a round waits for those that it asked, if that is longer than the interval."""

Told = Callable[[tuple[View | Lost, ...]], None]


class Watch:
    """Rounds of looks at sidecars. For one event loop, until `stop`.

    Args:
        addresses: admin addresses, which `adminclient.connect` takes.
        interval_s: from one round to the next.
        told: gets one view of each sidecar, in the order of `addresses`, once a round. The first round's are since the start of each.
    """

    def __init__(self, addresses: Sequence[str], interval_s: float, told: Told) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval_s = interval_s
        self._told = told
        self._lookers = [_Looker(address, self._answered) for address in addresses]
        self._asked: set[_Looker] = set()
        """Those that have not answered yet."""
        self._waited_for: set[_Looker] = set()
        """Of these, the ones that this round asked."""
        self._began_at: float | None = None
        """When this round began; None: it has ended."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins with a round at once."""
        for looker in self._lookers:
            looker.start()
        self._tick(self._loop.time())

    def stop(self) -> None:
        """No further round. A thread that still waits for a sidecar is left to itself: it holds up nobody."""
        if self._timer is not None:
            self._timer.cancel()
        self._began_at = None
        for looker in self._lookers:
            looker.stop()

    def _tick(self, due: float) -> None:
        now = self._loop.time()
        if self._began_at is not None and now - self._began_at >= PATIENCE_S:
            self._end_round()
        if self._began_at is None:
            self._begin_round(now)
        later = max(due + self._interval_s, now)
        self._timer = self._loop.call_at(later, self._tick, later)

    def _begin_round(self, now: float) -> None:
        self._began_at = now
        self._waited_for = {looker for looker in self._lookers if looker not in self._asked}
        self._asked |= self._waited_for
        for looker in self._waited_for:
            looker.ask()
        if not self._waited_for:
            self._end_round()

    def _end_round(self) -> None:
        """Whoever has not answered is lost, for now."""
        self._began_at = None
        self._told(tuple(looker.view(late=looker in self._asked) for looker in self._lookers))

    def _answered(self, looker: _Looker, answer: Sample | NoAnswerError) -> None:
        """From a looker's thread."""
        try:
            self._loop.call_soon_threadsafe(self._take, looker, answer)
        except RuntimeError:  # the loop has ended, and nobody wants to know any more
            return

    def _take(self, looker: _Looker, answer: Sample | NoAnswerError) -> None:
        self._asked.discard(looker)
        self._waited_for.discard(looker)
        looker.take(answer)
        if self._began_at is not None and not self._waited_for:
            self._end_round()


class _Looker:
    """Asks one sidecar whenever it is told to."""

    def __init__(self, address: str, answered: Callable[[_Looker, Sample | NoAnswerError], None]) -> None:
        self._thread = threading.Thread(target=self._run, name=f"look at {address}", daemon=True)
        self.address = address
        self._answered = answered
        self._asked: queue.SimpleQueue[Who | _Stop | None] = queue.SimpleQueue()
        self._who: Who | None = None
        self._last: Sample | None = None
        self._earlier: deque[Sample] = deque()
        self._shown: View | Lost = Lost(self._called(), "has not answered yet")

    def _run(self) -> None:
        while not isinstance(who := self._asked.get(), _Stop):
            try:
                answer: Sample | NoAnswerError = look(self.address, who, time.monotonic)
            except NoAnswerError as error:
                answer = error
            self._answered(self, answer)

    def start(self) -> None:
        """Its thread."""
        self._thread.start()

    def ask(self) -> None:
        """Another look."""
        self._asked.put(self._who)

    def stop(self) -> None:
        """No further look."""
        self._asked.put(_Stop())

    def take(self, answer: Sample | NoAnswerError) -> None:
        """What the look has shown."""
        if isinstance(answer, NoAnswerError):
            self._shown = Lost(self._called(), str(answer))
            self._who = None  # whoever answers there next may be someone else
            return
        self._earlier.append(answer)
        while answer.at - self._earlier[0].at > _LONG_S:
            self._earlier.popleft()
        self._shown = view(self._last, answer, self._earlier[0] if len(self._earlier) > 1 else None)
        self._last, self._who = answer, answer.who

    def view(self, *, late: bool) -> View | Lost:
        """What is known now.

        Args:
            late: it has been asked and has not answered.
        """
        return Lost(self._called(), f"has not answered in time: {self.address}") if late else self._shown

    def _called(self) -> str:
        return self._last.who.name if self._last is not None else identify(self.address, {}).name


class _Stop:
    """What ends a looker's thread."""

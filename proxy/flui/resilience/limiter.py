"""Adaptive concurrency: how many requests a cluster can have in flight before they only wait for one another.

Below its capacity a service answers as fast with many requests in flight as with few; above it each further one only adds
waiting (Little's law: in flight = rate x latency). So the limit is `tolerance` x rate x *latency without load*, and all the
art is in knowing that latency while there is load. It is the mean over a window of answers in which nothing waited:

    idle    a window with a small part of the limit in flight
    faster  a loaded window far below what is believed: the service became faster
    probe   now and then under load the limit goes to 3/4 of rate x latency; once the queue is gone, that is measured

    FIRST ──▶ OPEN ──(a queue, and not probed for long; or slow for two windows)──▶ DRAIN ──(queue is gone)──▶ PROBE ──▶ OPEN
                                                                                    ▲──(far lower: half again)──┘

A mean and not a minimum, as the minimum of exponential service times is nothing at all; what tells a mean from noise is its
standard error. Single hung requests are cut at ten times the latency without load.

The family is that of TCP Vegas and BBR, Netflix's concurrency-limits and Envoy's adaptive concurrency. Unlike Envoy's, a
probe keeps the service three quarters busy.
"""

from __future__ import annotations

from math import ceil, inf, sqrt
from typing import Final

from flui.model.resilience import NORMAL, Concurrency

_OPEN: Final = 0
_DRAIN: Final = 1
_PROBE: Final = 2
_COLD: Final = 3
"""No answer yet."""
_WARM: Final = 4
"""The first answers are the short ones; they are left out."""
_FIRST: Final = 5
"""Measures the first latency that is believed."""

_FIRST_S: Final = 0.5
"""Length of the two windows at the start."""
_WINDOW_S: Final = 0.1
"""Shortest window; a slow service's lasts two of its latencies."""
_NOISY_S: Final = 1.0
"""Until then a window whose mean is not sure goes on."""
_ANSWERS: Final = 40
"""In a window at least, so that its standard error means something."""
_MORE: Final = 20
"""Answers that a window goes on for."""
_SURE: Final = 0.1
"""Standard error of a mean that is sure, as a part of it."""
_CUT: Final = 10.0
"""A latency counts as at most so many times that without load."""

_LEAST_S: Final = 1e-4
"""Shortest latency without load that is believed; below it the clock says more than the service."""

_BUSY: Final = 0.75
"""What a probe keeps of what the service can do."""
_HALF: Final = 0.5
"""The same while probes find ever lower latencies."""
_QUARTER: Final = 0.25
"""The same for the first."""
_LOWER: Final = 0.85
"""A latency below that part of what was believed says that there was a queue all the time."""
_HIGHER: Final = 1.25
"""A latency above so many times what was believed says that the service became slower."""
_PROBE_ANSWERS: Final = 10
"""With fewer when its time is up a probe has found nothing."""
_PROBE_S: Final = 2.0
"""Longest probe, and ten latencies more."""
_REST_S: Final = 5.0
"""From a probe to the next one without a reason; at least eight times as long as the probe took."""
_SURPRISE_S: Final = 1.0
"""From a probe to the next one with a reason; it doubles while the service stays slow after them."""
_SURPRISE_MAX_S: Final = 30.0

_EXTRA: Final = 8
"""Room for high priority above a limit smaller than that."""


class Limiter:
    """The limit of one cluster: `admit` before a request is sent, `done` when its exchange has ended.

    High priority is admitted up to twice the limit (by eight at least), so that it does not queue behind a limit full of
    normal; low up to 70 % of it. The limit grows only when requests were refused although nothing waited, and shrinks only
    when it was used: idle times leave it as it is.
    """

    __slots__ = (
        "_answers",
        "_bounds",
        "_crowd",
        "_cut_s",
        "_depth",
        "_exact",
        "_failed",
        "_from",
        "_gap_s",
        "_give_up_at",
        "_least",
        "_most",
        "_need",
        "_phase",
        "_pressed",
        "_probe_at",
        "_probed_at",
        "_probed_limit",
        "_rate",
        "_seconds",
        "_slow_s",
        "_slow_windows",
        "_squares",
        "_strict",
        "_tolerance",
        "_until",
        "floor_s",
        "limit",
    )

    def __init__(self, rules: Concurrency) -> None:
        self._least = float(max(1, rules.least))
        self._most = max(self._least, float(rules.most))
        self._tolerance = rules.tolerance
        self.limit = 0
        """Requests in flight that are allowed, probes aside."""
        self.floor_s = 0.0
        """Latency without load that is believed in; 0.0 until the first is known."""
        self._exact = 0.0
        self._bounds = (0, 0, 0)  # by priority
        self._set(float(rules.start))
        # The window: what was seen in it; when it ends, with so many answers, or without them.
        self._from = -inf
        self._seconds = 0.0
        self._squares = 0.0
        self._answers = 0
        self._pressed = False
        self._failed = False
        self._until = -inf
        self._need = 0
        self._give_up_at = inf
        # What follows from the floor.
        self._cut_s = inf
        self._slow_s = inf
        # Probes.
        self._phase = _COLD
        self._slow_windows = 0
        self._rate = 0.0
        self._depth = _QUARTER
        self._strict = False
        self._crowd = 0.0
        self._probed_limit = 0.0
        self._probed_at = -inf
        self._probe_at = -inf
        self._gap_s = _SURPRISE_S

    @property
    def is_probing(self) -> bool:
        """Fewer than `limit` are admitted for a moment, to measure the latency without load."""
        return self._phase == _DRAIN or self._phase == _PROBE

    def admit(self, active: int, priority: int) -> bool:
        """Whether one more request may be sent.

        Args:
            active: Requests in flight in the cluster, without this one.
            priority: `HIGH`, `NORMAL` or `LOW` of `model.resilience`.
        """
        if active < self._bounds[priority]:
            return True
        self._pressed = True
        return False

    def done(self, seconds: float, now: float, ok: bool) -> None:
        """An exchange that was admitted has ended.

        Args:
            seconds: From sending the request to the end of the answer.
            now: Monotonic seconds.
            ok: It was served. A failure says nothing about how fast the service is, unless it was slow, which counts.
        """
        if not ok:
            if seconds < self._slow_s or self._phase:
                return
            self._failed = True
        if seconds > self._cut_s:  # noqa: PLR1730 - min() is a call, five times as slow
            seconds = self._cut_s
        self._seconds += seconds
        self._squares += seconds * seconds
        self._answers = answers = self._answers + 1
        if now >= self._until and (answers >= self._need or now >= self._give_up_at):
            self._close(now)

    def _close(self, now: float) -> None:
        """The window has its time and its answers."""
        answers = self._answers
        mean = self._seconds / answers
        error = sqrt(max(0.0, self._squares / answers - mean * mean) / answers)
        phase = self._phase
        if phase == _OPEN:
            elapsed = now - self._from
            if error > _SURE * mean and elapsed < _NOISY_S:
                self._need = answers + _MORE
            else:
                self._judge(mean, error, answers / elapsed, now)
        elif phase == _DRAIN:
            self._phase = _PROBE
            self._begin(now, 2.0 * self.floor_s, _PROBE_ANSWERS)
            self._give_up_at = now + _PROBE_S + 10.0 * self.floor_s
        elif phase == _PROBE:
            if error > _SURE * mean and now < self._give_up_at:
                self._need = answers + _PROBE_ANSWERS
            elif answers < _PROBE_ANSWERS:
                self._resume(now)
            else:
                self._learn(mean, error, answers / (now - self._from), now)
        elif phase == _FIRST:
            if self._pressed:
                # The limit was full, so nobody knows how long the queue was.
                self._believe(mean)
                self._rate = answers / (now - self._from)
                self._phase = _OPEN
                self._probe(mean, now)
            elif now - self._from < 3.0 * mean:
                self._need = answers + _MORE
            else:
                self._believe(mean)
                self._phase = _OPEN
                self._begin_open(now)
        else:
            self._phase = _WARM if phase == _COLD else _FIRST
            self._begin(now, _FIRST_S, 1 if phase == _COLD else _PROBE_ANSWERS)

    def _judge(self, mean: float, error: float, rate: float, now: float) -> None:
        """Moves the limit after a window in which it was in force."""
        limit = self._exact
        tolerance = self._tolerance
        pressed = self._pressed
        in_flight = rate * mean
        # Where latencies were cut there were more in flight than it seems.
        loaded = in_flight >= 0.5 * limit or (pressed and mean > 0.4 * self._cut_s)
        if (loaded or pressed) and mean + 2.0 * error < self.floor_s:
            self._believe(mean)
            self._probe_at = now
        floor = self.floor_s
        queued = mean - error > 0.5 * (1.0 + tolerance) * floor
        if not pressed and not self._failed:
            if in_flight < limit / 3.0:
                self._believe(floor + 0.2 * (mean - floor))
            elif not queued:
                self._believe(floor + 0.1 * (mean - floor))
        if loaded:
            slow = mean - error > tolerance * floor
            # A queue says that this is all that the service can do; without one it may be able to do more.
            self._rate = rate if slow or rate > self._rate else 0.5 * (self._rate + rate)
            if not slow:
                self._slow_windows = 0
                self._gap_s = _SURPRISE_S
            elif mean > 1.33 * tolerance * floor:
                self._slow_windows += 1
            surprised = self._slow_windows >= 2 or limit < 0.6 * self._probed_limit
            if queued and pressed and now >= self._probe_at:
                self._probe(mean, now)
                return
            if surprised and now >= self._probed_at + self._gap_s:
                self._gap_s = min(2.0 * self._gap_s, _SURPRISE_MAX_S)
                self._probe(mean, now)
                return
            if slow:
                # Not below half before the next probe: it may be the floor that is wrong.
                self._set(min(limit, max(0.5 * (limit + tolerance * rate * floor), 0.5 * self._probed_limit)))
        if pressed and not queued:
            # Refused although nothing waited: more, but never more than twice of what was needed.
            self._set(max(limit, min(1.2 * limit + 1.0, 2.0 * rate * floor + 1.0)))
        self._begin_open(now)

    def _probe(self, mean: float, now: float) -> None:
        """Admits fewer than keep the service busy, though never fewer than `least`, and waits until the queue is gone."""
        floor = self.floor_s
        if self._phase == _OPEN:
            self._probed_at = now
            self._probed_limit = self._exact
            self._crowd = self._rate * mean
        self._phase = _DRAIN
        bound = max(ceil(self._least), ceil(self._depth * self._rate * floor))
        high, _, _ = self._bounds
        self._bounds = (bound if self._strict else high, bound, max(1, bound * 7 // 10))
        # Then two latencies more, until nearly all answers are of requests that never saw it.
        self._begin(now, max(0.0, mean - bound / self._rate) + 2.0 * floor, 1)

    def _learn(self, mean: float, error: float, rate: float, now: float) -> None:
        """A probe has measured."""
        floor = self.floor_s
        if mean + 1.5 * error < _LOWER * floor:
            self._believe(mean)
            self._depth = _HALF
            self._probe(mean, now)
            return
        if mean <= _HIGHER * floor:
            self._believe(0.5 * (floor + mean))
        elif not self._strict and self._is_crowded(rate * mean):
            # Once more, and for everyone: else a flood of high priority would pass as a slow service.
            self._strict = True
            self._probe(mean, now)
            return
        else:
            self._believe(mean)
            self._gap_s = _SURPRISE_S
        self._depth = _BUSY
        self._set(min(self._exact, self._tolerance * self._rate * self.floor_s))
        self._resume(now)

    def _is_crowded(self, in_flight: float) -> bool:
        """Whether high priority alone kept the queue up, so that the probe measured nothing."""
        return in_flight > 1.2 * self._bounds[NORMAL] + 1.0 and in_flight > 0.5 * self._crowd

    def _resume(self, now: float) -> None:
        self._phase = _OPEN
        self._strict = False
        self._slow_windows = 0
        self._probe_at = now + max(_REST_S, 8.0 * (now - self._probed_at))
        self._probed_at = now
        self._set(self._exact)
        self._begin_open(now)

    def _begin_open(self, now: float) -> None:
        latencies = 2.0 * self.floor_s
        self._begin(now, latencies if latencies > _WINDOW_S else _WINDOW_S, _ANSWERS)

    def _begin(self, now: float, seconds: float, answers: int) -> None:
        """A new window, of that length and with so many answers at least."""
        self._from = now
        self._seconds = 0.0
        self._squares = 0.0
        self._answers = 0
        self._pressed = False
        self._failed = False
        self._until = now + seconds
        self._need = answers
        self._give_up_at = inf

    def _believe(self, floor_s: float) -> None:
        self.floor_s = floor_s = max(floor_s, _LEAST_S)
        self._cut_s = _CUT * floor_s
        self._slow_s = self._tolerance * floor_s

    def _set(self, limit: float) -> None:
        self._exact = limit = min(max(limit, self._least), self._most)
        whole = int(limit)
        self.limit = whole
        self._bounds = (whole + max(whole, _EXTRA), whole, max(1, whole * 7 // 10))

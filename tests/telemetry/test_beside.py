"""Work beside the event loop: it may block, who asks for it may not."""

from __future__ import annotations

import threading
import time

import pytest

from flui.telemetry._beside import SPARE, STUCK_S, WAIT_S, Beside


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_quick_work_is_there_at_once() -> None:
    assert Beside(lambda: 7, 5.0, _Clock()).latest(wait_s=10) == 7


def test_work_is_done_again_only_when_it_is_old_or_asked_anew() -> None:
    clock = _Clock()
    done: list[int] = []
    beside = Beside(lambda: done.append(1) or len(done), 5.0, clock)
    assert [beside.latest(wait_s=10) for _ in range(3)] == [1, 1, 1]
    clock.now += 4.9
    assert beside.latest(wait_s=10) == 1
    clock.now += 0.1
    assert beside.latest(wait_s=10) == 2
    assert beside.latest(wait_s=10, anew=True) == 3


def test_work_that_hangs_holds_nobody_and_is_not_begun_twice() -> None:
    clock = _Clock()
    release = threading.Event()
    begun: list[int] = []

    def work() -> int:
        begun.append(1)
        if len(begun) > 1:
            release.wait(30)
        return len(begun)

    beside = Beside(work, 5.0, clock)
    assert beside.latest(wait_s=10) == 1
    clock.now += 5
    asked = time.thread_time()
    assert beside.latest() == 1, "the last result, while it is not stuck"
    for _ in range(9):
        clock.now += STUCK_S / 10
        assert beside.latest() == 1
    clock.now += STUCK_S / 10
    assert beside.latest() is None, "an old number would hide that nothing answers"
    assert time.thread_time() - asked < 0.1
    assert len(begun) == 2
    release.set()
    assert beside.latest(wait_s=10) == 2


def test_who_asks_waits_a_millisecond() -> None:
    release = threading.Event()
    beside = Beside(lambda: release.wait(30), 5.0, time.monotonic)
    waits: list[float] = []
    for _ in range(50):
        at = time.perf_counter()
        beside.latest()
        waits.append(time.perf_counter() - at)
    release.set()
    assert beside.thread is not None
    beside.thread.join(10)
    assert sorted(waits)[25] < 5 * WAIT_S


def test_slow_work_rests_a_hundred_times_as_long() -> None:
    clock = _Clock()
    done: list[int] = []

    def work() -> int:
        done.append(1)
        clock.now += 2.0
        return len(done)

    beside = Beside(work, 5.0, clock)
    assert beside.latest(wait_s=10) == 1
    clock.now = 100.0 + 2.0 * SPARE - 0.1
    assert beside.latest(wait_s=10) == 1
    clock.now += 0.2
    assert beside.latest(wait_s=10) == 2


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("garbage")])
def test_work_that_fails_has_no_result(error: Exception) -> None:
    def work() -> int:
        raise error

    assert Beside(work, 5.0, _Clock()).latest(wait_s=10) is None


def test_no_thread_to_be_had_is_no_result_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Beside(lambda: 1, 5.0, _Clock())

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert beside.latest() is None
    assert beside.latest(wait_s=10) == 1

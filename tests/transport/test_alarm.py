"""One timer per connection: it rings no later than asked for, and a later deadline costs nothing."""

import asyncio
import time
import weakref

import pytest
import uvloop

from flui.transport.alarm import Alarm


class Clock:
    """Stands for a loop: counts the timers it is asked for, and rings them when told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Clock.Handle] = []
        self.made = 0

    class Handle:
        def __init__(self, at, callback, args) -> None:
            self.at, self.callback, self.args, self.live = at, callback, args, True

        def cancel(self) -> None:
            self.live = False

    def call_later(self, delay, callback, *args):
        assert delay >= 0
        self.made += 1
        handle = Clock.Handle(self.now + delay, callback, args)
        self.timers.append(handle)
        return handle

    def go(self, to: float) -> None:
        while due := [t for t in self.timers if t.live and t.at <= to + 1e-9]:
            first = min(due, key=lambda t: t.at)
            self.timers.remove(first)
            self.now = max(self.now, first.at)
            first.callback(*first.args)
        self.now = to


@pytest.fixture
def rig():
    clock = Clock()
    rang: list[float] = []
    return clock, Alarm(clock, rang.append), rang


def live(clock):
    return [timer for timer in clock.timers if timer.live]


def test_it_rings_once_when_its_time_has_come(rig):
    clock, alarm, rang = rig
    alarm.by(105, 100)
    clock.go(104.9)
    assert rang == []
    clock.go(200)
    assert rang == [105]
    assert alarm.rings_at == float("inf")


def test_a_later_time_costs_no_timer_and_does_not_put_off_the_earlier_one(rig):
    clock, alarm, rang = rig
    for now in range(1000):
        alarm.by(105 + now / 1000, 100 + now / 1000)
    assert clock.made == 1
    assert alarm.rings_at == 105
    clock.go(106)
    assert rang == [105], "its owner looks then, and says when to ring next"


def test_an_earlier_time_rings_earlier_and_only_then(rig):
    clock, alarm, rang = rig
    alarm.by(160, 100)
    alarm.by(103, 100)
    assert len(live(clock)) == 1
    clock.go(200)
    assert rang == [103]


def test_it_may_be_asked_again_while_it_rings(rig):
    clock, _, _ = rig
    rang = []

    def ring(now):
        rang.append(now)
        if len(rang) < 3:
            alarm.by(now + 1, now)

    alarm = Alarm(clock, ring)
    alarm.by(101, 100)
    clock.go(110)
    assert rang == [101, 102, 103]


def test_a_time_that_has_passed_rings_at_once(rig):
    clock, alarm, rang = rig
    alarm.by(50, 100)
    clock.go(100)
    assert rang == [50]


def test_stopped_it_stays_silent_and_lets_its_owner_go(rig):
    """Its owner holds it: held in turn, both would wait for a collection, and all that hangs on a connection with them."""
    clock, _, rang = rig

    class Owner:
        def __init__(self):
            self.alarm = Alarm(clock, self.ring)

        def ring(self, due):
            rang.append(due)

    owner = Owner()
    alarm, gone = owner.alarm, weakref.ref(owner)
    alarm.by(101, 100)
    alarm.stop()
    assert not live(clock)
    alarm.by(102, 100)
    clock.go(200)
    assert rang == []
    clock.timers.clear()
    del owner
    assert gone() is None


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.SelectorEventLoop])
def test_on_a_real_loop_it_is_told_a_time_that_is_due(factory):
    """uvloop's timers have whole milliseconds and may come a little early: what the callback is told never is."""

    async def story():
        loop = asyncio.get_running_loop()
        rang = loop.create_future()
        now = time.monotonic()
        alarm = Alarm(loop, rang.set_result)
        alarm.by(now + 0.05, now)
        alarm.by(now + 0.02, now)
        assert await rang == now + 0.02
        assert 0.018 <= time.monotonic() - now < 0.5

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(story(), 5))

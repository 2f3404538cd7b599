"""Adaptive concurrency, by discrete-event simulation: clock, service and callers are all made up here."""

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.model.resilience import HIGH, LOW, NORMAL, Concurrency
from flui.resilience.limiter import Limiter

Draw = Callable[[Random, float], float]
DRAWS: dict[str, Draw] = {
    "deterministic": lambda random, mean: mean,
    "exponential": lambda random, mean: random.expovariate(1.0 / mean),
    "lognormal": lambda random, mean: mean * exp(random.gauss(-0.125, 0.5)),
    "heavy": lambda random, mean: mean * exp(random.gauss(-0.5, 1.0)),
}
LOADS = (0.5, 1.0, 3.0)


@dataclass
class Seen:
    """What happened in a stretch of time."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    asked: Counter[int] = field(default_factory=Counter)
    admitted: Counter[int] = field(default_factory=Counter)
    most: int = 0

    @property
    def goodput(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def p99_s(self) -> float:
        return sorted(self.latencies)[int(0.99 * len(self.latencies))]

    def success(self, priority: int) -> float:
        return self.admitted[priority] / self.asked[priority]


class World:
    """Some servers behind one queue (first come, first served), a limiter before them, callers that do not wait."""

    def __init__(self, draw: str, servers: int, mean_s: float, seed: int = 1, rules: Concurrency | None = None) -> None:
        self.limiter = Limiter(rules or Concurrency())
        self.random = Random(seed)
        self.draw = DRAWS[draw]
        self.servers = servers
        self.mean_s = mean_s
        self.now = 1_000.0
        self.priorities = [HIGH] + [NORMAL] * 9
        self.failing = 0.0
        """Part of the requests that fail at once, without a server."""
        self.active = 0
        self._busy = 0
        self._waiting: deque[float] = deque()
        self._ends: list[tuple[float, int, float, bool]] = []
        self._number = 0

    @property
    def capacity(self) -> float:
        return self.servers / self.mean_s

    def run(self, seconds: float, per_s: float) -> Seen:
        """Lets time pass with that many requests a second (Poisson)."""
        seen = Seen(seconds)
        until = self.now + seconds
        arrival = self.now + (self.random.expovariate(per_s) if per_s else inf)
        while True:
            end = self._ends[0][0] if self._ends else inf
            if min(arrival, end) >= until:
                self.now = until
                return seen
            if arrival < end:
                self.now = arrival
                arrival += self.random.expovariate(per_s)
                self._ask(seen)
            else:
                self._end(seen)

    def _ask(self, seen: Seen) -> None:
        priority = self.random.choice(self.priorities)
        seen.asked[priority] += 1
        if not self.limiter.admit(self.active, priority):
            return
        seen.admitted[priority] += 1
        self.active += 1
        seen.most = max(seen.most, self.active)
        if self.failing and self.random.random() < self.failing:
            self._number += 1
            heapq.heappush(self._ends, (self.now + 0.0005, self._number, self.now, False))
            return
        self._waiting.append(self.now)
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._busy < self.servers:
            self._busy += 1
            self._number += 1
            heapq.heappush(self._ends, (self.now + self.draw(self.random, self.mean_s), self._number, self._waiting.popleft(), True))

    def _end(self, seen: Seen) -> None:
        self.now, _, since, ok = heapq.heappop(self._ends)
        self.active -= 1
        if ok:
            self._busy -= 1
            seen.latencies.append(self.now - since)
            self._serve()
        self.limiter.done(self.now - since, self.now, ok)


@pytest.mark.slow
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("servers", "mean_s"), [(8, 0.02), (16, 0.005), (32, 0.05)])
def test_three_times_the_capacity_is_borne(draw: str, servers: int, mean_s: float) -> None:
    """Goodput at least 90 % of the peak, admitted p99 at most twice its uncontended value, high priority 99.9 %."""
    calm = World(draw, servers, mean_s)
    uncontended_s = calm.run(20.0, 0.3 * calm.capacity).p99_s
    seen = {}
    for load in LOADS:
        world = World(draw, servers, mean_s)
        world.run(8.0, load * world.capacity)
        seen[load] = world.run(12.0, load * world.capacity)
        print(
            f"{draw} {servers} x {mean_s * 1e3:.0f} ms at {load}: goodput {seen[load].goodput / world.capacity:.3f}, "
            f"p99 {seen[load].p99_s / uncontended_s:.2f}, high {seen[load].success(HIGH):.4f}, normal {seen[load].success(NORMAL):.3f}, "
            f"limit {world.limiter.limit}, floor {world.limiter.floor_s / mean_s:.2f}"
        )
    peak = max(one.goodput for one in seen.values())
    assert seen[3.0].goodput >= 0.9 * peak
    assert seen[3.0].goodput >= 0.9 * servers / mean_s
    assert seen[3.0].p99_s <= 2.0 * uncontended_s
    assert all(one.success(HIGH) >= 0.999 for one in seen.values())
    assert seen[0.5].success(NORMAL) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("draw", DRAWS)
def test_a_new_limit_is_found_within_ten_seconds(draw: str) -> None:
    """Half the servers are lost, then each takes three times as long, then all is well again; callers ask 3 x what there is."""
    world = World(draw, 32, 0.02)
    world.run(10.0, 3 * world.capacity)
    for servers, mean_s in ((32, 0.02), (16, 0.02), (16, 0.06), (16, 0.02), (32, 0.02)):
        world.servers, world.mean_s = servers, mean_s
        changing = world.run(10.0, 3 * world.capacity)
        found = world.limiter.limit
        settled = world.run(5.0, 3 * world.capacity)
        print(
            f"{draw} {servers} x {mean_s * 1e3:.0f} ms: limit {found}, floor {world.limiter.floor_s / mean_s:.2f}, "
            f"goodput {changing.goodput / world.capacity:.3f}, then {settled.goodput / world.capacity:.3f}"
        )
        assert 1.0 * servers <= found <= 3.0 * servers
        assert changing.goodput >= 0.7 * world.capacity
        assert settled.goodput >= 0.85 * world.capacity


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["deterministic", "lognormal"])
@pytest.mark.parametrize(("servers", "mean_s", "within_s"), [(8, 0.02, 3.0), (4, 0.04, 6.0)])
def test_a_queue_that_was_there_from_the_start_is_not_taken_for_the_service(
    draw: str, servers: int, mean_s: float, within_s: float
) -> None:
    """The first requests of all are three times too many, and the limit to begin with is many times too high."""
    for seed in range(5):
        world = World(draw, servers, mean_s, seed)
        world.run(within_s, 3 * world.capacity)
        assert world.limiter.floor_s <= 2.0 * mean_s
        assert world.limiter.limit <= 4 * servers


@pytest.mark.slow
@pytest.mark.parametrize("draw", DRAWS)
def test_a_service_fifty_times_slower_is_believed_in_the_end(draw: str) -> None:
    """Above ten times, where single latencies are cut."""
    world = World(draw, 16, 0.005)
    world.run(5.0, 3 * world.capacity)
    world.mean_s = 0.25
    world.run(40.0, 3 * world.capacity)
    assert world.limiter.floor_s == pytest.approx(0.25, rel=0.4)
    assert 12 <= world.limiter.limit <= 3 * 16
    assert world.run(20.0, 3 * world.capacity).goodput >= 0.8 * world.capacity


@pytest.mark.slow
def test_a_flood_of_high_priority_does_not_pass_as_a_slow_service() -> None:
    """High alone is twice what there is, so that no probe for normal traffic ever sees the service idle."""
    world = World("exponential", 8, 0.02)
    world.priorities = [HIGH] * 9 + [NORMAL]
    seen = world.run(40.0, 2.2 * world.capacity)
    assert seen.goodput >= 0.75 * world.capacity
    assert world.limiter.floor_s <= 2.0 * 0.02
    assert world.limiter.limit <= 4 * 8


def test_idle_time_changes_nothing() -> None:
    world = World("exponential", 16, 0.02)
    world.run(8.0, 3 * world.capacity)
    world.run(1.0, 0.0)  # what was in flight has ended
    limit, floor_s = world.limiter.limit, world.limiter.floor_s
    world.run(600.0, 0.0)
    assert world.limiter.limit == limit
    world.run(600.0, 1.0)  # one request a second
    assert world.limiter.limit >= 16
    assert world.limiter.floor_s == pytest.approx(floor_s, rel=0.4)
    assert world.run(5.0, 0.5 * world.capacity).success(NORMAL) >= 0.9


def test_short_bursts_after_idle_time_do_not_shrink_it() -> None:
    world = World("deterministic", 16, 0.02)
    world.run(8.0, 3 * world.capacity)
    for _ in range(30):
        world.run(0.03, 6 * world.capacity)
        world.run(20.0, 0.0)
    assert world.limiter.limit >= 16


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    world = World("exponential", 100, 0.02)
    world.run(60.0, 250.0)  # five in flight
    assert world.limiter.limit == Concurrency().start


@pytest.mark.slow
def test_a_limit_that_is_too_low_grows_before_long() -> None:
    world = World("exponential", 200, 0.02, rules=Concurrency(start=4))
    world.run(4.0, 0.7 * world.capacity)
    assert world.run(3.0, 0.7 * world.capacity).success(NORMAL) >= 0.99
    assert world.limiter.limit > 140


@pytest.mark.slow
def test_fast_failures_do_not_fool_it() -> None:
    world = World("deterministic", 8, 0.02)
    world.run(8.0, 3 * world.capacity)
    limit, floor_s = world.limiter.limit, world.limiter.floor_s
    world.failing = 0.5
    world.run(20.0, 3 * world.capacity)
    assert 0.6 * limit <= world.limiter.limit <= 1.6 * limit
    assert world.limiter.floor_s == pytest.approx(floor_s, rel=0.15)
    world.failing = 1.0
    world.run(20.0, 3 * world.capacity)
    assert 0.6 * limit <= world.limiter.limit <= 1.6 * limit
    assert world.limiter.floor_s == pytest.approx(floor_s, rel=0.15)


@pytest.mark.slow
def test_slow_failures_lower_what_is_admitted_until_something_succeeds() -> None:
    """A service that only times out is not one that has room."""
    world = World("deterministic", 32, 0.02)
    world.run(8.0, 3 * world.capacity)
    limiter = world.limiter
    limit = limiter.limit
    for _ in range(3_000):
        world.now += 0.01
        limiter.admit(10 * limit, NORMAL)
        limiter.done(1.0, world.now, ok=False)
    assert not limiter.admit(limit // 2, NORMAL)
    assert limiter.floor_s < 0.03
    world._ends, world._busy, world.active = [], 0, 0
    world._waiting.clear()
    world.run(5.0, 3 * world.capacity)
    assert world.run(5.0, 3 * world.capacity).goodput >= 0.9 * world.capacity


def test_one_hung_request_moves_nothing() -> None:
    world = World("deterministic", 16, 0.02)
    world.run(8.0, 3 * world.capacity)
    limit, floor_s = world.limiter.limit, world.limiter.floor_s
    world.limiter.done(30.0, world.now, ok=True)
    world.run(0.5, 3 * world.capacity)
    assert world.limiter.limit == pytest.approx(limit, rel=0.2)
    assert world.limiter.floor_s == pytest.approx(floor_s, rel=0.1)


def test_latency_that_grows_bit_by_bit_with_load_does_not_run_away() -> None:
    """No knee: every request in flight makes all the others a little slower."""
    limiter = Limiter(Concurrency(most=100_000))
    now = 0.0
    active = 0
    ends: list[float] = []
    begun: dict[float, float] = {}
    for _ in range(60_000):
        while limiter.admit(active, NORMAL):
            active += 1
            end = now + 0.01 * (1.0 + active / 20.0) + active * 1e-9
            while end in begun:
                end += 1e-9
            begun[end] = now
            heapq.heappush(ends, end)
        now = heapq.heappop(ends)
        active -= 1
        limiter.done(now - begun.pop(now), now, ok=True)
    assert 10 <= limiter.limit <= 200


def test_answers_in_no_time_are_borne() -> None:
    limiter = Limiter(Concurrency())
    now = 0.0
    for number in range(20_000):
        now += 0.001
        limiter.admit(1_000, NORMAL)
        limiter.done(0.0 if number < 5_000 else 0.02, now, ok=True)
    assert limiter.floor_s == pytest.approx(0.02, rel=0.1), "and it is not stuck there"


def test_priorities_have_their_part_of_the_limit() -> None:
    limiter = Limiter(Concurrency(start=100))
    assert [limiter.admit(69, priority) for priority in (HIGH, NORMAL, LOW)] == [True, True, True]
    assert [limiter.admit(70, priority) for priority in (HIGH, NORMAL, LOW)] == [True, True, False]
    assert [limiter.admit(99, priority) for priority in (HIGH, NORMAL, LOW)] == [True, True, False]
    assert [limiter.admit(100, priority) for priority in (HIGH, NORMAL, LOW)] == [True, False, False]
    assert limiter.admit(199, HIGH)
    assert not limiter.admit(200, HIGH)


def test_the_smallest_limit_still_lets_everyone_in() -> None:
    limiter = Limiter(Concurrency(least=1, start=1))
    assert all(limiter.admit(0, priority) for priority in (HIGH, NORMAL, LOW))
    assert not limiter.admit(1, NORMAL)
    assert limiter.admit(8, HIGH), "eight more at least: twice one would be no room at all"
    assert not limiter.admit(9, HIGH)


@pytest.mark.slow
def test_what_is_always_allowed_is_so_while_it_probes() -> None:
    world = World("deterministic", 8, 0.02, rules=Concurrency(least=64, start=64))
    probes = 0
    for _ in range(3_000):
        world.run(0.01, 3 * world.capacity)
        probes += world.limiter.is_probing
        assert world.limiter.admit(63, NORMAL)
    assert probes


@pytest.mark.slow
def test_a_probe_leaves_high_priority_its_room() -> None:
    world = World("deterministic", 32, 0.02)
    probes = 0
    for _ in range(3_000):
        world.run(0.01, 3 * world.capacity)
        if world.limiter.is_probing:
            probes += 1
            assert not world.limiter.admit(world.limiter.limit, NORMAL)
            assert world.limiter.admit(world.limiter.limit, HIGH)
    assert 0 < probes < 0.1 * 3_000


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(20, 500),
    st.lists(st.tuples(st.floats(0.0, 2.0), st.floats(0.0, 5.0), st.booleans(), st.integers(0, 600), st.integers(0, 2)), max_size=400),
    st.integers(1, 60),
)
def test_whatever_it_is_told_it_stays_within_its_rules(
    least: int, most: int, told: list[tuple[float, float, bool, int, int]], times: int
) -> None:
    limiter = Limiter(Concurrency(least=least, most=most))
    now = 0.0
    for gap, seconds, ok, active, priority in told:
        for _ in range(times):
            now += gap / times
            admitted = limiter.admit(active, priority)
            limiter.done(seconds, now, ok)
            assert least <= limiter.limit <= most
            assert limiter.floor_s == 0.0 or limiter.floor_s >= 1e-4
            assert limiter.admit(0, LOW)
            assert admitted or active >= least or priority == LOW, "a probe, too, leaves what is always allowed"
            assert not admitted or active < max(2 * most, most + 8)

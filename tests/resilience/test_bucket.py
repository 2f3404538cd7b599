"""Token buckets: exact over any window, bounded in number, never free."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.model.resilience import Rate
from flui.resilience.bucket import Bucket, Buckets

RATES = st.builds(Rate, st.floats(0.01, 10_000.0), st.integers(1, 50))
START = 123_456.789
"""Monotonic clocks do not begin at 0."""


def test_the_burst_is_there_at_first_and_then_the_rate() -> None:
    bucket = Bucket(Rate(10.0, 5))
    assert [bucket.take(START) for _ in range(5)] == [0.0] * 5
    assert bucket.take(START) == pytest.approx(0.1, abs=1e-5)
    assert bucket.take(START + 0.05) == pytest.approx(0.05, abs=1e-5)
    assert bucket.take(START + 0.1) == 0.0
    assert bucket.take(START + 0.1) > 0.0


def test_what_is_refused_costs_nothing() -> None:
    bucket = Bucket(Rate(10.0, 1))
    assert bucket.take(START) == 0.0
    for number in range(99):
        assert bucket.take(START + number * 0.001) > 0.0
    assert bucket.take(START + 0.1) == 0.0


def test_idle_time_fills_it_up_to_the_burst_and_no_further() -> None:
    bucket = Bucket(Rate(100.0, 3))
    for _ in range(3):
        bucket.take(START)
    assert bucket.tokens(START) == pytest.approx(0.0, abs=1e-6)
    assert bucket.tokens(START + 0.015) == pytest.approx(1.5, abs=1e-6)
    later = START + 3_600.0
    assert bucket.tokens(later) == pytest.approx(3.0)
    assert [bucket.take(later) == 0.0 for _ in range(5)] == [True, True, True, False, False]


@pytest.mark.parametrize("rate", [Rate(0.0, 1), Rate(1.0, 0)])
def test_a_bucket_that_never_lets_anything_through_is_our_own_mistake(rate: Rate) -> None:
    with pytest.raises(AssertionError):
        Bucket(rate)


@pytest.mark.slow
@given(RATES, st.lists(st.floats(0.0, 0.5), min_size=1, max_size=150))
def test_no_window_lets_more_through_than_burst_and_rate(rate: Rate, gaps: list[float]) -> None:
    bucket = Bucket(rate)
    times = list(accumulate(gaps, initial=START))
    allowed = [now for now in times if bucket.take(now) == 0.0]
    for first, start in enumerate(allowed):
        for last in range(first, len(allowed)):
            # A microsecond is what a token may come early.
            assert last - first + 1 <= rate.burst + rate.per_s * (allowed[last] - start + 2e-6) + 1e-6


@pytest.mark.slow
@given(RATES, st.lists(st.floats(0.0, 0.5), max_size=80))
def test_who_waits_as_told_is_served(rate: Rate, gaps: list[float]) -> None:
    bucket = Bucket(rate)
    now = START
    for gap in gaps:
        now += gap
        wait_s = bucket.take(now)
        if wait_s:
            assert 0.0 < wait_s <= 1.0 / rate.per_s + 1e-9
            now += wait_s
            assert bucket.take(now) == 0.0


@given(RATES)
def test_a_steady_caller_gets_the_whole_rate(rate: Rate) -> None:
    bucket = Bucket(rate)
    assert all(bucket.take(START + number / rate.per_s) == 0.0 for number in range(300))


def test_each_principal_has_its_own() -> None:
    buckets = Buckets(Rate(1.0, 2))
    assert [buckets.take("a", START) for _ in range(2)] == [0.0, 0.0]
    assert buckets.take("a", START) > 0.0
    assert buckets.take("b", START) == 0.0


def test_ten_thousand_names_are_kept_and_no_more() -> None:
    buckets = Buckets(Rate(1.0, 1))
    for number in range(25_000):
        buckets.take(f"n{number}", START)
    assert len(buckets) == 10_000


def test_newcomers_share_one_bucket_while_there_is_no_room() -> None:
    """Never unbounded, never free: coming under many names gives no more than one name."""
    buckets = Buckets(Rate(1.0, 5), limit=10)
    for number in range(10):
        assert buckets.take(f"old{number}", START) == 0.0
    served = sum(buckets.take(f"new{number}", START) == 0.0 for number in range(1_000))
    assert served == 5
    assert len(buckets) == 10
    assert buckets.take("old3", START) == 0.0, "whoever was there keeps what is theirs"


def test_a_full_bucket_is_forgotten_for_a_newcomer_and_one_in_use_is_not() -> None:
    buckets = Buckets(Rate(1.0, 3), limit=3)
    for name in ("idle", "busy", "other"):
        buckets.take(name, START)
    now = START + 10.0
    for _ in range(3):
        buckets.take("busy", now)
        buckets.take("other", now)
    assert buckets.take("new", now) == 0.0  # in place of "idle"
    assert len(buckets) == 3
    assert buckets.take("busy", now) > 0.0
    assert buckets.overflow.tokens(now) == 3.0, "there was room: nobody had to share"


@pytest.mark.slow
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 12), st.floats(0.0, 2.0)), max_size=120),
)
def test_forgetting_gives_nobody_more_than_their_rate(limit: int, steps: list[tuple[int, float]]) -> None:
    """Who has a bucket is served as if nobody had ever been forgotten; the others share."""
    rate = Rate(1.0, 3)
    buckets = Buckets(rate, limit)
    apart: dict[int, Bucket] = {}
    now = START
    for name, gap in steps:
        now += gap
        before = buckets.overflow.full_at
        wait_s = buckets.take(str(name), now)
        assert len(buckets) <= limit
        if buckets.overflow.full_at == before and not wait_s:
            # Served from a bucket of its own: an unbounded store would have served it as well.
            assert apart.setdefault(name, Bucket(rate)).take(now) == 0.0
        elif wait_s:
            assert wait_s <= 1.0 + 1e-6


@given(st.lists(st.integers(0, 30), max_size=300), st.floats(0.001, 0.3))
def test_a_newcomer_shares_only_when_no_bucket_is_full(names: list[int], gap: float) -> None:
    """With no more names than are looked at for one newcomer, a full bucket is always found."""
    buckets = Buckets(Rate(2.0, 2), limit=8)
    now = START
    held: dict[str, Bucket] = buckets._by_key
    for name in names:
        now += gap
        key = str(name)
        full = key in held or len(held) < 8 or any(bucket.full_at <= now for bucket in held.values())
        buckets.take(key, now)
        assert (key in held) is full

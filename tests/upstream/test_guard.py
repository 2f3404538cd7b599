"""What a cluster may be asked for: exact numbers, nothing spent in vain, and nothing forgotten over a reload."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.model.fault import Fault
from flui.model.resilience import HIGH, LOW, NORMAL, Breaker, Budget, Concurrency, Rate, RateBy
from flui.model.topology import Address, Cluster, Endpoint
from flui.resilience.bucket import Bucket, Buckets, Rates
from flui.upstream import guard as guard_file
from flui.upstream.guard import Guard, Refusal

NOW = 123_456.0
ME = "spiffe://shop/web"
OTHER = "spiffe://shop/ops"
PRINCIPAL = RateBy.PRINCIPAL


def cluster(**more):
    return Cluster("stock", (Endpoint("a", Address("127.0.0.1", 1)),), **more)


def served(guard, principal=ME, asked=20, now=NOW):
    return sum(guard.refuses(0, NORMAL, principal, now) is None for _ in range(asked))


# --- breaker and limiter ----------------------------------------------------------------------------------------------------


def test_the_breaker_opens_at_its_number_for_everyone():
    guard = Guard(cluster(breaker=Breaker(requests=3)))
    assert not guard.is_busy
    for priority in (HIGH, NORMAL, LOW):
        assert guard.refuses(2, priority, ME, NOW) is None
        assert guard.refuses(3, priority, ME, NOW) == Refusal(Fault.CIRCUIT_OPEN, what="requests")


def test_the_limiter_sheds_what_is_less_important_first():
    guard = Guard(cluster(concurrency=Concurrency(least=10, most=10, start=10)))
    assert guard.is_busy
    shed = Refusal(Fault.OVERLOADED, what="concurrency")
    assert [guard.refuses(7, priority, ME, NOW) for priority in (HIGH, NORMAL, LOW)] == [None, None, shed]
    assert [guard.refuses(10, priority, ME, NOW) for priority in (HIGH, NORMAL, LOW)] == [None, shed, shed]
    assert guard.refuses(20, HIGH, ME, NOW) == shed


def test_what_another_limit_refuses_spends_no_token():
    guard = Guard(cluster(breaker=Breaker(requests=5), concurrency=Concurrency(least=2, most=2, start=2), rates=(Rate(1.0, 3),)))
    for _ in range(10):
        assert guard.refuses(2, NORMAL, ME, NOW).fault is Fault.OVERLOADED
        assert guard.refuses(5, HIGH, ME, NOW).fault is Fault.CIRCUIT_OPEN
    assert served(guard) == 3


# --- rates ------------------------------------------------------------------------------------------------------------------


def test_a_rate_for_all_is_shared_by_all():
    guard = Guard(cluster(rates=(Rate(1.0, 4),)))
    assert guard.is_busy
    assert served(guard, ME, 3) + served(guard, OTHER, 3) == 4


def test_principals_with_a_rate_of_their_own_do_not_disturb_one_another():
    guard = Guard(cluster(rates=(Rate(1.0, 4, PRINCIPAL),)))
    assert served(guard, ME) == served(guard, OTHER) == 4


def test_who_has_used_up_his_own_rate_takes_nothing_from_everyones():
    """Both hold: what one of them refuses is not taken from the other."""
    guard = Guard(cluster(rates=(Rate(1.0, 10), Rate(1.0, 4, PRINCIPAL))))
    assert served(guard, ME, 1_000) == 4
    assert served(guard, OTHER, 1_000) == 4
    assert served(guard, "spiffe://shop/third", 1_000) == 2, "ten for all"


def test_the_wait_that_is_told_is_that_of_the_slowest_rate():
    guard = Guard(cluster(rates=(Rate(1.0, 1), Rate(0.1, 1, PRINCIPAL))))
    assert guard.refuses(0, NORMAL, ME, NOW) is None
    refusal = guard.refuses(0, NORMAL, ME, NOW)
    assert refusal.fault is Fault.RATE_LIMITED
    assert refusal.after_s == pytest.approx(10.0)
    assert guard.refuses(0, NORMAL, OTHER, NOW).after_s == pytest.approx(1.0)
    assert guard.refuses(0, NORMAL, ME, NOW + 10.0) is None


@given(
    st.lists(st.builds(Rate, st.floats(0.1, 100.0), st.integers(1, 10), st.sampled_from(RateBy)), min_size=1, max_size=3),
    st.lists(st.tuples(st.floats(0.0, 0.3), st.sampled_from("abc")), max_size=120),
)
def test_no_window_lets_more_through_than_each_rate_allows(rules, steps):
    rates = Rates(rules)
    now = NOW
    allowed = []
    for gap, who in steps:
        now += gap
        wait_s = rates.take(who, now)
        if not wait_s:
            allowed.append((now, who))
        else:
            assert wait_s <= max(1.0 / rule.per_s for rule in rules) + 1e-6
    for rule in rules:
        for who in "abc":
            times = [at for at, asked in allowed if rule.by is RateBy.ALL or asked == who]
            for first in range(len(times)):
                for last in range(first, len(times)):
                    assert last - first + 1 <= rule.burst + rule.per_s * (times[last] - times[first] + 2e-6) + 1e-6


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(0, 9)), max_size=60))
def test_to_look_at_a_bucket_changes_nothing(steps):
    looked, plain = Buckets(Rate(1.0, 2), limit=4), Buckets(Rate(1.0, 2), limit=4)
    now = NOW
    for gap, name in steps:
        now += gap
        said = looked.wait(str(name), now)
        assert said == looked.wait(str(name), now)
        taken = looked.take(str(name), now)
        assert (taken > 0) == (said > 0)
        assert taken == plain.take(str(name), now)


# --- reload -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def still(monkeypatch):
    """The clock that a reload reads stands."""
    monkeypatch.setattr(guard_file.time, "monotonic", lambda: NOW)


@pytest.mark.usefixtures("still")
def test_a_rate_that_stays_keeps_what_is_spent_when_another_one_changes():
    stays = Rate(1.0, 4, PRINCIPAL)
    guard = Guard(cluster(rates=(Rate(1_000.0, 1_000), stays)))
    assert served(guard) == 4
    guard.update(cluster(rates=(stays, Rate(500.0, 500))))
    assert served(guard) == 0
    assert served(guard, OTHER) == 4


@pytest.mark.usefixtures("still")
def test_a_rate_that_changes_goes_on_with_what_was_spent():
    guard = Guard(cluster(rates=(Rate(1.0, 10),)))
    assert served(guard, asked=4) == 4
    guard.update(cluster(rates=(Rate(1.0, 6),)))
    assert served(guard) == 2
    guard.update(cluster(rates=(Rate(1.0, 7),)))
    assert served(guard) == 1
    guard.update(cluster(rates=(Rate(1.0, 2),)))
    assert guard.refuses(0, NORMAL, ME, NOW).after_s == pytest.approx(1.0), "never more is owed than the new burst"
    guard.update(cluster(rates=(Rate(100.0, 7),)))
    assert served(guard, now=NOW + 0.02) == 7, "two of seven were missing, and the new rate holds at once"


@pytest.mark.usefixtures("still")
def test_rates_come_and_go():
    guard = Guard(cluster())
    assert not guard.is_busy
    guard.update(cluster(rates=(Rate(1.0, 2), Rate(1.0, 5, PRINCIPAL))))
    assert guard.is_busy
    assert served(guard) == 2
    guard.update(cluster(rates=(Rate(1.0, 5, PRINCIPAL),)))
    assert served(guard) == 3, "the one that is left has counted all the time"
    guard.update(cluster())
    assert not guard.is_busy
    assert served(guard) == 20


def test_a_reload_moves_the_breaker_and_keeps_what_the_limiter_knows():
    concurrency = Concurrency(least=10, most=10, start=10)
    guard = Guard(cluster(concurrency=concurrency))
    limiter, budget = guard.limiter, guard.budget
    assert budget.take(0)
    guard.update(cluster(concurrency=concurrency, breaker=Breaker(requests=3), budget=Budget(least=1)))
    assert guard.limiter is limiter
    assert guard.budget is budget
    assert not budget.take(0), "one is under way"
    assert guard.refuses(3, HIGH, ME, NOW) == Refusal(Fault.CIRCUIT_OPEN, what="requests")
    guard.update(cluster(concurrency=Concurrency(least=2, most=2, start=2)))
    assert guard.refuses(2, NORMAL, ME, NOW).fault is Fault.OVERLOADED
    guard.update(cluster())
    assert guard.limiter is None
    assert guard.refuses(1_000, LOW, ME, NOW) is None


@given(
    st.builds(Rate, st.floats(0.1, 1_000.0), st.integers(1, 50)),
    st.builds(Rate, st.floats(0.1, 1_000.0), st.integers(1, 50)),
    st.integers(0, 50),
    st.floats(0.0, 1.0),
)
def test_a_bucket_keeps_what_is_spent_up_to_the_new_burst(old, new, asked, gap):
    bucket = Bucket(old)
    for _ in range(asked):
        bucket.take(NOW)
    now = NOW + gap
    missing = old.burst - bucket.tokens(now)
    bucket.retune(new, now)
    assert bucket.tokens(now) == pytest.approx(new.burst - min(missing, new.burst), abs=1e-3)
    taken = [at for at in (now + step * 0.01 for step in range(100)) if not bucket.take(at)]
    assert all(before < after for before, after in pairwise(taken))


def test_buckets_that_were_retuned_are_forgotten_when_they_are_full():
    buckets = Buckets(Rate(0.001, 5), limit=2)
    for name in "ab":
        buckets.take(name, NOW)
    buckets.retune(Rate(1.0, 5), NOW)
    assert buckets.take("c", NOW + 2.0) == 0.0
    assert len(buckets) == 2
    assert buckets.overflow.tokens(NOW + 2.0) == 5.0, "there was room"

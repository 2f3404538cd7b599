"""The retry budget: retries and hedges never add more load than their share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.model.resilience import Budget
from flui.resilience.budget import RetryBudget


def test_a_fifth_of_what_is_in_flight_may_be_retries() -> None:
    budget = RetryBudget(Budget())
    assert [budget.take(100) for _ in range(21)] == [True] * 20 + [False]
    assert budget.used == budget.allowed(100) == 20


def test_three_are_allowed_however_little_is_in_flight() -> None:
    budget = RetryBudget(Budget())
    assert [budget.take(1) for _ in range(4)] == [True, True, True, False]
    assert budget.allowed(0) == 3


def test_what_was_given_back_can_be_taken_again() -> None:
    budget = RetryBudget(Budget(least=1))
    assert budget.take(1)
    assert not budget.take(1)
    budget.give()
    assert budget.take(1)


def test_a_budget_of_nothing_allows_nothing() -> None:
    assert not RetryBudget(Budget(share_bp=0, least=0)).take(1_000_000)


def test_giving_back_what_nobody_took_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        RetryBudget(Budget()).give()


def test_other_rules_keep_what_is_under_way() -> None:
    budget = RetryBudget(Budget(least=3))
    assert budget.take(1)
    assert budget.take(1)
    budget.retune(Budget(share_bp=0, least=2))
    assert not budget.take(1_000)
    budget.give()
    assert budget.take(1_000)


@pytest.mark.slow
@given(
    st.integers(0, 10_000),
    st.integers(0, 10),
    st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=100),
)
def test_a_retry_is_granted_exactly_while_there_is_room(share_bp: int, least: int, steps: list[tuple[bool, int]]) -> None:
    budget = RetryBudget(Budget(share_bp, least))
    used = 0
    for takes, active in steps:
        if takes:
            room = used < max(least, active * share_bp // 10_000)
            assert budget.take(active) is room
            used += room
        elif used:
            budget.give()
            used -= 1
        assert budget.used == used
        assert budget.allowed(active) == max(least, active * share_bp // 10_000)


@given(st.integers(1, 400))
def test_when_everything_fails_the_extra_load_is_its_share_and_no_more(requests: int) -> None:
    """All first tries are in flight and fail; retries that were granted are in flight in their place."""
    budget = RetryBudget(Budget())
    retries = sum(budget.take(requests) for _ in range(requests))
    assert retries <= max(3, 0.2 * requests)

"""The active health check of one endpoint."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.model.resilience import HealthCheck
from flui.resilience.health import Check, means_well, says_well

RULES = HealthCheck()


def after(results: str, rules: HealthCheck = RULES) -> list[bool | None]:
    check = Check(rules)
    return [check.result(result == "+", float(at)) for at, result in enumerate(results)]


@pytest.mark.parametrize(("first", "known"), [("+", True), ("-", False)])
def test_the_first_result_counts_at_once(first: str, known: bool) -> None:
    assert after(first) == [known]


def test_nothing_is_known_before_the_first_result() -> None:
    assert Check(RULES).well is None


def test_failures_in_a_row_make_ill_and_successes_in_a_row_well() -> None:
    assert after("+--+---") == [True, None, None, None, None, None, False]
    assert after("---++-+++") == [False, None, None, None, True, None, None, None, None]


@given(st.text("+-", max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_a_standing_changes_exactly_when_as_many_results_in_a_row_speak_against_it(results: str, unhealthy: int, healthy: int) -> None:
    rules = HealthCheck(unhealthy=unhealthy, healthy=healthy)
    check = Check(rules)
    well: bool | None = None
    for at, result in enumerate(results):
        seen = results[: at + 1]
        told = check.result(result == "+", float(at))
        if at == 0:
            well = result == "+"
            assert told is well
        elif well and seen.endswith("-" * unhealthy):
            assert told is False
            well = False
        elif not well and seen.endswith("+" * healthy):
            assert told is True
            well = True
        else:
            assert told is None
        assert check.well is well
        if told is not None:
            assert check.changed_at == float(at)


@given(st.integers(), st.floats(0.1, 1_000), st.floats(0, 1e6))
def test_checks_are_an_interval_apart_give_or_take_a_tenth_and_the_first_is_soon(seed: int, interval: float, now: float) -> None:
    check = Check(HealthCheck(interval_s=interval))
    chance = Random(seed)
    slack = 1e-6
    assert -slack <= check.next_at(now, chance) - now <= 0.1 * interval + slack
    for _ in range(5):
        assert 0.9 * interval - slack <= check.next_at(now, chance) - now <= 1.1 * interval + slack


def test_sidecars_do_not_ask_together() -> None:
    chance = Random(1)
    checks = [Check(RULES) for _ in range(100)]
    assert len({round(check.next_at(0.0, chance), 3) for check in checks}) > 50
    later = [check.next_at(0.0, chance) for check in checks]
    assert max(later) - min(later) > 0.15 * RULES.interval_s
    assert sum(later) / 100 == pytest.approx(RULES.interval_s, rel=0.02)


@pytest.mark.parametrize(
    ("line", "well"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.0 204", True),
        (b"HTTP/1.1 399 Odd", True),
        (b"HTTP/1.1 199 Early", False),
        (b"HTTP/1.1 400 Bad", False),
        (b"HTTP/1.1 503 Busy", False),
        (b"HTTP/1.1 2000 OK", False),
        (b"HTTP/2 200", False),
        (b"SSH-2.0-x", False),
        (b"", False),
    ],
)
def test_a_status_line_means_well_within_the_bounds_and_never_when_malformed(line: bytes, well: bool) -> None:
    assert says_well(line, RULES) is well


@given(st.binary(max_size=40))
def test_no_status_line_breaks_it(line: bytes) -> None:
    assert says_well(line, RULES) in {True, False}


@given(st.integers(100, 599), st.integers(100, 599), st.integers(100, 599))
def test_both_bounds_are_included(status: int, first: int, last: int) -> None:
    assert means_well(status, HealthCheck(statuses=(first, last))) is (status in range(first, last + 1))

"""The sidecar's own overload: a lag that stands, not one that happened."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.model.resilience import Overload
from flui.resilience.overload import Pressure

EVERY_S = pytest.mark.parametrize("every_s", [0.02, 0.05, 0.1, 0.2])
"""How often a lag is measured when there is none."""


def feel(pressure: Pressure, now: float, lags: Iterable[float], every_s: float) -> float:
    for lag_s in lags:
        now += every_s + lag_s
        pressure.felt(lag_s, now)
    return now


def quiet(pressure: Pressure, every_s: float) -> float:
    return feel(pressure, 50.0, [0.001] * 100, every_s)


@EVERY_S
@pytest.mark.parametrize("pause_s", [0.5, 3.0, 60.0])
def test_one_long_pause_is_no_overload(every_s: float, pause_s: float) -> None:
    for before in range(30):
        pressure = Pressure(Overload(lag_s=0.1))
        now = feel(pressure, 50.0, [0.0] * (30 + before), every_s)
        now += every_s + pause_s
        assert pressure.felt(pause_s, now) == 0
        for _ in range(40):
            now += every_s
            assert pressure.felt(0.0, now) == 0


@EVERY_S
@pytest.mark.parametrize(("lag_s", "level"), [(0.09, 0), (0.15, 1), (0.25, 2)])
def test_a_lag_that_stands_half_a_second_is(every_s: float, lag_s: float, level: int) -> None:
    pressure = Pressure(Overload(lag_s=0.1))
    begun = now = quiet(pressure, every_s)
    while now < begun + 0.5 + 2.0 * (every_s + lag_s):
        now = feel(pressure, now, [lag_s], every_s)
    assert pressure.level == level
    assert pressure.lag_s == lag_s


@EVERY_S
def test_it_takes_more_than_a_moment(every_s: float) -> None:
    pressure = Pressure(Overload(lag_s=0.1))
    now = quiet(pressure, every_s)
    feel(pressure, now, [0.15], every_s)
    assert pressure.level == 0


@EVERY_S
@pytest.mark.parametrize("lag_s", [0.15, 0.5, 5.0])
def test_it_is_over_a_second_after_the_lag_is_gone(every_s: float, lag_s: float) -> None:
    for before in range(20):
        pressure = Pressure(Overload(lag_s=0.1))
        gone = feel(pressure, quiet(pressure, every_s), [lag_s] * (20 + before), every_s)
        assert pressure.level > 0
        now = gone
        while now + every_s <= gone + 1.0:
            now = feel(pressure, now, [0.0], every_s)
        assert pressure.level == 0


def test_between_half_and_whole_nothing_changes() -> None:
    """Else shedding would go on and off around its threshold."""
    pressure = Pressure(Overload(lag_s=0.1))
    now = feel(pressure, quiet(pressure, 0.05), [0.08] * 50, 0.05)
    assert pressure.level == 0
    now = feel(pressure, now, [0.15] * 20, 0.05)
    assert pressure.level == 1
    now = feel(pressure, now, [0.08] * 50, 0.05)
    assert pressure.level == 1
    feel(pressure, now, [0.04] * 50, 0.05)
    assert pressure.level == 0


def test_normal_is_admitted_again_before_low() -> None:
    pressure = Pressure(Overload(lag_s=0.1))
    now = feel(pressure, quiet(pressure, 0.05), [0.3] * 20, 0.05)
    assert pressure.level == 2
    feel(pressure, now, [0.07] * 20, 0.05)
    assert pressure.level == 1


def test_without_a_threshold_nothing_is_ever_shed() -> None:
    pressure = Pressure(Overload(lag_s=0.0))
    feel(pressure, 0.0, [10.0] * 50, 0.05)
    assert pressure.level == 0
    assert pressure.lag_s == 10.0


@given(st.lists(st.floats(0.0, 5.0), max_size=100), st.floats(0.01, 0.2))
def test_the_lag_that_stands_was_felt_lately_and_more_than_once(lags: list[float], every_s: float) -> None:
    pressure = Pressure(Overload(lag_s=0.5))
    now = 0.0
    for number, lag_s in enumerate(lags):
        now += every_s + lag_s
        before = pressure.level
        level = pressure.felt(lag_s, now)
        assert level == pressure.level
        assert level in {0, 1, 2}
        assert pressure.lag_s <= lag_s
        if level > before:
            assert lag_s > 0.5
            assert lags[number - 1] > 0.5

"""The ring: few keys move, the order of the members does not matter, and every process agrees."""

import random
import subprocess
import sys
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.routing.ring import MAX_POINTS, POINTS_PER_WEIGHT, Ring

KEYS = [b"customer-%d" % number for number in range(6_000)]


def ring(*names: str) -> Ring:
    return Ring([(name, 1) for name in names])


def owners(names: list[str]) -> list[str]:
    made = ring(*names)
    return [names[made.first(key)] for key in KEYS]


@pytest.mark.slow
def test_adding_one_member_to_n_moves_at_most_1_3_of_an_nth_of_the_keys() -> None:
    """And each key that moves, moves to the new member; nobody owns more than 1.25 of the mean."""
    names = [f"10.0.0.{number}:15006" for number in range(1, 34)]
    before = owners(names[:3])
    for count in range(3, 33):
        after = owners(names[: count + 1])
        moved = [new for old, new in zip(before, after, strict=True) if old != new]
        assert len(moved) <= 1.3 / count * len(KEYS)
        assert set(moved) == {names[count]}
        assert max(map(after.count, set(after))) <= 1.25 * len(KEYS) / (count + 1)
        before = after


def test_removing_a_member_moves_only_its_keys_and_moves_them_to_the_next_in_order() -> None:
    names = ["a", "b", "c", "d"]
    full = ring(*names)
    rest = ring("a", "b", "d")
    for key in KEYS[:500]:
        order = [names[index] for index in full.order(key)]
        order.remove("c")
        assert ["abd"[index] for index in rest.order(key)] == order


@given(
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8, unique=True),
    st.randoms(use_true_random=False),
    st.binary(max_size=20),
)
@settings(max_examples=40)
def test_the_order_of_the_members_does_not_matter(names: list[str], chance: random.Random, key: bytes) -> None:
    shuffled = names.copy()
    chance.shuffle(shuffled)
    one = [names[index] for index in ring(*names).order(key)]
    other = [shuffled[index] for index in ring(*shuffled).order(key)]
    assert one == other


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.binary(max_size=20))
@settings(max_examples=60)
def test_order_names_every_member_with_weight_once_and_begins_with_the_first(weights: list[int], key: bytes) -> None:
    made = Ring([(f"m{index}", weight) for index, weight in enumerate(weights)])
    order = list(made.order(key))
    assert sorted(order) == [index for index, weight in enumerate(weights) if weight]
    assert len(made) == len(order)
    if order:
        assert order[0] == made.first(key) == next(made.order(key))


def test_the_hash_is_the_same_in_every_process_and_release() -> None:
    """Fixed vectors: sidecars of different versions must agree where a key lives."""
    made = ring("stock-0", "stock-1", "stock-2", "stock-3")
    assert [made.first(b"key-%d" % number) for number in range(16)] == VECTOR
    assert list(made.order(b"")) == EMPTY_KEY_ORDER
    program = (
        "from flui.routing.ring import Ring\n"
        "made = Ring([(f'stock-{n}', 1) for n in range(4)])\n"
        "print([made.first(b'key-%d' % n) for n in range(16)])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True, timeout=30
    )
    assert told.stdout.strip() == str(VECTOR)


VECTOR: list[int] = [0, 3, 3, 2, 0, 0, 1, 0, 1, 1, 1, 2, 2, 2, 1, 0]
EMPTY_KEY_ORDER: list[int] = [0, 3, 1, 2]


def test_weights_give_shares() -> None:
    made = Ring([("light", 1), ("heavy", 3)])
    heavy = sum(made.first(key) for key in KEYS) / len(KEYS)
    assert 0.70 < heavy < 0.80


def test_the_points_are_bounded_whatever_the_weights() -> None:
    made = Ring([("a", 10_000), ("b", 10_000), ("c", 1)])
    assert len(made._points) <= MAX_POINTS + 3
    assert sorted(islice(made.order(b"key"), 3)) == [0, 1, 2]
    assert len(Ring([("a", 1), ("b", 2)])._points) == 3 * POINTS_PER_WEIGHT


def test_an_empty_ring_has_nobody() -> None:
    assert list(Ring([]).order(b"key")) == []
    with pytest.raises(IndexError):
        Ring([("a", 0)]).first(b"key")


def test_two_members_of_one_name_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        ring("a", "a")

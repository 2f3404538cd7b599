"""Pickers: who takes a request, under any load, any keys, any availability."""

from collections import Counter
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.model.topology import Address, Balance, Cluster, Endpoint, Policy
from flui.routing.pick import Member, Picker, picker


def members_of(weights: Iterable[int]) -> list[Member]:
    return [Member(Endpoint(f"m{number}", Address("127.0.0.1", 9000 + number), weight)) for number, weight in enumerate(weights)]


def picker_of(policy: Policy, members: list[Member], seed: int = 1) -> Picker:
    return picker(Cluster("c", (), Balance(policy)), members, Random(seed))


def hold(made: Picker, keys: Iterable[bytes]) -> None:
    """Pick for each key and keep every request in flight."""
    for key in keys:
        member = made.pick(key, ())
        assert member is not None
        member.active += 1


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["one key", "ten keys", "own keys", "skewed"])
def test_no_member_of_a_ring_is_above_1_25_of_the_mean(spread: str) -> None:
    """Any key distribution, N = 3..32, many requests in flight, at every moment while they arrive."""
    for count in range(3, 33):
        members = members_of([1] * count)
        made = picker_of(Policy.RING, members)
        chance = Random(count)
        for number in range(20 * count):
            key = {
                "one key": b"the only one",
                "ten keys": b"%d" % (number % 10),
                "own keys": b"%d" % number,
                "skewed": b"%d" % int(chance.paretovariate(1.0)),
            }[spread]
            member = made.pick(key, ())
            assert member is not None
            member.active += 1
            # (1 + 0.25) x mean, rounded up: requests are whole
            assert 4 * count * (member.active - 1) < 5 * (number + 1)
        assert max(member.active for member in members) <= 1.25 * 20


@pytest.mark.parametrize("weights", [(1, 1, 2), (3, 1), (5, 1, 1, 1), (0, 1, 3)])
def test_the_bound_of_a_ring_is_by_weight(weights: tuple[int, ...]) -> None:
    members = members_of(weights)
    hold(picker_of(Policy.RING, members), [b"hot"] * 800)
    for member in members:
        assert member.active <= 1.25 * 800 * member.weight / sum(weights) + 1


def test_a_key_stays_with_its_member_while_there_is_room() -> None:
    members = members_of([1] * 5)
    made = picker_of(Policy.RING, members)
    home = made.pick(b"customer-7", ())
    assert all(made.pick(b"customer-7", ()) is home for _ in range(50))


def test_the_next_in_ring_order_takes_over_and_gives_back() -> None:
    members = members_of([1] * 5)
    made = picker_of(Policy.RING, members)
    home = made.pick(b"customer-7", ())
    assert home is not None
    home.available = False
    heir = made.pick(b"customer-7", ())
    assert heir not in {None, home}
    assert heir is made.pick(b"customer-7", ())
    home.available = True
    assert made.pick(b"customer-7", ()) is home
    assert made.pick(b"customer-7", (home,)) is heir


def test_the_mean_of_a_ring_is_that_of_the_available_members() -> None:
    """Else three members of which one is left could not hold what arrives."""
    members = members_of([1, 1, 1])
    members[0].available = members[1].available = False
    hold(picker_of(Policy.RING, members), [b"key"] * 100)
    assert members[2].active == 100


def test_when_only_tried_members_have_room_another_still_takes_the_request() -> None:
    members = members_of([1, 1, 1])
    members[0].active = members[1].active = 50
    assert picker_of(Policy.RING, members).pick(b"key", (members[2],)) in members[:2]


def test_a_request_without_a_key_goes_to_the_less_loaded_of_two() -> None:
    members = members_of([1, 1])
    members[0].active = 3
    made = picker_of(Policy.RING, members)
    assert all(made.pick(b"", ()) is members[1] for _ in range(20))


@pytest.mark.parametrize("policy", [Policy.ROUND_ROBIN, Policy.LEAST_LOADED])
def test_weights_are_shares_of_the_requests(policy: Policy) -> None:
    members = members_of((1, 2, 5))
    made = picker_of(policy, members)
    counted = Counter(made.pick(b"", ()) for _ in range(8_000))
    for member in members:
        assert counted[member] == pytest.approx(1_000 * member.weight, rel=0.12)


def test_weights_are_shares_of_the_requests_in_flight() -> None:
    members = members_of((1, 2, 5))
    hold(picker_of(Policy.LEAST_LOADED, members), [b""] * 800)
    for member in members:
        assert member.active == pytest.approx(100 * member.weight, rel=0.1)


def test_round_robin_takes_equal_members_in_turn() -> None:
    members = members_of([7, 7, 7])
    made = picker_of(Policy.ROUND_ROBIN, members)
    taken = [made.pick(b"", ()) for _ in range(6)]
    assert set(taken[:3]) == set(members)
    assert taken[:3] == taken[3:]


def test_every_round_of_round_robin_has_the_exact_shares_and_spreads_them() -> None:
    members = members_of((5, 1, 1))
    made = picker_of(Policy.ROUND_ROBIN, members)
    taken = [made.pick(b"", ()) for _ in range(70)]
    for start in range(63):
        assert Counter(taken[start : start + 7]) == Counter({members[0]: 5, members[1]: 1, members[2]: 1})
    # the light ones do not follow one another
    assert all(taken[at] is members[0] or taken[at + 1] is members[0] for at in range(69))


def test_round_robin_skips_who_is_away_and_leaves_the_others_their_shares() -> None:
    members = members_of((1, 1, 1, 1))
    members[2].available = False
    made = picker_of(Policy.ROUND_ROBIN, members)
    assert Counter(made.pick(b"", ()) for _ in range(30)) == Counter({members[0]: 10, members[1]: 10, members[3]: 10})


def test_huge_weights_do_not_make_a_huge_round() -> None:
    members = members_of((999_983, 499_979, 1))
    made = picker_of(Policy.ROUND_ROBIN, members)
    counted = Counter(made.pick(b"", ()) for _ in range(30_000))
    assert counted[members[0]] == pytest.approx(20_000, rel=0.01)
    assert counted[members[2]] > 0


def test_sidecars_that_start_together_do_not_all_begin_with_the_same_member() -> None:
    members = members_of([1] * 8)
    begun = {picker_of(Policy.ROUND_ROBIN, members, seed).pick(b"", ()) for seed in range(50)}
    assert len(begun) > 4


def test_the_less_loaded_of_two_keeps_the_load_even() -> None:
    members = members_of([1] * 16)
    hold(picker_of(Policy.LEAST_LOADED, members), [b""] * 1_600)
    loads = [member.active for member in members]
    assert max(loads) - min(loads) <= 8


CASES = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(list(Policy)),
        "members": st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30), st.booleans(), st.booleans()), max_size=8),
        "key": st.binary(max_size=4),
        "seed": st.integers(0, 1_000),
    }
)


@pytest.mark.slow
@given(CASES)
@settings(max_examples=100)
def test_whoever_can_be_picked_is_picked_and_nobody_else(case: dict[str, object]) -> None:
    """Not the unavailable, not the tried, not weight 0; None exactly when nobody is left; chance is repeatable."""
    told = case["members"]
    assert isinstance(told, list)
    policy = case["policy"]
    assert isinstance(policy, Policy)
    key = case["key"]
    assert isinstance(key, bytes)
    members = members_of(weight for weight, _, _, _ in told)
    tried = []
    for member, (_, active, available, was_tried) in zip(members, told, strict=True):
        member.active = active
        member.available = available
        if was_tried:
            tried.append(member)
    possible = [member for member in members if member.available and member not in tried and member.weight]
    one, other = (picker_of(policy, members, int(str(case["seed"]))) for _ in range(2))
    for _ in range(10):
        picked = one.pick(key, tried)
        assert picked is other.pick(key, tried)
        assert picked in possible if possible else picked is None

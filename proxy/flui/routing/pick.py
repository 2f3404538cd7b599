"""Which member of a cluster takes a request: round robin, the less loaded of two, or the ring with bounded loads.

A picker belongs to one membership of one cluster; the members' loads and availability change under it. Whatever the
policy: a member that is not available, was already tried for this request, or has weight 0 is never picked.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from functools import reduce
from math import gcd
from random import Random
from typing import Final, Protocol, assert_never

from flui.model.topology import Cluster, Endpoint, Policy
from flui.resilience.outlier import Vitals
from flui.routing import ring

_WHOLE_BP: Final = 10_000

_TURNS: Final = 4_096
"""Turns in one round of round robin at most; weights that would need more are rounded to it."""


class Member:
    """An endpoint and what is known about it while it serves. Outlives the picker when the membership changes."""

    __slots__ = ("active", "available", "endpoint", "label", "out", "share", "total", "vitals", "weight")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.label = endpoint.name.encode()
        """Its name, ready for log lines."""
        self.weight = endpoint.weight
        self.active = 0
        """Requests in flight; the upstream pool counts them."""
        self.total = 0
        """Requests that were sent to it so far, all tries together; whoever sends one counts it."""
        self.available = True
        """It may be picked."""
        self.out = False
        """It is judged unfit. It is available all the same while too many are."""
        self.share = 1.0
        """Part of its full share of the requests that it gets, while it comes back."""
        self.vitals = Vitals()
        """How its tries have ended."""

    def __repr__(self) -> str:
        return f"Member({self.endpoint.name!r}, active={self.active}, available={self.available})"


class Picker(Protocol):
    """A policy at work."""

    def pick(self, key: bytes, tried: Sequence[Member]) -> Member | None:
        """The member that takes the request; the caller counts it in `active`.

        Args:
            key: The request's hash key; empty when it has none.
            tried: Members that failed for this request already.

        Returns:
            None when no member is left.
        """


def picker(cluster: Cluster, members: Sequence[Member], random: Random) -> Picker:
    """The picker that a cluster's configuration asks for.

    Args:
        cluster: Says how to balance; its own endpoints are not looked at.
        members: Who there is now; their names differ.
        random: Source of chance, injected so that tests can repeat it.
    """
    balance = cluster.balance
    match balance.policy:
        case Policy.ROUND_ROBIN:
            return RoundRobin(members, random)
        case Policy.LEAST_LOADED:
            return LeastLoaded(members, random)
        case Policy.RING:
            return RingPicker(members, random, balance.excess_bp)
        case _:
            assert_never(balance.policy)


class RoundRobin:
    """Everyone in turn, as often as its weight says, with its turns spread evenly over the round."""

    __slots__ = ("_next", "_turns")

    def __init__(self, members: Sequence[Member], random: Random) -> None:
        self._turns = _turns(members)
        # Sidecars that start together would otherwise all begin with the same member.
        self._next = random.randrange(len(self._turns)) if self._turns else 0

    def pick(self, key: bytes, tried: Sequence[Member]) -> Member | None:
        """See `Picker`. The turn of a member that cannot be picked is skipped, which leaves the others their shares."""
        del key
        turns = self._turns
        at = self._next
        for _ in range(len(turns)):
            member = turns[at]
            at += 1
            if at == len(turns):
                at = 0
            if member.available and member not in tried:
                self._next = at
                return member
        return None


def _turns(members: Sequence[Member]) -> list[Member]:
    serving = [member for member in members if member.weight > 0]
    weights = [member.weight for member in serving]
    common = reduce(gcd, weights, 0)
    total = sum(weights) // common if common else 0
    if total > max(_TURNS, len(serving)):
        weights = [max(1, weight * _TURNS // (total * common)) for weight in weights]
    elif common:
        weights = [weight // common for weight in weights]
    spread: list[tuple[float, int]] = []
    for index, weight in enumerate(weights):
        # Each member begins at another part of its stride, so that light members do not clump together.
        phase = (index + 0.5) / len(weights)
        spread.extend(((turn + phase) / weight, index) for turn in range(weight))
    spread.sort()
    return [serving[index] for _, index in spread]


class LeastLoaded:
    """The less loaded of two members picked at random (Mitzenmacher 2001): nearly as even as knowing all, and no herd."""

    __slots__ = ("_count", "_edges", "_even", "_members", "_random")

    def __init__(self, members: Sequence[Member], random: Random) -> None:
        self._members = [member for member in members if member.weight > 0]
        self._count = len(self._members)
        self._random = random.random
        self._even = len({member.weight for member in self._members}) < 2
        self._edges: list[int] = _edges(self._members)

    def pick(self, key: bytes, tried: Sequence[Member]) -> Member | None:
        """See `Picker`. Load is requests in flight per weight; without load members are picked by weight."""
        del key
        count = self._count
        members = self._members
        if count == 1 and not tried and members[0].available:
            return members[0]
        if count < 2 or tried:
            return self._pick_of_rest(tried)
        chance = self._random()
        if self._even:
            # One draw gives both: its whole part the first, its fraction the second among the others.
            scaled = chance * count
            at = int(scaled)
            other = int((scaled - at) * (count - 1))
            if other >= at:
                other += 1
        else:
            edges = self._edges
            at = bisect(edges, chance * edges[-1])
            other = bisect(edges, self._random() * edges[-1])
        one = members[at]
        two = members[other]
        if one.available and two.available:
            return one if one.active * two.weight <= two.active * one.weight else two
        return self._pick_of_rest(tried)

    def _pick_of_rest(self, tried: Sequence[Member]) -> Member | None:
        rest = [member for member in self._members if member.available and member not in tried]
        if len(rest) < 2:
            return rest[0] if rest else None
        edges = _edges(rest)
        one = rest[bisect(edges, self._random() * edges[-1])]
        two = rest[bisect(edges, self._random() * edges[-1])]
        return one if one.active * two.weight <= two.active * one.weight else two


def _edges(members: Sequence[Member]) -> list[int]:
    """Upper end of each member's part of the total weight."""
    edges: list[int] = []
    total = 0
    for member in members:
        total += member.weight
        edges.append(total)
    return edges


class RingPicker:
    """Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018).

    A key goes to its member unless that one is full, then to the next in ring order that is not. A member is full when
    one more request would lift it above ceil((1 + excess) x mean load, by weight, of the available members). So a hot
    key spreads over as many members as it needs and no further, and a cold one does not move.
    """

    __slots__ = ("_bound_bp", "_members", "_ring", "_weights", "_without_key")

    def __init__(self, members: Sequence[Member], random: Random, excess_bp: int) -> None:
        self._members = [member for member in members if member.weight > 0]
        self._ring = ring.Ring([(member.endpoint.name, member.weight) for member in self._members])
        self._weights = sum(member.weight for member in self._members)
        self._bound_bp = _WHOLE_BP + excess_bp
        self._without_key = LeastLoaded(members, random)

    def pick(self, key: bytes, tried: Sequence[Member]) -> Member | None:
        """See `Picker`. Without a key it is the less loaded of two."""
        members = self._members
        if not key or not members:
            return self._without_key.pick(key, tried)
        member = members[self._ring.first(key)]
        if not member.active and member.available and not tried:
            return member  # an idle member is never full, whatever the others carry
        loads = [other.active for other in members if other.available]
        weights = self._weights if len(loads) == len(members) else sum(other.weight for other in members if other.available)
        bound = self._bound_bp * (sum(loads) + 1)
        scale = _WHOLE_BP * weights
        if member.available and not tried and member.active * scale < bound * member.weight:
            return member
        fallback: Member | None = None
        for index in self._ring.order(key):
            member = members[index]
            if member.available and member not in tried:
                # active < ceil(x) is active < x, as active is whole
                if member.active * scale < bound * member.weight:
                    return member
                if fallback is None:
                    fallback = member
        return fallback  # the only members with room are the ones that were tried: rather a little too much than none

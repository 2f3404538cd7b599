"""Kills processes of a fleet under load, and says what became of the requests.

`storm` is what happens, `Verdict` is what the callers and the modules saw: shares of success by kind of request, the time
after each kill until nothing failed any more, when the killed one served again, and what was begun more than once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from random import Random
from statistics import median

from support.fleet import Fleet, Kill
from support.fleet_callers import CUT, IDEMPOTENT, OK, WRONG, Asked, Traffic, outcomes


async def storm(
    fleet: Fleet, victims: Sequence[str], kills: int, random: Random, *, down_s: tuple[float, float], calm_s: tuple[float, float]
) -> None:
    """Kills one process after the other, each at a moment of its own.

    Args:
        fleet: Runs, and is asked.
        victims: Names of units to choose from.
        kills: How many.
        random: Chooses who and when.
        down_s: Bounds of the time that the killed one stays down.
        calm_s: Bounds of the time from when it is ready again to the next kill.
    """
    for _ in range(kills):
        kill = await fleet.kill(random.choice(victims), random.uniform(*down_s))
        await kill.back()
        await asyncio.sleep(random.uniform(*calm_s))  # the moment of the next kill, which chance chooses


class Verdict:
    """What callers and modules saw."""

    def __init__(self, fleet: Fleet, traffic: Traffic, kills: Sequence[Kill] | None = None) -> None:
        self.kills = list(fleet.kills if kills is None else kills)
        self.asked = traffic.asked
        self.begun = fleet.begun()
        self.refused = traffic.refused

    def of(self, kinds: frozenset[str]) -> list[Asked]:
        return [one for one in self.asked if one.kind in kinds]

    @property
    def idempotent(self) -> list[Asked]:
        return self.of(IDEMPOTENT)

    def failed(self, kinds: frozenset[str]) -> list[Asked]:
        """Those that were not answered rightly."""
        return [one for one in self.of(kinds) if one.outcome != OK]

    @property
    def share(self) -> float:
        """Of the idempotent requests, those that were answered rightly."""
        asked = self.idempotent
        return 1 - len(self.failed(IDEMPOTENT)) / len(asked)

    def failures(self) -> dict[tuple[str, str], int]:
        """Idempotent requests that failed, by kind and outcome."""
        return dict(Counter((one.kind, one.outcome) for one in self.failed(IDEMPOTENT)))

    @property
    def cut_off(self) -> int:
        """Requests that a kill is known to have hit on their way: begun more than once, failed, or with an answer cut short."""
        return sum(1 for one in self.asked if self.begun[one.id] > 1 or one.outcome != OK)

    @property
    def wrong(self) -> list[Asked]:
        """Answers that belong to another request, or pass for whole ones and are not."""
        return [one for one in self.asked if one.outcome == WRONG]

    @property
    def twice(self) -> list[bytes]:
        """Requests that may be done once only, and were begun more often."""
        return [one.id for one in self.of(frozenset(("POST",))) if self.begun[one.id] > 1]

    def recoveries(self) -> list[float]:
        """After each kill, seconds until the end of the last request that failed before the next kill; 0: none failed."""
        ends = [kill.at for kill in self.kills[1:]] + [float("inf")]
        failed = [one.ended for one in self.asked if one.outcome != OK and one.counts]
        return [
            max((at - kill.at for at in failed if kill.at <= at < end), default=0.0) for kill, end in zip(self.kills, ends, strict=True)
        ]

    def outages(self) -> list[float]:
        """After each kill, seconds until the first success of a request that began after it."""
        return [min(one.ended for one in self.asked if one.outcome == OK and one.began > kill.at) - kill.at for kill in self.kills]

    def returns(self) -> list[float]:
        """For each kill after which the replica served before it was hit again: seconds from when it was ready to its first answer."""
        found: list[float] = []
        for number, kill in enumerate(self.kills):
            again = next((k.at for k in self.kills[number + 1 :] if k.replica == kill.replica), float("inf"))
            first = min((a.ended for a in self.asked if a.replica == kill.replica and kill.up_at <= a.ended < again), default=0.0)
            if first and kill.up_at:
                found.append(first - kill.up_at)
        return found

    def lines(self) -> list[str]:
        """For people."""
        kinds = Counter(kill.unit.kind for kill in self.kills)
        recoveries = sorted(self.recoveries())
        returns = sorted(self.returns())
        down = sorted(kill.down_s for kill in self.kills)
        said = [f"{len(self.kills)} kills: {dict(kinds)}; down for {down[0]:.1f} to {down[-1]:.1f} s and as long as a start takes"]
        for kind in ("GET", "PUT", "KEYED", "POST", "PARTS"):
            asked = self.of(frozenset((kind,)))
            said.append(f"{kind:6} {len(asked):7} asked  {dict(outcomes(asked))}")
        said.append(f"idempotent {len(self.idempotent)} asked, {len(self.failed(IDEMPOTENT))} failed: {self.share:.5%}")
        again = sum(1 for one in self.idempotent if self.begun[one.id] > 1)
        said.append(f"idempotent begun more than once: {again}; POST begun more than once: {len(self.twice)}; wrong: {len(self.wrong)}")
        said.append(f"last failure after a kill: median {median(recoveries):.3f} s, longest {recoveries[-1]:.3f} s")
        if returns:
            said.append(
                f"from ready again to its first answer: median {median(returns):.3f} s, longest {returns[-1]:.3f} s ({len(returns)} kills)"
            )
        cut = sum(1 for one in self.asked if one.outcome == CUT)
        said.append(f"answers cut short, and seen to be: {cut}; connects refused: {self.refused}")
        return said

"""Issue 4: three hops with 300 ms. No hop starts work after expiry, and the caller gets 504 within 320 ms."""

import asyncio
import time

from support.hops import Chain
from support.mesh import Mesh, until
from support.resets import rested

LEFT_MS = 300
WITHIN_S = 0.320
CASES = {
    "expires at the third": (0.11, 0.11, 0.2),
    "expires at the second": (0.16, 0.16, 0.16),
    "expires on the way to the third": (0.10, 0.198, 0.05),
    "expires at the first": (0.35, 0.05, 0.05),
    "in time": (0.05, 0.05, 0.05),
}
NAMES = tuple(CASES)
ROUNDS = 24
AT_ONCE = 4
LATE_S = 0.010
"""What a module may note its begin after the sidecars let the request through: their own work, and one event loop for all."""


def case(number):
    return NAMES[number % len(NAMES)]


async def watch(stalls):
    """How long the loop stands still: what lies in a socket meanwhile has not begun to age for anybody."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.002)
        stalls.append(time.monotonic() - began - 0.002)


def test_three_hops_with_300_ms(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        chain = await Chain.start(mesh, tuple(lambda number, at=at: CASES[case(number)][at] for at in range(3)))
        for number in range(len(NAMES)):  # connections and certificates are warm, as in the everyday
            await chain.ask(number, 5_000)
        for hop in chain.hops:
            hop.starts.clear()
            hop.refused = 0
        numbers = iter(range(ROUNDS * len(NAMES)))
        asks = []

        async def caller():
            for number in numbers:
                asks.append(await chain.ask(number, LEFT_MS))  # noqa: PERF401 - as they end, not one after the other

        stalls = [0.0]
        watching = asyncio.ensure_future(watch(stalls))
        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        watching.cancel()
        ended = time.monotonic()
        await until(lambda: time.monotonic() - ended > 0.6, "whoever still works has come to its end")
        for side in chain.sides.values():
            await rested(side)

        by_number = {ask.number: ask for ask in asks}
        assert len(by_number) == ROUNDS * len(NAMES)
        late = max(start.at - by_number[start.number].sent_at for hop in chain.hops for start in hop.starts)
        took = sorted(ask.took_s for ask in asks if ask.status == 504)
        print(f"\n{len(asks)} requests with {LEFT_MS} ms over three hops, {AT_ONCE} at a time")
        for name in NAMES:
            counts = [sum(case(start.number) == name for start in hop.starts) for hop in chain.hops]
            statuses = sorted({ask.status for ask in asks if case(ask.number) == name})
            print(f"  {name:32} begun at orders, stock, depot: {counts}, answered {statuses}")
        print(f"  refused by the modules' own sidecars, as nothing was left: {[hop.refused for hop in chain.hops]}")
        print(f"  the last begin of any module was {late * 1000:.1f} ms after the caller asked")
        print(f"  the longest that the one event loop of all of them stood still: {max(stalls) * 1000:.1f} ms")
        percent = {p: took[min(len(took) - 1, int(len(took) * p / 100))] * 1000 for p in (1, 50, 90, 99)}
        shown = ", ".join(f"p{p} {ms:.1f}" for p, ms in percent.items())
        print(f"  {len(took)} answers of 504 after (ms): {shown}, most {took[-1] * 1000:.1f}")

        assert late <= LEFT_MS / 1000 + LATE_S + max(stalls)
        begun = {name: [sum(case(start.number) == name for start in hop.starts) for hop in chain.hops] for name in NAMES}
        assert begun["expires at the first"] == [ROUNDS, 0, 0]
        assert begun["expires at the second"] == [ROUNDS, ROUNDS, 0]
        assert begun["expires at the third"] == [ROUNDS, ROUNDS, ROUNDS]
        assert begun["in time"] == [ROUNDS, ROUNDS, ROUNDS]
        assert {ask.status for ask in asks if case(ask.number) == "in time"} == {200}
        assert len(took) >= ROUNDS * 3 >= 50
        assert {ask.status for ask in asks if case(ask.number) not in {"in time", "expires on the way to the third"}} == {504}
        for number in by_number:  # each hop is told of less than the one before
            told = [start.left_ms for hop in chain.hops for start in hop.starts if start.number == number]
            assert told[0] <= LEFT_MS
            works_ms = [work * 1000 for work in CASES[case(number)]]
            for at in range(1, len(told)):
                assert 0 < told[at] <= told[at - 1] - works_ms[at - 1] + 1
        assert took[0] >= LEFT_MS / 1000 - 0.002, "nobody is cut short"
        assert took[-1] <= WITHIN_S

    mesh.run(story(), 120)

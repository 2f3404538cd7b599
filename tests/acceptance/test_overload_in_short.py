"""The limit that finds itself, and who is served, at three times the capacity: some seconds in one process. See test_overload.py."""

import asyncio
from random import Random

from support.limits import GOLD, get, is_clean, pool_of, sidecar
from support.mesh import OK, Mesh, until


def test_three_times_the_capacity_in_short(tmp_path):
    """Only that the limit is found, high priority served, and most of the capacity used."""
    mesh = Mesh(tmp_path)
    workers = asyncio.Semaphore(4)
    inside = most = 0

    async def works(backend, request, reader, writer):
        nonlocal inside, most
        if request is not None:
            inside += 1
            most = max(most, inside)
            async with workers:
                await asyncio.sleep(0.04)
            inside -= 1
            writer.write(OK)
        return True

    async def story():
        nonlocal most
        orders = await sidecar(mesh, await mesh.backend(works), f"concurrency: {{start: 16}}, {GOLD}")
        random = Random(1)
        idle = [await mesh.caller(orders) for _ in range(150)]
        seen = {}

        async def one(at):
            await asyncio.sleep(at)
            caller = idle.pop()
            high = random.random() < 0.1
            answer = await caller.ask(get(fields="x-class: gold\r\n" if high else ""))
            idle.append(caller)
            key = ("high" if high else "normal", answer.status)
            seen[key] = seen.get(key, 0) + 1

        async def stretch(seconds):
            seen.clear()
            await asyncio.gather(*(one(random.random() * seconds) for _ in range(int(250 * seconds))))

        await stretch(3.0)
        most = 0
        await stretch(3.0)
        print(f"{seen}, at most {most} in the module, limit {pool_of(orders).guard.limiter.limit}")
        assert seen["high", 200] > 50
        assert ("high", 503) not in seen
        assert seen["normal", 503] > seen["normal", 200]
        assert seen["high", 200] + seen["normal", 200] >= 0.6 * 3.0 * 4 / 0.04
        assert pool_of(orders).guard.limiter.limit <= 12, "of 16 to begin with"
        await until(lambda: is_clean(orders), "nothing is left")
        for caller in idle:
            caller.close()

    mesh.run(story())

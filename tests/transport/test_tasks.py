"""Tasks are held while they run, end with their owner, and do not fail in silence."""

import asyncio
import gc

from flui.transport.tasks import TaskSet


def run(story):
    asyncio.run(asyncio.wait_for(story, 5))


def test_a_task_is_held_until_it_ends():
    async def story():
        tasks = TaskSet(lambda _: None)
        go = asyncio.Event()
        ended = asyncio.Event()

        async def work():
            await go.wait()
            ended.set()

        tasks.start(work())
        assert len(tasks) == 1
        gc.collect()
        go.set()
        await ended.wait()
        await asyncio.sleep(0)
        assert len(tasks) == 0

    run(story())


def test_what_a_task_lets_escape_is_told():
    async def story():
        told = []
        tasks = TaskSet(told.append)

        async def fails():
            raise ValueError("x")

        await asyncio.wait([tasks.start(fails())])
        await asyncio.sleep(0)
        assert [str(error) for error in told] == ["x"]
        assert len(tasks) == 0

    run(story())


def test_close_cancels_what_runs_and_waits_for_its_end():
    async def story():
        told = []
        tasks = TaskSet(told.append)
        cleaned = []

        async def work(number):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned.append(number)

        for number in range(3):
            tasks.start(work(number))
        await asyncio.sleep(0)
        await tasks.close()
        assert sorted(cleaned) == [0, 1, 2]
        assert told == [], "being cancelled is no failure"
        assert len(tasks) == 0

    run(story())

"""Processes: started in groups of their own, watched, and ended wholly."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flui.runtime.processes import Processes, StartError

STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
POLITE = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True); signal.pause()"
PARENT = (
    "import os, subprocess, sys, signal\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
    "print('child', child.pid, flush=True)\n"
    "signal.pause()\n"
)


def is_there(pid):
    """Whether a process runs; a zombie that its parent has yet to reap does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def start(processes, folder, name, code, **more):
    return await processes.start(
        name, "module", [sys.executable, "-c", code], folder=folder, environment=dict(os.environ), logs=[folder / f"{name}.log"], **more
    )


def wrote(folder, name, word):
    async def ready():
        return word in (folder / f"{name}.log").read_text()

    return ready


def run(work):
    return asyncio.run(asyncio.wait_for(work, 20))


def test_leaving_ends_every_process(tmp_path):
    async def work():
        async with Processes() as processes:
            started = [await start(processes, tmp_path, f"p{number}", POLITE) for number in range(3)]
            await processes.until_ready({p: wrote(tmp_path, p.name, "up") for p in started}, 10)
            assert all(is_there(p.pid) for p in started)
        assert not any(is_there(p.pid) for p in started)
        assert [p.status for p in started] == [0, 0, 0]
        assert processes.ended.empty()

    run(work())


OWNER = """
import asyncio, os, sys
from pathlib import Path
from flui.runtime.processes import Processes

async def main():
    async with Processes() as processes:
        child = await processes.start("child", "module", [sys.executable, "-c", sys.argv[1]], folder=Path.cwd(),
                                      environment=dict(os.environ), logs=[Path("child.log")])
        while "up" not in Path("child.log").read_text():
            await asyncio.sleep(0.01)
        print(child.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2)")
def test_a_killed_owner_leaves_nothing_behind(tmp_path):
    with subprocess.Popen([sys.executable, "-c", OWNER, POLITE], cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as owner:
        child = int(owner.stdout.readline())
        assert is_there(child)
        owner.kill()
    until = time.monotonic() + 20
    while is_there(child):
        assert time.monotonic() < until, "it goes on alone"
        os.sched_yield()


@pytest.mark.slow
def test_one_that_ignores_the_request_to_end_is_killed_after_the_grace(tmp_path):
    async def work():
        begun = time.monotonic()
        async with Processes(grace_s=0.2) as processes:
            stubborn = await start(processes, tmp_path, "stubborn", STUBBORN)
            await processes.until_ready({stubborn: wrote(tmp_path, "stubborn", "up")}, 10)
        assert stubborn.status == -signal.SIGKILL
        assert stubborn.ending() == "was ended by SIGKILL"
        assert time.monotonic() - begun < 10

    run(work())


def test_what_a_process_started_goes_with_it(tmp_path):
    async def work():
        async with Processes() as processes:
            parent = await start(processes, tmp_path, "parent", PARENT)
            await processes.until_ready({parent: wrote(tmp_path, "parent", "child ")}, 10)
            child = int((tmp_path / "parent.log").read_text().split()[1])
            ended = asyncio.Event()
            handle = os.pidfd_open(child)  # readable once the process has ended
            asyncio.get_running_loop().add_reader(handle, ended.set)
            os.kill(parent.pid, signal.SIGKILL)
            await processes.ended.get()
            await ended.wait()
            asyncio.get_running_loop().remove_reader(handle)
            os.close(handle)

    run(work())


def test_a_death_nobody_asked_for_is_told_at_once(tmp_path):
    async def work():
        async with Processes() as processes:
            started = [await start(processes, tmp_path, name, POLITE) for name in ("one", "two")]
            await processes.until_ready({p: wrote(tmp_path, p.name, "up") for p in started}, 10)
            os.kill(started[1].pid, signal.SIGKILL)
            dead = await processes.ended.get()
            assert (dead.name, dead.ending()) == ("two", "was ended by SIGKILL")
            assert [p.name for p in processes.running] == ["one"]

    run(work())


def test_one_that_ends_before_it_is_ready_is_named_with_its_last_lines(tmp_path):
    async def never():
        return False

    async def work():
        async with Processes() as processes:
            good = await start(processes, tmp_path, "good", POLITE)
            bad = await start(processes, tmp_path, "bad", "import sys; print('first'); print('no such port'); sys.exit(3)")
            with pytest.raises(StartError, match=r"^bad: ended with status 3 before it was ready$") as caught:
                await processes.until_ready({good: never, bad: never}, 10)
            assert caught.value.last == ("first", "no such port")
        assert not is_there(good.pid)

    run(work())


@pytest.mark.slow
def test_waiting_for_readiness_has_an_end(tmp_path):
    async def never():
        return False

    async def work():
        async with Processes() as processes:
            slow = await start(processes, tmp_path, "slow", POLITE)
            with pytest.raises(StartError, match=r"^slow: was not ready within 0\.3 s$"):
                await processes.until_ready({slow: never}, 0.3)

    run(work())


def test_a_program_that_is_not_there_is_said_so(tmp_path):
    async def work():
        async with Processes() as processes:
            with pytest.raises(StartError, match=r"^x: /nowhere/program cannot be run: No such file or directory$"):
                await processes.start("x", "module", ["/nowhere/program"], folder=tmp_path, environment={}, logs=[tmp_path / "x.log"])
            assert processes.running == []

    run(work())


def test_output_and_errors_go_to_their_own_files(tmp_path):
    async def work():
        async with Processes() as processes:
            logs = [tmp_path / "out", tmp_path / "err"]
            code = "import sys; print('said'); print('complained', file=sys.stderr)"
            await processes.start("two", "module", [sys.executable, "-c", code], folder=tmp_path, environment=dict(os.environ), logs=logs)
            ended = await processes.ended.get()
            assert [log.read_text() for log in logs] == ["said\n", "complained\n"]
            assert ended.last_lines() == ("said", "complained")

    run(work())


def test_a_cancelled_owner_leaves_nothing_behind(tmp_path):
    async def work():
        begun = asyncio.Event()
        started = []

        async def owner():
            async with Processes() as processes:
                started.append(await start(processes, tmp_path, "p", POLITE))
                await processes.until_ready({started[0]: wrote(tmp_path, "p", "up")}, 10)
                begun.set()
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(owner())
            await begun.wait()
            task.cancel()
        assert not is_there(started[0].pid)

    run(work())


def test_a_second_cancellation_does_not_wait_for_the_grace(tmp_path):
    async def work():
        begun = asyncio.Event()
        started = []

        async def owner():
            async with Processes(grace_s=60) as processes:
                started.append(await start(processes, tmp_path, "p", STUBBORN))
                await processes.until_ready({started[0]: wrote(tmp_path, "p", "up")}, 10)
                begun.set()
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(owner())
            await begun.wait()
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
        assert started[0].status == -signal.SIGKILL

    run(work())

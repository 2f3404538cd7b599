"""Plain processes: started in groups of their own, watched, and ended wholly.

    start ──► running ──► ended by itself: told through `ended`, at once
                 │
                 └─ stop(): SIGTERM to each group, a bounded wait, then SIGKILL

Every process leads its own process group, so that what it started goes with it, and a Ctrl-C in the terminal reaches
only us. Output goes to one file per process: nothing is read, so nobody can be stalled by a full pipe. Only processes
that were started here are ever signalled. Where the kernel can (Linux), they are told to end when we are gone without having
said so, killed for instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_POLL_S: Final = 0.02
_LAST_LINES: Final = 12
_PR_SET_PDEATHSIG: Final = 1
"""prctl(2)"""


class StartError(Exception):
    """A process could not be started, died before it was ready, or was not ready in time."""

    def __init__(self, name: str, what: str, last: tuple[str, ...] = ()) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name
        self.last = last
        """The last lines that it wrote."""


@dataclass(eq=False, slots=True)
class Process:
    """One running program."""

    name: str
    kind: str
    """`module` or `sidecar`; a label."""
    pid: int
    logs: tuple[Path, ...]
    """Where its output goes: standard output and error, or one file for both."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has ended."""
    status: int = 0
    """Exit status once gone; negative: the signal that ended it."""

    def ending(self) -> str:
        """How it ended, in words."""
        if self.status >= 0:
            return f"ended with status {self.status}"
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-self.status).name}"
        return f"was ended by signal {-self.status}"

    def last_lines(self) -> tuple[str, ...]:
        """The last lines of its output."""
        lines: list[str] = []
        for log in self.logs:
            with contextlib.suppress(OSError):
                lines += log.read_text("utf-8", "replace").splitlines()[-_LAST_LINES:]
        return tuple(lines[-_LAST_LINES:])


class Processes:
    """A set of processes with one end. Use as `async with Processes() as processes:`; leaving stops them all."""

    def __init__(self, grace_s: float = 5.0) -> None:
        self.grace_s = grace_s
        """Between SIGTERM and SIGKILL."""
        self.running: list[Process] = []
        """Those that have not ended, in the order of their start."""
        self.ended: asyncio.Queue[Process] = asyncio.Queue()
        """Those that ended although nobody had asked them to."""
        self._tasks = asyncio.TaskGroup()
        self._stopping = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self.stop()
        finally:
            for process in self.running:  # only if stop was cancelled
                _signal(process, signal.SIGKILL)
            await self._tasks.__aexit__(None, None, None)

    async def start(
        self, name: str, kind: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], logs: Sequence[Path]
    ) -> Process:
        """Starts a program in a group of its own, without input.

        Args:
            name: unique in this set; for people.
            kind: a label.
            command: program and arguments.
            folder: where it runs.
            environment: all of it.
            logs: files for standard output and error, or one for both; appended to.

        Raises:
            StartError: the program is not there or may not be run.
        """
        with contextlib.ExitStack() as files:
            out, *rest = [files.enter_context(log.open("ab")) for log in logs]
            try:
                child = await asyncio.create_subprocess_exec(
                    *command,
                    cwd=folder,
                    env=environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=rest[0] if rest else asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_ends_with_us(),
                )
            except OSError as error:
                raise StartError(name, f"{command[0]} cannot be run: {error.strerror}") from error
        process = Process(name, kind, child.pid, tuple(logs))
        self.running.append(process)
        self._tasks.create_task(self._watch(process, child), name=f"watch {name}")
        return process

    async def until_ready(self, probes: Mapping[Process, Callable[[], Awaitable[bool]]], timeout_s: float) -> None:
        """Returns once every probe has said yes.

        Raises:
            StartError: a process ended first, or time is up; with its last lines.
        """
        waiting = dict(probes)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while waiting:
                    for process, ready in list(waiting.items()):
                        if process.gone.is_set():
                            raise StartError(process.name, f"{process.ending()} before it was ready", process.last_lines())
                        if await ready():
                            del waiting[process]
                    await asyncio.sleep(_POLL_S if waiting else 0)
        for process in waiting:
            raise StartError(process.name, f"was not ready within {timeout_s:g} s", process.last_lines())

    async def stop(self) -> None:
        """Ends every process: SIGTERM to all, a bounded wait, then SIGKILL. Afterwards none is left. May be called again."""
        self._stopping = True
        left = list(self.running)
        for process in reversed(left):
            _signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.grace_s):
                for process in left:
                    await process.gone.wait()
        for process in left:
            if not process.gone.is_set():
                _signal(process, signal.SIGKILL)
        for process in left:
            await process.gone.wait()

    async def _watch(self, process: Process, child: asyncio.subprocess.Process) -> None:
        process.status = await child.wait()
        # What it had started itself stays in its group, whose number the kernel gives to no one else meanwhile.
        _signal(process, signal.SIGKILL)
        self.running.remove(process)
        process.gone.set()
        if not self._stopping:
            self.ended.put_nowait(process)


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(process.pid, number)


def _ends_with_us() -> Callable[[], None] | None:
    """What a new process does before it becomes its program: it asks for SIGTERM at our end."""
    if sys.platform != "linux":
        return None
    control = ctypes.CDLL(None).prctl
    ours = os.getpid()

    def ask() -> None:
        control(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != ours:
            os._exit(1)  # we were gone before it asked

    return ask

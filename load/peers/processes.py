"""Processes of a measurement: started on one core, waited for, and ended with all that they started, whatever happens.

Each leads a process group of its own, so that a Ctrl-C in the terminal reaches only us, and its children go with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

READY_WITHIN_S: Final = 20.0
_ENDS_WITHIN_S: Final = 5.0


class StartError(Exception):
    """A process died or did not listen in time; the text ends with the last lines that it wrote."""


@dataclass(frozen=True, slots=True)
class Process:
    """One that we started."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """The root of its process tree."""
        return self.popen.pid

    def last_lines(self) -> str:
        """What it wrote last, in one line."""
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-6:])[-800:] or "(it wrote nothing)"


class Processes:
    """Starts processes and ends every one that is left when the block is left."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(*self._running)

    def start(self, name: str, argv: Sequence[str], core: int, ports: Sequence[int], env: Mapping[str, str] | None = None) -> Process:
        """Starts a process pinned to a core and waits until it accepts on every port.

        Args:
            name: For its log file and for errors.
            argv: Program and arguments.
            core: The only CPU that it, its threads and its children may use.
            ports: On 127.0.0.1.
            env: Added to our own environment.

        Raises:
            StartError: It cannot be started, ended, or did not accept within READY_WITHIN_S.
        """
        log = self._logs / f"{name}.log"
        try:
            with log.open("wb") as output, pinned(core):
                popen = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(env or {})}, process_group=0
                )
        except OSError as error:
            raise StartError(f"{name}: {error}") from error
        process = Process(name, popen, log)
        self._running.append(process)
        try:
            for port in ports:
                _wait_until_accepting(process, port)
        except StartError:
            self.stop(process)
            raise
        return process

    def stop(self, *processes: Process) -> None:
        """Ends processes: SIGTERM to each, and SIGKILL to what is left of its group once it has ended or had its seconds."""
        processes = tuple(process for process in processes if process in self._running)
        for process in processes:
            process.popen.terminate()
        ends_at = time.monotonic() + _ENDS_WITHIN_S
        for process in processes:
            try:
                process.popen.wait(max(0.0, ends_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
            self._running.remove(process)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started inside inherits this one core: no `taskset` needed, and no moment in which it runs elsewhere."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_until_accepting(process: Process, port: int) -> None:
    gives_up_at = time.monotonic() + READY_WITHIN_S
    while True:
        if process.popen.poll() is not None:
            raise StartError(f"{process.name} ended with {process.popen.returncode}: {process.last_lines()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return
        if time.monotonic() > gives_up_at:
            raise StartError(f"{process.name} does not accept on port {port}: {process.last_lines()}")
        time.sleep(0.02)

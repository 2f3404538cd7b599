"""What a process tree has cost: CPU time of every thread from the scheduler's own books, and resident memory."""

from __future__ import annotations

import contextlib
from pathlib import Path


def tree(pid: int) -> tuple[int, ...]:
    """The process and all its descendants that live now, the process first."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text().split():
                    found += tree(int(child))
    return tuple(found)


def cpu_ns(pid: int) -> int:
    """Nanoseconds of CPU, user and system, that all live threads of the tree have had.

    `/proc/PID/task/*/schedstat` counts nanoseconds; utime and stime of `/proc/PID/stat` count ticks of 10 ms, far too coarse for a run of
    a few seconds. Threads that ended are not counted: a proxy at work keeps its own.
    """
    total = 0
    for member in tree(pid):
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                with contextlib.suppress(OSError):
                    total += int((task / "schedstat").read_text().split()[0])
    return total


def resident_octets(pid: int) -> int:
    """Resident memory of the tree; pages shared between its processes are counted in each."""
    total = 0
    for member in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
    return total


def maps_library_of(pid: int, folder: Path) -> bool:
    """Whether a process of the tree has a shared library from below `folder` in memory: what it runs, not what it was told to."""
    for member in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/maps").read_text().splitlines():
                path = Path(line.partition("/")[1] + line.partition("/")[2])
                if path.suffix == ".so" and path.is_relative_to(folder):
                    return True
    return False

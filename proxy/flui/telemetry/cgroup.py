"""Control groups: how much CPU and memory the sidecar's group may have, what it has, and how long it was held back.

Both versions, per controller, as a machine in transition has both mounted (cgroups(7); kernel documentation
`admin-guide/cgroup-v1`, `admin-guide/cgroup-v2`). A limit may stand at any level from the group up to where the hierarchy is mounted,
and all of them hold, so the smallest counts. In a container the upper levels are usually hidden.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

from flui.telemetry import _procfs

_UNLIMITED: Final = 1 << 60
"""Version 1 writes "no limit" as the largest multiple of a page; no machine has that much memory."""
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class Allowed(NamedTuple):
    """What was read; None is "not limited" for limits, and "cannot be seen" for the others."""

    version: int | None
    """1 or 2: where the CPU controller, or else memory's, is."""
    cpu_limit_cores: float | None
    cpu_throttled_s: float | None
    """Held back by any of the limits; when two hold at a time, both count."""
    memory_limit: int | None
    memory_used: int | None
    """Octets held against the limit, in the group whose limit is the smallest; with no limit, in our own."""
    memory_working: int | None
    """The same without cached files that would be given up first: it is what matters near the limit."""


class _Mount(NamedTuple):
    point: str
    within: str
    """The part of the hierarchy that is mounted."""


class Cgroup:
    """The control groups of this process. Mounts are read once, groups and numbers each time.

    Args:
        root: what stands before `/proc` and before the mount points.
    """

    __slots__ = ("_mounts", "_root")

    def __init__(self, root: str = "") -> None:
        self._root = root
        self._mounts: dict[str, _Mount] = {}
        for line in _procfs.octets(f"{root}/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
            self._note(line.split(" "))

    def read(self) -> Allowed:
        """What holds now."""
        groups = self._groups()
        cpu_version, cpu_levels = self._levels("cpu", groups)
        memory_version, memory_levels = self._levels("memory", groups)
        limit, used, working = _memory(memory_version, memory_levels)
        return Allowed(
            version=cpu_version or memory_version,
            cpu_limit_cores=_cores(cpu_version, cpu_levels),
            cpu_throttled_s=_throttled(cpu_version, cpu_levels),
            memory_limit=limit,
            memory_used=used,
            memory_working=working,
        )

    def _note(self, part: list[str]) -> None:
        """Keeps a line of mountinfo (proc(5)): id parent device root mount-point options ... - type source super-options."""
        if "-" not in part or len(part) < part.index("-") + 4 or part.index("-") < 6:
            return
        kind, _, options = part[part.index("-") + 1 :][:3]
        mount = _Mount(self._root + _unescaped(part[4]), _unescaped(part[3]))
        if kind == "cgroup2":
            self._mounts.setdefault("", mount)
        elif kind == "cgroup":
            for controller in {"cpu", "memory"}.intersection(options.split(",")):
                self._mounts.setdefault(controller, mount)

    def _groups(self) -> dict[str, str]:
        """Path of our group by controller; version 2 has all of its in one, under the empty name."""
        groups: dict[str, str] = {}
        for line in _procfs.octets(f"{self._root}/proc/self/cgroup").splitlines():
            part = os.fsdecode(line).split(":", 2)
            if len(part) == 3:
                groups.update(dict.fromkeys(part[1].split(","), part[2]))
        return groups

    def _levels(self, controller: str, groups: dict[str, str]) -> tuple[int | None, list[str]]:
        """Version and folders, from our group up to the mount point."""
        # a controller that version 1 lists is not in version 2, even if only that is mounted
        name = controller if controller in groups else ""
        mount = self._mounts.get(name)
        path = groups.get(name)
        if mount is None or path is None:
            return None, []
        within = mount.within.rstrip("/")
        # a path that leads out of what is mounted is that of a namespace not ours; then the mount point is the group
        inside = (path == within or path.startswith(f"{within}/")) and ".." not in path.split("/")
        names = [name for name in path[len(within) :].split("/") if name] if inside else []
        return (1 if name else 2), ["/".join((mount.point, *names[:depth])) for depth in range(len(names), -1, -1)]


def _cores(version: int | None, levels: list[str]) -> float | None:
    smallest: float | None = None
    for folder in levels:
        if version == 2:
            part = _procfs.octets(f"{folder}/cpu.max").split()
        else:
            part = [*_procfs.octets(f"{folder}/cpu.cfs_quota_us").split(), *_procfs.octets(f"{folder}/cpu.cfs_period_us").split()]
        # "max" and -1 are no limit
        if len(part) == 2 and part[0].isdigit() and part[1].isdigit() and int(part[0]) and int(part[1]):
            cores = int(part[0]) / int(part[1])
            smallest = cores if smallest is None else min(smallest, cores)
    return smallest


def _throttled(version: int | None, levels: list[str]) -> float | None:
    key, per_second = (b"throttled_usec", 10**6) if version == 2 else (b"throttled_time", 10**9)
    found = [number for folder in levels if (number := _entry(f"{folder}/cpu.stat", key)) is not None]
    return sum(found) / per_second if found else None


def _memory(version: int | None, levels: list[str]) -> tuple[int | None, int | None, int | None]:
    """Limit, used, and working set."""
    if version == 2:
        limit_file, used_file, cached = "memory.max", "memory.current", b"inactive_file"
    else:
        limit_file, used_file, cached = "memory.limit_in_bytes", "memory.usage_in_bytes", b"total_inactive_file"
    tightest: tuple[int, str] | None = None
    for folder in levels:
        limit = _number(f"{folder}/{limit_file}")
        if limit is not None and limit < _UNLIMITED and (tightest is None or limit < tightest[0]):
            tightest = limit, folder
    if not levels:
        return None, None, None
    folder = tightest[1] if tightest else levels[0]
    used = _number(f"{folder}/{used_file}")
    inactive = _entry(f"{folder}/memory.stat", cached)
    working = None if used is None or inactive is None else max(0, used - inactive)
    return (tightest[0] if tightest else None), used, working


def _number(path: str) -> int | None:
    text = _procfs.octets(path).strip()
    return int(text) if text.isdigit() else None


def _entry(path: str, key: bytes) -> int | None:
    """A number of a file with one name and number a line."""
    for line in _procfs.octets(path).splitlines():
        name, _, number = line.partition(b" ")
        if name == key and number.isdigit():
            return int(number)
    return None


def _unescaped(path: str) -> str:
    """Blanks and the like stand as octal numbers in mountinfo."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), path)

"""What the files of `/proc` say (proc(5)). Nothing here raises for a file that is missing, cut short or garbage.

Read by ourselves and not by a library: on one machine psutil took 8 MB and 76 ms to import, 0.14 ms for a process (6 ms with
10,000 open files), 1.8 ms to find children and 11 ms to find who listens, all of it on the event loop; its disk
counters add loop and mapped devices to the disks below them; and it knows nothing of control groups.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from flui.model.units import KIB, MIB

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PAGE_OCTETS: Final = os.sysconf("SC_PAGE_SIZE")
SECTOR_OCTETS: Final = 512
"""Of `/proc/diskstats`, whatever the disk's own are."""
MOST_OCTETS: Final = 1 * MIB
"""Read of one file; none that is read here comes near."""

CPU_MODES: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
"""Their sum is the time of all cores. Time of guests is in `user` and `nice` already."""
MEMORY_STATES: Final = {
    b"MemTotal": "total",
    b"MemAvailable": "available",
    b"MemFree": "free",
    b"Buffers": "buffers",
    b"Cached": "cached",
    b"SwapTotal": "swap_total",
    b"SwapFree": "swap_free",
}

Labelled = list[tuple[tuple[str, ...], float]]
"""Label values and numbers."""


def octets(path: str) -> bytes:
    """The whole file; nothing when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    parts: list[bytes] = []
    size = 0
    try:
        while size < MOST_OCTETS and (part := os.read(fd, 64 * KIB)):
            parts.append(part)
            size += len(part)
    except OSError:  # the process ended meanwhile
        return b""
    finally:
        os.close(fd)
    return b"".join(parts)


def rows(path: str) -> Iterator[bytes]:
    """The lines of a file one by one, read in pieces so small that the kernel makes no more of them than are taken."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    rest = b""
    try:
        while part := os.read(fd, 128):
            *whole, rest = (rest + part).split(b"\n")
            yield from whole
    except OSError:
        return
    finally:
        os.close(fd)


def names(folder: str) -> list[str] | None:
    """What is in a folder; None when it is hidden from us, or gone."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - a Path for each of thousands costs more than the call
    except OSError:
        return None


def link(path: str) -> str:
    """Where a symbolic link leads; empty when that is hidden from us, or gone."""
    try:
        return os.readlink(path)  # noqa: PTH115 - as above
    except OSError:
        return ""


class Stat(NamedTuple):
    """`/proc/PID/stat`. Times in ticks."""

    state: bytes
    parent: int
    user: int
    system: int
    waited_user: int
    """Of children that ended and were waited for, and of theirs."""
    waited_system: int
    threads: int
    start: int
    """Since the machine started."""
    resident: int
    """Pages."""


def stat(folder: str) -> Stat | None:
    """What a process has used; None when there is none.

    Args:
        folder: `/proc/PID`.
    """
    raw = octets(f"{folder}/stat")
    # the name before it is the process's own choice, brackets and blanks included
    part = raw[raw.rfind(b")") + 2 :].split()
    try:
        return Stat(
            state=part[0],
            parent=int(part[1]),
            user=int(part[11]),
            system=int(part[12]),
            waited_user=int(part[13]),
            waited_system=int(part[14]),
            threads=int(part[17]),
            start=int(part[19]),
            resident=int(part[21]),
        )
    except (IndexError, ValueError):
        return None


def disk(folder: str) -> tuple[int, int] | None:
    """Octets that a process, and its children that were waited for, made the disks read and write; None when that is hidden from us."""
    numbers: dict[bytes, int] = {}
    for line in octets(f"{folder}/io").splitlines():
        name, _, number = line.partition(b": ")
        if number.isdigit():
            numbers[name] = int(number)
    try:
        return numbers[b"read_bytes"], numbers[b"write_bytes"]
    except KeyError:
        return None


def count_files(folder: str) -> int | None:
    """Open files of a process, by listing them: 0.6 µs each. None when that is hidden from us."""
    found = names(f"{folder}/fd")
    return None if found is None else len(found)


def told_files(folder: str) -> int | None:
    """Open files of a process, as kernels from 6.2 on tell at once; others say 0. None when that is hidden from us."""
    try:
        return Path(f"{folder}/fd").stat().st_size
    except OSError:
        return None


def host_cpu(raw: bytes) -> Labelled:
    """Seconds by mode, from `/proc/stat`."""
    first, _, _ = raw.partition(b"\n")
    name, *ticks = first.split() or [b""]
    if name != b"cpu" or not all(number.isdigit() for number in ticks):
        return []
    return [((mode,), int(number) / TICKS_PER_S) for mode, number in zip(CPU_MODES, ticks, strict=False)]


def boot_time(raw: bytes) -> int | None:
    """Unix seconds at which the machine started, from `/proc/stat`."""
    _, found, rest = raw.partition(b"\nbtime ")
    number, _, _ = rest.partition(b"\n")
    return int(number) if found and number.isdigit() else None


def host_load(raw: bytes) -> Labelled:
    """Load averages, from `/proc/loadavg`."""
    try:
        one, five, fifteen = map(float, raw.split()[:3])
    except ValueError:
        return []
    return [(("1",), one), (("5",), five), (("15",), fifteen)]


def host_memory(raw: bytes) -> Labelled:
    """Octets by state, from `/proc/meminfo`. The states overlap: what is cached is mostly available."""
    found: Labelled = []
    for line in raw.splitlines():
        name, _, rest = line.partition(b":")
        state = MEMORY_STATES.get(name)
        number = rest.split()[:1]
        if state is not None and number and number[0].isdigit():
            found.append(((state,), int(number[0]) * KIB))
    return found


def host_disk(raw: bytes, is_physical: Callable[[str], bool]) -> Labelled:
    """Octets by direction, from `/proc/diskstats`.

    Args:
        raw: the file.
        is_physical: tells whether a device, by its name, is a whole disk and not a part or a mapping of others.
    """
    read = written = 0
    seen = False
    for line in raw.splitlines():
        part = line.split()
        if len(part) > 9 and part[5].isdigit() and part[9].isdigit() and is_physical(os.fsdecode(part[2])):
            seen = True
            read += int(part[5]) * SECTOR_OCTETS
            written += int(part[9]) * SECTOR_OCTETS
    return [(("read",), read), (("written",), written)] if seen else []


def host_network(raw: bytes, is_physical: Callable[[str], bool]) -> Labelled:
    """Octets by direction, from `/proc/net/dev`, without loopback.

    Where there is a real interface only real ones count: bridges, tunnels and bonds carry the same octets once more. Where
    there is none, as in a container, all count.
    """
    real: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    for line in raw.splitlines():
        name, colon, rest = line.partition(b":")
        part = rest.split()
        interface = os.fsdecode(name.strip())
        if colon and interface != "lo" and len(part) > 8 and part[0].isdigit() and part[8].isdigit():
            (real if is_physical(interface) else others).append((int(part[0]), int(part[8])))
    counted = real or others
    if not counted:
        return []
    return [(("received",), sum(each[0] for each in counted)), (("sent",), sum(each[1] for each in counted))]

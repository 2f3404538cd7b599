"""The module's processes: who listens where the module should be, with all its children, and what they use together.

    app address -> listening sockets (/proc/net) -> who holds one (/proc/PID/fd) -> their children -> sums

The search reads every process and is done beside the event loop, at most every 5 s; between two searches the processes that were
found are read directly, or beside it too when they are many.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from operator import itemgetter
from typing import Final, NamedTuple

from flui.model.topology import Address
from flui.telemetry import _procfs
from flui.telemetry._beside import Beside
from flui.telemetry._procfs import PAGE_OCTETS, TICKS_PER_S, Stat

REFRESH_S: Final = 5.0
FEW: Final = 16
"""Processes that are read directly: each takes 25 to 50 µs."""
_LISTENS: Final = b"0A"
_ACCEPTS: Final = 0x10000
_ENDED: Final = b"Z"
"""Nobody has waited for it yet: it has used what it used, and holds nothing."""
# dual-stack sockets show IPv4 addresses this way (RFC 4291 2.5.5.2)
_MAPPED: Final = bytes(10) + b"\xff\xff"


class Found(NamedTuple):
    """The outcome of a search."""

    processes: frozenset[tuple[int, int]]
    """Process id and start, in ticks: an id is used again."""
    files: dict[int, int]
    """Open files by process id, where the kernel does not tell their number at once."""


class Usage(NamedTuple):
    """What the module's processes use together."""

    processes: int
    user_s: float
    system_s: float
    resident_octets: int
    """Pages that several share count for each."""
    threads: int
    start_ticks: int
    """Of the oldest."""
    files: int | None
    disk: tuple[float, float] | None
    """Octets read and written; None when hidden from us."""


class Rising:
    """Keeps a sum from falling when a summand goes: Prometheus takes a fall for a restart and would count the rest once more."""

    __slots__ = ("_last", "_lost")

    def __init__(self) -> None:
        self._last = 0.0
        self._lost = 0.0

    def raised(self, total: float) -> float:
        """The sum, with what has gone from it."""
        self._lost += max(0.0, self._last - total)
        self._last = total
        return total + self._lost


class Module:
    """Finds and reads the module's processes.

    Args:
        app: where it listens.
        tells: the kernel tells the number of open files at once.
        root: what stands before `/proc`.
        clock: monotonic seconds.
    """

    __slots__ = ("_app", "_found", "_known", "_proc", "_sums", "_tells", "reading", "search")

    def __init__(self, app: Address, clock: Callable[[], float], *, tells: bool, root: str = "") -> None:
        self._app = app
        self._tells = tells
        self._proc = f"{root}/proc"
        self._known: frozenset[tuple[int, int]] = frozenset()
        self._sums: tuple[Rising, ...] = ()
        self._found: Found | None = None
        self.search = Beside(self._find, REFRESH_S, clock)
        self.reading = Beside(self._read, 0.0, clock)

    def usage(self) -> tuple[bool | None, Usage | None]:
        """Whether the module is seen, None while that is not known yet; and what it uses."""
        self._found = self.search.latest()
        usage = self._current()
        if usage is None and self.reading.thread is None and self._found is not None and self._found.processes:
            self._found = self.search.latest(anew=True)
            usage = self._current()
        if usage is None and (self._found is None or self.reading.thread is not None):
            return None, None
        return usage is not None, usage

    def _current(self) -> Usage | None:
        if self.reading.thread is None and (self._found is None or len(self._found.processes) <= FEW):
            return self._read()
        return self.reading.latest()

    def _read(self) -> Usage | None:
        found = self._found
        if found is None:
            return None
        stats = self._stats(found)
        if len(stats) < len(found.processes):
            # one ended, perhaps after its parent was read: then its time would be missing here, and twice in what `Rising` gives
            stats = self._stats(found)
        if all(stat.state == _ENDED for stat in stats.values()):
            return None
        if not self._known & found.processes:
            self._sums = tuple(Rising() for _ in range(4))
        self._known = found.processes
        files: int | None = 0
        disk: tuple[int, int] | None = (0, 0)
        for pid, stat in stats.items():
            if stat.state != _ENDED:
                count = _procfs.told_files(f"{self._proc}/{pid}") if self._tells else found.files.get(pid)
                files = None if files is None or count is None else files + count
            moved = _procfs.disk(f"{self._proc}/{pid}")
            disk = None if disk is None or moved is None else (disk[0] + moved[0], disk[1] + moved[1])
        user, system, read, written = self._sums
        each = stats.values()
        return Usage(
            processes=len(stats),
            # who was waited for is in its parent's numbers, so nothing is lost when a worker ends
            user_s=user.raised(sum(stat.user + stat.waited_user for stat in each) / TICKS_PER_S),
            system_s=system.raised(sum(stat.system + stat.waited_system for stat in each) / TICKS_PER_S),
            resident_octets=sum(stat.resident for stat in each) * PAGE_OCTETS,
            threads=sum(stat.threads for stat in each),
            start_ticks=min(stat.start for stat in each),
            files=files,
            disk=None if disk is None else (read.raised(disk[0]), written.raised(disk[1])),
        )

    def _stats(self, found: Found) -> dict[int, Stat]:
        """Those that still are, parents before their children, so that who is waited for meanwhile is missed, not counted twice."""
        stats: dict[int, Stat] = {}
        for pid, start in sorted(found.processes, key=itemgetter(1, 0)):
            stat = _procfs.stat(f"{self._proc}/{pid}")
            if stat is not None and stat.start == start:
                stats[pid] = stat
        return stats

    # -- the search, in a thread of its own ----------------------------------------------------------------------------

    def _find(self) -> Found:
        links = {f"socket:[{inode}]" for inode in self._listening()}
        if not links:
            return Found(frozenset(), {})
        stats: dict[int, Stat] = {}
        holders: set[int] = set()
        for name in _procfs.names(self._proc) or ():
            if name.isdecimal() and (stat := _procfs.stat(f"{self._proc}/{name}")) is not None:
                stats[int(name)] = stat
                if self._holds(name, links):
                    holders.add(int(name))
        chosen = kin(holders, {pid: stat.parent for pid, stat in stats.items()}, self._ourselves())
        files: dict[int, int] = {}
        if not self._tells:
            counts = ((pid, _procfs.count_files(f"{self._proc}/{pid}")) for pid in chosen)
            files = {pid: count for pid, count in counts if count is not None}
        return Found(frozenset((pid, stats[pid].start) for pid in chosen), files)

    def _ourselves(self) -> int:
        # not getpid: /proc may be that of another process namespace
        name = _procfs.link(f"{self._proc}/self")
        return int(name) if name.isdecimal() else 0

    def _holds(self, name: str, links: set[str]) -> bool:
        folder = f"{self._proc}/{name}/fd"
        return any(_procfs.link(f"{folder}/{number}") in links for number in _procfs.names(folder) or ())

    def _listening(self) -> Iterator[int]:
        """Inodes of the sockets that accept connections at the module's address."""
        if not self._app.port:
            yield from self._listening_unix(os.fsencode(self._app.host))
            return
        exact, wildcard = spellings(self._app.host)
        ending = b":%04X" % self._app.port
        any_address: list[int] = []
        found = False
        for name in ("tcp", "tcp6"):
            for line in _procfs.rows(f"{self._proc}/net/{name}"):
                part = line.split()
                if len(part) < 10 or part[0] == b"sl":
                    continue
                if part[3] != _LISTENS:
                    break  # listening ones come first; the others may be thousands
                if not part[1].endswith(ending) or not part[9].isdigit():
                    continue
                address = part[1][: -len(ending)]
                if address in exact:
                    found = True
                    yield int(part[9])
                elif address in wildcard:
                    any_address.append(int(part[9]))
        if not found:  # the kernel prefers the exact address, too
            yield from any_address

    def _listening_unix(self, path: bytes) -> Iterator[int]:
        for line in _procfs.octets(f"{self._proc}/net/unix").splitlines()[1:]:
            part = line.split(maxsplit=7)
            try:
                if part[7] == path and int(part[3], 16) & _ACCEPTS:
                    yield int(part[6])
            except (IndexError, ValueError):
                continue


def kin(holders: set[int], parents: dict[int, int], ourselves: int) -> set[int]:
    """The holders with all their children.

    Who started the sidecar and holds the socket too is left out unless nobody else holds it: a supervisor hands sockets on
    (and all of the machine would be its child), while a script may well start the sidecar and then become the module.

    Args:
        holders: process ids that hold the socket.
        parents: the parent of each process.
        ourselves: the sidecar's process id.
    """
    younger = holders.difference(_line(ourselves, parents))
    if not younger:
        return holders - {ourselves}
    return {pid for pid in parents if not younger.isdisjoint(_line(pid, parents))}


def _line(pid: int, parents: dict[int, int]) -> list[int]:
    """A process, its parent, and so on. Ends even when the ids were used again while they were read."""
    line: list[int] = []
    while pid in parents and pid not in line:
        line.append(pid)
        pid = parents[pid]
    return line


def spellings(host: str) -> tuple[set[bytes], set[bytes]]:
    """How `/proc/net/tcp` and `tcp6` write an address that was listened on: itself, and any address that includes it.

    A host name other than localhost has none: only the resolver knows what it means.
    """
    if host == "localhost":
        hosts: list[IPv4Address | IPv6Address] = [IPv4Address("127.0.0.1"), IPv6Address("::1")]
    else:
        try:
            hosts = [ip_address(host)]
        except ValueError:
            return set(), set()
    exact: set[bytes] = set()
    for each in hosts:
        exact.add(_spelt(each.packed))
        if each.version == 4:
            exact.add(_spelt(_MAPPED + each.packed))
    # another machine's address is not ours because somebody here listens everywhere
    wildcard = {_spelt(bytes(4)), _spelt(bytes(16))} if all(each.is_loopback for each in hosts) else set()
    return exact, wildcard


def _spelt(packed: bytes) -> bytes:
    """Words of 32 bits as the machine orders them."""
    words = (int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4))
    return b"".join(b"%08X" % word for word in words)

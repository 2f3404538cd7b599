"""What the machine gives and what is used of it: by the host, by the sidecar, by the module, and in the control group.

Everything is read when the page is asked for, at most once a second for all families together. What cannot be read has no
sample; nothing here raises. `docs/resources.md` tells where each number comes from.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from flui.model.topology import Address
from flui.telemetry import _procfs
from flui.telemetry._beside import Beside
from flui.telemetry._module import Module
from flui.telemetry._procfs import PAGE_OCTETS, TICKS_PER_S, Labelled
from flui.telemetry.cgroup import Cgroup
from flui.telemetry.families import Family, Kind
from flui.telemetry.meters import Meters, Samples

FRESH_S: Final = 0.5
"""Readings younger than this are given again."""
BESIDE_S: Final = 5.0
"""The same for what is read beside the event loop."""

PROCESS_CPU: Final = Family("flui_process_cpu_seconds_total", Kind.COUNTER, ("mode",), "CPU time of the sidecar: user, system.")
PROCESS_RESIDENT: Final = Family("flui_process_resident_octets", Kind.GAUGE, (), "Memory of the sidecar that is in RAM.")
PROCESS_FILES: Final = Family("flui_process_open_files", Kind.GAUGE, (), "Open files and sockets of the sidecar.")
PROCESS_FILES_LIMIT: Final = Family("flui_process_open_files_limit", Kind.GAUGE, (), "How many it may have.")
PROCESS_THREADS: Final = Family("flui_process_threads", Kind.GAUGE, (), "Threads of the sidecar.")
PROCESS_START: Final = Family("flui_process_start_time_seconds", Kind.GAUGE, (), "Unix time at which the sidecar started.")
PROCESS_DISK: Final = Family(
    "flui_process_disk_octets_total", Kind.COUNTER, ("direction",), "Octets that the sidecar made the disks move: read, written."
)

MODULE_SEEN: Final = Family(
    "flui_module_seen", Kind.GAUGE, (), "1 while a process that listens where the module should be is seen, else 0."
)
MODULE_PROCESSES: Final = Family("flui_module_processes", Kind.GAUGE, (), "Processes of the module.")
MODULE_CPU: Final = Family("flui_module_cpu_seconds_total", Kind.COUNTER, ("mode",), "CPU time of the module: user, system.")
MODULE_RESIDENT: Final = Family(
    "flui_module_resident_octets", Kind.GAUGE, (), "Memory of the module that is in RAM; what its processes share counts for each."
)
MODULE_FILES: Final = Family("flui_module_open_files", Kind.GAUGE, (), "Open files and sockets of the module.")
MODULE_THREADS: Final = Family("flui_module_threads", Kind.GAUGE, (), "Threads of the module.")
MODULE_START: Final = Family(
    "flui_module_start_time_seconds", Kind.GAUGE, (), "Unix time at which the oldest process of the module started."
)
MODULE_DISK: Final = Family(
    "flui_module_disk_octets_total", Kind.COUNTER, ("direction",), "Octets that the module made the disks move: read, written."
)

HOST_CPU: Final = Family("flui_host_cpu_seconds_total", Kind.COUNTER, ("mode",), "CPU time of all cores, by what it went for.")
HOST_CORES: Final = Family("flui_host_cpu_cores", Kind.GAUGE, (), "Cores that the sidecar may run on.")
HOST_LOAD: Final = Family("flui_host_load", Kind.GAUGE, ("minutes",), "Load average over 1, 5, 15 minutes.")
HOST_MEMORY: Final = Family(
    "flui_host_memory_octets",
    Kind.GAUGE,
    ("state",),
    "Memory: total, available, free, buffers, cached, swap_total, swap_free. They overlap.",
)
HOST_DISK: Final = Family(
    "flui_host_disk_octets_total", Kind.COUNTER, ("direction",), "Octets that whole physical disks moved: read, written."
)
HOST_FILESYSTEM: Final = Family(
    "flui_host_filesystem_octets",
    Kind.GAUGE,
    ("folder", "state"),
    "File system of the working folder (work), and of the access log if it is another (log): total, free, available.",
)
HOST_NETWORK: Final = Family(
    "flui_host_network_octets_total", Kind.COUNTER, ("direction",), "Octets over real network interfaces: received, sent."
)

CGROUP_VERSION: Final = Family("flui_cgroup_version", Kind.GAUGE, (), "Version of the control groups in force, 1 or 2.")
CGROUP_CPU_LIMIT: Final = Family("flui_cgroup_cpu_limit_cores", Kind.GAUGE, (), "Cores' worth of CPU time allowed; absent without a limit.")
CGROUP_THROTTLED: Final = Family("flui_cgroup_cpu_throttled_seconds_total", Kind.COUNTER, (), "Time held back by that limit.")
CGROUP_MEMORY: Final = Family(
    "flui_cgroup_memory_octets",
    Kind.GAUGE,
    ("what",),
    "limit (absent without one), used (all that counts against it), working (used, without cached files that go first).",
)

FAMILIES: Final[tuple[Family, ...]] = (
    PROCESS_CPU,
    PROCESS_RESIDENT,
    PROCESS_FILES,
    PROCESS_FILES_LIMIT,
    PROCESS_THREADS,
    PROCESS_START,
    PROCESS_DISK,
    MODULE_SEEN,
    MODULE_PROCESSES,
    MODULE_CPU,
    MODULE_RESIDENT,
    MODULE_FILES,
    MODULE_THREADS,
    MODULE_START,
    MODULE_DISK,
    HOST_CPU,
    HOST_CORES,
    HOST_LOAD,
    HOST_MEMORY,
    HOST_DISK,
    HOST_FILESYSTEM,
    HOST_NETWORK,
    CGROUP_VERSION,
    CGROUP_CPU_LIMIT,
    CGROUP_THROTTLED,
    CGROUP_MEMORY,
)
"""Every family of this module, in the order of the page."""

_Read = dict[Family, Labelled]


class Resources:
    """Reads the machine when it is asked. For one thread, that of the event loop.

    Args:
        app: where the module listens; None: there is none.
        log: file of the access log, `-` or `off`.
        root: what stands before `/proc`, `/sys` and the mount points of control groups.
        clock: monotonic seconds.
    """

    __slots__ = (
        "_boot",
        "_cgroup",
        "_clock",
        "_disks",
        "_files",
        "_folders",
        "_proc",
        "_read",
        "_read_at",
        "_sys",
        "_tells",
        "file_systems",
        "module",
    )

    def __init__(self, app: Address | None, log: str = "-", *, root: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = f"{root}/proc"
        self._sys = f"{root}/sys"
        self._clock = clock
        self._cgroup = Cgroup(root)
        # once: it moves when the clock is set, and a start must not
        self._boot = _procfs.boot_time(_procfs.octets(f"{self._proc}/stat"))
        self._disks: dict[str, bool] = {}
        self._read: _Read = {}
        self._read_at = -FRESH_S
        ourselves = f"{self._proc}/self"
        # kernels before 6.2 say 0 where later ones say how many; listing opens one more
        told, listed = _procfs.told_files(ourselves), _procfs.count_files(ourselves)
        self._tells = bool(told) and told in {listed, (listed or 0) - 1}
        self._files = Beside(partial(_procfs.count_files, ourselves), BESIDE_S, clock)
        self._folders = {"work": "."} | ({"log": str(Path(log).absolute().parent)} if log not in {"-", "off"} else {})
        self.file_systems = Beside(self._read_file_systems, BESIDE_S, clock)
        """Beside the event loop, for the server of a network file system may be gone."""
        self.module = None if app is None else Module(app, clock, tells=self._tells, root=root)

    def register(self, meters: Meters) -> None:
        """Has the page ask here for every family. The search for the module begins at once."""
        for family in FAMILIES:
            meters.read(family, partial(self.samples, family))
        self.look()

    def look(self) -> None:
        """Begins a search for the module, as when it has just come up, so that the next page has it. Does not wait."""
        if self.module is not None:
            self.module.search.latest(anew=True, wait_s=0.0)

    def samples(self, family: Family) -> Samples:
        """What is known of a family now; all families are read together and again when a second has passed."""
        now = self._clock()
        if now - self._read_at >= FRESH_S:
            self._read_at = now
            self._read = {**self._of_process(), **self._of_module(), **self._of_host(), **self._of_cgroup()}
        return self._read.get(family, ())

    # -- the groups ----------------------------------------------------------------------------------------------------

    def _of_process(self) -> _Read:
        ourselves = f"{self._proc}/self"
        used = resource.getrusage(resource.RUSAGE_SELF)
        read: _Read = {
            PROCESS_CPU: [(("user",), used.ru_utime), (("system",), used.ru_stime)],
            PROCESS_FILES: _one(_procfs.told_files(ourselves) if self._tells else self._files.latest()),
            PROCESS_DISK: _moved(_procfs.disk(ourselves)),
        }
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY:
            read[PROCESS_FILES_LIMIT] = _one(limit)
        stat = _procfs.stat(ourselves)
        if stat is not None:
            read[PROCESS_RESIDENT] = _one(stat.resident * PAGE_OCTETS)
            read[PROCESS_THREADS] = _one(stat.threads)
            read[PROCESS_START] = self._started(stat.start)
        return read

    def _of_module(self) -> _Read:
        if self.module is None:
            return {}
        seen, usage = self.module.usage()
        read: _Read = {MODULE_SEEN: _one(None if seen is None else int(seen))}
        if usage is not None:
            read[MODULE_PROCESSES] = _one(usage.processes)
            read[MODULE_CPU] = [(("user",), usage.user_s), (("system",), usage.system_s)]
            read[MODULE_RESIDENT] = _one(usage.resident_octets)
            read[MODULE_FILES] = _one(usage.files)
            read[MODULE_THREADS] = _one(usage.threads)
            read[MODULE_START] = self._started(usage.start_ticks)
            read[MODULE_DISK] = _moved(usage.disk)
        return read

    def _of_host(self) -> _Read:
        proc = self._proc
        known = self._disks
        self._disks = {}
        return {
            HOST_CPU: _procfs.host_cpu(_procfs.octets(f"{proc}/stat")),
            HOST_CORES: _one(len(os.sched_getaffinity(0))),
            HOST_LOAD: _procfs.host_load(_procfs.octets(f"{proc}/loadavg")),
            HOST_MEMORY: _procfs.host_memory(_procfs.octets(f"{proc}/meminfo")),
            HOST_DISK: _procfs.host_disk(_procfs.octets(f"{proc}/diskstats"), partial(self._is_disk, known)),
            HOST_FILESYSTEM: self.file_systems.latest() or [],
            HOST_NETWORK: _procfs.host_network(_procfs.octets(f"{proc}/net/dev"), self._is_interface),
        }

    def _of_cgroup(self) -> _Read:
        allowed = self._cgroup.read()
        memory = (("limit", allowed.memory_limit), ("used", allowed.memory_used), ("working", allowed.memory_working))
        return {
            CGROUP_VERSION: _one(allowed.version),
            CGROUP_CPU_LIMIT: _one(allowed.cpu_limit_cores),
            CGROUP_THROTTLED: _one(allowed.cpu_throttled_s),
            CGROUP_MEMORY: [((what,), number) for what, number in memory if number is not None],
        }

    # -- what they ask -------------------------------------------------------------------------------------------------

    def _started(self, ticks: int) -> Labelled:
        return [] if self._boot is None else [((), self._boot + ticks / TICKS_PER_S)]

    def _is_disk(self, known: dict[str, bool], name: str) -> bool:
        """A whole disk that stands on no other: not a part, loop, mapping, array, or path to one that is shown already."""
        if name not in self._disks:
            folder = f"{self._sys}/block/{name.replace('/', '!')}"
            self._disks[name] = known[name] if name in known else _is_real(folder) and _procfs.octets(f"{folder}/hidden").strip() != b"1"
        return self._disks[name]

    def _is_interface(self, name: str) -> bool:
        return _is_real(f"{self._sys}/class/net/{name}")

    def _read_file_systems(self) -> Labelled:
        found: Labelled = []
        devices: set[int] = set()
        for folder, path in self._folders.items():
            try:
                device, told = Path(path).stat().st_dev, os.statvfs(path)
            except OSError:
                continue
            if device not in devices:
                devices.add(device)
                for state, blocks in (("total", told.f_blocks), ("free", told.f_bfree), ("available", told.f_bavail)):
                    found.append(((folder, state), blocks * told.f_frsize))
        return found


def register(meters: Meters, app: Address | None, log: str = "-") -> Resources:
    """Has the page of `meters` show the machine, the sidecar, the module at `app` and the control group.

    Args:
        meters: the sidecar's.
        app: where the module listens; None: there is none.
        log: file of the access log, `-` or `off`.
    """
    resources = Resources(app, log)
    resources.register(meters)
    return resources


def _one(number: float | None) -> Labelled:
    return [] if number is None else [((), number)]


def _moved(octets: tuple[float, float] | None) -> Labelled:
    return [] if octets is None else [(("read",), octets[0]), (("written",), octets[1])]


def _is_real(folder: str) -> bool:
    """Whether a device of `/sys` is driven by hardware, real or a machine's virtual one."""
    return Path(f"{folder}/device").exists()

"""Resource metrics: each equals what another reader of the machine counts, costs little, and breaks nothing."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flui.model.topology import Address
from flui.telemetry import families, resources
from flui.telemetry.exposition import page
from flui.telemetry.families import Family, Kind
from flui.telemetry.meters import Meters
from flui.telemetry.resources import FAMILIES, Resources, register

MIB = 1024 * 1024
PROCESS = [family for family in FAMILIES if family.name.startswith("flui_process_")]
MODULE = [family for family in FAMILIES if family.name.startswith("flui_module_")]
HOST = [family for family in FAMILIES if family.name.startswith("flui_host_")]


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def now(family: Family, **more: object) -> dict[tuple[str, ...], float]:
    found = Resources(None, **more)
    samples = dict(found.samples(family))
    found.file_systems.latest(wait_s=20)  # no thread is left over that the next would count
    return samples


def sysfs(path: str) -> int:
    return int(Path(path).read_text())


@contextmanager
def between(family: Family, read) -> Iterator[dict[tuple[str, ...], float]]:
    """What is read lies between two readings of another observer, of numbers that only grow."""
    before, found, after = read(), now(family), read()
    assert found.keys() == before.keys() == after.keys()
    for labels, number in found.items():
        assert before[labels] <= number <= after[labels], labels
    yield found


# -- the sidecar ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cpu_time_of_the_sidecar_equals_the_kernels_within_2_percent() -> None:
    def kernel() -> float:
        part = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return (int(part[11]) + int(part[12])) / os.sysconf("SC_CLK_TCK")

    first, first_kernel = sum(now(resources.PROCESS_CPU).values()), kernel()
    end = time.process_time() + 1.0
    while time.process_time() < end:
        pass
    used, used_kernel = sum(now(resources.PROCESS_CPU).values()) - first, kernel() - first_kernel
    assert used == pytest.approx(used_kernel, rel=0.02, abs=0.02)
    assert used > 0.99


def test_memory_of_the_sidecar_grows_by_what_it_holds() -> None:
    gc.collect()
    before = now(resources.PROCESS_RESIDENT)[()]
    held = b"x" * (128 * MIB)
    assert now(resources.PROCESS_RESIDENT)[()] - before == pytest.approx(len(held), rel=0.02)
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    exact = next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Rss:"))
    assert now(resources.PROCESS_RESIDENT)[()] == pytest.approx(exact, rel=0.02)


def _counted() -> tuple[int, int]:
    """Open files and threads of this process, by its folders."""
    return len(list(Path("/proc/self/fd").iterdir())) - 1, len(list(Path("/proc/self/task").iterdir()))


def test_open_files_and_threads_are_counted_one_by_one() -> None:
    clock = _Clock()
    found = Resources(None, clock=clock)
    found.samples(resources.HOST_FILESYSTEM)
    found.file_systems.latest(wait_s=20)

    def read() -> tuple[float, float]:
        """Asked again while threads of other tests come to their end, or the folder is still being counted."""
        until = time.monotonic() + 20
        while True:
            before = _counted()
            clock.now += 1
            files, threads = (dict(found.samples(family))[()] for family in (resources.PROCESS_FILES, resources.PROCESS_THREADS))
            if (files, threads) == before == _counted():
                return files, threads
            assert time.monotonic() < until, f"{files} files and {threads} threads, where there are {before}"

    files, _ = read()
    release = threading.Event()
    started = [threading.Thread(target=release.wait) for _ in range(3)]
    opened = [os.dup(0) for _ in range(50)]
    for thread in started:
        thread.start()
    try:
        more, threads = read()
        assert more == files + 50
        assert threads >= 4
    finally:
        release.set()
        for thread in started:
            thread.join(10)
        for fd in opened:
            os.close(fd)
    assert read()[0] == files


def test_the_limit_of_open_files_is_the_soft_one() -> None:
    assert now(resources.PROCESS_FILES_LIMIT)[()] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_the_start_is_when_the_process_began() -> None:
    began = time.clock_gettime(time.CLOCK_REALTIME) - (
        time.clock_gettime(time.CLOCK_BOOTTIME) - int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / 100
    )
    assert now(resources.PROCESS_START)[()] == pytest.approx(began, abs=1.5)


# -- the host ---------------------------------------------------------------------------------------------------------


def test_cpu_times_are_the_kernels() -> None:
    modes = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")

    def read() -> dict[tuple[str, ...], float]:
        ticks = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
        return {(mode,): int(number) / os.sysconf("SC_CLK_TCK") for mode, number in zip(modes, ticks, strict=True)}

    before, found, after = read(), now(resources.HOST_CPU), read()
    assert found.keys() == before.keys()
    for mode in ("user", "nice", "system", "softirq"):  # idle and iowait may go back a tick
        assert before[mode,] <= found[mode,] <= after[mode,]
    assert found["idle",] == pytest.approx(before["idle",], rel=0.02)


def test_disks_are_those_that_the_kernel_lists_with_a_device_of_their_own() -> None:
    def read() -> dict[tuple[str, ...], float]:
        os.sync()
        numbers = [(block / "stat").read_text().split() for block in Path("/sys/block").iterdir() if (block / "device").exists()]
        if not numbers:
            return {}
        return {("read",): sum(int(number[2]) * 512 for number in numbers), ("written",): sum(int(number[6]) * 512 for number in numbers)}

    with between(resources.HOST_DISK, read):
        pass


def test_network_is_what_the_interfaces_count_themselves() -> None:
    def read() -> dict[tuple[str, ...], float]:
        found = [
            interface for interface in Path("/sys/class/net").iterdir() if interface.name != "lo" and (interface / "statistics").is_dir()
        ]
        counted = [interface for interface in found if (interface / "device").exists()] or found
        if not counted:
            return {}
        return {
            ("received",): sum(sysfs(f"{interface}/statistics/rx_bytes") for interface in counted),
            ("sent",): sum(sysfs(f"{interface}/statistics/tx_bytes") for interface in counted),
        }

    with between(resources.HOST_NETWORK, read):
        pass


def test_memory_is_the_machines() -> None:
    found = now(resources.HOST_MEMORY)
    assert found["total",] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["free",] == pytest.approx(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.02)
    assert 0 < found["available",] <= found["total",]
    assert set(found) == {(state,) for state in ("total", "available", "free", "buffers", "cached", "swap_total", "swap_free")}


def test_load_and_cores_are_the_machines() -> None:
    found = now(resources.HOST_LOAD)
    assert [found[minutes,] for minutes in ("1", "5", "15")] == pytest.approx(os.getloadavg(), abs=0.5)
    assert now(resources.HOST_CORES)[()] == len(os.sched_getaffinity(0))


def _waited(found: Resources) -> Resources:
    found.file_systems.latest(wait_s=20)
    return found


def test_the_file_system_is_that_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = dict(_waited(Resources(None)).samples(resources.HOST_FILESYSTEM))
    told = shutil.disk_usage(tmp_path)
    assert found["work", "total"] == told.total
    assert found["work", "available"] == pytest.approx(told.free, rel=0.02)
    assert found["work", "available"] <= found["work", "free"] <= found["work", "total"]
    assert len(found) == 3


def test_a_log_on_another_file_system_is_told_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path("/dev/shm").stat().st_dev != tmp_path.stat().st_dev
    found = dict(_waited(Resources(None, "/dev/shm/access.log")).samples(resources.HOST_FILESYSTEM))
    assert found["log", "total"] == shutil.disk_usage("/dev/shm").total
    assert found["work", "total"] == shutil.disk_usage(tmp_path).total


def test_a_log_on_the_same_file_system_or_nowhere_is_not_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for log in ("-", "off", "access.log", str(tmp_path / "nowhere" / "access.log")):
        found = dict(_waited(Resources(None, log)).samples(resources.HOST_FILESYSTEM))
        assert {folder for folder, _ in found} == {"work"}


def test_a_file_system_that_hangs_holds_nobody_and_has_no_sample() -> None:
    clock = _Clock()
    found = Resources(None, clock=clock)
    release = threading.Event()
    found.file_systems._work = lambda: release.wait(30) and []
    begun = time.thread_time()
    for _ in range(10):
        clock.now += 1
        assert found.samples(resources.HOST_FILESYSTEM) == []
        assert found.samples(resources.HOST_MEMORY)
    assert time.thread_time() - begun < 0.5
    release.set()
    assert found.file_systems.latest(wait_s=20) == []


# -- all together -----------------------------------------------------------------------------------------------------


def test_names_are_in_the_style_of_the_others_and_new() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    assert set(names).isdisjoint(family.name for family in families.FAMILIES)
    assert all(isinstance(value, Family) is False or value in FAMILIES for value in vars(resources).values())
    for family in FAMILIES:
        assert family.name.startswith(("flui_process_", "flui_module_", "flui_host_", "flui_cgroup_"))
        assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
        assert family.help.endswith(".")


def test_the_page_shows_them_with_labels_from_fixed_lists() -> None:
    meters = Meters()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held = register(meters, Address("127.0.0.1", listening.getsockname()[1]))
        assert held.module is not None
        held.module.search.latest(wait_s=20)
        held.file_systems.latest(wait_s=20)
        shown = {metric.name: metric for metric in text_string_to_metric_families(page(meters))}
    known = {family.name.removesuffix("_total"): family for family in FAMILIES}
    for name in ("flui_process_cpu_seconds", "flui_module_seen", "flui_host_cpu_seconds", "flui_host_filesystem_octets"):
        assert shown[name].samples
    assert sum(len(metric.samples) for name, metric in shown.items() if name in known) <= 60
    assert all(set(sample.labels) == set(known[name].labels) for name in known.keys() & shown for sample in shown[name].samples)
    assert shown["flui_module_seen"].samples[0].value == 0, "we listen there ourselves, so it is not the module"


def test_without_a_module_there_is_nothing_of_one() -> None:
    found = Resources(None)
    assert all(list(found.samples(family)) == [] for family in MODULE)
    found.look()


def test_for_half_a_second_all_families_are_of_one_reading(tmp_path: Path) -> None:
    clock = _Clock()
    (tmp_path / "proc").mkdir()
    load = tmp_path / "proc/loadavg"
    load.write_text("1 2 3 1/1 1")
    found = Resources(None, root=str(tmp_path), clock=clock)
    assert found.samples(resources.HOST_LOAD) == [(("1",), 1.0), (("5",), 2.0), (("15",), 3.0)]
    load.write_text("4 5 6 1/1 1")
    clock.now = 0.49
    assert dict(found.samples(resources.HOST_LOAD))["1",] == 1.0
    clock.now = 0.5
    assert dict(found.samples(resources.HOST_LOAD))["1",] == 4.0


def test_nothing_is_read_before_the_page_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    meters = Meters()
    found = Resources(None, root=str(tmp_path))
    found.register(meters)
    (tmp_path / "proc/loadavg").write_text("1 2 3 1/1 1")
    assert meters.samples(resources.HOST_LOAD) == {("1",): 1.0, ("5",): 2.0, ("15",): 3.0}


FILES = (
    "stat",
    "loadavg",
    "meminfo",
    "diskstats",
    "net/dev",
    "net/tcp",
    "net/unix",
    "self/stat",
    "self/io",
    "self/cgroup",
    "self/mountinfo",
)
ALWAYS = {resources.PROCESS_CPU, resources.PROCESS_FILES_LIMIT, resources.HOST_CORES, resources.HOST_FILESYSTEM}
"""Not read from a file of /proc."""


@pytest.mark.parametrize(
    "text", [b"", b"\x00" * 100, b"\xff\xfe garbage", b"7 (x) S\n", b"cpu a b c\n", b": : :\n" * 50, b"cpu -1\nMemTotal: x kB\n"]
)
def test_files_that_are_garbage_have_no_samples(tmp_path: Path, text: bytes) -> None:
    for name in FILES:
        path = tmp_path / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    found = Resources(Address("127.0.0.1", 8000), root=str(tmp_path))
    assert found.module is not None
    found.module.search.latest(wait_s=20)
    assert {family for family in FAMILIES if found.samples(family)} <= ALWAYS | {resources.MODULE_SEEN}
    assert found.samples(resources.MODULE_SEEN) == [((), 0)]


def test_a_machine_without_proc_and_sys_has_no_samples(tmp_path: Path) -> None:
    found = Resources(Address("127.0.0.1", 8000), root=str(tmp_path))
    assert {family for family in FAMILIES if found.samples(family)} <= ALWAYS | {resources.MODULE_SEEN}


def test_each_file_that_is_missing_takes_its_own_samples_along_and_no_others(tmp_path: Path) -> None:
    lost = {
        "stat": {resources.HOST_CPU, resources.PROCESS_START},
        "loadavg": {resources.HOST_LOAD},
        "meminfo": {resources.HOST_MEMORY},
        "net/dev": {resources.HOST_NETWORK},
        "self/stat": {resources.PROCESS_RESIDENT, resources.PROCESS_THREADS, resources.PROCESS_START},
        "self/io": {resources.PROCESS_DISK},
        "self/cgroup": {resources.CGROUP_VERSION, resources.CGROUP_CPU_LIMIT, resources.CGROUP_THROTTLED, resources.CGROUP_MEMORY},
    }
    for name in ("nothing", *lost):
        root = tmp_path / name.replace("/", "-")
        for copied in FILES:
            path = root / "proc" / copied
            path.parent.mkdir(parents=True, exist_ok=True)
            if copied != name:
                path.write_bytes(Path("/proc", copied).read_bytes())
        (root / "proc/self/fd").mkdir()
        (root / "sys").symlink_to("/sys")
        found = _waited(Resources(None, root=str(root)))
        found._files.latest(wait_s=20)
        seen = {family for family in FAMILIES if found.samples(family)}
        if name == "nothing":
            whole = seen
            assert whole >= {*PROCESS, *HOST} - {resources.HOST_DISK}
        else:
            assert whole - seen == lost[name] & whole, name


def test_an_older_kernel_has_its_files_listed(tmp_path: Path) -> None:
    """Before 6.2 the size of the folder says nothing."""
    folder = tmp_path / "proc/self/fd"
    folder.mkdir(parents=True)
    for number in range(7):
        (folder / str(number)).symlink_to("/dev/null")
    found = Resources(None, root=str(tmp_path))
    found._files.latest(wait_s=20)
    assert found.samples(resources.PROCESS_FILES) == [((), 7)]


def test_a_path_to_a_disk_that_is_shown_already_is_not_another_disk(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/diskstats").write_text(
        "".join(f" 259 0 {name} 1 0 8 0 1 0 16 0 0 0 0\n" for name in ("nvme0n1", "nvme0c0n1", "cciss/c0d0", "dm-0"))
    )
    for name, hidden in (("nvme0n1", "0"), ("nvme0c0n1", "1"), ("cciss!c0d0", "0")):
        (tmp_path / "sys/block" / name / "device").mkdir(parents=True)
        (tmp_path / "sys/block" / name / "hidden").write_text(hidden)
    (tmp_path / "sys/block/dm-0").mkdir()
    clock = _Clock()
    found = Resources(None, root=str(tmp_path), clock=clock)
    for _ in range(2):
        assert found.samples(resources.HOST_DISK) == [(("read",), 16 * 512), (("written",), 32 * 512)]
        clock.now += 1
    (tmp_path / "proc/diskstats").write_text(" 259 0 nvme0n1 1 0 8 0 1 0 16 0 0 0 0\n")
    assert found.samples(resources.HOST_DISK) == [(("read",), 8 * 512), (("written",), 16 * 512)]


@pytest.mark.slow
def test_a_scrape_takes_less_than_2_milliseconds_of_the_event_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """CPU time of the asking thread, as other tests use the machine, too; with the search and the file system due each time."""
    meters = Meters()
    clock = _Clock()
    held = Resources(Address("127.0.0.1", 9), clock=clock)
    held.register(meters)
    taken: list[float] = []
    for _ in range(50):
        clock.now += 60
        begun = time.thread_time()
        for family in FAMILIES:
            meters.samples(family)
        taken.append(time.thread_time() - begun)
    assert statistics.median(taken) < 0.002, json.dumps(sorted(taken))
    assert held.module is not None
    held.module.search.latest(wait_s=20)
    held.file_systems.latest(wait_s=20)

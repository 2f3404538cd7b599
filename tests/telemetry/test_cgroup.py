"""Control groups: the smallest limit on the way up holds, in both versions, and what is missing or garbage is left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.telemetry.cgroup import Allowed, Cgroup

MIB = 1024 * 1024
UNLIMITED_V1 = 9223372036854771712
NOTHING = Allowed(None, None, None, None, None, None)

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {cpu} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {memory} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
)


def tree(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Cgroup:
    """Control groups of a made-up machine; the files stand below /sys/fs/cgroup."""
    ours = root / "proc" / "self"
    ours.mkdir(parents=True)
    (ours / "cgroup").write_text(groups)
    (ours / "mountinfo").write_text(mounts)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Cgroup(str(root))


# -- version 2 ---------------------------------------------------------------------------------------------------------


def test_v2_in_a_container_sees_its_own_group(tmp_path: Path) -> None:
    files = {
        "cpu.max": "150000 100000\n",
        "cpu.stat": "usage_usec 99\nnr_throttled 2\nthrottled_usec 2500000\n",
        "memory.max": f"{64 * MIB}\n",
        "memory.current": f"{48 * MIB}\n",
        "memory.stat": f"anon 1\ninactive_file {16 * MIB}\nactive_file 5\n",
    }
    assert tree(tmp_path, "0::/\n", V2_MOUNT, files).read() == Allowed(2, 1.5, 2.5, 64 * MIB, 48 * MIB, 32 * MIB)


def test_v2_the_smallest_limit_on_the_way_up_holds(tmp_path: Path) -> None:
    files = {
        "a.slice/cpu.max": "50000 100000\n",
        "a.slice/cpu.stat": "throttled_usec 1000000\n",
        "a.slice/memory.max": f"{100 * MIB}\n",
        "a.slice/memory.current": f"{90 * MIB}\n",
        "a.slice/memory.stat": f"inactive_file {MIB}\n",
        "a.slice/pod/cpu.max": "max 100000\n",
        "a.slice/pod/memory.max": "max\n",
        "a.slice/pod/box/cpu.max": "400000 100000\n",
        "a.slice/pod/box/cpu.stat": "throttled_usec 500000\n",
        "a.slice/pod/box/memory.max": f"{200 * MIB}\n",
        "a.slice/pod/box/memory.current": f"{10 * MIB}\n",
        "cpu.stat": "usage_usec 7\n",
    }
    assert tree(tmp_path, "0::/a.slice/pod/box\n", V2_MOUNT, files).read() == Allowed(2, 0.5, 1.5, 100 * MIB, 90 * MIB, 89 * MIB)


@pytest.mark.parametrize("at", ["a/cpu.max", "a/b/cpu.max", "a/b/c/cpu.max"])
def test_the_smallest_limit_holds_wherever_it_stands(tmp_path: Path, at: str) -> None:
    files = dict.fromkeys(("a/cpu.max", "a/b/cpu.max", "a/b/c/cpu.max"), "300000 100000") | {at: "20000 100000"}
    assert tree(tmp_path, "0::/a/b/c\n", V2_MOUNT, files).read().cpu_limit_cores == 0.2


def test_v2_max_is_no_limit(tmp_path: Path) -> None:
    files = {"box/cpu.max": "max 100000\n", "box/cpu.stat": "throttled_usec 0\n", "box/memory.max": "max\n", "box/memory.current": "5\n"}
    assert tree(tmp_path, "0::/box\n", V2_MOUNT, files).read() == Allowed(2, None, 0.0, None, 5, None)


def test_v2_the_root_of_a_machine_has_no_numbers(tmp_path: Path) -> None:
    assert tree(tmp_path, "0::/\n", V2_MOUNT, {"cpu.stat": "usage_usec 7\n"}).read() == Allowed(2, None, None, None, None, None)


def test_a_group_that_was_moved_is_followed(tmp_path: Path) -> None:
    files = {"a/cpu.max": "100000 100000", "b/cpu.max": "200000 100000"}
    held = tree(tmp_path, "0::/a\n", V2_MOUNT, files)
    assert held.read().cpu_limit_cores == 1.0
    (tmp_path / "proc/self/cgroup").write_text("0::/b\n")
    assert held.read().cpu_limit_cores == 2.0
    (tmp_path / "sys/fs/cgroup/b/cpu.max").write_text("25000 50000")
    assert held.read().cpu_limit_cores == 0.5


# -- version 1, and both ----------------------------------------------------------------------------------------------

V1_GROUPS = "12:memory:{group}\n5:cpu,cpuacct:{group}\n1:name=systemd:{group}\n0::/\n"
V1_LEAF = {
    "cpu,cpuacct/kubepods/pod/box/cpu.cfs_quota_us": "200000\n",
    "cpu,cpuacct/kubepods/pod/box/cpu.cfs_period_us": "100000\n",
    "cpu,cpuacct/kubepods/pod/box/cpu.stat": "nr_periods 3\nnr_throttled 1\nthrottled_time 250000000\n",
    "memory/kubepods/pod/box/memory.limit_in_bytes": f"{UNLIMITED_V1}\n",
    "memory/kubepods/pod/box/memory.usage_in_bytes": f"{9 * MIB}\n",
    "memory/kubepods/pod/box/memory.stat": f"inactive_file 1\ntotal_inactive_file {4 * MIB}\n",
}


def test_v1_quota_and_limits_of_the_group_itself(tmp_path: Path) -> None:
    held = tree(tmp_path, V1_GROUPS.format(group="/kubepods/pod/box"), V1_MOUNTS.format(cpu="/", memory="/"), V1_LEAF)
    assert held.read() == Allowed(1, 2.0, 0.25, None, 9 * MIB, 5 * MIB)


def test_v1_the_smallest_limit_on_the_way_up_holds(tmp_path: Path) -> None:
    files = V1_LEAF | {
        "cpu,cpuacct/kubepods/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/kubepods/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/kubepods/pod/cpu.cfs_quota_us": "30000\n",
        "cpu,cpuacct/kubepods/pod/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/kubepods/pod/cpu.stat": "throttled_time 1000000000\n",
        "memory/kubepods/pod/memory.limit_in_bytes": f"{32 * MIB}\n",
        "memory/kubepods/pod/memory.usage_in_bytes": f"{30 * MIB}\n",
        "memory/kubepods/pod/memory.stat": f"total_inactive_file {MIB}\n",
    }
    held = tree(tmp_path, V1_GROUPS.format(group="/kubepods/pod/box"), V1_MOUNTS.format(cpu="/", memory="/"), files)
    assert held.read() == Allowed(1, 0.3, 1.25, 32 * MIB, 30 * MIB, 29 * MIB)


def test_v1_in_a_container_the_mount_is_the_group(tmp_path: Path) -> None:
    """Without a namespace of its own a container reads the host's path, of which only the end is mounted."""
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": str(MIB)}
    mounts = V1_MOUNTS.format(cpu="/docker/abc", memory="/docker/abc")
    read = tree(tmp_path, V1_GROUPS.format(group="/docker/abc"), mounts, files).read()
    assert (read.version, read.cpu_limit_cores, read.memory_limit) == (1, 0.5, MIB)


@pytest.mark.parametrize(
    ("group", "within"), [("/../../other", "/"), ("/docker/def", "/docker/abc"), ("/", "/../.."), ("/docker/abcd", "/docker/abc")]
)
def test_a_path_outside_what_is_mounted_means_the_mount_itself(tmp_path: Path, group: str, within: str) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    for elsewhere in ("../other", "cpu,cpuacct/d", "cpu,cpuacct/docker"):
        files |= {f"{elsewhere}/cpu.cfs_quota_us": "10000", f"{elsewhere}/cpu.cfs_period_us": "100000"}
    held = tree(tmp_path, V1_GROUPS.format(group=group), V1_MOUNTS.format(cpu=within, memory=within), files)
    assert held.read().cpu_limit_cores == 0.5


def test_each_controller_is_read_where_it_is(tmp_path: Path) -> None:
    """A machine in transition: CPU in version 1, memory in version 2."""
    mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    files = {
        "cpu/x/cpu.cfs_quota_us": "100000",
        "cpu/x/cpu.cfs_period_us": "100000",
        "unified/y/cpu.max": "1 1000",
        "unified/y/memory.max": "4096",
        "unified/y/memory.current": "1024",
    }
    assert tree(tmp_path, "1:cpu:/x\n0::/y\n", mounts, files).read() == Allowed(1, 1.0, None, 4096, 1024, None)


def test_a_controller_whose_hierarchy_is_not_mounted_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    read = tree(tmp_path, "1:cpu:/\n2:memory:/\n0::/\n", V2_MOUNT, {"cpu.max": "1 1000", "memory.max": "4096"}).read()
    assert read == NOTHING


# -- missing, garbage ---------------------------------------------------------------------------------------------------


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert Cgroup(str(tmp_path)).read() == NOTHING


def test_a_group_that_was_deleted_still_has_those_above_it(tmp_path: Path) -> None:
    assert tree(tmp_path, "0::/a/b (deleted)\n", V2_MOUNT, {"a/cpu.max": "50000 100000"}).read().cpu_limit_cores == 0.5


def test_a_mount_point_with_a_blank_is_found(tmp_path: Path) -> None:
    mount = V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/two\\040words")
    assert tree(tmp_path, "0::/\n", mount, {"two words/cpu.max": "50000 100000"}).read().cpu_limit_cores == 0.5


@pytest.mark.parametrize("text", ["", "\n", "max", "50000", "50000 0", "0 100000", "-5 100000", "a b", "5 5 5", "\x00\x00 \x00", "1e3 5"])
def test_a_limit_that_is_garbage_is_none(tmp_path: Path, text: str) -> None:
    files = {"a/cpu.max": text, "cpu.max": "300000 100000", "a/memory.max": text, "a/cpu.stat": text, "a/memory.stat": text}
    read = tree(tmp_path, "0::/a\n", V2_MOUNT, files).read()
    assert read.cpu_limit_cores == 3.0
    assert read.cpu_throttled_s is None
    assert read.memory_working is None


@given(
    st.text("0:/ab.cpu,memory\n", max_size=60),
    st.text("0 /-cgroup2rw,\\\n", max_size=120) | st.just(V2_MOUNT),
)
def test_no_text_breaks_the_reading(tmp_path_factory: pytest.TempPathFactory, groups: str, mounts: str) -> None:
    root = tmp_path_factory.mktemp("garbage")
    tree(root, groups, mounts, {}).read()


# -- the real thing ----------------------------------------------------------------------------------------------------

BURN = """
import json, os, sys, time
from flui.telemetry.cgroup import Cgroup
for folder in sys.argv[2:]:
    with open(folder + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
held = b"x" * (64 << 20)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    pass
print(json.dumps(Cgroup().read()), flush=True)
for line in sys.stdin:
    print(json.dumps(Cgroup().read()), flush=True)
"""


def _own_v1(controller: str) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            folder = Path("/sys/fs/cgroup") / controller / path.lstrip("/")
            if folder.is_dir() and os.access(folder, os.W_OK) and os.geteuid() == 0:
                return folder
    pytest.skip(f"needs root and a writable version 1 hierarchy of the {controller} controller below /sys/fs/cgroup/{controller}")


@pytest.mark.peers
@pytest.mark.slow
def test_a_real_quota_and_limit_are_what_the_kernel_says() -> None:
    """A group of 0.2 cores in which is one without a limit, and 256 MiB; the kernel's own numbers are read by another process meanwhile."""
    name = f"flui-test-{os.getpid()}"
    outer, memory = _own_v1("cpu") / name, _own_v1("memory") / name
    inner = outer / "inner"
    made: list[Path] = []
    try:
        for folder in (outer, inner, memory):
            folder.mkdir()
            made.append(folder)
        (outer / "cpu.cfs_quota_us").write_text("20000")
        # the kernel takes no limit above the upper one's in version 1, so the inner group has none
        (memory / "memory.limit_in_bytes").write_text(str(256 * MIB))
        command = [sys.executable, "-c", BURN, "1.5", str(inner), str(memory)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            read = Allowed(*json.loads(child.stdout.readline()))
            # with more than one thread can use, no more time is held back, and two readers see the same number
            (outer / "cpu.cfs_quota_us").write_text("400000")
            assert child.stdin is not None
            child.stdin.write("again\n")
            child.stdin.flush()
            again = Allowed(*json.loads(child.stdout.readline()))
            entries = [dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines()) for folder in (outer, inner)]
            used = int((memory / "memory.usage_in_bytes").read_text())
            child.communicate()
        assert (read.version, read.cpu_limit_cores, again.cpu_limit_cores) == (1, 0.2, 4.0)
        assert read.cpu_throttled_s is not None
        assert read.cpu_throttled_s > 0.5, "it was held back most of the time"
        assert again.cpu_throttled_s == pytest.approx(sum(int(entry["throttled_time"]) for entry in entries) / 1e9, rel=0.02)
        assert again.cpu_throttled_s >= read.cpu_throttled_s
        assert again.memory_limit == 256 * MIB
        assert again.memory_used == pytest.approx(used, rel=0.02)
        assert again.memory_working is not None
        assert 64 * MIB < again.memory_working <= again.memory_used
    finally:
        for folder in reversed(made):
            folder.rmdir()
    assert not outer.exists()

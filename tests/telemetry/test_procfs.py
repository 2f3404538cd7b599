"""The files of /proc: what they say, and that nothing they say breaks us."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from flui.telemetry import _procfs

DISKS = b"""\
   7       0 loop0 5 0 1000 0 5 0 1000 0 0 0 0 0 0 0 0 0 0
   8       0 sda 100 0 2000 10 50 0 4000 20 0 30 40
   8       1 sda1 90 0 1900 10 50 0 4000 20 0 30 40
 253       0 dm-0 90 0 1900 10 50 0 4000 20 0 30 40
 259       0 nvme0n1 1 0 8 0 1 0 16 0 0 0 0
   8      16 short
"""
INTERFACES = b"""\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 999 9 0 0 0 0 0 0 999 9 0 0 0 0 0 0
  eth0: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0
  eth1:1000 1 0 0 0 0 0 0 2000 2 0 0 0 0 0 0
docker0: 7 1 0 0 0 0 0 0 8 2 0 0 0 0 0 0
 broken: 7
"""


def test_the_own_stat_is_read_as_the_kernel_counts() -> None:
    stat = _procfs.stat("/proc/self")
    assert stat is not None
    assert stat.parent == os.getppid()
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert abs(stat.user / _procfs.TICKS_PER_S - used.ru_utime) < 0.1
    assert abs(stat.system / _procfs.TICKS_PER_S - used.ru_stime) < 0.1


def test_a_process_may_call_itself_what_it_likes(tmp_path: Path) -> None:
    (tmp_path / "stat").write_bytes(b"7 (a) R 1 (b) ) S 42 " + b" ".join(b"%d" % number for number in range(5, 53)))
    stat = _procfs.stat(str(tmp_path))
    assert stat is not None
    assert stat == (b"S", 42, 14, 15, 16, 17, 20, 22, 24)


def test_what_is_cut_short_is_nothing(tmp_path: Path) -> None:
    whole = Path("/proc/self/stat").read_bytes()
    fields = whole[: whole.rindex(b")")].count(b" ") + 1
    for end in (0, 3, whole.index(b")"), len(b" ".join(whole.split(b" ")[: fields + 20]))):
        (tmp_path / "stat").write_bytes(whole[:end])
        assert _procfs.stat(str(tmp_path)) is None


def test_parts_loops_and_mappings_are_not_counted_beside_their_disk() -> None:
    found = _procfs.host_disk(DISKS, lambda name: name in {"sda", "nvme0n1", "short"})
    assert found == [(("read",), 2008 * 512), (("written",), 4016 * 512)]


def test_without_a_disk_there_is_no_sample() -> None:
    assert _procfs.host_disk(DISKS, lambda _: False) == []


def test_bridges_are_not_counted_beside_the_interfaces_they_lead_to() -> None:
    found = _procfs.host_network(INTERFACES, lambda name: name.startswith("eth"))
    assert found == [(("received",), 1100), (("sent",), 2200)]


def test_in_a_container_every_interface_but_loopback_counts() -> None:
    assert _procfs.host_network(INTERFACES, lambda _: False) == [(("received",), 1107), (("sent",), 2208)]


def test_the_first_line_of_cpu_times_is_all_cores() -> None:
    raw = b"cpu  100 200 300 400 500 600 700 800 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\nbtime 1700000000\n"
    assert dict(_procfs.host_cpu(raw)) == {(mode,): at for at, mode in enumerate(_procfs.CPU_MODES, 1)}
    assert _procfs.boot_time(raw) == 1_700_000_000
    assert _procfs.boot_time(b"cpu 1\nbtime soon\n") is None


def test_memory_is_told_in_octets_and_what_is_missing_is_left_out() -> None:
    raw = b"MemTotal:       1024 kB\nMemFree:  many kB\nCached:\nSlab: 5 kB\nSwapTotal: 0 kB\n"
    assert _procfs.host_memory(raw) == [(("total",), 1024 * 1024), (("swap_total",), 0)]


def test_a_row_is_whole_whatever_the_pieces(tmp_path: Path) -> None:
    lines = [b"x" * length for length in (0, 1, 127, 128, 129, 300)]
    (tmp_path / "rows").write_bytes(b"\n".join(lines) + b"\nrest")
    assert list(_procfs.rows(str(tmp_path / "rows"))) == lines


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert _procfs.octets(nowhere) == b""
    assert _procfs.octets(str(tmp_path)) == b"", "a folder"
    assert list(_procfs.rows(nowhere)) == list(_procfs.rows(str(tmp_path))) == []
    assert _procfs.stat(nowhere) is _procfs.disk(nowhere) is _procfs.count_files(nowhere) is _procfs.told_files(nowhere) is None
    assert _procfs.link(nowhere) == ""


LINES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [*DISKS.splitlines(), *INTERFACES.splitlines(), b"cpu 1 2 -3", b"cpu", b"MemTotal: -1 kB", b"btime", b"0.1 nan inf"]
        ),
    ),
    max_size=6,
).map(b"\n".join)


@given(LINES)
def test_no_text_breaks_a_reader(raw: bytes) -> None:
    for found in (
        _procfs.host_cpu(raw),
        _procfs.host_load(raw),
        _procfs.host_memory(raw),
        _procfs.host_disk(raw, lambda _: True),
        _procfs.host_network(raw, lambda _: False),
    ):
        assert all(isinstance(number, (int, float)) for _, number in found)
    _procfs.boot_time(raw)

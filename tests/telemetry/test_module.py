"""The module's processes: found by who listens, summed, and watched by another reader of /proc."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flui.model.topology import Address
from flui.telemetry import _procfs
from flui.telemetry._module import FEW, Module, Rising, Usage, kin, spellings
from flui.telemetry._procfs import TICKS_PER_S

MIB = 1024 * 1024

PROGRAM = """
import json, os, resource, socket, sys

def burn(seconds):
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    while resource.getrusage(resource.RUSAGE_SELF).ru_utime < begin + seconds:
        sum(range(2000))

def used(who):
    usage = resource.getrusage(who)
    return [usage.ru_utime, usage.ru_stime]

def say(**what):
    os.write(1, (json.dumps(what) + "\\n").encode())

workers, ended, seconds, octets, path = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
family = socket.AF_UNIX if path.startswith("/") else socket.AF_INET6 if ":" in path else socket.AF_INET
listening = socket.socket(family)
listening.bind(path if family == socket.AF_UNIX else (path, 0))
listening.listen()
say(port=0 if family == socket.AF_UNIX else listening.getsockname()[1])
held = b"x" * octets
for _ in range(ended):
    pid = os.fork()
    if not pid:
        burn(seconds)
        os._exit(0)
    os.waitpid(pid, 0)
live = []
parent_lives, parent_holds = os.pipe()
for _ in range(workers):
    pid = os.fork()
    if not pid:
        os.close(parent_holds)
        burn(seconds)
        say(self=used(resource.RUSAGE_SELF), children=[0, 0])
        os.read(parent_lives, 1)
        os._exit(0)
    live.append(pid)
burn(seconds)
say(self=used(resource.RUSAGE_SELF), children=used(resource.RUSAGE_CHILDREN))
for line in sys.stdin:
    if line == "end one\\n":
        pid = live.pop()
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        say(ended=pid)
"""


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Child:
    def __init__(self, process: subprocess.Popen[str], address: Address) -> None:
        self.process = process
        self.address = address

    def told(self) -> dict[str, list[float]]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def running(*, workers: int = 0, ended: int = 0, seconds: float = 0, octets: int = 0, at: str = "127.0.0.1") -> Iterator[_Child]:
    command = [sys.executable, "-c", PROGRAM, *map(str, (workers, ended, seconds, octets)), at]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = json.loads(process.stdout.readline())["port"]
            yield _Child(process, Address(at, port))
        finally:
            process.kill()
            process.communicate()  # its workers end when it does: they read a pipe that only it holds


def searched(module: Module) -> Usage | None:
    """What is read after a search that was waited for."""
    module.search.latest(wait_s=20)  # one that is under way may have begun too early
    module.search.latest(anew=True, wait_s=20)
    _, usage = module.usage()
    if module.reading.thread is not None:
        module.reading.thread.join(20)
        _, usage = module.usage()
    return usage


def fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def resident(pid: int) -> int:
    """The exact number, which the kernel adds up only here."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Rss:"))


# -- against an independent observer ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_cpu_and_memory_of_a_prefork_module_equal_what_it_says_itself_within_2_percent() -> None:
    """Three processes: the parent, a worker, and one that ended and was waited for; 1 s of CPU each, getrusage by each of them."""
    with running(workers=1, ended=1, seconds=1.0, octets=64 * MIB) as child:
        told = [child.told(), child.told()]
        module = Module(child.address, _Clock(), tells=True)
        usage = searched(module)
        assert usage is not None
        assert usage.processes == 2
        user = sum(each[who][0] for each in told for who in ("self", "children"))
        system = sum(each[who][1] for each in told for who in ("self", "children"))
        assert user > 3.0
        assert usage.user_s + usage.system_s == pytest.approx(user + system, rel=0.02)
        pids = [pid for pid, _ in module.search.latest().processes]
        assert usage.resident_octets == pytest.approx(sum(map(resident, pids)), rel=0.02)
        assert usage.resident_octets > 2 * 64 * MIB
        assert usage.files == sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
        assert usage.threads == sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids) == 2
        assert usage.start_ticks == int(fields(child.process.pid)[19])
        assert usage.disk == tuple(
            sum(int(dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())[name]) for pid in pids)
            for name in ("read_bytes", "write_bytes")
        )


@pytest.mark.slow
def test_a_worker_that_ends_takes_nothing_from_the_sum() -> None:
    """Prometheus would take a fall for a restart, and count all that the parent ever used once more."""
    with running(workers=3, seconds=0.2) as child:
        for _ in range(4):
            child.told()
        module = Module(child.address, _Clock(), tells=True)
        before = searched(module)
        assert before is not None
        assert before.processes == 4
        child.say("end one")
        child.told()
        for usage in (module.usage()[1], searched(module), searched(module)):
            assert usage is not None
            assert usage.processes == 3
            total, earlier = usage.user_s + usage.system_s, before.user_s + before.system_s
            # each of the numbers is cut to a tick by the kernel
            assert earlier - 2 / TICKS_PER_S <= total <= earlier + 0.1


def test_what_it_writes_is_counted_as_the_kernel_does(tmp_path: Path) -> None:
    write = "import os,sys\nf=open(sys.argv[1],'wb')\nf.write(b'x'*(8<<20))\nf.flush()\nos.fsync(f.fileno())"
    code = (
        "import socket,subprocess,sys\ns=socket.create_server(('127.0.0.1',0))\n"
        f"subprocess.run([sys.executable,'-c',{write!r},sys.argv[1]],check=True)\n"
        "print(s.getsockname()[1],flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "file")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        module = Module(Address("127.0.0.1", int(process.stdout.readline())), _Clock(), tells=True)
        usage = searched(module)
        told = Path(f"/proc/{process.pid}/io").read_text()
        process.communicate()
    assert usage is not None
    assert usage.disk is not None
    assert usage.disk[1] == int(next(line.split()[1] for line in told.splitlines() if line.startswith("write_bytes")))


# -- finding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listens", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("127.7.7.7", "127.7.7.7"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.7.7.7"),
        ("::1", "::1"),
        ("::1", "localhost"),
        ("::", "::1"),
        ("::", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_whoever_would_be_connected_to_is_found(listens: str, asked: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in listens else socket.AF_INET) as listening:
        listening.bind((listens, 0))
        listening.listen()
        inode = os.fstat(listening.fileno()).st_ino
        module = Module(Address(asked, listening.getsockname()[1]), _Clock(), tells=True)
        assert list(module._listening()) == [inode]


@pytest.mark.parametrize(("listens", "asked"), [("127.0.0.1", "127.0.0.2"), ("0.0.0.0", "192.0.2.1"), ("127.0.0.1", "orders.example")])
def test_somebody_else_on_the_same_port_is_not_the_module(listens: str, asked: str) -> None:
    with socket.create_server((listens, 0)) as listening:
        module = Module(Address(asked, listening.getsockname()[1]), _Clock(), tells=True)
        assert list(module._listening()) == []
        assert searched(module) is None


def test_the_exact_address_is_preferred_as_the_kernel_does() -> None:
    with socket.socket() as everywhere, socket.socket() as exact:
        for listening in (everywhere, exact):
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        everywhere.bind(("0.0.0.0", 0))
        port = everywhere.getsockname()[1]
        exact.bind(("127.0.0.1", port))
        for listening in (everywhere, exact):
            listening.listen()
        module = Module(Address("127.0.0.1", port), _Clock(), tells=True)
        assert list(module._listening()) == [os.fstat(exact.fileno()).st_ino]


def test_a_module_behind_a_unix_socket_is_found(tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    with running(at=path) as child:
        usage = searched(Module(child.address, _Clock(), tells=True))
        assert usage is not None
        assert usage.start_ticks == int(fields(child.process.pid)[19])


def test_connections_are_not_listeners() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as connected:
        taken, _ = listening.accept()
        module = Module(Address("127.0.0.1", listening.getsockname()[1]), _Clock(), tells=True)
        assert list(module._listening()) == [os.fstat(listening.fileno()).st_ino]
        module = Module(Address("127.0.0.1", connected.getsockname()[1]), _Clock(), tells=True)
        assert list(module._listening()) == []
        taken.close()


def test_before_the_first_search_has_ended_nothing_is_said() -> None:
    module = Module(Address("127.0.0.1", 1), _Clock(), tells=True)
    release = threading.Event()
    module.search._work = lambda: release.wait(20) and module._find()
    assert module.usage() == (None, None)
    release.set()
    module.search.latest(wait_s=20)
    assert module.usage() == (False, None)


def test_a_module_that_ended_is_not_seen_and_one_that_came_back_begins_anew() -> None:
    with running() as child:
        module = Module(child.address, _Clock(), tells=True)
        first = searched(module)
        assert first is not None
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()
        assert module.usage() == (False, None)
        again = PROGRAM.replace("(path, 0)", f"(path, {child.address.port})")
        reuse = again.replace("listening.bind", "listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); listening.bind")
        with subprocess.Popen(
            [sys.executable, "-c", reuse, "0", "0", "0", "0", "127.0.0.1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            second = searched(module)
            other.communicate()
        assert second is not None
        assert second.start_ticks > first.start_ticks


def test_a_module_that_nobody_waited_for_has_ended() -> None:
    with running() as child:
        module = Module(child.address, _Clock(), tells=True)
        assert searched(module) is not None
        child.process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
        assert fields(child.process.pid)[0] == "Z"
        assert module.usage() == (False, None)


@pytest.mark.slow
def test_many_processes_are_read_beside_the_event_loop() -> None:
    with running(workers=FEW) as child:
        for _ in range(FEW + 1):
            child.told()
        module = Module(child.address, _Clock(), tells=True)
        usage = searched(module)
        assert usage is not None
        assert usage.processes == FEW + 1
        again = Module(child.address, _Clock(), tells=True)
        release = threading.Event()
        again.reading._work = lambda: release.wait(20) and again._read()
        again.search.latest(wait_s=20)
        assert again.usage() == (None, None), "what is under way is not `unseen`"
        assert again.search.thread is None, "nor a reason to search again"
        release.set()
        again.reading.latest(wait_s=20)
        assert again.usage() == (True, usage._replace(disk=again.usage()[1].disk))


# -- what is not there, or not for us ---------------------------------------------------------------------------------

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
"""


def made_up(root: Path, processes: dict[int, tuple[int, str]]) -> Module:
    """A machine on which 127.0.0.1:8000 is listened on; processes by id, with parent and what they hold. We are number 50."""
    (root / "proc/net").mkdir(parents=True)
    (root / "proc/net/tcp").write_text(TCP)
    for pid, (parent, holds) in processes.items():
        folder = root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "fd" / "3").symlink_to(holds)
        (folder / "fd" / "4").symlink_to("/dev/null")
        (folder / "stat").write_text(f"{pid} (x) S {parent} " + " ".join(str(number) for number in range(5, 53)))
        (folder / "io").write_text("read_bytes: 10\nwrite_bytes: 20\ncancelled_write_bytes: 0\n")
    (root / "proc/self").symlink_to("50")
    return Module(Address("127.0.0.1", 8000), _Clock(), tells=False, root=str(root))


def test_a_socket_of_another_process_namespace_has_nobody(tmp_path: Path) -> None:
    module = made_up(tmp_path, {50: (0, "socket:[1]"), 51: (50, "socket:[47]")})
    assert searched(module) is None
    assert module.usage() == (False, None)


def test_where_the_kernel_does_not_tell_files_are_listed_by_the_search(tmp_path: Path) -> None:
    usage = searched(made_up(tmp_path, {50: (0, "socket:[1]"), 51: (0, "socket:[4711]"), 52: (51, "pipe:[9]")}))
    assert usage is not None
    assert (usage.processes, usage.files, usage.disk) == (2, 4, (20, 40))
    assert usage.user_s == pytest.approx(2 * (14 + 16) / TICKS_PER_S)


@pytest.mark.parametrize("missing", ["io", "fd"])
def test_what_is_hidden_leaves_its_number_out_and_no_other(tmp_path: Path, missing: str) -> None:
    module = made_up(tmp_path, {50: (0, "socket:[1]"), 51: (0, "socket:[4711]"), 52: (51, "pipe:[9]")})
    (tmp_path / "proc/52" / missing).rename(tmp_path / "moved")
    usage = searched(module)
    assert usage is not None
    assert usage.processes == 2
    assert (usage.disk is None, usage.files is None) == (missing == "io", missing == "fd")


@pytest.mark.parametrize("name", ["net/tcp", "51/stat", "51/fd", "self"])
def test_a_part_of_proc_that_is_missing_is_nobody_or_harmless(tmp_path: Path, name: str) -> None:
    module = made_up(tmp_path, {50: (0, "socket:[1]"), 51: (0, "socket:[4711]")})
    (tmp_path / "proc" / name).rename(tmp_path / "moved")
    usage = searched(module)
    assert (usage is not None) == (name == "self")


def test_an_id_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    module = made_up(tmp_path, {50: (0, "socket:[1]"), 51: (0, "socket:[4711]")})
    assert searched(module) is not None
    stat = tmp_path / "proc/51/stat"
    stat.write_text(stat.read_text().replace(" 22 ", " 23 "))
    (tmp_path / "proc/51/fd/3").unlink()
    assert module.usage()[0] is False


def test_a_child_that_is_waited_for_while_we_read_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = made_up(tmp_path, {50: (0, "socket:[1]"), 51: (0, "socket:[4711]"), 52: (51, "pipe:[9]")})
    before = searched(module)
    assert before is not None
    read = _procfs.stat

    def ends(folder: str) -> _procfs.Stat | None:
        if folder.endswith("/52") and Path(folder).exists():  # its parent was read already
            Path(folder).rename(tmp_path / "ended")
            stat = tmp_path / "proc/51/stat"
            stat.write_text(stat.read_text().replace(" 16 17 ", " 46 49 "))
        return read(folder)

    monkeypatch.setattr(_procfs, "stat", ends)
    for _ in range(3):
        _, usage = module.usage()
        assert usage is not None
        assert (usage.processes, usage.user_s, usage.system_s) == (1, before.user_s, before.system_s)


# -- who belongs to it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holders", "found"),
    [
        ({20}, {20, 21, 22}),
        ({21}, {21, 22}),
        ({20, 21}, {20, 21, 22}),
        ({21, 30}, {21, 22, 30}),
        ({1, 20}, {20, 21, 22}),
        ({10, 20}, {20, 21, 22}),
        ({10}, {10}),
        ({51}, {51}),
        ({50, 51}, {51}),
        ({50}, set()),
        (set(), set()),
    ],
    ids=[
        "a parent with all below it",
        "a worker without its parent",
        "prefork: both hold the socket",
        "two that share a port",
        "handed on by init",
        "handed on by who started the sidecar too",
        "who started the sidecar became the module, alone",
        "started by the sidecar",
        "started by the sidecar, which holds the socket as well",
        "only ourselves",
        "nobody",
    ],
)
def test_who_belongs_to_the_module(holders: set[int], found: set[int]) -> None:
    """1 init; 10 a supervisor with 20 (and 21, 22 below it), 30 and the sidecar, 50, which has a child, 51."""
    parents = {1: 0, 10: 1, 20: 10, 21: 20, 22: 21, 30: 10, 50: 10, 51: 50, 60: 1}
    assert kin(holders, parents, 50) == found


def test_ids_that_were_used_again_meanwhile_make_no_endless_line() -> None:
    assert kin({7}, {7: 8, 8: 7, 9: 8}, 50) == {7, 8, 9}


def test_an_address_is_spelt_in_words_of_the_machine() -> None:
    exact, wildcard = spellings("::1")
    assert exact == {b"00000000000000000000000001000000" if sys.byteorder == "little" else b"00000000000000000000000000000001"}
    assert wildcard == {b"0" * 8, b"0" * 32}


def test_a_sum_never_falls_and_keeps_rising() -> None:
    rising = Rising()
    assert [rising.raised(total) for total in (5, 7, 3, 3, 4, 10, 0, 1)] == [5, 7, 7, 7, 8, 14, 14, 15]

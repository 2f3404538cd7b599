"""`flui tap`: against a real admin server, into a pipe and on a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import select
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flui.model.decision import Why
from flui.model.topology import Address
from flui.policy.base import Policy, PolicySource, Text
from flui.policy.casbin import load
from flui.runtime.admin import Admin, tap_page
from flui.runtime.cli import admin as cli
from flui.runtime.cli import main
from flui.telemetry.accesslog import AccessLog, fixed
from flui.telemetry.journal import Journal
from flui.telemetry.tap import Record, Taps

MODEL = (Path(__file__).parents[2] / "policy" / "model.conf").read_text()
UID = os.getuid()
MAY = f"p, uid:{UID}, orders, TAP, /*\n"
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def policy(rows: str) -> Policy:
    return load(PolicySource(Text("model.conf", MODEL), (Text("shop.csv", rows),))).policy


def record(path: bytes = b"/orders/7", *, method: bytes = b"GET", status: int = 200, fault: str = "", attempts: int = 1) -> Record:
    principal = "spiffe://shop/web"
    why = Why("inbound", "orders", "app", "shop.csv:3", principal)
    text = fixed({"listener": "inbound", "service": "orders", "route": "app", "rule": "shop.csv:3", "principal": principal})
    line = AccessLog().line(
        1_700_000_000.123,
        text,
        TRACE[3:35],
        method,
        b"orders",
        path,
        status,
        fault.encode(),
        b"orders-1",
        attempts,
        1,
        2,
        0,
        0,
        0,
        0.001,
        0.0015,
    )
    return Record(line, why, path, path, TRACE, method, status, fault, 0.0015)


class Sidecar:
    """The admin server and the taps of a sidecar, in a thread of its own."""

    def __init__(self, address: Address, rows: str = MAY) -> None:
        self.policy = policy(rows)
        self.opened = threading.Event()
        self.ended = threading.Event()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self.taps = Taps("orders", lambda: self.policy, Journal(self, lambda: 0.0))  # type: ignore[arg-type] # two methods of a writer are used
        self._admin = Admin({"/tap": tap_page(self.taps)}, lambda path, error: None)
        self._thread = threading.Thread(target=self._run, args=(address,))
        self._thread.start()
        assert self._started.wait(10)
        self.address = str(self._admin.address)

    def write(self, line: bytes) -> None:
        """The journal's writer."""
        match json.loads(line)["event"]:
            case "tap opened":
                self.opened.set()
            case "tap ended":
                self.ended.set()

    def kick(self) -> None:
        """The journal's writer."""

    def offer(self, *records: Record) -> None:
        for each in records:
            self._loop.call_soon_threadsafe(self.taps.offer, each)

    def offer_once_tapped(self, *records: Record) -> threading.Thread:
        """Offers them when somebody looks."""

        def wait() -> None:
            assert self.opened.wait(20)
            self.offer(*records)

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    def _run(self, address: Address) -> None:
        async def serve() -> None:
            await self._admin.start(address)
            self._started.set()
            await self._stopped.wait()
            await self._admin.stop()

        self._loop.run_until_complete(serve())
        self._loop.close()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "_FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def sidecar(folder: Path) -> Iterator[Sidecar]:
    made = Sidecar(Address(str(folder / "flui-orders.sock")))
    yield made
    made.stop()


def _flui(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["tap", *arguments])


def test_json_is_one_object_a_line_as_it_comes(sidecar: Sidecar) -> None:
    thread = sidecar.offer_once_tapped(record(), record(b"/users/1"), record(status=503, fault="upstream_reset", attempts=3))
    result = _flui("--service", "orders", "--path", "/orders/*", "--limit", "2", "--json")
    thread.join(10)
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == json.loads(record().line)
    assert (second["status"], second["fault"], second["attempts"]) == (503, "upstream_reset", 3)


def test_into_a_pipe_it_is_a_plain_line_for_each_exchange(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    thread = sidecar.offer_once_tapped(
        record(), record(b"/orders/" + b"9" * 200, method=b"DELETE", status=503, fault="upstream_reset", attempts=3)
    )
    result = _flui("--limit", "2")
    thread.join(10)
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = result.stdout.splitlines()
    assert first.split() == ["22:13:20.123", "200", "GET", "orders", "/orders/7", "web", "orders-1", "1.500"]
    assert re.fullmatch(r"22:13:20\.123  503  DELETE   orders /orders/9+…  web  +orders-1  +1\.500  upstream_reset x3", second)
    assert first.index("web") == second.index("web")
    assert first.index("1.500") == second.index("1.500")


def test_all_filters_reach_the_sidecar(sidecar: Sidecar) -> None:
    thread = sidecar.offer_once_tapped(record(status=404), record(b"/orders/8", method=b"POST", status=500, fault="denied"))
    filters = (
        "--listener inbound --to orders --route app --principal spiffe://shop/* --method POST --path /orders/:id --status >=500 "
        "--fault denied --min-ms 1 --sample 100% --limit 1"
    )
    result = _flui("--json", *filters.split())
    thread.join(10)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["path"] == "/orders/8"


def test_what_is_not_allowed_is_refused_with_the_row_to_add(folder: Path) -> None:
    made = Sidecar(Address(str(folder / "flui-orders.sock")), "p, uid:4000000000, orders, TAP, /*\n")
    try:
        result = _flui()
        assert result.exit_code == 1
        assert result.stdout == ""
        assert f"403 Forbidden: no rule of the policy lets uid:{UID} tap" in result.stderr
        assert f"`p, uid:{UID}, orders, TAP, /*`" in result.stderr
    finally:
        made.stop()


def test_over_tcp_nobody_may_look(folder: Path) -> None:
    made = Sidecar(Address("127.0.0.1", 0))
    try:
        result = _flui("--admin", made.address)
        assert result.exit_code == 1
        assert "Unix socket only" in result.stderr
    finally:
        made.stop()


def test_a_policy_that_takes_it_back_ends_it_with_1(sidecar: Sidecar) -> None:
    def take_back() -> None:
        assert sidecar.opened.wait(20)
        sidecar.offer(record())
        sidecar._loop.call_soon_threadsafe(setattr, sidecar, "policy", policy(""))
        sidecar.offer(record(b"/orders/8"))

    thread = threading.Thread(target=take_back)
    thread.start()
    result = _flui("--json")
    thread.join(10)
    assert result.exit_code == 1
    assert [json.loads(line)["path"] for line in result.stdout.splitlines()] == ["/orders/7"]
    assert result.stderr == f"flui tap: the policy in force does not let uid:{UID} tap any more\n"


def test_a_sidecar_that_goes_away_is_said(sidecar: Sidecar) -> None:
    def go() -> None:
        assert sidecar.opened.wait(20)
        sidecar.stop()

    thread = threading.Thread(target=go)
    thread.start()
    result = _flui()
    thread.join(10)
    assert (result.exit_code, result.stderr) == (1, f"flui tap: {sidecar.address} went away\n")


def test_nobody_listening_is_said_plainly(folder: Path) -> None:
    result = _flui("--service", "orders")
    assert (result.exit_code, result.stderr) == (1, f"flui tap: nobody listens on {folder}/flui-orders.sock; is the sidecar running?\n")
    result = _flui()
    assert result.exit_code == 1
    assert result.stderr.startswith("flui tap: no sidecar has a socket in")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--status", "6xx"], "--status: '6xx' is no status; write 500, 5xx or >=400"),
        (["--path", "orders"], "--path: 'orders' does not begin with a slash"),
        (["--min-ms", "fast"], "--min-ms: 'fast' is no number"),
        (["--to", ""], "--to: is empty"),
        (["--limit", "0"], "--limit:"),
        (["--admin", "nonsense"], "--admin:"),
        (["--admin", "a", "--service", "b"], "give --admin or --service"),
        (["--colour"], "No such option"),
        (["more"], "unexpected extra argument"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_wrong_use_exits_2_and_says_what_to_write(arguments: list[str], said: str) -> None:
    result = _flui(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_help_has_an_example_and_the_row_that_allows_it() -> None:
    shown = " ".join(_flui("--help").stdout.split())
    assert "Example: flui tap --service orders --status '>=400'" in shown
    assert "p, uid:1000, orders, TAP, /*" in shown
    assert "tap" in CliRunner().invoke(main, ["--help"]).stdout


_IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
    """A command on a terminal of its own, so that Ctrl-C reaches it as from a keyboard."""

    def __init__(self, columns: int, *arguments: str) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, "-m", "flui", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment | {"TERM": "xterm-256color"},
        )
        os.close(slave)
        self.said = ""

    def until(self, text: str) -> None:
        while text not in self.said:
            assert select.select([self.master], [], [], 20)[0], self.said
            self.said += os.read(self.master, 65_536).decode()

    def press(self, key: bytes) -> None:
        os.write(self.master, key)

    def end(self) -> int:
        try:
            return self.process.wait(20)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            os.close(self.master)


@pytest.mark.slow
def test_on_a_terminal_it_is_one_coloured_aligned_line_each_and_ctrl_c_ends_it_with_0(sidecar: Sidecar) -> None:
    terminal = Terminal(130, "tap", "--admin", sidecar.address)
    terminal.until("Ctrl-C ends")
    assert sidecar.opened.wait(20)
    nasty = b"/\x1b[2J\x07" + b"x" * 100
    sidecar.offer(record(), record(nasty, method=b"POST", status=503, fault="upstream_reset", attempts=2))
    terminal.until("upstream_reset")
    terminal.until("x2")
    terminal.press(b"\x03")
    assert terminal.end() == 0
    assert sidecar.ended.wait(20)
    assert "\x1b[32m200" in terminal.said
    assert "\x1b[31m503" in terminal.said
    assert "\x1b[2J" not in terminal.said
    assert "\\x1b[2J\\x07xxx" in terminal.said
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.said)
    first, second = (line.rstrip() for line in shown.splitlines() if line.startswith("22:13:20.123"))
    for word in ("web", "orders-1", "1.500"):
        assert first.index(word) == second.index(word)
    assert len(second) <= 130
    assert second.endswith("upstream_reset x2")


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_it_quietly(sidecar: Sidecar) -> None:
    """`flui tap | head -1`"""
    command = [sys.executable, "-m", "flui", "tap", "--json", "--admin", sidecar.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert sidecar.opened.wait(20)
        assert process.stdout is not None
        assert process.stderr is not None
        sidecar.offer(record())
        assert json.loads(process.stdout.readline())["path"] == "/orders/7"
        process.stdout.close()
        sidecar.offer(record())
        assert process.wait(20) == 0
        assert process.stderr.read() == b""
    assert sidecar.ended.wait(20)

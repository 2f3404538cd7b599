"""`flui top` as people and scripts meet it: over real sockets, through pipes, and under a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flui.model.topology import Address
from flui.runtime.admin import Admin, Query, Reply, as_json, as_text
from flui.runtime.adminclient import TIMEOUT_S, get
from flui.runtime.cli import main
from flui.runtime.cli import top as cli
from flui.runtime.top import watch
from support.terminal import PATIENCE_S, Session

REQUESTS = 'flui_requests_total{{listener="inbound",service="{service}",route="route-{n}",code="200"}} {count}\n'
DURATION = (
    'flui_request_duration_seconds_bucket{{listener="inbound",service="{service}",route="route-{n}",le="0.01"}} {count}\n'
    'flui_request_duration_seconds_bucket{{listener="inbound",service="{service}",route="route-{n}",le="+Inf"}} {count}\n'
)


class _Sidecar:
    """An admin server in a thread of its own, whose every page is one second later than the last."""

    def __init__(self, address: Address, service: str = "orders", routes: int = 3) -> None:
        self._service = service
        self._routes = routes
        self._pages = 0
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._hold = threading.Event()
        self._hold.set()
        self._admin = Admin(
            {
                "/metrics": self._metrics,
                "/ready": lambda _: as_json({"ready": True, "why": []}),
                "/certs": lambda _: as_json({"identity": f"spiffe://shop/{service}"}),
                "/clusters": lambda _: as_json(
                    [{"cluster": "stock", "endpoints": [{"name": "stock-1", "address": "127.0.0.1:1", "available": False, "why": "slow"}]}]
                ),
            },
            lambda path, error: None,
        )
        self._thread = threading.Thread(target=self._run, args=(address,))
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        assert self._admin.address is not None
        self.address = str(self._admin.address)

    def _metrics(self, _: Query) -> Reply:
        self._hold.wait(PATIENCE_S)
        self._pages += 1
        page = f"flui_uptime_seconds {99 + self._pages}\n"
        for n in range(self._routes):
            count = self._pages * 100 * (n + 1)
            page += REQUESTS.format(service=self._service, n=n, count=count) + DURATION.format(service=self._service, n=n, count=count)
        return as_text(page)

    def hang(self) -> None:
        self._hold.clear()

    def _run(self, address: Address) -> None:
        async def serve() -> None:
            await self._admin.start(address)
            self._started.set()
            await self._stopped.wait()
            await self._admin.stop()
            for _ in range(3):  # what was aborted is closed in the loop's next turns
                await asyncio.sleep(0)

        self._loop.run_until_complete(serve())
        self._loop.close()

    def stop(self) -> None:
        self._hold.set()
        for thread in threading.enumerate():
            if thread.name == f"look at {self.address}":
                thread.join(PATIENCE_S)
        get(self.address, "/ready")  # after it, nobody waits to be accepted
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "_FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[..., _Sidecar]]:
    made: list[_Sidecar] = []

    def one(service: str, routes: int = 3) -> _Sidecar:
        made.append(_Sidecar(Address(str(folder / f"flui-{service}.sock")), service, routes))
        return made[-1]

    yield one
    for each in made:
        each.stop()


def _flui(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["top", "--interval", "0.1", *arguments])


# -- pipes -----------------------------------------------------------------------------------------------------------------


def test_without_a_terminal_one_plain_table_is_printed(make: Callable[..., _Sidecar]) -> None:
    make("orders")
    result = _flui()
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "flui top   1 sidecar   over 1.0 s"
    assert lines[1].startswith("orders  spiffe://shop/orders  up 1m 41s  ready  0 connections  600 requests/s  0 % errors")
    assert re.search(r"^inbound +orders +route-2 +300 +0 +0 % +5\.0 ms +9\.9 ms", result.stdout, re.MULTILINE)
    assert re.search(r"^stock +stock-1 +127\.0\.0\.1:1 +out: slow +0", result.stdout, re.MULTILINE)
    assert "\x1b" not in result.stdout


def test_json_once_is_one_object_of_one_interval(make: Callable[..., _Sidecar]) -> None:
    make("orders")
    result = _flui("--json", "--once")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["time"])
    (orders,) = told["sidecars"]
    assert (orders["sidecar"], orders["head"]["identity"], orders["over_s"], orders["since_start"]) == (
        "orders",
        "spiffe://shop/orders",
        1,
        False,
    )
    assert [row["requests_per_s"] for row in orders["routes"]] == [300, 200, 100]


def test_all_that_have_a_socket_are_shown_and_those_that_are_named(make: Callable[..., _Sidecar], folder: Path) -> None:
    for service in ("orders", "stock", "web"):
        make(service)

    def shown(*arguments: str) -> list[str]:
        return [each["sidecar"] for each in json.loads(_flui("--json", "--once", *arguments).stdout)["sidecars"]]

    assert shown() == ["orders", "stock", "web"]
    assert shown("--service", "web", "--service", "orders") == ["web", "orders"]
    assert shown("--admin", str(folder / "flui-stock.sock"), "--admin", str(folder)) == ["stock", "orders", "web"]


def test_over_tcp_it_works_as_well() -> None:
    made = _Sidecar(Address("127.0.0.1", 0))
    try:
        result = _flui("--admin", made.address, "--json", "--once")
    finally:
        made.stop()
    assert json.loads(result.stdout)["sidecars"][0]["sidecar"] == "orders"


def test_a_sidecar_that_is_gone_is_shown_as_lost_and_exits_1(make: Callable[..., _Sidecar], folder: Path) -> None:
    make("orders")
    gone = str(folder / "flui-gone.sock")
    result = _flui("--service", "orders", "--admin", gone)
    assert result.exit_code == 1
    assert f"gone: nobody listens on {gone}; is the sidecar running?" in result.stdout
    assert re.search(r"^gone +lost", result.stdout, re.MULTILINE)
    assert re.search(r"^orders +spiffe://shop/orders", result.stdout, re.MULTILINE)


def test_a_sidecar_that_hangs_holds_up_no_other(make: Callable[..., _Sidecar], monkeypatch: pytest.MonkeyPatch) -> None:
    """One round waits for it a little, and none after that."""
    monkeypatch.setattr(watch, "PATIENCE_S", 0.5)
    make("orders")
    stock = make("stock")
    stock.hang()
    begun = time.monotonic()
    result = _flui("--json", "--once")
    assert time.monotonic() - begun < TIMEOUT_S
    assert result.exit_code == 1
    orders, lost = json.loads(result.stdout)["sidecars"]
    assert orders["routes"][0]["requests_per_s"] == 300
    assert lost["lost"] == f"has not answered in time: {stock.address}"


def test_nobody_at_all_exits_1_and_says_so(folder: Path) -> None:
    result = _flui()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no sidecar has a socket" in result.stderr
    result = _flui("--service", "orders", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nobody listens on" in result.stderr


def test_a_server_that_is_no_sidecar_is_said_plainly(folder: Path) -> None:
    made = threading.Event()
    path = str(folder / "flui-odd.sock")

    async def serve(stop: asyncio.Event) -> None:
        admin = Admin({"/metrics": lambda _: as_text("<html>\x1b[2J")}, lambda path, error: None)
        await admin.start(Address(path))
        made.set()
        await stop.wait()
        await admin.stop()

    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(stop)))
    thread.start()
    assert made.wait(PATIENCE_S)
    result = _flui("--admin", path)
    get(path, "/ready")
    loop.call_soon_threadsafe(stop.set)
    thread.join(PATIENCE_S)
    loop.close()
    assert result.exit_code == 1
    assert result.stderr == f"flui top: {path}: /metrics: line 1 is not a sample: <html>\\x1b[2J\n"


def test_the_picture_is_a_file(make: Callable[..., _Sidecar], tmp_path: Path) -> None:
    make("orders")
    result = _flui("--svg", str(tmp_path / "top.svg"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / "top.svg").read_text("utf-8").startswith("<svg")
    result = _flui("--svg", str(tmp_path / "none" / "top.svg"))
    assert result.exit_code == 1
    assert "--svg: " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--admin", "nonsense"],
        ["--service", "../etc"],
        ["--interval", "0"],
        ["--json", "--svg", "x.svg"],
        ["orders"],
    ],
)
def test_wrong_use_exits_2(folder: Path, arguments: list[str]) -> None:
    assert _flui(*arguments).exit_code == 2


def test_a_folder_without_sockets_is_wrong_use(folder: Path) -> None:
    result = _flui("--admin", str(folder))
    assert result.exit_code == 2
    assert "no socket of ours is in" in result.stderr


def test_help_has_an_example() -> None:
    result = _flui("--help")
    assert result.exit_code == 0
    assert "Example: flui top" in " ".join(result.stdout.split())


@pytest.mark.slow
def test_what_only_prints_numbers_loads_no_drawing() -> None:
    loaded = "import sys, flui.runtime.cli.top; print(sorted({'rich', 'curses'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True, text=True).stdout == "[]\n"


def _started(*arguments: str, **more: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flui", "top", "--interval", "0.1", *arguments]
    return subprocess.Popen(command, **more)  # type: ignore[call-overload,no-any-return] -- keywords are handed on


@pytest.mark.slow
def test_json_goes_on_until_ctrl_c_which_is_fine(make: Callable[..., _Sidecar]) -> None:
    address = make("orders").address
    with _started("--json", "--admin", address, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        times = [json.loads(process.stdout.readline())["time"] for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr.read() == b""
    assert times == sorted(set(times))


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_it_quietly(make: Callable[..., _Sidecar]) -> None:
    address = make("orders").address
    with _started("--json", "--admin", address, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr.read() == b""


# -- a terminal ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[Callable[..., Session]]:
    made: list[Session] = []

    def one(*arguments: str, **more: object) -> Session:
        made.append(Session("top", "--interval", "0.1", *arguments, **more))  # type: ignore[arg-type] -- keywords are handed on
        return made[-1]

    yield one
    for each in made:
        each.close()


def _fits(top: Session) -> bool:
    """Whether the next whole picture stays on the screen; one on its way may still be of another size."""
    before = top.screen.rows()[1]
    top.until(lambda rows: rows[1] != before)
    top.screen.spilt = 0
    before = top.screen.rows()[1]
    top.until(lambda rows: rows[1] != before)
    return top.screen.spilt == 0


def _has(rows: list[str], pattern: str) -> bool:
    return any(re.match(pattern, row) for row in rows)


def _second(rows: list[str]) -> bool:
    """A picture of an interval, not of the whole life."""
    return "over 1.0 s" in rows[0] and any("route-" in row for row in rows)


@pytest.mark.slow
def test_under_a_terminal_it_lives_follows_its_size_and_leaves_no_trace(
    make: Callable[..., _Sidecar], session: Callable[..., Session]
) -> None:
    top = session("--admin", make("orders", 40).address)
    rows = top.until(
        lambda rows: _second(rows) and _has(rows, r"inbound +orders +route-39 +4,000 +0 +0 % +5\.0 ms") and _has(rows, r"… \d+ more$")
    )
    assert rows[0] == f"{'flui top   1 sidecar   over 1.0 s':<74}q ends"
    assert rows[1].startswith("orders  spiffe://shop/orders")
    top.until(lambda rows: _has(rows, "stock +stock-1 .* out: slow"))
    assert not termios.tcgetattr(top.slave)[3] & (termios.ECHO | termios.ICANON)

    assert _fits(top)

    top.resize(44, 9)
    top.until(lambda rows: len(rows[0]) == 44 and rows[0].endswith("q ends"))
    assert _fits(top)
    top.resize(120, 40)
    top.until(lambda rows: _second(rows) and len(rows[0]) == 120 and sum("route-" in row for row in rows) > 20)
    assert _fits(top)

    top.type(b"q")
    assert top.ended() == 0
    assert termios.tcgetattr(top.slave) == top.modes
    assert top.screen.modes[0] == b"1049h"
    assert top.screen.modes[-1] == b"1049l"
    assert [mode for mode in top.screen.modes if mode[:2] == b"25"] == [b"25l", b"25h"]
    assert top.screen.colours


@pytest.mark.slow
def test_a_vt100_has_no_second_screen_and_no_colours(make: Callable[..., _Sidecar], session: Callable[..., Session]) -> None:
    """Nor does it speak UTF-8."""
    top = session("--admin", make("orders", 40).address, TERM="vt100", PYTHONIOENCODING="ascii")
    top.until(lambda rows: _second(rows) and _has(rows, r"~ \d+ more$"))
    top.type(b"Q")
    assert top.ended() == 0
    assert b"1049h" not in top.screen.modes
    assert not top.screen.colours
    assert any("route-39" in row for row in top.screen.rows())
    assert termios.tcgetattr(top.slave) == top.modes


@pytest.mark.slow
def test_no_color_is_honoured(make: Callable[..., _Sidecar], session: Callable[..., Session]) -> None:
    top = session("--admin", make("orders").address, NO_COLOR="1")
    top.until(_second)
    top.type(b"\x03")  # Ctrl-C
    assert top.ended() == 0
    assert not top.screen.colours
    assert termios.tcgetattr(top.slave) == top.modes


@pytest.mark.slow
def test_a_sidecar_that_hangs_does_not_hold_up_the_end(make: Callable[..., _Sidecar], session: Callable[..., Session]) -> None:
    orders, stock = make("orders"), make("stock")
    top = session("--admin", orders.address, "--admin", stock.address)
    top.until(_second)
    stock.hang()
    top.until(lambda rows: _has(rows, "stock: has not answered in time") and _has(rows, "orders +inbound"))
    begun = time.monotonic()
    top.type(b"q")
    assert top.ended() == 0
    assert time.monotonic() - begun < TIMEOUT_S


@pytest.mark.slow
def test_a_signal_that_ends_it_leaves_no_trace_either(make: Callable[..., _Sidecar], session: Callable[..., Session]) -> None:
    top = session("--admin", make("orders").address)
    top.until(_second)
    top.process.send_signal(signal.SIGTERM)
    assert top.ended() == 128 + signal.SIGTERM
    assert top.screen.modes[-1] == b"1049l"
    assert termios.tcgetattr(top.slave) == top.modes


@pytest.mark.slow
def test_ctrl_z_gives_the_terminal_back_for_so_long(make: Callable[..., _Sidecar], session: Callable[..., Session]) -> None:
    top = session("--admin", make("orders").address)
    top.until(_second)
    top.type(b"\x1a")
    _, status = os.waitpid(top.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    while top.read_all():
        pass
    assert top.screen.modes[-1] == b"1049l"
    assert termios.tcgetattr(top.slave) == top.modes
    top.screen.resize(80, 24)
    top.process.send_signal(signal.SIGCONT)
    top.until(_second)
    assert top.screen.modes[-2:] == [b"1049h", b"25l"]
    top.type(b"q")
    assert top.ended() == 0


@pytest.mark.slow
def test_nobody_there_is_told_after_the_terminal_is_given_back(folder: Path, session: Callable[..., Session]) -> None:
    top = session("--admin", str(folder / "none.sock"))
    assert top.ended() == 1
    assert top.process.stderr is not None
    assert b"flui top: nobody listens on" in top.process.stderr.read()
    assert termios.tcgetattr(top.slave) == top.modes


@pytest.mark.slow
def test_a_dumb_terminal_gets_one_plain_table(make: Callable[..., _Sidecar], session: Callable[..., Session]) -> None:
    top = session("--admin", make("orders").address, TERM="dumb")
    assert top.ended() == 0
    assert not top.screen.modes
    assert not top.screen.colours
    assert _second(top.screen.rows())

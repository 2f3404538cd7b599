"""`flui admin`: reads a sidecar, shows it to people, fails plainly."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flui.model.topology import Address
from flui.runtime.admin import Admin, Query, Reply, as_json, as_text
from flui.runtime.cli import admin as cli
from flui.runtime.cli import main

FLOWS = [
    {"service": "orders", "route": "default", "targets": ["orders-1", "orders-2"], "hits": 12},
    {"service": "stock", "route": "by-key", "rule": "shop.csv:3"},
]


def _echo(query: Query) -> Reply:
    return as_json(dict(query.values))


class _Sidecar:
    """An admin server in a thread of its own, as a sidecar is a process of its own."""

    def __init__(self, address: Address) -> None:
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._admin = Admin(
            {
                "/flows": lambda _: as_json(FLOWS),
                "/policy": lambda _: as_json(
                    {"version": "abc", "files": ["a.csv", "b.csv"], "loaded": {"rules": 3, "ok": True}, "empty": []}
                ),
                "/ready": lambda _: as_json({"ready": False, "reasons": ["no policy"]}, 503),
                "/metrics": lambda _: as_text("flui_uptime_seconds 1\n"),
                "/nasty": lambda _: as_json({"value": "\x1b[2Jx\nfake: line"}),
                "/echo": _echo,
                "/none": lambda _: as_json([]),
            },
            lambda path, error: None,
        )
        self._thread = threading.Thread(target=self._run, args=(address,))
        self._thread.start()
        assert self._started.wait(10)
        assert self._admin.address is not None
        self.address = str(self._admin.address)

    def _run(self, address: Address) -> None:
        async def serve() -> None:
            await self._admin.start(address)
            self._started.set()
            await self._stopped.wait()
            await self._admin.stop()

        self._loop.run_until_complete(serve())
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "_FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def sidecar(folder: Path) -> Iterator[_Sidecar]:
    made = _Sidecar(Address(str(folder / "flui-orders.sock")))
    yield made
    made.stop()


def _flui(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["admin", *arguments])


@pytest.mark.usefixtures("sidecar")
def test_a_list_of_objects_is_a_table() -> None:
    result = _flui("/flows", "--service", "orders")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "service  route    targets             hits  rule",
        "orders   default  orders-1, orders-2  12",
        "stock    by-key                             shop.csv:3",
    ]


def test_the_only_sidecar_need_not_be_named(sidecar: _Sidecar) -> None:
    result = _flui("policy")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["version: abc", "files: a.csv, b.csv", "loaded:", "  rules: 3", "  ok: yes", "empty: -"]
    assert _flui("/policy", "--admin", sidecar.address).stdout == result.stdout


@pytest.mark.usefixtures("sidecar")
def test_json_is_printed_as_it_came() -> None:
    result = _flui("/flows", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == FLOWS


@pytest.mark.usefixtures("sidecar")
def test_text_is_printed_as_it_came() -> None:
    assert _flui("/metrics").stdout == "flui_uptime_seconds 1\n"
    assert _flui("/metrics", "--json").stdout == "flui_uptime_seconds 1\n"
    assert _flui("/none").stdout == "(none)\n"


@pytest.mark.usefixtures("sidecar")
def test_a_query_goes_along() -> None:
    assert json.loads(_flui("/echo?limit=5", "--json").stdout) == {"limit": "5"}


@pytest.mark.usefixtures("sidecar")
def test_a_sidecar_that_is_not_ready_says_why_and_exits_1() -> None:
    result = _flui("/ready")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["ready: no", "reasons: no policy"]
    assert result.stderr == "flui admin: /ready: 503 Service Unavailable\n"


@pytest.mark.usefixtures("sidecar")
def test_an_unknown_path_names_the_paths_and_exits_1() -> None:
    result = _flui("/nothing")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "404 Not Found: there is no /nothing; there are /echo /flows /metrics" in result.stderr


@pytest.mark.usefixtures("sidecar")
def test_a_value_cannot_drive_the_terminal_or_fake_a_line() -> None:
    assert _flui("/nasty").stdout == "value: \\x1b[2Jx\\x0afake: line\n"


def test_over_tcp_it_works_as_well(folder: Path) -> None:
    made = _Sidecar(Address("127.0.0.1", 0))
    try:
        assert _flui("/metrics", "--admin", made.address).exit_code == 0
    finally:
        made.stop()


def test_nobody_listening_is_said_plainly(folder: Path) -> None:
    result = _flui("/live", "--service", "orders")
    assert result.exit_code == 1
    assert result.stderr == f"flui admin: nobody listens on {folder}/flui-orders.sock; is the sidecar running?\n"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "flui-orders.sock"))
    result = _flui("/live")
    assert result.exit_code == 1
    assert "nobody listens" in result.stderr


def test_no_socket_at_all_says_how_to_start_one(folder: Path) -> None:
    result = _flui("/live")
    assert result.exit_code == 1
    assert "flui run" in result.stderr


def test_several_sidecars_must_be_told_apart(folder: Path) -> None:
    for name in ("orders", "stock"):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(folder / f"flui-{name}.sock"))
    result = _flui("/live")
    assert result.exit_code == 2
    assert "flui-orders.sock" in result.stderr
    assert "--service NAME" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["/live", "--service", "../etc"],
        ["/live", "--service", "a", "--admin", "b"],
        ["/live", "--admin", "nonsense"],
        ["/live", "--admin", ":80"],
        ["/live", "--admin", "localhost:x"],
    ],
)
def test_wrong_use_exits_2(folder: Path, arguments: list[str]) -> None:
    assert _flui(*arguments).exit_code == 2


def test_help_has_an_example() -> None:
    result = _flui("--help")
    assert result.exit_code == 0
    assert "Example: flui admin /clusters --service orders" in " ".join(result.stdout.split())

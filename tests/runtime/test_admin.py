"""The admin server: what it refuses, and that it tells no secrets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from flui.model.config import ConfigError, Limits, Sidecar
from flui.model.events import RequestHead
from flui.model.fields import field
from flui.model.topology import Address, Balance
from flui.runtime import admin
from flui.runtime.admin import Admin, Query, Reply, Stream, as_json, as_text, plain
from flui.telemetry.tap import Sink

LOOPBACK = Address("127.0.0.1", 0)


def _broken(query: Query) -> Reply:
    raise RuntimeError(f"inside of {query.path}")


class _Feed:
    """A feed that is driven by hand."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.resumed = asyncio.Event()
        self.stopped = asyncio.Event()

    def start(self, sink: Sink) -> None:
        self.sink = sink
        sink.write(b"first\n")

    def resume(self) -> None:
        self.resumed.set()

    def stop(self) -> None:
        self.sink = None
        self.stopped.set()


class _Rig:
    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []
        self.feed = _Feed()
        self.admin = Admin(
            {
                "/live": lambda _: as_text("live\n"),
                "/echo": lambda query: as_json(dict(query.values)),
                "/ready": lambda _: as_json({"ready": False, "reasons": ["no policy"]}, 503),
                "/broken": _broken,
                "/big": lambda _: as_text("x" * 3_000_000),
                "/stream": lambda _: Stream("application/x-ndjson", self.feed),
                "/who": lambda query: as_json(query.uid),
            },
            lambda path, error: self.failures.append((path, str(error))),
        )

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        assert self.admin.address is not None
        address = self.admin.address
        if address.port:
            reader, writer = await asyncio.open_connection(address.host, address.port)
        else:
            reader, writer = await asyncio.open_unix_connection(address.host)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        start, *lines = head.decode().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        assert len(body) == int(fields["content-length"])
        return int(start.split()[1]), fields, body


def _get(path: str, host: str = "localhost", more: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n".encode()


def _run(work: Callable[[_Rig], Coroutine[None, None, None]], address: Address = LOOPBACK) -> None:
    async def run() -> None:
        rig = _Rig()
        await rig.admin.start(address)
        try:
            await asyncio.wait_for(work(rig), 20)
        finally:
            await rig.admin.stop()

    asyncio.run(run())


def test_a_page_is_answered_once_with_its_guards_and_the_connection_ends() -> None:
    async def work(rig: _Rig) -> None:
        status, fields, body = await rig.ask(_get("/live") + _get("/live"))
        assert (status, body) == (200, b"live\n")
        assert fields["content-type"] == "text/plain; charset=utf-8"
        assert fields["x-content-type-options"] == "nosniff"
        assert fields["cache-control"] == "no-store"
        assert fields["connection"] == "close"
        assert not any(name.startswith("access-control") for name in fields)

    _run(work)


def test_query_parameters_reach_the_handler() -> None:
    async def work(rig: _Rig) -> None:
        status, fields, body = await rig.ask(_get("/echo?limit=5&name=a%20b&limit=6"))
        assert (status, json.loads(body)) == (200, {"limit": "6", "name": "a b"})
        assert fields["content-type"] == "application/json"
        assert (await rig.ask(_get("/echo?" + "&".join(f"a{n}=1" for n in range(17)))))[0] == 400
        assert (await rig.ask(_get("/echo?novalue")))[0] == 400

    _run(work)


@pytest.mark.parametrize("path", ["/nothing", "/", "/live/", "/live/../live", "/%6cive", "//live"])
def test_an_unknown_path_lists_the_paths(path: str) -> None:
    async def work(rig: _Rig) -> None:
        status, fields, body = await rig.ask(_get(path))
        assert status == 404
        assert fields["content-type"] == "application/problem+json"
        assert json.loads(body)["paths"] == ["/big", "/broken", "/echo", "/live", "/ready", "/stream", "/who"]

    _run(work)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_everything_but_get_is_refused(method: str) -> None:
    async def work(rig: _Rig) -> None:
        status, fields, _ = await rig.ask(_get("/live", method=method, more="content-length: 0\r\n"))
        assert (status, fields["allow"]) == (405, "GET")

    _run(work)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:15000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost.",
        "10.0.0.1",
        "[::2]",
        "::1:80",
        "0",
    ],
)
def test_a_host_that_is_not_this_machine_is_refused(host: str) -> None:
    """Threats G4: DNS rebinding."""

    async def work(rig: _Rig) -> None:
        assert (await rig.ask(_get("/live", host)))[0] in {400, 403}

    _run(work)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:15000", "[::1]", "[::1]:99", "127.3.0.1:15000"])
def test_this_machines_names_are_heard_with_any_port(host: str) -> None:
    async def work(rig: _Rig) -> None:
        assert (await rig.ask(_get("/live", host)))[0] == 200

    _run(work)


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("Cross-Site", 403), ("none", 200), ("same-origin", 200)]
)
def test_a_request_that_another_site_caused_is_refused(site: str, status: int) -> None:
    async def work(rig: _Rig) -> None:
        assert (await rig.ask(_get("/live", more=f"sec-fetch-site: {site}\r\n")))[0] == status

    _run(work)


@pytest.mark.parametrize(
    ("request_octets", "status"),
    [
        (b"GET /live HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 9_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 4_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 414),
        (b"GET /live HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999\r\n\r\n", 413),
    ],
)
def test_a_bad_request_is_answered_and_closed(request_octets: bytes, status: int) -> None:
    async def work(rig: _Rig) -> None:
        got, fields, _ = await rig.ask(request_octets)
        assert got == status
        assert fields["content-type"] == "application/problem+json"

    _run(work)


def test_a_handler_that_raises_is_a_500_that_tells_nothing_of_the_inside() -> None:
    async def work(rig: _Rig) -> None:
        status, _, body = await rig.ask(_get("/broken"))
        assert status == 500
        assert b"inside" not in body
        assert rig.failures == [("/broken", "inside of /broken")]
        assert (await rig.ask(_get("/live")))[0] == 200

    _run(work)


def test_a_client_that_never_finishes_its_head_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REQUEST_S", 0.05)

    async def work(rig: _Rig) -> None:
        assert rig.admin.address is not None
        reader, writer = await asyncio.open_connection(rig.admin.address.host, rig.admin.address.port)
        writer.write(b"GET /live HTTP/1.1\r\nhost: loc")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()

    _run(work)


def test_a_client_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REPLY_S", 0.05)

    async def work(rig: _Rig) -> None:
        assert rig.admin.address is not None
        ended = asyncio.Event()
        leave = rig.admin.leave

        def seen(connection: admin._Connection) -> None:
            leave(connection)
            ended.set()

        monkeypatch.setattr(rig.admin, "leave", seen)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (rig.admin.address.host, rig.admin.address.port))
            await loop.sock_sendall(client, _get("/big"))
            await ended.wait()

    _run(work)


def test_a_big_page_arrives_whole() -> None:
    async def work(rig: _Rig) -> None:
        assert len((await rig.ask(_get("/big")))[2]) == 3_000_000

    _run(work)


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "CONNECTIONS", 2)

    async def work(rig: _Rig) -> None:
        assert rig.admin.address is not None
        held = [await asyncio.open_connection(rig.admin.address.host, rig.admin.address.port) for _ in range(3)]
        with contextlib.suppress(ConnectionResetError):
            assert await held[2][0].read() == b""
        held[0][1].write(_get("/live"))
        assert (await held[0][0].read()).startswith(b"HTTP/1.1 200")
        for _, writer in held:
            writer.close()

    _run(work)


def test_the_socket_is_for_its_owner_only_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"

    async def work(rig: _Rig) -> None:
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        # a browser cannot reach it, so any Host will do
        assert (await rig.ask(_get("/live", "anything")))[0] == 200

    _run(work, Address(str(path)))
    assert not path.exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))

    async def work(rig: _Rig) -> None:
        assert (await rig.ask(_get("/live")))[0] == 200

    _run(work, Address(str(path)))


def test_a_socket_that_someone_answers_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"

    async def work(rig: _Rig) -> None:
        with pytest.raises(ConfigError, match="another sidecar answers there"):
            await Admin({}, lambda path, error: None).start(Address(str(path)))
        assert (await rig.ask(_get("/live")))[0] == 200

    _run(work, Address(str(path)))


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        with pytest.raises(ConfigError, match="not a socket"):
            asyncio.run(Admin({}, lambda path, error: None).start(Address(str(tmp_path / name))))
    assert (tmp_path / "file").read_text() == "precious"


def test_a_successors_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"

    async def work(rig: _Rig) -> None:
        path.unlink()
        path.write_text("a new one")

    _run(work, Address(str(path)))
    assert path.read_text() == "a new one"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_public_address_is_the_operators_mistake(host: str) -> None:
    with pytest.raises(ConfigError, match="is not a loopback address; give"):
        asyncio.run(Admin({}, lambda path, error: None).start(Address(host, 15000)))


def test_a_taken_port_and_a_missing_folder_are_the_operators_mistake(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="in use"):
        asyncio.run(Admin({}, lambda path, error: None).start(Address("127.0.0.1", taken.getsockname()[1])))
    with pytest.raises(ConfigError, match="No such file"):
        asyncio.run(Admin({}, lambda path, error: None).start(Address(str(tmp_path / "none" / "x.sock"))))
    with pytest.raises(ConfigError, match="too long"):
        asyncio.run(Admin({}, lambda path, error: None).start(Address(str(tmp_path / ("x" * 200)))))


def test_stop_ends_open_connections_and_may_be_called_twice() -> None:
    async def run() -> None:
        rig = _Rig()
        await rig.admin.start(LOOPBACK)
        assert rig.admin.address is not None
        reader, writer = await asyncio.open_connection(rig.admin.address.host, rig.admin.address.port)
        writer.write(_get("/live"))
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        idle_reader, idle = await asyncio.open_connection(rig.admin.address.host, rig.admin.address.port)
        await asyncio.wait_for(rig.admin.stop(), 5)
        with contextlib.suppress(ConnectionResetError):
            assert await idle_reader.read() == b""
        await rig.admin.stop()
        idle.close()
        writer.close()

    asyncio.run(run())


def test_it_runs_on_uvloop_as_well(tmp_path: Path) -> None:

    async def run() -> None:
        for address in (LOOPBACK, Address(str(tmp_path / "u.sock"))):
            rig = _Rig()
            await rig.admin.start(address)
            assert (await rig.ask(_get("/live")))[0] == 200
            assert len((await rig.ask(_get("/big")))[2]) == 3_000_000
            await rig.admin.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert not (tmp_path / "u.sock").exists()


@dataclass(frozen=True)
class _Holder:
    name: str
    private_key: bytes
    password: str | None = None
    limit: float = float("inf")


def test_plain_leaves_secrets_out_wherever_they_stand() -> None:
    shown = json.dumps(
        plain(
            {
                "held": _Holder("x", b"CANARY-1"),
                "lists": [{"token": "CANARY-2"}, ("Bearer CANARY-3",)],
                "add": (field(b"authorization", b"CANARY-4"), field(b"flui-roles", b"role:clerk")),
                b"pem": "-----BEGIN PRIVATE KEY-----\nCANARY-5",
                "secrets": {"deep": "CANARY-6"},
                "url": "http://me:CANARY-7@host/",
            }
        )
    )
    assert "CANARY" not in shown
    assert "role:clerk" in shown
    assert '"limit": null' in shown
    assert '"password": null' in shown


def test_plain_shows_a_whole_configuration() -> None:
    shown = plain(Sidecar("orders", None, (), Address("/tmp/x.sock"), "certs", "policy"))
    assert isinstance(shown, dict)
    assert shown["limits"] == plain(Limits())
    assert plain(Balance()) == {"policy": "least_loaded", "key": {"source": "flui-key", "name": "", "part": 0}, "excess_bp": 2500}
    assert plain(frozenset({"b", "a"})) == ["a", "b"]
    assert plain(Path("x")) == "x"
    json.dumps(shown, allow_nan=False)


def test_the_reply_needs_no_socket() -> None:
    head = RequestHead(1, b"GET", b"http", b"localhost", b"/live", b"", [], 0)
    assert _Rig().admin.reply(head, guarded=True) == as_text("live\n")


async def _stream(rig: _Rig, version: str = "1.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter, dict[str, str]]:
    assert rig.admin.address is not None
    reader, writer = await asyncio.open_unix_connection(rig.admin.address.host)
    writer.write(f"GET /stream HTTP/{version}\r\nhost: localhost\r\n\r\n".encode())
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    assert start == "HTTP/1.1 200 OK"
    return reader, writer, dict(line.split(": ", 1) for line in lines)


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readline(), 16)
    chunk = await reader.readexactly(size + 2)
    assert chunk.endswith(b"\r\n")
    return chunk[:-2]


def test_a_stream_arrives_piece_by_piece_until_its_feed_is_over(tmp_path: Path) -> None:
    async def work(rig: _Rig) -> None:
        reader, writer, fields = await _stream(rig)
        assert fields["content-type"] == "application/x-ndjson"
        assert fields["transfer-encoding"] == "chunked"
        assert fields["cache-control"] == "no-store"
        assert await _chunk(reader) == b"first\n"
        assert rig.feed.sink is not None
        rig.feed.sink.write(b"second\n")
        assert await _chunk(reader) == b"second\n"
        rig.feed.sink.finish()
        assert await reader.read() == b"0\r\n\r\n"
        await rig.feed.stopped.wait()
        writer.close()
        assert (await rig.ask(_get("/live")))[0] == 200

    _run(work, Address(str(tmp_path / "admin.sock")))


def test_an_old_client_reads_a_stream_to_its_end(tmp_path: Path) -> None:
    """RFC 9112 7.1: HTTP/1.0 knows no chunks."""

    async def work(rig: _Rig) -> None:
        reader, writer, fields = await _stream(rig, "1.0")
        assert "transfer-encoding" not in fields
        assert rig.feed.sink is not None
        rig.feed.sink.finish()
        assert await reader.read() == b"first\n"
        writer.close()

    _run(work, Address(str(tmp_path / "admin.sock")))


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_feed_is_told_when_its_client_goes(tmp_path: Path, how: str) -> None:
    async def work(rig: _Rig) -> None:
        reader, writer, _ = await _stream(rig)
        await _chunk(reader)
        if how == "close":
            writer.close()
        else:
            writer.transport.abort()
        await rig.feed.stopped.wait()
        assert rig.feed.sink is None

    _run(work, Address(str(tmp_path / "admin.sock")))


def test_a_feed_is_told_when_the_server_stops(tmp_path: Path) -> None:
    async def work(rig: _Rig) -> None:
        reader, writer, _ = await _stream(rig)
        await _chunk(reader)
        await rig.admin.stop()
        await rig.feed.stopped.wait()
        writer.close()

    _run(work, Address(str(tmp_path / "admin.sock")))


def test_a_stream_outlives_the_time_for_replies_and_waits_for_a_client_that_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "REPLY_S", 0.01)

    async def work(rig: _Rig) -> None:
        reader, writer, _ = await _stream(rig)
        assert await _chunk(reader) == b"first\n"
        sink = rig.feed.sink
        assert sink is not None
        assert sink.writable
        written = 0
        while sink.writable:
            sink.write(b"x" * 4_096)
            written += 4_096
            await asyncio.sleep(0)
            assert written < 4_000_000  # what the kernel and the client hold, and 64 KiB
        assert isinstance(sink, admin._Connection)
        assert sink._codec.events() == []  # nor does credit pile up
        assert not rig.feed.stopped.is_set()
        read = 0
        while read < written:
            read += len(await _chunk(reader))
        await rig.feed.resumed.wait()
        assert sink.writable
        sink.write(b"on\n")
        assert await _chunk(reader) == b"on\n"
        writer.close()
        await rig.feed.stopped.wait()

    _run(work, Address(str(tmp_path / "admin.sock")))


def test_on_the_unix_socket_the_kernel_says_who_asks_and_over_tcp_nobody_does(tmp_path: Path) -> None:
    async def here(rig: _Rig) -> None:
        assert json.loads((await rig.ask(_get("/who")))[2]) == os.getuid()

    async def there(rig: _Rig) -> None:
        assert json.loads((await rig.ask(_get("/who")))[2]) is None

    _run(here, Address(str(tmp_path / "admin.sock")))
    _run(there)


def test_uvloop_knows_who_asks_too(tmp_path: Path) -> None:
    async def work() -> None:
        rig = _Rig()
        await rig.admin.start(Address(str(tmp_path / "admin.sock")))
        assert json.loads((await rig.ask(_get("/who")))[2]) == os.getuid()
        reader, writer, _ = await _stream(rig)
        assert await _chunk(reader) == b"first\n"
        writer.close()
        await rig.feed.stopped.wait()
        await rig.admin.stop()

    with asyncio.Runner(loop_factory=uvloop.Loop) as runner:
        runner.run(asyncio.wait_for(work(), 20))

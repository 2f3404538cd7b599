"""Sidecars in this process, callers that speak octets, and backends that misbehave on order.

    m = Mesh(tmp_path)                                     a CA and a folder
    async def story():
        backend = await m.backend()                        answers 200 and remembers what came
        orders = await m.sidecar("orders", app=backend)    a real `Running`, on ports of its own
        answer = await m.call(orders, b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n")
    m.run(story())                                         on uvloop; everything started is ended

Nothing here sleeps for a guess: `until` looks again and again until a condition holds, or fails at its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvloop

from flui.model.topology import Address
from flui.runtime import configfile
from flui.runtime.sidecar import Running
from flui.telemetry.families import FAULTS, HANDSHAKES_REFUSED, UPSTREAM_CONNECTS
from flui.telemetry.journal import Journal
from support.pki import Authority, Leaf, raw_context, wall_clock, write

MODEL = Path(__file__).parents[2] / "policy" / "model.conf"
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_STEP_S = 0.005


async def until(holds: Callable[[], object], what: str, timeout_s: float = 20.0) -> float:
    """Waits until `holds()` is true; says how long that took, in seconds. Fails with `what` when it never is."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(_STEP_S)
    return time.monotonic() - began


class Answer:
    """One response as a caller reads it."""

    def __init__(self, head: bytes) -> None:
        start, *lines = head.split(b"\r\n")
        self.status = int(start.split(b" ")[1])
        self.fields = [(n.lower(), v) for n, _, v in (line.partition(b": ") for line in lines)]
        self.body = b""
        self.trailers = b""
        self.complete = False
        """The body ended as its head said."""

    def get(self, name: bytes) -> bytes | None:
        return next((v for n, v in self.fields if n == name), None)

    def problem(self) -> dict[str, Any]:
        assert self.get(b"content-type") == b"application/problem+json"
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"Answer({self.status}, {self.body[:80]!r}, complete={self.complete})"


class Caller:
    """One connection to a sidecar, written and read octet by octet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, address: Address, context: ssl.SSLContext | None = None) -> Caller:  # noqa: TID251  a peer that is not ours
        more: dict[str, Any] = {} if context is None else {"ssl": context, "server_hostname": "any.invalid"}
        return cls(*await asyncio.open_connection(address.host, address.port, limit=1 << 20, **more))

    async def send(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """The next final response; a cut one has `complete` False."""
        while True:
            answer = Answer((await self.reader.readuntil(b"\r\n\r\n"))[:-4])
            if answer.status >= 200:
                break
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._body(answer, bodiless=bodiless)
        return answer

    async def _body(self, answer: Answer, *, bodiless: bool) -> None:
        if bodiless or answer.status in {204, 304}:
            answer.complete = True
        elif answer.get(b"transfer-encoding"):
            while True:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                if not size:
                    break
                answer.body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                answer.trailers += line
            answer.complete = True
        elif answer.get(b"content-length") is not None:
            wanted = int(answer.get(b"content-length") or b"")
            while len(answer.body) < wanted:
                more = await self.reader.read(wanted - len(answer.body))
                if not more:
                    return
                answer.body += more
            answer.complete = True
        else:
            answer.body = await self.reader.read()
            answer.complete = True

    async def ask(self, octets: bytes) -> Answer:
        await self.send(octets)
        return await self.answer(bodiless=octets.startswith(b"HEAD "))

    async def closed(self, timeout_s: float = 5.0) -> bytes:
        """What else comes before the sidecar closes; fails if it does not close."""
        async with asyncio.timeout(timeout_s):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()

    @property
    def socket(self) -> socket.socket:
        return self.writer.get_extra_info("socket")


class Request:
    """One request as a backend got it."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        start, *lines = head.split(b"\r\n")
        self.method, self.target, _ = start.split(b" ")
        self.fields = [(n.lower(), v) for n, _, v in (line.partition(b": ") for line in lines)]
        self.body = b""

    def get(self, name: bytes) -> bytes | None:
        return next((v for n, v in self.fields if n == name), None)


Behaviour = Callable[["Backend", Request | None, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
"""What a backend does: with None when a connection was accepted, then with each request. False ends the connection."""

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"


async def answers(backend: Backend, request: Request | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """The polite one: reads the whole request, answers 200."""
    if request is not None:
        await read_body(request, reader)
        writer.write(OK)
    return True


async def read_body(request: Request, reader: asyncio.StreamReader) -> None:
    if request.get(b"transfer-encoding"):
        while size := int(await reader.readuntil(b"\r\n"), 16):
            request.body += await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    elif length := request.get(b"content-length"):
        request.body = await reader.readexactly(int(length))


class Backend:
    """A module, or an endpoint of another service: a raw HTTP/1.1 server."""

    def __init__(self, does: Behaviour) -> None:
        self.does = does
        self.requests: list[Request] = []
        self.connections = 0
        self.open: set[asyncio.StreamWriter] = set()
        self.go = asyncio.Event()
        """For behaviours that wait."""
        self.address: Address
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int, context: ssl.SSLContext | None) -> None:  # noqa: TID251  a peer that is not ours
        self._server = await asyncio.start_server(self._serve, host, port, limit=1 << 17, ssl=context)
        name = self._server.sockets[0].getsockname()
        self.address = Address(name[0], name[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open.add(writer)
        try:
            goes_on = await self.does(self, None, reader, writer)
            while goes_on:
                request = Request((await reader.readuntil(b"\r\n\r\n"))[:-4])
                self.requests.append(request)
                goes_on = await self.does(self, request, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def stop(self) -> None:
        """Nothing listens here any more; connections are reset."""
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        for writer in list(self.open):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://{self.address}"


class _Sink:
    """Takes the journal's lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        self.lines.append(json.loads(line))

    def kick(self) -> None:
        """Nothing waits."""


class Side:
    """A running sidecar, and what it says of itself."""

    def __init__(self, name: str, folder: Path, running: Running, sink: _Sink) -> None:
        self.name = name
        self.folder = folder
        self.running = running
        self.journal = sink.lines
        self.ended: asyncio.Task[None] | None = None

    @property
    def file(self) -> Path:
        return self.folder / "sidecar.yaml"

    @property
    def inbound(self) -> Address:
        return self.running.addresses["inbound"]

    @property
    def outbound(self) -> Address:
        return self.running.addresses["outbound"]

    def log(self) -> list[dict[str, Any]]:
        """The access log so far; after the sidecar's end, as it left it."""
        writer = self.running.access_log
        assert writer is not None
        if self.ended is not None and not self.ended.done():
            assert writer.flush(2.0)
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.journal if line["event"] == event]

    def faults(self) -> dict[str, int]:
        """Exchanges that ended in a fault, by fault, both listeners together."""
        found: dict[str, int] = {}
        for (_, fault), count in self.running.meters.samples(FAULTS).items():
            found[fault] = found.get(fault, 0) + int(count)
        return found

    def refused(self) -> dict[str, int]:
        return {reason: int(count) for (_, reason), count in self.running.meters.samples(HANDSHAKES_REFUSED).items()}

    def connects(self) -> dict[str, int]:
        return {outcome: int(count) for (_, outcome), count in self.running.meters.samples(UPSTREAM_CONNECTS).items()}

    def statuses(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for labels, count in self.running.meters.requests():
            found[labels[-1]] = found.get(labels[-1], 0) + count
        return found

    @property
    def connections(self) -> int:
        return sum(len(gate.connections) for gate in self.running.gates)

    async def stop(self) -> None:
        """As SIGTERM does."""
        self.running.stop()
        assert self.ended is not None
        await self.ended


class Mesh:
    """One CA, sidecars and backends in one event loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority("shop")
        self.callers: dict[str, ssl.SSLContext] = {}  # noqa: TID251  a peer that is not ours
        self._sides: list[Side] = []
        self._backends: list[Backend] = []

    def run(self, story: Coroutine[Any, Any, None], timeout_s: float = 30.0) -> None:
        """Runs a story on the loop that production uses, then ends everything it started."""

        async def whole() -> None:
            try:
                async with asyncio.timeout(timeout_s):
                    await story
            finally:
                async with asyncio.timeout(20):
                    await self._end()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())

    async def _end(self) -> None:
        for side in self._sides:
            side.running.stop()
            for gate in side.running.gates:
                for connection in list(gate.connections):
                    connection.cut()
        await asyncio.gather(*(side.ended for side in self._sides if side.ended is not None))
        for backend in self._backends:
            await backend.stop()

    async def backend(
        self,
        does: Behaviour = answers,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        tls: Leaf | None = None,
    ) -> Backend:
        context = raw_context(ssl.PROTOCOL_TLS_SERVER, tls, [self.ca]) if tls is not None else None
        backend = Backend(does)
        await backend.listen(host, port, context)
        self._backends.append(backend)
        return backend

    def context(self, name: str = "web") -> ssl.SSLContext:  # noqa: TID251  a peer that is not ours
        """A caller `spiffe://shop/NAME` that believes our CA."""
        if name not in self.callers:
            self.callers[name] = raw_context(ssl.PROTOCOL_TLS_CLIENT, self.ca.leaf(f"spiffe://shop/{name}"), [self.ca])
        return self.callers[name]

    def prepare(
        self,
        name: str,
        *,
        app: Backend | str | None = None,
        rules: str = "p, spiffe://shop/web, {name}, *, /*\n",
        services: str = "",
        more: str = "",
        leaf: Leaf | None = None,
        inbound: str = "127.0.0.1:0",
        outbound: str = "{address: 127.0.0.1:0}",
        access_log: str = "access.log",
    ) -> Path:
        """Writes a sidecar's folder; returns its configuration file."""
        folder = self.folder / name
        write(folder / "certs", name, leaf or self.ca.leaf(f"spiffe://shop/{name}"), self.ca)
        (folder / "policy").mkdir(exist_ok=True)
        shutil.copy(MODEL, folder / "policy" / "model.conf")
        (folder / "policy" / "rules.csv").write_text(rules.replace("{name}", name))
        url = app.url if isinstance(app, Backend) else app
        lines = [
            f"service: {name}",
            f"app: {url}" if url else "",
            f"inbound: {inbound}" if url else "inbound: off",
            f"outbound: {outbound}",
            "admin: off",
            "certs: certs",
            "policy: policy",
            f"access_log: {access_log}",
            f"services:\n{services}" if services else "",
            more,
        ]
        (folder / "sidecar.yaml").write_text("\n".join(line for line in lines if line) + "\n")
        return folder / "sidecar.yaml"

    async def sidecar(self, name: str, **more: Any) -> Side:
        """Writes a folder as `prepare` does and runs a sidecar from it."""
        return await self.start(self.prepare(name, **more))

    async def start(self, file: Path) -> Side:
        running = Running(lambda: configfile.read(str(file), on_disk=True))
        sink = _Sink()
        running.journal = Journal(sink, wall_clock, service=running.config.service)
        await running.start()
        side = Side(running.config.service, file.parent, running, sink)
        side.ended = asyncio.get_running_loop().create_task(running.drained())
        self._sides.append(side)
        return side

    async def caller(self, side: Side, name: str | None = "web") -> Caller:
        """A connection to the inbound listener as `NAME`; with None to the outbound one."""
        return await Caller.to(side.outbound) if name is None else await Caller.to(side.inbound, self.context(name))

    async def call(self, side: Side, octets: bytes, name: str | None = "web") -> Answer:
        """One request on a connection of its own."""
        caller = await self.caller(side, name)
        try:
            return await caller.ask(octets)
        finally:
            caller.close()


@contextlib.contextmanager
def process(
    *arguments: str | Path, env: dict[str, str] | None = None, stdout: int | None = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this interpreter, ended with the block."""
    started = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **(env or {})},
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGKILL)
        started.communicate()


def ready(started: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The `ready` line of a sidecar process, with its addresses; fails with what it said instead."""
    assert started.stderr is not None
    said = b""
    for line in started.stderr:
        said += line
        if b'"event":"ready"' in line:
            return json.loads(line)
    raise AssertionError(f"it ended with {started.wait(5)}:\n{said.decode()}")


def address_of(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))

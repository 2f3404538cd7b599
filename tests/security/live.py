"""A real sidecar in this process, between raw callers and an upstream that records every octet.

    raw caller ── outbound (plain) ──┐
    raw caller ── inbound (mTLS) ────┴─▶ sidecar ──▶ recording upstream (h11 reads, and answers with what it has read)

The sidecar and the upstream run in a thread of their own; callers are plain sockets in the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import shutil
import socket
import ssl
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self
from unittest import mock

import h11
import uvloop

from flui.downstream import connection
from flui.model.config import AccessLogging, Limits, Listener, Sidecar
from flui.model.resilience import NO_RETRY
from flui.model.topology import APP, APP_ROUTE, Address, Cluster, Endpoint, Match, Route, Target
from flui.runtime.sidecar import Running
from support.pki import Authority, raw_context, write

WAIT_S = 10.0
POLICY = Path(__file__).parents[2] / "policy" / "model.conf"
RULES = """\
g, spiffe://shop/caller, role:tester
p, spiffe://shop/caller, web, *, /
p, spiffe://shop/caller, web, *, /*
p, spiffe://shop/caller, web, *, /admin, deny
p, spiffe://shop/hop, web, *, /*
p, spiffe://shop/web, backend, *, /
p, spiffe://shop/web, backend, *, /*
p, spiffe://shop/web, backend, *, /admin, deny
"""


@dataclass
class Seen:
    """One request as the upstream read it."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    connection: Recording
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.method.decode()} {self.target.decode()}"


class Recording(asyncio.Protocol):
    """One connection of the upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.raw = bytearray()
        self.lost = False
        self.error = ""
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.upstream.connections.append(self)

    def connection_lost(self, exc) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self.raw += data
        self.upstream.raw += data
        try:
            self._h11.receive_data(data)
            self._read()
        except h11.RemoteProtocolError as error:
            self.error = str(error)
            self.upstream.errors.append(f"{error}: {bytes(self.raw[-300:])!r}")
            self.transport.close()

    def _read(self) -> None:
        seen = self.upstream.seen
        while True:
            event = self._h11.next_event()
            if isinstance(event, h11.Request):
                seen.append(Seen(event.method, event.target, list(event.headers), self))
                if event.target.startswith(b"/early"):
                    self._answer(seen[-1])
                    return
                if self._h11.they_are_waiting_for_100_continue:
                    self.transport.write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])))
            elif isinstance(event, h11.Data):
                seen[-1].body += event.data
            elif isinstance(event, h11.EndOfMessage):
                seen[-1].trailers = list(event.headers)
                seen[-1].whole = True
                self._answer(seen[-1])
                if self._h11.our_state is h11.DONE:
                    self._h11.start_next_cycle()
            else:
                return

    def _answer(self, seen: Seen) -> None:
        if seen.target.startswith(b"/hostile"):
            reply, ends = self.upstream.script
            self.transport.write(reply)
            if ends:
                self.transport.close()
            # A fresh reader: what comes next on this connection, if it is used again, is a request.
            self._h11 = h11.Connection(h11.SERVER)
            return
        body = b"%b %b" % (seen.method, seen.target)
        octets = self._h11.send(h11.Response(status_code=200, headers=[("content-length", str(len(body)))])) or b""
        octets += self._h11.send(h11.Data(data=body)) if seen.method != b"HEAD" else b""
        octets += self._h11.send(h11.EndOfMessage()) or b""
        self.transport.write(octets)


class Upstream:
    """Everything the upstream has read."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.raw = bytearray()
        self.errors: list[str] = []
        self.connections: list[Recording] = []
        self.script = (b"", False)
        """What is said to a request for `/hostile`, and whether the connection ends behind it. `/early` is answered at its head."""


class Log:
    """An access log in memory."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)

    def kick(self) -> None:
        """Nothing waits to be written."""

    def news(self) -> str:
        """All is well."""
        return ""

    def close(self, timeout_s: float) -> None:
        """There is nothing to close."""

    def records(self, since: int) -> list[dict]:
        return [json.loads(line) for line in self.lines[since:]]


class Live:
    """The sidecar with its upstream, from `start` to `stop`."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.upstream = Upstream()
        self.log = Log()
        self.addresses: dict[str, Address] = {}
        shop = Authority("shop")
        certs = write(folder / "certs", "web", shop.leaf("spiffe://shop/web"), shop)
        policy = folder / "policy"
        policy.mkdir()
        shutil.copy(POLICY, policy / "model.conf")
        (policy / "rules.csv").write_text(RULES)
        self._tls = {who: raw_context(ssl.PROTOCOL_TLS_CLIENT, shop.leaf(f"spiffe://shop/{who}"), [shop]) for who in ("caller", "hop")}
        self._certs, self._policy, self._limits = str(certs), str(policy), limits or Limits()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.running: Running

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_S), "the sidecar did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.running.stop)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        thresholds = gc.get_threshold()
        try:
            # An end after a fault waits this long for a caller that still sends; over TLS every refused case would cost it.
            with mock.patch.object(connection, "_LINGER_S", 0.05), asyncio.Runner(loop_factory=uvloop.Loop) as runner:
                runner.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 - the test's thread raises it
            self._failure = failure
        finally:
            self._ready.set()
            gc.unfreeze()
            gc.set_threshold(*thresholds)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        server = await self.loop.create_server(lambda: Recording(self.upstream), "127.0.0.1", 0)
        upstream = Address(*server.sockets[0].getsockname()[:2])
        here = Address("127.0.0.1", 0)
        config = Sidecar(
            service="web",
            app=upstream,
            listeners=(
                Listener("inbound", here, tls=True, authorize=True, trusted_hops=("spiffe://shop/hop",)),
                Listener("outbound", here, tls=False, authorize=True),
            ),
            admin=None,
            certs=self._certs,
            policy=self._policy,
            clusters=(Cluster(APP, (Endpoint("app", upstream),), local=True), Cluster("backend", (Endpoint("b1", upstream),))),
            routes=(Route("all", Match(), (Target("backend"),), retry=NO_RETRY),),
            limits=self._limits,
            access_log=AccessLogging("off"),
            app_route=replace(APP_ROUTE, retry=NO_RETRY),
        )
        self.running = Running(lambda: config)
        self.running.access_log = self.log
        await self.running.start()
        self.addresses = self.running.addresses
        self._ready.set()
        await self.running.drained()
        server.close()
        for recording in self.upstream.connections:
            recording.transport.abort()

    def call(self, listener: str, who: str = "caller") -> Caller:
        """A raw connection to a listener; over TLS with a good certificate. `hop` is allow-listed, `caller` is not."""
        address = self.addresses[listener]
        sock = socket.create_connection((address.host, address.port), WAIT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Caller(self._tls[who].wrap_socket(sock) if listener == "inbound" else sock)


@dataclass
class Answer:
    """One final response as the caller read it."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    whole: bool
    interim: int


class Caller:
    """A raw connection. Responses are read one by one; how much was read ahead is kept."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ahead = b""
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, octets: bytes) -> None:
        """Sends what the other side still takes."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self.sock.sendall(octets)

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def _more(self) -> bool:
        if self.ended:
            return False
        try:
            octets = self.sock.recv(1 << 16)
        except (ConnectionError, ssl.SSLError):
            octets = b""
        self.ahead += octets
        self.ended = not octets
        return bool(octets)

    def _line(self) -> bytes | None:
        while b"\r\n" not in self.ahead:
            if not self._more():
                return None
        line, _, self.ahead = self.ahead.partition(b"\r\n")
        return line

    def _octets(self, size: int) -> bytes:
        while len(self.ahead) < size and self._more():
            pass
        octets, self.ahead = self.ahead[:size], self.ahead[size:]
        return octets

    def answer(self, *, bodiless: bool = False) -> Answer | None:
        """The next final response; None when the connection ends first."""
        interim = 0
        while True:
            line = self._line()
            if line is None:
                return None
            assert line.startswith(b"HTTP/1.1 "), line
            status = int(line[9:12])
            fields = []
            while field_line := self._line():
                name, _, value = field_line.partition(b": ")
                fields.append((name, value))
            if status >= 200:
                break
            interim += 1
        if bodiless or status in {204, 304}:
            return Answer(status, fields, b"", True, interim)
        said = dict(fields)
        if b"transfer-encoding" in said:
            body, whole = self._chunks()
        elif b"content-length" in said:
            size = int(said[b"content-length"])
            body = self._octets(size)
            whole = len(body) == size
        else:
            body, whole = self.rest(), True
        return Answer(status, fields, body, whole, interim)

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while (line := self._line()) is not None:
            size = int(line, 16)
            if not size:
                while line := self._line():
                    pass
                return body, line is not None
            body += self._octets(size)
            self._line()
        return body, False

    def rest(self) -> bytes:
        """Everything until the other side closes; fails the test if it does not."""
        while self._more():
            pass
        octets, self.ahead = self.ahead, b""
        return octets

"""Endpoints that misbehave on order and remember when they were asked, a caller that keeps its pace whatever comes back, and
a sidecar as a process of its own.

    replicas = await Replicas.start("orders", 5)          five backends; each counts what arrives
    async with sidecar(file) as web:                      `flui run -c FILE`, its journal in a file, its admin API read
        pace = Pace(web.outbound, "orders", per_s=200)    open loop: requests are sent when they are due, answered or not
        pace.start()
        replicas[0].does = "slow"                         or 500, 503, reset, hang; `await replicas[0].refuse()`
        ...
        share_of(replicas, 0, since, until)               as the backends counted

All are protocols, not streams: hundreds of requests a second on both sides must leave the machine to what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from flui.model.topology import Address
from support.mesh import Caller, address_of, until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"
FAILED = b"HTTP/1.1 %d Failed\r\ncontent-length: 4\r\n\r\nbad\n"
SLOWER = 20
"""So many times its usual time takes who is slow."""
LOST = 0
"""Status of a request whose connection ended without an answer."""
_LINGER_S = 0.5
_WIRES = 1_000
"""Connections of one `Pace` at most."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_METRIC = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Ground:
    """Ports that stay ours while nobody listens on them."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self) -> int:
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self._held.append(held)
        return held.getsockname()[1]

    def close(self) -> None:
        for held in self._held:
            held.close()


class Replica:
    """One endpoint. What it does may change at any time; what it has begun ends as it began."""

    def __init__(self, name: str, port: int, random: Random, usual_s: tuple[float, float]) -> None:
        self.name = name
        self.address = Address("127.0.0.1", port)
        self.does = "well"
        """`well`, `slow`, `500`, `503`, `reset`, `hang`."""
        self.health = 200
        """Answered at /healthz; 0: not answered."""
        self.arrived: list[float] = []
        """When each request came, checks apart; monotonic seconds."""
        self.checks: list[float] = []
        self.heads: list[bytes] | None = None
        """Those of the requests, if set to a list."""
        self.chance = random
        self._median_s, self._spread = usual_s
        self._server: asyncio.Server | None = None
        self.connections: set[_Served] = set()
        self.leaving = False
        """It ends every connection with its next answer."""

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Served(self), self.address.host, self.address.port, backlog=1024)

    async def leave(self) -> None:
        """Ends as a good server does: takes no new connections, and says `connection: close` on those it has, for half a second."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.leaving = True
        left = time.monotonic() + _LINGER_S
        await until(lambda: not self.connections or time.monotonic() > left, "all have gone", _LINGER_S * 2)
        await until(lambda: all(connection.idle for connection in self.connections), "what it has begun is answered")
        for connection in list(self.connections):
            connection.transport.close()
        self.leaving = False

    async def refuse(self) -> None:
        """Nobody listens any more, as after a crash: connections are reset, new ones refused, until `listen`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.transport.abort()

    def came(self, connection: _Served, head: bytes) -> None:
        """Answers a request as it is told to."""
        now = time.monotonic()
        if head.startswith(b"GET /healthz "):
            self.checks.append(now)
            if self.health:
                connection.answer(OK if self.health == 200 else FAILED % self.health)
            return
        self.arrived.append(now)
        if self.heads is not None:
            self.heads.append(head)
        does = self.does
        if does == "hang":
            return
        if does == "reset":
            connection.transport.abort()
            return
        takes_s = self.chance.lognormvariate(0.0, self._spread) * self._median_s
        if does == "slow":
            takes_s *= SLOWER
        octets = OK if does in {"well", "slow"} else FAILED % int(does)
        if takes_s:
            asyncio.get_running_loop().call_later(takes_s, connection.answer, octets)
        else:
            connection.answer(octets)

    def count(self, since: float = 0.0, to: float = float("inf")) -> int:
        """Requests that came in a time."""
        return bisect_left(self.arrived, to) - bisect_left(self.arrived, since)


class _Served(asyncio.Protocol):
    """A connection to a replica."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.transport: asyncio.Transport
        self.idle = True
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # that of uvloop is no subclass
        self.replica.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.replica.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        held = self._held + data
        end = held.find(b"\r\n\r\n")
        if end >= 0:
            length = _LENGTH.search(held, 0, end + 2)
            if len(held) < end + 4 + (int(length[1]) if length else 0):
                end = -1
        if end < 0:
            self._held = held
            return
        self._held = b""
        self.idle = False
        self.replica.came(self, held[:end])

    def answer(self, octets: bytes) -> None:
        self.idle = True
        if self.transport.is_closing():
            return
        if self.replica.leaving:
            self.transport.write(octets.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
            self.transport.close()
        else:
            self.transport.write(octets)


class Replicas(list[Replica]):
    """The endpoints of one cluster."""

    @classmethod
    async def start(
        cls, ground: Ground, cluster: str, count: int, *, random: Random | None = None, usual_s: tuple[float, float] = (0.014, 0.2)
    ) -> Replicas:
        """Endpoints that take a lognormal time: its median in seconds, and the deviation of its logarithm."""
        chance = random or Random(os.urandom(8))
        self = cls(Replica(f"{cluster}-{number}", ground.take(), chance, usual_s) for number in range(count))
        for replica in self:
            await replica.listen()
        return self

    async def stop(self) -> None:
        for replica in self:
            await replica.refuse()

    def endpoints(self) -> str:
        """For a configuration file."""
        return "[" + ", ".join(f"{{name: {replica.name}, address: '{replica.address}'}}" for replica in self) + "]"

    def share(self, at: int, since: float, to: float = float("inf")) -> float:
        """Part of the requests in a time that came to one of them; 0 without requests."""
        total = sum(replica.count(since, to) for replica in self)
        return self[at].count(since, to) / total if total else 0.0


class Wire(asyncio.Protocol):
    """A caller's connection: one request at a time, the answer's status to whoever asked."""

    def __init__(self, idle: list[Wire] | None = None) -> None:
        self.transport: asyncio.Transport
        self.lost = False
        self._idle = idle
        self._then: Callable[[int], None] | None = None
        self._held = b""
        self._whole = 0

    @classmethod
    async def to(cls, address: Address, idle: list[Wire] | None = None) -> Wire:
        _, wire = await asyncio.get_running_loop().create_connection(lambda: cls(idle), address.host, address.port)
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # that of uvloop is no subclass

    def ask(self, octets: bytes, then: Callable[[int], None]) -> None:
        self._then = then
        self.transport.write(octets)

    async def asked(self, octets: bytes) -> int:
        """The status of an answer."""
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.ask(octets, answered.set_result)
        return await answered

    def data_received(self, data: bytes) -> None:
        held = self._held = self._held + data
        if not self._whole:
            end = held.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(held, 0, end + 2)
            self._whole = end + 4 + (int(length[1]) if length else 0)
        if len(held) < self._whole:
            return
        self._held = held[self._whole :]
        self._whole = 0
        then = self._then
        self._then = None
        if self._idle is not None and not self.lost:
            self._idle.append(self)
        assert then is not None
        then(int(held[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._idle is not None and self in self._idle:
            self._idle.remove(self)
        then = self._then
        self._then = None
        if then is not None:
            then(LOST)

    def close(self) -> None:
        self.transport.close()


class Pace:
    """Requests at a steady mean rate, at random moments, each on a connection that is free (Poisson; open loop)."""

    def __init__(
        self,
        address: Address,
        host: str,
        per_s: float,
        *,
        method: bytes = b"GET",
        keys: int = 0,
        random: Random | None = None,
        before: int = 8,
    ) -> None:
        """Nothing is sent yet.

        Args:
            address: Outbound listener.
            host: Service that is asked.
            per_s: Mean rate.
            method: Of the requests, which have no body.
            keys: So many different `flui-key`s; 0: none.
            random: Of moments and keys.
            before: Connections that are opened before the first request.
        """
        self.ended: list[tuple[float, float, int]] = []
        """Sent at, took, status of each that has ended, in the order in which they ended."""
        self.sent = 0
        self.left_out = 0
        """Not sent, as too many wait for their answers: a storm of connections would measure the caller."""
        self.late_s = 0.0
        """How late the latest was sent: the machine, or this process, stood still for so long."""
        self._address = address
        self._per_s = per_s
        self._random = random or Random(os.urandom(8))
        lines = b"%b /items HTTP/1.1\r\nhost: %b\r\n" % (method, host.encode())
        self._requests = [lines + b"flui-key: key-%d\r\n\r\n" % key for key in range(keys)] or [lines + b"\r\n"]
        self._before = before
        self._idle: list[Wire] = []
        self._wires: list[Wire] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = False

    def start(self) -> None:
        self._hold(self._keep_pace())

    def _hold(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_pace(self) -> None:
        for _ in range(self._before):
            wire = await Wire.to(self._address, self._idle)
            self._wires.append(wire)
            self._idle.append(wire)
        due = time.monotonic()
        while not self._stop:
            due += self._random.expovariate(self._per_s)
            pause_s = due - time.monotonic()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
                pause_s = due - time.monotonic()
            self.late_s = max(self.late_s, -pause_s)
            if not self._idle and len(self._wires) >= _WIRES:
                self.left_out += 1
                continue
            self.sent += 1
            octets = self._random.choice(self._requests)
            if self._idle:
                self._ask(self._idle.pop(), octets)
            else:
                self._hold(self._open(octets))

    async def _open(self, octets: bytes) -> None:
        began = time.monotonic()
        try:
            wire = await Wire.to(self._address, self._idle)
        except OSError:
            self.ended.append((began, 0.0, LOST))
            return
        self._wires.append(wire)
        self._ask(wire, octets)

    def _ask(self, wire: Wire, octets: bytes) -> None:
        began = time.monotonic()
        wire.ask(octets, lambda status: self.ended.append((began, time.monotonic() - began, status)))

    async def stop(self, patience_s: float = 20.0) -> None:
        """Sends no more, and lets what was sent end."""
        self._stop = True
        await until(lambda: len(self.ended) == self.sent and not self._tasks, "every request ends", patience_s)
        self.close()

    def close(self) -> None:
        """At once; may be called again."""
        self._stop = True
        for task in self._tasks:
            task.cancel()
        for wire in self._wires:
            wire.close()

    def statuses(self, since: float = 0.0, to: float = float("inf")) -> dict[int, int]:
        """How those ended that were sent in a time."""
        return dict(sorted(Counter(status for sent, _, status in self.ended if since <= sent < to).items()))


def quantile(values: Sequence[float], part: float) -> float:
    """Of sorted or unsorted values, the one below which `part` of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


class SidecarProcess:
    """A sidecar that runs apart, and what it says of itself."""

    def __init__(self, process: asyncio.subprocess.Process, journal: Path) -> None:
        self._process = process
        self._journal = journal
        self.outbound: Address
        self.admin: Address

    @property
    def pid(self) -> int:
        return self._process.pid

    def said(self, event: str, **fields: str) -> list[dict[str, Any]]:
        """Lines of its journal."""
        lines = [json.loads(line) for line in self._journal.read_bytes().splitlines() if line.startswith(b"{") and line.endswith(b"}")]
        return [line for line in lines if line["event"] == event and all(line.get(name) == value for name, value in fields.items())]

    async def page(self, path: str) -> bytes:
        caller = await Caller.to(self.admin)
        try:
            answer = await caller.ask(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        finally:
            caller.close()
        assert answer.status == 200
        return answer.body

    async def metrics(self, family: str) -> dict[tuple[str, ...], float]:
        """Values of one family by the values of its labels."""
        return metrics_of(await self.page("/metrics"), family)

    async def cluster(self, name: str) -> dict[str, Any]:
        return next(cluster for cluster in json.loads(await self.page("/clusters")) if cluster["cluster"] == name)

    def cpu_s(self) -> float:
        """Seconds of processor that it has used, as the kernel counts."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metrics_of(page: bytes, family: str) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for line in page.decode().splitlines():
        match = _METRIC.match(line) if line.startswith(family) else None
        if match is not None and match[1] == family:
            found[tuple(value for _, value in _LABEL.findall(match[2] or ""))] = float(match[3])
    return found


@contextlib.asynccontextmanager
async def sidecar(file: Path) -> AsyncIterator[SidecarProcess]:
    """Runs a sidecar until the block ends, then asks it to go."""
    journal = file.with_name("journal")
    with journal.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flui", "run", "-c", str(file), "--admin", "127.0.0.1:0"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        running = SidecarProcess(process, journal)
        await until(lambda: process.returncode is not None or running.said("ready"), "the sidecar is ready", 20)
        assert process.returncode is None, journal.read_text()
        (ready,) = running.said("ready")
        running.outbound = address_of(ready["outbound"])
        running.admin = address_of(ready["admin"])
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()

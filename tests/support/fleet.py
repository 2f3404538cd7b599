"""Real processes that may be killed: a caller's sidecar `web`, and replicas of `orders`, each a sidecar and a module.

    callers ─▶ web (outbound) ══ mTLS ══▶ orders-1, -2, -3 (inbound, policy) ─▶ fleet_module.py, one each

    async with Fleet(tmp_path) as fleet:
        await fleet.start()
        kill = await fleet.kill("orders-1-module", down_s=2.0)     SIGKILL now; started again 2 s after its end
        await kill.back()                                          until it is ready to serve

Whatever ends without being asked to is started again, as systemd or Kubernetes would. Addresses stay: a socket that only
holds the port keeps others from taking it while nobody listens there. The modules' notes stand in files.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flui.model.topology import Address
from flui.runtime.processes import Process, Processes
from support.mesh import Caller, Mesh

MODULE = Path(__file__).with_name("fleet_module.py")
FLUI = Path(sys.executable).with_name("flui")
_PROBE_S = 2.0
READY_S = 30.0


class Ports:
    """Ports that stay ours although whoever listens on them dies."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self) -> Address:
        """A port of 127.0.0.1 that only those who set SO_REUSEADDR, and no outgoing connection, can get."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        self._held.append(sock)
        return Address(*sock.getsockname())

    def close(self) -> None:
        for sock in self._held:
            sock.close()


@dataclass(eq=False)
class Unit:
    """One process and what it takes to start it again."""

    name: str
    kind: str
    command: tuple[str, ...]
    ready: Callable[[], Awaitable[bool]]
    logs: list[Path]
    process: Process | None = None
    down_s: float = 0.0
    """Pause before the next restart."""
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """It is ready to serve."""
    up_at: float = 0.0
    """When it became so; monotonic seconds."""
    waited_s: float = 0.0
    """Of its start: what it stood in the queue for a core that somebody else had."""


@dataclass(eq=False)
class Kill:
    """One SIGKILL."""

    unit: Unit
    at: float
    """Monotonic seconds."""
    down_s: float
    up_at: float = 0.0
    """When it was ready to serve again; 0 before."""
    waited_s: float = 0.0
    """See `Unit`."""

    async def back(self) -> None:
        """Waits until what was killed is ready again."""
        async with asyncio.timeout(READY_S):
            await self.unit.up.wait()
        self.up_at = self.unit.up_at
        self.waited_s = self.unit.waited_s

    @property
    def replica(self) -> str:
        """Name of the replica that was hit; `web` for the caller's own sidecar."""
        return self.unit.name.removesuffix("-module").removesuffix("-sidecar")


class Fleet:
    """The processes of one scenario. Leaving it ends all of them."""

    def __init__(self, folder: Path, *, replicas: int = 3, service: str = "", more: str = "") -> None:
        """Writes certificates, policy and configuration.

        Args:
            folder: For all files.
            replicas: Of `orders`.
            service: Lines of YAML for `services.orders` of `web`, such as `retry_budget: {share: 50%}`.
            more: Further lines of YAML for `web`, such as routes.
        """
        self.folder = folder
        self.names = [f"orders-{number}" for number in range(1, replicas + 1)]
        self.ports = Ports()
        self.units: dict[str, Unit] = {}
        self.kills: list[Kill] = []
        self.trouble: list[str] = []
        """What ended although nobody killed it."""
        self._processes = Processes()
        self._supervisor: asyncio.Task[None] | None = None
        self._restarts: set[asyncio.Task[None]] = set()
        mesh = Mesh(folder)
        inbound = {name: self.ports.take() for name in self.names}
        endpoints = ", ".join(f"{{name: {name}, address: '{inbound[name]}'}}" for name in self.names)
        services = f"  orders:\n    endpoints: [{endpoints}]\n" + "".join(f"    {line}\n" for line in service.splitlines())
        replica = mesh.prepare("orders", app="http://127.0.0.1:9", outbound="off", access_log="stdout")
        self.outbound = self.ports.take()
        """Where callers send their requests."""
        web = mesh.prepare("web", services=services, more=more, outbound=str(self.outbound), access_log="stdout")
        for name in self.names:
            app = self.ports.take()
            command = (sys.executable, "-S", str(MODULE), str(app), name, str(self._notes(name)))
            self._add(f"{name}-module", "module", command, _Listening(app), [folder / f"{name}-module.log"])
            self._add_sidecar(f"{name}-sidecar", replica, "--inbound", str(inbound[name]), "--app", f"http://{app}")
        self._add_sidecar("web-sidecar", web)

    def _add_sidecar(self, name: str, file: Path, *flags: str) -> None:
        admin = self.ports.take()
        command = (str(FLUI), "run", "-c", str(file), "--admin", str(admin), *flags)
        logs = [self.folder / f"{name}.access.log", self.folder / f"{name}.log"]
        self._add(name, "sidecar", command, _Ready(admin), logs)

    def _add(self, name: str, kind: str, command: tuple[str, ...], ready: Callable[[], Awaitable[bool]], logs: list[Path]) -> None:
        self.units[name] = Unit(name, kind, command, ready, logs)

    async def __aenter__(self) -> Self:
        await self._processes.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in (self._supervisor, *self._restarts):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._processes.__aexit__(kind, error, trace)
        self.ports.close()

    async def start(self) -> None:
        """Starts everything, and returns once all of it is ready."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(self._run(unit) for unit in self.units.values()))
        self._supervisor = loop.create_task(self._supervise())

    async def _run(self, unit: Unit) -> None:
        process = await self._processes.start(
            unit.name, unit.kind, unit.command, folder=self.folder, environment=dict(os.environ), logs=unit.logs
        )
        unit.process = process
        await self._processes.until_ready({process: unit.ready}, READY_S)
        unit.up_at = time.monotonic()
        unit.waited_s = _queued_s(process.pid)
        unit.up.set()

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            ended = await self._processes.ended.get()
            unit = self.units[ended.name]
            if ended.status != -signal.SIGKILL:
                self.trouble.append(f"{ended.name} {ended.ending()}: {ended.last_lines()}")
            task = loop.create_task(self._again(unit))
            self._restarts.add(task)
            task.add_done_callback(self._restarted)

    async def _again(self, unit: Unit) -> None:
        unit.up.clear()
        await asyncio.sleep(unit.down_s)  # what the scenario asks for, not a guess
        await self._run(unit)

    def _restarted(self, task: asyncio.Task[None]) -> None:
        self._restarts.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.trouble.append(f"a restart failed: {task.exception()}")

    async def kill(self, name: str, down_s: float = 0.0) -> Kill:
        """SIGKILL to one process, by its pid; returns once it is gone.

        Args:
            name: `orders-1-module`, `orders-1-sidecar`, `web-sidecar`.
            down_s: Seconds until it is started again.
        """
        unit = self.units[name]
        process = unit.process
        assert process is not None
        assert not process.gone.is_set(), f"{name} is down already"
        unit.up.clear()
        unit.down_s = down_s
        kill = Kill(unit, time.monotonic(), down_s)
        self.kills.append(kill)
        os.kill(process.pid, signal.SIGKILL)
        await process.gone.wait()
        return kill

    # What independent observers saw.

    def _notes(self, name: str) -> Path:
        return self.folder / f"{name}.notes"

    def begun(self) -> Counter[bytes]:
        """How often each request was begun, at all modules together."""
        counts: Counter[bytes] = Counter()
        for name in self.names:
            counts.update(line.split(b" ")[0] for line in self._notes(name).read_bytes().splitlines())
        return counts

    def logged(self, unit: str) -> list[dict[str, Any]]:
        """The access log of a sidecar; a line that a kill cut off is left out."""
        lines = self.units[unit].logs[0].read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}\n")]

    def said(self, unit: str, event: str) -> list[dict[str, Any]]:
        """What the journal of a sidecar says of an event."""
        lines = self.units[unit].logs[1].read_bytes().splitlines()
        found = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]
        return [line for line in found if line["event"] == event]


def _queued_s(pid: int) -> float:
    """Seconds that a process was ready to run and did not, as Linux counts them; 0 where nobody counts."""
    counts = Path(f"/proc/{pid}/schedstat")
    return int(counts.read_text().split()[1]) / 1e9 if counts.exists() else 0.0


class _Listening:
    """Whether somebody accepts connections."""

    def __init__(self, address: Address) -> None:
        self.address = address

    async def __call__(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_S):
                caller = await Caller.to(self.address)
        except (OSError, TimeoutError):
            return False
        caller.close()
        return True


class _Ready(_Listening):
    """Whether the admin API of a sidecar says that it is ready."""

    async def __call__(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_S):
                caller = await Caller.to(self.address)
                try:
                    answer = await caller.ask(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                finally:
                    caller.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False
        return answer.status == 200

"""A topology running on this machine: its folder, its identities, its processes, and where everything is.

RUN/certs/          ca.pem, ca.key, and per service and identity NAME.pem, NAME.key
RUN/NAME.yaml       what the sidecar of module NAME is told
RUN/NAME.sock       its admin socket
RUN/NAME.log        what the module writes
RUN/NAME-sidecar.access.log, RUN/NAME-sidecar.log
RUN/processes.json  name, kind, pid of every process, kept up to date
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import yaml

from flui.identity import ca
from flui.identity.spiffe import SpiffeId
from flui.runtime import configfile
from flui.runtime.placement import Placed, place
from flui.runtime.processes import Process, Processes, StartError
from flui.runtime.programs import Program, program_of
from flui.runtime.topology import Topology

_LIFETIME_S: Final = 7 * 86_400.0
"""Of the CA and the leaves: a development run is over long before."""
_BLOCKS: Final = 250 * 250
_TRIES: Final = 40
_SOCKET_PATH_OCTETS: Final = 100
"""What a Unix socket's path may have everywhere (Linux 107, macOS 103)."""
_PROBE_S: Final = 1.0


class Local:
    """Use as `async with Local(...) as local: await local.start(...)`; leaving takes everything down."""

    def __init__(self, topology: Topology, run: Path, say: Callable[[str], None]) -> None:
        self.topology = topology
        self.run = run
        """Absolute path of an existing folder."""
        self.certs = run / "certs"
        self.placed: tuple[Placed, ...] = ()
        self.programs: dict[str, Program] = {}
        """Module → what it runs as."""
        self.processes = Processes()
        self._say = say
        self._known: list[Process] = []

    async def __aenter__(self) -> Self:
        await self.processes.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.processes.__aexit__(kind, error, trace)

    async def start(self, timeout_s: float) -> None:
        """Makes the identities, starts every module and sidecar, and returns once all of them are ready.

        Args:
            timeout_s: from the start of the processes to the last one's readiness; compiling does not count.

        Raises:
            StartError: something did not start, died, or was not ready in time.
            ConfigError: a sidecar's configuration is wrong.
        """
        topology = self.topology
        found: dict[tuple[object, ...], Program] = {}
        for module in topology.modules:
            alike = (module.folder, module.command, module.build, module.twin)
            if alike not in found:  # replicas run the same, which is found, and said, once
                found[alike] = await program_of(module, topology.cache.resolve(), self._say)
            self.programs[module.name] = found[alike]
        self._issue()
        self.placed = place(topology, _hosts(topology), self.run, self.certs)
        for one in self.placed:
            self._configure(one)
        self._say(f"starting {len(topology.modules)} modules and their sidecars")
        probes: dict[Process, Callable[[], Awaitable[bool]]] = {}
        for one in self.placed:
            name = one.module.name
            environment = {**os.environ, **dict(one.environment)}
            process = await self._start(
                name, "module", self.programs[name].command, one.module.folder, environment, [self.run / f"{name}.log"]
            )
            if one.app:
                probes[process] = _Listening(one.app)
            name = one.companion.name
            logs = [self.run / f"{name}.access.log", self.run / f"{name}.log"]
            command = (*_flui(), "run", "-c", str(self._file(one)))
            process = await self._start(name, "sidecar", command, self.run, dict(os.environ), logs)
            probes[process] = _Ready(one.admin)
        await self.processes.until_ready(probes, timeout_s)

    def addresses(self) -> dict[str, object]:
        """Where everything is, for programs."""
        return {
            "topology": self.topology.name,
            "run": str(self.run),
            "certs": str(self.certs),
            "modules": {
                one.module.name: {
                    "service": one.companion.service,
                    "principal": f"spiffe://{self.topology.trust_domain}/{one.companion.service}",
                    "runtime": self.programs[one.module.name].runtime,
                    "app": one.app,
                    "inbound": one.inbound,
                    "outbound": one.outbound,
                    "admin": one.admin,
                }
                for one in self.placed
            },
        }

    def environment(self) -> dict[str, str]:
        """What a command beside the topology gets: `FLUI_ORDERS_INBOUND` and so on; a service with replicas is its first one too."""
        told: dict[str, str] = {"FLUI_CERTS": str(self.certs), "FLUI_RUN": str(self.run)}
        for one in self.placed:
            for name in (one.module.name, one.companion.service):
                prefix = f"FLUI_{re.sub('[^A-Z0-9]', '_', name.upper())}"
                told.setdefault(f"{prefix}_INBOUND", one.inbound)
                told.setdefault(f"{prefix}_OUTBOUND", one.outbound)
                told.setdefault(f"{prefix}_ADMIN", one.admin)
                told.setdefault(f"{prefix}_APP", one.app)
        return told

    async def next_death(self) -> Process:
        """The next process that ended although nobody had asked it to, once there is one."""
        process = await self.processes.ended.get()
        self._list()
        return process

    async def _start(
        self, name: str, kind: str, command: tuple[str, ...], folder: Path, environment: Mapping[str, str], logs: list[Path]
    ) -> Process:
        process = await self.processes.start(name, kind, command, folder=folder, environment=environment, logs=logs)
        self._known.append(process)
        self._list()
        return process

    def _list(self) -> None:
        """Writes processes.json, whole at any time."""
        listed = [
            {
                "name": p.name,
                "kind": p.kind,
                "pid": p.pid,
                "logs": [str(log) for log in p.logs],
                "ended": p.ending() if p.gone.is_set() else None,
            }
            for p in self._known
        ]
        fresh = self.run / ".processes.json"
        fresh.write_text(json.dumps(listed, indent=2) + "\n", "utf-8")
        fresh.replace(self.run / "processes.json")

    def _file(self, one: Placed) -> Path:
        return self.run / f"{one.module.name}.yaml"

    def _configure(self, one: Placed) -> None:
        file = self._file(one)
        where = f"{self.topology.file}:{one.companion.line}"
        text = yaml.safe_dump(dict(one.settings), sort_keys=False)
        file.write_text(f"# What {one.companion.name} of {where} is told on this machine.\n{text}", "utf-8")
        configfile.read(str(file), on_disk=True)

    def _issue(self) -> None:
        """A CA for this run, and a leaf for every service and identity."""
        self.certs.mkdir(mode=0o700, exist_ok=True)
        now = datetime.now(UTC).timestamp()
        authority = ca.new_ca(self.topology.trust_domain, now, _LIFETIME_S)
        _write(self.certs / "ca.pem", authority.certificate_pem)
        _write(self.certs / "ca.key", authority.key_pem)
        for name in {companion.service for companion in self.topology.companions} | set(self.topology.identities):
            leaf = ca.issue(authority, SpiffeId.parse(f"spiffe://{self.topology.trust_domain}/{name}"), now, _LIFETIME_S)
            _write(self.certs / f"{name}.key", leaf.key_pem)
            _write(self.certs / f"{name}.pem", leaf.chain_pem)


class _Listening:
    """Whether something accepts connections at `host:port`."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.host, self.port = host, int(port)

    async def __call__(self) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PROBE_S):
                _, writer = await asyncio.open_connection(self.host, self.port)
                writer.close()
                await writer.wait_closed()
                return True
        return False


class _Ready:
    """Whether the sidecar behind an admin socket says that it is ready."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def __call__(self) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PROBE_S):
                reader, writer = await asyncio.open_unix_connection(self.path)
                try:
                    writer.write(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                    return (await reader.readline()).split(b" ")[1:2] == [b"200"]
                finally:
                    writer.close()
                    await writer.wait_closed()
        return False


def _hosts(topology: Topology) -> dict[str, str]:
    """A loopback address for each module, in a block that nobody uses: two topologies may run side by side.

    Raises:
        StartError: no block is free, or this machine has no loopback addresses but 127.0.0.1.
    """
    names = [module.name for module in topology.modules]
    why = ""
    for attempt in range(_TRIES):
        block = (os.getpid() * 31 + attempt * 7919) % _BLOCKS
        hosts = {name: f"127.{2 + block // 250}.{block % 250}.{2 + number}" for number, name in enumerate(names)}
        wanted = [
            (one.host, address)
            for one in place(topology, hosts, Path(), Path())
            for address in (one.inbound, one.outbound, one.app)
            if address
        ]
        why = _taken(wanted)
        if not why:
            return hosts
    fix = "; on macOS add the addresses first: ifconfig lo0 alias" if sys.platform == "darwin" else ""
    raise StartError(topology.name, f"no block of loopback addresses is free: {why}{fix}")


def _taken(wanted: list[tuple[str, str]]) -> str:
    """Why one of the addresses cannot be bound; empty: all of them can."""
    with contextlib.ExitStack() as sockets:
        for host, address in wanted:
            trial = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, int(address.rpartition(":")[2])))
            except OSError as error:
                return f"{address}: {error.strerror}"
    return ""


def _flui() -> tuple[str, ...]:
    """The command that runs us, as another process."""
    beside = Path(sys.executable).with_name("flui")
    return (str(beside),) if beside.exists() else (sys.executable, "-c", "from flui.runtime.cli import main; main()")


def _write(file: Path, octets: bytes) -> None:
    """A file only its owner may read."""
    file.touch(mode=0o600)
    file.write_bytes(octets)


def socket_fits(run: Path, topology: Topology) -> bool:
    """Whether the admin sockets' paths in this folder are short enough for every system."""
    longest = max((len(module.name) for module in topology.modules), default=0)
    return len(os.fsencode(run)) + longest + len("/.sock") <= _SOCKET_PATH_OCTETS

"""Real sidecar processes, and what an independent observer reads of them: pages by Prometheus' own parser, logs, `/proc`.

    async with Observed(mesh) as observed:
        web = await observed.sidecar("web", services=…)      `flui run`, waits until it says that it is ready
        page = web.page()                                    {family: {labels: number}}
        web.log()                                            every line of the access log, the renamed files' too

`Caller`s of `support.mesh` ask; `asked` sends one request and measures it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from flui.model.topology import Address
from flui.runtime import adminclient
from flui.telemetry.families import Family
from support.mesh import Answer, Caller, Mesh, address_of, until
from support.witness_module import Note, Witness

TESTS = Path(__file__).parents[1]
MODULE = Path(__file__).with_name("witness_module.py")
READY_S = 30.0

Numbers = dict[tuple[str, ...], float]
"""By label values, in the family's order."""


class Page:
    """One metrics page."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for each in text_string_to_metric_families(text):
            for sample in each.samples:
                self._samples.setdefault(sample.name, []).append((sample.labels, sample.value))

    def of(self, family: Family, suffix: str = "", more: tuple[str, ...] = ()) -> Numbers:
        """Every sample of a family."""
        labels = (*family.labels, *more)
        found: Numbers = {}
        for named, value in self._samples.get(family.name + suffix, []):
            assert set(named) == set(labels), f"{family.name}: {named}"
            found[tuple(named[label] for label in labels)] = value
        return found

    def one(self, family: Family, *labels: str) -> float:
        """One sample; 0 for a counter that never counted."""
        return self.of(family).get(labels, 0.0)

    def names(self) -> set[str]:
        return set(self._samples)


class Sidecar:
    """A `flui run` process."""

    def __init__(self, name: str, file: Path, process: subprocess.Popen[bytes], admin: str) -> None:
        self.name = name
        self.folder = file.parent
        self.file = file
        self.process = process
        self.admin = admin
        self.ready_at = 0.0
        """Monotonic seconds when it had said that it is ready."""
        self.told: dict[str, Any] = {}
        """Its `ready` line."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def address(self, listener: str) -> Address:
        return address_of(self.told[listener])

    @property
    def inbound(self) -> Address:
        return self.address("inbound")

    @property
    def outbound(self) -> Address:
        return self.address("outbound")

    def get(self, path: str) -> adminclient.Answer:
        return adminclient.get(self.admin, path)

    def page(self) -> Page:
        answer = self.get("/metrics")
        assert answer.status == 200
        return Page(answer.body.decode())

    def journal(self) -> list[dict[str, Any]]:
        lines = (self.folder / "stderr").read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}\n")]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.journal() if line["event"] == event]

    def log_files(self) -> list[Path]:
        """The oldest first."""
        file = self.folder / "access.log"
        renamed = sorted(self.folder.glob("access.log.*"), key=lambda path: -int(path.suffix[1:]))
        return [*renamed, file]

    def log(self) -> list[dict[str, Any]]:
        """Every line, in the order in which they were written; a line that is cut is a mistake."""
        text = b"".join(file.read_bytes() for file in self.log_files())
        assert not text or text.endswith(b"\n"), f"torn: {text[-200:]!r}"
        return [json.loads(line) for line in text.splitlines()]

    async def logged(self, lines: int, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        """The log, once it has so many lines: they leave within 0.2 s."""
        await until(
            lambda: b"".join(f.read_bytes() for f in self.log_files()).count(b"\n") >= lines, f"{lines} lines of {self.name}", timeout_s
        )
        return self.log()

    async def stop(self, timeout_s: float = 20.0) -> float:
        """SIGTERM; seconds until it had ended, which must be with status 0."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        await until(lambda: self.process.poll() is not None, f"{self.name} ends", timeout_s)
        assert self.process.returncode == 0, (self.folder / "stderr").read_text()
        return time.monotonic() - began


class ModuleProcess:
    """`witness_module.py` as a process of its own."""

    def __init__(self, name: str, notes: Path, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.process = process
        self._notes = notes
        assert process.stdout is not None
        self.port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        self.accepted = 0
        self.notes: list[Note] = []

    def end(self) -> list[Note]:
        """Ends it, and says what it saw."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)
        told = json.loads(self._notes.read_text())
        self.accepted = told["accepted"]
        self.notes = [Note(**members) for members in told["notes"]]
        return self.notes


class Command:
    """A `flui` command that runs until it is stopped, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process = process
        self._said = said

    def out(self) -> bytes:
        return self._said.read_bytes()


class Observed:
    """The processes of one test; leaving it ends those that still run, each by its own pid."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.sidecars: list[Sidecar] = []
        self._modules: list[ModuleProcess] = []
        self._commands: list[Command] = []
        self._witnesses: list[Witness] = []
        self._callers: list[Caller] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in [each.process for each in (*self._commands, *self.sidecars, *self._modules)]:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
                    process.kill()
            process.wait(20)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        for caller in self._callers:
            caller.abort()
        for witness in self._witnesses:
            await witness.stop()
        await asyncio.sleep(0.01)  # what was aborted is closed in the loop's next turns

    async def witness(self, name: str, tries: Counter[str] | None = None, **more: Any) -> Witness:
        """A raw server in this process that listens."""
        witness = Witness(name, tries, **more)
        await witness.listen()
        self._witnesses.append(witness)
        return witness

    async def caller(self, address: Address, context: ssl.SSLContext | None = None) -> Caller:  # noqa: TID251  a peer that is not ours
        """A connection that is closed at the end at the latest."""
        self._callers.append(await Caller.to(address, context))
        return self._callers[-1]

    def module(self, name: str = "module") -> ModuleProcess:
        notes = self.mesh.folder / f"{name}.notes"
        process = subprocess.Popen(
            [sys.executable, str(MODULE), name, str(notes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        self._modules.append(ModuleProcess(name, notes, process))
        return self._modules[-1]

    def command(self, *arguments: str) -> Command:
        """Begins a command; it is ended with everything else."""
        said = self.mesh.folder / f"command-{len(self._commands)}"
        with said.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "flui", *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        self._commands.append(Command(process, said))
        return self._commands[-1]

    async def sidecar(self, name: str, *, env: Mapping[str, str] | None = None, **prepare: Any) -> Sidecar:
        """Writes its folder as `Mesh.prepare` does, and runs it."""
        return await self.run(name, self.mesh.prepare(name, **prepare), env=env)

    async def run(self, name: str, file: Path, *, env: Mapping[str, str] | None = None) -> Sidecar:
        admin = str(file.parent / f"{name}.sock")
        assert len(admin) < 104, "socket paths are short"
        with (file.parent / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "flui", "run", "-c", str(file), "--admin", admin],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, env={**os.environ, **(env or {})},
            )  # fmt: skip
        sidecar = Sidecar(name, file, process, admin)
        self.sidecars.append(sidecar)
        said = file.parent / "stderr"
        await until(lambda: process.poll() is not None or sidecar.said("ready"), f"{name} is ready: {said.read_text()}", READY_S)
        assert process.poll() is None, said.read_text()
        sidecar.ready_at = time.monotonic()
        sidecar.told = sidecar.said("ready")[0]
        return sidecar


@dataclass(slots=True)
class Asked:
    """One request as its caller saw it."""

    id: str
    kind: str
    began: float = 0.0
    ended: float = 0.0
    status: int = 0
    """0: the connection ended before an answer's head."""
    complete: bool = False
    octets_in: int = 0
    """Of its body, sent."""
    octets_out: int = 0
    """Of the answer's body, read."""
    code: str = ""
    """Of a problem document."""
    trace: str = ""
    """Trace id that the caller sent, or was told in a problem document."""
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def outer_s(self) -> float:
        """From before the first octet was handed to the kernel to the last one read: nobody within can have been slower."""
        return self.ended - self.began


async def asked(caller: Caller, octets: bytes, found: Asked) -> Answer | None:
    """Sends a request and notes how it ended. None: there was no answer."""
    answer: Answer | None = None
    found.began = time.monotonic()
    try:
        await caller.send(octets)
        answer = await caller.answer(bodiless=octets.startswith(b"HEAD "))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    found.ended = time.monotonic()
    if answer is not None:
        found.status = answer.status
        found.complete = answer.complete
        found.octets_out = len(answer.body)
        found.fields = answer.fields
        if answer.get(b"content-type") == b"application/problem+json":
            problem = answer.problem()
            found.code = problem["code"]
            found.trace = found.trace or problem.get("trace", "")
    return answer


# What the kernel says.


def tcp_sockets() -> list[tuple[tuple[str, int], tuple[str, int], int, int, int]]:
    """IPv4 sockets of this machine: own address, the other's, state, octets not acknowledged, octets not read."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        part = line.split()
        sent, _, read = part[4].partition(":")
        found.append((_address(part[1]), _address(part[2]), int(part[3], 16), int(sent, 16), int(read, 16)))
    return found


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return ".".join(str(octet) for octet in reversed(bytes.fromhex(host))), int(port, 16)


def established(port: int, *, local: bool) -> int:
    """Connections that are open, by the port of one end."""
    return sum(1 for ours, theirs, state, _, _ in tcp_sockets() if state == 1 and (ours if local else theirs)[1] == port)

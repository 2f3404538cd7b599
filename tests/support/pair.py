"""Two real sidecars in processes of their own, for independent peers at both ends.

    peer ─▶ web (outbound, plain) ══ HTTP/2 over mTLS ══▶ orders (inbound, policy) ─▶ app

    with Pair(tmp_path, app="h2c://127.0.0.1:9000") as pair:
        subprocess.run(["nghttp", pair.url("/")])
        pair.restart("web")                    SIGTERM, waits for its end, starts it again at the same addresses

Every path goes to `orders`, whatever host the peer names. With `mesh=False` there is `orders` alone, to be called by mTLS.
Nothing is started that is not ended with the block, by its pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flui.model.topology import Address
from support.fleet import Ports
from support.mesh import Mesh
from support.peers_grpc import PeerMissing

READY_S = 20.0
STOP_S = 30.0
RULES = "p, spiffe://shop/web, orders, *, /\np, spiffe://shop/web, orders, *, /*\n"
EVERYTHING = "routes: [{name: all, match: {path: '/*'}, to: orders}]\n"
_STEP_S = 0.01


def debian(program: str, package: str) -> str:
    """Path of a program that Debian has.

    Raises:
        PeerMissing: it is not here; says what to install.
    """
    found = shutil.which(program)
    if found is None:
        raise PeerMissing(f"make test-peers needs {program} (Debian: apt-get install {package}), which is not on PATH")
    return found


def wait(holds: Callable[[], object], what: str, timeout_s: float = READY_S) -> float:
    """Looks again and again until `holds()` is true; says how many seconds that took. Fails with `what` when it never is."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(_STEP_S)
    return time.monotonic() - began


def listens(address: Address) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((address.host, address.port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def program(*command: str | Path, log: Path, listening: Address | None = None, env: dict[str, str] | None = None) -> Iterator[int]:
    """Another program, its pid; ended with the block. What it says stands in `log`.

    Args:
        command: Program and arguments.
        log: For stdout and stderr.
        listening: Where it accepts connections before the block begins.
        env: Beside our own.
    """
    with log.open("wb") as said:
        started = subprocess.Popen(
            [str(word) for word in command],
            stdout=said,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )
    try:
        if listening is not None:
            where = listening
            wait(lambda: listens(where) or started.poll() is not None, f"{command[0]} listens")
            assert started.poll() is None, f"{command[0]} ended with {started.returncode}: {log.read_text(errors='replace')}"
        yield started.pid
    finally:
        if started.poll() is None:
            started.terminate()
            try:
                started.wait(5)
            except subprocess.TimeoutExpired:
                started.kill()
        started.wait(5)


def run(*command: str | Path, timeout_s: float = 60.0, data: bytes | None = None) -> tuple[int, str]:
    """A program that ends by itself: its exit status, and what it said."""
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True, timeout=timeout_s, input=data)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


@contextlib.contextmanager
def nghttpd(folder: Path, *files: tuple[str, bytes]) -> Iterator[Address]:
    """nghttp2's server, which speaks HTTP/2 with prior knowledge; its address.

    Args:
        folder: For what it serves and says.
        files: Names and contents of what it serves.
    """
    found = debian("nghttpd", "nghttp2-server")
    pages = folder / "pages"
    pages.mkdir()
    for name, octets in files:
        (pages / name).write_bytes(octets)
    with contextlib.closing(Ports()) as ports:
        at = ports.take()
        with program(found, "--no-tls", "-a", at.host, "-d", pages, str(at.port), log=folder / "nghttpd.log", listening=at):
            yield at


class SidecarProcess:
    """One sidecar: `python -m flui run`."""

    def __init__(self, name: str, file: Path, *flags: str) -> None:
        """Not started yet.

        Args:
            name: Of its service.
            file: Configuration.
            flags: Further ones of `flui run`.
        """
        self.name = name
        self.folder = file.parent
        self._command = [sys.executable, "-m", "flui", "run", "-c", str(file), *flags]
        self._log = self.folder / "journal.log"
        self._read = 0
        self._started: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._started is not None
        return self._started.pid

    @property
    def alive(self) -> bool:
        return self._started is not None and self._started.poll() is None

    def start(self, *flags: str) -> None:
        """Starts it, with further flags; returns when it is ready."""
        before = len(self.said("ready"))
        with self._log.open("ab") as log:
            self._started = subprocess.Popen([*self._command, *flags], stdout=subprocess.DEVNULL, stderr=log, stdin=subprocess.DEVNULL)
        wait(lambda: len(self.said("ready")) > before or not self.alive, f"{self.name} is ready")
        assert self.alive, f"{self.name} ended: {self._log.read_text()}"

    def replace(self) -> tuple[float, float]:
        """Another process takes its addresses over, then it is told to end; when that was, and when it was gone."""
        old = self._started
        assert old is not None
        try:
            self.start("--take-over")
            told = time.monotonic()
            old.send_signal(signal.SIGTERM)
            assert old.wait(STOP_S) == 0
            return told, time.monotonic()
        finally:
            if old.poll() is None:
                old.kill()
                old.wait(5)

    def term(self) -> None:
        """SIGTERM: it drains, then ends."""
        assert self._started is not None
        self._started.send_signal(signal.SIGTERM)

    def ended(self, timeout_s: float = STOP_S) -> int:
        """Waits for its end; its exit status."""
        assert self._started is not None
        return self._started.wait(timeout_s)

    def kill(self) -> None:
        """Ends it at once, if it lives."""
        if self._started is not None and self._started.poll() is None:
            self._started.kill()
        if self._started is not None:
            self._started.wait(5)

    def journal(self) -> list[dict[str, Any]]:
        """Everything it has said so far."""
        lines = self._log.read_bytes().splitlines(keepends=True) if self._log.exists() else []
        return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}\n")]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.journal() if line["event"] == event]

    def log(self) -> list[dict[str, Any]]:
        """The access log so far."""
        lines = (self.folder / "access.log").read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"}\n")]

    def admin(self, path: str) -> str:
        """A page of its admin API."""
        where = str(self.folder / "admin.sock")
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(10)
            asking.connect(where)
            asking.sendall(b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % path.encode())
            said = b""
            while more := asking.recv(1 << 16):
                said += more
        head, _, body = said.partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0] + b" ", head
        return body.decode()

    def metric(self, family: str, **labels: str) -> float:
        """Sum of all samples of `family` whose labels are these."""
        total = 0.0
        for line in self.admin("/metrics").splitlines():
            name, _, rest = line.partition("{")
            if name == family and all(f'{key}="{value}"' in rest for key, value in labels.items()):
                total += float(rest.rpartition("} ")[2].split()[0])
            elif not labels and line.startswith(f"{family} "):
                total += float(line.split()[1])
        return total

    @property
    def resident_octets(self) -> int:
        """Memory that it has now."""
        fields = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in fields.splitlines() if line.startswith("VmRSS:"))

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Pair:
    """`web` and `orders`."""

    def __init__(
        self,
        folder: Path,
        app: str,
        *,
        mesh: bool = True,
        replicas: int = 1,
        plaintext: Address | None = None,
        rules: str = RULES,
        service: str = "",
        web: str = EVERYTHING,
        orders: str = "",
    ) -> None:
        """Writes certificates, policy and configuration; nothing runs yet.

        Args:
            folder: For all files.
            app: URL of the module.
            mesh: Without it there is no `web`.
            plaintext: Where `web` finds `orders` instead, without a sidecar, in HTTP/2 with prior knowledge.
            replicas: Of `orders`, all with the same module; `orders` is the first of them.
            rules: Policy rows of both sides.
            service: Lines of YAML for `services.orders` of `web`.
            web: Further lines of YAML for `web`.
            orders: The same for `orders`.
        """
        self.folder = folder
        self.ports = Ports()
        self.mesh = Mesh(folder)
        self.outbound = self.ports.take()
        """Where peers send plain requests."""
        self.replicas: list[SidecarProcess] = []
        inbounds = [self.ports.take() for _ in range(replicas)]
        self.inbound = inbounds[0]
        for number, inbound in enumerate(inbounds):
            place = Mesh(folder / f"orders-{number + 1}")
            place.ca = self.mesh.ca
            file = place.prepare("orders", app=app, rules=rules, outbound="off", more=orders)
            admin = str(file.parent / "admin.sock")
            self.replicas.append(SidecarProcess(f"orders-{number + 1}", file, "--inbound", str(inbound), "--admin", admin))
        self.orders = self.replicas[0]
        self.sides = list(self.replicas)
        if mesh:
            if plaintext is not None:
                inbounds = [plaintext]
                service += "plaintext: true\nprotocol: http2\n"
            services = f"  orders:\n    endpoints: [{', '.join(repr(str(inbound)) for inbound in inbounds)}]\n" + "".join(
                f"    {line}\n" for line in service.splitlines()
            )
            file = self.mesh.prepare("web", rules=rules, services=services, outbound=str(self.outbound), more=web)
            self.web = SidecarProcess("web", file, "--admin", str(file.parent / "admin.sock"))
            self.sides.append(self.web)

    def __enter__(self) -> Self:
        try:
            for side in self.sides:
                side.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        for side in self.sides:
            side.kill()
        self.ports.close()

    def url(self, path: str) -> str:
        """For peers that call through `web`."""
        return f"http://{self.outbound}{path}"

    def check(self) -> None:
        """Fails if a sidecar died, or had an error of its own."""
        for side in self.sides:
            assert side.alive, f"{side.name} died: {side.journal()[-3:]}"
            broken = [line for line in side.journal() if line["level"] == "error"]
            assert not broken, broken

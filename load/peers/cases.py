"""What is measured: the cases, and how each contender is started for one and loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from load.peers import calls, dialects, envoy, haproxy, ours, wrk
from load.peers.account import maps_library_of
from load.peers.certificates import Identities
from load.peers.figures import COMPILED, HAPROXY, PURE, REFERENCE
from load.peers.hop import Hop
from load.peers.processes import Process, Processes, StartError, free_port
from load.peers.tools import NATIVE, Tools

NAMES: Final = ("bench", "backend", "client")
"""Identities: the sidecar, the far sidecar of a pair, the load."""
_SMALL: Final = "/items/7"
_LARGE: Final = "/1m/body"
_STREAMS: Final = 32
"""On each connection of an HTTP/2 case."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question asked of every contender."""

    name: str
    title: str
    unit: str
    """What CPU and rates are per."""
    connections: int
    path: str
    mtls_in: bool
    pair: bool = False
    fresh: bool = False
    http2: str = ""
    """The kind of load by HTTP/2; empty: HTTP/1.1 by wrk."""
    dialect: str = ""
    """What is spoken to a gRPC module; empty: what it speaks itself."""
    shop: bool = False
    """The messages are orders."""

    def takes(self, contender: str) -> bool:
        """Whether a contender can do this work at all."""
        return not self.dialect or contender != HAPROXY


CASES: Final = (
    Case("plain", "HTTP/1.1 plain in, plain out; 1 KiB answers, 8 fields", "request", 64, _SMALL, mtls_in=False),
    Case("fresh", "as plain, a new trace id in every request", "request", 64, _SMALL, mtls_in=False, fresh=True),
    Case("mtls", "HTTP/1.1 mTLS in, plain out; 1 KiB answers, 8 fields", "request", 64, _SMALL, mtls_in=True),
    Case("pair", "two sidecars, HTTP/1.1 in and out, HTTP/2 over mTLS between", "request", 64, _SMALL, mtls_in=False, pair=True),
    Case("h2", "HTTP/2 plain in, plain out; 1 KiB answers, 8 fields", "request", 16, _SMALL, mtls_in=False, http2=calls.GET),
    Case("h2mtls", "HTTP/2 mTLS in, plain out; 1 KiB answers, 8 fields", "request", 16, _SMALL, mtls_in=True, http2=calls.GET),
    Case("grpc", "gRPC unary, HTTP/2 plain in and out; 64 octets each way", "call", 16, "", mtls_in=False, http2=calls.UNARY),
    Case("bidi", "gRPC streams, HTTP/2 plain in and out; 64 octets there and back", "message", 16, "", mtls_in=False, http2=calls.BIDI),
    Case(
        "grpcmtls", "gRPC unary, HTTP/2 mTLS in, plain out; an order each way", "call", 16, "", mtls_in=True, http2=calls.UNARY, shop=True
    ),
    *(
        Case(
            name,
            f"{title} unary, HTTP/2 mTLS in; gRPC plain out; an order each way",
            "call",
            16,
            "",
            mtls_in=True,
            http2=calls.SEND,
            dialect=dialect,
            shop=True,
        )
        for name, title, dialect in (("grpcweb", "gRPC-Web", dialects.GRPC_WEB), ("connect", "Connect", dialects.CONNECT))
    ),
    Case(
        "transcode",
        "POST of JSON, HTTP/2 mTLS in; gRPC plain out; an order each way",
        "request",
        16,
        "",
        mtls_in=True,
        http2=calls.SEND,
        dialect=dialects.JSON,
        shop=True,
    ),
    Case(
        "rest",
        "GET, HTTP/1.1 mTLS in; gRPC plain out; path, query, an order back",
        "request",
        64,
        dialects.LOOK,
        mtls_in=True,
        dialect=dialects.JSON,
        shop=True,
    ),
    Case("body", "1 MiB answers, mTLS in", "MiB", 8, _LARGE, mtls_in=True),
    Case("idle", "just started, nothing asked", "", 0, "", mtls_in=True),
)


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that accepts."""

    processes: tuple[Process, ...]
    """Those whose cost is counted."""
    load: wrk.Load | calls.Calls


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that starting a contender needs."""

    folder: Path
    """For configurations and logs."""
    tools: Tools
    processes: Processes
    identities: Identities
    policy: Path | None
    """Our policy folder; None: the repository has no model yet, which only our sidecar misses."""
    sidecar: tuple[str, ...]
    """The command that `run -c FILE` is added to."""
    backend: int
    """Port of the module, HTTP/1.1."""
    h2_backend: int
    """Port of the module that speaks HTTP/2."""
    shop_backend: int
    """Port of one that answers every call with an order."""
    shop: dialects.Shop
    collector: int
    """Port of what takes spans."""
    proxy_core: int
    load_core: int
    defaults: bool = False
    """Our sidecar has only what is on by itself."""

    def start(self, case: Case, contender: str) -> Running:
        """Starts a contender for a case; what it started is ended with `processes`.

        Raises:
            StartError: It did not come up.
        """
        tag = f"{case.name}-{contender.replace(' ', '-')}"
        if contender in {PURE, COMPILED}:
            return self._start_ours(case, tag, {"PYTHONPATH": str(NATIVE)} if contender == COMPILED else {})
        hops = self._hops(case)
        started = tuple(self._start_peer(contender, f"{tag}-{number}", hop) for number, hop in enumerate(hops))
        return Running(started, self._load(case, hops[-1].port))

    def load(self, running: Running, secs: int) -> wrk.Outcome:
        """Loads a contender for `secs` seconds.

        Raises:
            wrk.LoadError: The load did not do its work.
        """
        if isinstance(running.load, calls.Calls):
            return calls.run(self.tools.calls, running.load, self.identities, secs, self.load_core)
        return wrk.run(self.tools.wrk, self.tools.client_certificate, running.load, self.identities, secs, self.load_core)

    def _module(self, case: Case) -> int:
        if case.dialect == dialects.JSON:
            return self.shop_backend
        return self.h2_backend if case.http2 else self.backend

    def _hops(self, case: Case) -> Sequence[Hop]:
        """The hops of a peer, the one nearest to the module first."""
        if not case.pair:
            accepts_as = "bench" if case.mtls_in else None
            protocols = (bool(case.http2), bool(case.http2 or case.dialect))
            hop = Hop(free_port(), self._module(case), accepts_as=accepts_as, http2_in=protocols[0], http2_out=protocols[1])
            return [replace(hop, dialect=case.dialect, descriptors=self.shop.descriptors)]
        far = Hop(free_port(), self.backend, accepts_as="backend", http2_in=True)
        return [far, Hop(free_port(), far.port, calls_as="bench", expects="backend", http2_out=True)]

    def _start_peer(self, contender: str, name: str, hop: Hop) -> Process:
        path = self.folder / f"{name}.conf"
        if contender == REFERENCE:
            path = path.with_suffix(".json")
            path.write_text(envoy.config(hop, self.identities))
            argv = [self.tools.envoy, "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        else:
            assert contender == HAPROXY
            assert self.tools.haproxy is not None
            path.write_text(haproxy.config(hop, self.identities))
            argv = [self.tools.haproxy, "-db", "-f", str(path)]
        return self.processes.start(name, argv, self.proxy_core, [hop.port])

    def _start_ours(self, case: Case, name: str, env: dict[str, str]) -> Running:
        inbound, outbound = free_port(), free_port()
        if not case.pair:
            module = self._module(case)
            near = ours.Sidecar(
                "bench",
                module,
                inbound,
                outbound,
                calls="backend",
                at=module,
                collector=self.collector,
                plain=True,
                http2=bool(case.http2 or case.dialect),
                api=self.shop.descriptors if case.dialect else None,
            )
            process = self._start_sidecar(name, near, env)
            return Running((process,), self._load(case, inbound if case.mtls_in else outbound))
        far = ours.Sidecar(
            "backend", self.backend, free_port(), free_port(), calls="bench", at=inbound, collector=self.collector, plain=False
        )
        near = ours.Sidecar(
            "bench", self.backend, inbound, outbound, calls="backend", at=far.inbound, collector=self.collector, plain=False
        )
        started = tuple(self._start_sidecar(f"{name}-{number}", sidecar, env) for number, sidecar in enumerate((far, near)))
        return Running(started, self._load(case, outbound))

    def _start_sidecar(self, name: str, sidecar: ours.Sidecar, env: dict[str, str]) -> Process:
        path = self.folder / f"{name}.yaml"
        policy = self.policy or self.folder / "policy"
        path.write_text(ours.config(sidecar, self.folder, self.identities.folder, policy, defaults=self.defaults))
        argv = [*self.sidecar, "run", "-c", str(path)]
        process = self.processes.start(name, argv, self.proxy_core, [sidecar.inbound, sidecar.outbound], env)
        if maps_library_of(process.pid, NATIVE) != bool(env):
            self.processes.stop(process)
            what = "no module of build/native" if env else "compiled modules, through PYTHONPATH,"
            raise StartError(f"{name} runs {what}: it is not what its row would say")
        return process

    def _load(self, case: Case, port: int) -> wrk.Load | calls.Calls:
        client = "client" if case.mtls_in else None
        if case.http2:
            shop = self.shop if case.shop else None
            return calls.Calls(port, case.http2, case.connections, _STREAMS, client, case.dialect, shop)
        scheme = "https" if case.mtls_in else "http"
        return wrk.Load(f"{scheme}://127.0.0.1:{port}{case.path}", case.connections, client, case.fresh)


def default_sidecar() -> tuple[str, ...]:
    """The command of this checkout; PYTHONPATH comes before the installed package, so the same command starts the compiled form."""
    return (str(Path(sys.executable).with_name("flui")),)

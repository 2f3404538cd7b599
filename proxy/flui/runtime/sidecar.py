"""One sidecar, wired: configuration, identity and policy in; listeners, pools, admin and watchers out.

    load ──▶ bind ──▶ serve ⟲ (files change: whole new snapshot, one reference swapped)
                        └─ SIGTERM ──▶ drain: no new connections, exchanges end, then everything closes ──▶ 0

Nothing starts half: whatever is wrong with configuration, certificates, policy or addresses is said at once, before
the first socket listens.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from random import Random
from typing import Any, Protocol

from flui.decide import Snapshot
from flui.downstream.listener import Acceptor, bind
from flui.downstream.relay import Gate, Relay
from flui.model.config import ConfigError, Problem, Sidecar, Tracing
from flui.model.topology import Address, Cluster
from flui.policy.base import Policy
from flui.policy.index import DenyAll
from flui.runtime import _memory, gauges, views
from flui.runtime.admin import Admin
from flui.runtime.apiwatch import ApiWatch
from flui.runtime.configfile import resolve
from flui.runtime.sources import folders_of, policy_of, stamps_of
from flui.telemetry.families import RELOADS
from flui.telemetry.journal import Journal, is_terminal
from flui.telemetry.logwriter import LogWriter, open_log
from flui.telemetry.meters import Meters, Samples
from flui.telemetry.recorder import Recorder
from flui.telemetry.spans import SpanSink
from flui.telemetry.tap import Taps
from flui.transport.changes import changes
from flui.transport.credentials import Credentials, watch
from flui.transport.tls import still_trusted
from flui.upstream.health import Health
from flui.upstream.pool import ClusterPool
from flui.upstream.pools import Pools

_TICK_S = 0.2
_AGAIN_S = 1.0
_POLL_S = 2.0
_PLAIN_DOMAIN = "local"
"""Trust domain of a sidecar without certificates: it only has plain-text listeners and clusters."""


class SpanExporter(SpanSink, Protocol):
    """What sends spans, as far as we use it."""

    def samples(self) -> Samples:
        """Spans by outcome."""
        ...

    def close(self, timeout: float) -> bool:
        """Sends what waits, within its time."""
        ...


def _closed(exporter: SpanExporter) -> None:
    exporter.close(2.0)


class Running:
    """A sidecar that serves. `await start()`, then `await drained()` after `stop()`."""

    def __init__(self, load: Callable[[], Sidecar], *, take_over: bool = False) -> None:
        """Reads everything there is to read.

        Args:
            load: Reads the configuration; called again on a reload.
            take_over: Its addresses may be those of a sidecar that is about to end; new connections come here from then on.

        Raises:
            ConfigError: All that is wrong with configuration, certificates and policy.
        """
        self._load = load
        self._take_over = take_over
        config = load()
        self.config = config
        self._stamps = stamps_of(config)
        """Of the files as they were read first: what changes while we start is not missed."""
        self.started_at = time.monotonic()
        problems: list[Problem] = []
        self.credentials: Credentials | None = None
        self.policy: Policy = DenyAll("no policy is configured")
        self.access_log: LogWriter | None = None
        try:
            self.credentials = Credentials(config.certs, config.service) if config.certs is not None else None
        except ConfigError as error:
            problems.extend(error.problems)
        try:
            self.policy = policy_of(config)
        except ConfigError as error:
            problems.extend(error.problems)
        try:
            self.access_log = open_log(config.access_log.file, config.access_log.rotate_octets, config.access_log.keep)
        except OSError as error:
            what = f"{config.access_log.file} cannot be opened ({error.strerror or error})"
            fix = "write the path of a file that can be appended to, `stdout` or `off`"
            problems.append(Problem(config.source or "flags", 0, "access_log", what, fix))
        if problems:
            raise ConfigError(tuple(problems))
        self.policy_problems: tuple[Problem, ...] = ()
        """Why the newest policy files are not in force; empty when they are."""
        self._stderr = LogWriter(2)
        self.journal = Journal(self._stderr, time.time, human=is_terminal(), service=config.service)  # noqa: TID251 - the edge
        self.meters = Meters()
        self.api = ApiWatch(config, lambda: self.journal, self.meters, self._api_changed)
        self.ready = False
        self._generation = 0
        self._reloading = asyncio.Lock()
        self.exporter: SpanExporter | None = None
        self._pressed = 0
        self._stop = asyncio.Event()
        self.relay: Relay
        self.gates: list[Gate] = []
        self._acceptors: list[Acceptor] = []
        self.taps = Taps(config.service, lambda: self.policy, self.journal)
        self._admin = Admin(views.routes(self), self._page_failed)

    # Start.

    async def start(self) -> None:
        """Binds every address, then serves.

        Raises:
            ConfigError: An address cannot be listened on; nothing is left open.
        """
        config = self.config
        loop = asyncio.get_running_loop()
        await self.api.begin()
        snapshot = self._snapshot()
        recorder = Recorder(self.meters, self.access_log, config.access_log, self.taps)
        self.relay = Relay(snapshot, Pools(self._pool), recorder, self.credentials, self.journal, loop)
        self._trace(config.tracing)
        self.relay.pools.update(snapshot.config.clusters, config.limits, config.timeouts)
        loop.set_exception_handler(self._escaped)
        socks: list[socket.socket] = []
        problems: list[Problem] = []
        for listener in config.listeners:
            try:
                socks.append(bind(listener.address, take_over=self._take_over))
            except OSError as error:
                what = f"cannot listen on {listener.address} ({error.strerror or error})"
                problems.append(
                    Problem(
                        config.source or "flags",
                        0,
                        listener.name,
                        what,
                        "choose an address that is free and ours, or say --take-over to replace the sidecar that runs there",
                    )
                )
        if not problems and config.admin is not None:
            try:
                await self._admin.start(config.admin, take_over=self._take_over)
            except ConfigError as error:
                problems.extend(error.problems)
        if problems:
            for sock in socks:
                sock.close()
            raise ConfigError(tuple(problems))
        for listener, sock in zip(config.listeners, socks, strict=True):
            gate = Gate(self.relay, listener)
            acceptor = Acceptor(gate, sock)
            self.gates.append(gate)
            self._acceptors.append(acceptor)
        self._health = Health(self.relay.pools, self.relay.tasks, self.credentials, self.meters)
        gauges.register(self)
        tasks = self.relay.tasks
        tasks.start(self._always("tick", self._tick))
        if self.credentials is not None:
            credentials = self.credentials
            tasks.start(
                self._always("watch certificates", lambda: watch(credentials, self._certificates_changed, self._certificates_wrong))
            )
        folders = folders_of(config)
        if folders:
            tasks.start(self._always("watch files", lambda: self._watch(folders)))
        self.api.follow(tasks)
        for acceptor in self._acceptors:
            acceptor.start()
        self.ready = True
        self.journal.info(
            "ready",
            identity=snapshot.identity,
            policy=self.policy.version,
            pid=os.getpid(),
            **{name: str(address) for name, address in self.addresses.items()},
            admin=str(self._admin.address or ""),
        )
        _memory.settle()
        self.relay.loop.call_later(_memory.LATER_S, _memory.trim_aside)

    def _pool(self, cluster: Cluster) -> ClusterPool:
        config = self.config
        random = Random(os.urandom(16))  # noqa: S311 - balancing
        return ClusterPool(cluster, self.credentials, config.limits, config.timeouts, self.meters, random, self.journal)

    def _snapshot(self) -> Snapshot:
        self._generation += 1
        domain = self.credentials.trust_domain if self.credentials is not None else _PLAIN_DOMAIN
        identity = self.credentials.principal.name if self.credentials is not None else f"spiffe://{domain}/{self.config.service}"
        return Snapshot(resolve(self.config, domain), self.policy, identity, self._generation, self.api.routes)

    @property
    def addresses(self) -> dict[str, Address]:
        """Where each listener really listens, by its name: the system has chosen the port where 0 was asked for."""
        return {gate.listener.name: acceptor.address for gate, acceptor in zip(self.gates, self._acceptors, strict=True)}

    def _trace(self, tracing: Tracing | None) -> None:
        """Makes spans as configured from now on.

        Raises:
            ConfigError: What sends them is not installed.
        """
        self.relay.sampler.replace(tracing)
        self.relay.traces = tracing is not None
        old = self.exporter
        self.exporter = self.relay.recorder.spans = None
        if tracing is not None:
            try:
                from flui.telemetry.otlp import Exporter  # noqa: PLC0415 - OpenTelemetry is loaded only where spans are sent
            except ModuleNotFoundError as error:
                what = f"spans cannot be sent without the package {error.name}"
                raise ConfigError((Problem(self.config.source or "flags", 0, "tracing", what, "install flui-mesh[otel]"),)) from error
            instance = f"{socket.gethostname()}-{os.getpid()}"
            self.exporter = self.relay.recorder.spans = Exporter(tracing.endpoint, self.config.service, instance)
        if old is not None:
            self.relay.tasks.start(asyncio.to_thread(_closed, old))

    # Reloads: build whole, then swap.

    def _swap(self, what: str) -> None:
        self.relay.replace(self._snapshot())
        self.meters.count(RELOADS, what, "active")
        self.journal.info("reloaded", what=what, snapshot=self._generation, policy=self.policy.version)

    def _refused(self, what: str, problems: tuple[Problem, ...]) -> None:
        self.meters.count(RELOADS, what, "refused")
        for problem in problems:
            self.journal.error("reload refused", what=what, file=problem.file, line=problem.line, problem=str(problem))

    async def reload(self) -> None:
        """Reads configuration and policy again; what is wrong stays out, and what was in force stays in force."""
        async with self._reloading:  # or the files as they were could replace the files as they are
            await self._reload()

    async def _reload(self) -> None:
        try:
            config = await asyncio.to_thread(self._load)
        except ConfigError as error:
            self._refused("configuration", error.problems)
            config = self.config
        if config != self.config:
            fixed = _unchangeable(self.config, config)
            if fixed:
                self._refused("configuration", fixed)
                config = self.config  # refused as a whole: not even its policy folder is looked at
            else:
                old = self.config
                self.config = config
                if config.tracing != old.tracing:
                    self._trace(config.tracing)
                self.relay.recorder.tune(config.access_log)
                self.api.tune(config)
                self._swap("configuration")
        if config.policy is None:
            return
        try:
            policy = await asyncio.to_thread(policy_of, config)
        except ConfigError as error:
            if error.problems != self.policy_problems:
                self._refused("policy", error.problems)
            self.policy_problems = error.problems
            return
        self.policy_problems = ()
        if policy.version != self.policy.version:
            self.policy = policy
            self._swap("policy")

    async def _watch(self, folders: set[str]) -> None:
        """Reloads whenever the files are others. What else is written in their folders (a log, say) costs a few `stat`s."""
        seen = self._stamps
        async with aclosing(changes(folders, _POLL_S, debounce_ms=200)) as ticks:
            async for _ in ticks:
                now = stamps_of(self.config)
                if now != seen:
                    seen = now
                    await self.reload()

    def _certificates_changed(self) -> None:
        """New identity or bundle: new connections use it at once, live ones that it does not cover end now (threats E7)."""
        credentials = self.credentials
        assert credentials is not None
        if self.relay.snapshot.identity != credentials.principal.name:
            self._swap("certificates")
        else:
            self.meters.count(RELOADS, "certificates", "active")
        cut = self._retrust()
        self.journal.info("certificates taken up", generation=credentials.generation, connections_closed=cut)

    def _api_changed(self) -> None:
        self.relay.replace(self._snapshot())
        self.meters.count(RELOADS, "api", "active")

    def _certificates_wrong(self, problems: tuple[Problem, ...]) -> None:
        self._refused("certificates", problems)

    def _retrust(self) -> int:
        """Ends connections whose peer is not trusted any more; says how many."""
        credentials = self.credentials
        if credentials is None:
            return 0
        now = time.time()  # noqa: TID251 - certificates are dated in wall-clock time
        cut = self.relay.pools.retrust()
        for gate in self.gates:
            for connection in list(gate.connections):
                if connection.peer is not None and still_trusted(connection.peer, credentials, now) is not None:
                    connection.cut()
                    cut += 1
        return cut

    async def _always(self, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs a chore that never ends, and begins it anew should it fail: expiry and rotation must not stop for one bad turn."""
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - the edge of a task
                self.journal.error("chore failed", what=what, error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(_AGAIN_S)

    async def _tick(self) -> None:
        """Small chores, five times a second; once a second those that look at every connection."""
        turn = 0
        relay = self.relay
        loop = relay.loop
        expected = loop.time() + _TICK_S
        while True:
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            if relay.pressure.felt(max(0.0, now - expected), now) != self._pressed:
                self._pressed = relay.pressure.level
                self.journal.warn("overload", level=self._pressed, lag_s=round(relay.pressure.lag_s, 3))
            expected = now + _TICK_S
            relay.pools.tick(now)
            self._health.tick()
            turn += 1
            if self.access_log is not None:
                self.access_log.kick()
                news = self.access_log.news()
                if news:
                    self.journal.error("access log", error=news)
            for acceptor in self._acceptors:
                acceptor.look()
            if turn % 5 == 0:
                self.journal.tick()
                self.relay.pools.sweep(time.monotonic(), self.config.timeouts.keepalive_s * 0.9)
                self._expire()

    def _expire(self) -> None:
        now = time.time()  # noqa: TID251 - certificates are dated in wall-clock time
        self.relay.pools.renew(now)
        lapsed = any(c.peer is not None and c.peer.principal.expires_at <= now for gate in self.gates for c in gate.connections)
        if lapsed or self.relay.pools.lapsed(now):
            self.journal.info("certificates expired", connections_closed=self._retrust())

    def _escaped(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop caught what a callback of ours let escape; the connection concerned is closed by then."""
        del loop
        error = context.get("exception")
        said = f"{type(error).__name__}: {error}" if error is not None else ""
        self.journal.error("unexpected error", where=str(context.get("message", "")), error=said)

    def _page_failed(self, path: str, error: Exception) -> None:
        self.journal.error("admin page failed", path=path, error=f"{type(error).__name__}: {error}")

    # The end.

    def stop(self) -> None:
        """Asks for the end; `drained` carries it out."""
        self._stop.set()

    async def drained(self) -> None:
        """Waits for `stop`, lets every exchange end (at most `drain_s`), then closes everything."""
        await self._stop.wait()
        relay = self.relay
        drain_s = self.config.timeouts.drain_s
        self.ready = False
        relay.draining = True
        began = time.monotonic()
        self.journal.info("draining", connections=sum(len(gate.connections) for gate in self.gates))
        for acceptor in self._acceptors:
            acceptor.stop()
        for gate in self.gates:
            for connection in list(gate.connections):
                connection.drain(began)
        while time.monotonic() - began < drain_s and (  # noqa: ASYNC110 - many things end it; an event for each costs them all
            any(gate.connections for gate in self.gates) or any(acceptor.busy for acceptor in self._acceptors)
        ):
            await asyncio.sleep(0.02)
        cut = 0
        for gate in self.gates:
            for connection in list(gate.connections):
                cut += connection.busy
                connection.cut()
        await relay.tasks.close()
        relay.pools.close()
        await asyncio.sleep(0)
        relay.leavers.close()
        await self._admin.stop()
        self.journal.info("stopped", exchanges_cut=cut, seconds=round(time.monotonic() - began, 3))
        if self.access_log is not None:
            self.access_log.close(2.0)
        if self.exporter is not None:
            await asyncio.to_thread(self.exporter.close, 2.0)
        self._stderr.close(2.0)

    def reopen_logs(self) -> None:
        """Opens the access log anew at its path (log rotation)."""
        if self.access_log is not None:
            self.access_log.reopen()


def _log_file(config: Sidecar) -> tuple[str, int, int]:
    return (config.access_log.file, config.access_log.rotate_octets, config.access_log.keep)


def _unchangeable(old: Sidecar, new: Sidecar) -> tuple[Problem, ...]:
    """What a reload cannot change: sockets and identity belong to the process."""
    changed = [
        name
        for name, before, after in (
            ("service", old.service, new.service),
            ("listeners", [(o.name, o.address, o.tls) for o in old.listeners], [(n.name, n.address, n.tls) for n in new.listeners]),
            ("admin", old.admin, new.admin),
            ("certs", old.certs, new.certs),
            ("policy", old.policy, new.policy),
            ("access_log", _log_file(old), _log_file(new)),
        )
        if before != after
    ]
    return tuple(
        Problem(new.source or "flags", 0, name, "cannot change while the sidecar runs", "restart it, or put the old value back")
        for name in changed
    )

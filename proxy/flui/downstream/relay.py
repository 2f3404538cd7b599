"""What every connection of one worker shares: the snapshot in force, the pools, the record."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from random import Random

from flui.codecs.http2.bounds import MESH, MODULE
from flui.decide import INBOUND, Snapshot
from flui.downstream.connection import Downstream
from flui.downstream.extras import Extras
from flui.downstream.sources import Sources
from flui.identity.svid import SvidError
from flui.model.config import Limits, Listener, Timeouts
from flui.model.decision import Forward
from flui.model.events import RequestHead
from flui.model.fault import Fault
from flui.model.resilience import HIGH, LOW, PRIORITY_NAMES
from flui.model.topology import Target
from flui.resilience.overload import Pressure
from flui.splice import Splice
from flui.telemetry.families import BREAKER_REFUSED, CONNECTIONS_ACCEPTED, CONNECTIONS_REFUSED, HANDSHAKES_REFUSED, RATE_LIMITED, SHED
from flui.telemetry.journal import Journal
from flui.telemetry.meters import Meters
from flui.telemetry.recorder import Recorder
from flui.telemetry.spans import Sampler
from flui.transport.credentials import Credentials
from flui.transport.leaving import Leavers
from flui.transport.tasks import TaskSet
from flui.transport.tls import Peer, agreed, peer
from flui.upstream.guard import Refusal
from flui.upstream.pools import Pools


class Relay:
    """Carries out decisions. One per worker."""

    __slots__ = (
        "credentials",
        "draining",
        "extras",
        "hits",
        "journal",
        "leavers",
        "limits",
        "linger_s",
        "loop",
        "meters",
        "misses",
        "pools",
        "pressure",
        "random",
        "recorder",
        "sampler",
        "snapshot",
        "tasks",
        "timeouts",
        "traces",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        pools: Pools,
        recorder: Recorder,
        credentials: Credentials | None,
        journal: Journal,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.snapshot = snapshot
        """In force for every request whose head is complete from now on; replaced whole."""
        self.pools = pools
        self.recorder = recorder
        self.meters: Meters = recorder.meters
        self.credentials = credentials
        self.journal = journal
        self.loop = loop
        self.leavers = Leavers(loop)
        """Callers that are not read."""
        self.limits: Limits = snapshot.config.limits
        self.timeouts: Timeouts = snapshot.config.timeouts
        self.draining = False
        self.linger_s = min(1.0, self.timeouts.drain_s / 3)
        """How long an idle connection is kept while draining: long enough for a request already on its way."""
        self.hits = 0
        """Flow-table look-ups that found a decision."""
        self.misses = 0
        self.tasks = TaskSet(self._failed)
        self.random = Random(os.urandom(16))  # noqa: S311 - trace ids, traffic splits and pauses, not secrets
        self.pressure = Pressure(snapshot.config.overload)
        """How long work waits for the event loop, and what is shed for it."""
        self.sampler = Sampler(None, self.random)
        self.traces = False
        """Requests that come sampled get spans of ours."""
        self.extras = Extras(self, self.random)

    def traced(self, said: bytes, now: float) -> bytes:
        """The traceparent that is sent on in place of the one that was said; empty: that one stays."""
        return self.sampler.follow(said, now) if said else self.sampler.root(now)

    def sheds(self, listener: str, forward: Forward, head: RequestHead) -> bool:
        """Whether a request is refused because we have too much to do ourselves: the less important, the earlier."""
        priority = max(forward.priority, head.priority)
        level = self.pressure.level
        if priority == HIGH or (level == 1 and priority != LOW):
            return False
        self.meters.count(SHED, listener, PRIORITY_NAMES[priority].decode(), "overload")
        return True

    def refused(self, splice: Splice, cluster: str, refusal: Refusal, priority: int) -> None:
        """A request is not sent, for a limit: it is counted and answered."""
        if refusal.fault is Fault.CIRCUIT_OPEN:
            self.tripped(cluster, refusal.what)
        elif refusal.fault is Fault.OVERLOADED:
            self.meters.count(SHED, splice.decision.why.listener, PRIORITY_NAMES[priority].decode(), refusal.what)
        elif cluster:
            self.meters.count(RATE_LIMITED, splice.decision.why.listener, splice.decision.why.route)
        splice.fail(refusal.fault, retry_after_s=max(1, ceil(refusal.after_s)))

    def tripped(self, cluster: str, what: str) -> None:
        """A breaker is open."""
        self.meters.count(BREAKER_REFUSED, cluster, what)

    def split(self, targets: Sequence[Target]) -> Target:
        """One of several targets, by weight."""
        point = self.random.randrange(sum(target.weight for target in targets))
        for target in targets:
            point -= target.weight
            if point < 0:
                return target
        raise AssertionError("weights are positive")

    def replace(self, snapshot: Snapshot) -> None:
        """Puts a new snapshot in force; exchanges in progress keep the decision they have."""
        config = snapshot.config
        self.pools.update(config.clusters, config.limits, config.timeouts)
        self.extras.forget(frozenset(route.name for route in (*config.routes, *config.app_routes, config.app_route)))
        if config.overload != self.snapshot.config.overload:
            self.pressure = Pressure(config.overload)
        self.limits = config.limits
        self.timeouts = config.timeouts
        self.snapshot = snapshot

    def journal_dial(self, cluster: str, endpoint: str, reason: str) -> None:
        """An endpoint could not be connected to."""
        self.journal.warn("dial failed", cluster=cluster, endpoint=endpoint, reason=reason)

    def _failed(self, error: BaseException) -> None:
        self.journal.error("task failed", error=f"{type(error).__name__}: {error}")


class Gate:
    """One listener at work."""

    __slots__ = ("_bounds_met", "bounds", "connections", "listener", "recorder", "relay", "sources", "translates")

    def __init__(self, relay: Relay, listener: Listener) -> None:
        self.relay = relay
        self.listener = listener
        self.recorder = relay.recorder
        self.connections: set[Downstream] = set()
        self.translates = listener.name == INBOUND
        """What comes here goes to our module, whose language we know."""
        self.sources = Sources()
        window = relay.limits.stream_window_octets
        # Who calls here has an identity, or is our own module, and speaks for many: one that is held back must not hold back others.
        self.bounds = replace(
            MESH if listener.tls else MODULE,
            held_octets=max(MESH.held_octets, MESH.streams * window + MESH.window_octets),
            queued_octets=max(MESH.queued_octets, (MESH.streams + 1) * window),  # each stream holds a window of its answer at most
        )
        """What a connection that speaks HTTP/2 may make us do."""
        self._bounds_met: dict[str, int] = {}

    def protocol(self, source: str = "") -> Downstream:
        """The protocol for an accepted connection.

        Args:
            source: Address that it was counted under; empty: it was not.
        """
        self.relay.meters.count(CONNECTIONS_ACCEPTED, self.listener.name)
        return Downstream(self, self.relay.loop.time(), source)

    def count_bounds(self, counts: dict[str, int]) -> None:
        """A connection is over that has met these of its bounds so often."""
        for what, often in counts.items():
            self._bounds_met[what] = self._bounds_met.get(what, 0) + often

    def bounds_met(self) -> dict[str, int]:
        """How often which bound of HTTP/2 was met, by all connections so far."""
        met = dict(self._bounds_met)
        for connection in self.connections:
            if connection.http2 is not None:
                for what, often in connection.http2.counts.items():
                    met[what] = met.get(what, 0) + often
        return met

    def turned_away(self, why: str, source: str) -> None:
        """A connection is closed before anything is known of its caller but its address."""
        self.relay.meters.count(CONNECTIONS_REFUSED, self.listener.name, why)
        self.relay.journal.warn("connection refused", listener=self.listener.name, why=why, source=source)

    def authenticate(self, transport: asyncio.Transport) -> tuple[Peer, str]:
        """Who is at the other end of a finished handshake, and what it speaks (`tls.HTTP1`, `tls.HTTP2`).

        Raises:
            SvidError: Nobody that may speak here.
        """
        credentials = self.relay.credentials
        assert credentials is not None, "a TLS listener has credentials"
        ssl_object = transport.get_extra_info("ssl_object")
        protocol = agreed(ssl_object)
        return peer(ssl_object, credentials), protocol

    def refused(self, error: SvidError) -> None:
        """A caller was turned away after its handshake."""
        self.count_refused(error.reason.value, str(error))

    def count_refused(self, reason: str, text: str) -> None:
        """A handshake failed; `reason` is one of a closed set."""
        self.relay.meters.count(HANDSHAKES_REFUSED, self.listener.name, reason)
        self.relay.journal.warn("handshake refused", listener=self.listener.name, reason=reason, detail=text)

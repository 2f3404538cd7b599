"""What every connection of one worker shares: the snapshot in force, the pools, the record."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from random import Random

from flui.decide import Snapshot
from flui.downstream.connection import Downstream
from flui.identity.svid import SvidError
from flui.model.config import Limits, Listener, Timeouts
from flui.model.topology import Target
from flui.telemetry.families import CONNECTIONS_ACCEPTED, HANDSHAKES_REFUSED
from flui.telemetry.journal import Journal
from flui.telemetry.meters import Meters
from flui.telemetry.recorder import Recorder
from flui.transport.credentials import Credentials
from flui.transport.tasks import TaskSet
from flui.transport.tls import Peer, agreed, peer
from flui.upstream.pool import Pools


class Relay:
    """Carries out decisions. One per worker."""

    __slots__ = (
        "_random",
        "credentials",
        "draining",
        "hits",
        "journal",
        "limits",
        "linger_s",
        "loop",
        "meters",
        "misses",
        "pools",
        "recorder",
        "snapshot",
        "tasks",
        "timeouts",
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
        self.limits: Limits = snapshot.config.limits
        self.timeouts: Timeouts = snapshot.config.timeouts
        self.draining = False
        self.linger_s = min(1.0, self.timeouts.drain_s / 3)
        """How long an idle connection is kept while draining: long enough for a request already on its way."""
        self.hits = 0
        """Flow-table look-ups that found a decision."""
        self.misses = 0
        self.tasks = TaskSet(self._failed)
        self._random = Random(os.urandom(16))  # noqa: S311 - trace ids and traffic splits, not secrets

    def mint(self) -> bytes:
        """A traceparent for a request that carries none (W3C Trace Context), not sampled."""
        text = b"%048x" % self._random.getrandbits(192)
        return b"00-%b-%b-00" % (text[:32], text[32:])

    def split(self, targets: Sequence[Target]) -> Target:
        """One of several targets, by weight."""
        point = self._random.randrange(sum(target.weight for target in targets))
        for target in targets:
            point -= target.weight
            if point < 0:
                return target
        raise AssertionError("weights are positive")

    def replace(self, snapshot: Snapshot) -> None:
        """Puts a new snapshot in force; exchanges in progress keep the decision they have."""
        config = snapshot.config
        self.pools.update(config.clusters, config.limits, config.timeouts)
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

    __slots__ = ("connections", "listener", "recorder", "relay")

    def __init__(self, relay: Relay, listener: Listener) -> None:
        self.relay = relay
        self.listener = listener
        self.recorder = relay.recorder
        self.connections: set[Downstream] = set()

    def protocol(self) -> Downstream:
        """The protocol for an accepted connection."""
        self.relay.meters.count(CONNECTIONS_ACCEPTED, self.listener.name)
        return Downstream(self, self.relay.loop.time())

    def authenticate(self, transport: asyncio.Transport) -> Peer:
        """Who is at the other end of a finished handshake.

        Raises:
            SvidError: Nobody that may speak here.
        """
        credentials = self.relay.credentials
        assert credentials is not None, "a TLS listener has credentials"
        ssl_object = transport.get_extra_info("ssl_object")
        agreed(ssl_object)
        return peer(ssl_object, credentials)

    def refused(self, error: SvidError) -> None:
        """A caller was turned away after its handshake."""
        self.count_refused(error.reason.value, str(error))

    def count_refused(self, reason: str, text: str) -> None:
        """A handshake failed; `reason` is one of a closed set."""
        self.relay.meters.count(HANDSHAKES_REFUSED, self.listener.name, reason)
        self.relay.journal.warn("handshake refused", listener=self.listener.name, reason=reason, detail=text)

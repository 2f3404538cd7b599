"""Copies of requests, sent once the originals are answered, whose answers nobody reads (fire and forget).

A copy has its own connection, its own time and its own bound: whatever its service does, the caller's exchange is over
before the copy begins. What would be more than `AT_ONCE` copies is dropped and counted, never queued.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from flui.model.events import Credit, Data, End, Reset
from flui.model.fault import Fault
from flui.model.units import KIB
from flui.routing.pick import Member
from flui.splice import Splice
from flui.telemetry.families import MIRRORED
from flui.upstream.connection import Upstream
from flui.upstream.dial import DialError
from flui.upstream.pool import ClusterPool

if TYPE_CHECKING:
    from flui.downstream.exchange import Exchange
    from flui.downstream.relay import Relay

AT_ONCE: Final = 64
"""Copies under way, all clusters together."""
KEPT_OCTETS: Final = 64 * KIB
"""Longest body that is copied."""
PATIENCE_S: Final = 15.0
"""From the copy's beginning to the end of its answer."""


class Mirrors:
    """The copies under way of one relay."""

    __slots__ = ("_relay", "_running")

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._running: set[_Copy] = set()

    def note(self, exchange: Exchange, cluster: str) -> None:
        """The exchange will be copied to `cluster` when it is over: its body is kept from now on."""
        splice = exchange.splice
        splice.mirror = cluster
        if splice.head.length and splice.retrier is None:
            splice.keep(KEPT_OCTETS)

    def __len__(self) -> int:
        return len(self._running)

    def send(self, splice: Splice, key: bytes) -> None:
        """The exchange is over: its copy begins once the caller has its answer, if there is all of it and room for it.

        A request that we answered ourselves, and nobody was sent, is not copied either: it is not part of the service's traffic.
        """
        if not splice.sent:
            return
        relay = self._relay
        pool = relay.pools.by_name.get(splice.mirror)
        member: Member | None = None
        if pool is not None and splice.request_ended and splice.can_repeat and len(self._running) < AT_ONCE:
            member = pool.pick(key, ()) if pool.active < pool.guard.requests else None
        if pool is None or member is None:
            relay.meters.count(MIRRORED, splice.mirror, "dropped")
            return
        copy = _Copy(relay, pool, splice.copy(time.monotonic()), self._running.discard)
        self._running.add(copy)
        relay.loop.call_soon(copy.start, member)


class _Copy:
    """One copy."""

    __slots__ = ("_done", "_pool", "_relay", "_splice", "_stream", "_timer", "_up")

    def __init__(self, relay: Relay, pool: ClusterPool, splice: Splice, done: Callable[[_Copy], None]) -> None:
        self._relay = relay
        self._pool = pool
        self._splice = splice
        self._done = done
        self._up: Upstream | None = None
        self._stream = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, member: Member) -> None:
        """Sends it to `member`, which has been picked."""
        self._timer = self._relay.loop.call_later(PATIENCE_S, self._late)
        connection = self._pool.ready(member)
        if connection is not None:
            self._send(connection, time.monotonic())
        else:
            self._relay.tasks.start(self._dial(member))

    async def _dial(self, member: Member) -> None:
        connection: Upstream | None = None
        try:
            connection = await self._pool.dial(member, self)
        except DialError:
            pass  # counted below, as whatever else it fails for
        finally:
            if connection is None:
                self._pool.leave(member)
                self._end("failed")
        if connection is not None:
            now = time.monotonic()
            if self._timer is None:
                self._pool.release(connection, now)
            else:
                self._send(connection, now)

    def _send(self, connection: Upstream, now: float) -> None:
        splice = self._splice
        self._up = connection
        connection.owner = self
        connection.member.total += 1
        self._relay.meters.count(MIRRORED, self._pool.cluster.name, "sent")
        self._stream = splice.say(connection.codec, now)
        for event in splice.kept():
            event.stream = self._stream
            connection.codec.send(event)
        connection.flush()

    @property
    def waits_since(self) -> float:
        """See `Owner`. That a copy is not answered says nothing of its service to callers."""
        return math.inf

    def upstream_spoke(self, now: float) -> None:
        """See `Owner`. What it says is read and forgotten."""
        del now
        up = self._up
        if up is None:
            return
        codec = up.codec
        while events := codec.events():  # credit may let the codec say more at once
            for event in events:
                if isinstance(event, Data):
                    codec.send(Credit(self._stream, len(event.chunk)))
                elif isinstance(event, End):
                    self._end("answered")
                    return
                elif isinstance(event, Reset):
                    self._end("failed")
                    return
        up.flush()

    def _late(self) -> None:
        up = self._up
        if up is not None:
            up.codec.send(Reset(self._stream, Fault.UPSTREAM_TIMEOUT))
        else:
            self._pool.abandon(self)
        self._end("failed")

    def _end(self, outcome: str) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._relay.meters.count(MIRRORED, self._pool.cluster.name, outcome)
        self._done(self)
        up = self._up
        if up is not None:
            self._up = None
            self._pool.release(up, time.monotonic())

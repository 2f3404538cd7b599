"""A second try beside a first one that is slow: whichever answers first is the one that is heard (Dean, Barroso 2013).

begun ──▶ connection ──▶ sent ──▶ head of an answer ──▶ won: takes the place of the first
                            └── failed, or the first answered ──▶ stopped
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flui.model.events import Event, Reset, ResponseHead
from flui.model.fault import Fault
from flui.routing.pick import Member
from flui.telemetry.families import HEDGES, RETRIES
from flui.upstream.connection import Upstream
from flui.upstream.dial import DialError

if TYPE_CHECKING:
    from flui.downstream.exchange import Exchange


class Hedge:
    """The second try of one exchange. Only for a request that has been received whole and is still kept."""

    __slots__ = ("_exchange", "_over", "_paid", "begun_at", "stream", "up")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._over = False
        self._paid = False
        self.up: Upstream | None = None
        """Its connection, while it is a try of its own."""
        self.stream = 0
        self.begun_at = 0.0

    def start(self, key: bytes, now: float) -> None:
        """Begins on another endpoint than the first try's, if the budget allows it."""
        exchange = self._exchange
        pool = exchange.pool
        first = exchange.up
        meters = exchange.down.relay.meters
        assert pool is not None
        assert first is not None
        if not exchange.splice.can_repeat or not pool.has_untried((first.member,)):
            return
        if not pool.guard.budget.take(pool.active):
            meters.count(RETRIES, pool.cluster.name, "over_budget")
            return
        self._paid = True
        member = pool.pick(key, (first.member,))
        if member is None:
            return
        meters.count(HEDGES, pool.cluster.name, "sent")
        connection = pool.ready(member)
        if connection is not None:
            self._send(connection, now)
        else:
            exchange.down.relay.tasks.start(self._dial(member))

    async def _dial(self, member: Member) -> None:
        pool = self._exchange.pool
        assert pool is not None
        try:
            connection = await pool.dial(member, self)
        except DialError:
            pool.leave(member)
            return
        now = time.monotonic()
        if self._over:
            pool.release(connection, now)
        else:
            self._send(connection, now)

    def _send(self, connection: Upstream, now: float) -> None:
        splice = self._exchange.splice
        self.up = connection
        connection.owner = self
        self.begun_at = now
        splice.tries += 1
        self.stream = splice.say(connection.codec, now)
        for event in splice.kept():
            event.stream = self.stream
            connection.codec.send(event)
        connection.flush()

    @property
    def waits_since(self) -> float:
        """See `Owner`."""
        return self.begun_at

    def upstream_spoke(self) -> None:
        """See `Owner`."""
        up = self.up
        exchange = self._exchange
        if up is None:
            return
        now = time.monotonic()
        events = up.codec.events()
        if exchange.splice.status:
            return  # the first has answered meanwhile; `stop` is on its way
        for event in events:
            if isinstance(event, Reset) or (isinstance(event, ResponseHead) and event.status >= 500):
                self._give_up(now)
                return
            if isinstance(event, ResponseHead) and event.status >= 200:
                self._win(up, events, now)
                return

    def _win(self, up: Upstream, events: list[Event], now: float) -> None:
        exchange = self._exchange
        self.up = None
        pool = exchange.pool
        assert pool is not None
        exchange.down.relay.meters.count(HEDGES, pool.cluster.name, "won")
        exchange.won(self, up, now)
        for event in events:
            exchange.splice.from_up(event, now)
        exchange.upstream_spoke()

    def _give_up(self, now: float) -> None:
        up = self.up
        pool = self._exchange.pool
        assert pool is not None
        if up is not None:
            self.up = None
            up.codec.send(Reset(self.stream, Fault.CALLER_GONE))
            up.member.vitals.failed_now()
            pool.release(up, now)
            self._exchange.lost(now)

    def stop(self, now: float) -> None:
        """The exchange is over."""
        self._over = True
        pool = self._exchange.pool
        assert pool is not None
        up = self.up
        if up is not None:
            self.up = None
            up.codec.send(Reset(self.stream, Fault.CALLER_GONE))
            pool.release(up, now)
        else:
            pool.abandon(self)
        if self._paid:
            self._paid = False
            pool.guard.budget.give()

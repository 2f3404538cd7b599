"""A second try beside a first one that is slow: whichever answers first is the one that is heard (Dean, Barroso 2013).

begun ──▶ connection ──▶ sent ──▶ head of an answer ──▶ won: takes the place of the first
                └── refused       └── failed, too late, or the first answered ──▶ over

Whoever loses is told to stop, and its connection is not used again. If the first fails while the second is on, the exchange
waits for the second; if that fails too, the exchange goes on as after any failed try.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flui.codecs.grpc import answered
from flui.model.decision import Forward
from flui.model.events import Event, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.grpc import counted_as
from flui.routing.pick import Member
from flui.telemetry.families import HEDGES, RETRIES
from flui.upstream.connection import Upstream
from flui.upstream.dial import DialError

if TYPE_CHECKING:
    from flui.downstream.connection import Downstream
    from flui.downstream.exchange import Exchange


class Hedge:
    """The second try of one exchange. Only for a request that has been received whole and is still kept."""

    __slots__ = ("_exchange", "_paid", "begun_at", "is_on", "stream", "up")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._paid = False
        self.is_on = False
        """It is dialled for or under way: it may still answer in place of the first."""
        self.up: Upstream | None = None
        """Its connection, from when it is sent until it is over or takes the place of the first."""
        self.stream = 0
        self.begun_at = 0.0
        """When it was sent; monotonic seconds."""

    def start(self, key: bytes, now: float) -> None:
        """Begins on another endpoint than the first try's, if the budget allows it."""
        exchange = self._exchange
        pool = exchange.pool
        first = exchange.up
        meters = exchange.down.relay.meters
        assert pool is not None
        assert first is not None
        tried = (*exchange.tried, first.member)
        if not exchange.splice.can_repeat or not pool.has_untried(tried):
            return
        if not pool.guard.budget.take(pool.active):
            meters.count(RETRIES, pool.cluster.name, "over_budget")
            return
        self._paid = True
        member = pool.pick(key, tried)
        if member is None:
            self._give()
            return
        meters.count(HEDGES, pool.cluster.name, "sent")
        self.is_on = True
        first.owner = _First(exchange, self)
        connection = pool.ready(member)
        if connection is not None:
            self._send(connection, now)
        else:
            exchange.down.relay.tasks.start(self._dial(member))

    async def _dial(self, member: Member) -> None:
        exchange = self._exchange
        pool = exchange.pool
        assert pool is not None
        connection: Upstream | None = None
        try:
            connection = await pool.dial(member, self)
        except DialError as error:
            if error.fault not in {Fault.CALLER_GONE, Fault.CIRCUIT_OPEN}:
                exchange.down.relay.journal_dial(pool.cluster.name, member.endpoint.name, str(error))
                exchange.failed(member, time.monotonic())
        finally:
            if connection is None:
                pool.leave(member)
                self._lost(time.monotonic())
        now = time.monotonic()
        if connection is not None and self.is_on and now < exchange.deadline:
            self._send(connection, now)
        elif connection is not None:
            pool.release(connection, now)
            self._lost(now)

    def _send(self, connection: Upstream, now: float) -> None:
        splice = self._exchange.splice
        self.up = connection
        connection.owner = self
        self.begun_at = now
        splice.tries += 1
        connection.member.total += 1
        self.stream = splice.say(connection.codec, now)
        for event in splice.kept():
            event.stream = self.stream
            connection.codec.send(event)
        connection.flush()

    @property
    def waits_since(self) -> float:
        """See `Owner`."""
        return self.begun_at

    def upstream_spoke(self, now: float) -> Downstream | None:
        """See `Owner`."""
        up = self.up
        if up is None:
            return None
        exchange = self._exchange
        forward = exchange.splice.decision.action
        assert isinstance(forward, Forward)
        events = up.codec.events()
        for event in events:
            if isinstance(event, Reset):
                self.late(now)
                return None
            if isinstance(event, ResponseHead) and event.status >= 200:
                ended = answered(event) if exchange.splice.head.grpc else None
                status = event.status if ended is None else counted_as(ended)
                if exchange.up is not None and (status >= 500 or event.status in forward.retry.statuses):
                    self.late(now)  # the first may still do better
                    return None
                return self._win(up, events, now)
        return None

    def _win(self, up: Upstream, events: list[Event], now: float) -> Downstream:
        exchange = self._exchange
        pool = exchange.pool
        assert pool is not None
        self.up = None
        self.is_on = False
        exchange.down.relay.meters.count(HEDGES, pool.cluster.name, "won")
        exchange.won(self, up, now)
        exchange.splice.from_up(events, now)
        return exchange.upstream_spoke(now)

    def late(self, now: float) -> None:
        """It has failed, or takes too long: the first try is alone again, or there is none."""
        up = self.up
        if up is not None:
            self._exchange.failed(up.member, now)
            self._cut(up, now)
        self._lost(now)

    def _lost(self, now: float) -> None:
        if self.is_on:
            self.is_on = False
            self._give()
            self._exchange.lost(now)

    def stop(self, now: float) -> None:
        """The exchange has its answer, or is over."""
        self.is_on = False
        pool = self._exchange.pool
        assert pool is not None
        up = self.up
        if up is not None:
            up.member.vitals.unanswered(self.begun_at, now)
            self._cut(up, now)
        else:
            pool.abandon(self)
        self._give()

    def _cut(self, up: Upstream, now: float) -> None:
        pool = self._exchange.pool
        assert pool is not None
        self.up = None
        up.codec.send(Reset(self.stream, Fault.CALLER_GONE))
        pool.release(up, now)

    def _give(self) -> None:
        pool = self._exchange.pool
        assert pool is not None
        if self._paid:
            self._paid = False
            pool.guard.budget.give()


class _First:
    """Hears the first try while there is a second one: its answer ends the second, also when that answer goes on for long."""

    __slots__ = ("_exchange", "_hedge")

    def __init__(self, exchange: Exchange, hedge: Hedge) -> None:
        self._exchange = exchange
        self._hedge = hedge

    @property
    def waits_since(self) -> float:
        """See `Owner`."""
        return self._exchange.waits_since

    def upstream_spoke(self, now: float) -> Downstream:
        """See `Owner`."""
        exchange = self._exchange
        down = exchange.upstream_spoke(now)
        if exchange.splice.status:
            if exchange.up is not None:
                exchange.up.owner = exchange
            self._hedge.stop(now)
        return down

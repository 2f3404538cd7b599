"""One exchange at work: finds it an upstream, tries again where that is right, keeps its time, returns what it borrowed.

decided ──▶ admitted ──▶ picked ──▶ idle connection ──▶ attached ──▶ done
                           ▲  └──▶ dialling ──▶ connected ─▲  │
                           ├── refused: the next endpoint     │
                           └──── pause ◀── failed, may be repeated, and the budget allows it
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from flui.downstream.hedge import Hedge
from flui.model.decision import Decision, Forward
from flui.model.events import RequestHead, Reset, ResponseHead
from flui.model.fault import ENDPOINT_FAULTS, SHED, Fault
from flui.model.fields import Field
from flui.model.topology import HashKey, KeySource
from flui.resilience.retry import retry_after, verdict
from flui.routing.pick import Member
from flui.splice import Splice
from flui.telemetry.families import RETRIES
from flui.upstream.connection import Upstream
from flui.upstream.dial import DialError
from flui.upstream.pool import ClusterPool

if TYPE_CHECKING:
    from flui.downstream.connection import Downstream

_NEVER = float("inf")
_SHED = frozenset(fault.value.encode() for fault in SHED)


class Exchange:
    """One request and its response, between a downstream connection and an upstream one."""

    __slots__ = (
        "_body_checked_at",
        "_body_seen",
        "_hedge",
        "_key",
        "_paid",
        "_pause",
        "_tried",
        "_wait_s",
        "active_at",
        "deadline",
        "down",
        "held",
        "pool",
        "splice",
        "up",
    )

    def __init__(self, down: Downstream, head: RequestHead, decision: Decision, now: float, trace: bytes, origin: Field | None) -> None:
        self.down = down
        self.splice = Splice(down.codec, head, decision, now, trace, origin)
        self.up: Upstream | None = None
        self.active_at = now
        """When either side last said something."""
        self.held = False
        """The caller was not read for a while: that its body is slow is not its fault."""
        self.deadline = _NEVER
        """When it must be over; monotonic seconds."""
        self.pool: ClusterPool | None = None
        self._key = b""
        self._tried: tuple[Member, ...] = ()
        self._paid = 0
        """Tries that were taken from the budget, and are given back at the end."""
        self._wait_s = 0.0
        self._pause: asyncio.TimerHandle | None = None
        self._hedge: Hedge | None = None
        self._body_checked_at = now
        self._body_seen = 0

    def start(self, forward: Forward, now: float) -> float:
        """Sends the request to an endpoint, at once if a connection is idle.

        Returns:
            When to look at the exchange at the latest (`due`); monotonic seconds.
        """
        splice = self.splice
        head = splice.head
        relay = self.down.relay
        if head.deadline >= 0:
            if head.deadline == 0:
                splice.fail(Fault.DEADLINE_PASSED)
                return now
            self.deadline = now + splice.left_ms(now) / 1000
        elif forward.timeout_s:
            self.deadline = now + forward.timeout_s
        if relay.pressure.level and relay.sheds(splice.decision.why.listener, forward, head):
            splice.fail(Fault.OVERLOADED)
            return now
        targets = forward.targets
        target = targets[0] if len(targets) == 1 else relay.split(targets)
        pool = relay.pools.by_name.get(target.cluster)
        if pool is None:
            splice.fail(Fault.NO_ENDPOINT)
            return now
        self.pool = pool
        retry = forward.retry
        if retry.attempts > 1 and (forward.repeatable or head.repeatable):
            splice.retrier = self
            if head.length:
                splice.keep(retry.body_octets)
        if forward.special and relay.extras.holds_back(self, forward, now):
            return self._look_at(forward, now)
        return self.go(forward, now)

    def go(self, forward: Forward, now: float) -> float:
        """Asks the cluster, and then an endpoint. See `start`."""
        pool = self.pool
        assert pool is not None
        guard = pool.guard
        if guard.is_busy or pool.active >= guard.requests:
            priority = max(forward.priority, self.splice.head.priority)
            refusal = guard.refuses(pool.active, priority, self.down.principal, now)
            if refusal is not None:
                self.pool = None
                self.down.relay.refused(self.splice, pool.cluster.name, refusal, priority)
                return now
        self._key = hash_key(forward.key or pool.cluster.balance.key, self.splice.head, self.down.principal) if pool.keyed else b""
        member = None if forward.fails_in_panic and pool.fitness.panics else pool.pick(self._key, ())
        if member is None:
            self.splice.fail(Fault.NO_ENDPOINT)
            return now
        connection = pool.ready(member)
        if connection is not None:
            self._attach(connection, now)
        else:
            self.down.relay.tasks.start(self._dial(member))
        return self._look_at(forward, now)

    def _look_at(self, forward: Forward, now: float) -> float:
        look_at = self.deadline
        if forward.idle_timeout_s and now + forward.idle_timeout_s < look_at:
            look_at = now + forward.idle_timeout_s
        if forward.special:
            retry = forward.retry
            look_at = min(look_at, now + (retry.hedge_s or _NEVER), now + (retry.per_try_s or _NEVER))
        body_idle_s = self.down.relay.timeouts.body_idle_s
        return look_at if look_at < now + body_idle_s else now + body_idle_s

    def _attach(self, connection: Upstream, now: float) -> None:
        self.splice.endpoint = connection.member.label
        self.up = connection
        connection.owner = self
        self.splice.attach(connection.codec, now)

    async def _dial(self, member: Member) -> None:
        """Tries endpoint after endpoint until one can be connected to; nothing of the request is sent before."""
        try:
            await self._find(member)
        finally:
            if self.up is None:
                self.splice.fail(Fault.INTERNAL)  # unless it is over; only a mistake of ours leads here, and nobody shall wait for it
            now = time.monotonic()
            self.down.settle(self, now)
            self.down.pump(now)

    async def _find(self, member: Member) -> None:
        pool = self.pool
        assert pool is not None
        while True:
            fault = Fault.INTERNAL
            connection: Upstream | None = None
            self.splice.endpoint = member.label
            try:
                connection = await pool.dial(member, self)
            except DialError as error:
                fault = error.fault
                if fault is not Fault.CALLER_GONE:
                    self.down.relay.journal_dial(pool.cluster.name, member.endpoint.name, str(error))
            now = time.monotonic()
            if self.splice.done:
                # The caller went, or its deadline passed, while we dialled.
                if connection is not None:
                    pool.release(connection, now)
                else:
                    pool.leave(member)
                return
            if connection is not None:
                self._attach(connection, now)
                return
            pool.leave(member)
            if fault is Fault.CIRCUIT_OPEN:
                self.down.relay.tripped(pool.cluster.name, "pending")
                self.splice.fail(fault)
                return
            self._failed(pool, member, now)
            self._tried += (member,)
            following = pool.pick(self._key, self._tried) or pool.resort(self._tried)
            if following is None:
                self.splice.fail(fault)
                return
            member = following
            idle = pool.ready(member)
            if idle is not None:
                self._attach(idle, now)
                return

    # What the upstream connection calls.

    def upstream_spoke(self) -> None:
        """See `Owner`."""
        now = time.monotonic()
        self.active_at = now
        self.down.settle(self, now)
        self.down.pump(now)

    @property
    def waits_since(self) -> float:
        """See `Owner`."""
        return _NEVER if self.splice.status else self.splice.attached_at

    # Once more.

    def again(self, head: ResponseHead | None) -> bool:
        """See `splice.Retrier`."""
        forward = self.splice.decision.action
        pool = self.pool
        if self._hedge is not None and self._hedge.up is not None:
            self._wait_s = _NEVER
            return True  # there is a second try already, which now is the only one
        if pool is None or not isinstance(forward, Forward) or not self.splice.can_repeat:
            return False
        now = time.monotonic()
        after: float | None = None
        if head is not None:
            for candidate in head.fields:
                if candidate.name == b"retry-after":
                    after = retry_after(candidate.value, time.time())  # noqa: TID251 - a date is wall-clock time
        splice = self.splice
        found = verdict(
            forward.retry,
            splice.tries,
            self.down.relay.random,
            repeatable=True,
            unsent=False,
            status=head.status if head is not None else 0,
            shed=head is not None and head.refusal in _SHED,
            after_s=after,
            left_s=self.deadline - now,
            others=pool.has_untried((*self._tried, self.up.member) if self.up is not None else self._tried),
            said=splice.head.attempt,
            held=True,
        )
        if not found.again:
            return False
        meters = self.down.relay.meters
        if not pool.guard.budget.take(pool.active):
            meters.count(RETRIES, pool.cluster.name, "over_budget")
            return False
        meters.count(RETRIES, pool.cluster.name, "sent")
        self._paid += 1
        self._wait_s = found.wait_s
        return True

    def repeat(self, now: float) -> None:
        """The try was given up (`again` has said so): its connection goes back, and the next try begins after its pause."""
        splice = self.splice
        up = self.up
        if up is not None:
            pool = self.pool
            assert pool is not None
            self.up = None
            if not up.codec.reusable:
                up.codec.send(Reset(splice.up_stream, Fault.UPSTREAM_RESET))
            self._tried += (up.member,)
            self._failed(pool, up.member, now)
            pool.release(up, now)
        splice.detach()
        if self._wait_s == _NEVER:
            return
        if self._wait_s > 0:
            self._pause = self.down.relay.loop.call_later(self._wait_s, self._resume)
        else:
            self._next_try(now)

    def _resume(self) -> None:
        self._pause = None
        now = time.monotonic()
        if not self.splice.done:
            self._next_try(now)
            self.down.settle(self, now)
            self.down.pump(now)

    def _next_try(self, now: float) -> None:
        pool = self.pool
        assert pool is not None
        if now >= self.deadline:
            return  # `due` is about to say so
        member = pool.pick(self._key, self._tried) or pool.pick(self._key, ())
        if member is None:
            self.splice.fail(Fault.NO_ENDPOINT)
            return
        connection = pool.ready(member)
        if connection is not None:
            self._attach(connection, now)
        else:
            self.down.relay.tasks.start(self._dial(member))

    def _failed(self, pool: ClusterPool, member: Member, now: float) -> None:
        """A try at `member` has failed: too many of them in a row take it out at once."""
        vitals = member.vitals
        if vitals.failed_now() >= vitals.strikes:
            pool.fitness.struck(member, now)

    # Time.

    def due(self, now: float) -> float:
        """Fails the exchange if its time is up; else says when to look again (monotonic seconds)."""
        splice = self.splice
        forward = splice.decision.action
        assert isinstance(forward, Forward)
        relay = self.down.relay
        if now >= self.deadline:
            left = splice.head.deadline
            # whichever of the two was the shorter: the caller's deadline or the route's timeout
            passed = left >= 0 and (not forward.timeout_s or left <= forward.timeout_s * 1000)
            splice.fail(Fault.DEADLINE_PASSED if passed else Fault.UPSTREAM_TIMEOUT)
            return now
        if now - self.active_at >= forward.idle_timeout_s > 0:
            splice.fail(Fault.UPSTREAM_TIMEOUT)
            return now
        look = min(self.deadline, self.active_at + forward.idle_timeout_s if forward.idle_timeout_s else _NEVER)
        if forward.special and not splice.status and self.up is not None:
            look = min(look, self._try_due(forward, now))
        if not splice.request_ended:
            since = now - self._body_checked_at
            body_idle_s = relay.timeouts.body_idle_s
            if since >= body_idle_s:
                if not self.held and splice.octets_in - self._body_seen < relay.limits.body_rate * since:
                    self.down.codec.fail(Fault.REQUEST_TIMEOUT)
                    return now
                self.held = not self.down.codec.reading
                self._body_checked_at = now
                self._body_seen = splice.octets_in
            look = min(look, self._body_checked_at + body_idle_s)
        return look

    def _try_due(self, forward: Forward, now: float) -> float:
        """Begins a second try beside one that is slow, or gives one up that takes too long; says when to look again."""
        splice = self.splice
        retry = forward.retry
        look = _NEVER
        if retry.hedge_s and self._hedge is None and splice.tries == 1 and splice.retrier is not None and splice.request_ended:
            look = splice.attached_at + retry.hedge_s
            if now >= look:
                self._hedge = Hedge(self)
                self._hedge.start(self._key, now)
                look = _NEVER
        if retry.per_try_s:
            until = splice.attached_at + retry.per_try_s
            if now < until:
                return min(look, until)
            if splice.retrier is not None and self.again(None):
                splice.deaf = True
            else:
                splice.fail(Fault.UPSTREAM_TIMEOUT)
        return look

    # The end.

    def won(self, hedge: Hedge, up: Upstream, now: float) -> None:
        """The second try answers first: it takes the place of the first, which is told to stop."""
        first = self.up
        splice = self.splice
        if first is not None:
            assert self.pool is not None
            first.member.vitals.unanswered(splice.attached_at, now)
            first.codec.send(Reset(splice.up_stream, Fault.CALLER_GONE))
            self.pool.release(first, now)
        self.up = up
        up.owner = self
        splice.endpoint = up.member.label
        splice.adopt(up.codec, hedge.stream, hedge.begun_at)

    def lost(self, now: float) -> None:
        """The second try has failed; if the first has too, that was all."""
        if self.up is None and not self.splice.done:
            self.splice.fail(Fault.UPSTREAM_RESET)
            self.down.settle(self, now)
            self.down.pump(now)

    def finish(self, now: float) -> None:
        """Gives back what was borrowed. The splice is done."""
        pool = self.pool
        if pool is None:
            return
        up = self.up
        splice = self.splice
        if up is not None:
            self.up = None
            fault = splice.fault
            if fault is None and splice.status < 500:
                up.member.vitals.succeeded(splice.first_at - splice.attached_at)
            elif fault is None or fault in ENDPOINT_FAULTS:
                self._failed(pool, up.member, now)
            limiter = pool.guard.limiter
            if limiter is not None:
                limiter.done(now - splice.attached_at, now, fault is None and splice.status < 500)
            pool.release(up, now)
        else:
            pool.abandon(self)
            if self._pause is not None:
                self._pause.cancel()
        if self._hedge is not None:
            self._hedge.stop(now)
        while self._paid:
            self._paid -= 1
            pool.guard.budget.give()
        if splice.mirror:
            self.down.relay.extras.mirrors.send(splice, self._key, now)


def hash_key(where: HashKey, head: RequestHead, principal: str) -> bytes:
    """The consistent-hash key of a request, empty when it has none."""
    source = where.source
    if source is KeySource.FLUI_KEY:
        return head.key
    if source is KeySource.PRINCIPAL:
        return principal.encode()
    if source is KeySource.HEADER:
        for field in head.fields:
            if field.name == where.name:
                return field.value
        return b""
    parts = head.path.split(b"/")
    return parts[where.part] if where.part < len(parts) else b""

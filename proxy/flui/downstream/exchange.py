"""One exchange at work: finds it an upstream, tries again where that is right, keeps its time, returns what it borrowed.

decided ──▶ admitted ──▶ picked ──▶ idle connection ──▶ attached ──▶ done
                           ▲  └──▶ dialling ──▶ connected ─▲  │
                           ├── refused: the next endpoint     │
                           └──── pause ◀── failed, may be repeated, and the budget allows it
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flui.codecs.grpc import answered
from flui.downstream.hedge import Hedge
from flui.downstream.selfhealth import SelfHealth
from flui.model.decision import Forward
from flui.model.events import Reset, ResponseHead
from flui.model.fault import ENDPOINT_FAULTS, SHED_NAMES, UNSENT_NAMES, Fault
from flui.model.topology import SELF
from flui.resilience.retry import NO_OTHER, asked_pause, verdict
from flui.routing.key import hash_key
from flui.routing.pick import Member
from flui.splice import Splice
from flui.telemetry.families import RETRIES
from flui.upstream.connection import Upstream
from flui.upstream.dial import DialError
from flui.upstream.pool import ClusterPool

if TYPE_CHECKING:
    from flui.downstream.connection import Downstream

_NEVER = float("inf")
_LEAST_LEFT_S = 0.001
"""With less before its deadline nothing is begun after a pause; timers ring up to so much early."""


class Exchange:
    """One request and its response, between a downstream connection and an upstream one."""

    __slots__ = (
        "_body_checked_at",
        "_body_seen",
        "_hedge",
        "_key",
        "_paid",
        "_pause",
        "_spared",
        "_unseen",
        "_wait_s",
        "active_at",
        "deadline",
        "down",
        "held",
        "pool",
        "splice",
        "tried",
        "up",
    )

    def __init__(self, down: Downstream, splice: Splice, now: float) -> None:
        self.down = down
        self.splice = splice
        self.up: Upstream | None = None
        self.active_at = now
        """When either side last said something."""
        self.held = False
        """The caller was not read for a while: that its body is slow is not its fault."""
        self.deadline = _NEVER
        """When it must be over; monotonic seconds."""
        self.pool: ClusterPool | None = None
        self.tried: tuple[Member, ...] = ()
        """Members that have failed for it, or could not be connected to."""
        self._key = b""
        self._paid = False
        """The try under way, or about to begin, was taken from the budget, and is to be given back."""
        self._spared = 0
        """Tries of which the endpoint's module saw nothing, and which do not count."""
        self._unseen = False
        """The try that was given up last was refused unseen, which says nothing against its endpoint."""
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
            if target.cluster != SELF:
                splice.fail(Fault.NO_ENDPOINT)
                return now
            splice.attach(SelfHealth(splice, relay.snapshot.config.service, serving=not relay.draining), now)
            return self.due(now)
        self.pool = pool
        retry = forward.retry
        if retry.attempts > 1:
            splice.retrier = self
            if head.length:
                splice.keep(retry.body_octets)
        if forward.special and relay.extras.holds_back(self, forward, now):
            return self.due(now)
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
        look_at = self.deadline
        patience_s = self.down.relay.timeouts.body_idle_s
        if 0 < forward.idle_timeout_s < patience_s:
            patience_s = forward.idle_timeout_s
        if forward.special:
            retry = forward.retry
            patience_s = min(patience_s, retry.hedge_s or _NEVER, retry.per_try_s or _NEVER)
        return look_at if look_at < now + patience_s else now + patience_s

    def _attach(self, connection: Upstream, now: float) -> None:
        self.splice.endpoint = connection.member.label
        connection.member.total += 1
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
            except BaseException:
                pool.leave(member)
                raise
            now = time.monotonic()
            if now >= self.deadline:
                self.due(now)  # a loop that was held up may wake us before the alarm: nothing is begun any more
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
                self.splice.endpoint = b""  # nobody was asked
                self.down.relay.tripped(pool.cluster.name, "pending")
                self.splice.fail(fault)
                return
            self.failed(member, now)
            self.tried += (member,)
            following = pool.pick(self._key, self.tried) or pool.resort(self.tried)
            if following is None:
                self.splice.fail(fault)
                return
            member = following
            idle = pool.ready(member)
            if idle is not None:
                self._attach(idle, now)
                return

    # What the upstream connection calls.

    def upstream_spoke(self, now: float) -> Downstream:
        """See `Owner`."""
        self.active_at = now
        down = self.down
        down.settle(self, now)
        return down

    @property
    def waits_since(self) -> float:
        """See `Owner`."""
        return _NEVER if self.splice.status else self.splice.attached_at

    # Once more.

    def again(self, head: ResponseHead | None, *, unsent: bool = False) -> bool:
        """See `splice.Retrier`."""
        self._unseen = unsent
        forward = self.splice.decision.action
        pool = self.pool
        if pool is None or not isinstance(forward, Forward) or not self.splice.can_repeat:
            return False
        hedge = self._hedge
        ended = answered(head) if head is not None and self.splice.head.grpc else None
        counts = head is None or (head.status in forward.retry.statuses if ended is None else ended in forward.retry.grpc_statuses)
        if hedge is not None and hedge.is_on and counts and (head is None or head.refusal not in SHED_NAMES):
            self._wait_s = _NEVER
            return True  # there is a second try already, which now is the only one
        now = time.monotonic()
        after = None if head is None else asked_pause(head.fields, time.time())  # noqa: TID251 - a date is wall-clock time
        if after == NO_OTHER:
            return False
        splice = self.splice
        unsent = unsent or (head is not None and head.refusal in UNSENT_NAMES)
        tried = (*self.tried, self.up.member) if self.up is not None else self.tried
        found = verdict(
            forward.retry,
            splice.tries - self._spared,
            self.down.relay.random,
            repeatable=forward.repeatable or splice.head.repeatable,
            unsent=unsent,
            status=head.status if head is not None and not unsent and ended is None else 0,
            grpc=ended.value if ended is not None and not unsent else -1,
            shed=head is not None and head.refusal in SHED_NAMES,
            after_s=after,
            left_s=self.deadline - now,
            # An endpoint that only has left one connection is asked anew on another, once.
            others=(self._unseen and not self._spared) or pool.has_untried(tried, resort=unsent),
            said=splice.head.attempt,
            held=True,
        )
        if not found.again:
            return False
        meters = self.down.relay.meters
        budget = pool.guard.budget
        if self._paid:
            budget.give()  # for the try that has ended
        self._wait_s = found.wait_s
        if not found.counts:
            # As after a failed connect: the module saw nothing of it, so sending it on adds nothing to anybody's load.
            self._spared += 1
            self._paid = False
            meters.count(RETRIES, pool.cluster.name, "sent")
            return True
        self._paid = budget.take(pool.active)
        meters.count(RETRIES, pool.cluster.name, "sent" if self._paid else "over_budget")
        return self._paid

    def repeat(self, now: float) -> None:
        """The try was given up (`again` has said so): its connection goes back, and the next try begins after its pause."""
        splice = self.splice
        up = self.up
        if up is not None:
            pool = self.pool
            assert pool is not None
            self.up = None
            if not up.codec.reusable:
                up.codec.send(Reset(splice.up_stream, Fault.CALLER_GONE))
            self.tried += (up.member,)
            if not self._unseen:
                self.failed(up.member, now)
            pool.release(up, now)
        splice.detach()
        if self._wait_s == _NEVER:
            return
        if self._wait_s > 0:
            self.pause(self._wait_s, self._next_try)
        else:
            self._next_try(now)
            self.down.settle(self, now)  # credit for what was sent again, or the end: nobody else would ask for it

    def pause(self, seconds: float, then: Callable[[float], None]) -> None:
        """Calls `then` after so long, with the time, if the exchange still waits; then its time and its sockets are looked after."""
        self._pause = self.down.relay.loop.call_later(seconds, self._go_on, then)

    def _go_on(self, then: Callable[[float], None]) -> None:
        self._pause = None
        now = time.monotonic()
        if now + _LEAST_LEFT_S < self.deadline:
            then(now)
        else:
            self.due(now)
        self.down.settle(self, now)
        self.down.pump(now)

    def _next_try(self, now: float) -> None:
        pool = self.pool
        assert pool is not None
        if now >= self.deadline:
            return  # `due` is about to say so
        member = pool.pick(self._key, self.tried) or pool.resort(self.tried) or pool.pick(self._key, ())
        if member is None:
            self.splice.fail(Fault.NO_ENDPOINT)
            return
        connection = pool.ready(member)
        if connection is not None:
            self._attach(connection, now)
        else:
            self.down.relay.tasks.start(self._dial(member))

    def failed(self, member: Member, now: float) -> None:
        """A try at `member` has failed: too many of them in a row take it out at once."""
        pool = self.pool
        assert pool is not None
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
        if forward.special and not splice.status:
            look = min(look, self._try_due(forward, now))
        if not (splice.request_ended or splice.may_pause):
            since = now - self._body_checked_at
            body_idle_s = relay.timeouts.body_idle_s
            if since >= body_idle_s:
                if not self.held and splice.octets_in - self._body_seen < relay.limits.body_rate * since:
                    self.down.codec.fail(Fault.REQUEST_TIMEOUT, splice.stream)
                    return now
                self.held = self.down.codec.holds_back(splice.stream)
                self._body_checked_at = now
                self._body_seen = splice.octets_in
            look = min(look, self._body_checked_at + body_idle_s)
        return look

    def _try_due(self, forward: Forward, now: float) -> float:
        """Begins a second try beside one that is slow, or gives one up that takes too long; says when to look again.

        While no try is under way (one is dialled for, or paused before), it asks to be called again before the next one can be due.
        """
        splice = self.splice
        retry = forward.retry
        hedge = self._hedge
        on_its_way = self.up is not None
        look = _NEVER
        repeatable = splice.retrier is not None and (forward.repeatable or splice.head.repeatable)
        if retry.hedge_s and hedge is None and splice.tries < 2 and repeatable and splice.may_fork:
            look = (splice.attached_at if on_its_way and splice.request_ended else now) + retry.hedge_s
            if now >= look:
                look = _NEVER
                hedge = self._hedge = Hedge(self)
                hedge.start(self._key, now)
        if retry.per_try_s:
            if hedge is not None and hedge.up is not None:
                until = hedge.begun_at + retry.per_try_s
                if now >= until:
                    hedge.late(now)
                    until = now + retry.per_try_s
                look = min(look, until)
            until = (splice.attached_at if self.up is not None else now) + retry.per_try_s
            if now >= until and not splice.done:
                if splice.retrier is not None and self.again(None):
                    splice.deaf = True
                else:
                    splice.fail(Fault.UPSTREAM_TIMEOUT)
                until = now + retry.per_try_s
            look = min(look, until)
        return look

    # The end.

    def won(self, hedge: Hedge, up: Upstream, now: float) -> None:
        """The second try answers first: it takes the place of the first, which is told to stop."""
        first = self.up
        splice = self.splice
        if first is not None:
            assert self.pool is not None
            self.tried += (first.member,)
            first.member.vitals.unanswered(splice.attached_at, now)
            first.codec.send(Reset(splice.up_stream, Fault.CALLER_GONE))
            self.pool.release(first, now)
        self.up = up
        up.owner = self
        splice.endpoint = up.member.label
        splice.adopt(up.codec, hedge.stream, hedge.begun_at)

    def lost(self, now: float) -> None:
        """The second try has failed; if the first has too, there is one more, or that was all."""
        splice = self.splice
        if self.up is None and not splice.done:
            if splice.retrier is not None and self.again(None):
                self.repeat(now)
            else:
                splice.fail(Fault.UPSTREAM_RESET)
            self.down.settle(self, now)
            self.down.pump(now)

    def finish(self, now: float) -> None:
        """Gives back what was borrowed. The splice is done, and is to be released."""
        pool = self.pool
        splice = self.splice
        if pool is None:
            return
        up = self.up
        if up is not None:
            self.up = None
            fault = splice.fault
            status = splice.status if not splice.head.grpc else splice.judged()
            if fault is None and status < 500:
                up.member.vitals.succeeded(splice.first_at - splice.attached_at)
            elif splice.refusal in SHED_NAMES:
                pass  # it is well, and has enough to do
            elif fault is None or fault in ENDPOINT_FAULTS:
                self.failed(up.member, now)
                if splice.retrier is None:
                    self._given_up(pool)
            limiter = pool.guard.limiter
            if limiter is not None:
                limiter.done(now - splice.attached_at, now, fault is None and status < 500)
            pool.release(up, now)
        else:
            pool.abandon(self)
            if self._pause is not None:
                self._pause.cancel()
        if self._hedge is not None:
            self._hedge.stop(now)
            self._hedge = None
        if self._paid:
            self._paid = False
            pool.guard.budget.give()
        if splice.mirror:
            self.down.relay.extras.mirrors.send(splice, self._key)

    def _given_up(self, pool: ClusterPool) -> None:
        """Counts a failure that was final only because the body had grown too long to be kept."""
        splice = self.splice
        forward = splice.decision.action
        assert isinstance(forward, Forward)
        retry = forward.retry
        before_answer = not splice.first_at or splice.status in retry.statuses
        if before_answer and retry.attempts > 1 and (forward.repeatable or splice.head.repeatable):
            self.down.relay.meters.count(RETRIES, pool.cluster.name, "given_up")

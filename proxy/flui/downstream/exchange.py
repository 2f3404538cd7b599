"""One exchange at work: finds it an upstream, keeps its time, returns what it borrowed.

decided ──▶ picked ──▶ idle connection ──▶ attached ──▶ done
              ▲  └──▶ dialling ──▶ connected ─▲
              └── refused: next endpoint, as long as nothing of the request was sent
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flui.model.decision import Decision, Forward
from flui.model.events import RequestHead
from flui.model.fault import Fault
from flui.model.fields import Field
from flui.model.topology import HashKey, KeySource
from flui.routing.pick import Member
from flui.splice import Splice
from flui.upstream.connection import Upstream
from flui.upstream.pool import ClusterPool, DialError

if TYPE_CHECKING:
    from flui.downstream.connection import Downstream

_NEVER = float("inf")
_MIN_RATE = 500
"""Octets per second below which a request body is a slow attack (threats C8)."""


class Exchange:
    """One request and its response, between a downstream connection and an upstream one."""

    __slots__ = ("_body_checked_at", "_body_seen", "_pool", "_tried", "active_at", "deadline", "down", "held", "splice", "up")

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
        self._pool: ClusterPool | None = None
        self._tried: tuple[Member, ...] = ()
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
        targets = forward.targets
        target = targets[0] if len(targets) == 1 else relay.split(targets)
        pool = relay.pools.by_name.get(target.cluster)
        if pool is None:
            splice.fail(Fault.NO_ENDPOINT)
            return now
        self._pool = pool
        key = hash_key(forward.key or pool.cluster.balance.key, head, self.down.principal) if pool.keyed else b""
        member = pool.pick(key, ())
        if member is None:
            splice.fail(Fault.NO_ENDPOINT)
            return now
        connection = pool.ready(member)
        if connection is not None:
            self._attach(connection, member, now)
        else:
            relay.tasks.start(self._dial(pool, member, key))
        look_at = self.deadline
        if forward.idle_timeout_s and now + forward.idle_timeout_s < look_at:
            look_at = now + forward.idle_timeout_s
        body_idle_s = relay.timeouts.body_idle_s
        return look_at if look_at < now + body_idle_s else now + body_idle_s

    def _attach(self, connection: Upstream, member: Member, now: float) -> None:
        self.splice.endpoint = member.label
        self.up = connection
        connection.owner = self
        self.splice.attach(connection.codec, now)

    async def _dial(self, pool: ClusterPool, member: Member, key: bytes) -> None:
        """Tries endpoint after endpoint until one can be connected to; nothing of the request is sent before."""
        try:
            await self._find(pool, member, key)
        finally:
            if self.up is None:
                self.splice.fail(Fault.INTERNAL)  # unless it is over; only a mistake of ours leads here, and nobody shall wait for it
            now = time.monotonic()
            self.down.settle(self, now)
            self.down.pump(now)

    async def _find(self, pool: ClusterPool, member: Member, key: bytes) -> None:
        while True:
            fault = Fault.INTERNAL
            connection: Upstream | None = None
            self.splice.endpoint = member.label
            try:
                connection = await pool.dial(member)
            except DialError as error:
                fault = error.fault
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
                self._attach(connection, member, now)
                return
            pool.leave(member)
            self._tried += (member,)
            following = pool.pick(key, self._tried)
            if following is None:
                self.splice.fail(fault)
                return
            member = following
            idle = pool.ready(member)
            if idle is not None:
                self._attach(idle, member, now)
                return

    # What the upstream connection calls.

    def upstream_spoke(self) -> None:
        """See `Owner`."""
        now = time.monotonic()
        self.active_at = now
        self.down.settle(self, now)
        self.down.pump(now)

    # Time.

    def due(self, now: float) -> float:
        """Fails the exchange if its time is up; else says when to look again (monotonic seconds)."""
        forward = self.splice.decision.action
        assert isinstance(forward, Forward)
        timeouts = self.down.relay.timeouts
        if now >= self.deadline:
            left = self.splice.head.deadline
            # whichever of the two was the shorter: the caller's deadline or the route's timeout
            passed = left >= 0 and (not forward.timeout_s or left <= forward.timeout_s * 1000)
            self.splice.fail(Fault.DEADLINE_PASSED if passed else Fault.UPSTREAM_TIMEOUT)
            return now
        if now - self.active_at >= forward.idle_timeout_s > 0:
            self.splice.fail(Fault.UPSTREAM_TIMEOUT)
            return now
        look = min(self.deadline, self.active_at + forward.idle_timeout_s if forward.idle_timeout_s else _NEVER)
        if not self.splice.request_ended:
            since = now - self._body_checked_at
            if since >= timeouts.body_idle_s:
                if not self.held and self.splice.octets_in - self._body_seen < _MIN_RATE * since:
                    self.down.codec.fail(Fault.REQUEST_TIMEOUT)
                    return now
                self.held = not self.down.codec.reading
                self._body_checked_at = now
                self._body_seen = self.splice.octets_in
            look = min(look, self._body_checked_at + timeouts.body_idle_s)
        return look

    def finish(self, now: float) -> None:
        """Gives back what was borrowed. The splice is done."""
        up = self.up
        if up is not None and self._pool is not None:
            self.up = None
            self._pool.release(up, now)


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

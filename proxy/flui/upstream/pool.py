"""Connections to the endpoints of one cluster: picked, reused, dialled.

`ready` is the data path: pick a member, pop an idle connection. Only when there is none does `dial` wait for a new one,
or for somebody else's where the breaker allows no more. An idle connection waits with its codec between exchanges; it
leaves the pool the moment the endpoint closes it.

    pick ──▶ ready ──▶ release            what was picked is given back by `release` or `leave`, exactly once
       └──▶ dial ──▶ release
               └── DialError ──▶ leave
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from flui.model.config import Limits, Timeouts
from flui.model.fault import Fault
from flui.model.topology import Cluster, Endpoint, Policy
from flui.routing.pick import Member, Picker, picker
from flui.telemetry.families import UPSTREAM_CONNECTS
from flui.telemetry.journal import Journal
from flui.telemetry.meters import Meters
from flui.transport.credentials import Credentials
from flui.transport.tls import still_trusted
from flui.upstream.connection import Owner, Upstream
from flui.upstream.dial import DialError, connect
from flui.upstream.fitness import Fitness
from flui.upstream.guard import Guard


class ClusterPool:
    """The members of one cluster and the idle connections to them."""

    __slots__ = (
        "_all",
        "_credentials",
        "_current",
        "_dialling",
        "_idle",
        "_judged_at",
        "_limits",
        "_meters",
        "_picker",
        "_random",
        "_timeouts",
        "_waiters",
        "active",
        "cluster",
        "fitness",
        "guard",
        "keyed",
        "members",
    )

    def __init__(
        self,
        cluster: Cluster,
        credentials: Credentials | None,
        limits: Limits,
        timeouts: Timeouts,
        meters: Meters,
        random: Random,
        journal: Journal | None = None,
    ) -> None:
        self._credentials = credentials
        self._limits = limits
        self._timeouts = timeouts
        self._meters = meters
        self._random = random.random
        self._idle: dict[Member, list[Upstream]] = {}
        self._all: set[Upstream] = set()
        self._dialling = 0
        self._waiters: dict[Owner, asyncio.Future[Upstream | None]] = {}
        self._judged_at = 0.0
        self.active = 0
        """Requests in flight, and those that wait for a connection."""
        self.members: dict[Endpoint, Member] = {}
        self._current: set[Member]
        self.cluster: Cluster
        self.keyed: bool
        """Picks depend on the request's key."""
        self._picker: Picker
        self.guard = Guard(cluster)
        self.fitness = Fitness(cluster, meters, journal, self._wake)
        self.update(cluster, random)

    def update(self, cluster: Cluster, random: Random | None = None) -> None:
        """Takes up a new set of endpoints; members that stay keep their connections, their load and their record."""
        self.cluster = cluster
        old = self.members
        self.members = {endpoint: old.get(endpoint) or Member(endpoint) for endpoint in cluster.endpoints}
        members = list(self.members.values())
        self._picker = picker(cluster, members, random or Random(self._random()))  # noqa: S311 - balancing
        kept = self._current = set(members)
        self.keyed = cluster.balance.policy is Policy.RING
        self.guard.update(cluster)
        self.fitness.update(cluster, members)
        for member in list(self._idle):
            if member not in kept:
                for connection in self._idle.pop(member):
                    connection.close()

    def pick(self, key: bytes, tried: Sequence[Member]) -> Member | None:
        """The member that takes a request; it counts as loaded until `release` or `leave`."""
        member = self._picker.pick(key, tried)
        if member is None:
            return None
        if member.share < 1.0 and self._random() >= member.share:
            # It comes back slowly: most of what would be its own goes to the next one meanwhile.
            member = self._picker.pick(key, (*tried, member)) or member
        member.active += 1
        self.active += 1
        return member

    def resort(self, tried: Sequence[Member]) -> Member | None:
        """A member that was taken out for what it answered, for a request that nobody else is left for; it counts as by `pick`."""
        left = [m for m in self._current if m.out and not m.vitals.ill and m.weight > 0 and m not in tried]
        if not left:
            return None
        member = min(left, key=lambda candidate: candidate.active)
        member.active += 1
        self.active += 1
        return member

    def has_untried(self, tried: Sequence[Member], *, resort: bool = False) -> bool:
        """Whether there is a member for one more try; with `resort` also one that `resort` would find."""
        return any(
            (member.available or (resort and not member.vitals.ill)) and member.weight > 0 and member not in tried
            for member in self._current
        )

    def ready(self, member: Member) -> Upstream | None:
        """An idle connection to `member`, the one used last first; None: dial."""
        idle = self._idle.get(member)
        return idle.pop() if idle else None

    def leave(self, member: Member) -> None:
        """`member` was picked and not used after all."""
        member.active -= 1
        self.active -= 1

    def release(self, connection: Upstream, now: float) -> None:
        """The exchange on `connection` is over: to who waits for one, or back to the idle ones if it is in step, else closed."""
        connection.owner = None
        connection.idle_since = now
        member = connection.member
        member.active -= 1
        self.active -= 1
        if connection.codec.reusable and not connection.lost and member in self._current:
            if not connection.is_reading:
                connection.flush()  # or it would not see its endpoint hang up
            if self._waiters:
                self._hand(connection)
                return
            idle = self._idle.get(member)
            if idle is None:
                idle = self._idle[member] = []
            idle.append(connection)
        else:
            connection.close()

    def forget(self, connection: Upstream) -> None:
        """See `Keeper`."""
        self._all.discard(connection)
        idle = self._idle.get(connection.member)
        if idle is not None and connection in idle:
            idle.remove(connection)
        self._wake()

    # What there are no more connections for.

    @property
    def pending(self) -> int:
        """Requests that wait for a connection."""
        return self._dialling + len(self._waiters)

    def _hand(self, connection: Upstream | None) -> None:
        """Gives a free connection, or the room for one more (None), to who has waited longest; if nobody does, it is put by."""
        while self._waiters:
            waiter = self._waiters.pop(next(iter(self._waiters)))
            if not waiter.done():  # one that was cancelled has not run since
                waiter.set_result(connection)
                return
        if connection is None:
            self._dialling -= 1
        else:
            self._idle.setdefault(connection.member, []).append(connection)

    def _wake(self) -> None:
        while self._waiters and len(self._all) + self._dialling < self.cluster.breaker.connections:
            self._dialling += 1  # in its name, until it runs
            self._hand(None)

    def abandon(self, owner: Owner) -> None:
        """`owner` waits no longer."""
        waiter = self._waiters.pop(owner, None)
        if waiter is not None:
            waiter.set_exception(DialError(Fault.CALLER_GONE, "nobody waits any more"))

    def _decline(self, handed: Upstream | None) -> None:
        """What was given to somebody who has gone meanwhile goes to the next one."""
        if handed is not None:
            handed.close()
        else:
            self._dialling -= 1
            self._wake()

    async def dial(self, member: Member, owner: Owner) -> Upstream:
        """A connection to `member`, or to another member where the breaker allows no more and theirs comes free first.

        What was picked moves to the connection's own member. Cancelled, it leaves no socket behind.

        Raises:
            DialError: refused, timed out, TLS failed, someone else is there, or too many wait already.
        """
        breaker = self.cluster.breaker
        if len(self._all) + self._dialling >= breaker.connections:
            # One that idles at another member makes room: nobody waits beside what nobody uses.
            idlers = [idle[0] for idle in self._idle.values() if idle]
            if idlers:
                min(idlers, key=lambda idler: idler.idle_since).close()
        if self.pending >= breaker.pending:
            raise DialError(Fault.CIRCUIT_OPEN, f"{self.cluster.name}: {self.pending} requests wait for a connection already")
        if len(self._all) + self._dialling < breaker.connections:
            self._dialling += 1
        else:
            waiter: asyncio.Future[Upstream | None] = asyncio.get_running_loop().create_future()
            self._waiters[owner] = waiter
            try:
                handed = await waiter
            except asyncio.CancelledError:
                if self._waiters.pop(owner, None) is None and waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._decline(waiter.result())
                raise
            if handed is not None and not handed.lost and handed.codec.reusable:
                member.active -= 1
                handed.member.active += 1
                return handed
            if handed is not None:
                handed.close()  # it was hung up before it came into use; there is room for another one then
                return await self.dial(member, owner)
        cluster = self.cluster
        outcome = "failed"
        try:
            connection = await connect(self, member, cluster, self._credentials, self._limits, self._timeouts.connect_s)
            outcome = "connected"
            self._all.add(connection)
        except DialError as error:
            outcome = error.fault.value
            raise
        finally:
            self._dialling -= 1
            self._meters.count(UPSTREAM_CONNECTS, cluster.name, outcome)
            if outcome != "connected":
                self._wake()
        return connection

    # Chores.

    def tick(self, now: float) -> None:
        """Judges the members; called more often than anything is judged."""
        if now - self._judged_at >= self.fitness.interval_s:
            self._judged_at = now
            for connection in self._all:
                if connection.owner is not None:
                    connection.member.vitals.unanswered(connection.owner.waits_since, now)
            self.fitness.tick(now)

    def tune(self, limits: Limits, timeouts: Timeouts) -> None:
        """Takes up new numbers, for connections opened from now on."""
        self._limits = limits
        self._timeouts = timeouts

    def retire(self) -> None:
        """Serves no new request; connections in use end with their exchange."""
        self.update(replace(self.cluster, endpoints=()))

    def sweep(self, now: float, idle_s: float) -> None:
        """Closes connections idle for longer than `idle_s`: the endpoint is about to, and a race would cost a request."""
        for idle in self._idle.values():
            for connection in [c for c in idle if now - c.idle_since > idle_s]:
                connection.close()

    def retrust(self, unix_now: float) -> int:
        """Closes connections whose peer is not trusted any more (bundle changed, certificate expired); says how many."""
        if self._credentials is None:
            return 0
        closed = 0
        for connection in list(self._all):
            if connection.peer is not None and still_trusted(connection.peer, self._credentials, unix_now) is not None:
                connection.close()
                closed += 1
        return closed

    def lapsed(self, unix_now: float) -> bool:
        """Whether the certificate of some connection's peer has expired."""
        return any(c.peer is not None and c.peer.principal.expires_at <= unix_now for c in self._all)

    def idle_count(self) -> int:
        """Idle connections."""
        return sum(len(idle) for idle in self._idle.values())

    def open_count(self) -> int:
        """All connections."""
        return len(self._all)

    def close(self) -> None:
        """Closes every connection."""
        for connection in list(self._all):
            connection.close()

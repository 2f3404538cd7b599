"""Connections to the endpoints of one cluster: picked, reused, shared, dialled.

`ready` is the data path: pick a member, pop an idle connection, or take a lane on one that is shared. Only when there is
neither does `dial` wait for a new one, or for somebody else's where the breaker allows no more. An idle connection waits
with its codec between exchanges; it leaves the pool the moment the endpoint closes it. A connection belongs to one
member for ever: members that prove the same identity at the same address still share none.

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
from flui.model.topology import Cluster, Endpoint, Policy, Protocol
from flui.routing.pick import Member, Picker, picker
from flui.telemetry.families import UPSTREAM_CONNECTS
from flui.telemetry.journal import Journal
from flui.telemetry.meters import Meters
from flui.transport.credentials import Credentials
from flui.transport.tls import still_trusted
from flui.upstream.connection import Connection, Upstream
from flui.upstream.dial import LANES, DialError, connect
from flui.upstream.fitness import Fitness
from flui.upstream.guard import Guard
from flui.upstream.opening import Opening
from flui.upstream.owner import Owner
from flui.upstream.shared import Lane, Shared
from flui.upstream.single import Single


class ClusterPool:
    """The members of one cluster and the connections to them."""

    __slots__ = (
        "_all",
        "_alone",
        "_credentials",
        "_current",
        "_dialling",
        "_full",
        "_idle",
        "_joiners",
        "_judged_at",
        "_limits",
        "_meters",
        "_openings",
        "_picker",
        "_random",
        "_shared",
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
        self._idle: dict[Member, list[Single]] = {}
        self._full: set[Member] = set()
        """Members none of whose shared connections had room, until one has again: a thousand of them are not asked for each request."""
        self._shared: dict[Member, list[Shared]] = {}
        """Those that may take one more exchange, now or when one is over."""
        self._alone: set[Member] = set()
        """Members that were found to speak HTTP/1.1: nobody waits to share a connection to them."""
        self._openings: dict[Member, Opening] = {}
        self._joiners: dict[Owner, Opening] = {}
        self._all: set[Connection] = set()
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
        for member in list(self._shared):
            if member not in kept:
                for shared in self._shared.pop(member):
                    shared.drain()
        self._alone &= kept
        self._full &= kept

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
        """An idle connection to `member`, the one used last first, or a lane on a shared one; None: dial."""
        idle = self._idle.get(member)
        if idle:
            return idle.pop()
        shared = self._shared.get(member)
        return self._lane(shared) if shared is not None else None

    def _lane(self, among: list[Shared]) -> Lane | None:
        if not among or among[0].member in self._full:
            return None
        for shared in among:
            if shared.has_room:
                return shared.lane()
        self._full.add(among[0].member)
        return None

    def leave(self, member: Member) -> None:
        """`member` was picked and not used after all."""
        member.active -= 1
        self.active -= 1

    def release(self, connection: Upstream, now: float) -> None:
        """The exchange on `connection` is over: to who waits for one, or back to the idle ones if it is in step, else closed.

        A lane goes back to its connection, and the endpoint is told to stop if the exchange was not over there.
        """
        member = connection.member
        member.active -= 1
        self.active -= 1
        if isinstance(connection, Lane):
            shared = connection.shared
            shared.leave(connection, now)
            self._full.discard(shared.member)
            if self._waiters:
                self._offer(shared)
            return
        connection.owner = None
        connection.idle_since = now
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

    def forget(self, connection: Connection) -> None:
        """See `Keeper`."""
        self._all.discard(connection)
        if isinstance(connection, Single):
            idle = self._idle.get(connection.member)
            if idle is not None and connection in idle:
                idle.remove(connection)
        else:
            shared = self._shared.get(connection.member)
            if shared is not None and connection in shared:
                shared.remove(connection)
        self._wake()

    # What there are no more connections for.

    @property
    def pending(self) -> int:
        """Requests that wait for a connection."""
        return self._dialling + len(self._waiters) + len(self._joiners)

    def _hand(self, connection: Upstream | None) -> None:
        """Gives a free connection, or the room for one more (None), to who has waited longest; if nobody does, it is put by."""
        while self._waiters:
            waiter = self._waiters.pop(next(iter(self._waiters)))
            if not waiter.done():  # one that was cancelled has not run since
                waiter.set_result(connection)
                return
        if connection is None:
            self._dialling -= 1
        elif isinstance(connection, Single):
            self._idle.setdefault(connection.member, []).append(connection)
        else:
            connection.close()

    def _offer(self, shared: Shared) -> None:
        """Gives lanes to who waits for a connection, as long as there is room for them."""
        while self._waiters and shared.has_room:
            self._hand(shared.lane())

    def _wake(self) -> None:
        while self._waiters and len(self._all) + self._dialling < self.cluster.breaker.connections:
            if self._dialling and self._shares:
                return  # one by one: each may turn out to serve a hundred of them
            self._dialling += 1  # in its name, until it runs
            self._hand(None)

    def abandon(self, owner: Owner) -> None:
        """`owner` waits no longer."""
        waiter: asyncio.Future[Upstream | None] | asyncio.Future[Lane | None] | None = self._waiters.pop(owner, None)
        if waiter is None:
            opening = self._joiners.pop(owner, None)
            if opening is not None:
                waiter = opening.waiters.pop(owner)
        if waiter is not None and not waiter.done():
            waiter.set_exception(DialError(Fault.CALLER_GONE, "nobody waits any more"))

    def _decline(self, handed: Upstream | None) -> None:
        """What was given to somebody who has gone meanwhile goes to the next one."""
        if handed is None:
            self._dialling -= 1
            self._wake()
            return
        handed.close()
        if isinstance(handed, Lane):
            self._full.discard(handed.member)
            self._offer(handed.shared)

    async def dial(self, member: Member, owner: Owner) -> Upstream:
        """A connection to `member`, or to another member where the breaker allows no more and theirs comes free first.

        What was picked moves to the connection's own member. Whoever comes while a connection is dialled that may turn out to be
        shared waits for that one. Cancelled, it leaves no socket behind.

        Raises:
            DialError: refused, timed out, TLS failed, someone else is there, or too many wait already.
        """
        while True:
            breaker = self.cluster.breaker
            shares = self._may_share(member)
            if shares:
                lane = self._lane(self._shared.get(member, []))  # it came while this one began
                if lane is not None:
                    return lane
            if len(self._all) + self._dialling >= breaker.connections:
                others = (among for other, among in self._shared.items() if other.available)
                lane = next((lane for among in others if (lane := self._lane(among)) is not None), None)
                if lane is not None:
                    return self._moved(member, lane)
                self._make_room()
            if self.pending >= breaker.pending:
                raise DialError(Fault.CIRCUIT_OPEN, f"{self.cluster.name}: {self.pending} requests wait for a connection already")
            handed: Upstream | None
            opening = self._openings.get(member) if shares else None
            if opening is not None and len(opening.waiters) < LANES - 1:
                handed = await self._join(opening, owner)
                if handed is None:
                    continue
            elif opening is None and len(self._all) + self._dialling < breaker.connections:
                self._dialling += 1
                return await self._connect(member, shares)
            else:
                handed = await self._wait(owner)
                if handed is None:
                    return await self._connect(member, shares)
            if not handed.lost and handed.codec.reusable:
                return self._moved(member, handed)
            handed.close()  # it was hung up before it came into use; there is room for another one then

    @property
    def _shares(self) -> bool:
        """Connections may turn out to speak HTTP/2."""
        spoken = self.cluster.protocol
        return spoken is Protocol.HTTP2 or (spoken is Protocol.AUTO and self.cluster.identity is not None)

    def _may_share(self, member: Member) -> bool:
        """A connection to `member` may turn out to speak HTTP/2."""
        return self._shares and member not in self._alone

    def _make_room(self) -> None:
        """One that idles makes room: nobody waits beside what nobody uses."""
        single = min((idle[0] for idle in self._idle.values() if idle), key=lambda idler: idler.idle_since, default=None)
        if single is not None:
            single.close()
            return
        unused = [shared for among in self._shared.values() for shared in among if not shared.busy]
        if unused:
            min(unused, key=lambda shared: shared.idle_since).close()

    def _moved(self, member: Member, handed: Upstream) -> Upstream:
        """What was picked moves to the member whose connection it got."""
        member.active -= 1
        handed.member.active += 1
        return handed

    async def _wait(self, owner: Owner) -> Upstream | None:
        """Somebody else's connection; None: room for one more, which is counted as being dialled already."""
        waiter: asyncio.Future[Upstream | None] = asyncio.get_running_loop().create_future()
        self._waiters[owner] = waiter
        try:
            return await waiter
        except asyncio.CancelledError:
            if self._waiters.pop(owner, None) is None and waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._decline(waiter.result())
            raise

    async def _join(self, opening: Opening, owner: Owner) -> Lane | None:
        """A lane on the connection that somebody dials; None: it has none left, or is of the other kind.

        Raises:
            DialError: it could not be connected to.
        """
        waiter: asyncio.Future[Lane | None] = asyncio.get_running_loop().create_future()
        self._joiners[owner] = opening
        opening.waiters[owner] = waiter
        try:
            return await waiter
        except asyncio.CancelledError:
            if self._joiners.pop(owner, None) is not None:
                del opening.waiters[owner]
            elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                lane = waiter.result()
                if lane is not None:
                    self._decline(lane)
            raise

    async def _connect(self, member: Member, shares: bool) -> Upstream:
        """Dials. It counts as being dialled already."""
        cluster = self.cluster
        opening: Opening | None = None
        if shares:
            opening = self._openings[member] = Opening()
        try:
            connection = await connect(self, member, cluster, self._credentials, self._limits, self._timeouts.connect_s)
        except BaseException as error:
            failure = error if isinstance(error, DialError) else None
            self._dialled("failed" if failure is None else failure.fault.value)
            self._opened(member, opening, None, failure)
            self._wake()
            raise
        self._all.add(connection)
        self._dialled("connected")
        upstream = self._admit(connection)
        self._opened(member, opening, connection, None)
        self._wake()
        return upstream

    def _dialled(self, outcome: str) -> None:
        self._dialling -= 1
        self._meters.count(UPSTREAM_CONNECTS, self.cluster.name, outcome)

    def _admit(self, connection: Connection) -> Upstream:
        """A new connection is there: what the one who dialled gets of it."""
        member = connection.member
        if isinstance(connection, Single):
            if self.cluster.protocol is Protocol.AUTO and self.cluster.identity is not None:
                self._alone.add(member)
            return connection
        self._alone.discard(member)
        lane = connection.lane()
        self._full.discard(member)
        if member in self._current:
            self._shared.setdefault(member, []).append(connection)
        else:
            connection.drain()
        return lane

    def _opened(self, member: Member, opening: Opening | None, connection: Connection | None, failure: DialError | None) -> None:
        """Those who have waited for a connection that is there now, or failed, have their lanes or go on by themselves."""
        if opening is None:
            return
        if self._openings.get(member) is opening:
            del self._openings[member]
        for owner, waiter in opening.waiters.items():
            del self._joiners[owner]
            if waiter.done():
                continue
            if failure is not None:
                waiter.set_exception(DialError(failure.fault, str(failure)))
            elif isinstance(connection, Shared) and connection.has_room:
                waiter.set_result(connection.lane())
            else:
                waiter.set_result(None)
        opening.waiters.clear()
        if isinstance(connection, Shared):
            self._offer(connection)

    # Chores.

    def tick(self, now: float) -> None:
        """Judges the members; called more often than anything is judged."""
        if now - self._judged_at >= self.fitness.interval_s:
            self._judged_at = now
            for connection in self._all:
                connection.unanswered(now)
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
        for among in self._shared.values():
            for shared in [s for s in among if not s.busy and now - s.idle_since > idle_s]:
                shared.drain()

    def retrust(self, unix_now: float) -> int:
        """Closes connections whose peer is not trusted any more (bundle changed, certificate expired); says how many."""
        if self._credentials is None:
            return 0
        void = [c for c in self._all if c.peer is not None and still_trusted(c.peer, self._credentials, unix_now) is not None]
        for connection in void:
            connection.close()
        return len(void)

    def renew(self, unix_now: float) -> None:
        """Has shared connections whose certificates are about to lapse take no new exchange, so that others are dialled in time."""
        for among in self._shared.values():
            for shared in [s for s in among if s.leaves_at <= unix_now]:
                shared.drain()
                among.remove(shared)

    def lapsed(self, unix_now: float) -> bool:
        """Whether the certificate of some connection's peer has expired."""
        return any(c.peer is not None and c.peer.principal.expires_at <= unix_now for c in self._all)

    def idle_count(self) -> int:
        """Idle connections: those on which no exchange is under way."""
        return sum(map(len, self._idle.values())) + sum(not shared.busy for among in self._shared.values() for shared in among)

    def open_count(self) -> int:
        """All connections."""
        return len(self._all)

    def buffered_octets(self) -> int:
        """Octets that wait to be sent to endpoints."""
        return sum(connection.transport.get_write_buffer_size() for connection in self._all if not connection.lost)

    def close(self) -> None:
        """Closes every connection."""
        for connection in list(self._all):
            connection.close()

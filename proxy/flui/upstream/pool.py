"""Connections to the endpoints of each cluster: picked, reused, dialled.

`ready` is the data path: pick a member, pop an idle connection. Only when there is none does `dial` wait for a new one.
An idle connection waits with its codec between exchanges; it leaves the pool the moment the endpoint closes it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random

from flui.identity.svid import SvidError
from flui.model.config import Limits, Timeouts
from flui.model.fault import Fault
from flui.model.topology import Cluster, Endpoint, Policy
from flui.routing.pick import Member, Picker, picker
from flui.telemetry.families import UPSTREAM_CONNECTS
from flui.telemetry.meters import Meters
from flui.transport.credentials import Credentials
from flui.transport.secure import Secure
from flui.transport.tls import Context, agreed, expect, peer, still_trusted
from flui.upstream.connection import Upstream


class DialError(Exception):
    """No connection: why, in our words. Nothing of the request was sent."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class ClusterPool:
    """The members of one cluster and the idle connections to them."""

    __slots__ = (
        "_all",
        "_credentials",
        "_current",
        "_idle",
        "_limits",
        "_meters",
        "_picker",
        "_random",
        "_timeouts",
        "cluster",
        "keyed",
        "members",
    )

    def __init__(
        self, cluster: Cluster, credentials: Credentials | None, limits: Limits, timeouts: Timeouts, meters: Meters, random: Random
    ) -> None:
        self._credentials = credentials
        self._limits = limits
        self._timeouts = timeouts
        self._meters = meters
        self._random = random
        self._idle: dict[Member, list[Upstream]] = {}
        self._all: set[Upstream] = set()
        self.members: dict[Endpoint, Member] = {}
        self._current: set[Member]
        self.cluster: Cluster
        self.keyed: bool
        """Picks depend on the request's key."""
        self._picker: Picker
        self.update(cluster)

    def update(self, cluster: Cluster) -> None:
        """Takes up a new set of endpoints; members that stay keep their connections and their load."""
        self.cluster = cluster
        old = self.members
        self.members = {endpoint: old.get(endpoint) or Member(endpoint) for endpoint in cluster.endpoints}
        self._picker = picker(cluster, list(self.members.values()), self._random)
        kept = self._current = set(self.members.values())
        self.keyed = cluster.balance.policy is Policy.RING
        for member in list(self._idle):
            if member not in kept:
                for connection in self._idle.pop(member):
                    connection.close()

    def pick(self, key: bytes, tried: Sequence[Member]) -> Member | None:
        """The member that takes a request; it counts as loaded until `release` or `leave`."""
        member = self._picker.pick(key, tried)
        if member is not None:
            member.active += 1
        return member

    def ready(self, member: Member) -> Upstream | None:
        """An idle connection to `member`, the one used last first; None: dial."""
        idle = self._idle.get(member)
        return idle.pop() if idle else None

    def leave(self, member: Member) -> None:
        """`member` was picked and not used after all."""
        member.active -= 1

    def release(self, connection: Upstream, now: float) -> None:
        """The exchange on `connection` is over: back to the idle ones if it is in step, else closed."""
        connection.owner = None
        connection.idle_since = now
        member = connection.member
        member.active -= 1
        if connection.codec.reusable and not connection.lost and member in self._current:
            if not connection.is_reading:
                connection.flush()  # or it would not see its endpoint hang up
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

    async def dial(self, member: Member) -> Upstream:
        """Opens a connection to `member` and proves who is there before anything is sent.

        Cancelled, it leaves no socket behind.

        Raises:
            DialError: refused, timed out, TLS failed, or someone else is there.
        """
        cluster = self.cluster
        outcome = "failed"
        try:
            connection = await self._connect(member, cluster)
            if connection.lost or not connection.codec.reusable:
                # It hung up, or spoke, before it was asked: nothing was sent, so the next endpoint may have the request.
                connection.close()
                raise DialError(Fault.UPSTREAM_REFUSED, f"{member.endpoint.address}: closed as soon as it was open")
            outcome = "connected"
        except DialError as error:
            outcome = error.fault.value
            raise
        finally:
            self._meters.count(UPSTREAM_CONNECTS, cluster.name, outcome)
        self._all.add(connection)
        return connection

    async def _connect(self, member: Member, cluster: Cluster) -> Upstream:
        loop = asyncio.get_running_loop()
        address = member.endpoint.address
        context: Context | None = None
        if cluster.identity is not None:
            if self._credentials is None:
                raise DialError(Fault.UPSTREAM_IDENTITY, "no credentials to speak TLS with")
            context = self._credentials.client_context()
        connection = Upstream(self, member, self._limits)
        connect_s = self._timeouts.connect_s
        secure: Secure | None = None
        try:
            async with asyncio.timeout(connect_s):
                if context is None:
                    await loop.create_connection(lambda: connection, address.host, address.port)
                else:
                    wire = Secure(connection, context, loop, connect_s, server=False)
                    await loop.create_connection(lambda: wire, address.host, address.port)
                    secure = wire
                    await wire.established()
        except TimeoutError:
            if secure is not None:
                secure.abort()
            raise DialError(Fault.CONNECT_TIMEOUT, f"{address}: no connection within {self._timeouts.connect_s:g} s") from None
        except asyncio.CancelledError:
            if secure is not None:
                secure.abort()
            raise
        except (ssl.SSLError, ConnectionResetError) as error:
            raise DialError(Fault.UPSTREAM_REFUSED, f"{address}: {error}") from error
        except OSError as error:
            fault = Fault.APP_UNAVAILABLE if cluster.local else Fault.UPSTREAM_REFUSED
            raise DialError(fault, f"{address}: {error.strerror or error}") from error
        if cluster.identity is not None:
            assert self._credentials is not None
            try:
                ssl_object = connection.transport.get_extra_info("ssl_object")
                agreed(ssl_object, self._credentials.alpn)
                connection.peer = peer(ssl_object, self._credentials)
                expect(connection.peer.principal, cluster.identity)
            except SvidError as error:
                connection.transport.abort()
                raise DialError(Fault.UPSTREAM_IDENTITY, f"{address}: {error}") from error
        return connection

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


class Pools:
    """The pool of every cluster; outlives snapshots, so that a reload keeps connections."""

    __slots__ = ("_make", "_retired", "by_name")

    def __init__(self, make: Callable[[Cluster], ClusterPool]) -> None:
        self._make = make
        self._retired: list[ClusterPool] = []
        self.by_name: dict[str, ClusterPool] = {}

    def update(self, clusters: Iterable[Cluster], limits: Limits, timeouts: Timeouts) -> None:
        """Makes the pools those of `clusters`. One whose identity or kind changed starts anew; exchanges under way end as they began."""
        wanted = {cluster.name: cluster for cluster in clusters}
        for name in list(self.by_name):
            if name not in wanted:
                self._retire(self.by_name.pop(name))
        for name, cluster in wanted.items():
            pool = self.by_name.get(name)
            if pool is None or pool.cluster.identity != cluster.identity or pool.cluster.local != cluster.local:
                if pool is not None:
                    self._retire(pool)
                self.by_name[name] = self._make(cluster)
            else:
                pool.tune(limits, timeouts)
                if pool.cluster != cluster:
                    pool.update(cluster)

    def _retire(self, pool: ClusterPool) -> None:
        pool.retire()
        self._retired = [retired for retired in (*self._retired, pool) if retired.open_count()]

    def _every(self) -> tuple[ClusterPool, ...]:
        return (*self.by_name.values(), *self._retired)

    def close(self) -> None:
        """Closes every connection of every cluster."""
        for pool in self._every():
            pool.close()

    def sweep(self, now: float, idle_s: float) -> None:
        """See `ClusterPool.sweep`."""
        for pool in self._every():
            pool.sweep(now, idle_s)

    def lapsed(self, unix_now: float) -> bool:
        """See `ClusterPool.lapsed`."""
        return any(pool.lapsed(unix_now) for pool in self._every())

    def retrust(self) -> int:
        """See `ClusterPool.retrust`."""
        unix_now = time.time()  # noqa: TID251 - the edge: certificates are dated in wall-clock time
        return sum(pool.retrust(unix_now) for pool in self._every())

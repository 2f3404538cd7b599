"""Asks every endpoint of a cluster whether it is well, on a connection of its own each time, whoever else calls it."""

from __future__ import annotations

import asyncio
import os
import time
from random import Random

from flui.model.config import Limits
from flui.model.events import Credit, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fields import field
from flui.model.resilience import HealthCheck
from flui.resilience.health import Check, means_well
from flui.routing.pick import Member
from flui.telemetry.families import HEALTH_CHECKS
from flui.telemetry.meters import Meters
from flui.transport.credentials import Credentials
from flui.transport.tasks import TaskSet
from flui.upstream.connection import Upstream
from flui.upstream.dial import DialError, connect
from flui.upstream.pool import ClusterPool
from flui.upstream.pools import Pools

_LIMITS = Limits()
_LOOK_S = 0.5
"""How soon another membership is seen."""
_AGENT = field(b"user-agent", b"flui-health")


class Health:
    """The checks of every cluster that asks for them; they begin and end with its rules."""

    __slots__ = ("_credentials", "_meters", "_pools", "_random", "_running", "_tasks")

    def __init__(self, pools: Pools, tasks: TaskSet, credentials: Credentials | None, meters: Meters) -> None:
        self._pools = pools
        self._tasks = tasks
        self._credentials = credentials
        self._meters = meters
        self._random = Random(os.urandom(16))  # noqa: S311 - spreading checks over time
        self._running: dict[ClusterPool, HealthCheck] = {}

    def tick(self) -> None:
        """Begins what is asked for and does not run yet."""
        for pool in self._pools.by_name.values():
            rules = pool.cluster.health
            if rules is not None and self._running.get(pool) != rules:
                self._running[pool] = rules
                self._tasks.start(self._check(pool, rules))

    async def _check(self, pool: ClusterPool, rules: HealthCheck) -> None:
        try:
            await _Cluster(pool, rules, self._credentials, self._meters, self._random).run()
        finally:
            if self._running.get(pool) == rules:
                del self._running[pool]


class _Cluster:
    """The checks of one cluster under one rule."""

    __slots__ = ("_credentials", "_meters", "_pool", "_random", "_rules")

    def __init__(self, pool: ClusterPool, rules: HealthCheck, credentials: Credentials | None, meters: Meters, random: Random) -> None:
        self._pool = pool
        self._rules = rules
        self._credentials = credentials
        self._meters = meters
        self._random = random

    async def run(self) -> None:
        """Checks until the cluster has another rule or no endpoints any more, or until cancelled."""
        pool = self._pool
        tasks: dict[Member, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while pool.cluster.health == self._rules and pool.members:
                members = set(pool.members.values())
                for member in members - tasks.keys():
                    pool.fitness.well(member, healthy=False, now=time.monotonic())
                    tasks[member] = group.create_task(self._watch(member))
                for member in tasks.keys() - members:
                    tasks.pop(member).cancel()
                await asyncio.sleep(min(_LOOK_S, self._rules.interval_s))
            for member, task in tasks.items():
                task.cancel()
                pool.fitness.well(member, healthy=True, now=time.monotonic())

    async def _watch(self, member: Member) -> None:
        check = Check(self._rules)
        begun = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, check.next_at(begun, self._random) - time.monotonic()))
            begun = time.monotonic()
            well = await self._ask(member)
            self._meters.count(HEALTH_CHECKS, self._pool.cluster.name, member.endpoint.name, "well" if well else "ill")
            now = time.monotonic()
            changed = check.result(well, now)
            if changed is not None:
                self._pool.fitness.well(member, changed, now)

    async def _ask(self, member: Member) -> bool:
        """One check: whether an answer that means well came in time."""
        rules = self._rules
        try:
            async with asyncio.timeout(rules.timeout_s):
                connection = await connect(_Nobody(), member, self._pool.cluster, self._credentials, _LIMITS, connect_s=rules.timeout_s)
                question = _Question(connection)
                try:
                    return means_well(await question.ask(rules.path, self._pool.cluster.name), rules)
                finally:
                    connection.close()
        except (DialError, TimeoutError):
            return False


class _Nobody:
    """Keeps no connection."""

    def forget(self, connection: Upstream) -> None:
        """See `Keeper`."""


class _Question:
    """One request on a connection of its own, and the status of its answer."""

    __slots__ = ("_answered", "_connection", "_status", "_stream")

    def __init__(self, connection: Upstream) -> None:
        self._connection = connection
        self._answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._stream = 0

    async def ask(self, path: bytes, host: str) -> int:
        """Status of the answer; 0 when the connection broke before its end."""
        codec = self._connection.codec
        self._connection.owner = self
        self._stream = codec.open()
        codec.send(RequestHead(self._stream, b"GET", b"http", host.encode(), path, b"", [_AGENT], 0))
        codec.send(End(self._stream))
        self._connection.flush()
        return await self._answered

    @property
    def waits_since(self) -> float:
        """See `Owner`. The check has its own patience."""
        return float("inf")

    def upstream_spoke(self) -> None:
        """See `Owner`."""
        codec = self._connection.codec
        for event in codec.events():
            if isinstance(event, ResponseHead) and event.status >= 200:
                self._status = event.status
            elif isinstance(event, Data):
                codec.send(Credit(self._stream, len(event.chunk)))
            elif isinstance(event, End | Reset) and not self._answered.done():
                self._answered.set_result(self._status if isinstance(event, End) else 0)
        self._connection.flush()

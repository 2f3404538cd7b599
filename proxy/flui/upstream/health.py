"""Asks every endpoint of a cluster whether it is well, on a connection of its own each time, whoever else calls it."""

from __future__ import annotations

import asyncio
import os
import time
from random import Random

from flui.codecs import grpc_health
from flui.codecs.grpc import CONTENT_TYPE_GRPC
from flui.framing.base import MessageLimits
from flui.framing.grpc import GrpcReader
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import field
from flui.model.resilience import HealthCheck
from flui.resilience.health import Check, means_well
from flui.routing.pick import Member
from flui.telemetry.families import HEALTH_CHECKS
from flui.telemetry.meters import Meters
from flui.transport.credentials import Credentials
from flui.transport.tasks import TaskSet
from flui.upstream.connection import Connection, Upstream
from flui.upstream.dial import DialError, connect
from flui.upstream.pool import ClusterPool
from flui.upstream.pools import Pools

_LIMITS = Limits()
_MESSAGE = MessageLimits(message_octets=1024, messages=1)
_AGENT = field(b"user-agent", b"flui-health")


class Health:
    """The checks of every cluster that asks for them; they begin and end with its rules and its members."""

    __slots__ = ("_credentials", "_meters", "_pools", "_random", "_running", "_tasks")

    def __init__(self, pools: Pools, tasks: TaskSet, credentials: Credentials | None, meters: Meters) -> None:
        self._pools = pools
        self._tasks = tasks
        self._credentials = credentials
        self._meters = meters
        self._random = Random(os.urandom(16))  # noqa: S311 - spreading checks over time
        self._running: dict[tuple[ClusterPool, Member], _Watch] = {}

    def __len__(self) -> int:
        """Endpoints that are being asked."""
        return len(self._running)

    def tick(self) -> None:
        """Begins what is asked for and does not run yet, and ends what is asked for no longer.

        An endpoint whose rules change is asked under the new ones, and what was known of it stays known meanwhile.
        """
        wanted: dict[tuple[ClusterPool, Member], HealthCheck] = {}
        for pool in self._pools.by_name.values():
            rules = pool.cluster.health
            if rules is not None:
                for member in pool.members.values():
                    wanted[pool, member] = rules
        known: dict[tuple[ClusterPool, Member], bool | None] = {}
        for key, watch in list(self._running.items()):
            if wanted.get(key) != watch.rules or watch.task is None or watch.task.done():
                known[key] = watch.check.well
                del self._running[key]
                if watch.task is not None:
                    watch.task.cancel()
        for key, rules in wanted.items():
            if key not in self._running:
                pool, member = key
                watch = _Watch(pool, member, rules, known.get(key), self._credentials, self._meters, self._random)
                self._running[key] = watch
                watch.task = self._tasks.start(watch.run())


class _Watch:
    """The checks of one endpoint under one rule."""

    __slots__ = ("_credentials", "_member", "_meters", "_pool", "_random", "check", "rules", "task")

    def __init__(
        self,
        pool: ClusterPool,
        member: Member,
        rules: HealthCheck,
        known: bool | None,
        credentials: Credentials | None,
        meters: Meters,
        random: Random,
    ) -> None:
        self.rules = rules
        self.check = Check(rules, known)
        self.task: asyncio.Task[None] | None = None
        self._credentials = credentials
        self._member = member
        self._meters = meters
        self._pool = pool
        self._random = random

    async def run(self) -> None:
        """Checks until cancelled."""
        begun = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, self.check.next_at(begun, self._random) - time.monotonic()))
            begun = time.monotonic()
            well = await self._ask()
            self._meters.count(HEALTH_CHECKS, self._pool.cluster.name, self._member.endpoint.name, "well" if well else "ill")
            now = time.monotonic()
            changed = self.check.result(well, now)
            if changed is not None:
                self._pool.fitness.well(self._member, changed, now)

    async def _ask(self) -> bool:
        """One check: whether an answer that means well came in time."""
        rules = self.rules
        try:
            async with asyncio.timeout(rules.timeout_s):
                connection = await connect(
                    _Nobody(), self._member, self._pool.cluster, self._credentials, _LIMITS, connect_s=rules.timeout_s
                )
                question = _Question(connection.lane())
                try:
                    if rules.grpc is not None:
                        return await question.ask_grpc(rules.grpc, self._pool.cluster.name)
                    return means_well(await question.ask(rules.path, self._pool.cluster.name), rules)
                finally:
                    connection.close()
        except (DialError, TimeoutError):
            return False


class _Nobody:
    """Keeps no connection."""

    def forget(self, connection: Connection) -> None:
        """See `Keeper`."""


class _Question:
    """One request on a connection of its own, and what of its answer tells how its endpoint is."""

    __slots__ = ("_answered", "_connection", "_reader", "_serves", "_status", "_stream")

    def __init__(self, connection: Upstream) -> None:
        self._connection = connection
        self._answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._stream = 0
        self._reader: GrpcReader | None = None
        """Of a question by gRPC."""
        self._serves = False

    async def ask_grpc(self, service: bytes, host: str) -> bool:
        """Whether a service says by gRPC's health protocol that it serves; any other answer, and none, means that it does not."""
        message = grpc_health.question(service)
        self._reader = GrpcReader(_MESSAGE, coded=False, malformed=Fault.UPSTREAM_MALFORMED)
        codec = self._connection.codec
        self._connection.owner = self
        self._stream = codec.open()
        head = RequestHead(self._stream, b"POST", b"http", host.encode(), grpc_health.CHECK, b"", [CONTENT_TYPE_GRPC, _AGENT], UNKNOWN)
        codec.send(head)
        codec.send(Data(self._stream, b"\0" + len(message).to_bytes(4, "big") + message))
        codec.send(End(self._stream))
        self._connection.flush()
        return await self._answered == 200 and self._serves

    def _hear(self, end: End) -> None:
        """What an answer by gRPC says, now that it is whole."""
        reader = self._reader
        if reader is None:
            return
        message = reader.take()
        ok = any(line.name == b"grpc-status" and line.value == b"0" for line in end.trailers or ())
        self._serves = ok and message is not None and grpc_health.said(message.payload) == grpc_health.SERVING

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

    def upstream_spoke(self, now: float) -> None:
        """See `Owner`."""
        del now
        codec = self._connection.codec
        for event in codec.events():
            if isinstance(event, ResponseHead) and event.status >= 200:
                self._status = event.status
            elif isinstance(event, Data):
                codec.send(Credit(self._stream, len(event.chunk)))
                if self._reader is not None:
                    self._reader.receive(event.chunk)
            elif isinstance(event, End | Reset) and not self._answered.done():
                if isinstance(event, End):
                    self._hear(event)
                self._answered.set_result(self._status if isinstance(event, End) else 0)
        self._connection.flush()

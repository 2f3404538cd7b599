"""Who asks on lanes, for the tests of connections that are shared."""

import asyncio
from random import Random

import uvloop

from flui.model.config import Limits, Timeouts
from flui.model.events import UNKNOWN, Credit, Data, End, Reset, ResponseHead
from flui.model.topology import Balance, Cluster, Endpoint, Policy, Protocol
from flui.telemetry.meters import Meters
from flui.upstream.pool import ClusterPool
from support.h2module import H2Module
from support.mesh import until
from support.rig import head


def cluster(*modules, **more):
    endpoints = tuple(Endpoint("abcd"[at], module.address) for at, module in enumerate(modules))
    return Cluster("stock", endpoints, Balance(Policy.ROUND_ROBIN), **{"protocol": Protocol.HTTP2, **more})


_pools = []


def pool_of(one, credentials=None, meters=None, limits=None):
    """A pool that ends with the story."""
    _pools.append(ClusterPool(one, credentials, limits or Limits(), Timeouts(), meters or Meters(), Random(1)))
    return _pools[-1]


class Down:
    """A caller's connection."""

    def __init__(self):
        self.pumped = 0

    def pump(self, now):
        self.pumped += 1


class Asker:
    """An exchange: one request, and what is said to it."""

    def __init__(self, pool, down=None, *, takes=True):
        self.pool = pool
        self.down = down or Down()
        self.up = None
        self.told = 0
        self.heard = []
        self.takes = takes
        self.waits_since = float("inf")

    def upstream_spoke(self, now):
        self.told += 1
        self.listen()
        return self.down

    def listen(self):
        for e in self.up.codec.events():
            self.heard.append(e)
            if isinstance(e, Data) and self.takes:
                self.up.codec.send(Credit(self.stream, len(e.chunk)))
        self.up.flush()

    async def connect(self):
        member = self.pool.pick(b"", ())
        assert member is not None
        self.up = self.pool.ready(member) or await self.pool.dial(member, self)
        self.up.owner = self
        return self

    async def ask(self, body=None, method=b"GET"):
        await self.connect()
        return self.say(body, method)

    def say(self, body=None, method=b"GET"):
        request = head(method, b"/items", UNKNOWN if body is not None else 0)
        self.stream = request.stream = self.up.codec.open()
        self.up.codec.send(request)
        if body:
            self.up.codec.send(Data(self.stream, body))
        if body is None:
            self.up.codec.send(End(self.stream))
        self.up.flush()
        return self

    def release(self, now=1.0):
        self.pool.release(self.up, now)

    @property
    def status(self):
        return next((e.status for e in self.heard if isinstance(e, ResponseHead)), 0)

    @property
    def body(self):
        return b"".join(e.chunk for e in self.heard if isinstance(e, Data))

    @property
    def credit(self):
        return sum(e.octets for e in self.heard if isinstance(e, Credit))

    @property
    def fault(self):
        return next((e.fault for e in self.heard if isinstance(e, Reset)), None)

    @property
    def over(self):
        return any(isinstance(e, End | Reset) for e in self.heard)

    async def answered(self):
        await until(lambda: self.over, "the exchange is over")
        return self


class Stage:
    """Modules that end with the story."""

    def __init__(self):
        self.modules = []

    async def module(self, leaf=None, ca=None, alpn=("h2",), **more):
        module = await H2Module(**more).listen(leaf, ca, alpn)
        self.modules.append(module)
        return module


def play(story):
    """Runs `story(stage)` on the loop that production uses."""

    async def whole():
        stage = Stage()
        try:
            async with asyncio.timeout(20):
                await story(stage)
        finally:
            for pool in _pools:
                pool.close()
            _pools.clear()
            for module in stage.modules:
                module.stop()
            for module in stage.modules:
                await until(lambda module=module: not module.open, "its connections are closed")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())

"""Active health checks against endpoints that answer, refuse, keep silent and lie; over plain TCP and over mTLS."""

import asyncio
import contextlib
import itertools
from dataclasses import replace
from random import Random

import pytest

from flui.model.config import Limits, Timeouts
from flui.model.resilience import HealthCheck
from flui.model.topology import Cluster, Endpoint, Protocol
from flui.telemetry.families import HEALTH_CHECKS
from flui.telemetry.meters import Meters
from flui.transport.credentials import Credentials
from flui.transport.tasks import TaskSet
from flui.upstream.health import Health
from flui.upstream.pool import ClusterPool
from flui.upstream.pools import Pools
from support.h2module import H2Module
from support.mesh import OK, Mesh, answers, until
from support.pki import write

FAST = HealthCheck(interval_s=0.02, timeout_s=0.05, unhealthy=3, healthy=2)


class Rig:
    """The pools of some clusters, their checks, and a tick that goes on."""

    def __init__(self, credentials=None):
        self.meters = Meters()
        self.errors = []
        self.tasks = TaskSet(self.errors.append)
        self.pools = Pools(lambda one: ClusterPool(one, credentials, Limits(), Timeouts(), self.meters, Random(1)))
        self.health = Health(self.pools, self.tasks, credentials, self.meters)

    def put(self, *clusters):
        self.pools.update(clusters, Limits(), Timeouts())
        self.health.tick()

    def member(self, at=0, cluster="stock"):
        return list(self.pools.by_name[cluster].members.values())[at]

    async def until(self, holds, what):
        def look():
            if holds():  # as the last check left it: the next tick may begin another one
                return True
            self.health.tick()
            return holds()

        return await until(look, what)

    def counts(self, endpoint="a"):
        return {o: int(n) for (_, name, o), n in self.meters.samples(HEALTH_CHECKS).items() if name == endpoint}

    async def close(self):
        await self.tasks.close()
        self.pools.close()
        assert not self.errors


def cluster(*backends, health=FAST, **more):
    return Cluster("stock", tuple(Endpoint(chr(97 + n), backend.address) for n, backend in enumerate(backends)), health=health, **more)


def told(mesh, does):
    """A backend that does what `does` says now."""

    async def behaviour(backend, request, reader, writer):
        if request is None:
            return True
        return await does["now"](backend, request, reader, writer)

    return mesh.backend(behaviour)


async def ill(backend, request, reader, writer):
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
    return True


async def silent(backend, request, reader, writer):
    await reader.read()
    return False


async def half(backend, request, reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\no")
    return False


async def nonsense(backend, request, reader, writer):
    writer.write(b"HELLO\r\n\r\n")
    return True


async def hangs_up(backend, request, reader, writer):
    writer.transport.abort()
    return False


async def long_chunks(backend, request, reader, writer):
    writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(20):
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    return True


def play(tmp_path, story):
    mesh = Mesh(tmp_path)
    rig = Rig()

    async def whole():
        try:
            await story(mesh, rig)
        finally:
            await rig.close()

    mesh.run(whole())


@pytest.mark.parametrize("bad", [ill, silent, half, nonsense, hangs_up])
def test_who_does_not_answer_well_is_out_after_as_many_checks_and_back_after_as_many(tmp_path, bad):
    does = {"now": answers}

    async def story(mesh, rig):
        rig.put(cluster(await told(mesh, does), await mesh.backend()))
        await rig.until(lambda: rig.counts().get("well", 0) >= 2, "it is well")
        await rig.until(lambda: not rig.pools.by_name["stock"].fitness.panics, "both are")
        assert rig.member().available
        does["now"] = bad
        before = rig.counts()
        await rig.until(lambda: not rig.member().available, "it is out")
        assert rig.counts()["ill"] == 3
        assert rig.counts()["well"] <= before["well"] + 1
        assert rig.member().vitals.why == "unhealthy"
        assert rig.member(1).available
        does["now"] = answers
        before = rig.counts()
        await rig.until(lambda: rig.member().available, "it is back")
        assert rig.counts()["well"] - before["well"] == 2

    play(tmp_path, story)


def test_nobody_there_is_as_bad_as_a_bad_answer(tmp_path):
    async def story(mesh, rig):
        gone = await mesh.backend()
        rig.put(cluster(gone, await mesh.backend(), await mesh.backend()))
        await rig.until(lambda: all(m.available and not m.out for m in rig.pools.by_name["stock"].members.values()), "all are well")
        await gone.stop()
        await rig.until(lambda: not rig.member().available, "it is out")
        assert rig.counts()["ill"] == 3

    play(tmp_path, story)


def test_a_check_is_a_request_of_its_own_on_a_connection_of_its_own(tmp_path):
    async def story(mesh, rig):
        backend = await mesh.backend()
        rig.put(cluster(backend, health=replace(FAST, path=b"/is/well")))
        await rig.until(lambda: len(backend.requests) >= 3, "it is asked")
        assert backend.connections >= len(backend.requests)
        request = backend.requests[0]
        assert (request.method, request.target) == (b"GET", b"/is/well")
        assert request.get(b"host") == b"stock"
        assert request.get(b"user-agent") == b"flui-health"
        assert rig.pools.by_name["stock"].open_count() == 0, "callers' connections are not touched"
        await until(lambda: len(backend.open) <= 1, "those of earlier checks are closed")

    play(tmp_path, story)


def test_an_answer_is_read_to_its_end_however_long(tmp_path):
    async def story(mesh, rig):
        async def does(backend, request, reader, writer):
            return True if request is None else await long_chunks(backend, request, reader, writer)

        rig.put(cluster(await mesh.backend(does), health=replace(FAST, timeout_s=5.0)))
        await rig.until(lambda: rig.counts().get("well"), "a megabyte is read")
        assert "ill" not in rig.counts()

    play(tmp_path, story)


def test_one_that_joins_gets_nothing_before_its_first_check(tmp_path):
    async def story(mesh, rig):
        old = [await mesh.backend() for _ in range(2)]
        rig.put(cluster(*old))
        await rig.until(lambda: not rig.member(0).out and not rig.member(1).out, "both are well")
        does = {"now": silent}
        rig.put(cluster(*old, await told(mesh, does)))
        pool = rig.pools.by_name["stock"]
        picked = {pool.pick(b"", ()).endpoint.name for _ in range(200)}
        assert picked == {"a", "b"}
        assert rig.member(2).vitals.why == "unchecked"
        await rig.until(lambda: rig.counts("c").get("ill"), "it has been asked once")
        assert not rig.member(2).available
        assert rig.member(2).vitals.why == "unhealthy"
        does["now"] = answers
        await rig.until(lambda: rig.member(2).available, "and comes when it is well")

    play(tmp_path, story)


def test_when_the_rules_go_the_checks_end_and_nobody_is_held_back(tmp_path):
    async def story(mesh, rig):
        backends = [await mesh.backend() for _ in range(2)]
        does = {"now": ill}
        backends.append(await told(mesh, does))
        rig.put(cluster(*backends))
        await rig.until(lambda: rig.member(2).vitals.why == "unhealthy" and not rig.member(1).out and not rig.member(0).out, "one is out")
        assert (len(rig.health), len(rig.tasks)) == (3, 3)
        rig.put(cluster(*backends, health=None))
        assert all(member.available for member in rig.pools.by_name["stock"].members.values())
        assert len(rig.health) == 0
        await until(lambda: len(rig.tasks) == 0, "no task is left")

    play(tmp_path, story)


def test_when_a_member_or_a_cluster_goes_its_checks_end(tmp_path):
    async def story(mesh, rig):
        backends = [await mesh.backend(), await mesh.backend()]
        rig.put(cluster(*backends))
        await until(lambda: len(backends[1].requests) > 0, "it is asked")
        rig.put(cluster(backends[0]))
        await until(lambda: len(rig.tasks) == 1, "one is asked")
        rig.put()
        await until(lambda: len(rig.tasks) == 0, "nobody is asked")
        assert len(rig.health) == 0

    play(tmp_path, story)


def test_other_rules_begin_with_what_is_known(tmp_path):
    async def story(mesh, rig):
        does = {"now": ill}
        backends = [await mesh.backend(), await mesh.backend(), await told(mesh, does)]
        rig.put(cluster(*backends))
        await rig.until(lambda: rig.member(2).vitals.why == "unhealthy" and not rig.member(0).out and not rig.member(1).out, "one is out")
        does["now"] = answers
        asked = len(backends[2].requests)
        rig.put(cluster(*backends, health=replace(FAST, healthy=4)))
        assert [member.available for member in rig.pools.by_name["stock"].members.values()] == [True, True, False]
        await rig.until(lambda: rig.member(2).available, "it is back")
        assert len(backends[2].requests) - asked >= 4
        await until(lambda: len(rig.tasks) == 3, "the old checks have ended")

    play(tmp_path, story)


def test_a_check_that_breaks_begins_anew(tmp_path):
    async def story(mesh, rig):
        backend = await mesh.backend()
        rig.put(cluster(backend, await mesh.backend()))
        await rig.until(lambda: rig.counts().get("well"), "it is well")
        (watch,) = [watch for (_, member), watch in rig.health._running.items() if member is rig.member()]
        watch.task.cancel()
        await asyncio.wait([watch.task])
        asked = len(backend.requests)
        await rig.until(lambda: len(backend.requests) > asked, "it is asked again")
        assert rig.member().available

    play(tmp_path, story)


@pytest.mark.slow
def test_over_mtls_a_check_proves_who_asks_and_expects_who_answers(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        write(tmp_path / "certs", "web", mesh.ca.leaf("spiffe://shop/web"), mesh.ca)
        credentials = Credentials(str(tmp_path / "certs"), "web")
        backend = await mesh.backend()
        allowed = await mesh.sidecar("orders", app=backend, rules="p, spiffe://shop/web, orders, GET, /healthz\n")
        rig = Rig(credentials)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(rig.close)
            here = Endpoint("a", allowed.inbound)
            rig.put(Cluster("orders", (here,), identity="spiffe://shop/orders", health=replace(FAST, timeout_s=2.0)))
            await rig.until(lambda: rig.counts().get("well"), "its policy lets us ask")
            assert not rig.member(cluster="orders").out
            assert backend.requests[0].get(b"flui-principal") == b"spiffe://shop/web"
            rig.put(Cluster("orders", (here,), identity="spiffe://shop/stock", health=replace(FAST, timeout_s=2.0)))
            await rig.until(lambda: rig.counts().get("ill"), "somebody else is not who we ask for")
            (allowed.folder / "policy" / "rules.csv").write_text("p, spiffe://shop/web, orders, GET, /items\n")
            rig.put(Cluster("orders", (here,), identity="spiffe://shop/orders", health=replace(FAST, timeout_s=2.0)))
            await allowed.running.reload()
            await rig.until(lambda: rig.member(cluster="orders").out, "403 means that we may not ask: it is ill")

    mesh.run(story())


def test_a_slow_answer_counts_as_none_and_does_not_stretch_the_interval(tmp_path):
    async def story(mesh, rig):
        asked = []

        async def late(backend, request, reader, writer):
            if request is not None:
                asked.append(asyncio.get_running_loop().time())
                await asyncio.sleep(0.3)
                writer.write(OK)
            return True

        rig.put(cluster(await mesh.backend(late), health=HealthCheck(interval_s=0.1, timeout_s=0.08)))
        await rig.until(lambda: len(asked) >= 8, "it is asked on")
        pauses = [after - before for before, after in itertools.pairwise(asked)]
        assert sorted(pauses)[len(pauses) // 2] < 0.15
        assert "well" not in rig.counts()

    play(tmp_path, story)


@pytest.mark.parametrize(("status", "outcome"), [(200, "well"), (503, "ill")])
def test_a_member_that_speaks_http2_is_asked_in_http2(tmp_path, status, outcome):
    async def story(mesh, rig):
        module = await H2Module(answers=False).listen()
        try:
            rig.put(Cluster("stock", (Endpoint("a", module.address),), health=replace(FAST, timeout_s=2.0), protocol=Protocol.HTTP2))
            answered = 0
            while answered < 3:
                await until(lambda: any(c.ended for c in module.connections), "it is asked")
                for there in module.connections:
                    while there.ended:
                        there.respond(there.ended.pop(), b"x" * 1_000, status)
                        answered += 1
            await rig.until(lambda: rig.counts().get(outcome), outcome)
            assert module.connections[0].heads[1][b":path"] == FAST.path
            assert module.connections[0].heads[1][b":scheme"] == b"http"
            assert len(rig.counts()) == 1
        finally:
            module.stop()

    play(tmp_path, story)

"""Every limit at its exact number, through real sidecars: who is past it is told at once and costs nothing, who leaves frees a place,
and when all is over nothing is left of it. What is shed first, and what becomes of it, is in `test_shedding.py`."""

import asyncio
import time
from random import Random

import pytest

from flui.model.config import Limits, Timeouts
from flui.model.fault import Fault
from flui.model.resilience import Breaker
from flui.model.topology import Cluster, Endpoint
from flui.telemetry.families import BREAKER_REFUSED, RATE_LIMITED, UPSTREAM_CONNECTS
from flui.telemetry.meters import Meters
from flui.upstream import pool as pool_file
from flui.upstream.dial import DialError
from flui.upstream.pool import ClusterPool
from support.limits import ONE, Crowd, check_refusal, gated, get, is_clean, metrics, pool_of, release, reload, shown, sidecar, spend
from support.mesh import OK, Mesh, answers, until
from support.pki import replace

# --- the breaker ------------------------------------------------------------------------------------------------------------


def test_requests_in_flight_are_refused_past_their_number(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gated)
        orders = await sidecar(mesh, backend, "breaker: {requests: 3}")
        crowd = Crowd(mesh, orders)
        await crowd.ask(*[get()] * 3)
        await until(lambda: len(backend.requests) == 3, "three are with the module")
        for _ in range(5):
            check_refusal(await crowd.refused(), "circuit_open")
        assert shown(orders, "requests") == shown(orders, "requests", "limit") == 3
        release(backend)
        await until(lambda: pool_of(orders).active == 2, "one has its answer")
        await crowd.ask(get())
        await until(lambda: len(backend.requests) == 4, "there is room for one more")
        check_refusal(await crowd.refused(), "circuit_open")
        release(backend, 3)
        assert await crowd.answered() == [200] * 4
        await until(lambda: is_clean(orders), "nothing is left")
        assert orders.running.meters.samples(BREAKER_REFUSED)["@app", "requests"] == 6
        assert orders.faults() == {"circuit_open": 6}
        assert shown(orders, "requests") == 0

    mesh.run(story())


def test_connections_are_never_more_and_who_waits_past_the_number_is_refused(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gated)
        orders = await sidecar(mesh, backend, "breaker: {connections: 2, pending: 3}")
        crowd = Crowd(mesh, orders)
        for number in range(2):
            await crowd.ask(get(f"/{number}"))
            await until(lambda number=number: len(backend.requests) == number + 1, "it is with the module")
        for number in range(2, 5):
            await crowd.ask(get(f"/{number}"))
            await until(lambda number=number: pool_of(orders).pending == number - 1, "it waits")
        for _ in range(3):
            check_refusal(await crowd.refused(), "circuit_open")
        assert [shown(orders, what) for what in ("connections", "pending", "requests")] == [2, 3, 5]
        assert [shown(orders, what, "limit") for what in ("connections", "pending")] == [2, 3]
        for served in range(5):
            release(backend)
            await until(lambda served=served: pool_of(orders).active == 4 - served, "one more has its answer")
        assert await crowd.answered() == [200] * 5
        assert [request.target for request in backend.requests] == [b"/%d" % number for number in range(5)], "first come, first served"
        assert backend.connections == 2
        await until(lambda: is_clean(orders), "nothing is left")
        assert orders.running.meters.samples(BREAKER_REFUSED)["@app", "pending"] == 3
        assert [shown(orders, what) for what in ("connections", "pending", "requests")] == [2, 0, 0]

    mesh.run(story())


def test_requests_whose_connection_is_being_made_are_pending_too(tmp_path, monkeypatch):
    mesh = Mesh(tmp_path)
    connect = pool_file.connect
    go = asyncio.Event()

    async def slow(*arguments):
        await go.wait()
        return await connect(*arguments)

    monkeypatch.setattr(pool_file, "connect", slow)

    async def story():
        orders = await sidecar(mesh, await mesh.backend(), "breaker: {pending: 2}")
        crowd = Crowd(mesh, orders)
        await crowd.ask(get(), get())
        await until(lambda: pool_of(orders).pending == 2, "two dial")
        check_refusal(await crowd.refused(), "circuit_open")
        assert shown(orders, "pending") == shown(orders, "pending", "limit") == 2
        go.set()
        assert await crowd.answered() == [200, 200]
        await until(lambda: is_clean(orders), "nothing is left")

    mesh.run(story())


def test_a_caller_that_leaves_frees_its_place(tmp_path):
    """In the line, and with the module."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gated)
        orders = await sidecar(mesh, backend, "breaker: {connections: 1, pending: 2}")
        crowd = Crowd(mesh, orders)
        await crowd.ask(get("/0"))
        await until(lambda: backend.requests, "it is with the module")
        await crowd.ask(get("/1"), get("/2"))
        await until(lambda: pool_of(orders).pending == 2, "two wait")
        check_refusal(await crowd.refused(), "circuit_open")
        crowd.leave(1)
        await until(lambda: pool_of(orders).pending == 1, "one has gone")
        await until(lambda: pool_of(orders).active == 2, "and is counted no more")
        await crowd.ask(get("/3"))
        await until(lambda: pool_of(orders).pending == 2, "another one waits in its place")
        crowd.leave(0)
        await until(lambda: len(backend.requests) == 2, "the one that left the module has made room for who waited longest")
        release(backend, 3)
        assert await crowd.answered() == [200, 200]
        assert b"/1" not in {request.target for request in backend.requests}
        await until(lambda: is_clean(orders), "nothing is left")

    mesh.run(story())


def test_a_dial_that_fails_wakes_who_waits(tmp_path, monkeypatch):
    mesh = Mesh(tmp_path)
    connect = pool_file.connect
    fails = asyncio.Event()
    dials = 0

    async def moody(*arguments):
        nonlocal dials
        dials += 1
        if dials == 1:
            await fails.wait()
            raise DialError(Fault.APP_UNAVAILABLE, "nobody is there")
        return await connect(*arguments)

    monkeypatch.setattr(pool_file, "connect", moody)

    async def story():
        orders = await sidecar(mesh, await mesh.backend(), "breaker: {connections: 1}")
        crowd = Crowd(mesh, orders)
        for number in range(4):
            await crowd.ask(get())
            await until(lambda number=number: pool_of(orders).pending == number + 1, "it waits")
        fails.set()
        assert await crowd.answered() == [503, 200, 200, 200]
        assert orders.faults() == {"app_unavailable": 1}
        await until(lambda: is_clean(orders), "nothing is left")

    mesh.run(story())


def test_a_connection_that_idles_makes_room_for_another_member(tmp_path):
    """Else a request would wait for as long as nobody asks the member that the connection leads to."""
    mesh = Mesh(tmp_path)

    async def story():
        backends = [await mesh.backend() for _ in range(3)]
        endpoints = [str(backend.address) for backend in backends]
        more = "balance: round_robin, breaker: {connections: 1}"
        web = await mesh.sidecar("web", services=f"  orders: {{endpoints: {endpoints}, plaintext: true, {more}}}")
        caller = await mesh.caller(web, None)
        for _ in range(6):
            async with asyncio.timeout(2.0):
                assert (await caller.ask(get())).status == 200
        assert [len(backend.requests) for backend in backends] == [2, 2, 2]
        assert pool_of(web, "orders").open_count() == 1
        caller.close()
        await until(lambda: is_clean(web), "nothing is left")

    mesh.run(story())


def test_a_connection_that_ends_as_it_is_handed_on_is_not_used(tmp_path):
    """The endpoint answers and hangs up in one breath: who waited is served on another connection, and nothing is lost with it."""
    mesh = Mesh(tmp_path)

    async def once(backend, request, reader, writer):
        if request is not None:
            await backend.go.wait()
            writer.write(OK)
            writer.close()
        return request is None

    async def story():
        backend = await mesh.backend(once)
        orders = await sidecar(mesh, backend, "retry: off, breaker: {connections: 1}")
        crowd = Crowd(mesh, orders)
        posts = [b"POST /%d HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n" % number for number in range(8)]
        await crowd.ask(*posts)
        await until(lambda: pool_of(orders).pending == 7 and backend.requests, "seven wait")
        backend.go.set()
        async with asyncio.timeout(5.0):
            statuses = await crowd.answered()
        assert set(statuses) <= {200, 502}
        assert statuses[0] == 200
        await until(lambda: is_clean(orders), "nothing is left")

    mesh.run(story())


class Waits:
    """Who dials without an exchange."""

    waits_since = float("inf")

    def upstream_spoke(self, now):
        raise AssertionError


async def line(mesh, count):
    """A pool with one connection, in use, and so many who wait for it."""
    backend = await mesh.backend()
    one = Cluster("stock", (Endpoint("a", backend.address),), breaker=Breaker(connections=1))
    pool = ClusterPool(one, None, Limits(), Timeouts(), Meters(), Random(1))
    held = await pool.dial(pool.pick(b"", ()), Waits())
    waiting = [asyncio.ensure_future(pool.dial(pool.pick(b"", ()), Waits())) for _ in range(count)]
    await until(lambda: pool.pending == count, "they wait")
    return pool, held, waiting


def test_a_connection_that_was_hung_up_before_it_came_into_use_is_not_used(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        pool, held, (first, second) = await line(mesh, 2)
        pool.release(held, 1.0)
        held.eof_received()  # what the loop may well deliver before who waited runs
        got = await second  # whom the room was given that it left
        pool.release(got, 2.0)
        assert await first is got
        assert got is not held
        pool.release(got, 3.0)
        assert (pool.active, pool.pending, pool.open_count(), pool.idle_count()) == (0, 0, 1, 1)
        pool.close()

    mesh.run(story())


def test_who_is_cancelled_while_he_waits_gets_nothing(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        pool, held, (first, second) = await line(mesh, 2)
        (member,) = pool.members.values()
        first.cancel()
        pool.release(held, 1.0)  # before the cancelled one has run
        assert await second is held
        with pytest.raises(asyncio.CancelledError):
            await first
        pool.leave(member)
        pool.release(held, 2.0)
        assert (pool.active, pool.pending, pool.idle_count()) == (0, 0, 1)
        pool.close()

    mesh.run(story())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_nothing_leaks(tmp_path, seed):
    """Callers come, wait, leave and break off; endpoints answer, hang up, reset and refuse; limits change meanwhile."""
    mesh = Mesh(tmp_path)
    random = Random(seed)

    async def moody(backend, request, reader, writer):
        if request is None:
            return random.random() < 0.8
        chance = random.random()
        if chance < 0.3:
            await asyncio.sleep(random.random() * 0.03)
        elif chance < 0.4:
            writer.transport.abort()
            return False
        elif chance < 0.5:
            writer.write(b"HTTP/1.1 503 Failed\r\ncontent-length: 0\r\n\r\n")
            return True
        await answers(backend, request, reader, writer)
        if chance > 0.9:
            writer.close()
        return chance <= 0.9

    async def story():
        backends = [await mesh.backend(moody) for _ in range(3)]
        gone = await mesh.backend()
        await gone.stop()
        endpoints = [str(backend.address) for backend in (*backends, gone)]
        limits = (
            "breaker: {connections: 3, pending: 6, requests: 9}, concurrency: {least: 4, most: 12, start: 8}, retry_budget: {share: 50%}"
        )
        services = f"  orders: {{endpoints: {endpoints}, plaintext: true, {limits}}}"
        routes = "routes: [{name: all, match: {path: /*}, to: orders, timeout: 20s, retry: {attempts: 3, hedge_after: 10ms, backoff: 1ms}}]"
        web = await mesh.sidecar("web", services=services, more=routes)
        pool = pool_of(web, "orders")
        seen = {}
        most = [0, 0]

        async def one(wait_s=1.5):
            await asyncio.sleep(random.random() * wait_s)
            caller = await mesh.caller(web, None)
            await caller.send(get())
            most[:] = max(most[0], pool.open_count()), max(most[1], pool.pending)
            if random.random() < 0.3:
                await asyncio.sleep(random.random() * 0.02)
                caller.abort()
                return
            answer = await caller.answer()
            seen[answer.status] = seen.get(answer.status, 0) + 1
            caller.close()

        async def change():
            for requests in (5, 9, 20):
                await asyncio.sleep(0.4)
                text = web.file.read_text()
                replace(web.file, text.replace(text[text.index("requests: ") :].split("}")[0], f"requests: {requests}").encode())
                await web.running.reload()

        await asyncio.gather(*(one() for _ in range(400)), change())
        while seen.get(200, 0) <= 50:  # a machine with other things to do lets all of them come at once, and most are refused
            await asyncio.gather(*(one(0.05) for _ in range(20)))
        await until(lambda: is_clean(web), "nothing is left")
        assert most[0] <= 3
        assert most[1] <= 6
        assert seen.keys() <= {200, 502, 503}
        assert not web.said("task failed") + web.said("unexpected error")

    mesh.run(story())


# --- rates ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["module", "route"])
@pytest.mark.parametrize(("per", "others"), [("principal", 4), ("all", 0)])
def test_a_rate_is_exact_and_told(tmp_path, where, per, others):
    """Of the module or of a route, of all or of each principal, whom then nobody disturbs."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        rate = f"rate: {ONE % (4, per)}"
        route = f"routes: [{{name: items, match: {{path: /items}}, {rate}}}]"
        orders = await sidecar(mesh, backend, rate if where == "module" else route)
        assert await spend(mesh, orders, "web") == 4
        assert await spend(mesh, orders, "ops") == others
        assert len(backend.requests) == 4 + others
        counted = "app" if where == "module" else "items"
        assert orders.running.meters.samples(RATE_LIMITED) == {("inbound", counted): 16 - others}
        assert orders.faults() == {"rate_limited": 16 - others}
        answer = await mesh.call(orders, get())
        assert 55 <= int(answer.get(b"retry-after")) <= 60 if others == 0 else int(answer.get(b"retry-after")) <= 60
        if where == "route":
            assert await spend(mesh, orders, "web", octets=get("/other")) == 10
        await until(lambda: is_clean(orders), "nothing is left")

    mesh.run(story())


@pytest.mark.parametrize("where", ["module", "route"])
def test_what_one_rate_refuses_is_not_taken_from_another(tmp_path, where):
    mesh = Mesh(tmp_path)

    async def story():
        both = f"rate: [{ONE % (8, 'all')}, {ONE % (3, 'principal')}]"
        orders = await sidecar(
            mesh, await mesh.backend(), both if where == "module" else f"routes: [{{name: items, match: {{path: /items}}, {both}}}]"
        )
        assert await spend(mesh, orders, "web", 50) == 3
        assert await spend(mesh, orders, "ops", 50) == 3

    mesh.run(story())


def test_a_service_has_a_rate_of_its_own_whatever_route_leads_there(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        service = f"  orders: {{endpoints: ['{backend.address}'], plaintext: true, rate: {ONE % (5, 'all')}}}"
        routes = "routes: [{name: items, match: {path: /items}, to: orders}]"
        web = await mesh.sidecar("web", services=service, more=routes)
        assert await spend(mesh, web, None, 3) == 3
        assert await spend(mesh, web, None, 10, get("/other")) == 2
        assert web.running.meters.samples(RATE_LIMITED) == {("outbound", "orders"): 8}

    mesh.run(story())


@pytest.mark.slow
def test_a_rate_is_exact_over_a_window(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await sidecar(mesh, await mesh.backend(), "rate: {rate: 60/s, burst: 6}")
        caller = await mesh.caller(orders)
        began = time.monotonic()
        served = []
        lost_s = last_s = 0.0
        while (at := time.monotonic() - began) < 1.5:
            if (await caller.ask(get())).status == 200:
                served.append((at, time.monotonic() - began))
            asked_s = time.monotonic() - began
            lost_s += max(0.0, asked_s - last_s - 0.1)  # nobody asked for so long, and the bucket was full
            last_s = asked_s
        caller.close()
        for first in range(0, len(served), 7):
            for last in range(first, len(served), 7):
                assert last - first + 1 <= 6 + 60 * (served[last][1] - served[first][0]) + 0.01
        assert len(served) >= 0.9 * (6 + 60 * (1.5 - lost_s))

    mesh.run(story())


# --- reload -----------------------------------------------------------------------------------------------------------------


def test_a_reload_moves_limits_at_once_and_keeps_what_is_spent(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gated)
        orders = await sidecar(
            mesh, backend, f"breaker: {{requests: 2}}, rate: {ONE % (4, 'principal')}, concurrency: {{least: 9, most: 9, start: 9}}"
        )
        limiter = pool_of(orders).guard.limiter
        crowd = Crowd(mesh, orders)
        await crowd.ask(get(), get())
        await until(lambda: len(backend.requests) == 2, "two are with the module")
        check_refusal(await crowd.refused(), "circuit_open")
        await reload(orders, "requests: 2", "requests: 3")
        await crowd.ask(get())
        await until(lambda: len(backend.requests) == 3, "a third one is let in")
        check_refusal(await crowd.refused(), "circuit_open")
        assert shown(orders, "requests", "limit") == 3
        await reload(orders, "requests: 3", "requests: 1")
        check_refusal(await crowd.refused(), "circuit_open")
        assert pool_of(orders).guard.limiter is limiter, "what it has learnt is kept"
        release(backend, 3)
        assert await crowd.answered() == [200] * 3
        await until(lambda: is_clean(orders), "nothing is left")
        release(backend, 100)
        assert await spend(mesh, orders, "web") == 1, "of four"
        await reload(orders, "burst: 4", "burst: 6")
        assert await spend(mesh, orders, "web") == 2, "four of six are spent"
        assert await spend(mesh, orders, "ops") == 6
        await reload(orders, "least: 9, most: 9, start: 9", "least: 5, most: 5, start: 5")
        assert metrics(orders, "flui_concurrency_limit{") == {'flui_concurrency_limit{cluster="@app"}': 5}

    mesh.run(story())


def test_a_reload_keeps_what_is_spent_on_a_route(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await sidecar(mesh, await mesh.backend(), f"routes: [{{name: items, match: {{path: /items}}, rate: {ONE % (3, 'all')}}}]")
        assert await spend(mesh, orders, "web") == 3
        await reload(orders, "name: items,", "name: items, timeout: 3s,")
        assert await spend(mesh, orders, "web") == 0
        await reload(orders, "burst: 3", "burst: 5")
        assert await spend(mesh, orders, "web") == 2

    mesh.run(story())


def test_a_reload_with_more_connections_wakes_who_waits(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gated)
        orders = await sidecar(mesh, backend, "breaker: {connections: 1}")
        crowd = Crowd(mesh, orders)
        await crowd.ask(get())
        await until(lambda: backend.requests, "it is with the module")
        await crowd.ask(get(), get())
        await until(lambda: pool_of(orders).pending == 2, "two wait")
        await reload(orders, "connections: 1", "connections: 2")
        await until(lambda: len(backend.requests) == 2, "one of them waits no more")
        assert shown(orders, "pending") == 1
        release(backend, 3)
        assert await crowd.answered() == [200] * 3
        assert orders.running.meters.samples(UPSTREAM_CONNECTS)["@app", "connected"] == 2
        await until(lambda: is_clean(orders), "nothing is left")

    mesh.run(story())

"""Who is shed first when there is too much: priorities, the limit that finds itself, the sidecar's own overload; and what becomes
of a request that another sidecar has shed."""

import asyncio
import gc
import time

import pytest

from flui.downstream.exchange import Exchange
from flui.telemetry.families import EJECTIONS, RETRIES, SHED
from support.limits import GOLD, ONE, Crowd, check_refusal, gated, get, is_clean, metrics, release, sidecar
from support.mesh import OK, Mesh, until

# --- priorities, the limiter ------------------------------------------------------------------------------------------------


def test_a_caller_can_only_lower_its_priority(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gated)
        orders = await sidecar(mesh, backend, f"concurrency: {{least: 2, most: 2, start: 2}}, {GOLD}")
        crowd = Crowd(mesh, orders)
        low, high, gold = "flui-priority: low\r\n", "flui-priority: high\r\n", "x-class: gold\r\n"
        await crowd.ask(get())
        await until(lambda: backend.requests, "it is with the module")
        check_refusal(await crowd.refused(get(fields=low)), "overloaded")
        await crowd.ask(get())
        await until(lambda: len(backend.requests) == 2, "a normal one is let in where a low one was not")
        check_refusal(await crowd.refused(), "overloaded")
        check_refusal(await crowd.refused(get(fields=high)), "overloaded")
        check_refusal(await crowd.refused(get(fields=gold + low)), "overloaded")
        await crowd.ask(*[get(fields=gold)] * 8)
        await until(lambda: len(backend.requests) == 10, "high has room of its own")
        check_refusal(await crowd.refused(get(fields=gold)), "overloaded")
        for wrong in ("HIGH", "urgent", "1", ""):
            answer = await crowd.refused(get(fields=f"flui-priority: {wrong}\r\n"))
            assert (answer.status, answer.problem()["code"]) == (400, "malformed")
        release(backend, 10)
        assert await crowd.answered() == [200] * 10
        assert orders.running.meters.samples(SHED) == {
            ("inbound", "high", "overload"): 0,
            ("inbound", "normal", "overload"): 0,
            ("inbound", "low", "overload"): 0,
            ("outbound", "high", "overload"): 0,
            ("outbound", "normal", "overload"): 0,
            ("outbound", "low", "overload"): 0,
            ("inbound", "low", "concurrency"): 2,
            ("inbound", "normal", "concurrency"): 2,
            ("inbound", "high", "concurrency"): 1,
        }
        assert metrics(orders, "flui_concurrency_limit{") == {'flui_concurrency_limit{cluster="@app"}': 2}
        await until(lambda: is_clean(orders), "nothing is left")

    mesh.run(story())


def test_what_is_refused_leaves_nothing_for_the_collector(tmp_path):
    """Else memory grows just when there is too much: two objects that hold each other stay until a collection."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gated)
        orders = await sidecar(mesh, backend, "breaker: {requests: 1}")
        crowd = Crowd(mesh, orders)
        await crowd.ask(get())
        await until(lambda: backend.requests, "it is with the module")
        caller = await mesh.caller(orders)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                assert (await caller.ask(get())).status == 503
            assert sum(isinstance(one, Exchange) for one in gc.get_objects()) == 1, "the one that is under way"
        finally:
            gc.enable()
        caller.close()
        release(backend)
        assert await crowd.answered() == [200]

    mesh.run(story())


# --- what another sidecar has shed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "fault", "status"),
    [
        ("concurrency: {least: 1, most: 1, start: 1}", "overloaded", 503),
        ("breaker: {requests: 1}", "circuit_open", 503),
        (f"rate: {ONE % (1, 'all')}", "rate_limited", 429),
    ],
)
def test_what_was_shed_is_not_sent_again(tmp_path, app, fault, status):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gated)
        orders = await sidecar(mesh, backend, app)
        retry = "retry: {attempts: 5, statuses: [429, 503]}"
        routes = f"routes: [{{name: all, match: {{path: /*}}, to: orders, {retry}}}]"
        web = await mesh.sidecar("web", services=f"  orders: {{endpoints: ['{orders.inbound}']}}", more=routes)
        crowd = Crowd(mesh, web, None)
        await crowd.ask(get())
        await until(lambda: backend.requests, "it is with the module")
        for _ in range(5):
            answer = await crowd.refused()
            assert (answer.status, answer.problem()["code"]) == (status, fault)
            assert int(answer.get(b"retry-after")) >= 1
            assert answer.get(b"flui-fault") is None, "that is between sidecars"
        release(backend)
        assert await crowd.answered() == [200]
        await until(lambda: len(orders.log()) == 6, "each was sent once")
        assert len(backend.requests) == 1
        assert web.running.meters.samples(RETRIES)["orders", "sent"] == 0
        await until(lambda: is_clean(web) and is_clean(orders), "nothing is left")

    mesh.run(story())


def test_an_endpoint_that_sheds_is_not_taken_out(tmp_path):
    """All may have too much to do at once: to take some out would give the others more, until none is left."""
    mesh = Mesh(tmp_path)
    turn = 0

    async def sheds(backend, request, reader, writer):
        nonlocal turn
        if request is not None:
            turn += 1
            shed = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nretry-after: 1\r\nflui-fault: overloaded\r\n\r\n"
            writer.write(shed if turn % 10 else OK)
        return True

    async def story():
        backends = [await mesh.backend(sheds) for _ in range(4)]
        endpoints = [str(backend.address) for backend in backends]
        quick = "outlier: {interval: 100ms}"
        web = await mesh.sidecar("web", services=f"  orders: {{endpoints: {endpoints}, plaintext: true, {quick}}}")
        caller = await mesh.caller(web, None)
        began = time.monotonic()
        asked = 0
        while time.monotonic() < began + 0.6:
            assert (await caller.ask(get())).status == (200 if turn % 10 == 0 else 503)
            asked += 1
        caller.close()
        assert not web.running.meters.samples(EJECTIONS)
        assert min(len(backend.requests) for backend in backends) > asked / 8

    mesh.run(story())


# --- the sidecar's own overload ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_loop_that_is_held_up_sheds_low_then_normal_and_never_high(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        orders = await sidecar(mesh, backend, GOLD, "overload: {lag: 20ms}")
        pressure = orders.running.relay.pressure
        low, gold = get(fields="flui-priority: low\r\n"), get(fields="x-class: gold\r\n")
        callers = [await mesh.caller(orders) for _ in range(3)]
        done = asyncio.Event()

        async def hold(seconds):
            """The loop has this piece of work to do, again and again."""
            while not done.is_set():
                until_s = time.perf_counter() + seconds
                while time.perf_counter() < until_s:
                    pass
                await asyncio.sleep(0)

        async def statuses():
            return [(await caller.ask(octets)).status for caller, octets in zip(callers, (low, get(), gold), strict=True)]

        assert await statuses() == [200, 200, 200]
        work = asyncio.ensure_future(hold(0.12))
        await until(lambda: pressure.level == 2, "it is felt", 10.0)
        assert await statuses() == [503, 503, 200]
        assert metrics(orders, "flui_overload_level", "flui_loop_lag")["flui_overload_level"] == 2
        done.set()
        await work
        assert await until(lambda: not pressure.level, "it is over", 2.0) < 1.2
        assert await statuses() == [200, 200, 200]
        shed = orders.running.meters.samples(SHED)
        assert (shed["inbound", "low", "overload"], shed["inbound", "normal", "overload"]) == (1, 1)
        assert shed["inbound", "high", "overload"] == 0
        assert len(orders.said("overload")) >= 2, "it is told that it began, and that it is over"
        for caller in callers:
            caller.close()
        await until(lambda: is_clean(orders), "nothing is left")

    mesh.run(story())

"""Work whose deadline has passed is not started, on any hop; what is left is what each hop and each module is told."""

import asyncio
import itertools
import time

import pytest

from support.hops import Chain
from support.mesh import Mesh, answers, until
from support.resets import rested

GET = b"GET /items HTTP/1.1\r\nhost: stock\r\n\r\n"


def within(ms, octets=GET):
    return octets.replace(b"\r\n\r\n", b"\r\nflui-deadline: %d\r\n\r\n" % ms, 1)


async def hangs(backend, request, reader, writer):
    """Takes the request and never answers."""
    if request is not None:
        await reader.read()
    return request is None


async def sidecar(mesh, backend, *, route="", service="", outbound="{address: 127.0.0.1:0}", more=""):
    return await mesh.sidecar(
        "web",
        services=f"  stock: {{endpoints: ['{backend.address}'], plaintext: true, outlier: off{service}}}",
        outbound=outbound,
        more=f"routes: [{{name: all, to: stock{route}}}]\n{more}",
    )


def slowly(pool, waits):
    """Dials of `pool` take as long as `waits` does, once the connection is there."""
    dial = type(pool).dial

    class Slow(type(pool)):
        __slots__ = ()

        async def dial(self, member, owner):
            connection = await dial(self, member, owner)
            await waits()
            return connection

    pool.__class__ = Slow


# --- three hops -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_hop_starts_work_after_expiry_and_the_caller_hears_it_in_time(tmp_path):
    """The short form of `acceptance/test_deadlines_hops.py`, with room for a busy machine."""
    mesh = Mesh(tmp_path)
    works = {0: (0.1, 0.1, 0.6), 1: (0.2, 0.5, 0.0), 2: (0.7, 0.0, 0.0), 3: (0.02, 0.02, 0.02)}
    begun = {0: [1, 1, 1], 1: [1, 1, 0], 2: [1, 0, 0], 3: [1, 1, 1]}

    async def story():
        chain = await Chain.start(mesh, tuple(lambda number, at=at: works[number % 4][at] if number >= 0 else 0.0 for at in range(3)))
        await chain.ask(-1, 5_000)
        asks = await asyncio.gather(*(chain.ask(number, 600) for number in range(4)))
        await asyncio.sleep(0.25)  # those who still work come to their end
        for ask in asks:
            starts = [[start for start in hop.starts if start.number == ask.number] for hop in chain.hops]
            assert [len(one) for one in starts] == begun[ask.number]
            assert ask.status == (200 if ask.number == 3 else 504)
            assert ask.took_s < 0.8
            told = [one[0].left_ms for one in starts if one]
            assert told[0] <= 600
            assert all(later < earlier for earlier, later in itertools.pairwise(told))
            assert all(one[0].at - ask.sent_at < 0.7 for one in starts if one)
        for side in chain.sides.values():
            await rested(side)

    mesh.run(story())


# --- the smallest of the three ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "route", "listener", "code"),
    [
        (100, "5s", "5s", "deadline_passed"),
        (5000, "100ms", "5s", "upstream_timeout"),
        (5000, "5s", "100ms", "upstream_timeout"),
        (None, "100ms", "5s", "upstream_timeout"),
        (None, "5s", "100ms", "upstream_timeout"),
        (5000, "0", "100ms", "upstream_timeout"),
        (100, "0", "0", "deadline_passed"),
    ],
)
def test_the_smallest_of_callers_routes_and_listeners_holds(tmp_path, said, route, listener, code):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(hangs)
        web = await sidecar(mesh, backend, route=f", timeout: {route}", outbound=f"{{address: 127.0.0.1:0, timeout: {listener}}}")
        began = time.monotonic()
        answer = await mesh.call(web, within(said) if said is not None else GET, None)
        assert (answer.status, answer.problem()["code"]) == (504, code)
        assert 0.095 <= time.monotonic() - began < 0.5
        assert 40 < int(backend.requests[0].get(b"flui-deadline")) <= 100
        await until(lambda: not backend.open, "it is left alone")
        await rested(web)

    mesh.run(story())


def test_nobody_said_anything_and_nothing_is_said(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        web = await sidecar(mesh, backend, route=", timeout: 0")
        assert (await mesh.call(web, GET, None)).status == 200
        assert backend.requests[0].get(b"flui-deadline") is None
        await rested(web)

    mesh.run(story())


@pytest.mark.parametrize("said", [b"", b"-1", b"1.5", b"300ms", b"9999999999", b"1, 2"])
def test_a_deadline_that_is_none_is_refused(tmp_path, said):
    """Guessing would be answering late, or never starting."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        web = await sidecar(mesh, backend)
        answer = await mesh.call(web, GET.replace(b"\r\n\r\n", b"\r\nflui-deadline: %b\r\n\r\n" % said), None)
        assert answer.status == 400
        assert not backend.connections
        await rested(web)

    mesh.run(story())


# --- nothing is started late ------------------------------------------------------------------------------------------------


def test_a_connection_that_comes_too_late_is_not_asked(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        web = await sidecar(mesh, backend)
        held = asyncio.Event()
        pool = web.running.relay.pools.by_name["stock"]
        slowly(pool, held.wait)
        began = time.monotonic()
        answer = await mesh.call(web, within(100), None)
        assert answer.problem()["code"] == "deadline_passed"
        assert 0.095 <= time.monotonic() - began < 0.5
        held.set()
        await rested(web)
        assert pool.idle_count() == 1, "the connection waits for another request"
        assert not backend.requests
        assert (await mesh.call(web, GET, None)).status == 200
        assert backend.connections == 1

    mesh.run(story())


def test_a_loop_that_was_held_up_starts_nothing_either(tmp_path):
    """The connection is there before the alarm could ring: it is looked at the clock, not at the alarm."""
    mesh = Mesh(tmp_path)

    async def stands_still():
        time.sleep(0.2)  # noqa: ASYNC251 - the loop itself is what stands still

    async def story():
        backend = await mesh.backend()
        web = await sidecar(mesh, backend)
        slowly(web.running.relay.pools.by_name["stock"], stands_still)
        answer = await mesh.call(web, within(100), None)
        assert answer.problem()["code"] == "deadline_passed"
        await rested(web)
        assert not backend.requests

    mesh.run(story())


def test_who_waits_for_a_connection_until_its_time_is_over_is_not_sent(tmp_path):
    mesh = Mesh(tmp_path)

    async def waits(backend, request, reader, writer):
        if request is not None:
            await backend.go.wait()
        return await answers(backend, request, reader, writer)

    async def story():
        backend = await mesh.backend(waits)
        web = await sidecar(mesh, backend, service=", breaker: {connections: 1}")
        first = await mesh.caller(web, None)
        await first.send(GET)
        await until(lambda: backend.requests, "the only connection is busy")
        began = time.monotonic()
        answer = await mesh.call(web, within(100), None)
        assert answer.problem()["code"] == "deadline_passed"
        assert time.monotonic() - began < 0.5
        pool = web.running.relay.pools.by_name["stock"]
        assert (pool.pending, pool.active) == (0, 1)
        backend.go.set()
        assert (await first.answer()).status == 200
        await rested(web)
        assert len(backend.requests) == 1
        first.close()

    mesh.run(story())


@pytest.mark.parametrize("waits", ["retry-after", "per try"])
def test_no_second_try_begins_after_the_deadline(tmp_path, waits):
    mesh = Mesh(tmp_path)

    async def busy(backend, request, reader, writer):
        if request is not None:
            if waits == "per try":
                return await hangs(backend, request, reader, writer)
            writer.write(b"HTTP/1.1 503 No\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n")
        return True

    async def story():
        backend = await mesh.backend(busy)
        web = await sidecar(mesh, backend, route=", retry: {attempts: 5, per_try: 80ms, backoff: 1s, backoff_max: 1s}")
        began = time.monotonic()
        answer = await mesh.call(web, within(100), None)
        assert answer.status == (503 if waits == "retry-after" else 504)
        assert time.monotonic() - began < 0.5
        assert len(backend.requests) == 1 or waits == "per try"
        last = time.monotonic()
        await until(lambda: time.monotonic() - last > 0.1, "a while passes")
        assert len(backend.requests) <= 2
        await rested(web)

    mesh.run(story())


def test_an_answer_that_has_begun_is_cut_at_the_deadline(tmp_path):
    mesh = Mesh(tmp_path)

    async def half(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            await writer.drain()
            await reader.read()
        return request is None

    async def story():
        backend = await mesh.backend(half)
        web = await sidecar(mesh, backend)
        began = time.monotonic()
        answer = await mesh.call(web, within(100), None)
        assert (answer.status, answer.complete, answer.body) == (200, False, b"half")
        assert 0.095 <= time.monotonic() - began < 0.5
        await until(lambda: not backend.open, "it is left alone")
        await until(web.log, "recorded")
        assert web.log()[0]["fault"] == "deadline_passed"
        await rested(web)

    mesh.run(story())


def test_a_body_still_on_its_way_does_not_stretch_the_deadline(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        web = await sidecar(mesh, backend)
        caller = await mesh.caller(web, None)
        began = time.monotonic()
        await caller.send(within(100, b"PUT /items HTTP/1.1\r\nhost: stock\r\ncontent-length: 10\r\n\r\n") + b"12345")
        answer = await caller.answer()
        assert answer.problem()["code"] == "deadline_passed"
        assert 0.095 <= time.monotonic() - began < 0.5
        await until(lambda: not backend.open, "it is left alone")
        caller.close()
        await rested(web)

    mesh.run(story())


def test_a_late_answer_is_not_heard_and_its_connection_not_used_again(tmp_path):
    """The answer comes while the 504 goes out: the next request does not get it."""
    mesh = Mesh(tmp_path)

    async def late(backend, request, reader, writer):
        if request is not None:
            if request.get(b"x-late"):
                await backend.go.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")
                return True
            return await answers(backend, request, reader, writer)
        return True

    async def story():
        backend = await mesh.backend(late)
        web = await sidecar(mesh, backend)
        caller = await mesh.caller(web, None)
        assert (await caller.ask(within(80, GET.replace(b"\r\n\r\n", b"\r\nx-late: 1\r\n\r\n")))).status == 504
        backend.go.set()
        for _ in range(5):
            assert (await caller.ask(GET)).body == b"ok\n"
        assert backend.connections == 2
        caller.close()
        await rested(web)

    mesh.run(story())

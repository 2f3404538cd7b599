"""Every wait has an end, and each end its own name."""

import asyncio
import time

import pytest

from support.mesh import Mesh, answers, until

GET = b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n"
POST = b"POST /items HTTP/1.1\r\nhost: orders\r\n"


async def hangs(backend, request, reader, writer):
    """Takes the request and never answers."""
    if request is not None:
        backend.go.set()
        await reader.read()
    return request is None


async def pair(mesh, does, *, app="{url: %s}", more="", route=""):
    backend = await mesh.backend(does)
    file = mesh.prepare("orders", app=backend, more=more)
    file.write_text(file.read_text().replace(f"app: {backend.url}", "app: " + app % backend.url))
    orders = await mesh.start(file)
    routes = f"routes:\n  - {{name: all, match: {{path: /*}}, to: orders{route}}}"
    web = await mesh.sidecar("web", services=f"  orders: {{endpoints: ['{orders.inbound}']}}", more=routes)
    return backend, orders, web


# --- the caller's deadline --------------------------------------------------------------------------------------------------


def test_the_callers_deadline_shrinks_on_each_hop(tmp_path):
    mesh = Mesh(tmp_path)

    async def late(backend, request, reader, writer):
        return await answers(backend, request, reader, writer)

    async def story():
        backend, _, web = await pair(mesh, late)
        caller = await mesh.caller(web, None)
        began = time.monotonic()
        assert (await caller.ask(GET.replace(b"\r\n\r\n", b"\r\nflui-deadline: 5000\r\n\r\n"))).status == 200
        took_ms = (time.monotonic() - began) * 1000
        left = int(backend.requests[0].get(b"flui-deadline"))
        assert 5000 - took_ms - 2 <= left <= 5000
        caller.close()

    mesh.run(story())


def test_the_time_spent_on_a_hop_is_taken_off(tmp_path):
    """The module is dialled only when it listens: what the dial took is missing in what it is told."""
    from flui.downstream.exchange import Exchange

    mesh = Mesh(tmp_path)

    async def story():
        backend, orders, web = await pair(mesh, answers)
        pool = orders.running.relay.pools.by_name["@app"]
        dial = type(pool).dial
        waits = asyncio.Event()

        class Slow(type(pool)):
            __slots__ = ()

            async def dial(self, member, owner):
                await waits.wait()
                return await dial(self, member, owner)

        pool.__class__ = Slow
        caller = await mesh.caller(web, None)
        await caller.send(GET.replace(b"\r\n\r\n", b"\r\nflui-deadline: 5000\r\n\r\n"))
        exchange: list[Exchange] = []
        await until(
            lambda: exchange.extend(e for c in orders.running.gates[0].connections for e in c._exchanges.values()) or exchange, "hop"
        )
        begun = exchange[0].splice.begun_at
        await until(lambda: time.monotonic() - begun > 0.2, "200 ms have passed on the second hop")
        waits.set()
        assert (await caller.answer()).status == 200
        assert int(backend.requests[0].get(b"flui-deadline")) <= 4800
        caller.close()

    mesh.run(story())


def test_the_callers_deadline_ends_the_request_on_both_hops(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend, orders, web = await pair(mesh, hangs)
        answer = await mesh.call(web, GET.replace(b"\r\n\r\n", b"\r\nflui-deadline: 200\r\n\r\n"), None)
        assert answer.status == 504
        assert answer.problem()["code"] == "deadline_passed"
        await until(lambda: orders.log() and web.log(), "both have recorded it")
        (first,), (second,) = web.log(), orders.log()
        assert first["fault"] == "deadline_passed"
        assert 200 <= first["total_ms"] < 700
        assert second["status"] in {504, 499}, "the second hop's clock started later, and its caller may hang up first"
        await until(lambda: not backend.open, "the module is left alone")

    mesh.run(story())


def test_a_deadline_of_zero_has_passed_and_goes_nowhere(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend, _, web = await pair(mesh, answers)
        assert (await mesh.call(web, GET.replace(b"\r\n\r\n", b"\r\nflui-deadline: 0\r\n\r\n"), None)).status == 504
        assert not backend.connections

    mesh.run(story())


def test_the_routes_timeout_is_not_called_the_callers_deadline(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        _, _, web = await pair(mesh, hangs, route=", timeout: 150ms")
        answer = await mesh.call(web, GET.replace(b"\r\n\r\n", b"\r\nflui-deadline: 90000\r\n\r\n"), None)
        assert answer.status == 504
        assert answer.problem()["code"] == "upstream_timeout"

    mesh.run(story())


def test_a_request_without_a_deadline_gets_the_routes(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend, _, web = await pair(mesh, answers, route=", timeout: 3s")
        assert (await mesh.call(web, GET, None)).status == 200
        assert 2000 < int(backend.requests[0].get(b"flui-deadline")) <= 3000

    mesh.run(story())


# --- towards the endpoint ---------------------------------------------------------------------------------------------------


def test_a_connect_that_takes_too_long_goes_to_the_next_endpoint_and_else_is_504(tmp_path):
    """An endpoint that accepts and never shakes hands; nothing was sent to it, and no socket stays behind."""
    mesh = Mesh(tmp_path)

    async def silent(backend, request, reader, writer):
        await reader.read()
        return False

    async def story():
        deaf = await mesh.backend(silent)
        backend = await mesh.backend(tls=mesh.ca.leaf("spiffe://shop/stock"))
        more = "timeouts: {connect: 150ms}"
        one = await mesh.sidecar("web", services=f"  stock: {{endpoints: ['{deaf.address}']}}", more=more)
        answer = await mesh.call(one, GET.replace(b"orders", b"stock"), None)
        assert answer.status == 504
        assert answer.problem()["code"] == "connect_timeout"
        await until(lambda: not deaf.open, "the socket is closed")
        endpoints = f"['{deaf.address}', '{backend.address}']"
        both = await mesh.sidecar("edge", services=f"  stock: {{endpoints: {endpoints}, balance: round_robin}}", more=more)
        caller = await mesh.caller(both, None)
        for _ in range(4):
            assert (await caller.ask(GET.replace(b"orders", b"stock"))).status == 200
        assert both.connects()["connect_timeout"] >= 1
        assert len(backend.requests) == 4
        caller.close()
        await until(lambda: not deaf.open, "the sockets are closed")

    mesh.run(story())


def test_silence_in_both_directions_ends_the_exchange(tmp_path):
    mesh = Mesh(tmp_path)

    async def starts(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello")
            await reader.read()
        return request is None

    async def story():
        backend, orders, _ = await pair(mesh, starts, app="{url: %s, timeout: 0s, idle_timeout: 200ms}")
        caller = await mesh.caller(orders)
        began = time.monotonic()
        answer = await caller.ask(GET)
        assert (answer.status, answer.complete) == (200, False)
        assert 0.2 <= time.monotonic() - began < 1.0
        (record,) = orders.log()
        assert record["fault"] == "upstream_timeout"
        caller.close()
        await until(lambda: not backend.open, "the module is left alone")

    mesh.run(story())


def test_an_exchange_that_goes_on_is_not_idle(tmp_path):
    mesh = Mesh(tmp_path)

    async def trickles(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
            for _ in range(10):
                writer.write(b"x")
                await asyncio.sleep(0.05)
        return True

    async def story():
        _, orders, _ = await pair(mesh, trickles, app="{url: %s, timeout: 0s, idle_timeout: 250ms}")
        assert (await mesh.call(orders, GET)).complete

    mesh.run(story())


# --- towards the caller -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["web", None])
def test_an_idle_connection_is_closed_silently(tmp_path, name):
    """The shortest keep-alive that can be configured; nothing is recorded, nobody is answered."""
    mesh = Mesh(tmp_path)

    async def story():
        more = "timeouts: {keepalive: 1s, header: 300ms}"
        backend = await mesh.backend()
        services = f"  stock: {{endpoints: ['{backend.address}'], plaintext: true}}"
        orders = await mesh.sidecar("orders", app=backend, more=more, services=services)
        fresh, used = await mesh.caller(orders, name), await mesh.caller(orders, name)
        began = time.monotonic()
        assert (await used.ask(GET if name else GET.replace(b"orders", b"stock"))).status == 200
        assert await fresh.closed(2.0) == b""
        assert 0.25 <= time.monotonic() - began < 0.9, "one that never asked has as long as a head has"
        assert await used.closed(2.0) == b""
        assert 0.95 <= time.monotonic() - began < 2.0
        assert len(orders.log()) == 1
        assert not orders.faults()
        await until(lambda: not backend.open, "idle connections to the module go too", 3.0)
        fresh.close()
        used.close()

    mesh.run(story())


@pytest.mark.parametrize("name", ["web", None])
def test_a_head_that_is_too_slow_is_408(tmp_path, name):
    """However many octets come meanwhile; also when it is not the connection's first."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        services = f"  stock: {{endpoints: ['{backend.address}'], plaintext: true}}"
        orders = await mesh.sidecar("orders", app=backend, more="timeouts: {header: 300ms}", services=services)
        get = GET if name else GET.replace(b"orders", b"stock")
        for count, asked_before in enumerate((False, True), 1):
            caller = await mesh.caller(orders, name)
            if asked_before:
                assert (await caller.ask(get)).status == 200
            began = time.monotonic()
            reading = asyncio.ensure_future(caller.answer())
            await caller.send(b"GET / HTTP/1.1\r\nhost: ")
            while not reading.done():
                await caller.send(b"x")
                await asyncio.wait([reading], timeout=0.02)
            assert (await reading).status == 408
            assert 0.25 <= time.monotonic() - began < 1.0
            assert await caller.closed() == b""
            caller.close()
            assert orders.faults() == {"request_timeout": count}
            assert orders.log()[-1]["status"] == 408

    mesh.run(story())


def test_a_body_slower_than_500_octets_a_second_is_408(tmp_path):
    """Threats C8. It is never silent, and yet too slow."""
    mesh = Mesh(tmp_path)

    async def story():
        backend, orders, _ = await pair(mesh, answers, more="timeouts: {body_idle: 300ms}")
        caller = await mesh.caller(orders)
        await caller.send(POST + b"content-length: 1000\r\n\r\n")
        reading = asyncio.ensure_future(caller.answer())
        while not reading.done():
            await caller.send(b"x")
            await asyncio.wait([reading], timeout=0.02)
        assert (await reading).status == 408
        await caller.closed()
        assert orders.log()[-1]["fault"] == "request_timeout"
        await until(lambda: not backend.open, "what was sent upstream is cut")
        caller.close()

    mesh.run(story())


def test_a_body_that_waits_for_the_module_is_not_the_callers_fault(tmp_path):
    """The caller would send faster if it was read: it is judged only while there is credit."""
    mesh = Mesh(tmp_path)

    async def reads_late(backend, request, reader, writer):
        if request is not None:
            reader._transport.pause_reading()
            await backend.go.wait()
            reader._transport.resume_reading()
        return await answers(backend, request, reader, writer)

    async def story():
        backend, orders, _ = await pair(mesh, reads_late, more="timeouts: {body_idle: 100ms}")
        caller = await mesh.caller(orders)
        size = 24 << 20
        sending = asyncio.ensure_future(caller.send(POST + b"content-length: %d\r\n\r\n" % size + bytes(size)))
        await until(lambda: any(not c.codec.reading for c in orders.running.gates[0].connections), "the caller is not read")
        (connection,) = orders.running.gates[0].connections
        (exchange,) = connection._exchanges.values()
        begun = exchange.active_at
        await until(lambda: time.monotonic() - begun > 0.5, "five times the patience")
        backend.go.set()
        assert (await caller.answer()).status == 200
        await sending
        caller.close()

    mesh.run(story())


def test_a_handshake_that_takes_too_long_is_given_up_and_counted(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app="http://127.0.0.1:9", more="timeouts: {handshake: 150ms}")
        reader, writer = await asyncio.open_connection(orders.inbound.host, orders.inbound.port)
        began = time.monotonic()
        async with asyncio.timeout(2):
            assert await reader.read() == b""
        assert 0.1 <= time.monotonic() - began < 1.0
        await until(orders.refused, "it is counted")
        assert orders.refused() == {"timeout": 1}
        writer.close()

    mesh.run(story())

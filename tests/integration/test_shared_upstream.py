"""Callers of a sidecar share one HTTP/2 connection to an endpoint: in whole sidecars, with `h2` as the endpoint."""

import asyncio
import socket
import struct

import pytest

from flui.telemetry.families import UPSTREAM_CONNECTIONS
from support.h2module import H2Module
from support.mesh import Mesh, until

GET = b"GET /items HTTP/1.1\r\nhost: stock\r\n\r\n"
POST = b"POST /items HTTP/1.1\r\nhost: stock\r\ncontent-length: 3\r\n\r\nabc"
BIG = 4 << 20


def play(tmp_path, story, *, tls=False, more="", **does):
    """Runs `story(mesh, module, web)`: `web` calls `stock`, which `module` is."""
    mesh = Mesh(tmp_path)

    async def whole():
        leaf = mesh.ca.leaf("spiffe://shop/stock") if tls else None
        module = await H2Module(**does).listen(leaf, mesh.ca if tls else None)
        how = "" if tls else ", plaintext: true, protocol: http2"
        web = await mesh.sidecar("web", services=f"  stock: {{endpoints: ['{module.address}']{how}{more}}}")
        callers = []
        real = mesh.caller

        async def caller(*who):
            callers.append(await real(*who))
            return callers[-1]

        mesh.caller = caller
        try:
            await story(mesh, module, web)
        finally:
            for one in callers:
                one.close()
            module.stop()

    mesh.run(whole())


def connections(side):
    return {labels: value for labels, value in side.running.meters.samples(UPSTREAM_CONNECTIONS).items() if labels[0] == "stock"}


@pytest.mark.parametrize("tls", [False, True])
def test_many_callers_share_one_connection(tmp_path, tls):
    async def story(mesh, module, web):
        callers = [await mesh.caller(web, None) for _ in range(20)]
        for _ in range(3):
            answers = await asyncio.gather(*(caller.ask(GET) for caller in callers))
            assert {(answer.status, answer.body) for answer in answers} == {(200, b"ok\n")}
        assert len(module.connections) == 1
        assert web.connects() == {"connected": 1}
        assert len(web.log()) == 60
        pool = web.running.relay.pools.by_name["stock"]
        assert (pool.active, pool.idle_count(), pool.open_count()) == (0, 1, 1)

    play(tmp_path, story, tls=tls)


def test_a_body_goes_both_ways_whole_beside_others(tmp_path):
    async def story(mesh, module, web):
        async def upload(at):
            caller = await mesh.caller(web, None)
            body = bytes([at]) * 300_000
            return await caller.ask(b"POST /items HTTP/1.1\r\nhost: stock\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

        answers = await asyncio.gather(*(upload(at) for at in range(8)))
        assert {answer.status for answer in answers} == {200}
        (there,) = module.connections
        assert sorted(there.bodies.values()) == [bytes([at]) * 300_000 for at in range(8)]

    play(tmp_path, story, window=1 << 20)


def test_a_caller_that_does_not_read_stops_no_other(tmp_path):
    async def story(mesh, module, web):
        stalled = await mesh.caller(web, None)
        stalled.writer.transport.pause_reading()
        await stalled.send(GET)
        await until(lambda: module.connections and module.connections[0].ended, "it is asked")
        (there,) = module.connections
        there.respond(1, bytes(BIG), end=False)
        last = -1
        while there.h2.local_flow_control_window(1) != last or last:
            last = there.h2.local_flow_control_window(1)
            there.more(1, bytes(last))
            await asyncio.sleep(0.02)
        module.answers = True
        for _ in range(5):
            assert (await mesh.call(web, GET, None)).status == 200
        assert len(module.connections) == 1
        stalled.abort()
        await until(lambda: there.resets, "and when it goes, its stream alone is reset")
        assert there.resets == [(1, 8)]
        assert (await mesh.call(web, GET, None)).status == 200
        assert len(module.connections) == 1

    play(tmp_path, story, answers=False)


def test_what_a_leaving_endpoint_has_not_looked_at_is_sent_again_whatever_it_is(tmp_path):
    """RFC 9113 6.8, 8.7: also what must not be done twice, for it was not done once; and that is no fault of the endpoint."""

    async def story(mesh, module, web):
        one, two = await mesh.caller(web, None), await mesh.caller(web, None)
        first = asyncio.ensure_future(one.ask(POST))
        await until(lambda: module.connections and module.connections[0].ended == [1], "it is asked")
        second = asyncio.ensure_future(two.ask(POST))
        (there,) = module.connections
        await until(lambda: there.ended == [1, 3], "so is the next one")
        module.answers = True
        there.leave(1)
        assert (await second).status == 200
        assert not first.done()
        there.respond(1, b"to the end")
        assert (await first).body == b"to the end"
        assert len(module.connections) == 2
        (member,) = web.running.relay.pools.by_name["stock"].members.values()
        assert (member.vitals.failed, member.vitals.streak) == (0, 0)
        assert not web.faults()

    play(tmp_path, story, answers=False)


def test_a_refused_stream_is_sent_again_and_not_for_ever(tmp_path):
    async def story(mesh, module, web):
        caller = await mesh.caller(web, None)
        asking = asyncio.ensure_future(caller.ask(POST))
        refused = 0
        while not asking.done():
            for there in module.connections:
                while there.ended:
                    there.reset(there.ended.pop(), 7)
                    refused += 1
            await asyncio.sleep(0)
        assert (await asking).status == 503
        assert 2 <= refused <= 5

    play(tmp_path, story, answers=False)


def test_a_caller_that_goes_cancels_its_stream_at_once(tmp_path):
    """Issue 5: cancellation reaches the far end within 100 ms. Five times, of which the middle one counts: others use the machine, too."""

    async def story(mesh, module, web):
        other = await mesh.caller(web, None)
        asking = asyncio.ensure_future(other.ask(GET))
        await until(lambda: module.connections and module.connections[0].ended, "it is asked")
        (there,) = module.connections
        took = []
        for number in range(5):
            caller = await mesh.caller(web, None)
            await caller.send(GET)
            await until(lambda n=number: len(there.ended) == n + 2, "both are")
            caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.abort()
            took.append(await until(lambda n=number: len(there.resets) > n, "it is told"))
        assert sorted(took)[2] < 0.1
        assert there.resets == [(stream, 8) for stream in (3, 5, 7, 9, 11)]
        there.respond(1, b"fine")
        assert (await asking).body == b"fine"

    play(tmp_path, story, answers=False)


def test_an_endpoint_that_dies_is_asked_again_on_a_new_connection(tmp_path):
    async def story(mesh, module, web):
        callers = [await mesh.caller(web, None) for _ in range(3)]
        asking = [asyncio.ensure_future(caller.ask(GET)) for caller in callers]
        await until(lambda: module.connections and len(module.connections[0].ended) == 3, "all are asked")
        module.answers = True
        module.connections[0].transport.abort()
        assert [(await answer).status for answer in asking] == [200] * 3

    play(tmp_path, story, answers=False, more=", outlier: off")

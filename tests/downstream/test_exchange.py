"""The retry law: an endpoint that took nothing may be passed over; after an octet was sent, nobody else gets the request."""

import asyncio
import socket
import struct
from collections import Counter

import pytest

from flui.model.events import RequestHead
from flui.model.fields import field
from flui.model.topology import HashKey, KeySource
from flui.routing.key import hash_key
from support.mesh import OK, Mesh, answers, until

GET = b"GET /items HTTP/1.1\r\nhost: stock\r\n\r\n"


def reset(writer):
    """An RST, whatever is in flight."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def stock(*backends, balance="round_robin"):
    endpoints = [str(b.address) for b in backends]
    return f"  stock: {{endpoints: {endpoints}, plaintext: true, balance: {balance}}}"


def test_a_refused_connect_goes_to_the_next_endpoint(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        gone, other, backend = [await mesh.backend() for _ in range(3)]
        await gone.stop()
        await other.stop()
        web = await mesh.sidecar("web", services=stock(gone, other, backend))
        caller = await mesh.caller(web, None)
        for _ in range(12):
            assert (await caller.ask(GET)).status == 200
        assert len(backend.requests) == 12
        assert backend.connections == 1
        assert {record["upstream"] for record in web.log()} == {str(backend.address)}
        await backend.stop()
        answer = await caller.ask(GET)
        assert answer.status == 502
        assert web.connects()["upstream_refused"] >= 3, "each endpoint is tried once"
        caller.close()

    mesh.run(story())


def test_the_body_that_waited_for_a_connection_arrives_whole(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        gone, backend = [await mesh.backend() for _ in range(2)]
        await gone.stop()
        web = await mesh.sidecar("web", services=stock(gone, backend))
        body = bytes(range(256)) * 800
        for _ in range(4):
            post = b"POST /items HTTP/1.1\r\nhost: stock\r\ncontent-length: %d\r\n\r\n" % len(body)
            assert (await mesh.call(web, post + body, None)).status == 200
        assert [request.body for request in backend.requests] == [body] * 4

    mesh.run(story())


@pytest.mark.slow
def test_a_request_is_never_sent_twice_after_octets_of_it_were_sent(tmp_path, record_property):
    """A few hundred requests with a number each; endpoints are reset at every stage; the backends count what they saw begin."""
    mesh = Mesh(tmp_path)
    begun: Counter[bytes] = Counter()
    stages = ("fine", "accept", "fine", "head", "body", "fine", "response", "middle", "fine", "after")
    turn = 0

    async def moody(backend, request, reader, writer):
        nonlocal turn
        if request is None:
            turn += 1
            if stages[turn % len(stages)] == "accept":
                reset(writer)
                return False
            return True
        begun[request.get(b"x-number")] += 1
        turn += 1
        stage = stages[turn % len(stages)]
        if stage == "head":
            reset(writer)
        elif stage == "body":
            await reader.readexactly(min(10, int(request.get(b"content-length"))))
            reset(writer)
        elif stage == "response":
            await answers_body(request, reader)
            reset(writer)
        elif stage == "middle":
            await answers_body(request, reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            await writer.drain()
            reset(writer)
        else:
            await answers(backend, request, reader, writer)
            if stage == "after":
                await writer.drain()
                writer.close()
        return stage == "fine"

    async def answers_body(request, reader):
        if length := request.get(b"content-length"):
            request.body = await reader.readexactly(int(length))

    async def story():
        backends = [await mesh.backend(moody) for _ in range(3)]
        web = await mesh.sidecar("web", services=stock(*backends))
        statuses: Counter[int] = Counter()

        async def load(numbers):
            caller = await mesh.caller(web, None)
            for number in numbers:
                body = b"x" * (number % 3 * 5000)
                head = b"POST /items HTTP/1.1\r\nhost: stock\r\nx-number: %d\r\ncontent-length: %d\r\n\r\n" % (number, len(body))
                answer = await caller.ask(head + body)
                statuses[answer.status if answer.complete else 0] += 1
                if not answer.complete or answer.get(b"connection") == b"close":
                    caller.close()
                    caller = await mesh.caller(web, None)
            caller.close()

        count = 400
        await asyncio.gather(*(load(range(first, count, 4)) for first in range(4)))
        assert sum(statuses.values()) == count
        assert max(begun.values()) == 1, f"sent twice: {[n for n, seen in begun.items() if seen > 1]}"
        assert statuses.keys() == {200, 502, 0}
        assert statuses[200] > count / 4
        await until(lambda: len(web.log()) == count, "one record for each")
        for pool in web.running.relay.pools.by_name.values():
            assert [member.active for member in pool.members.values()] == [0, 0, 0]
        record_property("statuses", dict(statuses))
        print(f"{count} requests with resets at every stage: {dict(statuses)}, none begun twice")

    mesh.run(story())


def test_a_caller_that_goes_while_we_dial_leaves_the_connection_to_the_next(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        web = await mesh.sidecar("web", services=stock(backend))
        pool = web.running.relay.pools.by_name["stock"]
        waits, go = asyncio.Event(), asyncio.Event()
        dial = type(pool).dial

        class Slow(type(pool)):
            __slots__ = ()

            async def dial(self, member, owner):
                waits.set()
                await go.wait()
                return await dial(self, member, owner)

        pool.__class__ = Slow
        caller = await mesh.caller(web, None)
        await caller.send(GET)
        await waits.wait()
        reset(caller.writer)
        await until(web.log, "it is recorded")
        assert web.log()[0]["fault"] == "caller_gone"
        go.set()
        await until(lambda: pool.idle_count() == 1, "the connection waits for the next")
        assert [member.active for member in pool.members.values()] == [0]
        assert (await mesh.call(web, GET, None)).status == 200
        assert len(backend.requests) == 1
        assert backend.connections == 1

    mesh.run(story())


def test_a_mistake_of_ours_while_dialling_is_500_and_nobody_waits_for_it(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        web = await mesh.sidecar("web", services=stock(await mesh.backend()))
        pool = web.running.relay.pools.by_name["stock"]

        class Broken(type(pool)):
            __slots__ = ()

            async def dial(self, member, owner):
                raise ZeroDivisionError("ours")

        pool.__class__ = Broken
        answer = await mesh.call(web, GET, None)
        assert answer.status == 500
        assert b"ours" not in answer.body
        assert web.log()[0]["fault"] == "internal"
        await until(lambda: web.said("task failed"), "the operator is told")
        assert "ZeroDivisionError" in web.said("task failed")[0]["error"]

    mesh.run(story())


def test_an_endpoint_that_hangs_up_after_a_slow_reader_is_not_used_again(tmp_path):
    """Its connection went back to the pool at a moment when it was not read for want of credit."""
    mesh = Mesh(tmp_path)
    size = 6 << 20

    async def big(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
            await writer.drain()
        return True

    async def story():
        backend = await mesh.backend(big)
        web = await mesh.sidecar("web", services=stock(backend))
        pool = web.running.relay.pools.by_name["stock"]
        for _ in range(3):
            caller = await mesh.caller(web, None)
            caller.writer.transport.pause_reading()
            await caller.send(GET)
            await until(lambda: any(not c.is_reading for c in pool._all), "the endpoint is not read")
            caller.writer.transport.resume_reading()
            assert len((await caller.answer()).body) == size
            await until(pool.idle_count, "the connection is idle")
            assert all(connection.is_reading for connection in pool._all)
            for writer in list(backend.open):
                writer.close()
            await until(lambda: not pool.open_count(), "its end is seen")
            caller.close()
        assert web.statuses() == {"200": 3}

    mesh.run(story())


def test_interim_responses_pass_and_too_many_end_the_exchange(tmp_path):
    mesh = Mesh(tmp_path)

    async def hints(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * (2 if request.target == b"/items" else 17) + OK)
        return True

    async def story():
        web = await mesh.sidecar("web", services=stock(await mesh.backend(hints)))
        caller = await mesh.caller(web, None)
        await caller.send(GET)
        for _ in range(2):
            assert (await caller.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 103 ")
        assert (await caller.answer()).status == 200
        assert (await caller.ask(GET.replace(b"/items", b"/many"))).status == 502
        caller.close()

    mesh.run(story())


# --- the hash key -----------------------------------------------------------------------------------------------------------


def head(path=b"/items/7", fields=(), key=b""):
    made = RequestHead(1, b"GET", b"http", b"stock", path, b"", list(fields), 0)
    made.key = key
    return made


@pytest.mark.parametrize(
    ("where", "request_head", "key"),
    [
        (HashKey(), head(key=b"k"), b"k"),
        (HashKey(), head(), b""),
        (HashKey(KeySource.PRINCIPAL), head(), b"spiffe://shop/web"),
        (HashKey(KeySource.HEADER, b"x-id"), head(fields=[field(b"x-id", b"5"), field(b"x-id", b"6")]), b"5"),
        (HashKey(KeySource.HEADER, b"x-id"), head(), b""),
        (HashKey(KeySource.PATH_PART, part=2), head(), b"7"),
        (HashKey(KeySource.PATH_PART, part=3), head(), b""),
        (HashKey(KeySource.PATH_PART, part=1), head(path=b"*"), b""),
    ],
)
def test_the_hash_key_is_where_the_configuration_says(where, request_head, key):
    assert hash_key(where, request_head, "spiffe://shop/web") == key


def test_equal_keys_go_to_the_same_endpoint_and_move_only_when_it_is_gone(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backends = [await mesh.backend() for _ in range(3)]
        web = await mesh.sidecar("web", services=stock(*backends, balance="{policy: ring}"))
        caller = await mesh.caller(web, None)

        async def served():
            homes = {}
            for key in range(30):
                assert (await caller.ask(GET.replace(b"\r\n\r\n", b"\r\nflui-key: k%d\r\n\r\n" % key))).status == 200
                homes[key] = web.log()[-1]["upstream"]
            return homes

        before = await served()
        assert before == await served()
        assert len(set(before.values())) == 3
        await backends[0].stop()
        pool = web.running.relay.pools.by_name["stock"]
        await until(lambda: pool.open_count() == 2, "its connections are gone")  # else a request could still be sent on one
        after = await served()
        gone = str(backends[0].address)
        assert gone not in after.values()
        assert {key: home for key, home in before.items() if home != gone}.items() <= after.items()
        caller.close()

    mesh.run(story())

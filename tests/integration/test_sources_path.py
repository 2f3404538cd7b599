"""What one source, or one that proves nothing, can take from the others (threats C8, C9): each limit by its metric."""

import asyncio
import contextlib
import gc
import socket
import ssl
import struct
from pathlib import Path

import pytest

from flui.downstream.connection import Downstream
from flui.telemetry.families import CONNECTIONS_ACCEPTED, CONNECTIONS_REFUSED
from flui.transport import secure
from flui.transport.secure import Secure
from support.mesh import Caller, Mesh, answers, until

GET = b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n"
POST = b"POST /items HTTP/1.1\r\nhost: orders\r\ncontent-length: 100000\r\n\r\n"
ESTABLISHED = b"\x01"
"""As TCP_INFO begins."""
FIN_WAIT2, TIME_WAIT, LISTEN = "05", "06", "0A"


def refused(side):
    return {why: int(count) for (_, why), count in side.running.meters.samples(CONNECTIONS_REFUSED).items()}


async def caller_from(mesh, side, source, context=None):
    """A peer with a valid identity at an address of its own."""
    reader, writer = await asyncio.open_connection(
        side.inbound.host, side.inbound.port, ssl=context or mesh.context(), server_hostname="x", local_addr=(source, 0)
    )
    return Caller(reader, writer)


async def turned_away(mesh, side, source):
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        (await caller_from(mesh, side, source)).close()
        return False
    return True


def half_open(side, source="127.0.0.1", said=b""):
    """A connection that never becomes TLS; connected by the kernel, before the sidecar has seen it."""
    sock = socket.create_connection((side.inbound.host, side.inbound.port), source_address=(source, 0))
    sock.sendall(said)
    sock.setblocking(False)
    return sock


def stands(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == ESTABLISHED


def held(side):
    """Connections to a sidecar for which its kernel keeps something; not those of which only the other end is still open."""
    port = f":{side.inbound.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row for row in rows if row[1].endswith(port) and row[3] not in {LISTEN, FIN_WAIT2, TIME_WAIT}]


def test_one_source_has_its_cap_and_the_others_do_not_notice(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend(), more="limits: {connections_per_source: 3}")
        callers = [await caller_from(mesh, orders, "127.0.0.3") for _ in range(3)]
        for caller in callers:
            assert (await caller.ask(GET)).status == 200
        assert await turned_away(mesh, orders, "127.0.0.3")
        assert refused(orders) == {"per_source": 1}
        assert orders.said("connection refused")[0]["source"] == "127.0.0.3"
        other = await caller_from(mesh, orders, "127.0.0.4")
        assert (await other.ask(GET)).status == 200
        callers.pop().close()
        await until(lambda: orders.connections == 3, "one has left")
        callers.append(await caller_from(mesh, orders, "127.0.0.3"))
        assert (await callers[-1].ask(GET)).status == 200
        for caller in (*callers, other):
            caller.close()

    mesh.run(story())


def test_the_last_places_are_for_sources_that_have_proved_who_they_are(tmp_path):
    """A flood that proves nothing takes nine places of ten; who has been here lately is let in all the same."""
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend(), more="limits: {connections: 20, connections_per_source: 20}")
        stays = await caller_from(mesh, orders, "127.0.0.3")
        came = await caller_from(mesh, orders, "127.0.0.4")
        assert (await came.ask(GET)).status == 200
        came.close()
        await until(lambda: orders.connections == 1, "it has left")
        flood = [half_open(orders, "127.0.0.9") for _ in range(25)]
        await until(lambda: refused(orders).get("reserved") == 8, "18 places are taken, its own included")
        assert await turned_away(mesh, orders, "127.0.0.5"), "nobody knows who that is"
        assert refused(orders) == {"reserved": 9}
        for source in ("127.0.0.3", "127.0.0.4"):
            caller = await caller_from(mesh, orders, source)
            assert (await caller.ask(GET)).status == 200
            caller.close()
        assert (await stays.ask(GET)).status == 200
        stays.close()
        for sock in flood:
            sock.close()
        await until(lambda: not orders.running.gates[0].sources.total, "all are gone")
        late = await caller_from(mesh, orders, "127.0.0.5")
        assert (await late.ask(GET)).status == 200
        late.close()

    mesh.run(story())


def test_past_the_limit_the_oldest_handshake_is_given_up(tmp_path):
    """However many come at once; each is counted once, and whoever means it is served."""
    mesh = Mesh(tmp_path)

    async def story():
        more = "limits: {handshakes: 5}\ntimeouts: {handshake: 500ms}"
        orders = await mesh.sidecar("orders", app=await mesh.backend(), more=more)
        (inbound, _) = orders.running._acceptors
        flood = [half_open(orders, said=b"\x16\x03\x01\x02\x00\x01"[: number % 7]) for number in range(60)]
        await until(lambda: refused(orders).get("handshakes") == 55, "all but five are given up")
        assert len(inbound._opening) == 5
        await until(lambda: [stands(sock) for sock in flood] == [False] * 55 + [True] * 5, "the oldest went first")
        assert not orders.refused()
        assert (await mesh.call(orders, GET)).status == 200
        assert refused(orders) == {"handshakes": 56}
        await until(lambda: not inbound.busy, "the rest is closed by the time that a handshake may take")
        assert orders.refused() == {"timeout": 4}
        assert not any(stands(sock) for sock in flood)
        assert orders.running.meters.samples(CONNECTIONS_ACCEPTED)[("inbound",)] == 61
        for sock in flood:
            sock.close()

    mesh.run(story())


@pytest.mark.slow
def test_everything_slow_is_closed_by_its_limit_and_counted(tmp_path, monkeypatch):
    """The acceptance test of 3,000 connections in small: readers, writers of bodies and of heads, half-open ones."""
    mesh = Mesh(tmp_path)
    each = 10

    async def pours(backend, request, reader, writer):
        if request is not None and request.method == b"GET":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    writer.write(bytes(1_000_000))
                    await writer.drain()
            return False
        return await answers(backend, request, reader, writer)

    async def reads_nothing(orders):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((orders.inbound.host, orders.inbound.port))
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock, ssl=mesh.context(), server_hostname="x")
        writer.transport.pause_reading()
        writer.write(GET)
        return Caller(reader, writer)

    async def drips(orders, first):
        caller = await mesh.caller(orders)
        reading = asyncio.ensure_future(caller.answer())
        await caller.send(first)
        while not reading.done():
            await asyncio.wait([reading], timeout=0.1)
            with contextlib.suppress(ConnectionError):
                await caller.send(b"x")
        answer = await reading
        assert await caller.closed() == b""
        caller.close()
        return answer.status

    async def story():
        monkeypatch.setattr(secure, "_UNREAD_MS", 500)
        more = "timeouts: {handshake: 1s, header: 1s, body_idle: 1s}"
        backend = await mesh.backend(pours)
        orders = await mesh.sidecar("orders", app=f"{{url: '{backend.url}', timeout: 3s}}", more=more)
        (inbound, _) = orders.running._acceptors
        readers = [await reads_nothing(orders) for _ in range(each)]
        halves = [half_open(orders, said=b"\x16\x03\x01\x02"[: number % 5]) for number in range(each)]
        writers = [drips(orders, first) for first in (POST, GET[:28]) for _ in range(each)]
        assert await asyncio.gather(*writers) == [408] * 2 * each
        await until(lambda: not orders.connections and not inbound.busy, "all are closed", 10)
        assert not any(stands(sock) for sock in halves)
        await until(lambda: not held(orders), "the kernel keeps nothing either, not even for those who do not read", 20)
        assert orders.refused() == {"timeout": each}
        assert orders.faults()["request_timeout"] == 2 * each
        assert sum(orders.faults().values()) == 3 * each
        assert orders.running.gates[0].sources.total == 0
        await until(lambda: not backend.open, "nothing is left upstream")
        for reader in readers:
            reader.abort()
        for sock in halves:
            sock.close()

    mesh.run(story(), 60)


def test_a_connection_that_is_over_leaves_nothing_for_the_collector(tmp_path):
    """A full collection is rare by design: 40 KiB of OpenSSL's for each caller that came and went would wait for it."""
    mesh = Mesh(tmp_path)

    def left(kind):
        return sum(type(thing) is kind for thing in gc.get_objects())

    async def story():
        more = "timeouts: {handshake: 200ms}\nlimits: {handshakes: 10}"
        orders = await mesh.sidecar("orders", app=await mesh.backend(), more=more)
        (inbound, _) = orders.running._acceptors
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                assert (await mesh.call(orders, GET)).status == 200
            cut = await mesh.caller(orders)
            assert (await cut.ask(GET)).status == 200
            cut.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            cut.abort()
            await until(lambda: not orders.connections, "all have left")
            await until(lambda: not left(Secure) and not left(Downstream), "and are freed")
            flood = [half_open(orders, said=b"GET / HTTP/1.1\r\n"[:number]) for number in range(16)]
            await until(lambda: not inbound.busy, "all are given up, one way or the other")
            await until(lambda: not left(Secure), "and freed")
            for sock in flood:
                sock.close()
        finally:
            gc.enable()

    mesh.run(story())

"""Accepting: within the limit, through shortage, and who is already in the queue."""

import asyncio
import contextlib
import errno
import socket

import pytest

from flui.downstream.listener import bind
from flui.model.config import Limits
from flui.model.topology import Address
from support.mesh import Caller, Mesh, until

GET = b"GET /items HTTP/1.1\r\nhost: stock\r\n\r\n"


async def web_of(mesh, more=""):
    backend = await mesh.backend()
    web = await mesh.sidecar("web", services=f"  stock: {{endpoints: ['{backend.address}'], plaintext: true}}", more=more)
    return backend, web


def test_an_address_in_use_is_refused_also_by_ourselves():
    with bind(Address("127.0.0.1", 0)) as sock:
        with pytest.raises(OSError) as refused:
            bind(Address(*sock.getsockname()))
        assert refused.value.errno == errno.EADDRINUSE


def test_who_takes_over_needs_to_say_so_each_time():
    with bind(Address("127.0.0.1", 0)) as sock:
        at = Address(*sock.getsockname())
        with bind(at, take_over=True), pytest.raises(OSError, match="in use"):
            bind(at)


@pytest.mark.parametrize("generations", [1, 3])
def test_who_takes_an_address_over_gets_every_new_connection_and_who_had_it_keeps_its_queue(generations):
    with contextlib.ExitStack() as open_sockets:
        listening = open_sockets.enter_context(contextlib.closing(bind(Address("127.0.0.1", 0))))
        at = listening.getsockname()

        def callers(count):
            return [open_sockets.enter_context(contextlib.closing(socket.create_connection(at))) for _ in range(count)]

        def waiting(sock):
            count = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    open_sockets.enter_context(contextlib.closing(sock.accept()[0]))
                    count += 1
            return count

        for _ in range(generations):
            callers(20)
            anew = open_sockets.enter_context(contextlib.closing(bind(Address(*at), take_over=True)))
            callers(50)
            assert waiting(listening) == 20
            assert waiting(anew) == 50
            listening.close()
            callers(10)
            assert waiting(anew) == 10
            listening = anew


def test_an_address_just_left_can_be_taken_again():
    """Connections that linger in TIME_WAIT keep nobody from starting."""
    with bind(Address("127.0.0.1", 0)) as sock:
        name = sock.getsockname()
        with socket.create_connection(name) as caller:
            sock.setblocking(True)
            accepted, _ = sock.accept()
            accepted.close()
            assert caller.recv(1) == b""
    bind(Address(*name)).close()


def test_ipv6_is_listened_on():
    if not socket.has_ipv6:
        pytest.fail("this machine has no IPv6")
    try:
        sock = bind(Address("::1", 0))
    except OSError as error:
        assert error.errno == errno.EADDRNOTAVAIL  # noqa: PT017  a machine without ::1
        return
    assert sock.family == socket.AF_INET6
    sock.close()


def test_callers_past_the_limit_wait_in_the_queue_and_are_served_when_there_is_room(tmp_path):
    """Threats C9."""
    mesh = Mesh(tmp_path)

    async def story():
        _, web = await web_of(mesh)
        web.running.relay.limits = Limits(connections=3)
        callers = [await mesh.caller(web, None) for _ in range(5)]
        for caller in callers:
            await caller.send(GET)
        for caller in callers[:3]:
            assert (await caller.answer()).status == 200
        await until(lambda: web.said("too many connections"), "the operator is told")
        assert web.connections == 3
        assert not callers[3].reader._buffer
        waiting = asyncio.ensure_future(callers[3].answer())
        callers[0].close()
        assert (await waiting).status == 200
        callers[1].close()
        assert (await callers[4].answer()).status == 200
        for caller in callers[2:]:
            caller.close()

    mesh.run(story())


def test_running_out_of_descriptors_neither_spins_nor_ends_accepting(tmp_path):
    mesh = Mesh(tmp_path)

    class Short:
        """A listening socket whose accepts fail for a while."""

        def __init__(self, sock, times) -> None:
            self.sock, self.times, self.tried = sock, times, 0

        def accept(self):
            self.tried += 1
            if self.tried <= self.times:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.sock.accept()

        def __getattr__(self, name):
            return getattr(self.sock, name)

    async def story():
        _, web = await web_of(mesh)
        (acceptor,) = web.running._acceptors
        short = acceptor._sock = Short(acceptor._sock, 2)
        caller = await mesh.caller(web, None)
        assert (await caller.ask(GET)).status == 200
        assert short.tried == 4, "twice in vain, once for the caller, once to see that nobody else waits"
        assert len(web.said("accept failed")) == 2
        caller.close()

    mesh.run(story())


def test_a_caller_that_leaves_before_it_is_accepted_harms_nobody(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        _, web = await web_of(mesh)
        for _ in range(20):
            sock = socket.create_connection((web.outbound.host, web.outbound.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        assert (await mesh.call(web, GET, None)).status == 200
        await until(lambda: not web.connections, "all are gone")
        assert not web.said("unexpected error")

    mesh.run(story())


def test_a_flood_of_handshakes_leaves_time_for_those_already_here(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend())
        old = await mesh.caller(orders)
        socks = [await asyncio.open_connection(orders.inbound.host, orders.inbound.port) for _ in range(200)]
        for _ in range(5):
            assert (await old.ask(GET)).status == 200
        assert (await mesh.call(orders, GET)).status == 200
        old.close()
        for _, writer in socks:
            writer.transport.abort()
        await until(lambda: orders.refused().get("aborted", 0) == 200, "each is counted")

    mesh.run(story())


def test_what_a_callback_lets_escape_is_told_in_the_journal(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        _, web = await web_of(mesh)
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await until(lambda: web.said("unexpected error"), "it is told")
        assert "ZeroDivisionError" in web.said("unexpected error")[0]["error"]

    mesh.run(story())


def test_an_error_in_our_own_work_closes_the_connection_and_ends_its_request(tmp_path):
    """Fail closed: nothing is answered that was not decided, and the sidecar goes on."""
    mesh = Mesh(tmp_path)

    async def story():
        backend, web = await web_of(mesh)
        snapshot = web.running.relay.snapshot

        class Broken:
            def facts(self, listener, principal, head):
                raise ZeroDivisionError("facts")

        caller = await Caller.to(web.outbound)
        await until(lambda: web.connections, "it is accepted")
        web.running.relay.snapshot = Broken()
        await caller.send(GET)
        assert await caller.closed() == b""
        caller.close()
        await until(lambda: web.said("unexpected error"), "it is told")
        assert not backend.requests
        web.running.relay.snapshot = snapshot
        assert (await mesh.call(web, GET, None)).status == 200

    mesh.run(story())

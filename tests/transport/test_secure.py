"""TLS driven over the socket: what it hands on, how much it holds, and how it ends."""

import asyncio
import socket
import ssl

import pytest
import uvloop

from flui.transport.credentials import Credentials
from flui.transport.inbox import READ_OCTETS
from flui.transport.secure import Secure
from support.pki import Authority, write

SHOP = Authority("shop")
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=list(LOOPS))
def run(request):
    def run_it(coroutine):
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(coroutine, 20))

    return run_it


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secure")
    for service in ("orders", "web"):
        write(folder, service, SHOP.leaf(f"spiffe://shop/{service}"), SHOP)
    return Credentials(folder, "orders"), Credentials(folder, "web")


class End:
    """Speaks above a `Secure` and remembers everything."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.heard = bytearray()
        self.largest = 0
        self.eof = False
        self.lost = loop.create_future()
        self.told = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def received(self, data):
        self.heard += data
        self.largest = max(self.largest, len(data))
        self.told.set()

    def eof_received(self):
        self.eof = True
        return False

    def connection_lost(self, exc):
        assert not self.lost.done(), "told twice"
        self.lost.set_result(exc)
        self.told.set()

    def pause_writing(self):
        pass

    def resume_writing(self):
        pass

    async def hears(self, octets):
        while len(self.heard) < octets and not self.lost.done():
            self.told.clear()
            await self.told.wait()
        return bytes(self.heard)


async def wires(credentials, handshake_s=5.0):
    """Both ends, connected over a loopback socket pair, before the handshake is done."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    called, calls = End(), End()
    server = Secure(called, credentials[0].server_context(), loop, handshake_s, server=True)
    client = Secure(calls, credentials[1].client_context(), loop, handshake_s, server=False)
    for sock, secure in ((ours, server), (theirs, client)):
        sock.setblocking(False)
        await loop.create_connection(lambda secure=secure: secure, sock=sock)
    return called, server, calls, client


async def connected(credentials):
    called, server, calls, client = await wires(credentials)
    await asyncio.gather(server.established(), client.established())
    return called, calls


def test_what_one_end_writes_the_other_hears_whatever_its_size(run, credentials):
    async def story():
        called, calls = await connected(credentials)
        said = bytes(range(256)) * 4 * 400 + b"end"
        calls.transport.write(said)
        called.transport.write(b"short")
        assert await called.hears(len(said)) == said
        assert await calls.hears(5) == b"short"
        assert called.largest <= READ_OCTETS, "one read of the socket at most is handed on at once"
        calls.transport.close()
        assert await called.lost is None
        assert called.eof, "close_notify came first"
        assert await calls.lost is None

    run(story())


def test_a_reader_that_pauses_is_handed_nothing_and_loses_nothing(run, credentials):
    async def story():
        called, calls = await connected(credentials)
        called.transport.pause_reading()
        calls.transport.write(b"x" * 1_000_000)
        calls.transport.write(b"y")
        assert calls.transport.get_write_buffer_size() > 0, "the socket is full: the writer is the one who waits"
        assert called.heard == b""
        called.transport.resume_reading()
        assert await called.hears(1_000_001) == b"x" * 1_000_000 + b"y"
        calls.transport.abort()
        await called.lost

    run(story())


def test_an_end_without_close_notify_is_an_error(run, credentials):
    """RFC 8446 6.1: else whoever cuts the connection decides where a body ends."""

    async def story():
        called, calls = await connected(credentials)
        calls.transport.write(b"half a")
        await called.hears(6)
        calls.transport._tcp.close()
        error = await called.lost
        assert isinstance(error, ConnectionResetError)
        assert not called.eof

    run(story())


def test_octets_that_are_no_record_end_the_connection(run, credentials):
    async def story():
        called, calls = await connected(credentials)
        calls.transport._tcp.write(b"GET / HTTP/1.1\r\n\r\n")
        assert isinstance(await called.lost, ConnectionResetError)
        assert called.heard == b""
        await calls.lost

    run(story())


def test_a_handshake_that_does_not_come_ends_in_time(run, credentials):
    async def story():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        called = End()
        secure = Secure(called, credentials[0].server_context(), loop, 0.05, server=True)
        await loop.create_connection(lambda: secure, sock=ours)
        with pytest.raises(TimeoutError):
            await secure.established()
        assert not hasattr(called, "transport"), "nobody above was told of it"
        theirs.setblocking(False)
        assert await loop.sock_recv(theirs, 1) == b"", "the socket is closed"
        theirs.close()

    run(story())


def test_a_peer_that_goes_away_during_the_handshake_is_an_error(run, credentials):
    async def story():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        secure = Secure(End(), credentials[0].server_context(), loop, 5.0, server=True)
        await loop.create_connection(lambda: secure, sock=ours)
        theirs.close()
        with pytest.raises(ConnectionError):
            await secure.established()

    run(story())


def test_a_caller_without_a_certificate_fails_the_handshake(run, credentials):
    async def story():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        secure = Secure(End(), credentials[0].server_context(), loop, 5.0, server=True)
        await loop.create_connection(lambda: secure, sock=ours)
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # noqa: TID251 - a caller that is not ours
        bare.check_hostname = False
        bare.verify_mode = ssl.CERT_NONE
        theirs.settimeout(10)
        shaken = asyncio.ensure_future(asyncio.to_thread(bare.wrap_socket, theirs))
        with pytest.raises(ssl.SSLError, match=r"(?i)peer_did_not_return|peer did not return"):
            await secure.established()
        (await shaken).close()

    run(story())


def test_after_close_nothing_more_is_written(run, credentials):
    async def story():
        called, calls = await connected(credentials)
        calls.transport.write(b"last")
        calls.transport.close()
        calls.transport.write(b"too late")
        assert calls.transport.is_closing()
        await called.lost
        assert called.heard == b"last"

    run(story())

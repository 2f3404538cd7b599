"""TLS driven over the socket: what it hands on, how much it holds, and how it ends."""

import asyncio
import gc
import socket
import ssl
import sys
from pathlib import Path

import pytest
import uvloop

from flui.transport import secure as module
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


# --- what a caller costs before it is one, and after -------------------------------------------------------------------------


async def called_by(credentials, sock, handshake_s=5.0):
    """Our end alone; the test is the peer."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    above = End()
    secure = Secure(above, credentials[0].server_context(), loop, handshake_s, server=True)
    await loop.connect_accepted_socket(lambda: secure, sock)
    return above, secure


def hello(credentials):
    """A ClientHello."""
    said = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        credentials[1].client_context().wrap_bio(ssl.MemoryBIO(), said).do_handshake()
    return said.read()


def test_half_a_first_record_does_not_engage_openssl(run, credentials):
    """Threats C8, C9: a connection that says nothing, or not enough, is kept for as long as it may, so it must cost little."""

    async def story():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        _, secure = await called_by(credentials, ours, 0.3)
        waits = asyncio.ensure_future(secure.established())
        for octet in hello(credentials)[:-1]:
            await loop.sock_sendall(theirs, bytes([octet]))
        with pytest.raises(TimeoutError):
            await waits
        assert len(secure._first) == len(hello(credentials)) - 1
        assert not hasattr(secure, "_ssl")
        theirs.close()

    run(story())


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6, 200, 516])
def test_a_first_record_may_come_in_pieces(run, credentials, at):
    async def story():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        above, secure = await called_by(credentials, ours)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = credentials[1].client_context().wrap_bio(incoming, outgoing)
        shaken = False
        while not shaken:
            try:
                client.do_handshake()
                shaken = True
            except ssl.SSLWantReadError:
                pass
            said = outgoing.read()
            for piece in (said[:at], said[at:]):
                await loop.sock_sendall(theirs, piece)
                await asyncio.sleep(0)
            if not shaken:
                incoming.write(await loop.sock_recv(theirs, 65536))
        client.write(b"hi")
        await loop.sock_sendall(theirs, outgoing.read())
        await secure.established()
        assert await above.hears(2) == b"hi"
        theirs.close()
        await above.lost

    run(story())


@pytest.mark.parametrize("said", [b"G", b"\x80", b"\x16\x03\x01\xff\xff"], ids=["http", "SSLv2", "long"])
def test_what_cannot_become_a_handshake_is_refused_at_once(run, credentials, said):
    """Threats E8: plain text is closed within a second, not at the end of the handshake's time."""

    async def story():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        _, secure = await called_by(credentials, ours, 30.0)
        await loop.sock_sendall(theirs, said + bytes(16) if len(said) == 1 else said)
        async with asyncio.timeout(1):
            with pytest.raises(ssl.SSLError):
                await secure.established()
        theirs.close()

    run(story())


def test_one_that_is_given_up_before_it_began_is_closed_when_it_begins(run, credentials):
    async def story():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        secure = Secure(End(), credentials[0].server_context(), loop, 5.0, server=True)
        secure.abort()
        await loop.connect_accepted_socket(lambda: secure, ours)
        with pytest.raises(ConnectionAbortedError):
            await secure.established()
        assert await loop.sock_recv(theirs, 1) == b""
        theirs.close()

    run(story())


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.connect(server.getsockname())
        return server.accept()[0], theirs


async def unread(credentials):
    """A peer over TCP that has not read what was sent to it."""
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    calls, called = End(), End()
    server = Secure(called, credentials[0].server_context(), loop, 5.0, server=True)
    client = Secure(calls, credentials[1].client_context(), loop, 5.0, server=False)
    for sock, secure in ((ours, server), (theirs, client)):
        sock.setblocking(False)
        await loop.create_connection(lambda secure=secure: secure, sock=sock)
    await asyncio.gather(server.established(), client.established())
    calls.transport.pause_reading()
    ports = ours.getsockname()[1], theirs.getsockname()[1]
    while called.transport.get_write_buffer_size() == 0:
        called.transport.write(bytes(65536))
    return called, calls, ports


def in_kernel(local, remote):
    """The state of our side of a connection, as long as it has one."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[3] for row in rows if row[1].endswith(f":{local:04X}") and row[2].endswith(f":{remote:04X}")]


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_peer_that_does_not_read_is_reset_by_abort(run, credentials):
    """The kernel would else keep for many minutes what was sent before."""

    async def story():
        called, calls, ports = await unread(credentials)
        called.transport.abort()
        assert await called.lost is None
        assert in_kernel(*ports) == []
        calls.transport.resume_reading()
        assert isinstance(await calls.lost, ConnectionResetError)

    run(story())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_what_is_unread_after_close_is_given_up_in_time(run, credentials, monkeypatch):
    """Also what has left our buffers: the socket belongs to nobody then."""
    monkeypatch.setattr(module, "_UNREAD_MS", 300)

    async def story():
        called, calls, ports = await unread(credentials)
        called.transport.close()
        while in_kernel(*ports):  # noqa: ASYNC110 - the kernel has no events for it
            await asyncio.sleep(0.05)
        await called.lost
        calls.transport.abort()
        await calls.lost

    run(story())


@pytest.mark.parametrize("ends", ["well", "cut", "late", "plain"])
def test_one_that_is_over_is_freed_without_a_collection(run, credentials, ends):
    """Full collections are rare in a sidecar: rings of what belongs to a connection would wait in memory for one."""

    def left():
        return [thing for thing in gc.get_objects() if type(thing) in {Secure, ssl.SSLObject}]

    async def lives():
        if ends in {"well", "cut"}:
            called, calls = await connected(credentials)
            calls.transport.close() if ends == "well" else calls.transport.abort()
            await asyncio.gather(called.lost, calls.lost)
            return
        ours, theirs = socket.socketpair()
        with theirs:
            _, secure = await called_by(credentials, ours, 0.05)
            theirs.sendall(b"" if ends == "late" else b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises((TimeoutError, ssl.SSLError)) as failed:
                await secure.established()
            del failed  # it holds the frames that it came through

    async def story():
        loop = asyncio.get_running_loop()
        gc.collect()
        gc.disable()
        try:
            await lives()
            end = loop.time() + 5
            while left() and loop.time() < end:  # noqa: ASYNC110 - the loop lets go of it in a turn of its own
                await asyncio.sleep(0.01)
            assert left() == []
        finally:
            gc.enable()

    run(story())

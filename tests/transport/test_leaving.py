"""Who goes while nobody reads from him is noticed."""

import asyncio
import select
import socket
import struct

import pytest
import uvloop

from flui.transport.leaving import Leavers

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux tells of sockets that are not read")


class Side(asyncio.Protocol):
    def __init__(self):
        self.lost = asyncio.Event()
        self.heard = asyncio.Event()
        self.got = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.got += data
        self.heard.set()

    def eof_received(self):
        return True

    def connection_lost(self, exc):
        self.lost.set()


def run(story):
    async def whole():
        loop = asyncio.get_running_loop()
        listening = socket.create_server(("127.0.0.1", 0))
        side = Side()
        await loop.create_connection(lambda: side, *listening.getsockname())
        far, _ = listening.accept()
        listening.close()
        leavers = Leavers(loop)
        try:
            async with asyncio.timeout(5):
                await story(leavers, side, far)
        finally:
            leavers.close()
            side.transport.abort()
            far.close()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("half", [True, False])
def test_a_peer_that_resets_is_gone_though_nobody_reads(half):
    async def story(leavers, side, far):
        side.transport.pause_reading()
        far.sendall(b"unread")
        leavers.watch(side.transport, half=half)
        reset(far)
        await side.lost.wait()
        assert side.got == b""

    run(story)


def test_a_peer_that_says_no_more_is_gone_only_where_that_is_meant():
    async def story(leavers, side, far):
        side.transport.pause_reading()
        number = leavers.watch(side.transport, half=False)
        far.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.05)  # nothing is to happen: there is no event to wait for
        assert not side.lost.is_set()
        leavers.forget(number, side.transport)
        leavers.watch(side.transport, half=True)
        await side.lost.wait()

    run(story)


def test_who_is_read_again_is_not_watched():
    async def story(leavers, side, far):
        side.transport.pause_reading()
        number = leavers.watch(side.transport, half=True)
        leavers.forget(number, side.transport)
        side.transport.resume_reading()
        far.sendall(b"read")
        far.shutdown(socket.SHUT_WR)
        await side.heard.wait()
        assert side.got == b"read"
        assert not side.lost.is_set()
        leavers.forget(number, side.transport)

    run(story)

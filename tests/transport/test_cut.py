"""How a connection ends of which something is still under way."""

import asyncio
import select
import socket

import pytest

from flui.transport.leaving import cut


@pytest.mark.parametrize("reads", [True, False])
def test_a_peer_that_does_not_read_is_reset_and_another_one_is_told_in_order(reads):
    async def story():
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
        peer, _ = listener.accept()
        with listener, peer:
            if reads:
                transport.write(b"x")
                assert await asyncio.to_thread(peer.recv, 1) == b"x"
            else:
                transport.write(bytes(1 << 26))
            cut(transport)
            await asyncio.sleep(0)
            poll = select.poll()
            poll.register(peer, select.POLLRDHUP)
            (_, found), *_ = await asyncio.to_thread(poll.poll, 5000)
            assert bool(found & select.POLLERR) is not reads, "POLLERR: it was reset"
            if reads:
                assert peer.recv(1) == b""

    asyncio.run(story())

"""A dial whose time is up because our own loop was held up, and not for its endpoint."""

import asyncio
import time

import pytest

from flui.model.config import Limits
from flui.model.fault import Fault
from flui.model.topology import Address, Cluster, Endpoint
from flui.routing.pick import Member
from flui.upstream.dial import DialError, connect


class Nobody:
    def forget(self, connection):
        pass


async def dial(port, connect_s):
    endpoint = Endpoint("a", Address("127.0.0.1", port))
    cluster = Cluster("orders", (endpoint,))
    return await connect(Nobody(), Member(endpoint), cluster, None, Limits(), connect_s)


def test_what_was_done_in_time_counts_however_late_the_loop_hears_of_it():
    def holds_up():
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass

    async def story():
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, holds_up)
            connection = await dial(server.sockets[0].getsockname()[1], 0.1)
            connection.close()

    asyncio.run(story())


def test_who_is_not_there_is_refused_at_once():
    with pytest.raises(DialError) as told:
        asyncio.run(dial(1, 5.0))
    assert told.value.fault is Fault.UPSTREAM_REFUSED

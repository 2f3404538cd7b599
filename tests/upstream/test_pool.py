"""Connections to endpoints: reused last-in first-out, dialled when there is none, gone when their endpoint is."""

import asyncio
from random import Random

import pytest

from flui.model.config import Limits, Timeouts
from flui.model.fault import Fault
from flui.model.topology import Address, Balance, Cluster, Endpoint, Policy
from flui.telemetry.families import UPSTREAM_CONNECTS
from flui.telemetry.meters import Meters
from flui.upstream import dial
from flui.upstream.dial import DialError
from flui.upstream.pool import ClusterPool
from flui.upstream.pools import Pools
from flui.upstream.single import Single
from support.mesh import Mesh, until


def endpoint(backend, name="a", weight=1):
    return Endpoint(name, backend.address if hasattr(backend, "address") else backend, weight)


def cluster(*endpoints, name="stock", **more):
    return Cluster(name, endpoints, Balance(Policy.ROUND_ROBIN), **more)


def pool_of(one, meters=None, timeouts=None):
    return ClusterPool(one, None, Limits(), timeouts or Timeouts(), meters or Meters(), Random(1))


class Nobody:
    """Who dials without an exchange."""

    waits_since = float("inf")

    def upstream_spoke(self, now):
        raise AssertionError


async def opened(pool):
    member = pool.pick(b"", ())
    assert member is not None
    return await pool.dial(member, Nobody())


async def silent(backend, request, reader, writer):
    await reader.read()
    return False


def test_the_connection_used_last_is_used_first(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        pool = pool_of(cluster(endpoint(await mesh.backend(silent))))
        (member,) = pool.members.values()
        one, two = await opened(pool), await opened(pool)
        assert member.active == 2
        pool.release(one, 1.0)
        pool.release(two, 2.0)
        assert (member.active, pool.idle_count(), pool.open_count()) == (0, 2, 2)
        assert pool.ready(member) is two
        assert pool.ready(member) is one
        assert pool.ready(member) is None
        pool.close()

    mesh.run(story())


def test_an_idle_connection_that_its_endpoint_closes_leaves_the_pool(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(silent)
        pool = pool_of(cluster(endpoint(backend)))
        pool.release(await opened(pool), 1.0)
        for writer in list(backend.open):
            writer.close()
        await until(lambda: not pool.open_count(), "it is forgotten")
        assert pool.idle_count() == 0

    mesh.run(story())


def test_an_endpoint_that_speaks_unasked_is_not_used(tmp_path):
    """Threats A8: its octets would be read as the answer to the next request."""
    mesh = Mesh(tmp_path)

    async def babbles(backend, request, reader, writer):
        await backend.go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        return False

    async def story():
        backend = await mesh.backend(babbles)
        pool = pool_of(cluster(endpoint(backend)))
        pool.release(await opened(pool), 1.0)
        backend.go.set()
        await until(lambda: not pool.open_count(), "it is closed")
        assert pool.idle_count() == 0

    mesh.run(story())


@pytest.mark.parametrize("how", ["closes", "resets", "speaks"])
def test_a_connection_that_ends_as_soon_as_it_is_open_is_no_connection(tmp_path, monkeypatch, how):
    """Nothing was sent on it, so it is a failed dial, and the next endpoint may have the request."""
    mesh = Mesh(tmp_path)

    class Quick(Single):
        """What the loop may well deliver between the connect and the waking of who waits for it."""

        def connection_made(self, transport):
            super().connection_made(transport)
            if how == "closes":
                self.eof_received()
            elif how == "resets":
                self.connection_lost(ConnectionResetError())
                transport.abort()
            else:
                self.codec.receive(b"220 hello\r\n")

    monkeypatch.setattr(dial, "Single", Quick)

    async def story():
        pool = pool_of(cluster(endpoint(await mesh.backend(silent))))
        with pytest.raises(DialError) as refused:
            await opened(pool)
        assert refused.value.fault is Fault.UPSTREAM_REFUSED
        assert pool.open_count() == 0

    mesh.run(story())


def test_dials_are_counted_by_outcome(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        meters = Meters()
        backend = await mesh.backend(silent)
        gone = await mesh.backend(silent)
        await gone.stop()
        await opened(pool_of(cluster(endpoint(backend)), meters))
        for local, fault in ((False, Fault.UPSTREAM_REFUSED), (True, Fault.APP_UNAVAILABLE)):
            with pytest.raises(DialError) as refused:
                await opened(pool_of(cluster(endpoint(gone), local=local), meters))
            assert refused.value.fault is fault
        assert meters.samples(UPSTREAM_CONNECTS) == {
            ("stock", "connected"): 1,
            ("stock", "upstream_refused"): 1,
            ("stock", "app_unavailable"): 1,
        }
        for writer in list(backend.open):
            writer.transport.abort()

    mesh.run(story())


def test_tls_without_credentials_is_refused_before_a_socket_is_opened(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(silent)
        with pytest.raises(DialError) as refused:
            await opened(pool_of(cluster(endpoint(backend), identity="spiffe://shop/stock")))
        assert refused.value.fault is Fault.UPSTREAM_IDENTITY
        assert not backend.connections

    mesh.run(story())


def test_members_that_stay_keep_their_connections_and_their_load(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(silent)
        stays, goes = endpoint(backend), endpoint(Address("127.0.0.1", 9), "b")
        pool = pool_of(cluster(stays, goes))
        member = pool.members[stays]
        member.active += 1
        connection = await pool.dial(member, Nobody())
        pool.update(cluster(stays))
        assert pool.members == {stays: member}
        assert member.active == 1
        pool.release(connection, 1.0)
        assert pool.idle_count() == 1
        pool.close()

    mesh.run(story())


def test_a_member_that_went_and_came_back_begins_anew(tmp_path):
    """Its old connection is not put where nobody would look for it."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(silent)
        one = endpoint(backend)
        pool = pool_of(cluster(one))
        connection = await opened(pool)
        pool.update(cluster())
        pool.update(cluster(one))
        pool.release(connection, 1.0)
        assert (pool.idle_count(), pool.open_count()) == (0, 0)
        assert pool.members[one].active == 0

    mesh.run(story())


def test_connections_idle_for_too_long_are_closed(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        pool = pool_of(cluster(endpoint(await mesh.backend(silent))))
        one, two = await opened(pool), await opened(pool)
        pool.release(one, 10.0)
        pool.release(two, 50.0)
        pool.sweep(61.0, 50.0)
        assert (pool.idle_count(), pool.open_count()) == (1, 1)
        pool.close()
        assert pool.open_count() == 0

    mesh.run(story())


def test_a_removed_cluster_serves_no_new_request_and_lets_the_last_one_end(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(silent)
        pools = Pools(pool_of)
        wanted = (cluster(endpoint(backend)), cluster(endpoint(backend), name="other"))
        pools.update(wanted, Limits(), Timeouts())
        pool = pools.by_name["stock"]
        busy, idle = await opened(pool), await opened(pool)
        pool.release(idle, 1.0)
        pools.update(wanted[1:], Limits(), Timeouts())
        assert list(pools.by_name) == ["other"]
        assert pool.pick(b"", ()) is None
        assert pool.open_count() == 1
        assert not busy.lost
        pool.release(busy, 2.0)
        assert pool.open_count() == 0

    mesh.run(story())


def test_closing_reaches_the_connections_of_removed_clusters(tmp_path):
    """Also when trust in their peer ends: being removed from the configuration makes no connection immortal."""
    mesh = Mesh(tmp_path)

    async def story():
        pools = Pools(pool_of)
        pools.update((cluster(endpoint(await mesh.backend(silent))),), Limits(), Timeouts())
        pool = pools.by_name["stock"]
        await opened(pool)
        pools.update((), Limits(), Timeouts())
        assert pool.open_count() == 1
        pools.close()
        assert pool.open_count() == 0

    mesh.run(story())


def test_a_cluster_that_changes_its_identity_starts_anew(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        pools = Pools(pool_of)
        one = cluster(endpoint(await mesh.backend(silent)))
        pools.update((one,), Limits(), Timeouts())
        pool = pools.by_name["stock"]
        pool.release(await opened(pool), 1.0)
        pools.update((cluster(*one.endpoints, identity="spiffe://shop/stock"),), Limits(), Timeouts())
        assert pools.by_name["stock"] is not pool
        assert pool.open_count() == 0, "no plain connection is used for a service that must prove who it is"

    mesh.run(story())


def test_a_refused_dial_over_tls_leaves_no_timer_behind(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        gone = await mesh.backend()
        await gone.stop()
        web = await mesh.sidecar("web", services=f"  stock: {{endpoints: ['{gone.address}']}}", more="timeouts: {connect: 50ms}")
        assert (await mesh.call(web, b"GET / HTTP/1.1\r\nhost: stock\r\n\r\n", None)).status == 502
        began = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > began + 0.15, "three times the time that a dial may take")
        assert not web.said("unexpected error")

    mesh.run(story())


def test_a_connection_closed_by_us_in_the_middle_of_a_response_is_cut_and_not_complete(tmp_path):
    """A body that ends with its connection looks whole at any end: what we close ourselves (trust is gone, say) is none."""
    mesh = Mesh(tmp_path)

    async def endless(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            await reader.read()
        return request is None

    async def story():
        backend = await mesh.backend(endless)
        web = await mesh.sidecar("web", services=f"  stock: {{endpoints: ['{backend.address}'], plaintext: true}}")
        caller = await mesh.caller(web, None)
        await caller.send(b"GET / HTTP/1.1\r\nhost: stock\r\n\r\n")
        await caller.reader.readuntil(b"half\r\n")
        (connection,) = web.running.relay.pools.by_name["stock"]._all
        connection.close()
        assert b"0\r\n\r\n" not in await caller.closed()
        assert web.log()[0]["fault"] == "upstream_reset"
        caller.close()

    mesh.run(story())


def test_a_dial_that_is_cancelled_leaves_no_socket_behind(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(silent)
        folder = mesh.prepare("web").parent / "certs"
        from flui.transport.credentials import Credentials

        one = cluster(endpoint(backend), identity="spiffe://shop/stock")
        pool = ClusterPool(one, Credentials(folder, "web"), Limits(), Timeouts(), Meters(), Random(1))
        dialling = asyncio.ensure_future(opened(pool))
        await until(lambda: backend.open, "it shakes hands with a wall")
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        await until(lambda: not backend.open, "the socket is closed")

    mesh.run(story())


def test_a_last_resort_is_who_was_taken_out_for_what_it_answered_but_not_who_is_ill():
    pool = pool_of(
        cluster(endpoint(Address("127.0.0.1", 1), "a"), endpoint(Address("127.0.0.1", 2), "b"), endpoint(Address("127.0.0.1", 3), "c"))
    )
    well, out, ill = pool.members.values()
    out.available = ill.available = False
    out.out = ill.out = True
    ill.vitals.ill = True
    assert pool.has_untried(())
    assert not pool.has_untried((well,))
    assert pool.has_untried((well,), resort=True)
    assert pool.resort((well,)) is out
    assert not pool.has_untried((well, out), resort=True)
    assert pool.resort((well, out)) is None


def test_an_endpoint_without_weight_is_not_there_for_one_more_try():
    pool = pool_of(cluster(endpoint(Address("127.0.0.1", 1), "a"), endpoint(Address("127.0.0.1", 2), "b", weight=0)))
    one, none = pool.members.values()
    assert not pool.has_untried((one,))
    none.out = True
    none.available = False
    assert not pool.has_untried((one,), resort=True)
    assert pool.resort((one,)) is None

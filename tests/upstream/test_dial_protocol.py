"""What is spoken to an endpoint: what it picks of what we offer, or what configuration says (RFC 7301, RFC 9113 3.2 and 3.3)."""

import asyncio

import pytest
from lanes import Asker, cluster, play, pool_of

from flui.model.fault import Fault
from flui.model.topology import Protocol
from flui.transport.credentials import Credentials
from flui.upstream.dial import DialError
from flui.upstream.shared import Lane, Shared
from flui.upstream.single import Single
from support.mesh import until
from support.pki import Authority, write

STOCK = "spiffe://shop/stock"


class Mesh:
    """Who proves what to whom."""

    def __init__(self, folder):
        self.ca = Authority("shop")
        write(folder, "web", self.ca.leaf("spiffe://shop/web"), self.ca)
        self.credentials = Credentials(folder, "web")

    async def module(self, stage, alpn=("h2",), name=STOCK, **more):
        return await stage.module(self.ca.leaf(name), self.ca, alpn, **more)

    def pool(self, *modules, **more):
        return pool_of(cluster(*modules, identity=STOCK, **{"protocol": Protocol.AUTO, **more}), self.credentials)


@pytest.fixture
def mesh(tmp_path):
    return Mesh(tmp_path)


@pytest.mark.parametrize(
    ("protocol", "takes", "spoken"),
    [
        (Protocol.AUTO, ("h2",), Shared),
        (Protocol.AUTO, ("h2", "http/1.1"), Shared),
        (Protocol.AUTO, ("http/1.1", "h2"), Single),
        (Protocol.AUTO, ("http/1.1",), Single),
        (Protocol.AUTO, (), Single),
        (Protocol.HTTP1, ("h2", "http/1.1"), Single),
        (Protocol.HTTP1, (), Single),
        (Protocol.HTTP2, ("http/1.1", "h2"), Shared),
    ],
)
def test_over_tls_the_endpoint_picks_from_what_is_offered(mesh, protocol, takes, spoken):
    async def story(stage):
        pool = mesh.pool(await mesh.module(stage, takes), protocol=protocol)
        asker = await Asker(pool).connect()
        (connection,) = pool._all
        assert type(connection) is spoken
        assert asker.up.peer is not None
        assert asker.up.peer.principal.name == STOCK

    play(story)


@pytest.mark.parametrize("takes", [("http/1.1",), ()])
def test_who_must_speak_http2_and_does_not_is_not_asked(mesh, takes):
    async def story(stage):
        module = await mesh.module(stage, takes)
        pool = mesh.pool(module, protocol=Protocol.HTTP2)
        with pytest.raises(DialError, match=r"speaks http/1\.1, and stock is to be spoken to in HTTP/2") as refused:
            await Asker(pool).connect()
        assert refused.value.fault is Fault.UPSTREAM_REFUSED
        await until(lambda: not module.open, "the connection is closed")
        assert not any(connection.reads for connection in module.connections), "not one octet"
        assert pool.open_count() == 0

    play(story)


def test_somebody_else_hears_not_one_octet_of_http2(mesh):
    """Threats E10: also not the preface."""

    async def story(stage):
        module = await mesh.module(stage, name="spiffe://shop/other")
        pool = mesh.pool(module)
        with pytest.raises(DialError) as refused:
            await Asker(pool).connect()
        assert refused.value.fault is Fault.UPSTREAM_IDENTITY
        await until(lambda: not module.open, "the connection is closed")
        assert not any(connection.reads for connection in module.connections)

    play(story)


@pytest.mark.parametrize(("protocol", "spoken"), [(Protocol.AUTO, Single), (Protocol.HTTP1, Single), (Protocol.HTTP2, Shared)])
def test_on_plain_text_http2_is_spoken_with_prior_knowledge_only(protocol, spoken):
    async def story(stage):
        module = await stage.module()
        module.greets = False
        pool = pool_of(cluster(module, protocol=protocol))
        await Asker(pool).connect()
        (connection,) = pool._all
        assert type(connection) is spoken

    play(story)


def test_exchanges_over_tls_share_one_connection(mesh):
    async def story(stage):
        module = await mesh.module(stage)
        pool = mesh.pool(module)
        askers = await asyncio.gather(*(Asker(pool).ask() for _ in range(20)))
        for asker in askers:
            assert (await asker.answered()).body == b"ok\n"
            asker.release()
        assert len(module.connections) == 1

    play(story)


def test_two_members_share_no_connection_even_where_they_prove_the_same(mesh):
    """Threats E10: connections are shared by whom they were dialled to, never by address or certificate alone."""

    async def story(stage):
        module = await mesh.module(stage)
        pool = mesh.pool(module, module)
        askers = [await Asker(pool).ask() for _ in range(4)]
        assert pool.open_count() == 2
        assert {asker.up.member.endpoint.name for asker in askers} == {"a", "b"}
        assert all(asker.up.shared.member is asker.up.member for asker in askers)

    play(story)


def test_who_waited_for_a_connection_that_speaks_http1_dials_for_himself_and_waits_no_more(mesh):
    async def story(stage):
        module = await mesh.module(stage, ("http/1.1",))
        pool = mesh.pool(module)
        askers = await asyncio.gather(*(Asker(pool).connect() for _ in range(4)))
        assert pool.open_count() == 4
        assert all(isinstance(asker.up, Single) for asker in askers)
        (member,) = pool.members.values()
        assert not pool._may_share(member)
        again = [asyncio.ensure_future(Asker(pool).connect()) for _ in range(3)]
        await asyncio.sleep(0)
        assert (pool._dialling, len(pool._joiners)) == (3, 0)
        await asyncio.gather(*again)

    play(story)


def test_a_connection_does_not_outlive_the_trust_in_its_peer(mesh, tmp_path):
    async def story(stage):
        module = await mesh.module(stage, answers=False)
        pool = mesh.pool(module)
        askers = await asyncio.gather(*(Asker(pool).ask() for _ in range(3)))
        peer = askers[0].up.peer
        assert pool.retrust(peer.principal.expires_at - 1) == 0
        assert not pool.lapsed(peer.principal.expires_at - 1)
        assert pool.lapsed(peer.principal.expires_at)
        assert pool.retrust(peer.principal.expires_at + 1) == 1
        for asker in askers:
            assert (await asker.answered()).fault is Fault.UPSTREAM_RESET
            asker.release()
        assert pool.open_count() == 0
        other = Authority("shop")
        write(tmp_path, "web", other.leaf("spiffe://shop/web"), other)
        assert mesh.credentials.reload()
        with pytest.raises(DialError):
            await Asker(pool).connect()

    play(story)


def test_before_a_certificate_lapses_its_connection_takes_no_more_and_lets_those_on_it_end(mesh):
    """Else every exchange that a busy connection carries would be cut with it, at every rotation."""

    async def story(stage):
        module = await mesh.module(stage, answers=False)
        pool = mesh.pool(module)
        asker = await Asker(pool).ask()
        await until(lambda: module.connections and module.connections[0].ended, "it is asked")
        lapses = min(asker.up.peer.principal.expires_at, mesh.credentials.expires_at)
        pool.renew(lapses - 60)
        assert asker.up.shared.has_room
        pool.renew(lapses - 29)
        assert not asker.up.shared.has_room
        again = await Asker(pool).ask()
        assert again.up.shared is not asker.up.shared
        module.connections[0].respond(1, b"to the end")
        assert (await asker.answered()).body == b"to the end"
        asker.release()
        await until(lambda: module.connections[0].lost, "it ends with its last exchange")
        assert pool.open_count() == 1

    play(story)


def test_a_lane_has_the_face_of_a_connection(mesh):
    async def story(stage):
        pool = mesh.pool(await mesh.module(stage))
        asker = await Asker(pool).connect()
        lane = asker.up
        assert isinstance(lane, Lane)
        assert lane.codec.reusable
        assert lane.is_reading
        assert not lane.lost
        asker.say()
        assert not lane.codec.reusable, "an exchange is under way"
        await asker.answered()
        assert lane.codec.reusable
        lane.close()
        lane.close()
        assert lane.shared.busy == 0

    play(story)

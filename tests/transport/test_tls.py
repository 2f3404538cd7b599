"""Handshakes over real sockets, on asyncio and on uvloop, with peers that are ours and peers that are not."""

import asyncio
import contextlib
import gc
import inspect
import socket
import ssl
import sys
import tempfile

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from flui.identity.svid import Reason, SvidError
from flui.transport import _sslobj, tls
from flui.transport.credentials import Credentials
from support.pki import DAY, Authority, new_key, pkcs8, raw_context, wall_clock, write

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
SHOP = Authority("shop")
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")


@pytest.fixture(params=list(LOOPS))
def run(request):
    """Runs a coroutine to its end on one of the loops, within 20 s."""

    def run_it(coroutine):
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(coroutine, 20))

    return run_it


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    """Of orders and web, both of the trust domain shop."""
    folder = tmp_path_factory.mktemp("certs")
    for service in ("orders", "web"):
        write(folder, service, SHOP.leaf(f"spiffe://shop/{service}"), SHOP)
    return Credentials(folder, "orders"), Credentials(folder, "web")


class Side(asyncio.Protocol):
    """One end: asks `agreed` and `peer` at once, says hello if it may, and remembers all."""

    def __init__(self, judge, hello=b""):
        loop = asyncio.get_running_loop()
        self.judge = judge
        self.hello = hello
        self.outcome = loop.create_future()
        self.octets = b""
        self.ended = loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        try:
            found = self.judge(transport.get_extra_info("ssl_object"))
        except SvidError as e:
            self.outcome.set_result(e)
            transport.abort()
            return
        self.outcome.set_result(found)
        if self.hello:
            transport.write(self.hello)

    def data_received(self, octets):
        self.octets += octets

    def connection_lost(self, exc):
        if not self.outcome.done():
            self.outcome.set_result(exc)
        self.ended.set_result(exc)


def judged_by(credentials):
    def judge(ssl_object):
        tls.agreed(ssl_object, credentials.alpn)
        return tls.peer(ssl_object, credentials)

    return judge


def nothing(ssl_object):
    return ssl_object


async def meet(server_context, server_judge, client_context, client_judge=nothing):
    """One connection. The outcomes of both sides: a Peer (or what the judge gave), or the exception; and the client's octets."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]

        async def serve():
            sock, _ = await loop.sock_accept(listening)
            side = Side(server_judge, b"hello")
            try:
                await loop.connect_accepted_socket(lambda: side, sock, ssl=server_context, ssl_handshake_timeout=5)
            except (OSError, SvidError) as e:
                return e, side
            return await side.outcome, side

        serving = asyncio.ensure_future(serve())
        client = Side(client_judge)
        try:
            await loop.create_connection(
                lambda: client, "127.0.0.1", port, ssl=client_context, server_hostname="orders", ssl_handshake_timeout=5
            )
            theirs = await client.outcome
        except OSError as e:
            theirs = e
        ours, side = await serving
        if isinstance(ours, Exception):
            if not isinstance(theirs, Exception):
                await client.ended
        elif not isinstance(theirs, Exception):
            side.transport.close()
            await client.ended
        for one in (side, client):
            if hasattr(one, "transport"):
                one.transport.abort()
                with contextlib.suppress(Exception):
                    await one.ended
        return ours, theirs, client.octets


def raw_client(leaf, *authorities, **more):
    return raw_context(ssl.PROTOCOL_TLS_CLIENT, leaf, authorities, **more)


def test_both_sides_know_one_another_before_the_first_octet(run, credentials):
    orders, web = credentials
    ours, theirs, octets = run(meet(orders.server_context(), judged_by(orders), web.client_context(), judged_by(web)))
    assert ours.principal.name == "spiffe://shop/web"
    assert theirs.principal.name == "spiffe://shop/orders"
    assert [ours.chain[-1], theirs.chain[-1]] == [SHOP.der, SHOP.der]
    assert ours.chain[0] != theirs.chain[0]
    assert octets == b"hello"
    tls.expect(theirs.principal, "spiffe://shop/orders")
    for wanted in ("spiffe://shop/orders2", "spiffe://shop/order", "spiffe://shop/Orders", ""):
        with pytest.raises(SvidError) as refused:
            tls.expect(theirs.principal, wanted)
        assert refused.value.reason is Reason.UNEXPECTED_IDENTITY


def test_the_same_leaf_is_judged_once(run, credentials):
    orders, web = credentials
    first, _, _ = run(meet(orders.server_context(), judged_by(orders), web.client_context()))
    second, _, _ = run(meet(orders.server_context(), judged_by(orders), web.client_context()))
    assert second is first


def test_what_is_remembered_is_bounded(run, credentials, monkeypatch):
    orders, _ = credentials
    monkeypatch.setattr(tls, "MAX_PEERS", 2)
    orders.trust.peers.clear()
    for _ in range(3):
        run(meet(orders.server_context(), judged_by(orders), raw_client(SHOP.leaf(), SHOP)))
    assert len(orders.trust.peers) <= 2


def test_a_caller_without_a_certificate_is_refused(run, credentials):
    orders, _ = credentials
    ours, theirs, octets = run(meet(orders.server_context(), judged_by(orders), raw_client(None, SHOP)))
    assert isinstance(ours, ssl.SSLError), "refused inside the handshake already"
    assert octets == b"", "TLS 1.3: its own handshake may look complete, but nothing is ever read"
    assert theirs is not None


def test_tls_1_2_is_refused(run, credentials):
    orders, web = credentials
    old = raw_client(SHOP.leaf(), SHOP, newest=ssl.TLSVersion.TLSv1_2)
    ours, theirs, _ = run(meet(orders.server_context(), judged_by(orders), old))
    assert isinstance(ours, ssl.SSLError)
    assert isinstance(theirs, OSError)
    server = raw_context(ssl.PROTOCOL_TLS_SERVER, SHOP.leaf(), [SHOP], newest=ssl.TLSVersion.TLSv1_2)
    _, theirs, _ = run(meet(server, nothing, web.client_context(), judged_by(web)))
    assert isinstance(theirs, OSError)


def test_an_endpoint_of_an_unknown_ca_is_refused(run, credentials):
    _, web = credentials
    other = Authority("shop")
    server = raw_context(ssl.PROTOCOL_TLS_SERVER, other.leaf("spiffe://shop/orders"), [])
    _, theirs, octets = run(meet(server, nothing, web.client_context(), judged_by(web)))
    assert isinstance(theirs, ssl.SSLCertVerificationError)
    assert octets == b""


def _chains():
    """Leaves that OpenSSL must refuse at the handshake (threats E5, E6)."""
    sub = Authority("shop", SHOP, ca=False)
    short = Authority("shop", SHOP, path_length=0)
    odd = Authority("shop", SHOP, extra=[(UNKNOWN, True)])
    dns = Authority("shop", SHOP, extra=[(x509.NameConstraints([x509.DNSName("shop.example")], None), True)])
    uri = Authority("shop", SHOP, extra=[(x509.NameConstraints([x509.UniformResourceIdentifier("shop")], None), True)])
    deep = SHOP
    for _ in range(102):
        deep = Authority("shop", deep, key=SHOP.key)
    namesake = Authority("shop", subject=SHOP.name.rfc4514_string().removeprefix("CN="))
    return {
        "unable to get local issuer": Authority("shop").leaf(),
        "signature failure": namesake.leaf(),
        "has expired": SHOP.leaf(begins=-DAY, lasts=-60),
        "has expired ": Authority("shop", SHOP, lasts=-60).leaf(),
        "not yet valid": SHOP.leaf(begins=3600),
        "unsuitable certificate purpose": SHOP.leaf(extended=(ExtendedKeyUsageOID.SERVER_AUTH,)),
        "invalid CA certificate": sub.leaf(),
        "invalid CA certificate ": Authority("shop", SHOP, usage=False).leaf(),
        "path length constraint exceeded": Authority("shop", short).leaf(),
        "unhandled critical extension": SHOP.leaf(extra=[(UNKNOWN, True)]),
        "unhandled critical extension ": odd.leaf(),
        "permitted subtree violation": dns.leaf(dns=("evil.example",)),
        "permitted subtree violation ": uri.leaf("spiffe://other/web"),
        "key too weak": SHOP.leaf(key=rsa.generate_private_key(65537, 1024)),
        "chain too long": deep.leaf(),
    }


@pytest.mark.slow
def test_chains_that_openssl_must_refuse_are_refused_for_that_reason(run, credentials):
    orders, _ = credentials
    for why, leaf in _chains().items():
        context = raw_client(None, SHOP)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else our own end would not even offer the weak ones
        _offer(context, leaf)
        ours, _, octets = run(meet(orders.server_context(), judged_by(orders), context))
        assert isinstance(ours, ssl.SSLCertVerificationError), why
        assert why.strip() in str(ours)
        assert octets == b"", why


def _offer(context, leaf):
    with tempfile.NamedTemporaryFile() as file:
        file.write(leaf.chain_pem + leaf.key_pem)
        file.flush()
        context.load_cert_chain(file.name)


def test_a_chain_that_is_long_but_right_is_refused(run, credentials):
    orders, _ = credentials
    long = SHOP
    for _ in range(9):
        long = Authority("shop", long, key=SHOP.key)
    ours, _, octets = run(meet(orders.server_context(), judged_by(orders), raw_client(long.leaf(), SHOP)))
    assert isinstance(ours, SvidError)
    assert "9 intermediates" in ours.text
    assert octets == b""


@pytest.mark.parametrize(
    ("reason", "spoilt"),
    [
        (Reason.TRUST_DOMAIN, {"spiffe_id": "spiffe://other/web"}),
        (Reason.NOT_ONE_URI, {"uris": ("spiffe://shop/web", "spiffe://shop/admin")}),
        (Reason.NOT_ONE_URI, {"uris": (), "dns": ("web",)}),
        (Reason.NOT_SPIFFE, {"spiffe_id": "spiffe://shop"}),
        (Reason.KEY_USAGE, {"usage": None}),
    ],
)
def test_what_openssl_does_not_know_is_refused_before_an_octet_is_sent(run, credentials, reason, spoilt):
    """Threats E4, E5, both directions."""
    orders, web = credentials
    leaf = SHOP.leaf(**spoilt)
    ours, _, octets = run(meet(orders.server_context(), judged_by(orders), raw_client(leaf, SHOP)))
    assert isinstance(ours, SvidError)
    assert ours.reason is reason
    assert octets == b""
    server = raw_context(ssl.PROTOCOL_TLS_SERVER, leaf, [SHOP])
    _, theirs, _ = run(meet(server, nothing, web.client_context(), judged_by(web)))
    assert isinstance(theirs, SvidError)
    assert theirs.reason is reason


def test_ordinary_chains_of_anyones_ca_are_taken(run, tmp_path):
    """RSA, Ed25519, intermediates, a URI name constraint, an intermediate alone in the bundle."""
    modern = Authority("shop", key=ed25519.Ed25519PrivateKey.generate())
    solid = Authority("shop", key=rsa.generate_private_key(65537, 2048))
    middle = Authority("shop", Authority("shop"))
    narrow = Authority("shop", SHOP, extra=[(x509.NameConstraints([x509.UniformResourceIdentifier("shop")], None), True)])
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), SHOP, modern, solid, middle)
    orders = Credentials(tmp_path, "orders")
    leaves = [modern.leaf(), solid.leaf(key=rsa.generate_private_key(65537, 2048)), middle.leaf(subject="web"), narrow.leaf()]
    for leaf in leaves:
        ours, _, octets = run(meet(orders.server_context(), judged_by(orders), raw_client(leaf, SHOP)))
        assert isinstance(ours, tls.Peer), ours
        assert octets == b"hello"
        assert tls.still_trusted(ours, orders, wall_clock()) is None


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("h2", "http/1.1")])
def test_a_caller_without_alpn_speaks_http1(run, credentials, alpn):
    """Plain `ssl` and `http.client` offer none; whatever is spoken then meets the strict HTTP/1.1 codec."""
    orders, _ = credentials
    ours, _, octets = run(meet(orders.server_context(), judged_by(orders), raw_client(SHOP.leaf(), SHOP, alpn=alpn)))
    assert isinstance(ours, tls.Peer), ours
    assert octets == b"hello"


def test_a_protocol_that_was_not_offered_is_refused():
    """Threats E8 (ALPACA): what was agreed on is what we speak."""

    class Strange:
        def version(self):
            return "TLSv1.3"

        def cipher(self):
            return ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)

        def selected_alpn_protocol(self):
            return "ftp"

    with pytest.raises(SvidError) as refused:
        tls.agreed(Strange())
    assert refused.value.reason is Reason.PROTOCOL


def test_keys_have_256_bits(run, credentials):
    orders, web = credentials
    _, ssl_object, _ = run(meet(orders.server_context(), judged_by(orders), web.client_context()))
    assert ssl_object.cipher()[2] == 256


def test_a_cipher_with_shorter_keys_is_refused():
    class Weak:
        def version(self):
            return "TLSv1.3"

        def cipher(self):
            return ("TLS_AES_128_GCM_SHA256", "TLSv1.3", 128)

        def selected_alpn_protocol(self):
            return "http/1.1"

    with pytest.raises(SvidError, match="128-bit"):
        tls.agreed(Weak())


def test_there_is_nothing_to_resume(run, credentials):
    """Threats E7: a resumed session would skip the check against the bundle."""
    orders, web = credentials
    _, ssl_object, octets = run(meet(orders.server_context(), judged_by(orders), web.client_context()))
    assert octets == b"hello", "tickets would have come before it"
    assert ssl_object.session is None or not ssl_object.session.has_ticket
    assert not ssl_object.session_reused
    assert orders.server_context().num_tickets == 0


def test_plain_text_on_a_tls_port_ends_at_once_without_a_body(run, credentials):
    orders, _ = credentials

    async def speak():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            sock, _ = await loop.sock_accept(listening)
            writer.write(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
            side = Side(judged_by(orders), b"hello")
            with pytest.raises(OSError):
                await loop.connect_accepted_socket(lambda: side, sock, ssl=orders.server_context(), ssl_handshake_timeout=5)
            octets = b""
            with contextlib.suppress(ConnectionError):
                octets = await asyncio.wait_for(reader.read(), 1)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            return octets

    octets = run(speak())
    assert b"HTTP" not in octets
    assert len(octets) <= 7, "a TLS alert at most"


def test_a_leaf_that_was_replaced_serves_new_connections(run, tmp_path):
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), SHOP)
    orders = Credentials(tmp_path, "orders")
    client = raw_client(SHOP.leaf(), SHOP)
    _, before, _ = run(meet(orders.server_context(), judged_by(orders), client))
    write(tmp_path, "orders", (new := SHOP.leaf("spiffe://shop/orders")), SHOP)
    assert orders.reload()
    _, after, _ = run(meet(orders.server_context(), judged_by(orders), client))
    assert before.getpeercert(True) != after.getpeercert(True) == new.ders[0]


def test_a_ca_that_was_removed_is_gone_for_new_and_for_live_connections(run, tmp_path):
    """Threats E7."""
    other = Authority("shop")
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), SHOP, other)
    orders = Credentials(tmp_path, "orders")
    client = raw_client(other.leaf("spiffe://shop/web"), SHOP)
    live, _, octets = run(meet(orders.server_context(), judged_by(orders), client))
    stays, _, _ = run(meet(orders.server_context(), judged_by(orders), raw_client(SHOP.leaf(), SHOP)))
    assert octets == b"hello"
    assert tls.still_trusted(live, orders, wall_clock()) is None
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), SHOP)
    assert orders.reload()
    gone = tls.still_trusted(live, orders, wall_clock())
    assert gone is not None
    assert gone.reason is Reason.UNTRUSTED
    assert tls.still_trusted(stays, orders, wall_clock()) is None
    refused, _, octets = run(meet(orders.server_context(), judged_by(orders), client))
    assert isinstance(refused, Exception)
    assert octets == b""


def test_a_handshake_under_a_bundle_that_changed_meanwhile_is_refused(run, tmp_path):
    other = Authority("shop")
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), SHOP, other)
    orders = Credentials(tmp_path, "orders")
    old = orders.server_context()
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), SHOP)
    assert orders.reload()
    ours, _, octets = run(meet(old, judged_by(orders), raw_client(other.leaf(), SHOP)))
    assert isinstance(ours, SvidError)
    assert ours.reason is Reason.UNTRUSTED
    assert octets == b""


def test_a_ca_that_was_signed_anew_keeps_its_live_connections(run, tmp_path):
    """The same CA key and name under a new certificate: another path, so nothing is closed."""
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), SHOP)
    orders = Credentials(tmp_path, "orders")
    live, _, _ = run(meet(orders.server_context(), judged_by(orders), raw_client(SHOP.leaf(), SHOP)))
    renewed = Authority("shop", key=SHOP.key, subject=SHOP.name.rfc4514_string().removeprefix("CN="), lasts=60 * DAY)
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), renewed)
    assert orders.reload()
    assert tls.still_trusted(live, orders, wall_clock()) is None


def test_a_live_connection_never_outlives_its_certificates(run, credentials):
    orders, _ = credentials
    brief = Authority("shop", SHOP, lasts=100.0)
    ours, _, _ = run(meet(orders.server_context(), judged_by(orders), raw_client(brief.leaf(lasts=DAY), SHOP)))
    assert ours.principal.expires_at == pytest.approx(wall_clock() + 100, abs=10), "the intermediate lapses before the leaf"
    assert tls.still_trusted(ours, orders, wall_clock() + 50) is None
    refused = tls.still_trusted(ours, orders, wall_clock() + 150)
    assert refused is not None
    assert refused.reason is Reason.UNTRUSTED
    leaf, _, _ = run(meet(orders.server_context(), judged_by(orders), raw_client(SHOP.leaf(lasts=100.0), SHOP)))
    late = tls.still_trusted(leaf, orders, leaf.principal.expires_at)
    assert late is not None
    assert late.reason is Reason.EXPIRED


def test_a_new_trust_domain_ends_what_was_live_under_the_old_one(run, tmp_path):
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), SHOP)
    orders = Credentials(tmp_path, "orders")
    live, _, _ = run(meet(orders.server_context(), judged_by(orders), raw_client(SHOP.leaf(), SHOP)))
    write(tmp_path, "orders", SHOP.leaf("spiffe://market/orders"), SHOP)
    assert orders.reload()
    assert orders.trust_domain == "market"
    refused = tls.still_trusted(live, orders, wall_clock())
    assert refused is not None
    assert refused.reason is Reason.TRUST_DOMAIN


def test_a_rehearsal_says_why_peers_would_refuse_us(tmp_path):
    other = Authority("shop")
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), SHOP)
    assert Credentials(tmp_path, "orders").rehearse() == ""
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders"), other)
    assert "issuer" in Credentials(tmp_path, "orders").rehearse()
    write(tmp_path, "orders", SHOP.leaf("spiffe://shop/orders", extended=(ExtendedKeyUsageOID.CLIENT_AUTH,)), SHOP)
    assert "purpose" in Credentials(tmp_path, "orders").rehearse()


def test_contexts_are_made_without_touching_the_disk(tmp_path, monkeypatch, credentials):
    """A key never goes to a file; and an encrypted one is an error, never a question on the terminal."""
    orders, _ = credentials
    if sys.platform == "linux":
        monkeypatch.setattr(tls.tempfile, "NamedTemporaryFile", lambda: pytest.fail("wrote a file"))
    leaf = SHOP.leaf()
    assert tls.server_context(leaf.chain_pem, leaf.key_pem, orders.trust.anchors).get_ciphers()
    key = new_key()
    locked = SHOP.leaf(key=key)
    with pytest.raises(ssl.SSLError):
        tls.client_context(locked.chain_pem, pkcs8(key, b"secret"), orders.trust.anchors)


def test_the_private_parts_of_ssl_are_as_pinned(run, credentials):
    """`_sslobj.get_verified_chain` is private up to 3.12; uvloop hands out the standard library's own SSLObject."""
    assert uvloop.__version__.startswith(("0.22.", "0.23.")), "look at _sslobj.py again"
    assert sys.version_info < (3, 13) or hasattr(ssl.SSLObject, "get_verified_chain")
    assert "getattr" in inspect.getsource(_sslobj)
    orders, web = credentials
    _, ssl_object, _ = run(meet(orders.server_context(), judged_by(orders), web.client_context()))
    assert type(ssl_object) is ssl.SSLObject
    path = _sslobj.verified_path(ssl_object)
    assert path[0] == ssl_object.getpeercert(True)
    assert path[-1] == SHOP.der
    fresh = orders.client_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    assert _sslobj.verified_path(fresh) == ()
    gc.collect()

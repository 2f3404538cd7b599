import asyncio
import contextlib
import os

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from flui.model.config import ConfigError
from flui.transport import changes
from flui.transport import credentials as module
from flui.transport.credentials import Credentials, watch
from support.pki import DAY, Authority, Leaf, bundle, new_key, pkcs8, replace, wall_clock, write

SHOP = Authority("shop")
ORDERS = "spiffe://shop/orders"


def refusals(folder, **more) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        Credentials(folder, "orders", **more)
    return [str(problem) for problem in refused.value.problems]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_good_folder_says_who_we_are(tmp_path):
    leaf = SHOP.leaf(ORDERS, lasts=100.0)
    credentials = Credentials(write(tmp_path, "orders", leaf, SHOP), "orders")
    assert credentials.principal.name == ORDERS
    assert credentials.trust_domain == "shop"
    assert credentials.expires_at == pytest.approx(wall_clock() + 100, abs=5)
    assert credentials.generation == 1
    assert credentials.problems == ()
    assert credentials.trust.anchors.ders == {SHOP.der}
    assert "PRIVATE" not in repr(credentials) + repr(credentials._live) + repr(credentials._live.identity)


def test_we_lapse_with_the_first_certificate_of_our_chain(tmp_path):
    middle = Authority("shop", SHOP, lasts=100.0)
    credentials = Credentials(write(tmp_path, "orders", middle.leaf(ORDERS), SHOP), "orders")
    assert credentials.expires_at == pytest.approx(wall_clock() + 100, abs=5)


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    told = refusals(tmp_path / "nowhere")
    assert [line.split(": ")[0].rsplit("/", 1)[-1] for line in told] == ["ca.pem", "orders.pem", "orders.key"]
    assert all("there is no such file" in line for line in told)
    assert "flui certs init" in told[0]
    assert "flui certs issue orders" in told[1]


def test_every_problem_of_every_file_is_named_at_once(tmp_path):
    """A bundle that is none, a leaf that is no SVID and has expired, a key of someone else's."""
    write(tmp_path, "orders", SHOP.leaf(uris=("spiffe://shop/a", "spiffe://shop/b"), begins=-DAY, lasts=-60), SHOP)
    (tmp_path / "ca.pem").write_bytes(b"nothing")
    (tmp_path / "orders.key").write_bytes(pkcs8(new_key()))
    told = "\n".join(refusals(tmp_path))
    for what in ("ca.pem: there is no certificate", "2 URI SANs", "expired at", "orders.key: it is not the key of"):
        assert what in told


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("has 0 URI SANs", {"uris": (), "dns": ("orders",)}),
        ("names a trust domain", {"spiffe_id": "spiffe://shop"}),
        ("upper case", {"spiffe_id": "spiffe://SHOP/orders"}),
        ("is a CA's", {"ca": True}),
        ("has no key usage", {"usage": None}),
        ("lacks clientAuth or serverAuth", {"extended": (ExtendedKeyUsageOID.CODE_SIGNING,)}),
        ("expired at", {"begins": -DAY, "lasts": -1.0}),
        ("not valid before", {"begins": 3600.0}),
    ],
)
def test_a_leaf_that_peers_would_refuse_is_refused_here(tmp_path, what, change):
    (told,) = refusals(write(tmp_path, "orders", SHOP.leaf(**({"spiffe_id": ORDERS} | change)), SHOP))
    assert "orders.pem: " in told
    assert what in told


def test_an_expired_intermediate_is_named_by_its_number(tmp_path):
    (told,) = refusals(write(tmp_path, "orders", Authority("shop", SHOP, lasts=-60).leaf(ORDERS), SHOP))
    assert "certificate 2 in it is of no use now: it expired" in told


@pytest.mark.parametrize(
    ("what", "key"),
    [
        ("it is not the key of", pkcs8(new_key())),
        ("encrypted with a password", pkcs8(new_key(), b"secret")),
        ("no private key", b"hello"),
        ("no private key", b"-----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY-----\n"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(tmp_path, what, key):
    write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP)
    replace(tmp_path / "orders.key", key)
    (told,) = refusals(tmp_path)
    assert "orders.key: " in told
    assert what in told


def test_a_chain_in_the_wrong_order_says_so(tmp_path):
    leaf = SHOP.leaf(ORDERS)
    write(tmp_path, "orders", Leaf(SHOP.pem + leaf.chain_pem, leaf.key_pem), SHOP)
    assert any("the leaf is certificate 2 in it; put the leaf first" in line for line in refusals(tmp_path))


@pytest.mark.parametrize(
    ("what", "pem"),
    [
        ("is not a CA's", SHOP.leaf(subject="x").chain_pem),
        ("has expired", Authority("shop", lasts=-60).pem),
        ("only 1 of the 2", SHOP.pem + SHOP.pem[:300]),
        ("larger than", b"x" * (module.MAX_FILE_OCTETS + 1)),
    ],
)
def test_a_bundle_that_is_none_is_refused(tmp_path, what, pem):
    write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP)
    replace(tmp_path / "ca.pem", pem)
    (told,) = refusals(tmp_path)
    assert "ca.pem: " in told
    assert what in told


def test_a_key_that_openssl_finds_too_weak_is_refused(tmp_path):
    (told,) = refusals(write(tmp_path, "orders", SHOP.leaf(ORDERS, key=rsa.generate_private_key(65537, 1024)), SHOP))
    assert "OpenSSL does not take it" in told


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP)
    (tmp_path / "orders.key").unlink()
    (tmp_path / "orders.key").mkdir()
    (told,) = refusals(tmp_path)
    assert "orders.key: it cannot be read" in told


# --- taking up -------------------------------------------------------------------------------------------------------


def test_nothing_new_changes_nothing(tmp_path):
    credentials = Credentials(write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP), "orders")
    before = credentials.server_context()
    assert not credentials.reload()
    for name in ("ca.pem", "orders.pem", "orders.key"):
        os.utime(tmp_path / name)
        replace(tmp_path / name, (tmp_path / name).read_bytes())
    assert not credentials.reload()
    assert credentials.generation == 1
    assert credentials.server_context() is before


def test_new_files_are_whole_new_contexts(tmp_path):
    credentials = Credentials(write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP), "orders")
    server, client, trust = credentials.server_context(), credentials.client_context(), credentials.trust
    other = Authority("shop")
    write(tmp_path, "orders", other.leaf(ORDERS), other)
    assert credentials.reload()
    assert credentials.generation == 2
    assert credentials.server_context() is not server
    assert credentials.client_context() is not client
    assert trust.anchors.ders == {SHOP.der}
    assert credentials.trust.anchors.ders == {other.der}
    assert [c["serialNumber"] for c in credentials.server_context().get_ca_certs()] == [f"{other.certificate.serial_number:X}".zfill(40)]


def test_a_pair_that_is_half_copied_keeps_the_last_good_and_is_tried_again(tmp_path):
    credentials = Credentials(write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP), "orders")
    before = credentials.server_context()
    new = SHOP.leaf(ORDERS)
    replace(tmp_path / "orders.key", new.key_pem)
    assert not credentials.reload()
    assert credentials.server_context() is before
    assert ["it is not the key of" in str(problem) for problem in credentials.problems] == [True]
    replace(tmp_path / "orders.pem", new.chain_pem)
    assert credentials.reload()
    assert credentials.problems == ()
    assert credentials.server_context() is not before


def test_a_bad_leaf_does_not_hold_back_the_bundle(tmp_path):
    """A CA that was removed is gone, whatever else is wrong."""
    other = Authority("shop")
    credentials = Credentials(write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP, other), "orders")
    write(tmp_path, "orders", SHOP.leaf(uris=()), SHOP)
    assert credentials.reload()
    assert credentials.problems
    assert credentials.trust.anchors.ders == {SHOP.der}
    assert credentials.principal.name == ORDERS


def test_a_bad_bundle_does_not_hold_back_the_leaf(tmp_path):
    credentials = Credentials(write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP), "orders")
    new = SHOP.leaf(ORDERS)
    write(tmp_path, "orders", new, SHOP)
    replace(tmp_path / "ca.pem", b"")
    serial = credentials.principal.serial
    assert credentials.reload()
    assert credentials.principal.serial != serial
    assert credentials.trust.anchors.ders == {SHOP.der}
    assert [str(problem).rsplit("/", 1)[-1].split(":")[0] for problem in credentials.problems] == ["ca.pem"]


def test_files_that_vanish_keep_the_last_good(tmp_path):
    credentials = Credentials(write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP), "orders")
    for path in list(tmp_path.iterdir()):
        path.unlink()
    assert not credentials.reload()
    assert len(credentials.problems) == 3
    assert credentials.principal.name == ORDERS


def test_a_leaf_that_is_not_valid_yet_is_taken_when_its_time_has_come(tmp_path):
    """The files stay as they are; only the clock goes on."""
    now = wall_clock()
    clock = [now]
    credentials = Credentials(write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP), "orders", clock=lambda: clock[0])
    write(tmp_path, "orders", SHOP.leaf(ORDERS, begins=600.0), SHOP)
    assert not credentials.reload()
    assert "not valid before" in str(credentials.problems[0])
    clock[0] = now + 601
    assert credentials.reload()
    assert credentials.problems == ()


# --- watching --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def watched(credentials):
    """The changes and problems that a watcher tells, as they come; entered when it has begun to watch."""
    told: asyncio.Queue = asyncio.Queue()
    task = asyncio.ensure_future(watch(credentials, lambda: told.put_nowait("change"), told.put_nowait))
    try:
        yield told
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def run(coroutine, factory=asyncio.new_event_loop):
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(asyncio.wait_for(coroutine, 20))


@pytest.mark.slow
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_replaced_files_are_taken_up_within_five_seconds(tmp_path, factory):
    credentials = Credentials(write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP), "orders")

    async def scenario():
        async with watched(credentials) as told:
            for generation in (2, 3):
                new = SHOP.leaf(ORDERS)
                write(tmp_path, "orders", new, SHOP)
                while credentials.principal.serial != f"{x509.load_der_x509_certificate(new.ders[0]).serial_number:x}":
                    await asyncio.wait_for(told.get(), 5)
                assert credentials.generation >= generation

    run(scenario(), factory)


@pytest.mark.slow
def test_a_bad_file_is_told_once_and_then_the_good_one_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.02)
    readings = 0

    def clock():
        """Asked at each reading of files that are not all in force."""
        nonlocal readings
        readings += 1
        if readings == 10:
            read_often.set()
        return wall_clock()

    async def scenario():
        nonlocal read_often
        read_often = asyncio.Event()
        async with watched(credentials) as told:
            replace(tmp_path / "ca.pem", b"broken")
            (problem,) = await asyncio.wait_for(told.get(), 5)
            assert "ca.pem" in str(problem)
            await asyncio.wait_for(read_often.wait(), 5)
            assert told.empty(), "the same problem is not told twice"
            replace(tmp_path / "ca.pem", bundle(SHOP, Authority("shop")))
            assert await asyncio.wait_for(told.get(), 5) == "change"

    read_often = asyncio.Event()
    credentials = Credentials(write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP), "orders", clock=clock)
    run(scenario())


@pytest.mark.slow
def test_the_links_that_kubernetes_swaps_are_followed(tmp_path):
    """A secret volume: NAME → ..data/NAME, ..data → ..1, and `..data` is renamed to the next one."""
    first, second = write(tmp_path / "..1", "orders", SHOP.leaf(ORDERS), SHOP), SHOP.leaf(ORDERS)
    (tmp_path / "..data").symlink_to(first.name)
    for name in ("ca.pem", "orders.pem", "orders.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    credentials = Credentials(tmp_path, "orders")

    async def scenario():
        async with watched(credentials) as told:
            write(tmp_path / "..2", "orders", second, SHOP)
            (tmp_path / "..data_tmp").symlink_to("..2")
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
            assert await asyncio.wait_for(told.get(), 5) == "change"

    run(scenario())
    assert credentials.generation == 2


@pytest.mark.slow
def test_without_notifications_the_clock_is_enough(tmp_path, monkeypatch):
    """No inotify left in the container: the folder is read every so often all the same."""

    def none_left(*_, **__):
        raise OSError(28, "no inotify watches left")

    monkeypatch.setattr(changes, "awatch", none_left)
    monkeypatch.setattr(module, "POLL_S", 0.02)
    credentials = Credentials(write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP), "orders")

    async def scenario():
        async with watched(credentials) as told:
            write(tmp_path, "orders", SHOP.leaf(ORDERS), SHOP)
            while (first := await asyncio.wait_for(told.get(), 5)) != "change":
                assert "not the key" in str(first)

    run(scenario())

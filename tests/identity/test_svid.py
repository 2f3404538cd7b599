import shlex
import shutil
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.identity import ca as ours
from flui.identity import svid
from flui.identity.spiffe import SpiffeId
from flui.identity.svid import Anchors, Reason, SvidError, Use
from support.pki import DAY, Authority, bundle, key_usage, pkcs8, wall_clock

SHOP = Authority("shop")
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")


def refusal(function, *arguments) -> Reason:
    with pytest.raises(SvidError) as refused:
        function(*arguments)
    assert refused.value.text
    assert refused.value.text.isprintable()
    return refused.value.reason


def test_a_leaf_names_its_principal():
    leaf = SHOP.leaf("spiffe://shop/ns/a/web", dns=("web.example",)).ders[0]
    who = svid.principal(leaf, "shop")
    certificate = x509.load_der_x509_certificate(leaf)
    assert who.name == "spiffe://shop/ns/a/web"
    assert who.expires_at == certificate.not_valid_after_utc.timestamp()
    assert int(who.serial, 16) == certificate.serial_number
    assert svid.trust_domain_of(leaf) == "shop"


@pytest.mark.parametrize(
    ("reason", "spoilt"),
    [
        (Reason.NOT_ONE_URI, {"uris": ("spiffe://shop/web", "spiffe://shop/admin")}),
        (Reason.NOT_ONE_URI, {"uris": ("spiffe://shop/web", "https://shop/web")}),
        (Reason.NOT_ONE_URI, {"uris": (), "dns": ("web.shop",)}),
        (Reason.NOT_ONE_URI, {"san": False, "subject": "spiffe://shop/web"}),
        (Reason.NOT_SPIFFE, {"spiffe_id": "https://shop/web"}),
        (Reason.NOT_SPIFFE, {"spiffe_id": "spiffe://shop"}),
        (Reason.NOT_SPIFFE, {"spiffe_id": "spiffe://shop/web/"}),
        (Reason.NOT_SPIFFE, {"spiffe_id": "spiffe://SHOP/web"}),
        (Reason.NOT_SPIFFE, {"spiffe_id": "spiffe://shop:1/web"}),
        (Reason.NOT_SPIFFE, {"spiffe_id": "spiffe://shop/web\x00spiffe://shop/admin"}),
        (Reason.TRUST_DOMAIN, {"spiffe_id": "spiffe://shop.evil/web"}),
        (Reason.TRUST_DOMAIN, {"spiffe_id": "spiffe://sho/p/web"}),
        (Reason.IS_CA, {"ca": True}),
        (Reason.KEY_USAGE, {"usage": None}),
        (Reason.KEY_USAGE, {"usage": key_usage(digital_signature=False, key_encipherment=True)}),
        (Reason.KEY_USAGE, {"usage": key_usage(key_cert_sign=True)}),
        (Reason.KEY_USAGE, {"usage": key_usage(crl_sign=True)}),
        (Reason.EXTENDED_KEY_USAGE, {"extended": (ExtendedKeyUsageOID.CODE_SIGNING,)}),
    ],
)
def test_a_leaf_that_breaks_an_x509_svid_rule_is_nobodys(reason, spoilt):
    """Threats E4, E5."""
    assert refusal(svid.principal, SHOP.leaf(**spoilt).ders[0], "shop") is reason


def test_a_leaf_without_basic_constraints_or_extended_key_usage_is_fine():
    assert svid.principal(SHOP.leaf(ca=None, extended=None).ders[0], "shop").name == "spiffe://shop/web"


def test_extended_key_usage_must_fit_the_side_of_the_connection():
    client = SHOP.leaf(extended=(ExtendedKeyUsageOID.CLIENT_AUTH,)).ders[0]
    assert svid.principal(client, "shop", Use.CALLER)
    assert svid.principal(client, "shop", Use.ANY)
    assert refusal(svid.principal, client, "shop", Use.CALLEE) is Reason.EXTENDED_KEY_USAGE


@given(st.binary(max_size=200))
def test_octets_that_are_no_certificate_are_malformed(octets):
    assert refusal(svid.principal, octets, "shop") is Reason.MALFORMED
    assert refusal(svid.trust_domain_of, octets) is Reason.MALFORMED


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_certificate_is_refused_or_read_never_anything_else(data):
    """One octet changed anywhere: a principal of our trust domain, or a reason."""
    der = bytearray(_WHOLE)
    der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    outcome: object
    try:
        outcome = svid.principal(bytes(der), "shop").name.startswith("spiffe://shop/")
    except SvidError as e:
        outcome = e.reason
    assert outcome is True or isinstance(outcome, Reason)


_WHOLE = SHOP.leaf().ders[0]


# --- verify ----------------------------------------------------------------------------------------------------------


def judge(leaf, *authorities, at=None):
    svid.verify(leaf.ders, Anchors(bundle(*authorities)), wall_clock() if at is None else at)


def test_ordinary_leaves_of_anyones_ca_pass():
    """A subject beside a critical SAN, no key identifiers, no key usage on the CA: the web profile wants more, OpenSSL does not."""
    judge(SHOP.leaf(), SHOP)
    judge(SHOP.leaf(subject="web"), SHOP)
    bare = Authority("shop", usage=None)
    judge(bare.leaf(ca=None, extended=None), bare)
    judge(SHOP.leaf(key=rsa.generate_private_key(65537, 2048)), SHOP)
    judge(SHOP.leaf(key=ec.generate_private_key(ec.SECP384R1())), SHOP)
    judge(SHOP.leaf(key=ed25519.Ed25519PrivateKey.generate()), SHOP)


def test_leaves_of_our_own_ca_pass():
    now = wall_clock()
    made = ours.new_ca("shop", now, DAY)
    leaf = ours.issue(made, SpiffeId.parse("spiffe://shop/web"), now, 60.0)
    chain = svid.split(leaf.chain_pem)
    assert svid.principal(chain[0], "shop").name == "spiffe://shop/web"
    assert Anchors(made.certificate_pem).verify(chain, now) == pytest.approx(now + 60, abs=1)


def test_the_bundle_may_hold_an_intermediate_alone():
    middle = Authority("shop", SHOP)
    judge(middle.leaf(), SHOP)
    judge(middle.leaf(), middle)


def test_a_path_lapses_with_its_first_certificate():
    middle = Authority("shop", SHOP, lasts=100.0)
    assert Anchors(SHOP.pem).verify(middle.leaf(lasts=200.0).ders, wall_clock()) == pytest.approx(wall_clock() + 100, abs=5)


def test_chains_that_lead_nowhere_are_untrusted():
    """Threats E5, E6."""
    other = Authority("shop")
    assert refusal(judge, SHOP.leaf(), other) is Reason.UNTRUSTED
    namesake = Authority("shop", subject=SHOP.name.rfc4514_string().removeprefix("CN="))
    assert namesake.name == SHOP.name
    assert refusal(judge, namesake.leaf(), SHOP) is Reason.UNTRUSTED
    no_ca = Authority("shop", SHOP, ca=False)
    assert refusal(judge, no_ca.leaf(), SHOP) is Reason.UNTRUSTED
    no_constraints = Authority("shop", SHOP, constraints=False)
    assert refusal(judge, no_constraints.leaf(), SHOP) is Reason.UNTRUSTED
    no_signing = Authority("shop", SHOP, usage=False)
    assert refusal(judge, no_signing.leaf(), SHOP) is Reason.UNTRUSTED
    short = Authority("shop", path_length=0)
    assert refusal(judge, Authority("shop", short).leaf(), short) is Reason.UNTRUSTED
    odd = Authority("shop", SHOP, extra=[(UNKNOWN, True)])
    assert refusal(judge, odd.leaf(), SHOP) is Reason.UNTRUSTED
    assert refusal(judge, SHOP.leaf(extra=[(UNKNOWN, True)]), SHOP) is Reason.UNTRUSTED
    weak = rsa.generate_private_key(65537, 1024)
    assert refusal(judge, SHOP.leaf(key=weak), SHOP) is Reason.WEAK_KEY
    rsa_ca = Authority("shop", key=rsa.generate_private_key(65537, 2048))
    judge(rsa_ca.leaf(), rsa_ca)
    deep = SHOP
    for _ in range(svid.MAX_DEPTH + 1):
        deep = Authority("shop", deep)
    assert refusal(judge, deep.leaf(), SHOP) is Reason.UNTRUSTED


def test_name_constraints_on_dns_names_hold():
    only = Authority("shop", SHOP, extra=[(x509.NameConstraints([x509.DNSName("shop.example")], None), True)])
    judge(only.leaf(dns=("web.shop.example",)), SHOP)
    assert refusal(judge, only.leaf(dns=("evil.example",)), SHOP) is Reason.UNTRUSTED


def test_what_verify_is_too_strict_for_is_refused_not_accepted():
    """The documented differences to OpenSSL; they cost a live connection a new handshake when its CA is replaced."""
    modern = Authority("shop", key=ed25519.Ed25519PrivateKey.generate())
    assert refusal(judge, modern.leaf(), modern) is Reason.UNTRUSTED
    constrained = Authority("shop", extra=[(x509.NameConstraints([x509.UniformResourceIdentifier("shop")], None), True)])
    assert refusal(judge, constrained.leaf(), constrained) is Reason.UNTRUSTED


def test_time_is_an_argument_and_decides():
    leaf, now = SHOP.leaf(lasts=100.0), wall_clock()
    judge(leaf, SHOP, at=now + 90)
    with pytest.raises(SvidError) as late:
        judge(leaf, SHOP, at=now + 101)
    assert late.value.reason is Reason.EXPIRED
    with pytest.raises(SvidError) as early:
        judge(leaf, SHOP, at=now - 120)
    assert early.value.reason is Reason.NOT_YET_VALID
    brief = Authority("shop", lasts=50.0)
    with pytest.raises(SvidError) as ca_gone:
        judge(brief.leaf(lasts=100.0), brief, at=now + 60)
    assert ca_gone.value.reason is Reason.UNTRUSTED


def test_an_empty_chain_is_no_certificate():
    assert refusal(svid.verify, [], Anchors(SHOP.pem), wall_clock()) is Reason.NO_CERTIFICATE


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (b"", "no certificate"),
        (b"hello", "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", "cannot be read"),
        (SHOP.pem + SHOP.pem[:200], "only 1 of the 2"),
        (SHOP.pem + SHOP.leaf(subject="web").chain_pem, "certificate 2 in it (CN=web) is not a CA's"),
    ],
)
def test_a_bundle_says_what_is_wrong_with_it(pem, why):
    with pytest.raises(ValueError) as refused:
        Anchors(pem)
    assert why in str(refused.value)


def test_a_bundle_may_hold_text_and_several_cas():
    other = Authority("shop", lasts=90 * DAY)
    anchors = Anchors(b"# two CAs\n" + SHOP.pem + b"\nCN = second\n" + other.pem)
    assert anchors.ders == {SHOP.der, other.der}
    assert anchors.expires_at == other.certificate.not_valid_after_utc.timestamp()


def test_a_key_and_its_leaf_are_a_pair():
    one, two = SHOP.leaf(), SHOP.leaf()
    assert svid.is_pair(one.ders[0], one.key_pem)
    assert not svid.is_pair(one.ders[0], two.key_pem)
    with pytest.raises(ValueError, match="encrypted"):
        svid.is_pair(one.ders[0], pkcs8(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    with pytest.raises(ValueError, match="no private key"):
        svid.is_pair(one.ders[0], one.chain_pem)


@pytest.mark.peers
@pytest.mark.slow
def test_leaves_made_by_openssl_pass(tmp_path):
    """What people have: `openssl req -x509`, `openssl x509 -req` with an extension file, a subject and RSA."""
    openssl = shutil.which("openssl")
    assert openssl, "make test-peers needs the openssl command"

    def run(command):
        subprocess.run([openssl, *shlex.split(command)], cwd=tmp_path, check=True, capture_output=True)

    sign = "-in web.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 5 -extfile ext"
    run("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj '/CN=their root' -days 9")
    run("req -newkey rsa:2048 -nodes -keyout web.key -out web.csr -subj /CN=web")
    (tmp_path / "ext").write_text("subjectAltName=URI:spiffe://shop/web\nkeyUsage=digitalSignature\n")
    run(f"x509 -req {sign} -out web.pem")
    chain = svid.split((tmp_path / "web.pem").read_bytes())
    svid.verify(chain, Anchors((tmp_path / "ca.pem").read_bytes()), wall_clock())
    assert svid.principal(chain[0], "shop").name == "spiffe://shop/web"
    assert svid.is_pair(chain[0], (tmp_path / "web.key").read_bytes())
    run(f"x509 -req -sha1 {sign} -out old.pem")
    old = svid.split((tmp_path / "old.pem").read_bytes())
    assert refusal(svid.verify, old, Anchors((tmp_path / "ca.pem").read_bytes()), wall_clock()) is Reason.UNTRUSTED

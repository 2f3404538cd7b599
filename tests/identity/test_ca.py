from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtensionOID
from cryptography.x509.verification import PolicyBuilder, Store

from flui.identity import ca, svid
from flui.identity.spiffe import SpiffeId
from support.pki import DAY, Authority, bundle, pkcs8, wall_clock

NOW = 1_800_000_000.25
WEB = SpiffeId.parse("spiffe://shop/web")


def certificates(pem):
    return x509.load_pem_x509_certificates(pem)


def test_a_leaf_has_the_profile_of_an_x509_svid():
    authority = ca.new_ca("shop", NOW, 10 * DAY)
    leaf = ca.issue(authority, WEB, NOW, DAY, dns=("web.example",), ips=(ip_address("127.0.0.1"), ip_address("::1")))
    (certificate,) = certificates(leaf.chain_pem)
    (root,) = certificates(authority.certificate_pem)
    extensions = certificate.extensions
    san = extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    assert not list(certificate.subject)
    assert san.critical
    assert san.value.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://shop/web"]
    assert san.value.get_values_for_type(x509.DNSName) == ["web.example"]
    assert extensions.get_extension_for_class(x509.KeyUsage).critical
    authority_key = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert authority_key == root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    key = serialization.load_pem_private_key(leaf.key_pem, None)
    assert key.public_key() == certificate.public_key()
    assert leaf.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----"), "PKCS#8"
    assert svid.principal(svid.split(leaf.chain_pem)[0], "shop").name == "spiffe://shop/web"


def test_the_strict_verifier_of_the_web_takes_our_leaves():
    now = wall_clock()
    authority = ca.new_ca("shop", now, DAY)
    leaf = ca.issue(authority, WEB, now, 60.0)
    verifier = PolicyBuilder().store(Store(certificates(authority.certificate_pem))).build_client_verifier()
    assert len(verifier.verify(certificates(leaf.chain_pem)[0], []).chain) == 2


def test_the_ca_carries_its_trust_domain_and_signs_leaves_only():
    authority = ca.new_ca("shop", NOW, DAY)
    (root,) = certificates(authority.certificate_pem)
    assert "shop development CA" in root.subject.rfc4514_string()
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    assert ca.load_ca(authority.certificate_pem, authority.key_pem).trust_domain == "shop"
    again = ca.new_ca("shop", NOW, DAY)
    assert certificates(again.certificate_pem)[0].subject != root.subject, "two CAs of a domain are told apart in a bundle"


def test_times_are_arguments_and_a_leaf_never_outlives_its_ca():
    authority = ca.new_ca("shop", NOW, 1000.0)
    begins, ends = svid.lifetime(svid.split(ca.issue(authority, WEB, NOW + 400, 100.0).chain_pem)[0])
    assert (begins, ends) == (int(NOW + 400 - ca.SKEW_S), int(NOW + 500))
    assert svid.lifetime(svid.split(ca.issue(authority, WEB, NOW, DAY).chain_pem)[0])[1] == int(NOW + 1000)
    with pytest.raises(ValueError, match="not now"):
        ca.issue(authority, WEB, NOW + 1001, 100.0)


def test_a_name_that_is_none_makes_nothing():
    with pytest.raises(ValueError, match="upper case"):
        ca.new_ca("Shop", NOW, DAY)
    with pytest.raises(ValueError, match="names a trust domain"):
        ca.issue(ca.new_ca("shop", NOW, DAY), SpiffeId("shop", ""), NOW, DAY)


def test_a_ca_is_found_in_its_bundle_by_its_key():
    one, two = ca.new_ca("shop", NOW, DAY), ca.new_ca("shop", NOW, DAY)
    both = one.certificate_pem + two.certificate_pem
    assert ca.load_ca(both, two.key_pem).certificate_pem == two.certificate_pem
    with pytest.raises(ValueError, match="belongs to no certificate"):
        ca.load_ca(one.certificate_pem, two.key_pem)
    leaf = ca.issue(one, WEB, NOW, DAY)
    with pytest.raises(ValueError, match="not a CA's"):
        ca.load_ca(leaf.chain_pem, leaf.key_pem)


def test_a_ca_made_by_others_signs_too_and_an_intermediate_goes_into_the_chain():
    now = wall_clock()
    theirs = Authority("shop", key=ed25519.Ed25519PrivateKey.generate())
    leaf = ca.issue(ca.load_ca(theirs.pem, pkcs8(theirs.key)), WEB, now, DAY)
    assert len(svid.split(leaf.chain_pem)) == 1
    root = Authority("shop")
    middle = Authority("shop", root)
    loaded = ca.load_ca(bundle(root, middle), pkcs8(middle.key))
    assert loaded.trust_domain == ""
    chain = svid.split(ca.issue(loaded, WEB, now, DAY).chain_pem)
    assert chain[1:] == [middle.der]
    svid.verify(chain, svid.Anchors(root.pem), now)


def test_secrets_do_not_show_when_printed():
    authority = ca.new_ca("shop", NOW, DAY)
    assert "PRIVATE" not in repr(authority) + repr(ca.issue(authority, WEB, NOW, DAY))


def test_a_description_says_what_stands_in_a_certificate():
    authority = ca.new_ca("shop", NOW, DAY)
    leaf = ca.issue(authority, WEB, NOW, 60.0, dns=("web.example",), ips=(ip_address("10.0.0.1"),))
    told = ca.describe(svid.split(leaf.chain_pem)[0])
    assert (told.subject, told.uris, told.dns, told.ips) == ("", ("spiffe://shop/web",), ("web.example",), ("10.0.0.1",))
    assert "shop development CA" in told.issuer
    assert (told.key, told.signature, told.is_ca) == ("EC P-256", "SHA-256", False)
    assert told.key_usage == ("digitalSignature",)
    assert told.extended_key_usage == ("serverAuth", "clientAuth")
    assert (told.not_before, told.not_after) == (int(NOW - ca.SKEW_S), int(NOW + 60))
    assert len(told.sha256) == len(told.key_sha256) == 64
    root = ca.describe(svid.split(authority.certificate_pem)[0])
    assert root.is_ca
    assert root.key_usage == ("keyCertSign", "cRLSign")
    assert ca.describe(Authority("shop", key=ed25519.Ed25519PrivateKey.generate()).der).key == "Ed25519"
    with pytest.raises(ValueError):
        ca.describe(b"nonsense")

"""A development CA: makes the identities of a trust domain, and describes any certificate for people.

Pure but for the randomness of keys and serial numbers: PEM in, PEM out, the time is an argument. It is for development,
tests and small meshes run by hand; whoever has a CA already (SPIRE, step-ca, Vault, cert-manager) needs none of it.
What it makes is the profile of X.509-SVID: P-256, an empty subject and one critical URI SAN on leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flui.identity.spiffe import SCHEME, SpiffeId, trust_domain_problem
from flui.identity.svid import UNREADABLE, is_pair, moment, serial_of, split

SKEW_S: Final = 300.0
"""Certificates are valid this long before they were made, for the clocks of a mesh are never quite the same."""

_SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


class CA:
    """A CA's certificate and its key. Never printed: it holds the key."""

    __slots__ = ("certificate_pem", "key_pem", "trust_domain")

    def __init__(self, certificate_pem: bytes, key_pem: bytes, trust_domain: str) -> None:
        self.certificate_pem = certificate_pem
        self.key_pem = key_pem
        self.trust_domain = trust_domain
        """From its URI SAN `spiffe://TRUST-DOMAIN`; empty when the CA was made by someone else and does not say."""


def new_ca(trust_domain: str, now: float, lifetime_s: float) -> CA:
    """A new self-signed CA for one trust domain. It signs leaves only (path length 0).

    Args:
        trust_domain: For example `shop`.
        now: Unix seconds.
        lifetime_s: Seconds from now to its notAfter.

    Raises:
        ValueError: `trust_domain` is none.
    """
    problem = trust_domain_problem(trust_domain)
    if problem:
        raise ValueError(problem)
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # The number keeps two CAs of one trust domain apart while both are in a bundle.
    common_name = f"{trust_domain[:32]} development CA {identifier.digest[:4].hex()}"
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "FLUI Mesh"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    certificate = (
        _builder(subject, subject, key.public_key(), now - SKEW_S, now + lifetime_s)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SCHEME + trust_domain)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CA(_pem(certificate), _key_pem(key), trust_domain)


def load_ca(bundle_pem: bytes, key_pem: bytes) -> CA:
    """The CA whose key this is, from a bundle that may hold others beside it.

    Raises:
        ValueError: The key cannot be read, or belongs to no CA certificate of the bundle.
    """
    for der in split(bundle_pem):
        if is_pair(der, key_pem):
            certificate = x509.load_der_x509_certificate(der)
            if not describe(der).is_ca:
                raise ValueError("the certificate that belongs to the key is not a CA's")
            return CA(_pem(certificate), key_pem, _trust_domain(certificate))
    raise ValueError("the key belongs to no certificate of the bundle")


@dataclass(frozen=True, slots=True)
class Leaf:
    """What `issue` makes; both are the contents of files."""

    chain_pem: bytes
    """The leaf, then the CA's certificate if that one is an intermediate."""
    key_pem: bytes
    """PKCS#8."""

    def __repr__(self) -> str:
        return "Leaf(…)"


def issue(
    ca: CA,
    spiffe_id: SpiffeId,
    now: float,
    lifetime_s: float,
    dns: Sequence[str] = (),
    ips: Sequence[IPv4Address | IPv6Address] = (),
) -> Leaf:
    """A new key and a leaf for a workload.

    Args:
        ca: Who signs.
        spiffe_id: The identity; it has a path.
        now: Unix seconds.
        lifetime_s: Seconds from now to notAfter, which never comes after the CA's own.
        dns: Further names, for clients that check host names. Never an identity inside the mesh.
        ips: The same for addresses.

    Raises:
        ValueError: The CA is not valid now, its key cannot sign, the ID has no path, or a DNS name is not ASCII.
    """
    if not spiffe_id.path:
        raise ValueError(f"{spiffe_id} names a trust domain, not a workload (it has no path)")
    authority = x509.load_pem_x509_certificate(ca.certificate_pem)
    begins, ends = authority.not_valid_before_utc.timestamp(), authority.not_valid_after_utc.timestamp()
    if not begins <= now < ends:
        raise ValueError(f"the CA is valid from {moment(begins)} to {moment(ends)}, not now")
    authority_key = serialization.load_pem_private_key(ca.key_pem, None)
    if not isinstance(authority_key, _SigningKey):
        raise ValueError("the CA's key is of a kind that signs no certificates")
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    names += [x509.DNSName(name) for name in dns]
    names += [x509.IPAddress(address) for address in ips]
    certificate = (
        _builder(x509.Name([]), authority.subject, key.public_key(), max(now - SKEW_S, begins), min(now + lifetime_s, ends))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_identifier(authority), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)  # RFC 5280 4.2.1.6: critical, for the subject is empty
        .sign(authority_key, None if isinstance(authority_key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256())
    )
    chain = _pem(certificate)
    if authority.subject != authority.issuer:
        chain += ca.certificate_pem
    return Leaf(chain, _key_pem(key))


@dataclass(frozen=True, slots=True)
class Description:
    """A certificate in words and numbers."""

    subject: str
    """RFC 4514; empty on most SPIFFE leaves."""
    issuer: str
    serial: str
    """Hex."""
    not_before: float
    """Unix seconds."""
    not_after: float
    """Unix seconds."""
    uris: tuple[str, ...]
    dns: tuple[str, ...]
    ips: tuple[str, ...]
    is_ca: bool
    key: str
    """Kind and size of the public key: `EC P-256`, `RSA 2048`."""
    signature: str
    key_usage: tuple[str, ...]
    extended_key_usage: tuple[str, ...]
    sha256: str
    """Fingerprint of the certificate, hex."""
    key_sha256: str
    """Fingerprint of its public key (SubjectPublicKeyInfo), hex: the same after a renewal with the same key."""


def describe(der: bytes) -> Description:
    """What stands in a certificate.

    Raises:
        ValueError: It, or an extension of it, cannot be read.
    """
    is_ca = False
    usages: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()
    uris: list[str] = []
    dns: list[str] = []
    ips: list[str] = []
    try:
        certificate = x509.load_der_x509_certificate(der)
        found = list(certificate.extensions)
        key, key_der = _key_kind(certificate), _spki(certificate)
    except UNREADABLE as e:
        raise ValueError(f"the certificate cannot be read: {e}") from e
    for extension in found:
        match extension.value:
            case x509.BasicConstraints() as constraints:
                is_ca = constraints.ca
            case x509.KeyUsage() as usage:
                usages = tuple(name for attribute, name in _USAGES.items() if getattr(usage, attribute))
            case x509.ExtendedKeyUsage() as purposes:
                extended = tuple(_PURPOSES.get(oid, oid.dotted_string) for oid in purposes)
            case x509.SubjectAlternativeName() as names:
                uris = names.get_values_for_type(x509.UniformResourceIdentifier)
                dns = names.get_values_for_type(x509.DNSName)
                ips = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
            case _:
                pass
    return Description(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        serial=serial_of(certificate),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        uris=tuple(uris),
        dns=tuple(dns),
        ips=tuple(ips),
        is_ca=is_ca,
        key=key,
        signature=_signature(certificate),
        key_usage=usages,
        extended_key_usage=extended,
        sha256=hashlib.sha256(der).hexdigest(),
        key_sha256=hashlib.sha256(key_der).hexdigest(),
    )


_USAGES: Final[dict[str, str]] = {
    "digital_signature": "digitalSignature",
    "content_commitment": "nonRepudiation",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
}
_PURPOSES: Final[dict[x509.ObjectIdentifier, str]] = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.CODE_SIGNING: "codeSigning",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "any",
}


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: float, ends: float) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(int(begins), UTC))
        .not_valid_after(datetime.fromtimestamp(int(ends), UTC))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """What the CA calls its own key, or the usual hash where it has no name for it (RFC 5280 4.2.1.1)."""
    try:
        own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        own = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _trust_domain(certificate: x509.Certificate) -> str:
    for uri in describe(certificate.public_bytes(serialization.Encoding.DER)).uris:
        try:
            return SpiffeId.parse(uri).trust_domain
        except ValueError:
            continue
    return ""


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key_kind(certificate: x509.Certificate) -> str:
    match certificate.public_key():
        case ec.EllipticCurvePublicKey() as key:
            return f"EC {_CURVES.get(key.curve.name, key.curve.name)}"
        case rsa.RSAPublicKey() as key:
            return f"RSA {key.key_size}"
        case key:
            return type(key).__name__.removesuffix("PublicKey")


_CURVES: Final[dict[str, str]] = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def _signature(certificate: x509.Certificate) -> str:
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return certificate.signature_algorithm_oid.dotted_string
    return digest.name.upper().replace("SHA", "SHA-") if digest else "with its key"

"""X.509-SVIDs: from a certificate to a principal, and whether a bundle stands behind it (X.509-SVID standard).

Pure over DER octets and a time that is an argument. At a handshake OpenSSL is the one who judges the chain (transport);
here are the rules that it does not know (one URI SAN, the trust domain, key usage), and `verify`, a second judge for
chains that OpenSSL judged under another bundle, or has not seen at all.

`verify` uses the chain builder of `cryptography` with its web profile relaxed: that one wants a critical SAN only beside an
empty subject, authority and subject key identifiers, and more, which PEM files of many a CA do not have. It stays stricter
than OpenSSL in three things: an Ed25519 *issuer*, a *URI* name constraint and a CA without a subject are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from flui.identity.spiffe import SpiffeId
from flui.model.identity import Principal

MAX_DEPTH: Final = 8
"""Intermediates between a leaf and an anchor (threats E6: a chain of a hundred)."""
MIN_RSA_BITS: Final = 2048

UNREADABLE: Final = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType)
"""What the library raises over octets that are no certificate, or one that it does not understand."""


class Reason(Enum):
    """Why a peer or a certificate was refused. A closed set, so that it can be the label of a metric."""

    NO_CERTIFICATE = "no_certificate"
    MALFORMED = "malformed"
    NOT_ONE_URI = "not_one_uri"
    NOT_SPIFFE = "not_spiffe"
    TRUST_DOMAIN = "trust_domain"
    IS_CA = "is_ca"
    KEY_USAGE = "key_usage"
    EXTENDED_KEY_USAGE = "extended_key_usage"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    WEAK_KEY = "weak_key"
    UNTRUSTED = "untrusted"
    UNEXPECTED_IDENTITY = "unexpected_identity"
    PROTOCOL = "protocol"
    """TLS version, cipher or application protocol below what the mesh speaks."""


class SvidError(Exception):
    """A certificate does not make its holder a principal. The text is for operators, never for the peer."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


class Use(Enum):
    """What a certificate's holder does with it on a connection."""

    CALLER = "caller"
    """It opened the connection (extended key usage clientAuth)."""
    CALLEE = "callee"
    """It accepted the connection (serverAuth)."""
    ANY = "any"
    """Not known: one of the two is enough."""


_NEEDED: Final[dict[Use, tuple[tuple[x509.ObjectIdentifier, str], ...]]] = {
    Use.CALLER: ((ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth"),),
    Use.CALLEE: ((ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth"),),
    Use.ANY: ((ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth"), (ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth")),
}


def principal(leaf_der: bytes, trust_domain: str, use: Use = Use.ANY) -> Principal:
    """Who the holder of this leaf is, by the X.509-SVID rules. Says nothing about who signed it, or about the time.

    Args:
        leaf_der: The end-entity certificate, DER.
        trust_domain: The only one whose IDs are accepted: the one that the bundle behind this leaf belongs to (threats E5).
        use: Which extended key usage it must have, if it has any.

    Returns:
        A principal named by the SPIFFE ID, which lapses at the leaf's notAfter.

    Raises:
        SvidError: A rule is broken; `reason` says which.
    """
    certificate = _parse(leaf_der)
    extensions = _extensions(certificate)
    spiffe_id = _only_id(extensions)
    if spiffe_id.trust_domain != trust_domain:
        raise SvidError(Reason.TRUST_DOMAIN, f"{spiffe_id} is not of the trust domain {trust_domain}")
    _check_leaf(extensions, use)
    return Principal(str(spiffe_id), certificate.not_valid_after_utc.timestamp(), serial_of(certificate))


def trust_domain_of(leaf_der: bytes) -> str:
    """Trust domain in a leaf's SPIFFE ID.

    Raises:
        SvidError: The leaf has no URI SAN, several, or one that names no workload.
    """
    return _only_id(_extensions(_parse(leaf_der))).trust_domain


def lifetime(der: bytes) -> tuple[float, float]:
    """NotBefore and notAfter of a certificate, Unix seconds.

    Raises:
        SvidError: The octets are no certificate.
    """
    certificate = _parse(der)
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def check_time(der: bytes, at: float) -> None:
    """Raises `SvidError` (EXPIRED, NOT_YET_VALID) when the certificate is not valid at Unix second `at`."""
    begin, end = lifetime(der)
    if at >= end:
        raise SvidError(Reason.EXPIRED, f"it expired at {moment(end)}")
    if at < begin:
        raise SvidError(Reason.NOT_YET_VALID, f"it is not valid before {moment(begin)}")


class Anchors:
    """A trust bundle: the CA certificates that are believed, parsed once."""

    __slots__ = ("_store", "ders", "expires_at")

    def __init__(self, pem: bytes) -> None:
        """Reads a bundle.

        Args:
            pem: CA certificates, one after the other; text between them is ignored.

        Raises:
            ValueError: There is no certificate in it, or one that cannot be read or is no CA's.
        """
        ders = split(pem)
        certificates = [_parse(der) for der in ders]
        for number, certificate in enumerate(certificates, 1):
            if not _is_ca(certificate):
                raise ValueError(
                    f"certificate {number} in it ({_subject(certificate)}) is not a CA's (basicConstraints CA:TRUE is missing)"
                )
        self.ders = frozenset(ders)
        """The certificates, DER."""
        self.expires_at = max(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
        """Unix seconds after which none of them is valid any more."""
        self._store = Store(certificates)

    def verify(self, chain: Sequence[bytes], at: float) -> float:
        """Whether some path leads from `chain[0]` to one of these anchors.

        Args:
            chain: The leaf, then any certificates that may help, in any order; DER.
            at: Unix seconds.

        Returns:
            Unix seconds at which the path that was found lapses.

        Raises:
            SvidError: EXPIRED, NOT_YET_VALID, WEAK_KEY, UNTRUSTED, MALFORMED, or NO_CERTIFICATE for an empty chain.
        """
        if not chain:
            raise SvidError(Reason.NO_CERTIFICATE, "there is no certificate")
        check_time(chain[0], at)
        leaf, *others = [_parse(der) for der in chain]
        builder = PolicyBuilder().store(self._store).time(datetime.fromtimestamp(at, UTC)).max_chain_depth(MAX_DEPTH)
        verifier = builder.extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY).build_client_verifier()
        try:
            path = verifier.verify(leaf, others).chain
        except VerificationError as e:
            why = str(e).removeprefix("validation failed: ").partition(" (encountered")[0]
            raise SvidError(Reason.UNTRUSTED, f"no valid chain leads from it to a CA of the bundle ({why})") from e
        for certificate in path:
            key = certificate.public_key()
            if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
                raise SvidError(
                    Reason.WEAK_KEY, f"{_subject(certificate)} has an RSA key of {key.key_size} bits, fewer than {MIN_RSA_BITS}"
                )
        return min(certificate.not_valid_after_utc.timestamp() for certificate in path)


def verify(chain: Sequence[bytes], anchors: Anchors, at: float) -> None:
    """Raises `SvidError` unless `anchors` stand behind the chain at Unix second `at`; see `Anchors.verify`."""
    anchors.verify(chain, at)


def split(pem: bytes) -> list[bytes]:
    """The certificates of a PEM text in their order, DER.

    Raises:
        ValueError: There is none in it, or one cannot be read; in words for a person.
    """
    begun = pem.count(b"-----BEGIN CERTIFICATE-----")
    if not begun:
        raise ValueError("there is no certificate in it")
    try:
        with _quiet():
            certificates = x509.load_pem_x509_certificates(pem)
    except UNREADABLE as e:
        raise ValueError("a certificate in it cannot be read (damaged PEM or DER)") from e
    if len(certificates) != begun:  # a file half copied; the library passes over what has no end
        raise ValueError(f"only {len(certificates)} of the {begun} certificates in it can be read (cut off, or damaged)")
    return [certificate.public_bytes(serialization.Encoding.DER) for certificate in certificates]


def is_pair(leaf_der: bytes, key_pem: bytes) -> bool:
    """Whether the private key is the one of the leaf.

    Raises:
        ValueError: The key cannot be read, or is encrypted; in words for a person.
        SvidError: The leaf cannot be read.
    """
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except TypeError as e:
        raise ValueError("the key is encrypted with a password") from e
    except (ValueError, UnsupportedAlgorithm) as e:
        raise ValueError("there is no private key in it that can be read") from e
    try:
        return key.public_key().public_bytes(encoding, form) == _parse(leaf_der).public_key().public_bytes(encoding, form)
    except UNREADABLE as e:
        raise SvidError(Reason.MALFORMED, "the certificate's public key is of a kind that cannot be read") from e


def serial_of(certificate: x509.Certificate) -> str:
    """Serial number in hex."""
    with _quiet():
        return f"{certificate.serial_number:x}"


def _quiet() -> AbstractContextManager[object]:
    """A serial number below 1 makes the library warn on stderr; a peer must not be able to write there."""
    return warnings.catch_warnings(action="ignore", category=CryptographyDeprecationWarning)


def _parse(der: bytes) -> x509.Certificate:
    try:
        with _quiet():
            return x509.load_der_x509_certificate(der)
    except UNREADABLE as e:
        raise SvidError(Reason.MALFORMED, f"the certificate cannot be read: {e}") from e


def _extensions(certificate: x509.Certificate) -> x509.Extensions:
    try:
        return certificate.extensions
    except UNREADABLE as e:
        raise SvidError(Reason.MALFORMED, f"an extension of the certificate cannot be read: {e}") from e


def _only_id(extensions: x509.Extensions) -> SpiffeId:
    """The one SPIFFE ID in the SAN. Other kinds of SAN (DNS, IP) are allowed and never an identity."""
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise SvidError(Reason.NOT_ONE_URI, "the certificate has no subject alternative name, so no SPIFFE ID") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:  # X.509-SVID 2: exactly one URI SAN
        raise SvidError(Reason.NOT_ONE_URI, f"the certificate has {len(uris)} URI SANs; a SPIFFE certificate has exactly one")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except ValueError as e:
        raise SvidError(Reason.NOT_SPIFFE, f"the URI SAN is no SPIFFE ID: {e}") from e
    if not spiffe_id.path:  # X.509-SVID 5.2: a leaf's SPIFFE ID has a path
        raise SvidError(Reason.NOT_SPIFFE, f"{spiffe_id} names a trust domain, not a workload (it has no path)")
    return spiffe_id


def _check_leaf(extensions: x509.Extensions, use: Use) -> None:
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:  # X.509-SVID 4.1
            raise SvidError(Reason.IS_CA, "the certificate is a CA's (basicConstraints CA:TRUE)")
        if isinstance(value, x509.ExtendedKeyUsage):
            needed = _NEEDED[use]
            if not any(oid in value for oid, _ in needed):
                names = " or ".join(name for _, name in needed)
                raise SvidError(Reason.EXTENDED_KEY_USAGE, f"the certificate's extended key usage lacks {names}")
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:  # X.509-SVID 4.3: it must be there
        raise SvidError(Reason.KEY_USAGE, "the certificate has no key usage; a SPIFFE certificate has digitalSignature") from None
    if not usage.digital_signature:
        raise SvidError(Reason.KEY_USAGE, "the certificate's key usage lacks digitalSignature")
    if usage.key_cert_sign or usage.crl_sign:
        raise SvidError(Reason.KEY_USAGE, "the certificate's key usage has keyCertSign or cRLSign, which are a CA's")


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial {serial_of(certificate)}"


def moment(unix: float) -> str:
    """A time for people, in UTC, to the second."""
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _signs_certificates(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    """RFC 5280 6.1.4 (n): an issuer that has a key usage has keyCertSign in it."""
    del policy, certificate
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an issuer's key usage lacks keyCertSign")


_LEAF_POLICY: Final = ExtensionPolicy.permit_all()
_CA_POLICY: Final = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)
)

"""Certificates for tests: good ones as short as can be, and bad ones in every way.

    shop = Authority("shop")
    shop.leaf("spiffe://shop/web")                                  as `flui certs issue` makes them
    shop.leaf(uris=("spiffe://shop/a", "spiffe://shop/b"))          broken on purpose, see `leaf`
    folder = write(tmp_path, "web", shop.leaf("spiffe://shop/web"), shop)     what `--certs` wants

`raw_context` is a peer that is none of ours: it believes and offers what a test says.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = 86_400.0
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def wall_clock() -> float:
    """Unix seconds: handshakes are judged by OpenSSL, which asks the machine."""
    return time.time()  # noqa: TID251  the one clock of the tests


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Leaf:
    """A certificate with its chain and key, as files hold them."""

    chain_pem: bytes
    key_pem: bytes

    @property
    def ders(self) -> list[bytes]:
        """The chain, leaf first."""
        return [c.public_bytes(serialization.Encoding.DER) for c in x509.load_pem_x509_certificates(self.chain_pem)]


class Authority:
    """A CA of a test; with `parent` an intermediate."""

    def __init__(
        self,
        trust_domain: str = "shop",
        parent: Authority | None = None,
        *,
        key=None,
        subject: str | None = None,
        ca: bool = True,
        constraints: bool = True,
        path_length: int | None = None,
        usage: bool | None = True,
        begins: float = -DAY,
        lasts: float = 30 * DAY,
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> None:
        """`begins` and `lasts` are seconds from now; `usage` None: no key usage, False: one without keyCertSign."""
        self.trust_domain = trust_domain
        self.parent = parent
        self.key = key or new_key()
        common_name = subject if subject is not None else f"{trust_domain} {'intermediate' if parent else 'root'} {os.urandom(3).hex()}"
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        issuer = parent or self
        now = wall_clock()
        builder = _builder(self.name, issuer.name, self.key.public_key(), now + begins, now + lasts)
        if constraints:
            builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
        if usage is not None:
            builder = builder.add_extension(key_usage(key_cert_sign=usage, digital_signature=not usage), critical=True)
        for value, critical in extra:
            builder = builder.add_extension(value, critical=critical)
        self.certificate = _sign(builder, issuer.key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def leaf(
        self,
        spiffe_id: str = "spiffe://shop/web",
        *,
        uris: Sequence[str] | None = None,
        dns: Sequence[str] = (),
        san: bool = True,
        subject: str = "",
        key=None,
        ca: bool | None = False,
        usage: x509.KeyUsage | str | None = "default",
        extended: Sequence[x509.ObjectIdentifier] | None = BOTH,
        begins: float = -60.0,
        lasts: float = DAY,
        digest: hashes.HashAlgorithm | None = None,
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
        tweak: Callable[[x509.CertificateBuilder], x509.CertificateBuilder] | None = None,
    ) -> Leaf:
        """A leaf; every part of the profile can be spoilt. `ca` None: no basic constraints. Times are seconds from now."""
        key = key or new_key()
        now = wall_clock()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
        builder = _builder(name, self.name, key.public_key(), now + begins, now + lasts)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in ((spiffe_id,) if uris is None else uris)]
        names += [x509.DNSName(host) for host in dns]
        if san and names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        if usage == "default":
            usage = key_usage()
        if isinstance(usage, x509.KeyUsage):
            builder = builder.add_extension(usage, critical=True)
        if extended is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        for value, critical in extra:
            builder = builder.add_extension(value, critical=critical)
        if tweak:
            builder = tweak(builder)
        certificate = _sign(builder, self.key, digest)
        chain = certificate.public_bytes(serialization.Encoding.PEM)
        above: Authority = self
        while above.parent is not None:
            chain += above.pem
            above = above.parent
        return Leaf(chain, pkcs8(key))


def key_usage(**changes: bool) -> x509.KeyUsage:
    """`digitalSignature` alone, but for the changes."""
    bits = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**({"digital_signature": True} | bits | changes))


def pkcs8(key, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def bundle(*authorities: Authority) -> bytes:
    return b"".join(authority.pem for authority in authorities)


def write(folder: Path, service: str, leaf: Leaf, *authorities: Authority) -> Path:
    """Writes `ca.pem` (the authorities), `SERVICE.pem` and `SERVICE.key` in place of what was there; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, octets in (("ca.pem", bundle(*authorities)), (f"{service}.key", leaf.key_pem), (f"{service}.pem", leaf.chain_pem)):
        if octets:
            replace(folder / name, octets)
    return folder


def replace(path: Path, octets: bytes) -> None:
    """Writes a file the atomic way."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(octets)
    new.rename(path)


def raw_context(
    side: int,
    leaf: Leaf | None,
    authorities: Iterable[Authority],
    *,
    alpn: Sequence[str] = ("http/1.1",),
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:  # noqa: TID251  a peer that is not ours
    """A context with none of our rules: `side` is `ssl.PROTOCOL_TLS_CLIENT` or `…_SERVER`; no authority: it believes anyone."""
    context = ssl.SSLContext(side)  # noqa: TID251  a peer that is not ours
    context.check_hostname = False
    context.maximum_version = newest
    pem = bundle(*authorities)
    if pem:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pem.decode())
    else:
        context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if leaf:
        with tempfile.NamedTemporaryFile() as file:
            file.write(leaf.chain_pem + leaf.key_pem)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _builder(subject: x509.Name, issuer: x509.Name, key, begins: float, ends: float) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(int(begins), UTC))
        .not_valid_after(datetime.fromtimestamp(int(ends), UTC))
    )


def _sign(builder: x509.CertificateBuilder, key, digest: hashes.HashAlgorithm | None = None) -> x509.Certificate:
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return builder.sign(key, None)
    return builder.sign(key, digest or hashes.SHA256())

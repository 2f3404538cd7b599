"""TLS of the mesh: contexts that speak nothing weaker, and who the peer of a finished handshake is.

TLS 1.3 only, a certificate required both ways, no tickets (threats E7: a resumed session would skip the check against
a bundle that has changed), no renegotiation, no compression. The client side checks no host name: it checks the SPIFFE
ID (`expect`) before the first octet (E10). Chains are judged by OpenSSL at the handshake; `still_trusted` judges those of live
connections again when the bundle has changed or time has passed.

What is *not* refused inside the handshake, and therefore must be asked right after it: `agreed` (ALPN and cipher, which
this `ssl` cannot enforce) and `peer` (X.509-SVID rules). Both raise `SvidError`; the connection is then aborted.
"""

from __future__ import annotations

import os
import ssl
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from flui.identity.svid import MAX_DEPTH, Anchors, Reason, SvidError, Use, lifetime, principal
from flui.model.identity import Principal
from flui.transport._sslobj import verified_path

Context: TypeAlias = ssl.SSLContext  # noqa: TID251  this is the file that the ban points to
"""What `asyncio` takes as `ssl=`; made here and nowhere else."""

HTTP1: Final = "http/1.1"
HTTP2: Final = "h2"
OFFERED: Final = (HTTP2, HTTP1)
"""Application protocols that we offer where we call, best first."""
SERVED: Final = (HTTP2, HTTP1)
"""Those that our listeners take, best first."""
MIN_CIPHER_BITS: Final = 256
MAX_PEERS: Final = 4096
"""Distinct leaves remembered per bundle (about 4 KiB each); the memory is cleared when it is full."""

# Level 2: at least 112 bits, so no RSA below 2048 and no SHA-1 in a chain. The named suites matter to TLS 1.2 alone, which is off.
_SECURITY: Final = "ECDHE+AESGCM:@SECLEVEL=2"


@dataclass(frozen=True, slots=True)
class Peer:
    """The far side of one connection, authenticated. Shared by all connections that show the same leaf."""

    principal: Principal
    """It lapses when the first certificate of `chain` does."""
    chain: tuple[bytes, ...]
    """The path that was verified: leaf first, the anchor of the bundle last; DER."""


class Trust:
    """What peers are judged by, for one generation of the bundle; it remembers the peers it has judged."""

    __slots__ = ("anchors", "peers", "trust_domain")

    def __init__(self, trust_domain: str, anchors: Anchors) -> None:
        self.trust_domain = trust_domain
        self.anchors = anchors
        self.peers: dict[tuple[bytes, Use], Peer] = {}


class Trusting(Protocol):
    """Whoever knows the trust in force now: `Credentials`."""

    @property
    def trust(self) -> Trust:
        """It may be another one at the next question."""
        ...


def server_context(chain_pem: bytes, key_pem: bytes, anchors: Anchors, alpn: Sequence[str] = SERVED) -> Context:
    """A context for accepted connections: TLS 1.3, a client certificate that leads to `anchors` required.

    Args:
        chain_pem: Our leaf, then its chain.
        key_pem: The leaf's private key, not encrypted.
        anchors: Who may sign peers.
        alpn: Application protocols, best first.

    Raises:
        ssl.SSLError: OpenSSL does not take the certificate or the key (too weak, not a pair).
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, chain_pem, key_pem, anchors, alpn)
    context.num_tickets = 0  # RFC 8446 4.6.1: no NewSessionTicket, so nothing to resume from
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE  # else a caller that prefers 128-bit keys gets them
    return context


def client_context(chain_pem: bytes, key_pem: bytes, anchors: Anchors, alpn: Sequence[str] = OFFERED) -> Context:
    """A context for connections that we open; arguments and errors as for `server_context`.

    It checks no host name: call `peer` and `expect` before anything is written.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, chain_pem, key_pem, anchors, alpn)


def agreed(ssl_object: ssl.SSLObject, alpn: Sequence[str] = SERVED) -> str:
    """The application protocol both sides agreed on.

    Who offers or picks none speaks HTTP/1.1 (RFC 9110 4.3.4 knows no other default for `https`; plain `ssl` and
    `http.client` offer none). `ssl` does not tell that from an offer without overlap; either way only our strict
    HTTP/1.1 is spoken, so another protocol's octets end as 400 (threats E8; docs/decisions/0008).

    Args:
        ssl_object: Of a finished handshake.
        alpn: What we offered, or take.

    Returns:
        `HTTP2` or `HTTP1`.

    Raises:
        SvidError: PROTOCOL: less than TLS 1.3, keys of fewer than 256 bits, or a protocol that we did not offer.
    """
    cipher = ssl_object.cipher()
    if ssl_object.version() != "TLSv1.3" or cipher is None:
        raise SvidError(Reason.PROTOCOL, f"the connection speaks {ssl_object.version()}, not TLS 1.3")
    if cipher[2] < MIN_CIPHER_BITS:
        raise SvidError(Reason.PROTOCOL, f"the cipher {cipher[0]} has {cipher[2]}-bit keys; {MIN_CIPHER_BITS} bits are needed")
    protocol = ssl_object.selected_alpn_protocol() or HTTP1
    if protocol not in alpn:
        raise SvidError(Reason.PROTOCOL, f"no application protocol was agreed on (ALPN); ours: {', '.join(alpn)}")
    return protocol


def peer(ssl_object: ssl.SSLObject, trusting: Trusting) -> Peer:
    """Who is at the other end of a finished handshake.

    Args:
        ssl_object: `transport.get_extra_info("ssl_object")`, of asyncio's or uvloop's transport, made with one of our contexts.
        trusting: Our `Credentials`.

    Raises:
        SvidError: There is no certificate, it breaks an X.509-SVID rule, or its CA was removed while the handshake ran.
    """
    leaf = ssl_object.getpeercert(binary_form=True)
    if not leaf:
        raise SvidError(Reason.NO_CERTIFICATE, "the peer showed no certificate")
    use = Use.CALLER if ssl_object.server_side else Use.CALLEE
    trust = trusting.trust
    known = trust.peers.get((leaf, use))
    if known is not None:
        return known
    who = principal(leaf, trust.trust_domain, use)
    chain = verified_path(ssl_object)
    if not chain or chain[0] != leaf or chain[-1] not in trust.anchors.ders:
        raise SvidError(Reason.UNTRUSTED, f"the CA behind {who.name} is not in the bundle (any more)")
    if len(chain) > MAX_DEPTH + 2:  # OpenSSL allows a hundred, and `ssl` cannot tell it otherwise
        raise SvidError(Reason.UNTRUSTED, f"the chain of {who.name} has {len(chain) - 2} intermediates, more than {MAX_DEPTH}")
    found = Peer(replace(who, expires_at=min(who.expires_at, *(lifetime(der)[1] for der in chain[1:]))), chain)
    if len(trust.peers) >= MAX_PEERS:
        trust.peers.clear()
    trust.peers[leaf, use] = found
    return found


def expect(who: Principal, wanted: str) -> None:
    """Raises `SvidError` (UNEXPECTED_IDENTITY) unless `who` is exactly the SPIFFE ID `wanted` (threats E10)."""
    if who.name != wanted:
        raise SvidError(Reason.UNEXPECTED_IDENTITY, f"the endpoint is {who.name}, not {wanted}")


def still_trusted(known: Peer, trusting: Trusting, now: float) -> SvidError | None:
    """Whether a live connection may go on: ask after a reload, and when the principal's `expires_at` has come.

    The path that OpenSSL verified counts on while its anchor is in the bundle. When the anchor is gone, another path
    is looked for (a CA that was signed anew); the refusal then costs a CA that `Anchors.verify` is too strict for no
    more than a new handshake.

    Args:
        known: What `peer` returned for the connection.
        trusting: Our `Credentials`.
        now: Unix seconds.

    Returns:
        None, or why the connection must be closed.
    """
    trust = trusting.trust
    if not known.principal.name.startswith(f"spiffe://{trust.trust_domain}/"):
        return SvidError(Reason.TRUST_DOMAIN, f"{known.principal.name} is not of the trust domain {trust.trust_domain}")
    if known.chain[-1] in trust.anchors.ders and now < known.principal.expires_at:
        return None
    try:
        trust.anchors.verify(known.chain, now)
    except SvidError as e:
        return e
    return None


def rehearse(server: Context, client: Context, trusting: Trusting) -> str:
    """A handshake of a service with itself, in memory: what would OpenSSL and we say to these files at a peer's?

    Returns:
        Empty, or why peers with the same bundle would refuse us, in words for an operator.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    callee = server.wrap_bio(to_server, to_client, server_side=True)
    caller = client.wrap_bio(to_client, to_server, server_hostname="rehearsal.invalid")
    try:
        for side in (caller, callee, caller, callee):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        for side in (callee, caller):
            agreed(side, OFFERED)
            peer(side, trusting)
    except ssl.SSLCertVerificationError as e:
        return e.verify_message
    except (ssl.SSLError, SvidError) as e:
        return str(e)
    return ""


def _context(role: int, chain_pem: bytes, key_pem: bytes, anchors: Anchors, alpn: Sequence[str]) -> Context:
    context = Context(role)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the SPIFFE ID is checked instead, see `expect`
    context.verify_mode = ssl.CERT_REQUIRED
    # A bundle may hold an intermediate without its root: the operator said that this one is believed.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_SECURITY)
    context.set_alpn_protocols(list(alpn))
    context.load_verify_locations(cadata=b"".join(sorted(anchors.ders)))
    with _as_file(chain_pem + b"\n" + key_pem) as path:
        context.load_cert_chain(path, password="")  # an encrypted key is an error, not a question on the terminal
    return context


@contextmanager
def _as_file(octets: bytes) -> Iterator[str]:
    """A path to these octets, in memory where that can be, else a temporary file of mode 0600.

    `load_cert_chain` takes only files, and those of the operator may change between being checked and being loaded.
    """
    if sys.platform == "linux" and Path("/proc/self/fd").is_dir():
        fd = os.memfd_create("identity")
        try:
            os.write(fd, octets)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(octets)
        file.flush()
        yield file.name

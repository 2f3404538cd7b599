"""A service's own certificate, key and trust bundle, as they stand in a folder now.

    read ──▶ check ──good──▶ a whole new set of contexts, generation + 1
               └────bad────▶ the last good stays; `problems` says what is wrong

The identity (leaf, chain and key) and the bundle are two things: one that is bad does not hold back the other, so that a
CA that was removed is gone even while a certificate is being copied. New connections use what is in force when they
are accepted; live ones are judged again by `tls.still_trusted`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

from flui.identity import svid
from flui.identity.svid import Anchors, SvidError, Use
from flui.model.config import ConfigError, Problem
from flui.model.identity import Principal
from flui.model.units import MIB
from flui.transport import tls
from flui.transport.changes import changes
from flui.transport.tls import OFFERED, SERVED, Context, Trust

BUNDLE: Final = "ca.pem"
POLL_S: Final = 2.0
"""The folder is read this often even when no change was notified: network file systems and replaced folders tell nobody."""
MAX_FILE_OCTETS: Final = 1 * MIB


class Identity:
    """A leaf with its chain and key, checked. Never printed: it holds the key."""

    __slots__ = ("chain_pem", "expires_at", "key_pem", "principal", "trust_domain")

    def __init__(self, chain_pem: bytes, key_pem: bytes, principal: Principal, trust_domain: str, expires_at: float) -> None:
        self.chain_pem = chain_pem
        self.key_pem = key_pem
        self.principal = principal
        self.trust_domain = trust_domain
        self.expires_at = expires_at


class Live:
    """One generation: everything that was made from one state of the files."""

    __slots__ = ("_clients", "identity", "server", "trust")

    def __init__(self, identity: Identity, anchors: Anchors, alpn: Sequence[str]) -> None:
        self.identity = identity
        self.trust = Trust(identity.trust_domain, anchors)
        self.server = tls.server_context(identity.chain_pem, identity.key_pem, anchors, alpn)
        self._clients: dict[tuple[str, ...], Context] = {}
        self.client(OFFERED)

    def client(self, offered: tuple[str, ...]) -> Context:
        """The context for connections that we open and that may speak one of `offered`."""
        found = self._clients.get(offered)
        if found is None:
            identity = self.identity
            found = self._clients[offered] = tls.client_context(identity.chain_pem, identity.key_pem, self.trust.anchors, offered)
        return found


class Credentials:
    """`ca.pem`, `NAME.pem` and `NAME.key` of a folder, and the TLS contexts made from them."""

    __slots__ = ("_clock", "_files", "_live", "_seen", "alpn", "folder", "generation", "problems", "service")

    def __init__(
        self,
        folder: str | Path,
        service: str,
        alpn: Sequence[str] = SERVED,
        clock: Callable[[], float] = time.time,  # noqa: TID251  floor 3: certificates are dated in Unix seconds
    ) -> None:
        """Reads the folder.

        Args:
            folder: Where the three files are.
            service: NAME.
            alpn: Application protocols that our listeners take, best first.
            clock: Unix seconds.

        Raises:
            ConfigError: Something is wrong with the files; all of it at once.
        """
        self.folder = Path(folder)
        self.service = service
        self.alpn = tuple(alpn)
        self.generation = 0
        """Counts the sets that came into force; 1 after the start."""
        self.problems: tuple[Problem, ...] = ()
        """What is wrong with the files as they stood at the last `reload`; empty when all of them are in force."""
        self._clock = clock
        self._files = (self.folder / BUNDLE, self.folder / f"{service}.pem", self.folder / f"{service}.key")
        self._seen: tuple[bytes | None, ...] = ()
        self._live: Live | None = None
        self.reload()
        if self._live is None:
            raise ConfigError(self.problems)

    @property
    def trust(self) -> Trust:
        """What peers are judged by now."""
        return self._in_force().trust

    @property
    def trust_domain(self) -> str:
        """That of our own leaf."""
        return self._in_force().identity.trust_domain

    @property
    def principal(self) -> Principal:
        """Who we are."""
        return self._in_force().identity.principal

    @property
    def expires_at(self) -> float:
        """Unix seconds at which our leaf, or a certificate of its chain, lapses."""
        return self._in_force().identity.expires_at

    def server_context(self) -> Context:
        """The context for a connection accepted now. Ask for it each time; never keep it."""
        return self._in_force().server

    def client_context(self, offered: tuple[str, ...] = OFFERED) -> Context:
        """The context for a connection opened now, which may speak one of `offered`. Ask for it each time; never keep it."""
        return self._in_force().client(offered)

    def rehearse(self) -> str:
        """Why peers that have the same bundle would refuse us; empty when they would not. About 3 ms of CPU."""
        live = self._in_force()
        return tls.rehearse(live.server, live.client(OFFERED), self)

    def reload(self) -> bool:
        """Reads the files and takes up what is good and new.

        Returns:
            Whether something came into force. `problems` holds what did not.
        """
        problems: list[Problem] = []
        raw = tuple(_read(path, self._fix(path), problems) for path in self._files)
        if raw == self._seen and not self.problems:
            return False
        self._seen = raw
        bundle, chain, key = raw
        identity = None if chain is None or key is None else self._identity(chain, key, problems)
        anchors = None if bundle is None else self._anchors(bundle, problems)
        if self._live is not None:
            identity = identity or self._live.identity
            anchors = anchors or self._live.trust.anchors
        changed = False
        if identity is not None and anchors is not None and not self._is_in_force(identity, anchors):
            try:
                self._live = Live(identity, anchors, self.alpn)
                self.generation += 1
                changed = True
            except ssl.SSLError as e:
                what = f"OpenSSL does not take it ({e.reason or e})"
                problems.append(
                    Problem(str(self._files[1]), 0, "", what, "use a key of at least 256 bits (EC) or 2048 bits (RSA) and SHA-256")
                )
        self.problems = tuple(problems)
        return changed

    def _in_force(self) -> Live:
        assert self._live is not None, "a Credentials without files raises when it is made"
        return self._live

    def _is_in_force(self, identity: Identity, anchors: Anchors) -> bool:
        live = self._live
        if live is None or live.trust.anchors.ders != anchors.ders:
            return False
        return (live.identity.chain_pem, live.identity.key_pem) == (identity.chain_pem, identity.key_pem)

    def _fix(self, path: Path) -> str:
        command = f"init --dir {self.folder}" if path.name == BUNDLE else f"issue {self.service} --dir {self.folder}"
        return f"put it there, or make one for development: flui certs {command}"

    def _identity(self, chain_pem: bytes, key_pem: bytes, problems: list[Problem]) -> Identity | None:
        """The identity in these files; None after naming what is wrong with it."""
        before = len(problems)
        _, chain_file, key_file = (str(path) for path in self._files)
        again = f"issue it again: flui certs issue {self.service} --dir {self.folder}"
        try:
            chain = svid.split(chain_pem)
        except ValueError as e:
            problems.append(Problem(chain_file, 0, "", str(e), "it holds the leaf, then its chain, in PEM"))
            return None
        trust_domain, who = "", None
        try:
            trust_domain = svid.trust_domain_of(chain[0])
            who = svid.principal(chain[0], trust_domain, Use.ANY)
        except SvidError as e:
            problems.append(
                Problem(chain_file, 0, "", e.text, f"the first certificate is the leaf of {self.service}, with one URI SAN spiffe://…")
            )
        for number, der in enumerate(chain, 1):
            try:
                svid.check_time(der, self._clock())
            except SvidError as e:
                problems.append(Problem(chain_file, 0, "", f"certificate {number} in it is of no use now: {e.text}", again))
        try:
            if not svid.is_pair(chain[0], key_pem):
                other = next((n for n, der in enumerate(chain[1:], 2) if svid.is_pair(der, key_pem)), 0)
                if other:
                    problems.append(
                        Problem(chain_file, 0, "", f"the leaf is certificate {other} in it", "put the leaf first, then its chain")
                    )
                else:
                    problems.append(
                        Problem(key_file, 0, "", f"it is not the key of {chain_file}", "put the key that belongs to the certificate")
                    )
        except ValueError as e:
            problems.append(Problem(key_file, 0, "", str(e), "it holds one unencrypted private key, PKCS#8 in PEM"))
        except SvidError as e:
            problems.append(Problem(chain_file, 0, "", e.text, again))
        if len(problems) > before or who is None:
            return None
        return Identity(chain_pem, key_pem, who, trust_domain, min(svid.lifetime(der)[1] for der in chain))

    def _anchors(self, pem: bytes, problems: list[Problem]) -> Anchors | None:
        """The bundle in this file; None after naming what is wrong with it."""
        file = str(self._files[0])
        try:
            anchors = Anchors(pem)
        except ValueError as e:
            problems.append(Problem(file, 0, "", str(e), "it holds the certificates of the CAs that are trusted, in PEM"))
            return None
        if self._clock() >= anchors.expires_at:
            problems.append(Problem(file, 0, "", "every CA certificate in it has expired", "put the certificates of CAs that are in use"))
            return None
        return anchors


async def watch(
    credentials: Credentials,
    on_change: Callable[[], None],
    on_problem: Callable[[tuple[Problem, ...]], None],
) -> None:
    """Takes up files as they are replaced, for ever; cancel it to end.

    Works with atomic renames, with plain copies (a certificate without its key is tried again when the key has come) and with the
    symbolic links that Kubernetes swaps. Cancellation leaves nothing behind.

    Args:
        credentials: What to reload.
        on_change: Called after something came into force: judge live connections again.
        on_problem: Called with what is wrong, once for each new set of problems.
    """
    told: tuple[Problem, ...] = ()
    async with aclosing(changes((str(credentials.folder),), POLL_S, debounce_ms=400)) as ticks:
        async for _ in ticks:
            if credentials.reload():
                on_change()
            if credentials.problems and credentials.problems != told:
                on_problem(credentials.problems)
            told = credentials.problems


def _read(path: Path, fix: str, problems: list[Problem]) -> bytes | None:
    """What stands in the file; None after naming why it cannot be read."""
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_FILE_OCTETS + 1)
    except FileNotFoundError:
        problems.append(Problem(str(path), 0, "", "there is no such file", fix))
        return None
    except OSError as e:
        problems.append(Problem(str(path), 0, "", f"it cannot be read ({e.strerror})", "let the user of the sidecar read it"))
        return None
    if len(octets) > MAX_FILE_OCTETS:
        problems.append(Problem(str(path), 0, "", f"it is larger than {MAX_FILE_OCTETS} octets", "put PEM certificates or a key there"))
        return None
    return octets

"""Throw-away identities of one measurement: a CA and leaves that our sidecar, Envoy, HAProxy and wrk all read."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flui.identity.ca import issue, new_ca
from flui.identity.spiffe import SpiffeId

TRUST_DOMAIN: Final = "bench"
_LIFE_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Identities:
    """A folder with `ca.pem` and, for each name, `NAME.pem` and `NAME.key`: what `certs:` of a sidecar expects."""

    folder: Path

    @property
    def ca(self) -> Path:
        """The bundle that everyone trusts."""
        return self.folder / "ca.pem"

    def certificate(self, name: str) -> Path:
        """The leaf of `name`, PEM."""
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        """The private key of `name`, PEM, PKCS#8."""
        return self.folder / f"{name}.key"

    def pair(self, name: str) -> Path:
        """Leaf and key in one file, as HAProxy reads them; outside the folder, where it cannot pass for a leaf."""
        return self.folder.with_name("pairs") / f"{name}.both"


def spiffe_id(name: str) -> str:
    """The SPIFFE ID that the leaf of `name` carries."""
    return f"spiffe://{TRUST_DOMAIN}/{name}"


def make(folder: Path, names: tuple[str, ...]) -> Identities:
    """Makes a CA and a leaf for each name, P-256, valid for a day.

    Args:
        folder: Made when it is not there; files in it are overwritten.
        names: Last parts of the SPIFFE IDs.

    Returns:
        Where the files are.
    """
    made = Identities(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made.pair("").parent.mkdir(exist_ok=True)
    now = dt.datetime.now(dt.UTC).timestamp()
    ca = new_ca(TRUST_DOMAIN, now, _LIFE_S)
    made.ca.write_bytes(ca.certificate_pem)
    for name in names:
        leaf = issue(ca, SpiffeId.parse(spiffe_id(name)), now, _LIFE_S)
        made.certificate(name).write_bytes(leaf.chain_pem)
        for path, octets in ((made.key(name), leaf.key_pem), (made.pair(name), leaf.chain_pem + leaf.key_pem)):
            path.touch(mode=0o600)
            path.write_bytes(octets)
    return made

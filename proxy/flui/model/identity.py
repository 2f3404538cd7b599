"""Who is speaking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated identity, made once per connection.

    Its name carries its namespace (`spiffe://…`, later `jwt:<issuer>:<subject>`), so that no caller can ever be
    called like a role (`role:…`).
    """

    name: str
    """The subject that policy rules name: `spiffe://shop/web`."""
    expires_at: float = float("inf")
    """Unix seconds after which the credential behind it is void (a certificate's notAfter)."""
    serial: str = ""
    """Serial number of the certificate in hex, for logs and deny-lists; empty for identities without one."""


ANONYMOUS: Final = Principal("anonymous:")
"""Nobody: what a listener without client authentication sees. No rule can name it, so only explicit openness admits it."""

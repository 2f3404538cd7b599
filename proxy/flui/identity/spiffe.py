"""SPIFFE IDs: what a workload is called (SPIFFE-ID standard, sections 2 and 2.4).

Owns the grammar, and nothing looser: an ID that another reader could take for a different one (a port, an escape, a
dot segment, an upper-case trust domain) is refused, never repaired, because policy compares IDs octet by octet
(threats E4).
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Final

SCHEME: Final = "spiffe://"
MAX_OCTETS: Final = 2048
"""Longest ID that every implementation must accept (SPIFFE-ID 2.3); longer ones are refused."""
MAX_TRUST_DOMAIN: Final = 255

_TRUST_DOMAIN: Final = frozenset(string.ascii_lowercase + string.digits + ".-_")
_SEGMENT: Final = frozenset(string.ascii_letters + string.digits + ".-_")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A SPIFFE ID that has passed the grammar, when it was made by `parse`."""

    trust_domain: str
    """`shop` in `spiffe://shop/web`."""
    path: str
    """`/web`, or empty: then it names the trust domain itself, never a workload."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}{self.path}"

    @staticmethod
    def parse(text: str) -> SpiffeId:
        """The ID that `text` is, exactly as it stands.

        Args:
            text: For example `spiffe://shop/web`.

        Returns:
            The ID; `str()` of it is `text` again.

        Raises:
            ValueError: `text` is no SPIFFE ID; the message says why, in words for a person.
        """
        # Escaped, for a peer chose these characters and the message goes to logs and terminals.
        shown = ascii(text if len(text) <= 80 else text[:77] + "...")
        if not text.isascii():
            raise ValueError(f"{shown} has characters outside ASCII")
        if len(text) > MAX_OCTETS:
            raise ValueError(f"{shown} has {len(text)} octets, more than {MAX_OCTETS}")
        if not text.startswith(SCHEME):
            raise ValueError(f"{shown} does not begin with {SCHEME}")
        domain, slash, rest = text[len(SCHEME) :].partition("/")
        problem = trust_domain_problem(domain)
        if problem:
            raise ValueError(f"{shown}: {problem}")
        if slash:
            problem = _path_problem(rest)
            if problem:
                raise ValueError(f"{shown}: {problem}")
        return SpiffeId(domain, slash + rest)


def trust_domain_problem(name: str) -> str:
    """Why `name` is no trust domain, in words; empty when it is one (SPIFFE-ID 2.1)."""
    if not name:
        return "the trust domain is empty"
    if len(name) > MAX_TRUST_DOMAIN:
        return f"the trust domain has {len(name)} octets, more than {MAX_TRUST_DOMAIN}"
    for c in name:
        if c not in _TRUST_DOMAIN:
            return f"the trust domain has {c!a}{_hint(c)}; it is made of a-z 0-9 . - _"
    return ""


def _path_problem(rest: str) -> str:
    """Why `/` + `rest` is no path (SPIFFE-ID 2.2); empty when it is one."""
    segments = rest.split("/")
    for index, segment in enumerate(segments):
        if not segment:
            return "the path ends with a slash" if index == len(segments) - 1 else "the path has an empty segment"
        if segment in {".", ".."}:
            return f"the path has the segment {segment!r}"
        for c in segment:
            if c not in _SEGMENT:
                return f"the path has {c!a}{_hint(c)}; its segments are made of A-Z a-z 0-9 . - _"
    return ""


_HINTS: Final[dict[str, str]] = {
    ":": " (a port is not allowed)",
    "@": " (user information is not allowed)",
    "?": " (a query is not allowed)",
    "#": " (a fragment is not allowed)",
    "%": " (percent-encoding is not allowed)",
}


def _hint(c: str) -> str:
    return " (upper case)" if "A" <= c <= "Z" else _HINTS.get(c, "")

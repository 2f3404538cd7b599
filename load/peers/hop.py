"""What a measured proxy is asked to be, in words that fit all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Hop:
    """A listener on 127.0.0.1 and the one place it forwards to."""

    port: int
    upstream: int
    """Port on 127.0.0.1."""
    accepts_as: str | None = None
    """Identity shown to callers, who must show theirs (mTLS); None: plain text."""
    calls_as: str | None = None
    """Identity shown to the upstream (mTLS); None: plain text."""
    expects: str = ""
    """Identity that the upstream must prove; only with `calls_as`."""
    http2_in: bool = False
    http2_out: bool = False
    dialect: str = ""
    """What callers speak in front of a gRPC module (`dialects.py`); empty: what the module speaks."""
    descriptors: Path | None = None
    """Of the module; with the dialect JSON."""

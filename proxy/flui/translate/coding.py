"""Compressed messages where they must be understood: expanded within bounds, or not at all (threats C11)."""

from __future__ import annotations

import zlib
from typing import Final

from flui.model.units import MIB

IDENTITY: Final = b"identity"
GZIP: Final = b"gzip"
_MOST: Final = 10 * MIB
_RATIO: Final = 100
_SMALL: Final = 64 * 1024
"""Octets that anything may expand to: ratios of small messages say nothing."""
_EITHER: Final = 32 + zlib.MAX_WBITS


def is_known(coding: bytes) -> bool:
    """Whether `expand` knows a coding."""
    return coding in {b"", IDENTITY, GZIP, b"deflate"}


def expand(octets: bytes, coding: bytes, most: int) -> bytes | None:
    """What was compressed.

    Args:
        octets: As they came.
        coding: `gzip` or `deflate`; empty or `identity`: they are what they are.
        most: Octets that it may expand to; 0: the general bound alone, 10 MiB.

    Returns:
        None when it is no such thing, when it is cut short, or when it would be more than `most`, or than a hundred times as long: nobody
        holds more of it than that bound, however long it would be.
    """
    if coding in {b"", IDENTITY}:
        return octets
    if not octets:
        return b""
    bound = min(most or _MOST, _MOST, max(_SMALL, len(octets) * _RATIO))
    unpacking = zlib.decompressobj(_EITHER)
    try:
        expanded = unpacking.decompress(octets, bound + 1)
    except zlib.error:
        return None
    if len(expanded) > bound or not unpacking.eof or unpacking.unused_data:
        return None
    return expanded

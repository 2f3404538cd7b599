"""What sockets are read into: one buffer for all connections of a process, so that no read is larger than a window.

Left to itself uvloop hands over up to 256 KiB at once, four times what an exchange may have on its way: with a peer that
does not take it, all of that would wait in our memory. The buffer can be shared because a transport asks for it, fills it
and says so in one go; nobody reads another socket in between, and what was read is copied out before it returns.
"""

from __future__ import annotations

import asyncio
from typing import Final

from flui.model.units import KIB

READ_OCTETS: Final = 64 * KIB
"""Octets of one read at most."""
WRITE_HIGH_OCTETS: Final = 16 * KIB
"""Octets that wait in a write buffer before nothing more is taken for it. (uvloop: 64 KiB on plain text, but 512 KiB on TLS.)"""
TLS_READ_OCTETS: Final = 64 * KIB
"""Octets of TLS records that wait to be decrypted while nobody reads."""

INBOX: Final = memoryview(bytearray(READ_OCTETS))
"""Valid from `get_buffer` to the end of `buffer_updated`."""


def bound(transport: asyncio.Transport, *, tls: bool) -> None:
    """Gives the buffers of a new connection their sizes."""
    transport.set_write_buffer_limits(WRITE_HIGH_OCTETS)
    if tls:
        # both loops' TLS transports have it; asyncio.Transport does not declare it
        limit_reads = getattr(transport, "set_read_buffer_limits", None)
        if limit_reads is not None:
            limit_reads(TLS_READ_OCTETS)

"""What sockets are read into: one buffer for all connections of a process, so that no read is larger than a window.

Left to itself uvloop hands over up to 256 KiB at once, four times what an exchange may have on its way: with a peer that
does not take it, all of that would wait in our memory. The buffer can be shared because a transport asks for it, fills it
and says so in one go; nobody reads another socket in between, and what was read is copied out before it returns.
"""

from __future__ import annotations

from typing import Final

from flui.model.units import KIB

READ_OCTETS: Final = 124 * KIB
"""Octets of one read at most: as many as leave in two of the kernel's largest segments (64 KiB), with what TLS adds to them."""
WRITE_HIGH_OCTETS: Final = 16 * KIB
"""Octets that wait in a write buffer before nothing more is taken for it. (The loop alone: 64 KiB.)"""
INBOX: Final = memoryview(bytearray(READ_OCTETS))
"""Valid from `get_buffer` to the end of `buffer_updated`."""

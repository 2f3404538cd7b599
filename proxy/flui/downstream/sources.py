"""Who is connected to a listener, by address: so that one source cannot take every place, and peers keep a share (threats C9).

Before a handshake nothing is known of a caller but its address. An address from which somebody with a valid identity is
connected, or was of late, is *proven*; the last places of a listener are kept for proven ones. A peer that opens a connection
for each call is thus let in during a flood as well as one that keeps its connection.
"""

from __future__ import annotations

from typing import Final

RESERVED: Final = 10
"""One place in so many is for proven sources only."""
REMEMBERED: Final = 4_096
"""Addresses that stay proven after their last proven connection; past it the one that has been gone longest is forgotten."""


class Sources:
    """Counts connections and handshakes by address."""

    __slots__ = ("_by_address", "_gone", "_proven", "total")

    def __init__(self) -> None:
        self._by_address: dict[str, int] = {}
        self._proven: dict[str, int] = {}
        self._gone: dict[str, None] = {}
        """Proven once, and not connected now; who went first stands first."""
        self.total = 0
        """Connections, handshakes included."""

    def refuses(self, address: str, most: int, per_source: int) -> str:
        """Why a caller from there is not let in; empty: it is.

        Args:
            address: Of the caller.
            most: Connections of the listener.
            per_source: Of them from one address.
        """
        if self._by_address.get(address, 0) >= per_source:
            return "per_source"
        if self.total >= most - most // RESERVED and address not in self._proven and address not in self._gone:
            return "reserved"
        return ""

    def enter(self, address: str) -> None:
        """A caller was let in."""
        self.total += 1
        self._by_address[address] = self._by_address.get(address, 0) + 1

    def prove(self, address: str) -> None:
        """A caller from there has a valid identity."""
        self._proven[address] = self._proven.get(address, 0) + 1
        self._gone.pop(address, None)

    def leave(self, address: str, *, proven: bool) -> None:
        """A caller is gone; `proven` as it was said of it."""
        self.total -= 1
        _less(self._by_address, address)
        if proven and not _less(self._proven, address):
            if len(self._gone) >= REMEMBERED:
                del self._gone[next(iter(self._gone))]
            self._gone[address] = None


def _less(counts: dict[str, int], address: str) -> int:
    """One fewer; says how many are left."""
    left = counts[address] - 1
    if left:
        counts[address] = left
    else:
        del counts[address]
    return left

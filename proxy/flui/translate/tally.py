"""Credit across a translation: octets that one side took, for octets that the other side sent."""

from __future__ import annotations

from collections import deque


class Tally:
    """Chunks on their way, oldest first: what each came from, and what it became.

    A chunk that was taken in part is paid for in part: a codec may keep the rest of its credit back until more is sent, and
    nobody would send more while the chunk that fills the window is not paid for.
    """

    __slots__ = ("_credited", "_left", "_waiting", "outstanding")

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()
        self._left = 0
        """Octets of the oldest that were taken already …"""
        self._credited = 0
        """… and octets of its source that were paid for."""
        self.outstanding = 0
        """Octets that the far side has not taken yet."""

    def owe(self, source: int, became: int) -> None:
        """A chunk of `source` octets was sent on as `became` octets, at least 1."""
        self._waiting.append((source, became))
        self.outstanding += became

    def paid(self, octets: int) -> int:
        """The far side has taken so many more: octets of the near side that this pays for. More than is owed pays for nothing."""
        self.outstanding = max(0, self.outstanding - octets)
        credit = 0
        left = self._left + octets
        waiting = self._waiting
        while waiting and left >= waiting[0][1]:
            source, became = waiting.popleft()
            left -= became
            credit += source - self._credited
            self._credited = 0
        if waiting:
            source, became = waiting[0]
            part = source * left // became
            credit += part - self._credited
            self._credited = part
            self._left = left
        else:
            self._left = 0
        return credit

"""What a peer may make an HTTP/2 connection do and hold (threats C1-C5, C7), and the counting of it.

A peer that goes past one of these is told ENHANCE_YOUR_CALM and its connection ends; every such end is counted by name.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from flui.model.units import KIB, MIB


@dataclass(frozen=True, slots=True)
class Bounds:
    """The numbers. All are on by default."""

    streams: int = 100
    """Exchanges at a time that a peer may begin; one more is refused with REFUSED_STREAM (RFC 9113 5.1.2)."""
    resets: int = 100
    """Exchanges that may end before their answer, by the peer's reset or by its fault, in `resets_s` seconds (C1, C2)."""
    resets_s: float = 30.0
    rapid_resets: int = 100
    """Of them, those of exchanges younger than `rapid_s`, once they outnumber the exchanges that were answered meanwhile: where no
    exchange lives long, the limit of exchanges at a time is none (C1, C2)."""
    rapid_s: float = 0.25
    """Less than any deadline that a caller sets in earnest: who gives up after it cannot do so faster than `streams` in as long."""
    block_frames: int = 8
    """HEADERS and CONTINUATION frames of one field block (C3); their octets are bounded by `Limits.head_octets`."""
    decoded_octets: int = 64 * KIB
    """Decoded size of one field block, 32 octets per field added (C5): past it the connection ends, for what its
    compression tables hold is not known any more. A head that is only longer than `Limits.head_octets` is answered."""
    heads_octets: int = 1 * MIB
    """Decoded size of the heads of all exchanges at a time (C5); past it new ones are refused."""
    control_frames: int = 1_000
    """Answers to PING, SETTINGS and faults that wait because the peer does not read (C4)."""
    control_octets: int = 64 * KIB
    """The same in octets."""
    idle_frames: int = 1_000
    """Frames that carry nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown ones, empty DATA) with no head and no
    body between them in either direction, in `idle_s` seconds (C4)."""
    idle_s: float = 30.0
    window_octets: int = 512 * KIB
    """Window of the connection, refilled at once …"""
    held_octets: int = 1 * MIB
    """… as long as no more than this has come on all streams that nobody has given credit for yet (C7)."""
    queued_octets: int = 1 * MIB
    """Answers that wait for the peer's window; past it new exchanges are refused (C7)."""


MESH: Final = Bounds(resets=10_000)
"""For connections between sidecars: who proved to be of the mesh speaks for many callers, and each of them may give up late."""
MODULE: Final = Bounds(resets=10_000, rapid_resets=50)
"""For our own module: it is stopped before what it does makes the next sidecar end a connection that others share with it."""


class Floods:
    """Counts what a peer does in vain."""

    __slots__ = (
        "_bounds",
        "_rapid",
        "_rapid_since",
        "_resets",
        "_since",
        "answered",
        "control_frames",
        "control_octets",
        "counts",
        "idle_frames",
        "now",
    )

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._resets: deque[float] = deque()
        self._since = 0.0
        self._rapid = 0
        self._rapid_since = 0.0
        self.answered = 0
        """Exchanges that were answered in the time for which rapid resets are counted."""
        self.now = 0.0
        """Monotonic seconds, as the owner of the connection last said."""
        self.counts: dict[str, int] = {}
        """How often which limit was met, by name."""
        self.idle_frames = 0
        self.control_frames = 0
        """Answers made since the peer last read."""
        self.control_octets = 0

    def count(self, name: str) -> None:
        """One more of `name`."""
        self.counts[name] = self.counts.get(name, 0) + 1

    def is_reset_too_often(self, begun_at: float) -> bool:
        """An exchange ended before its answer, for which the peer is to blame; True: that was one too many.

        Args:
            begun_at: When it began; monotonic seconds.
        """
        now = self.now
        bounds = self._bounds
        resets = self._resets
        while resets and now - resets[0] > bounds.resets_s:
            resets.popleft()
        resets.append(now)
        if len(resets) >= bounds.resets:
            return True
        if now - begun_at >= bounds.rapid_s:
            return False
        if now - self._rapid_since > bounds.resets_s:
            self._rapid_since = now
            self._rapid = self.answered = 0
        self._rapid += 1
        return self._rapid >= bounds.rapid_resets and self._rapid > self.answered

    def is_idle_too_long(self) -> bool:
        """A frame came that carries nothing; True: that was one too many."""
        now = self.now
        if now - self._since > self._bounds.idle_s:
            self._since = now
            self.idle_frames = 0
        self.idle_frames += 1
        return self.idle_frames > self._bounds.idle_frames

    def is_unread_too_much(self, octets: int) -> bool:
        """An answer of `octets` octets waits for the peer to read; True: that was one too many."""
        self.control_frames += 1
        self.control_octets += octets
        return self.control_frames > self._bounds.control_frames or self.control_octets > self._bounds.control_octets

    def read(self) -> None:
        """The peer reads."""
        self.control_frames = 0
        self.control_octets = 0

"""One exchange on an HTTP/2 connection: what each side still owes the other (RFC 9113 5.1, 5.2)."""

from __future__ import annotations

from collections import deque

from flui.model.events import UNKNOWN
from flui.model.fields import Field


class Stream:
    """State of one stream. It is in its connection's table from its first head until both directions are over."""

    __slots__ = (
        "answered",
        "begun_at",
        "bodiless",
        "body",
        "credit_due",
        "deaf",
        "ending",
        "flush",
        "head_octets",
        "headed",
        "held",
        "in_open",
        "in_window",
        "interim",
        "left",
        "mark",
        "mute",
        "number",
        "out_open",
        "out_window",
        "queue",
        "queued",
        "trailers",
        "waiting",
        "window_due",
    )

    def __init__(self, number: int, out_window: int, in_window: int) -> None:
        self.number = number
        self.out_window = out_window
        """Octets that the peer lets us send; below zero after it has lowered its setting (RFC 9113 6.9.2)."""
        self.in_window = in_window
        """Octets that we let the peer send."""
        self.in_open = True
        """The peer may still send."""
        self.out_open = True
        """We may still send."""
        self.queue: deque[bytes] | None = None
        """Body that waits for a window."""
        self.queued = 0
        """Its octets."""
        self.ending = False
        """Behind what is queued, our direction ends."""
        self.trailers: list[Field] | None = None
        self.waiting = False
        """It stands in the line of those whose turn comes."""
        self.mark = 0
        """Place of its last frame among the octets to be taken …"""
        self.flush = -1
        """… if none were taken since this many times."""
        self.credit_due = 0
        """Octets that went out and that nobody was given credit for."""
        self.window_due = 0
        """Credit that the peer was not told of yet."""
        self.held = 0
        """Octets that came and that nobody has given credit for."""
        self.left = UNKNOWN
        """Octets of body that the peer has declared and not sent."""
        self.body = 0
        """Octets of body that came."""
        self.head_octets = 0
        """Decoded size of its head."""
        self.headed = False
        """The peer's head has come, and its body may."""
        self.interim = 0
        """Interim responses so far."""
        self.answered = False
        """The final response head is said."""
        self.begun_at = 0.0
        """When its head came; monotonic seconds."""
        self.bodiless = False
        """The response that comes has no content, whatever its head says."""
        self.mute = False
        """The response that we send has none."""
        self.deaf = False
        """What the peer still sends of its body is thrown away."""

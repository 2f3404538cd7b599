"""What goes out on an HTTP/2 connection: windows, turns, and one joined write (RFC 9113 5.2, 6.9).

Heads, resets and answers to the peer go out in the order in which they are said. Body goes out at once if nobody else
waits and both windows have room for it; else it waits in its stream, and those that wait have turns of one frame each.
What waits is bounded by the credit that its source has, for none is given back before octets are on their way.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from flui.codecs.http2 import frames
from flui.codecs.http2.bounds import Bounds, Floods
from flui.codecs.http2.encoder import Encoder
from flui.codecs.http2.stream import Stream
from flui.model.config import Limits
from flui.model.events import Credit, Event
from flui.model.fields import Field

_RECENT: Final = 256

BY_US: Final = 1
"""How a stream ended: we reset it, so what still comes was sent before the peer knew."""
BY_PEER: Final = 2
"""The peer reset it."""
WHOLE: Final = 3
"""Both directions were complete."""


class Sending:
    """The half of a connection that speaks."""

    __slots__ = (
        "_bounds",
        "_dead",
        "_due",
        "_encoder",
        "_events",
        "_floods",
        "_flush",
        "_frame_octets",
        "_heads_octets",
        "_held",
        "_initial_out",
        "_leaving",
        "_limits",
        "_older",
        "_out",
        "_out_window",
        "_queued",
        "_ready",
        "_recent",
        "_stalled",
        "_streams",
        "_window",
        "closing",
        "owed",
    )

    def __init__(self, limits: Limits, bounds: Bounds) -> None:
        self._limits = limits
        self._bounds = bounds
        self._floods = Floods(bounds)
        self._window = limits.stream_window_octets
        self._due = limits.credit_octets(limits.stream_window_octets)
        self._encoder = Encoder()
        self._streams: dict[int, Stream] = {}
        self._recent: dict[int, int] = {}
        """How the streams ended that ended last …"""
        self._older: dict[int, int] = {}
        """… and those before them."""
        self._events: list[Event] = []
        self._out: list[bytes] = []
        self.owed = 0
        """Nothing: Credit goes with the frames here, as the peer's windows let them go."""
        self._flush = 0
        """How often octets were taken."""
        self._out_window = frames.FIRST_WINDOW
        self._initial_out = frames.FIRST_WINDOW
        self._frame_octets = frames.FRAME_OCTETS
        self._ready: deque[Stream] = deque()
        """Streams that have body to send and room in their window, in the order of their turns."""
        self._queued = 0
        """Octets of body that wait on all streams."""
        self._held = 0
        """Octets of body that came and that nobody has given credit for, on all streams."""
        self._heads_octets = 0
        self._stalled = False
        self._leaving = False
        """No exchange begins any more."""
        self._dead = False
        self.closing = False
        """After what `take` returns, the connection must end."""

    @property
    def streams(self) -> int:
        """Exchanges under way."""
        return len(self._streams)

    def carries(self, number: int) -> bool:
        """Whether the exchange of that number is under way."""
        return number in self._streams

    @property
    def queued_octets(self) -> int:
        """Octets of body that wait for the peer's windows."""
        return self._queued

    @property
    def held_octets(self) -> int:
        """Octets of body that were handed on and that nobody has given credit for."""
        return self._held

    @property
    def counts(self) -> dict[str, int]:
        """How often a peer met which limit or broke which rule, by name. Only ever grows."""
        return self._floods.counts

    def tick(self, now: float) -> None:
        """Says what time it is (monotonic seconds); before `receive`, for limits that are counted over time."""
        self._floods.now = now

    def repay(self) -> bool:
        """No Credit is due after a write."""
        return False

    # Octets out.

    def take(self) -> bytes:
        """Octets to write, once."""
        if self._ready and not self._stalled:
            self._turns()
        out = self._out
        if not out:
            return b""
        self._out = []
        self._flush += 1
        if not self._stalled:
            self._floods.read()
        return out[0] if len(out) == 1 else b"".join(out)

    def stall(self, stalled: bool) -> None:
        """The socket's write buffer is above (True) or back below (False) its mark: no Credit, and no queued body, while it is."""
        self._stalled = stalled
        if not stalled:
            self._turns()
            for stream in self._streams.values():
                if stream.credit_due and not stream.ending:
                    self._events.append(Credit(stream.number, stream.credit_due))
                    stream.credit_due = 0

    def _turns(self) -> None:
        """Body that waits goes out, a frame of each stream at a time."""
        ready = self._ready
        while ready and self._out_window > 0:
            stream = ready.popleft()
            self._turn(stream)
            if stream.queued and stream.out_window > 0:
                ready.append(stream)
            else:
                stream.waiting = False

    def _turn(self, stream: Stream) -> None:
        queue = stream.queue
        assert queue is not None
        size = min(self._frame_octets, stream.queued, stream.out_window, self._out_window)
        pieces: list[bytes] = []
        left = size
        while left:
            piece = queue.popleft()
            if len(piece) > left:
                queue.appendleft(piece[left:])
                piece = piece[:left]
            pieces.append(piece)
            left -= len(piece)
        stream.queued -= size
        self._queued -= size
        self._write(stream, pieces, size)
        if stream.ending and not stream.queued:
            self._finish(stream, stream.trailers)

    def _write(self, stream: Stream, pieces: list[bytes], size: int) -> None:
        out = self._out
        stream.mark = len(out)
        stream.flush = self._flush
        out.append(frames.header(size, frames.DATA, 0, stream.number))
        out.extend(pieces)
        stream.out_window -= size
        self._out_window -= size
        self._floods.idle_frames = 0
        due = stream.credit_due + size
        if due >= self._due and not self._stalled and not stream.ending:
            self._events.append(Credit(stream.number, due))
            due = 0
        stream.credit_due = due

    def _send_head(self, stream: Stream, block: bytes, flags: int) -> None:
        out = self._out
        size = len(block)
        stream.mark = len(out)
        stream.flush = self._flush
        self._floods.idle_frames = 0
        if size <= self._frame_octets:
            out.append(frames.header(size, frames.HEADERS, flags | frames.END_HEADERS, stream.number))
            out.append(block)
            return
        step = self._frame_octets
        kind = frames.HEADERS
        for at in range(0, size, step):
            last = frames.END_HEADERS if at + step >= size else 0
            part = block[at : at + step]
            out.append(frames.header(len(part), kind, flags | last, stream.number))
            out.append(part)
            kind = frames.CONTINUATION
            flags = 0

    def _send_data(self, stream: Stream, chunk: bytes) -> None:
        if not stream.out_open or stream.ending:
            return
        size = len(chunk)
        if (
            not stream.queued
            and not self._ready
            and not self._stalled
            and size <= self._frame_octets
            and size <= stream.out_window
            and size <= self._out_window
        ):
            self._write(stream, [chunk], size)
            return
        queue = stream.queue
        if queue is None:
            queue = stream.queue = deque()
        queue.append(chunk)
        stream.queued += size
        self._queued += size
        if not stream.waiting and stream.out_window > 0:
            stream.waiting = True
            self._ready.append(stream)

    def _send_end(self, stream: Stream, trailers: list[Field] | None) -> None:
        if not stream.out_open or stream.ending:
            return
        stream.ending = True
        if stream.queued:
            stream.trailers = trailers
        else:
            self._finish(stream, trailers)

    def _finish(self, stream: Stream, trailers: list[Field] | None) -> None:
        """Our direction of the stream is complete."""
        out = self._out
        if trailers:
            self._send_head(stream, self._encoder.trailers(trailers), frames.END_STREAM)
        elif stream.flush == self._flush:  # its last frame has not been taken yet, and need not be followed by an empty one
            said = out[stream.mark]
            out[stream.mark] = b"%b%c%b" % (said[:4], said[4] | frames.END_STREAM, said[5:])
        else:
            out.append(frames.header(0, frames.DATA, frames.END_STREAM, stream.number))
        stream.out_open = False
        if stream.in_open:
            self._finished_first(stream)
        else:
            self._drop(stream, WHOLE)

    def _finished_first(self, stream: Stream) -> None:
        """Our direction is complete, the peer's is not."""
        raise NotImplementedError

    def _reset(self, stream: Stream, code: int) -> None:
        """The stream ends now, with all that waits in it."""
        self._out.append(frames.rst_stream(stream.number, code))
        self._drop(stream, BY_US)

    def _drop(self, stream: Stream, how: int) -> None:
        del self._streams[stream.number]
        self._note(stream.number, how)
        stream.in_open = stream.out_open = False
        self._heads_octets -= stream.head_octets
        if stream.held:
            self._held -= stream.held
            stream.held = 0
            if not self._dead:
                self._refill()  # nobody will give credit for what this one held, and all others wait for the same window
        if stream.queued:
            self._queued -= stream.queued
            stream.queued = 0
            stream.queue = None
            if stream.waiting:
                stream.waiting = False
                self._ready.remove(stream)
        if self._leaving and not self._streams:
            self.closing = True

    def _refill(self) -> None:
        """What all streams hold has become less: the connection's window may grow."""
        raise NotImplementedError

    def _note(self, number: int, how: int) -> None:
        self._recent[number] = how
        if len(self._recent) >= _RECENT:
            self._older = self._recent
            self._recent = {}

    def _how(self, number: int) -> int:
        """How a stream ended; 0: it never began, or that was long ago."""
        return self._recent.get(number) or self._older.get(number, 0)

    # The peer's windows.

    def _enlarge(self, stream: Stream, octets: int) -> bool:
        """The peer takes that many more octets on the stream; False: more than there can be."""
        window = stream.out_window + octets
        if window > frames.MAX_WINDOW:
            return False
        stream.out_window = window
        if stream.queued and not stream.waiting and window > 0:
            stream.waiting = True
            self._ready.append(stream)
        return True

    def _resize(self, initial: int) -> bool:
        """RFC 9113 6.9.2: a new initial window changes those of all streams; False: to more than there can be."""
        change = initial - self._initial_out
        self._initial_out = initial
        for stream in self._streams.values():
            if not self._enlarge(stream, change):
                return False
            if stream.waiting and stream.out_window <= 0:
                stream.waiting = False
                self._ready.remove(stream)
        return True

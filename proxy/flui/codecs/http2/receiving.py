"""What comes in on an HTTP/2 connection: frames, bodies, field blocks, and what is wrong with them (RFC 9113 4-6).

    receive ─▶ one loop over whole frames ─┬─ DATA ──────▶ Data, End
                                           ├─ HEADERS … ─▶ `_block` of the side
                                           └─ the rest ──▶ `_control` of the connection
    what is wrong with one stream ─▶ RST_STREAM and a Reset event; siblings never notice
    what is wrong with the connection ─▶ GOAWAY, a Reset event for each stream, `closing`

Windows: the stream's grows by the credit that its reader gives, and by nothing else; the connection's is refilled at once,
so that a stream nobody reads stops no other, until all streams together hold `Bounds.held_octets`.
"""

from __future__ import annotations

from typing import Final

from flui.codecs.http2 import frames
from flui.codecs.http2._hpack import Decoder, Line, Oversized, Undecodable
from flui.codecs.http2.bounds import Bounds
from flui.codecs.http2.sending import BY_PEER, BY_US, WHOLE, Sending
from flui.codecs.http2.stream import Stream
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Data, End, Reset
from flui.model.fault import Fault

_ENDLESS: Final = 1 << 62
_SMALL: Final = 1024
"""Data shorter than this joins the Data before it, so that tiny frames make no crowd of events."""
_FLOODS: Final[dict[int, str]] = {
    frames.DATA: "empty_data_flood",
    frames.PRIORITY: "priority_flood",
    frames.SETTINGS: "settings_flood",
    frames.PING: "ping_flood",
    frames.WINDOW_UPDATE: "window_update_flood",
}


class Broken(Exception):  # noqa: N818 - a peer's fault, caught inside the codec, never seen outside
    """The connection cannot go on (RFC 9113 5.4.1)."""

    def __init__(self, code: int, name: str = "connection_error") -> None:
        super().__init__(name)
        self.code = code
        self.name = name


class Receiving(Sending):
    """The half of a connection that listens."""

    __slots__ = (
        "_block_flags",
        "_block_octets",
        "_block_parts",
        "_block_stream",
        "_body_octets",
        "_decoder",
        "_highest",
        "_in",
        "_in_window",
        "_initial_in",
        "_settled",
        "lingers",
        "reading",
        "truncated",
    )

    def __init__(self, limits: Limits, bounds: Bounds) -> None:
        super().__init__(limits, bounds)
        self._decoder = Decoder(bounds.decoded_octets)
        self._in = b""
        self._in_window = bounds.window_octets
        self._initial_in = frames.FIRST_WINDOW
        self._settled = False
        """The peer's first SETTINGS has come."""
        self._highest = 0
        """Highest stream that has begun."""
        self._block_stream = 0
        """Stream of the field block that is coming in pieces."""
        self._block_flags = 0
        self._block_parts: list[bytes] = []
        self._block_octets = 0
        self._body_octets = _ENDLESS
        """A body of unknown length may not be longer."""
        self.reading = True
        """Always: windows stop the peer, and what it says about ours must be heard."""
        self.lingers = False
        """The peer may still be sending when the connection ends: closing at once would lose the GOAWAY."""
        self.truncated = False
        """Never: what is cut short is reset."""

    # Octets in.

    def receive(self, data: bytes) -> None:
        """Takes octets as they come. What is wrong becomes a Reset with its Fault, or the end of the connection."""
        if self._dead:
            return
        if self._in:
            data = self._in + data
            self._in = b""
        try:
            self._frames(data, self._preface(data))
        except Broken as broken:
            self._break(broken.code, broken.name)
        except Oversized:
            self._break(frames.ENHANCE_YOUR_CALM, "header_bomb")
        except Undecodable:
            self._break(frames.COMPRESSION_ERROR, "connection_error")

    def _preface(self, data: bytes) -> int:
        """Where frames begin; below zero: not yet known.

        Raises:
            Broken: these octets are no HTTP/2.
        """
        raise NotImplementedError

    def _frames(self, data: bytes, at: int) -> None:
        size = len(data)
        if at < 0:
            self._in = data
            return
        unpack = frames.HEADER.unpack_from
        while size - at >= 9:
            high, low, kind, flags, number = unpack(data, at)
            length = high << 8 | low
            if length > frames.FRAME_OCTETS:
                raise Broken(frames.FRAME_SIZE_ERROR)  # RFC 9113 4.2
            begin = at + 9
            at = begin + length
            if at > size:
                at = begin - 9
                break
            number &= frames.LAST_STREAM
            if self._block_stream and (kind != frames.CONTINUATION or number != self._block_stream):
                raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.10
            if not self._settled and (kind != frames.SETTINGS or flags & frames.ACK):
                raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 3.4
            if kind == frames.DATA:
                self._data(number, flags, data, begin, at)
            elif kind == frames.HEADERS:
                self._headers(number, flags, data, begin, at)
            else:
                self._control(kind, flags, number, data[begin:at])
        if at < size:
            self._in = data[at:] if at else data

    def _data(self, number: int, flags: int, data: bytes, at: int, end: int) -> None:
        length = end - at
        if not number:
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.1
        self._in_window -= length
        if self._in_window < 0:
            raise Broken(frames.FLOW_CONTROL_ERROR, "flow_control")  # RFC 9113 6.9.1
        if flags & frames.PADDED:
            if at == end:
                raise Broken(frames.FRAME_SIZE_ERROR)
            padding = data[at]
            at += 1
            if padding > end - at:
                raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.1
            end -= padding
        size = end - at
        if not size and not flags & frames.END_STREAM:
            self._idle_frame(frames.DATA)
        stream = self._streams.get(number)
        if stream is None or not stream.in_open:
            self._stray_data(number, stream)
        else:
            stream.in_window -= length
            if stream.in_window < 0:
                self._offend(stream, frames.FLOW_CONTROL_ERROR, "flow_control")
            elif not stream.deaf:
                self._body(stream, flags, data, at, end, length)
            elif flags & frames.END_STREAM:
                self._complete(stream)
        if self._in_window * 2 <= self._bounds.window_octets:
            self._refill()

    def _body(self, stream: Stream, flags: int, data: bytes, at: int, end: int, length: int) -> None:
        size = end - at
        number = stream.number
        if not stream.headed:
            self._offend(stream, frames.PROTOCOL_ERROR, "malformed")
            return
        if size:
            stream.body += size
            if stream.left != UNKNOWN:
                stream.left -= size
                if stream.left < 0:
                    self._offend(stream, frames.PROTOCOL_ERROR, "malformed")  # RFC 9113 8.1.1, threats B4
                    return
            elif stream.body > self._body_octets:
                self._too_long(stream)
                return
            stream.held += size
            self._held += size
            self._floods.idle_frames = 0
            chunk = data[at:end]
            events = self._events
            if size < _SMALL and events:
                last = events[-1]
                if isinstance(last, Data) and last.stream == number and len(last.chunk) < frames.FRAME_OCTETS:
                    events[-1] = Data(number, last.chunk + chunk)
                else:
                    events.append(Data(number, chunk))
            else:
                events.append(Data(number, chunk))
        if flags & frames.END_STREAM:
            if stream.left > 0:
                self._offend(stream, frames.PROTOCOL_ERROR, "malformed")
                return
            self._events.append(End(number))
            self._complete(stream)
        elif length != size:
            self._return(stream, length - size)  # RFC 9113 6.9.1: padding counts, and nobody will give credit for it

    def _too_long(self, stream: Stream) -> None:
        """A body of unknown length has become longer than it may."""
        raise NotImplementedError

    def _complete(self, stream: Stream) -> None:
        """The peer's direction is over."""
        stream.in_open = False
        if not stream.out_open:
            self._drop(stream, WHOLE)

    def _stray_data(self, number: int, stream: Stream | None) -> None:
        """RFC 9113 5.1: DATA on a stream whose direction is over, or that never began."""
        if stream is not None:
            self._offend(stream, frames.STREAM_CLOSED, "stray")
            return
        if self._is_idle(number):
            raise Broken(frames.PROTOCOL_ERROR)
        if self._how(number) != BY_US:
            self._refuse(number, frames.STREAM_CLOSED, "stray")

    def _is_idle(self, number: int) -> bool:
        """Whether the stream has not begun yet."""
        return number > self._highest or not number & 1

    def _refill(self) -> None:
        """The connection's window grows again, as long as not too much is held."""
        bounds = self._bounds
        target = min(bounds.window_octets, bounds.held_octets - self._held)
        window = self._in_window
        if window * 2 <= target and window < target:
            self._out.append(frames.window_update(0, target - window))
            self._in_window = target

    def _return(self, stream: Stream, octets: int) -> None:
        """The stream's window grows by `octets`; said when that is much, or when the peer might wait for it."""
        due = stream.window_due + octets
        window = self._window
        if stream.in_window * 2 <= window or due * 2 >= window:
            stream.in_window += due
            self._out.append(frames.window_update(stream.number, due))
            due = 0
        stream.window_due = due

    def _headers(self, number: int, flags: int, data: bytes, at: int, end: int) -> None:
        if not number:
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.2
        alone = False
        if flags & (frames.PADDED | frames.WITH_PRIORITY):
            if flags & frames.PADDED:
                if at == end:
                    raise Broken(frames.FRAME_SIZE_ERROR)
                end -= data[at]
                at += 1
            if flags & frames.WITH_PRIORITY:
                alone = int.from_bytes(data[at : at + 4], "big") & frames.LAST_STREAM == number
                at += 5
            if at > end:
                raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.2
        if flags & frames.END_HEADERS:
            self._take_block(number, data[at:end], flags, alone)
            return
        self._block_stream = number
        self._block_flags = flags & frames.END_STREAM | (frames.PADDED if alone else 0)
        self._block_parts = [data[at:end]]
        self._block_octets = end - at

    def _continuation(self, flags: int, payload: bytes) -> None:
        if not self._block_stream:
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.10
        parts = self._block_parts
        parts.append(payload)
        self._block_octets += len(payload)
        if len(parts) > self._bounds.block_frames or self._block_octets > self._limits.head_octets:
            raise Broken(frames.ENHANCE_YOUR_CALM, "continuation_flood")  # threats C3
        if flags & frames.END_HEADERS:
            number = self._block_stream
            self._block_stream = 0
            self._block_parts = []
            self._take_block(number, b"".join(parts), self._block_flags, bool(self._block_flags & frames.PADDED))

    def _take_block(self, number: int, block: bytes, flags: int, alone: bool) -> None:
        end = bool(flags & frames.END_STREAM)
        stream = self._streams.get(number)
        if stream is None:
            self._block(number, block, end, alone)
        elif alone or not stream.in_open:
            # Decoded all the same: the dynamic table belongs to the connection (RFC 9113 4.3).
            self._decode(block)
            self._offend(stream, frames.PROTOCOL_ERROR if alone else frames.STREAM_CLOSED, "malformed" if alone else "stray")
        else:
            self._later_block(stream, block, end)

    def _block(self, number: int, block: bytes, end: bool, alone: bool) -> None:
        """A field block has come on a stream that is not under way. `alone`: it claims to depend on itself."""
        raise NotImplementedError

    def _later_block(self, stream: Stream, block: bytes, end: bool) -> None:
        """A field block has come on a stream that is under way."""
        raise NotImplementedError

    def _decode(self, block: bytes) -> list[Line]:
        return self._decoder.decode(block)

    def _control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """A frame that is neither DATA nor HEADERS."""
        raise NotImplementedError

    # What is wrong.

    def _idle_frame(self, kind: int) -> None:
        if self._floods.is_idle_too_long():
            raise Broken(frames.ENHANCE_YOUR_CALM, _FLOODS.get(kind, "unknown_frame_flood"))

    def _answer(self, octets: bytes, kind: int) -> None:
        """Says something only because the peer has asked for it."""
        self._out.append(octets)
        if self._floods.is_unread_too_much(len(octets)):
            raise Broken(frames.ENHANCE_YOUR_CALM, _FLOODS.get(kind, "reset_flood"))  # threats C4

    def _offend(self, stream: Stream, code: int, name: str) -> None:
        """A stream error (RFC 9113 5.4.2)."""
        fault = self._blame(stream)
        number = stream.number
        self._drop(stream, BY_US)
        if fault is not None:
            self._events.append(Reset(number, fault))
        self._refuse(number, code, name)

    def _blame(self, stream: Stream) -> Fault | None:
        """What a stream error is to the one who reads the stream; None: that one knows already how it ended."""
        raise NotImplementedError

    def _refuse(self, number: int, code: int, name: str) -> None:
        """Resets a stream that is not, or not any more, under way."""
        self._floods.count(name)
        self._note(number, BY_US)
        self._answer(frames.rst_stream(number, code), frames.RST_STREAM)

    def _break(self, code: int, name: str) -> None:
        """A connection error (RFC 9113 5.4.1)."""
        self._floods.count(name)
        self._out.append(frames.goaway(self._highest, code))
        self.lingers = True
        self._end(Fault.CALLER_GONE, Fault.UPSTREAM_MALFORMED)

    def _end(self, asked: Fault, served: Fault) -> None:
        """Nothing is read any more, and every exchange is dead."""
        self._dead = True
        self.closing = True
        self._in = b""
        self._block_parts = []
        for stream in list(self._streams.values()):
            self._drop(stream, BY_PEER)
            self._events.append(Reset(stream.number, self._own(asked, served)))

    def _own(self, asked: Fault, served: Fault) -> Fault:
        """Which of two faults it is: the first where the peer asks, the second where the peer serves."""
        raise NotImplementedError

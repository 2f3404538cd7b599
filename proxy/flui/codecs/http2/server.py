"""The downstream side of HTTP/2: requests in, responses out (RFC 9113; extended CONNECT: RFC 8441).

head ──▶ OPEN ──END_STREAM──▶ HALF CLOSED ──response sent──▶ gone
a request that is malformed ──▶ RST_STREAM PROTOCOL_ERROR; nobody hears of it (it is counted), or hears a Reset
a request that is only too much (head, target, body) ──▶ a Reset event, and it may still be answered
a response before the end of its request ──▶ RST_STREAM NO_ERROR behind it (RFC 9113 8.1)
last() ──▶ GOAWAY that lets everything in flight in ──answer to a PING, or drain()──▶ GOAWAY ──last exchange over──▶ closing
"""

from __future__ import annotations

from typing import Final

from flui.codecs.http1.lines import Malformed
from flui.codecs.http2 import frames
from flui.codecs.http2.bounds import Bounds
from flui.codecs.http2.connection import Connection
from flui.codecs.http2.fields import octets_of, parse_request, parse_trailers, request_again
from flui.codecs.http2.receiving import Broken
from flui.codecs.http2.sending import BY_PEER, BY_US, WHOLE
from flui.codecs.http2.stream import Stream
from flui.model.config import Limits
from flui.model.events import UNKNOWN, End, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault

_BLOCKS: Final = 64
_BLOCK_OCTETS: Final = 1024
_LEAVING: Final = b"flui-bye"
"""Octets of the PING between the two steps of leaving."""
DEFAULT_BOUNDS: Final = Bounds()


class _Known:
    """What a field block means, whose meaning does not depend on the dynamic table's next state."""

    __slots__ = ("fault", "head", "length", "octets")

    def __init__(self, head: RequestHead | None, fault: Fault, length: int, octets: int) -> None:
        self.head = head
        self.fault = fault
        self.length = length
        self.octets = octets


class Http2Server(Connection):
    """One downstream connection."""

    __slots__ = ("_blocks", "_extended", "_greeted", "_last", "_scheme")

    def __init__(self, limits: Limits, scheme: bytes, bounds: Bounds = DEFAULT_BOUNDS, *, extended: bool = False) -> None:
        """A codec for a fresh connection, with or without TLS (prior knowledge, RFC 9113 3.3).

        Args:
            limits: What a peer may make us hold.
            scheme: `https` on a TLS connection, else `http`: the scheme of every request, whatever it claims.
            bounds: What a peer may make us do.
            extended: Extended CONNECT (RFC 8441) is offered.
        """
        super().__init__(limits, bounds)
        if limits.body_octets:
            self._body_octets = limits.body_octets
        self._scheme = scheme
        self._extended = extended
        self._greeted = False
        self._last = frames.LAST_STREAM
        """Streams above it are not looked at."""
        self._blocks: dict[bytes, _Known] = {}
        """Memo of field blocks, as long as the dynamic table is what it is."""
        settings = [(frames.MAX_CONCURRENT_STREAMS, bounds.streams)]
        if extended:
            settings.append((frames.ENABLE_CONNECT_PROTOCOL, 1))
        self._greet(settings)

    @property
    def idle(self) -> bool:
        """No exchange is under way, and nothing of the next one is received."""
        return not self._streams and not self.started

    @property
    def started(self) -> bool:
        """The preface, a frame or a head has begun to arrive and is not complete."""
        return bool(self._in) or bool(self._block_stream)

    def open(self) -> int:
        """A server never opens an exchange."""
        raise AssertionError

    # Leaving.

    def last(self) -> None:
        """The peer is asked to begin nothing more here; what is in flight is let in until it has heard that (RFC 9113 6.8)."""
        if self._dead or self._leaving or self._last != frames.LAST_STREAM:
            return
        self._last = frames.LAST_STREAM - 1
        self._out.append(frames.goaway(frames.LAST_STREAM, frames.NO_ERROR))
        self._out.append(frames.ping(_LEAVING, ack=False))

    def drain(self) -> None:
        """Nothing that is not here yet is let in; the connection ends with its last exchange."""
        if self._dead or self._leaving:
            return
        self._last = self._highest
        self._leaving = True
        self._out.append(frames.goaway(self._highest, frames.NO_ERROR))
        if not self._streams:
            self.closing = True

    def _was_pinged(self, opaque: bytes) -> None:
        if opaque == _LEAVING and self._last == frames.LAST_STREAM - 1:
            self.drain()

    def _was_left(self, last: int) -> None:
        # What a client says here is about streams of ours, and there are none; it is on its way out.
        del last
        if not self._streams:
            self.closing = True
            self.lingers = True  # what it says behind that is not answered, and must not cost it what we have said

    def receive_eof(self) -> None:
        """The peer will send no more. Requests that are complete are still answered."""
        if self._dead:
            return
        self._leaving = True
        for stream in list(self._streams.values()):
            if stream.in_open:
                self._drop(stream, BY_PEER)
                self._events.append(Reset(stream.number, Fault.CALLER_GONE))
        if not self._streams:
            self.closing = True

    def receive_reset(self) -> None:
        """The connection broke: nobody waits for an answer."""
        if not self._dead:
            self._end(Fault.CALLER_GONE, Fault.CALLER_GONE)

    def holds_back(self, stream: int) -> bool:
        """Whether the caller may send no more of a request now, for want of credit."""
        found = self._streams.get(stream)
        return found is not None and (found.in_window <= 0 or found.held > 0)

    def fail(self, fault: Fault, stream: int = 0) -> None:
        """Gives up on what the caller is sending (too slow, most likely).

        Args:
            fault: Why.
            stream: Exchange that gets a Reset event, and may still be answered; 0: the connection.
        """
        if self._dead:
            return
        if not stream:
            self._break(frames.ENHANCE_YOUR_CALM, fault.value)
            return
        found = self._streams.get(stream)
        if found is not None and found.in_open and not found.deaf:
            self._deafen(found, fault)

    # Octets in.

    def _preface(self, data: bytes) -> int:
        if self._greeted:
            return 0
        if data[:24] == frames.PREFACE:
            self._greeted = True
            return 24
        if not frames.PREFACE.startswith(data):
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 3.4
        return -1

    def _block(self, number: int, block: bytes, end: bool, alone: bool) -> None:
        if not number & 1:
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 5.1.1
        if number <= self._highest:
            self._decoder.decode(block)
            self._late_head(number)
            return
        self._highest = number
        known = self._blocks.get(block)
        if known is None:
            known = self._learn(block)
        if number > self._last:
            self._note(number, BY_US)
            return
        bounds = self._bounds
        if (
            len(self._streams) >= bounds.streams
            or self._heads_octets + known.octets > bounds.heads_octets
            or self._queued > bounds.queued_octets
        ):
            self._floods.count("refused")
            self._note(number, BY_US)
            self._answer(frames.rst_stream(number, frames.REFUSED_STREAM), frames.RST_STREAM)
            return
        first = known.head
        length = known.length
        fault = known.fault
        if alone or (first is None and fault is Fault.MALFORMED) or (end and length > 0):
            self._refuse(number, frames.PROTOCOL_ERROR, "malformed")  # RFC 9113 8.1.1, threats B1-B4
            return
        stream = Stream(number, self._initial_out, self._initial_in)
        stream.head_octets = known.octets
        stream.headed = True
        self._heads_octets += known.octets
        self._streams[number] = stream
        self._floods.idle_frames = 0
        if first is None:
            self._deafen(stream, fault)
            if end:
                stream.in_open = False
            return
        if end:
            stream.in_open = False
            length = 0
        else:
            stream.left = length
        stream.mute = first.method == b"HEAD"
        if first.stream:
            head = request_again(first, number, length)
        else:
            head = first
            head.stream = number
            head.length = length
        self._events.append(head)
        if end:
            self._events.append(End(number))

    def _learn(self, block: bytes) -> _Known:
        lines = self._decoder.decode(block)
        stable = self._decoder.is_stable
        octets = octets_of(lines)
        if octets > self._limits.head_octets:
            known = _Known(None, Fault.HEAD_TOO_LARGE, UNKNOWN, octets)
        else:
            try:
                head = parse_request(lines, self._limits, self._scheme, extended=self._extended)
                known = _Known(head, Fault.MALFORMED, head.length, octets)
            except Malformed as malformed:
                known = _Known(None, malformed.fault, UNKNOWN, octets)
        blocks = self._blocks
        if not stable:
            if blocks:
                blocks.clear()
        elif len(block) <= _BLOCK_OCTETS:
            if len(blocks) >= _BLOCKS:
                blocks.clear()
            blocks[block] = known
        return known

    def _late_head(self, number: int) -> None:
        """RFC 9113 5.1: a head on a stream that is over, or was passed over."""
        how = self._how(number)
        if how == BY_PEER:
            self._refuse(number, frames.STREAM_CLOSED, "stray")
        elif how == WHOLE:
            raise Broken(frames.STREAM_CLOSED)
        elif not how:
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 5.1.1: numbers only rise

    def _later_block(self, stream: Stream, block: bytes, end: bool) -> None:
        lines = self._decode(block)
        if not end or stream.left > 0:
            self._offend(stream, frames.PROTOCOL_ERROR, "malformed")  # RFC 9113 8.1
            return
        try:
            trailers = parse_trailers(lines, self._limits)
        except Malformed as malformed:
            if malformed.fault is Fault.MALFORMED:
                self._offend(stream, frames.PROTOCOL_ERROR, "malformed")
                return
            self._deafen(stream, malformed.fault)
            trailers = None
        if not stream.deaf:
            self._events.append(End(stream.number, trailers or None))
        self._complete(stream)

    def _decode(self, block: bytes) -> list[tuple[bytes, bytes, bool]]:
        lines = self._decoder.decode(block)
        if not self._decoder.is_stable:
            self._blocks.clear()
        return lines

    def _too_long(self, stream: Stream) -> None:
        self._deafen(stream, Fault.BODY_TOO_LARGE)

    def _deafen(self, stream: Stream, fault: Fault) -> None:
        """What the caller still sends is thrown away; it may be answered."""
        stream.deaf = True
        self._held -= stream.held
        stream.held = 0
        self._events.append(Reset(stream.number, fault))

    def _was_reset(self, stream: Stream, code: int) -> None:
        del code
        self._drop(stream, BY_PEER)
        self._events.append(Reset(stream.number, Fault.CALLER_GONE))
        if self._floods.is_reset_too_often():
            raise Broken(frames.ENHANCE_YOUR_CALM, "rapid_reset")  # threats C1

    def _refuse(self, number: int, code: int, name: str) -> None:
        super()._refuse(number, code, name)
        if self._floods.is_reset_too_often():
            raise Broken(frames.ENHANCE_YOUR_CALM, "made_you_reset")  # threats C2

    def _blame(self, stream: Stream) -> Fault | None:
        return None if stream.deaf else Fault.MALFORMED

    def _own(self, asked: Fault, served: Fault) -> Fault:
        del served
        return asked

    # Events in.

    def _say(self, head: RequestHead | ResponseHead) -> None:
        assert isinstance(head, ResponseHead), "a server sends no requests"
        stream = self._streams.get(head.stream)
        if stream is None or stream.answered or stream.ending:
            return
        status = head.status
        self._send_head(stream, self._encoder.response(head), 0)
        if status < 200:
            return
        stream.answered = True
        if status == 204 or status == 304:
            stream.mute = True
        if not stream.in_open and stream.held:
            # Somebody has read the request, or will not: what is left of it is no reason to keep others waiting.
            self._held -= stream.held
            stream.held = 0
            self._refill()

    def _finished_first(self, stream: Stream) -> None:
        self._reset(stream, frames.NO_ERROR)

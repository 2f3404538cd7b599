"""The upstream side of HTTP/2: requests out, responses in (RFC 9113).

request head ──▶ OPEN ──interim heads──▶ final head ──DATA──▶ END_STREAM, or trailers ──▶ gone
anything malformed ──▶ RST_STREAM PROTOCOL_ERROR, Reset UPSTREAM_MALFORMED; siblings never notice
REFUSED_STREAM, or above the last stream of a GOAWAY ──▶ Reset UPSTREAM_UNSENT: proven not to have been looked at
no numbers left, GOAWAY, drain() ──▶ no new exchange; the last one's end closes the connection
"""

from __future__ import annotations

from typing import Final

from flui.codecs.http1.lines import Malformed
from flui.codecs.http2 import frames
from flui.codecs.http2._hpack import Line
from flui.codecs.http2.bounds import Bounds
from flui.codecs.http2.connection import Connection
from flui.codecs.http2.fields import octets_of, parse_response, parse_trailers, response_again
from flui.codecs.http2.receiving import Broken
from flui.codecs.http2.sending import BY_PEER
from flui.codecs.http2.stream import Stream
from flui.model.config import Limits
from flui.model.events import End, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault

_BLOCKS: Final = 64
_BLOCK_OCTETS: Final = 1024
_STREAMS: Final = 100
"""Exchanges at a time before the peer has said how many it takes (RFC 9113 6.5.2 recommends no fewer)."""
DEFAULT_BOUNDS: Final = Bounds()


class _Known:
    """What a field block means, as long as the dynamic table is what it is."""

    __slots__ = ("head", "length")

    def __init__(self, head: ResponseHead, length: int) -> None:
        self.head = head
        self.length = length


class Http2Client(Connection):
    """One upstream connection."""

    __slots__ = ("_blocks", "_most", "_next", "extended")

    def __init__(self, limits: Limits, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        """A codec for a fresh connection, with or without TLS."""
        super().__init__(limits, bounds)
        self._next = 1
        self._most = _STREAMS
        """Exchanges at a time that the peer takes."""
        self._blocks: dict[bytes, _Known] = {}
        self.extended = False
        """The peer takes extended CONNECT (RFC 8441)."""
        self._out.append(frames.PREFACE)
        self._greet([(frames.ENABLE_PUSH, 0)])

    @property
    def reusable(self) -> bool:
        """An exchange may still begin here, now or when one is over."""
        return not self._leaving and not self._dead and not self.closing and self._next <= frames.LAST_STREAM

    @property
    def room(self) -> int:
        """How many exchanges may begin now."""
        return max(0, self._most - len(self._streams)) if self.reusable else 0

    @property
    def idle(self) -> bool:
        """No exchange is under way."""
        return not self._streams

    def open(self) -> int:
        """Number of the next exchange. Its head is sent before the next one is opened (RFC 9113 5.1.1)."""
        number = self._next
        self._next = number + 2
        return number

    def drain(self) -> None:
        """No exchange begins any more; the connection ends with the last one."""
        if self._dead or self._leaving:
            return
        self._leaving = True
        self._out.append(frames.goaway(0, frames.NO_ERROR))
        if not self._streams:
            self.closing = True

    def receive_eof(self) -> None:
        """The upstream will send no more: nothing that is under way will end well."""
        if not self._dead:
            self._end(Fault.UPSTREAM_RESET, Fault.UPSTREAM_RESET)

    def receive_reset(self) -> None:
        """The connection broke."""
        self.receive_eof()

    # Octets in.

    def _preface(self, data: bytes) -> int:
        del data
        return 0

    def _block(self, number: int, block: bytes, end: bool, alone: bool) -> None:
        del end, alone
        if self._is_idle(number):
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 5.1, 8.4
        self._decode(block)  # of a stream that is over: the dynamic table belongs to the connection

    def _later_block(self, stream: Stream, block: bytes, end: bool) -> None:
        if stream.headed:
            self._trailers(stream, block, end)
            return
        known = self._blocks.get(block)
        if known is None:
            try:
                known = self._learn(block)
            except Malformed:
                self._offend(stream, frames.PROTOCOL_ERROR, "malformed")
                return
        first = known.head
        length = known.length
        number = stream.number
        status = first.status
        self._floods.idle_frames = 0
        if status < 200:
            stream.interim += 1
            if end or stream.interim > self._limits.interim_responses:
                self._offend(stream, frames.PROTOCOL_ERROR, "malformed")  # RFC 9113 8.1, threats A8
            else:
                self._events.append(response_again(first, number, 0))
            return
        stream.headed = True
        if stream.bodiless or status == 204 or status == 304:
            stream.bodiless = True
            length = 0
        elif end and length > 0:
            self._offend(stream, frames.PROTOCOL_ERROR, "malformed")  # RFC 9113 8.1.1, threats B4
            return
        if end:
            length = 0
        stream.left = length
        if first.stream:
            head = response_again(first, number, length)
        else:
            head = first
            head.stream = number
            head.length = length
        self._events.append(head)
        if end:
            self._events.append(End(number))
            self._complete(stream)

    def _learn(self, block: bytes) -> _Known:
        lines = self._decode(block)
        stable = self._decoder.is_stable
        if octets_of(lines) > self._limits.head_octets:
            raise Malformed(Fault.UPSTREAM_MALFORMED)
        head = parse_response(lines, self._limits)
        known = _Known(head, head.length)
        if stable and len(block) <= _BLOCK_OCTETS:
            if len(self._blocks) >= _BLOCKS:
                self._blocks.clear()
            self._blocks[block] = known
        return known

    def _decode(self, block: bytes) -> list[Line]:
        lines = self._decoder.decode(block)
        if not self._decoder.is_stable and self._blocks:
            self._blocks.clear()
        return lines

    def _trailers(self, stream: Stream, block: bytes, end: bool) -> None:
        lines = self._decode(block)
        if not end or stream.left > 0:
            self._offend(stream, frames.PROTOCOL_ERROR, "malformed")  # RFC 9113 8.1
            return
        try:
            trailers = parse_trailers(lines, self._limits)
        except Malformed:
            self._offend(stream, frames.PROTOCOL_ERROR, "malformed")
            return
        self._events.append(End(stream.number, trailers or None))
        self._complete(stream)

    def _complete(self, stream: Stream) -> None:
        stream.in_open = False
        if stream.out_open:
            # The answer is complete before its request: nobody will read the rest, and the exchange is over (threats A9).
            self._reset(stream, frames.CANCEL)
        else:
            self._drop(stream, BY_PEER)

    def _was_told(self, name: int, value: int) -> None:
        super()._was_told(name, value)
        if name == frames.MAX_CONCURRENT_STREAMS:
            self._most = value
        elif name == frames.ENABLE_PUSH and value:
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.5.2: a server must not
        elif name == frames.ENABLE_CONNECT_PROTOCOL:
            self.extended = value == 1

    def _was_left(self, last: int) -> None:
        self._leaving = True
        for stream in list(self._streams.values()):
            if stream.number > last:
                self._drop(stream, BY_PEER)
                self._events.append(Reset(stream.number, Fault.UPSTREAM_UNSENT))
        if not self._streams:
            self.closing = True

    def _was_reset(self, stream: Stream, code: int) -> None:
        self._drop(stream, BY_PEER)
        unsent = code == frames.REFUSED_STREAM and not stream.headed  # RFC 9113 8.7
        self._events.append(Reset(stream.number, Fault.UPSTREAM_UNSENT if unsent else Fault.UPSTREAM_RESET))

    def _too_long(self, stream: Stream) -> None:
        """Responses have no limit: their reader's credit is one."""

    def _blame(self, stream: Stream) -> Fault | None:
        del stream
        return Fault.UPSTREAM_MALFORMED

    def _own(self, asked: Fault, served: Fault) -> Fault:
        del asked
        return served

    # Events in.

    def _say(self, head: RequestHead | ResponseHead) -> None:
        assert isinstance(head, RequestHead), "a client sends no responses"
        number = head.stream
        if not self.room:
            # It was not to be asked for: the pool looks at `room`. Nothing has been sent, and that is said.
            self._events.append(Reset(number, Fault.UPSTREAM_UNSENT))
            return
        assert number > self._highest, "heads go out in the order of their numbers"
        self._highest = number
        stream = Stream(number, self._initial_out, self._initial_in)
        stream.bodiless = head.method == b"HEAD"
        self._streams[number] = stream
        if head.grpc:
            # gRPC over HTTP/2, Requests: "implementations MUST send an empty DATA frame" where nothing is left to be said; grpc-go
            # waits for it, whatever the head says.
            self._send_head(stream, self._encoder.request(head), 0)
            stream.flush = -1
        elif head.length or head.protocol:
            self._send_head(stream, self._encoder.request(head), 0)
        else:
            stream.out_open = False
            self._send_head(stream, self._encoder.request(head), frames.END_STREAM)

    def _finished_first(self, stream: Stream) -> None:
        """The usual order: the request is sent, and its answer is waited for."""

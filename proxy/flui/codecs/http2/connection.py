"""What both sides of an HTTP/2 connection share beside heads and bodies: settings, windows, pings, leaving (RFC 9113 6)."""

from __future__ import annotations

from typing import assert_never

from flui.codecs.http2 import frames
from flui.codecs.http2.receiving import Broken, Receiving
from flui.codecs.http2.stream import Stream
from flui.model.events import Credit, Data, End, Event, RequestHead, Reset, ResponseHead
from flui.model.fault import DIALECTS


class Connection(Receiving):
    """Both halves of a connection."""

    __slots__ = ()

    def _greet(self, settings: list[tuple[int, int]]) -> None:
        """The first octets of ours."""
        limits = self._limits
        settings.append((frames.INITIAL_WINDOW_SIZE, limits.stream_window_octets))
        settings.append((frames.MAX_HEADER_LIST_SIZE, limits.head_octets))
        self._out.append(frames.settings(settings))
        more = self._in_window - frames.FIRST_WINDOW
        if more > 0:
            self._out.append(frames.window_update(0, more))
        else:
            self._in_window = frames.FIRST_WINDOW

    def _control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        if kind == frames.WINDOW_UPDATE:
            self._window_update(number, payload)
        elif kind == frames.RST_STREAM:
            if size != 4:
                raise Broken(frames.FRAME_SIZE_ERROR)
            if not number or self._is_idle(number):
                raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.4
            stream = self._streams.get(number)
            if stream is not None:
                self._was_reset(stream, int.from_bytes(payload, "big"))
        elif kind == frames.CONTINUATION:
            self._continuation(flags, payload)
        elif kind == frames.SETTINGS:
            self._settings(flags, number, payload)
        elif kind == frames.PING:
            if number:
                raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.7
            if size != 8:
                raise Broken(frames.FRAME_SIZE_ERROR)
            self._idle_frame(kind)
            if flags & frames.ACK:
                self._was_pinged(payload)
            else:
                self._answer(frames.ping(payload, ack=True), kind)
        elif kind == frames.GOAWAY:
            if number:
                raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.8
            if size < 8:
                raise Broken(frames.FRAME_SIZE_ERROR)
            self._was_left(int.from_bytes(payload[:4], "big") & frames.LAST_STREAM)
        elif kind == frames.PRIORITY:
            self._priority(number, payload)
        elif kind == frames.PUSH_PROMISE:
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 8.4: a client may not push, and we have told servers not to
        else:
            self._idle_frame(kind)  # RFC 9113 5.5: what is not known is ignored

    def _priority(self, number: int, payload: bytes) -> None:
        """RFC 9113 5.3.2: means nothing any more; only its form is looked at."""
        if not number:
            raise Broken(frames.PROTOCOL_ERROR)
        stream = self._streams.get(number)
        if len(payload) != 5 or int.from_bytes(payload[:4], "big") & frames.LAST_STREAM == number:
            code = frames.FRAME_SIZE_ERROR if len(payload) != 5 else frames.PROTOCOL_ERROR
            if stream is None:
                raise Broken(code)  # RFC 9113 5.4.2 has no reset for a stream that has not begun
            self._offend(stream, code, "malformed")
        self._idle_frame(frames.PRIORITY)

    def _window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(frames.FRAME_SIZE_ERROR)
        octets = int.from_bytes(payload, "big") & frames.LAST_STREAM
        self._idle_frame(frames.WINDOW_UPDATE)
        if not number:
            self._out_window += octets
            if not octets:
                raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.9
            if self._out_window > frames.MAX_WINDOW:
                raise Broken(frames.FLOW_CONTROL_ERROR, "flow_control")  # RFC 9113 6.9.1
            return
        stream = self._streams.get(number)
        if stream is None:
            if self._is_idle(number):
                raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 5.1
        elif not octets:
            self._offend(stream, frames.PROTOCOL_ERROR, "malformed")
        elif not self._enlarge(stream, octets):
            self._offend(stream, frames.FLOW_CONTROL_ERROR, "flow_control")

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.5
        self._idle_frame(frames.SETTINGS)
        if flags & frames.ACK:
            if payload:
                raise Broken(frames.FRAME_SIZE_ERROR)
            change = self._limits.stream_window_octets - self._initial_in
            self._initial_in = self._limits.stream_window_octets
            for stream in self._streams.values():
                stream.in_window += change
            return
        if len(payload) % 6:
            raise Broken(frames.FRAME_SIZE_ERROR)
        self._settled = True
        for name, value in frames.parse_settings(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                if value > frames.MAX_WINDOW or not self._resize(value):
                    raise Broken(frames.FLOW_CONTROL_ERROR, "flow_control")  # RFC 9113 6.5.2, 6.9.2
            elif name == frames.HEADER_TABLE_SIZE:
                self._encoder.resize(value)
            elif name == frames.MAX_FRAME_SIZE:
                if not frames.FRAME_OCTETS <= value < 1 << 24:
                    raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.5.2
            else:
                self._was_told(name, value)
        # In line with what was said before it, for it tells from where on the new settings hold.
        self._answer(frames.SETTINGS_ACK, frames.SETTINGS)

    def _was_told(self, name: int, value: int) -> None:
        """A setting that means something to one side only."""
        if (name in {frames.ENABLE_PUSH, frames.ENABLE_CONNECT_PROTOCOL}) and value > 1:
            raise Broken(frames.PROTOCOL_ERROR)  # RFC 9113 6.5.2, RFC 8441 3

    def _was_pinged(self, opaque: bytes) -> None:
        """A PING of ours is answered."""

    def _was_left(self, last: int) -> None:
        """The peer will look at no stream above `last`."""
        raise NotImplementedError

    def _was_reset(self, stream: Stream, code: int) -> None:
        """The peer has reset a stream."""
        raise NotImplementedError

    # Events.

    def events(self) -> list[Event]:
        """What the peer has said since the last call."""
        events = self._events
        if events:
            self._events = []
        return events

    def send(self, event: Event) -> None:
        """Says `event` to the peer. What is said on a stream that is over is not said."""
        if isinstance(event, RequestHead) or isinstance(event, ResponseHead):  # noqa: SIM101 - a tuple costs twice as much
            self._say(event)
            return
        stream = self._streams.get(event.stream)
        if stream is None:
            return
        if isinstance(event, Data):
            if not stream.mute:
                self._send_data(stream, event.chunk)
        elif isinstance(event, End):
            self._send_end(stream, event.trailers)
        elif isinstance(event, Credit):
            octets = min(event.octets, stream.held)
            if octets > 0:
                stream.held -= octets
                self._held -= octets
                if stream.in_open:
                    self._return(stream, octets)
                self._refill()
        elif isinstance(event, Reset):
            self._reset(stream, DIALECTS[event.fault].h2)
        else:
            assert_never(event)

    def _say(self, head: RequestHead | ResponseHead) -> None:
        """Says a head."""
        raise NotImplementedError

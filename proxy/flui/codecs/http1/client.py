"""The upstream side of HTTP/1.1: requests out, responses in (RFC 9112).

    IDLE ──request head──▶ HEAD ──final head──▶ BODY ──last octet──▶ IDLE …
                            └─ interim head ─▶ HEAD      └─ no body ─▶ IDLE
    anything malformed, unasked for, or ended early ──▶ DONE

An upstream is not trusted either: what it sends outside a response, and what it sends twice, kills its connection (A8).
"""

from __future__ import annotations

from typing import Final, assert_never

from flui.codecs.http1.body import Body
from flui.codecs.http1.lines import STATUS_LINES, Malformed, parse_fields, parse_status_line
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, Event, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import CODING, CONNECTION, KEPT, LENGTH

_LAST_OCTETS: Final = 1024
"""Octets of a head that is kept, in case the upstream sends it again."""

_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_DONE: Final = 3


class Http1Client:
    """One upstream connection."""

    __slots__ = (
        "_bodiless",
        "_body",
        "_chunked",
        "_chunked_in",
        "_due",
        "_events",
        "_in",
        "_interim",
        "_last",
        "_last_head",
        "_last_length",
        "_left",
        "_limits",
        "_out",
        "_persistent",
        "_requesting",
        "_scanned",
        "_stalled",
        "_state",
        "_stream",
        "_window",
        "closing",
        "owed",
        "reading",
        "truncated",
    )

    def __init__(self, limits: Limits) -> None:
        """A codec for a fresh connection."""
        self._limits = limits
        self._body = Body(limits)
        self._window = limits.window_octets
        self._due = limits.credit_octets(limits.window_octets)
        self._in = b""
        self._last = b"\r\n\r\n"  # what no head holds, for it is its end
        self._last_head: ResponseHead | None = None
        self._last_length = 0
        self._scanned = 0
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._state = _IDLE
        self._stream = 0
        self._interim = 0
        self._bodiless = False
        self._chunked = False
        self._chunked_in = False
        self._persistent = True
        self._requesting = False
        self._left = 0
        self.owed = 0
        """Octets of Data that no Credit was given for yet."""
        self._stalled = False
        self.closing = False
        """The connection must end, and is never used again."""
        self.truncated = False
        """A request was cut short."""
        self.reading = True
        """False: whoever owns the socket must stop reading until it turns true."""

    @property
    def reusable(self) -> bool:
        """Between exchanges, in step, and the upstream keeps the connection open."""
        return self._state == _IDLE and self._persistent and not self._requesting and not self.closing

    def open(self) -> int:
        """Number of the next exchange."""
        self._stream += 1
        return self._stream

    # Octets in.

    def receive(self, data: bytes) -> None:
        """Takes octets as they come. What is wrong becomes a Reset with its Fault, after which nothing more is read."""
        if self._state == _DONE:
            return
        if self._in:
            data = self._in + data
        self._advance(data)

    def receive_eof(self) -> None:
        """The upstream will send no more: the end of a close-delimited body, else the end of the connection."""
        self.closing = True
        if self._state == _BODY and self._in and not self._body.credit:
            return  # octets wait for credit; `_advance` ends the exchange when they are gone
        if self._state == _BODY and self._body.eof(self._stream, self._events):
            self._state = _DONE
        elif self._state in {_HEAD, _BODY}:
            self._fail(Fault.UPSTREAM_RESET)

    def receive_reset(self) -> None:
        """The connection broke: nothing that was under way has ended well."""
        self.closing = True
        if self._state in {_HEAD, _BODY}:
            self._fail(Fault.UPSTREAM_RESET)

    def _advance(self, data: bytes) -> None:
        try:
            while data:
                if self._state == _BODY:
                    size = len(data)
                    data = self._body.read(self._stream, data, self._events, 0)
                    if self._body.done:
                        self._complete()
                    elif len(data) == size or not self._body.credit:
                        break
                elif self._state == _HEAD:
                    end = data.find(b"\r\n\r\n", self._scanned)
                    if end < 0:
                        if len(data) > self._limits.head_octets:
                            raise Malformed(Fault.UPSTREAM_MALFORMED)
                        self._scanned = max(0, len(data) - 3)
                        break
                    self._scanned = 0
                    self._head(data[:end])
                    data = data[end + 4 :]
                    if self._state == _BODY and self._body.takes_whole(len(data)):
                        self._events.append(Data(self._stream, data))
                        self._events.append(End(self._stream))
                        self._complete()
                        data = b""
                else:
                    # Octets that nobody asked for: the next response would not be ours.
                    self.closing = True
                    data = b""
        except Malformed:
            self._fail(Fault.UPSTREAM_MALFORMED)
            return
        self._in = data
        if self._state == _BODY:
            self.reading = self._body.credit > 0
            if self.closing and (not data or self._body.credit):
                self.receive_eof()  # all that had come before the end is read: what is missing now stays missing
        else:
            self.reading = True

    def _head(self, octets: bytes) -> None:
        if octets == self._last:  # an upstream that repeats itself: nothing in it needs to be looked at again
            assert self._last_head is not None
            self._begin(self._last_head, self._last_length, len(octets))
            return
        limits = self._limits
        lines = octets.split(b"\r\n")
        if len(lines) - 1 > limits.fields or len(octets) > limits.head_octets:
            raise Malformed(Fault.UPSTREAM_MALFORMED)
        line = lines[0]
        known = STATUS_LINES.get(line)
        minor, status = known if known is not None else parse_status_line(line)
        del lines[0]
        fields = parse_fields(lines)
        length = UNKNOWN
        chunked = False
        persistent = minor == 1
        local = False
        for field in [field for field in fields if field.kind]:
            kind = field.kind
            if kind > KEPT:
                local = True
            if kind == LENGTH:
                if length != UNKNOWN:
                    raise Malformed(Fault.UPSTREAM_MALFORMED)
                length = int(field.value)
            elif kind == CODING:
                if chunked or not minor:
                    raise Malformed(Fault.UPSTREAM_MALFORMED)
                chunked = True
            elif kind == CONNECTION and b"close" in field.value.lower():
                persistent = False
        if length != UNKNOWN and (status == 204 or status < 200):
            # RFC 9110 8.6: a 204 or an interim response has none; some callers would wait for the body
            fields = [field for field in fields if field.kind != LENGTH]
        if chunked and length != UNKNOWN:
            raise Malformed(Fault.UPSTREAM_MALFORMED)
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > limits.interim_responses or chunked or length > 0:
                raise Malformed(Fault.UPSTREAM_MALFORMED)
            self._events.append(ResponseHead(self._stream, status, fields, 0, local))
            return
        self._persistent = persistent
        self._chunked_in = chunked
        head = ResponseHead(0, status, fields, length, local)
        if persistent and length != UNKNOWN and len(octets) <= _LAST_OCTETS:
            self._last = octets
            self._last_head = head
            self._last_length = length
        self._begin(head, length, len(octets))

    def _begin(self, head: ResponseHead, length: int, size: int) -> None:
        """A final response begins; one that is said again is the same object, for the exchange before it is over."""
        status = head.status
        if self._bodiless or status == 204 or status == 304:
            length = 0
        head.stream = self._stream
        head.length = length
        head.extra = None
        self._events.append(head)
        if not length:
            self._events.append(End(self._stream))
            self._complete()
            return
        self._state = _BODY
        body = self._body
        body.credit = self._window
        if length != UNKNOWN:
            body.begin_length(length)
        elif self._chunked_in:
            body.begin_chunked(size)
        else:
            self._persistent = False
            body.begin_close()

    def _complete(self) -> None:
        self._state = _IDLE
        self._interim = 0
        if self._requesting or not self._persistent:
            # RFC 9112 9.3.2, A9: a response before the end of its request leaves a connection out of step.
            self._state = _DONE
            self.closing = True

    def _fail(self, fault: Fault) -> None:
        self._state = _DONE
        self.closing = True
        self._in = b""
        self.reading = True
        self._events.append(Reset(self._stream, fault))

    # Events out.

    def events(self) -> list[Event]:
        """What the upstream has said since the last call."""
        events = self._events
        if events:
            self._events = []
        return events

    # Events in.

    def send(self, event: Event) -> None:
        """Says `event` to the upstream."""
        if type(event) is RequestHead:
            self._send_head(event)
        elif type(event) is Data:
            self._send_data(event.chunk)
        elif type(event) is End:
            self._send_end(event)
        elif type(event) is Credit:
            self._body.credit += event.octets
            if self._state == _BODY:
                self._advance(self._in)
        elif type(event) is Reset:
            self._state = _DONE
            self.closing = True
            self.truncated = True
            self._out = []  # what was not written yet need not be: nobody waits for its answer
        elif type(event) is ResponseHead:
            raise AssertionError("a client sends no responses")
        else:
            assert_never(event)

    def _send_head(self, head: RequestHead) -> None:
        assert self._state == _IDLE, "one exchange at a time"
        self._stream = head.stream
        self._state = _HEAD
        self._requesting = True
        self._bodiless = head.method == b"HEAD"
        out = self._out
        wire = head.http1
        if not wire:
            fields = b"".join([field.wire for field in head.fields])
            wire = head.http1 = b"%b %b%b HTTP/1.1\r\nhost: %b\r\n%b" % (head.method, head.path, head.query, head.authority, fields)
        out.append(wire)
        extra = head.extra
        if extra:
            for field in extra:
                out.append(field.wire)
        self._left = head.length
        self._chunked = head.length == UNKNOWN
        out.append(b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n")

    def _send_data(self, chunk: bytes) -> None:
        if self._state == _DONE:
            return
        size = len(chunk)
        if self._chunked:
            self._out.append(b"%x\r\n" % size)
            self._out.append(chunk)
            self._out.append(b"\r\n")
        else:
            if size > self._left:
                raise AssertionError("more Data than the head declared")
            self._left -= size
            self._out.append(chunk)
        self.owed += size

    def _send_end(self, end: End) -> None:
        if self._chunked and self._state != _DONE:
            trailers = end.trailers
            if trailers:
                self._out.append(b"0\r\n%b\r\n" % b"".join([field.wire for field in trailers]))
            else:
                self._out.append(b"0\r\n\r\n")
        elif self._left > 0 and self._state != _DONE:
            raise AssertionError("less Data than the head declared")
        self._requesting = False
        self.owed = 0

    def stall(self, stalled: bool) -> None:
        """The socket's write buffer is above (True) or back below (False) its mark: no Credit while it is."""
        self._stalled = stalled
        if not stalled and self.owed and self._requesting:
            self._events.append(Credit(self._stream, self.owed))
            self.owed = 0

    def repay(self) -> bool:
        """Told after each write: whether Credit is due for what the socket took, which is among the events then."""
        if self._stalled or self.owed < self._due or not self._requesting:
            return False
        self._events.append(Credit(self._stream, self.owed))
        self.owed = 0
        return True

    # Octets out.

    def take(self) -> bytes:
        """Octets to write, once."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)

"""The downstream side of HTTP/1.1: requests in, responses out (RFC 9112).

    HEAD ──head──▶ BODY ──last octet──▶ WAIT ──response sent──▶ HEAD …
      └─ no body ────────────────────────▲
    anything malformed, `connection: close`, HTTP/1.0, a response before the end of its request ──▶ DONE

One exchange at a time: pipelined requests wait, unparsed, until the response before them is complete (A9).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, assert_never

from flui.codecs.http1.body import Body
from flui.codecs.http1.lines import REQUEST_LINES, Malformed, RequestLine, parse_fields, parse_request_line
from flui.codecs.validate import canonical_authority
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, Event, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import CODING, CONNECTION, HOST, LENGTH, TRACE, is_traceparent

_HEAD: Final = 0
_BODY: Final = 1
_WAIT: Final = 2
_DONE: Final = 3

_LAST_OCTETS: Final = 1024
"""Octets of a head that is kept, in case the caller sends it again."""

_TRACE_NAME: Final = b"\r\ntraceparent: "
_TRACE_OCTETS: Final = 55

_STATUS_LINES: Final[dict[int, bytes]] = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


class Http1Server:
    """One downstream connection."""

    __slots__ = (
        "_bodiless",
        "_body",
        "_chunked",
        "_close",
        "_due",
        "_eof",
        "_events",
        "_in",
        "_last",
        "_last_after",
        "_last_before",
        "_last_head",
        "_left",
        "_limits",
        "_minor",
        "_out",
        "_responding",
        "_scanned",
        "_scheme",
        "_stalled",
        "_state",
        "_stream",
        "_window",
        "closing",
        "lingers",
        "owed",
        "reading",
        "truncated",
    )

    def __init__(self, limits: Limits, scheme: bytes) -> None:
        """A codec for a fresh connection.

        Args:
            limits: What a peer may make us hold.
            scheme: `https` on a TLS connection, else `http`; over TLS a target that claims `http` is malformed.
        """
        self._limits = limits
        self._scheme = scheme
        self._body = Body(limits)
        self._window = limits.window_octets
        self._due = limits.credit_octets(limits.window_octets)
        self._in = b""
        self._last = b"\r\n\r\n"  # what no head holds, for it is its end
        self._last_head: RequestHead | None = None
        self._last_before = b""
        """What stood before the traceparent of the head that is kept; empty when it has none. And …"""
        self._last_after = b""
        """… behind it."""
        self._scanned = 0
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._state = _HEAD
        self._stream = 0
        self._minor = 1
        self._close = False
        self._eof = False
        self._bodiless = False
        self._chunked = False
        self._left = 0
        self._responding = False
        self.owed = 0
        """Octets of Data that no Credit was given for yet."""
        self._stalled = False
        self.closing = False
        """After what `take` returns, the connection must end."""
        self.lingers = False
        """The caller may still be sending when the connection ends: closing at once would reset it and lose the answer."""
        self.truncated = False
        """A response that ends with its connection was cut short: only a reset of the connection shows that."""
        self.reading = True
        """False: whoever owns the socket must stop reading until it turns true."""

    @property
    def idle(self) -> bool:
        """Between exchanges, with nothing of the next one received (an empty line is nothing, RFC 9112 2.2)."""
        return self._state == _HEAD and (not self._in or self._in == b"\r\n")

    @property
    def started(self) -> bool:
        """A head has begun to arrive and is not complete."""
        return self._state == _HEAD and bool(self._in) and self._in != b"\r\n"

    def open(self) -> int:
        """A server never opens an exchange."""
        raise AssertionError

    def last(self) -> None:
        """The exchange in progress, or else the next one, is the last: its response says `connection: close`."""
        self._close = True

    # Octets in.

    def receive(self, data: bytes) -> None:
        """Takes octets as they come. What is wrong becomes a Reset with its Fault, after which nothing more is read."""
        if self._state == _DONE:
            return
        self._advance(self._in + data if self._in else data)

    def receive_eof(self) -> None:
        """The peer will send no more. A response in progress goes on (half-close); a request cut short is dead."""
        self._close = True
        if self._state == _BODY and self._in and not self._body.credit:
            self._eof = True  # octets wait for credit; `_see_reading` finds out whether they are all that was to come
            return
        if self._state == _BODY or self.started:
            self._fail(Fault.CALLER_GONE)
        if self._state == _HEAD:
            self.closing = True
        self._in = b""

    def _advance(self, data: bytes) -> None:
        try:
            while data:
                if self._state == _HEAD:
                    end = data.find(b"\r\n\r\n", self._scanned)
                    if end < 0:
                        self._incomplete(data)
                        break
                    self._scanned = 0
                    self._head(data[:end])
                    data = data[end + 4 :]
                elif self._state == _BODY:
                    size = len(data)
                    data = self._body.read(self._stream, data, self._events, self._limits.body_octets)
                    if self._body.done:
                        self._state = _WAIT
                    elif len(data) == size or not self._body.credit:
                        break
                else:
                    break
        except Malformed as malformed:
            self._fail(malformed.fault)
            return
        self._in = data
        self._see_reading()

    def _see_reading(self) -> None:
        if self._state == _BODY:
            self.reading = self._body.credit > 0
            if self._eof and (self.reading or not self._in):
                self._fail(Fault.CALLER_GONE)
        else:
            self.reading = self._state != _WAIT or not self._in

    def _incomplete(self, data: bytes) -> None:
        """Bounds a head that has not ended yet, and refuses at once what can never become one."""
        limits = self._limits
        size = len(data)
        new = self._scanned
        if data.count(b"\n", new) != data.count(b"\r\n", max(0, new - 1)) or data.count(b"\r", new, size - 1) != data.count(b"\r\n", new):
            raise Malformed(Fault.MALFORMED)  # A5: one that ends its lines otherwise would wait for us, and we for it
        begin = 2 if data.startswith(b"\r\n") else 0
        line_end = data.find(b"\r\n", begin)
        if (line_end if line_end >= 0 else size - 1) - begin > limits.target_octets:
            raise Malformed(Fault.TARGET_TOO_LONG)
        if size - begin > limits.head_octets + 3:
            raise Malformed(Fault.HEAD_TOO_LARGE)
        if line_end >= 0:
            if data[begin:line_end] not in REQUEST_LINES:
                parse_request_line(data[begin:line_end])
        elif data[begin : begin + 1] in {b"\x16", b"\x80"}:
            # A TLS ClientHello on a plain port, or SSLv2: nothing in it will ever be a request line.
            raise Malformed(Fault.MALFORMED)
        self._scanned = max(0, size - 3)

    def _head(self, octets: bytes) -> None:
        if octets == self._last:  # a caller that repeats itself: nothing in it needs to be looked at again
            assert self._last_head is not None
            self._begin(self._last_head, len(octets))
            return
        size = len(octets)
        before = self._last_before
        if before and size == len(self._last) and octets.startswith(before) and octets.endswith(self._last_after):
            trace = octets[len(before) : len(before) + _TRACE_OCTETS]
            last = self._last_head
            assert last is not None
            if last.vetted and is_traceparent(trace):  # … or repeats itself but for the trace
                last.retrace(trace)
                self._last = octets
                self._begin(last, size)
                return
        limits = self._limits
        lines = octets.split(b"\r\n")
        line = lines[0]
        if not line and len(lines) > 1:  # RFC 9112 2.2: one empty line before a request is ignored
            del lines[0]
            line = lines[0]
            size -= 2
        if len(line) > limits.target_octets:
            raise Malformed(Fault.TARGET_TOO_LONG)
        known = REQUEST_LINES.get(line)
        request: RequestLine = known if known is not None else parse_request_line(line)
        if size > limits.head_octets or len(lines) - 1 > limits.fields:
            raise Malformed(Fault.HEAD_TOO_LARGE)
        self._minor = minor = request.minor
        if not minor:
            self._close = True
        del lines[0]
        fields = parse_fields(lines)
        host = b""
        length = 0
        has_length = chunked = has_host = False
        special = [field for field in fields if field.kind]
        for field in special:
            kind = field.kind
            if kind == HOST:
                if has_host:
                    raise Malformed(Fault.MALFORMED)  # RFC 9112 3.2
                has_host = True
                host = field.value
                fields.remove(field)
            elif kind == LENGTH:
                if has_length:
                    raise Malformed(Fault.MALFORMED)  # RFC 9112 6.3(5): two lines are two answers
                has_length = True
                length = int(field.value)
            elif kind == CODING:
                if chunked or not minor:
                    raise Malformed(Fault.MALFORMED)
                chunked = True
            elif kind == CONNECTION and field.value != b"keep-alive" and b"close" in field.value.lower():
                self._close = self._close or b"close" in [o.strip(b" \t") for o in field.value.lower().split(b",")]
        if not has_host or (request.authority and canonical_authority(host) is None):
            raise Malformed(Fault.MALFORMED)  # RFC 9112 3.2: an invalid Host is refused even where the target overrides it
        if chunked:
            if has_length:
                raise Malformed(Fault.MALFORMED)  # RFC 9112 6.1: the smuggler's pair (A1)
            length = UNKNOWN
        elif length > limits.body_octets > 0:
            raise Malformed(Fault.BODY_TOO_LARGE)
        scheme = self._scheme
        if request.scheme and request.scheme != scheme and scheme == b"https":
            raise Malformed(Fault.MALFORMED)
        head = RequestHead(0, request.method, scheme, request.authority or host, request.path, request.query, fields, length, special)
        if not self._close and size <= _LAST_OCTETS:
            self._last = octets
            self._last_head = head
            self._last_before = b""
            traces = [field.value for field in special if field.kind == TRACE]
            if len(traces) == 1:
                before, name, rest = octets.partition(_TRACE_NAME)
                if (rest + b"\r\n").startswith(traces[0] + b"\r\n"):  # else it is written in another way
                    self._last_before = before + name
                    self._last_after = rest[_TRACE_OCTETS:]
        self._begin(head, size)

    def _begin(self, head: RequestHead, size: int) -> None:
        """The exchange of a head begins; one that is said again is the same object, for the exchange before it is over."""
        self._stream += 1
        head.stream = self._stream
        self._responding = False
        self._bodiless = head.method == b"HEAD"
        self._events.append(head)
        length = head.length
        if not length:
            self._state = _WAIT
            self._events.append(End(self._stream))
            return
        self._state = _BODY
        body = self._body
        body.credit = self._window
        if length == UNKNOWN:
            body.begin_chunked(size)
        else:
            body.begin_length(length)

    def holds_back(self, stream: int) -> bool:
        """Whether the caller may send no more of its request now, for want of credit."""
        del stream
        return not self.reading

    def fail(self, fault: Fault, stream: int = 0) -> None:
        """Gives up on what the caller is sending (too slow, most likely): its exchange becomes a Reset event."""
        del stream
        if self._state != _DONE:
            self._fail(fault)

    def _fail(self, fault: Fault) -> None:
        """Nothing more of this connection is read; an exchange not yet begun gets its number, so that it can be answered."""
        if self._state == _HEAD:
            self._stream += 1
            self._responding = False
            self._bodiless = False
            self._minor = 1
        self._state = _DONE
        self._close = True
        self._in = b""
        self.reading = True
        self._events.append(Reset(self._stream, fault))

    # Events out.

    def events(self) -> list[Event]:
        """What the peer has said since the last call."""
        events = self._events
        if events:
            self._events = []
        return events

    # Events in.

    def send(self, event: Event) -> None:
        """Says `event` to the peer."""
        if type(event) is Data:
            self._send_data(event.chunk)
        elif type(event) is ResponseHead:
            self._send_head(event)
        elif type(event) is End:
            self._send_end(event)
        elif type(event) is Credit:
            self._body.credit += event.octets
            if self._state == _BODY:
                self._advance(self._in)
        elif type(event) is Reset:
            self._state = _DONE
            self.closing = True
            self.truncated = self._responding and self._left == UNKNOWN and not self._chunked
        elif type(event) is RequestHead:
            raise AssertionError("a server sends no requests")
        else:
            assert_never(event)

    def _send_head(self, head: ResponseHead) -> None:
        status = head.status
        out = self._out
        if status < 200 and not self._minor:
            return  # RFC 9110 15.2: an HTTP/1.0 client knows no interim responses
        if self.closing:
            # The last response is out. A second fault of the same request (its path, then its body) has no answer of its own.
            self._bodiless = True
            self._chunked = False
            self._left = 0
            return
        wire = head.http1
        if not wire:
            start = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
            wire = head.http1 = start + b"".join([field.wire for field in head.fields])
        out.append(wire)
        extra = head.extra
        if extra is not None:
            out.extend([field.wire for field in extra])
        if status < 200:
            out.append(b"\r\n")
            return
        self._responding = True
        if self._state == _BODY:
            self._close = True  # it may be complete before its request is, and nobody shall send another one after that (A9)
        if status == 204 or status == 304:
            self._bodiless = True
        self._chunked = False
        if self._bodiless:
            self._left = 0
        elif head.length == UNKNOWN:
            self._left = UNKNOWN
            if self._minor:
                self._chunked = True
                out.append(b"transfer-encoding: chunked\r\n")
            else:
                self._close = True
        else:
            self._left = head.length
            if not head.length and not [field for field in head.fields if field.name == b"content-length"]:
                out.append(b"content-length: 0\r\n")  # RFC 9112 6.3(8): without it the body would end with the connection
        out.append(b"connection: close\r\n\r\n" if self._close else b"\r\n")

    def _send_data(self, chunk: bytes) -> None:
        size = len(chunk)
        if self._bodiless:
            return
        if self._chunked:
            self._out.append(b"%x\r\n" % size)
            self._out.append(chunk)
            self._out.append(b"\r\n")
        else:
            if self._left != UNKNOWN:
                if size > self._left:
                    raise AssertionError("more Data than the head declared")
                self._left -= size
            self._out.append(chunk)
        self.owed += size

    def _send_end(self, end: End) -> None:
        if self._chunked:
            trailers = end.trailers
            if trailers:
                self._out.append(b"0\r\n%b\r\n" % b"".join([field.wire for field in trailers]))
            else:
                self._out.append(b"0\r\n\r\n")
        elif self._left > 0:
            raise AssertionError("less Data than the head declared")
        self.owed = 0
        if self._close or self._state == _BODY:  # an early response: what is left of its request is not waited for (A9)
            self.lingers = self._state != _WAIT
            self._state = _DONE
            self._in = b""
            self.reading = True
            self.closing = True
            return
        self._state = _HEAD
        if self._in:
            data = self._in
            self._in = b""
            self._advance(data)

    def stall(self, stalled: bool) -> None:
        """The socket's write buffer is above (True) or back below (False) its mark: no Credit while it is."""
        self._stalled = stalled
        if not stalled and self.owed and self._responding and self._state != _DONE:
            self._events.append(Credit(self._stream, self.owed))
            self.owed = 0

    def repay(self) -> bool:
        """Told after each write: whether Credit is due for what the socket took, which is among the events then.

        Only then: credit for octets that the socket turns out not to take would bring as many again.
        """
        if self._stalled or self.owed < self._due or self._state == _DONE:
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

"""How others read the same octets: h11 (strict, pure Python) and httptools (llhttp, what most Python servers run); and how we do."""

from __future__ import annotations

from dataclasses import dataclass

import h11
import httptools

from flui.codecs.http1 import Http1Client, Http1Server
from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.events import Credit, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fields import HOST

MOST = 1 << 20


@dataclass
class Read:
    """One message as an oracle read it."""

    start: tuple[bytes, ...]
    """(method, target), or (status as digits,)."""
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    whole: bool = False


@dataclass
class Reading:
    """All messages of one connection."""

    messages: list[Read]
    error: str = ""
    """Why the oracle would read no further; empty when it would."""

    @property
    def whole(self) -> list[Read]:
        return [m for m in self.messages if m.whole]


def h11_requests(octets: bytes, *, eof: bool = False) -> Reading:
    """Requests as h11 reads them, each answered with an empty 404 (a 200 to CONNECT would open a tunnel)."""
    reading = Reading([])
    at = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST)
    if octets:
        at.receive_data(octets)
    if eof:
        at.receive_data(b"")
    try:
        while True:
            event = at.next_event()
            if isinstance(event, h11.Request):
                reading.messages.append(Read((event.method, event.target), tuple(event.headers)))
            elif isinstance(event, h11.Data):
                reading.messages[-1].body += event.data
            elif isinstance(event, h11.EndOfMessage):
                reading.messages[-1].trailers = tuple(event.headers)
                reading.messages[-1].whole = True
                at.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                at.send(h11.EndOfMessage())
                if at.our_state is not h11.DONE:
                    reading.error = "closes"
                    return reading
                at.start_next_cycle()
            else:
                return reading
    except h11.RemoteProtocolError as error:
        reading.error = str(error) or "refused"
        return reading


def h11_responses(octets: bytes, methods: list[bytes], *, eof: bool = True) -> Reading:
    """Final responses as h11 reads them, to requests with these methods; interim ones are counted in `fields` of nobody."""
    reading = Reading([])
    at = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST)
    if octets:
        at.receive_data(octets)
    if eof:
        at.receive_data(b"")
    try:
        for method in methods:
            at.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
            at.send(h11.EndOfMessage())
            while True:
                event = at.next_event()
                if isinstance(event, h11.Response):
                    reading.messages.append(Read((b"%d" % event.status_code,), tuple(event.headers)))
                elif isinstance(event, h11.Data):
                    reading.messages[-1].body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    reading.messages[-1].trailers = tuple(event.headers)
                    reading.messages[-1].whole = True
                    break
                elif not isinstance(event, h11.InformationalResponse):
                    return reading
            if at.our_state is not h11.DONE or at.their_state is not h11.DONE:
                break
            at.start_next_cycle()
    except h11.RemoteProtocolError as error:
        reading.error = str(error) or "refused"
    if at.trailing_data[0] and not reading.error:
        reading.error = "octets are left"
    return reading


class _Listener:
    """What httptools calls."""

    def __init__(self, *, answers: bool) -> None:
        self.messages: list[Read] = []
        self.answers = answers
        self.parser: httptools.HttpRequestParser | httptools.HttpResponseParser
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._complete = False

    def on_message_begin(self) -> None:
        self._target = b""
        self._fields = []
        self._complete = False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._complete:
            self.messages[-1].trailers += ((name.lower(), value.strip(b" \t")),)
        else:
            self._fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._complete = True
        start = (b"%d" % self.parser.get_status_code(),) if self.answers else (self.parser.get_method(), self._target)
        self.messages.append(Read(start, tuple(self._fields)))

    def on_body(self, body: bytes) -> None:
        self.messages[-1].body += body

    def on_message_complete(self) -> None:
        self.messages[-1].whole = True


def httptools_requests(octets: bytes) -> Reading:
    """Requests as llhttp reads them."""
    listener = _Listener(answers=False)
    listener.parser = httptools.HttpRequestParser(listener)
    return _httptools(listener, octets)


def httptools_responses(octets: bytes) -> Reading:
    """Responses as llhttp reads them; it cannot be told that a request was HEAD."""
    listener = _Listener(answers=True)
    listener.parser = httptools.HttpResponseParser(listener)
    return _httptools(listener, octets)


def _httptools(listener: _Listener, octets: bytes) -> Reading:
    error = ""
    try:
        listener.parser.feed_data(octets)
    except httptools.HttpParserUpgrade:
        error = "upgrade"
    except httptools.HttpParserError as refused:
        error = str(refused) or "refused"
    return Reading(listener.messages, error)


def our_requests(octets: bytes, *, valid: bool = False) -> Reading:
    """Requests as our server codec reads them, each answered with an empty 204; with `valid` the validator has its say as well."""
    reading = Reading([])
    codec = Http1Server(Limits(), b"http")
    codec.receive(octets)
    while True:
        events = codec.events()
        for e in events:
            if isinstance(e, RequestHead):
                fault = validate(e) if valid else None
                if fault is not None:
                    reading.error = fault.value
                    return reading
                fields = tuple((f.name, f.value) for f in e.fields if f.kind != HOST)
                reading.messages.append(Read((e.method, e.path + e.query), fields))
            elif isinstance(e, Data):
                reading.messages[-1].body += e.chunk
                codec.send(Credit(e.stream, len(e.chunk)))
            elif isinstance(e, Reset):
                reading.error = e.fault.value
                return reading
            elif isinstance(e, End):
                reading.messages[-1].trailers = tuple((f.name, f.value) for f in e.trailers or ())
                reading.messages[-1].whole = True
                codec.send(ResponseHead(e.stream, 204, [], 0))
                codec.send(End(e.stream))
        if not events:
            return reading


def our_responses(octets: bytes, method: bytes, *, eof: bool = True) -> Reading:
    """The final response as our client codec reads it; octets behind it are an error."""
    reading = Reading([])
    codec = Http1Client(Limits())
    codec.open()
    codec.send(RequestHead(1, method, b"http", b"a", b"/", b"", [], 0))
    codec.send(End(1))
    codec.take()
    codec.receive(octets)
    for last in (False, True):
        while events := codec.events():
            for e in events:
                if isinstance(e, ResponseHead):
                    if e.status >= 200:
                        reading.messages.append(Read((b"%d" % e.status,), tuple((f.name, f.value) for f in e.fields)))
                elif isinstance(e, Data):
                    reading.messages[-1].body += e.chunk
                    codec.send(Credit(1, len(e.chunk)))
                elif isinstance(e, End):
                    reading.messages[-1].trailers = tuple((f.name, f.value) for f in e.trailers or ())
                    reading.messages[-1].whole = True
                elif isinstance(e, Reset):
                    reading.error = e.fault.value
        if eof and not last:
            codec.receive_eof()
    return reading

"""REST in front of a gRPC module: JSON documents for single messages, lines or events for streams, `google.rpc.Status` for errors.

    POST /v1/items {"name": "apple"}     ──▶  shop.Stock/Create          one message each way
    GET /v1/items:watch                  ──▶  shop.Stock/Watch           NDJSON, or SSE where the caller accepts `text/event-stream`
    POST /v1/items:restock, NDJSON       ──▶  shop.Stock/Restock         a message a line

A stream's status line waits for its first message: a call that fails before has the status of its error. One that fails later
ends in a line `{"error": STATUS}`, or an event `error`.
"""

from __future__ import annotations

from typing import Final

from flui.codecs.base import Events
from flui.framing.base import MessageLimits, Reader
from flui.framing.document import DocumentReader
from flui.framing.ndjson import NdjsonReader, line_of
from flui.framing.sse import event
from flui.model.events import UNKNOWN, RequestHead, ResponseHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import CONTENT_TYPE, Field, classified, field
from flui.model.grpc import Status, http_of
from flui.model.spoken import Dialect
from flui.translate.base import Mapped, Refused, Translation
from flui.translate.coding import IDENTITY, is_known
from flui.translate.formats import PROTO, Format, Rest, details_json
from flui.translate.heads import NO_METADATA, Shown, Sifted, call_of, leading, length_line, refusal
from flui.translate.rest import Bound, RestRoutes
from flui.translate.schema import Method, Schema
from flui.translate.status import Ending, rpc_status
from flui.translate.streams import Stream
from flui.translate.unary import Unary

_GRPC: Final = classified(b"content-type", b"application/grpc+proto")
_JSON: Final = field(b"content-type", b"application/json")
_LINES: Final = field(b"content-type", b"application/x-ndjson")
_EVENTS: Final = field(b"content-type", b"text/event-stream")
_FRESH: Final = field(b"cache-control", b"no-cache")
_NDJSON: Final = frozenset((b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines"))
_DOCUMENT: Final = frozenset((b"", b"application/json"))
_EVENT_STREAM: Final = b"text/event-stream"
_NOT_ONE: Final = "the service did not answer with one message"


def _http(fault: Fault | None, status: Status) -> int:
    """The HTTP status of an ending: that of our own fault where we have ended it, else the one of google.rpc."""
    return DIALECTS[fault].http if fault is not None else http_of(status)


def _after(ending: Ending) -> list[Field]:
    return [field(b"retry-after", b"%d" % ending.retry_after_s)] if ending.retry_after_s else []


class RestUnary(Unary):
    """One message each way."""

    __slots__ = ("_of",)

    def __init__(
        self, codec: Events, stream: int, extra: list[Field] | None, format_: Format, coding: bytes, length: int, most: int, of: RestCalls
    ) -> None:
        super().__init__(codec, stream, extra, format_, coding, length, most)
        self._of = of

    def answer(self, head: ResponseHead, body: bytes, coding: bytes, ending: Ending) -> None:
        """Tells the caller the message of a call that went well. Trailing metadata stands beside the leading: nothing was said before."""
        del coding
        self.say_whole(200, self._of.shown.fields(head, [_JSON]), body, [*ending.metadata, *(head.extra or ())])

    def end(self, ending: Ending) -> None:
        """Tells the caller how the call ended."""
        fields = [_JSON, *self.said_before(), *ending.metadata, *_after(ending)]
        self.say_whole(_http(self._splice.fault, ending.status), fields, self._of.status(ending), None)


class RestStream(Stream):
    """A stream of answers, in lines or events."""

    __slots__ = ("_events", "_first", "_of", "_whole")

    def __init__(
        self,
        codec: Events,
        stream: int,
        extra: list[Field] | None,
        format_: Format,
        reader: Reader,
        coding: bytes,
        limits: MessageLimits,
        of: RestCalls,
        *,
        events: bool,
        single: bool,
    ) -> None:
        """A call that is about to begin.

        Args:
            codec: Of the caller.
            stream: Number of the exchange there.
            extra: What each answer carries besides its own fields.
            format_: Of its messages.
            reader: Of the caller's octets.
            coding: In which the caller's body is compressed; only a document can be.
            limits: Of the messages of either side.
            of: What is the same for all.
            events: The answer is in events, else in lines.
            single: There is one answer, and it is a document.
        """
        super().__init__(codec, stream, extra, format_, reader, coding, limits, of.window)
        self._of = of
        self._events = events
        self._first: ResponseHead | None = None
        """Head of the answer, until its first message."""
        self._whole: list[bytes] | None = [] if single else None

    def say_begin(self, head: ResponseHead) -> None:
        """Nothing is told before the first message."""
        self._first = head

    def frame(self, payload: bytes) -> bytes:
        """A message as the caller is sent it."""
        whole = self._whole
        if whole is not None:
            if whole and self._ending is None:
                # Nobody would hold back a service that goes on: what it sends is not passed on, so nothing waits for the caller.
                self._splice.give_up(Fault.UPSTREAM_MALFORMED, Status.UNIMPLEMENTED, _NOT_ONE)
            else:
                whole.append(payload)
            return b""
        head = self._first
        if head is not None:
            self._begin_stream(head)
        return event(payload) if self._events else line_of(payload)

    def _begin_stream(self, head: ResponseHead) -> None:
        self._first = None
        fields = [_EVENTS, _FRESH] if self._events else [_LINES]
        self.say_head(200, fields + leading(head.fields), UNKNOWN, head.extra)

    def refuse(self, head: ResponseHead, ending: Ending) -> None:
        """Tells the caller of an ending before which there was nothing."""
        if ending.status is Status.OK:
            self._first = head
            self.end(ending)
        else:
            self._say_error(ending, refusal(head.fields))

    def end(self, ending: Ending) -> None:
        """Tells the caller how the call ended."""
        head = self._first
        if ending.status is Status.OK:
            if self._whole is not None:
                self._say_single(head, ending)
                return
            if head is not None:
                self._begin_stream(head)
            if self._events:
                self.say(event(b"{}", b"end"))
            self.say_end()
        elif self.begun:
            text = self._of.status(ending)
            self.say(event(text, b"error") if self._events else line_of(b'{"error":' + text + b"}"))
            self.say_end()
        else:
            self._say_error(ending, leading(head.fields) if head is not None else [])

    def _say_single(self, head: ResponseHead | None, ending: Ending) -> None:
        whole = self._whole
        if head is None or not whole or len(whole) > 1:
            self._say_error(Ending(Status.UNIMPLEMENTED, _NOT_ONE), [])
            return
        length = [length_line(len(whole[0])), *ending.metadata, *(head.extra or ())]
        self.say_head(200, [_JSON, *leading(head.fields)], len(whole[0]), length)
        self.say(whole[0])
        self.say_end()

    def _say_error(self, ending: Ending, before: list[Field]) -> None:
        body = self._of.status(ending)
        length = length_line(len(body))
        fields = [_JSON, *before, *ending.metadata, *_after(ending), length]
        self.say_head(_http(self._splice.fault, ending.status), fields, len(body))
        self.say(body)
        self.say_end()


class RestCall(Mapped):
    """A REST request."""

    __slots__ = ("_coding", "_events", "_format", "_lines", "_method", "_of", "bound")

    def __init__(
        self,
        head: RequestHead,
        of: RestCalls,
        bound: Bound | None,
        format_: Format,
        coding: bytes,
        *,
        lines: bool,
        events: bool,
    ) -> None:
        super().__init__(Dialect.REST, head, of.epoch)
        self._of = of
        self.bound = bound
        """The way that it takes; None: there is none for it, and it is refused."""
        self._method: Method | None = bound.method if bound is not None else None
        self._format = format_
        self._coding = coding
        self._lines = lines
        self._events = events

    @property
    def formats(self) -> tuple[str, str]:
        """How messages are put, in words."""
        bound = self.bound
        if bound is None:
            return "", ""
        way = bound.way
        method = bound.method
        if way.whole:
            asks = "a JSON message a line (NDJSON)" if self._lines else "one JSON document"
            asks += ", without what the path says" if way.places else ""
        elif way.body is not None:
            asks = f"one JSON document, the field {way.body.json_name}; the other fields in the query"
        else:
            asks = "no body; the fields are in the query" if way.places or method.asks.fields else "no body"
        tells = "one JSON document"
        if method.server_streams:
            tells = "a JSON message an event (SSE)" if self._events else "a JSON message a line (NDJSON)"
        if way.answer is not None:
            tells += f", the field {way.answer.json_name}"
        return asks, tells

    def translation(self, codec: Events, stream: int, extra: list[Field] | None, length: int) -> Translation:
        """A translation for one request of these."""
        of = self._of
        method = self._method
        if method is None or not (method.client_streams or method.server_streams):
            return RestUnary(codec, stream, extra, self._format, self._coding, length, of.limits.message_octets, of)
        reader = NdjsonReader(of.limits, Fault.MALFORMED) if self._lines else DocumentReader(of.limits, Fault.MALFORMED)
        return RestStream(
            codec,
            stream,
            extra,
            self._format,
            reader,
            self._coding,
            of.limits,
            of,
            events=self._events,
            single=not method.server_streams,
        )


class RestCalls:
    """Finds calls in REST among requests."""

    __slots__ = ("_routes", "_schema", "epoch", "limits", "shown", "window")

    def __init__(self, schema: Schema, routes: RestRoutes, limits: MessageLimits, window: int, epoch: int) -> None:
        """For one snapshot.

        Args:
            schema: What the module serves.
            routes: Ways to its methods.
            limits: Of a message.
            window: Octets that may wait for either side, where messages have to be understood.
            epoch: Of the snapshot.
        """
        self._schema = schema
        self._routes = routes
        self.limits = limits
        self.window = window
        self.epoch = epoch
        self.shown = Shown()

    def status(self, ending: Ending) -> bytes:
        """JSON of an ending."""
        return rpc_status(ending, details_json(ending.details, self._schema))

    def call(self, head: RequestHead) -> RestCall | None:
        """The call that a request means; None when no way leads to a method."""
        bound = self._routes.match(head.method, head.path)
        if bound is None:
            return self._unknown(head)
        method = bound.method
        content_type = b""
        for line in head.special:
            if line.kind == CONTENT_TYPE:
                content_type = line.value.partition(b";")[0].rstrip(b" \t").lower()
        lines = method.client_streams and content_type in _NDJSON
        sifted = Sifted(head)
        coding = sifted.about.get(b"content-encoding", b"").lower()
        if coding == IDENTITY:
            coding = b""
        accepts = method.server_streams and _EVENT_STREAM in sifted.about.get(b"accept", b"").lower()
        call = call_of(head, method.path, [_GRPC], sifted, repeatable=method.safe)
        found = RestCall(call, self, bound, Rest(bound, head.query, self._schema), coding, lines=lines, events=accepts)
        if sifted.unsound:
            found.refused = Refused(Fault.MALFORMED, Status.INVALID_ARGUMENT, NO_METADATA)
        elif not lines and content_type not in _DOCUMENT:
            wanted = "application/json or application/x-ndjson" if method.client_streams else "application/json"
            found.refused = Refused(Fault.UNSUPPORTED_TYPE, Status.INVALID_ARGUMENT, f"content-type must be {wanted}", b"", head.path)
        elif coding and (method.client_streams or method.server_streams or not is_known(coding)):
            found.refused = Refused(
                Fault.UNSUPPORTED_TYPE,
                Status.INVALID_ARGUMENT,
                "of single messages gzip is served, and no other content-encoding",
                b"",
                head.path,
            )
        return found

    def _unknown(self, head: RequestHead) -> RestCall | None:
        """A path that has other verbs, or a method that a service of the module does not have."""
        allowed = self._routes.allowed(head.path)
        path = head.path
        if allowed:
            bound = self._routes.match(allowed[0] if allowed[0] != b"*" else b"POST", head.path)
            path = bound.method.path if bound is not None else path
        elif head.method != b"POST" or head.path[1:].partition(b"/")[0] not in self._schema.services:
            return None
        call = call_of(head, path, [_GRPC], Sifted(head))
        found = RestCall(call, self, None, PROTO, b"", lines=False, events=False)
        if allowed:
            allow = b", ".join(allowed)
            found.refused = Refused(Fault.METHOD_NOT_ALLOWED, Status.UNIMPLEMENTED, "the path is there for other methods", allow, head.path)
        else:
            found.refused = Refused(Fault.NO_ROUTE, Status.UNIMPLEMENTED, "there is no such method")
        return found

"""A REST module behind a gRPC caller: each call becomes the request that its annotation says, each answer the message that it is.

    splice ── gRPC's events ──▶ send ── REST ──▶ codec of the module
    splice ◀── gRPC's events ── hear ◀── REST ── codec of the module

It stands behind the splice, as an upstream codec does: deadlines, limits, retries and statuses stay the splice's. The request
goes out when its message is whole, for its path may depend on it; a stream of messages goes as lines (NDJSON), where the rule
has no variables. An answer that is an error has the status that its `google.rpc.Status` says, else the one of its HTTP status.
"""

from __future__ import annotations

import json
from typing import Final, Protocol

from flui.answer import clean
from flui.codecs.base import Events
from flui.codecs.grpc import CONTENT_TYPE_GRPC, STATUS_LINES, binary_text, grpc_timeout
from flui.framing.base import Message, MessageLimits, Reader
from flui.framing.document import DocumentReader
from flui.framing.grpc import GrpcReader, coding_of, framed
from flui.framing.ndjson import NdjsonReader
from flui.framing.sse import SseReader
from flui.model.events import UNKNOWN, Credit, Data, End, Event, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import CONTENT_TYPE, GRPC_TYPE, LENGTH, Field, classified, field
from flui.model.grpc import STATUSES, Status, message_said
from flui.translate import rest_out
from flui.translate.coding import expand
from flui.translate.formats import Unsayable, json_text
from flui.translate.heads import length_line
from flui.translate.json_in import encode, parse
from flui.translate.schema import MessageType, Method, Schema, Unfit
from flui.translate.ways import ABSENT, Way

_JSON: Final = classified(b"content-type", b"application/json")
_LINES: Final = classified(b"content-type", b"application/x-ndjson")
_WANTS_JSON: Final = field(b"accept", b"application/json")
_WANTS_LINES: Final = field(b"accept", b"application/x-ndjson, text/event-stream")
_BODILY: Final = frozenset((CONTENT_TYPE, GRPC_TYPE, LENGTH))
_ABOUT_BODY: Final = frozenset((b"content-encoding", b"trailer", b"etag", b"accept-ranges"))
_ERROR_OCTETS: Final = 65_536
"""Of the body of an error that are looked at."""
_SAID: Final = 4096
"""Characters of a message that is told of an error."""

_OF_HTTP: Final[dict[int, Status]] = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    405: Status.UNIMPLEMENTED,
    408: Status.DEADLINE_EXCEEDED,
    409: Status.ABORTED,
    412: Status.FAILED_PRECONDITION,
    413: Status.RESOURCE_EXHAUSTED,
    415: Status.INVALID_ARGUMENT,
    416: Status.OUT_OF_RANGE,
    422: Status.INVALID_ARGUMENT,
    429: Status.RESOURCE_EXHAUSTED,
    499: Status.CANCELLED,
    501: Status.UNIMPLEMENTED,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}


def status_of_rest(http: int) -> Status:
    """The gRPC status of a REST answer that does not say one itself: the table of google.rpc.Code, read backwards."""
    known = _OF_HTTP.get(http)
    if known is not None:
        return known
    if http < 400:
        return Status.UNKNOWN  # a redirection: the module wants something that no call can do (threats F9)
    return Status.FAILED_PRECONDITION if http < 500 else Status.INTERNAL


class Tells(Protocol):
    """The splice, as what stands behind it sees it."""

    def told(self) -> None:
        """There are events (`GrpcRest.events`), which are taken once what is being heard has been heard."""


class RestModule:
    """How calls of one method are said to a REST module."""

    __slots__ = ("limits", "method", "schema", "ways", "window")

    def __init__(self, method: Method, ways: tuple[Way, ...], schema: Schema, limits: MessageLimits, window: int) -> None:
        self.method = method
        self.ways = ways
        self.schema = schema
        self.limits = limits
        self.window = window

    def codec(self, up: Events, splice: Tells) -> GrpcRest:
        """Stands in front of the codec of the module, for one try."""
        return GrpcRest(self, up, splice)


class GrpcRest:
    """One try of a call, said in REST."""

    __slots__ = (
        "_answering", "_asked", "_asks", "_behind", "_body", "_due", "_ended", "_given", "_head", "_open", "_over", "_reader",
        "_shown", "_splice", "_status", "_stream", "_told", "_up", "_way",
    )  # fmt: skip

    def __init__(self, behind: RestModule, up: Events, splice: Tells) -> None:
        self._behind = behind
        self._up = up
        self._splice = splice
        self._stream = 0
        self._head: RequestHead | None = None
        self._asks: GrpcReader | None = None
        self._due: list[Event] = []
        """What the splice has not taken yet."""
        self._answering = False
        """The head of an answer was told."""
        self._asked = False
        """The caller has said everything."""
        self._given = 0
        """Octets of a stream that the module has not taken yet."""
        self._open = False
        """The head of the request is out."""
        self._way: Way | None = None
        self._status = 0
        """Of the answer."""
        self._reader: Reader | None = None
        """Of the messages of an answer that is well."""
        self._body = bytearray()
        """Of an answer that is an error."""
        self._shown: list[Field] = []
        """Fields of the answer that are about no body."""
        self._told = 0
        """Octets that the caller has not taken yet."""
        self._ended = False
        """The answer is complete, but for what waits here."""
        self._over = False

    # What the splice says, as to any upstream codec.

    def open(self) -> int:
        """Begins an exchange."""
        self._stream = self._up.open()
        return self._stream

    def events(self) -> list[Event]:
        """What the module has said, in gRPC's events, and what is said in its place."""
        due = self._due
        self._due = []
        return due

    def send(self, event: Event) -> None:
        """Takes what the caller says."""
        if isinstance(event, Data):
            assert self._asks is not None, "a message before its head"
            if not self._over:
                self._asks.receive(event.chunk)
                self._ask()
        elif isinstance(event, End):
            if self._asks is not None and not self._over:
                self._asks.finish()
                self._asked = True
                self._ask()
        elif isinstance(event, RequestHead):
            self._head = event
            self._asks = GrpcReader(self._behind.limits, bool(coding_of(event.fields)), Fault.MALFORMED)
        elif isinstance(event, Credit):
            self._told = max(0, self._told - event.octets)
            self._carry_on()
        elif isinstance(event, Reset) and self._open:
            self._up.send(event)
        if self._due:
            self._splice.told()

    # The request.

    def _ask(self) -> None:
        """Messages that the module may be given, and the end behind the last."""
        reader = self._asks
        assert reader is not None
        streams = self._behind.method.client_streams
        drained = False
        while not self._over and not (streams and self._given >= self._behind.window):
            message = reader.take()
            if message is None:
                drained = True
                break
            self._pass_on(message, streams=streams)
        if drained and reader.fault is not None:
            self._refuse(Status.INVALID_ARGUMENT, "what was sent is not made of whole messages, or of one that is too long")
        if self._over:
            return
        credit = reader.credit()
        if credit:
            self._due.append(Credit(self._stream, credit))
        if self._asked and drained:
            self._asks = None
            if streams and not self._open:
                self._begin_lines()
            if self._open:
                self._up.send(End(self._stream))
            else:
                self._refuse(Status.UNIMPLEMENTED, "there is no message")

    def _pass_on(self, message: Message, *, streams: bool) -> None:
        head = self._head
        assert head is not None
        behind = self._behind
        payload: bytes | None = message.payload
        try:
            if message.coded:
                payload = expand(message.payload, coding_of(head.fields), behind.limits.message_octets)
            if payload is None:
                raise Unfit("", "a message is not what its coding says, or expands to too much")
            self._say(json_text(payload, behind.method.asks, behind.schema, None), streams=streams)
        except (Unfit, Unsayable) as error:
            self._refuse(Status.INVALID_ARGUMENT, str(error))

    def _say(self, text: bytes, *, streams: bool) -> None:
        if streams:
            if not self._open:
                self._begin_lines()
            if not self._over:
                self._given += len(text) + 1
                self._up.send(Data(self._stream, text + b"\n"))
            return
        if self._open:
            self._refuse(Status.UNIMPLEMENTED, "there is more than one message")
            return
        told = rest_out.tell(self._behind.ways, parse(text))
        body = (
            b""
            if told.body is ABSENT
            else text
            if told.way.whole and not told.way.places
            else json.dumps(told.body, ensure_ascii=False, separators=(",", ":")).encode()
        )
        self._way = told.way
        self._begin(told.verb, told.path, told.query, [_JSON, length_line(len(body))] if body else [], len(body))
        if body:
            self._up.send(Data(self._stream, body))

    def _begin_lines(self) -> None:
        """A stream of messages is one body, so its path cannot depend on them."""
        way = next((way for way in self._behind.ways if way.whole and not way.places), None)
        if way is None:
            self._refuse(Status.UNIMPLEMENTED, "a stream of messages has no path that depends on them")
            return
        self._way = way
        verb = b"POST" if way.verb == b"*" else way.verb
        self._begin(verb, way.template.expand([]) or b"/", b"", [_LINES], UNKNOWN)

    def _begin(self, verb: bytes, path: bytes, query: bytes, lines: list[Field], length: int) -> None:
        call = self._head
        assert call is not None
        wants = _WANTS_LINES if self._behind.method.server_streams else _WANTS_JSON
        fields = [*lines, wants, *[line for line in call.fields if _is_metadata(line)]]
        head = RequestHead(self._stream, verb, call.scheme, call.authority, path, query, fields, length)
        head.extra = [_for_http(line) for line in call.extra or () if line.name != b"grpc-previous-rpc-attempts"]
        self._open = True
        self._up.send(head)

    def _refuse(self, status: Status, message: str) -> None:
        """Answers in place of the module."""
        self._over = True
        if self._open:
            self._up.send(Reset(self._stream, Fault.CALLER_GONE))
        if self._answering:
            self._due.append(_ending(self._stream, status, message))
        else:
            self._due += _refusal(self._stream, status, message, b"", [])

    # The answer.

    def hear(self, events: list[Event]) -> None:
        """Takes what the module says."""
        for event in events:
            if isinstance(event, Reset):
                self._due.append(event)
            elif self._over:
                continue
            elif isinstance(event, Credit):
                self._given = max(0, self._given - event.octets)
                if self._asks is not None:
                    self._ask()
            elif isinstance(event, ResponseHead):
                if event.status >= 200:
                    self._answered(event)
            elif isinstance(event, Data):
                if self._reader is None:
                    self._body += event.chunk[: max(0, _ERROR_OCTETS - len(self._body))]
                    self._up.send(Credit(self._stream, len(event.chunk)))
                else:
                    self._reader.receive(event.chunk)
                    self._carry_on()
            elif isinstance(event, End):
                self._ended = True
                if self._reader is None:
                    self._over = True
                    self._due += _error(self._stream, self._status, bytes(self._body), self._shown, self._behind.schema)
                else:
                    self._reader.finish()
                    self._carry_on()

    def _answered(self, head: ResponseHead) -> None:
        if head.local:
            clean(head)
        self._status = head.status
        self._shown = [line for line in head.fields if _is_shown(line)]
        if head.status >= 300:
            return
        limits = self._behind.limits
        self._reader = DocumentReader(limits, Fault.UPSTREAM_MALFORMED)
        if self._behind.method.server_streams:
            said = next((line.value for line in head.fields if line.kind == CONTENT_TYPE), b"").partition(b";")[0].rstrip(b" \t").lower()
            if said == b"text/event-stream":
                self._reader = SseReader(limits, Fault.UPSTREAM_MALFORMED)
            elif said != b"application/json":
                self._reader = NdjsonReader(limits, Fault.UPSTREAM_MALFORMED)
        self._answering = True
        self._due.append(ResponseHead(self._stream, 200, [CONTENT_TYPE_GRPC, *self._shown], UNKNOWN))

    def _carry_on(self) -> None:
        """Tells the messages that may be told."""
        reader = self._reader
        if reader is None or self._over:
            return
        drained = False
        while self._told < self._behind.window or self._ended:
            message = reader.take()
            if message is None:
                drained = True
                break
            try:
                octets = framed(self._payload(message.payload))
            except Unfit as unfit:
                self._broken(f"the module's answer does not fit its message: {unfit}")
                return
            self._told += len(octets)
            self._due.append(Data(self._stream, octets))
        if reader.fault is not None:
            self._broken("the module's answer is not made of messages, or of one that is too long")
            return
        credit = reader.credit()
        if self._ended and drained:
            self._over = True
            self._due.append(End(self._stream, [STATUS_LINES[Status.OK]]))
        elif credit:
            self._up.send(Credit(self._stream, credit))

    def _payload(self, text: bytes) -> bytes:
        way = self._way
        tree = parse(text) if text.strip() else {}
        if way is not None and way.answer is not None:
            tree = {way.answer.json_name: tree}
        tells = self._behind.method.tells
        return encode(_known(tree, tells), tells, self._behind.schema.types)

    def _broken(self, message: str) -> None:
        self._over = True
        if not self._ended:
            self._up.send(Reset(self._stream, Fault.CALLER_GONE))
        self._due.append(_ending(self._stream, Status.INTERNAL, message))


def _ending(stream: int, status: Status, message: str) -> End:
    """Of an answer that has begun."""
    return End(stream, [STATUS_LINES[status], field(b"grpc-message", message_said(message[:_SAID]))])


def _refusal(stream: int, status: Status, message: str, details: bytes, shown: list[Field]) -> list[Event]:
    """An answer that is a status alone (Trailers-Only)."""
    fields = [CONTENT_TYPE_GRPC, *shown, STATUS_LINES[status], field(b"grpc-message", message_said(message[:_SAID]))]
    if details:
        fields.append(field(b"grpc-status-details-bin", binary_text(details)))
    return [ResponseHead(stream, 200, fields, 0), End(stream)]


def _error(stream: int, http: int, body: bytes, shown: list[Field], schema: Schema) -> list[Event]:
    """What an error of the module means."""
    status = status_of_rest(http)
    message = f"the module answered with HTTP status {http}"
    details = b""
    holder = schema.types.get("google.rpc.Status")
    try:
        tree = parse(body) if body else None
    except Unfit:
        tree = None
    if isinstance(tree, dict):
        code = tree.get("code")
        said = tree.get("message") or tree.get("detail") or tree.get("title")
        if isinstance(said, str):
            message = said
        if isinstance(code, int) and 0 < code < len(STATUSES):
            status = STATUSES[code]
            if holder is not None and tree.get("details"):
                try:
                    details = encode({key: tree[key] for key in ("code", "message", "details") if key in tree}, holder, schema.types)
                except Unfit:
                    details = b""  # of a type that nobody here knows; status and message stand
    return _refusal(stream, status, message, details, shown)


def _known(tree: object, message: MessageType) -> object:
    """What of an answer its message has: a module may say more than its annotations know."""
    if message.well_known or not isinstance(tree, dict):
        return tree
    kept: dict[str, object] = {}
    for key, value in tree.items():
        field_type = message.by_json.get(key)
        if field_type is None:
            continue
        inner = field_type.message
        if inner is None:
            kept[key] = value
        elif field_type.is_map:
            held = inner.by_number[2].message
            kept[key] = {k: _known(v, held) for k, v in value.items()} if held is not None and isinstance(value, dict) else value
        elif field_type.repeated:
            kept[key] = [_known(each, inner) for each in value] if isinstance(value, list) else value
        else:
            kept[key] = _known(value, inner)
    return kept


def _for_http(line: Field) -> Field:
    """What the relay adds to a call, as a request has it."""
    if line.name != b"grpc-timeout":
        return line
    return field(b"flui-deadline", b"%d" % (grpc_timeout(line.value) or 0))


def _is_shown(line: Field) -> bool:
    """Whether a field of an answer is metadata of the call: about no body, and none of gRPC's own, which a REST module has no word in."""
    return line.kind not in _BODILY and line.name not in _ABOUT_BODY and not line.name.startswith(b"grpc-")


def _is_metadata(line: Field) -> bool:
    """Whether a field of a call is what its caller wants the module to know."""
    return line.kind not in {GRPC_TYPE, LENGTH} and line.name != b"accept-encoding" and not line.name.startswith(b"grpc-")

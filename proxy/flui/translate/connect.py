"""The Connect protocol in front of a gRPC module (connectrpc.com/docs/protocol): one message each way, and streams.

unary     body = message                   status, `trailer-` fields, errors as JSON
streams   envelopes, as gRPC's messages     a last envelope (flag 2) with status and trailers, as JSON
"""

from __future__ import annotations

import binascii
from typing import Final
from urllib.parse import unquote_to_bytes

from flui.codecs.base import Events
from flui.framing.base import MessageLimits
from flui.framing.grpc import GrpcReader, coding_of, framed
from flui.model.events import UNKNOWN, End, RequestHead, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import Field, classified, field
from flui.model.grpc import Status, http_of
from flui.model.spoken import Dialect
from flui.translate.base import Mapped, Refused, Translation
from flui.translate.coding import IDENTITY, is_known
from flui.translate.formats import PROTO, Format, Formats
from flui.translate.heads import NO_METADATA, Shown, Sifted, call_of, leading, refusal
from flui.translate.status import Ending, connect_error, end_of_stream, ending_of, trailer_fields
from flui.translate.streams import Stream
from flui.translate.unary import Unary, leading_and_status

_PROTO: Final = field(b"content-type", b"application/proto")
_JSON: Final = field(b"content-type", b"application/json")
_PROTO_LINES: Final = [_PROTO]
_JSON_LINES: Final = [_JSON]
_STREAM_PROTO: Final = field(b"content-type", b"application/connect+proto")
_STREAM_JSON: Final = field(b"content-type", b"application/connect+json")
_GRPC: Final = classified(b"content-type", b"application/grpc+proto")
_DIGITS: Final = b"0123456789"
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_UNREAD: Final = Format(opaque=False)
"""JSON that nobody here can read: such a call is refused."""
_VERSION: Final = b"connect-protocol-version"
_TIMEOUT: Final = b"connect-timeout-ms"
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_LONGEST_MS: Final = 24 * 3600 * 1000


class ConnectUnary(Unary):
    """One unary call."""

    __slots__ = ("_shown",)

    def __init__(
        self,
        codec: Events,
        stream: int,
        extra: list[Field] | None,
        format_: Format,
        coding: bytes,
        length: int,
        most: int,
        shown: Shown,
    ) -> None:
        super().__init__(codec, stream, extra, format_, coding, length, most)
        self._shown = shown

    def answer(self, head: ResponseHead, body: bytes, coding: bytes, ending: Ending) -> None:
        """Tells the caller the message of a call that went well."""
        extra = list(head.extra) if head.extra else []
        if coding:
            extra.append(field(b"content-encoding", coding))
        if ending.metadata:
            extra += trailer_fields(ending.metadata)
        self.say_whole(200, self._shown.fields(head, [_PROTO if self._format.opaque else _JSON]), body, extra)

    def end(self, ending: Ending) -> None:
        """Tells the caller how the call ended."""
        fields = [_JSON, *self.said_before(), *trailer_fields(ending.metadata)]
        self.say_whole(http_of(ending.status), fields, connect_error(ending), None)


class ConnectStream(Translation):
    """One call of streams, whose messages pass as they are."""

    __slots__ = ()

    def begin(self, head: ResponseHead) -> None:
        """The service answers."""
        if not head.length:
            self._say_refusal(head)
            return
        fields = [_STREAM_PROTO]
        coding = coding_of(head.fields)
        if coding:
            fields.append(field(b"connect-content-encoding", coding))
        self.say_head(200, fields + leading(head.fields), UNKNOWN, head.extra)

    def _say_refusal(self, head: ResponseHead) -> None:
        self.say_head(200, [self.content_type, *refusal(head.fields)], UNKNOWN, head.extra)
        self.end(ending_of(leading_and_status(head.fields)))

    @property
    def content_type(self) -> Field:
        """Of the answer."""
        return _STREAM_PROTO

    def finish(self, end: End) -> None:
        """The call has ended."""
        if not self.over:
            self.end(ending_of(end.trailers or []))

    def end(self, ending: Ending) -> None:
        """Tells the caller how the call ended."""
        if not self.begun:
            self.say_head(200, [self.content_type], UNKNOWN)
        self.say(_last(ending))
        self.say_end()


class ConnectJson(Stream):
    """One call of streams, whose messages are JSON to the caller."""

    __slots__ = ()

    def say_begin(self, head: ResponseHead) -> None:
        """Tells the caller that messages follow."""
        self.say_head(200, [_STREAM_JSON, *leading(head.fields)], UNKNOWN, head.extra)

    def refuse(self, head: ResponseHead, ending: Ending) -> None:
        """Tells the caller of an ending before which there was nothing."""
        self.say_head(200, [_STREAM_JSON, *refusal(head.fields)], UNKNOWN, head.extra)
        self.end(ending)

    def frame(self, payload: bytes) -> bytes:
        """A message in its envelope."""
        return framed(payload)

    def end(self, ending: Ending) -> None:
        """Tells the caller how the call ended."""
        if not self.begun:
            self.say_head(200, [_STREAM_JSON], UNKNOWN)
        self.say(_last(ending))
        self.say_end()


def _last(ending: Ending) -> bytes:
    """The last envelope of a stream."""
    said = end_of_stream(ending)
    return b"\2" + len(said).to_bytes(4, "big") + said


class ConnectCall(Mapped):
    """A request in Connect."""

    __slots__ = ("_coding", "_format", "_message", "_of")

    def __init__(
        self, dialect: Dialect, head: RequestHead, of: ConnectCalls, format_: Format, coding: bytes, message: bytes | None
    ) -> None:
        super().__init__(dialect, head, of.epoch)
        self._of = of
        self._format = format_
        self._coding = coding
        self._message = message
        """Of a GET, whose body means nothing; None: it is no GET."""

    @property
    def formats(self) -> tuple[str, str]:
        """How messages are put, in words."""
        what = "protobuf" if self._format.opaque else "JSON"
        if self.dialect is Dialect.CONNECT_STREAM:
            return f"{what} in envelopes", f"{what} in envelopes; the status is in the last one"
        return (
            f"one message, {what}{', in the query' if self._message is not None else ''}",
            f"one message, {what}; trailers are `trailer-` fields",
        )

    def translation(self, codec: Events, stream: int, extra: list[Field] | None, length: int) -> Translation:
        """A translation for one request of these."""
        of = self._of
        limits = of.limits
        format_ = self._format
        if self.dialect is Dialect.CONNECT:
            shown = of.shown_proto if format_.opaque else of.shown_json
            unary = ConnectUnary(codec, stream, extra, format_, self._coding, length, limits.message_octets, shown)
            if self._message is not None:
                unary.preset(self._message)
            return unary
        if format_.opaque:
            return ConnectStream(codec, stream, extra)
        reader = GrpcReader(limits, bool(self._coding), Fault.MALFORMED)
        return ConnectJson(codec, stream, extra, format_, reader, self._coding, limits, of.window)


class ConnectCalls:
    """Finds calls in Connect among requests."""

    __slots__ = ("_formats", "epoch", "limits", "shown_json", "shown_proto", "window")

    def __init__(self, formats: Formats, limits: MessageLimits, window: int, epoch: int) -> None:
        """For one snapshot.

        Args:
            formats: Of the module's methods.
            limits: Of a message.
            window: Octets that may wait for either side, where messages have to be understood.
            epoch: Of the snapshot.
        """
        self._formats = formats
        self.limits = limits
        self.window = window
        self.epoch = epoch
        self.shown_proto = Shown()
        self.shown_json = Shown()

    def call(self, head: RequestHead, content_type: bytes) -> ConnectCall | None:
        """The call of a POST.

        Args:
            head: Of the request, validated.
            content_type: In lower case, without parameters.

        Returns:
            None when it is no Connect.
        """
        if content_type == b"application/proto":
            sifted = Sifted(head)
            return self._call(head, Dialect.CONNECT, sifted, _coding(sifted, b"content-encoding"), b"accept-encoding", None, json=False)
        if content_type == b"application/json":
            sifted = Sifted(head)
            if _VERSION not in sifted.about:
                return None
            return self._call(head, Dialect.CONNECT, sifted, _coding(sifted, b"content-encoding"), b"accept-encoding", None, json=True)
        json = content_type == b"application/connect+json"
        if json or content_type == b"application/connect+proto":
            sifted = Sifted(head)
            coding = _coding(sifted, b"connect-content-encoding")
            return self._call(head, Dialect.CONNECT_STREAM, sifted, coding, b"connect-accept-encoding", None, json=json)
        return None

    def get(self, head: RequestHead) -> ConnectCall | None:
        """The call of a GET (Connect, Unary-Get-Request); None when it is another request, or its method may change something."""
        method = self._formats.schema.methods.get(head.path)
        if method is None or not method.safe or method.client_streams or method.server_streams:
            return None
        wrong = ""
        said: dict[bytes, bytes] = {}
        for part in head.query[1:].split(b"&"):
            name, _, value = part.partition(b"=")
            if name in said:
                wrong = "a parameter of the query is said twice"
            said[name] = unquote_to_bytes(value)
        if said.get(b"connect") != b"v1":
            return None
        encoding = said.get(b"encoding")
        if encoding not in {b"proto", b"json"}:
            wrong = "encoding must be proto or json"
        coding = said.get(b"compression", b"").lower()
        if coding.translate(None, _TOKEN):
            wrong, coding = "compression must name a content-coding", b""
        message = said.get(b"message")
        if message is None:
            wrong, message = "the message is missing", b""
        if said.get(b"base64") == b"1":
            try:
                message = binascii.a2b_base64(message.translate(_URL_SAFE) + b"=" * (-len(message) % 4), strict_mode=True)
            except binascii.Error:
                wrong = "the message is not base64"
        coding = b"" if coding == IDENTITY else coding
        call = self._call(head, Dialect.CONNECT, Sifted(head), coding, b"accept-encoding", message, json=encoding == b"json")
        if wrong:
            call.refused = Refused(Fault.MALFORMED, Status.INVALID_ARGUMENT, wrong)
        return call

    def _call(
        self, head: RequestHead, dialect: Dialect, sifted: Sifted, coding: bytes, accepts: bytes, message: bytes | None, *, json: bool
    ) -> ConnectCall:
        fault: Fault | None = None
        status = Status.INVALID_ARGUMENT
        why = ""
        lines = [_GRPC]
        about = sifted.about
        format_ = _UNREAD if json else PROTO
        if json:
            found = self._formats.json(head.path)
            if found is None:
                fault, status, why = Fault.UNSUPPORTED_CODING, Status.UNIMPLEMENTED, "nothing is known of this service's messages"
            elif not is_known(coding):
                fault, status, why = Fault.UNSUPPORTED_CODING, Status.UNIMPLEMENTED, "this compression is not known here; gzip is"
            else:
                format_ = found
        else:
            if coding:
                lines.append(field(b"grpc-encoding", coding))
            accepted = about.get(accepts)
            if accepted is not None:
                lines.append(field(b"grpc-accept-encoding", accepted))
        version = about.get(_VERSION)
        if version is not None and version != b"1":
            fault, status, why = Fault.MALFORMED, Status.INVALID_ARGUMENT, 'connect-protocol-version must be "1"'
        left = -1
        timeout = about.get(_TIMEOUT)
        if timeout:
            if len(timeout) > 10 or timeout.translate(None, _DIGITS):
                fault, status, why = Fault.MALFORMED, Status.INVALID_ARGUMENT, "connect-timeout-ms must be a number of at most 10 digits"
            else:
                left = min(int(timeout), _LONGEST_MS)
        path = head.path + head.query if head.query and head.method == b"POST" else head.path
        call = call_of(head, path, lines, sifted, left, repeatable=head.method == b"GET")
        if sifted.unsound:
            fault, status, why = Fault.MALFORMED, Status.INVALID_ARGUMENT, NO_METADATA
        found_call = ConnectCall(dialect, call, self, format_, coding, message)
        method = self._formats.schema.methods.get(head.path)
        if method is None and self._formats.schema.methods:
            found_call.refused = Refused(Fault.NO_ROUTE, Status.UNIMPLEMENTED, "there is no such method")
        elif method is not None and dialect is Dialect.CONNECT and (method.client_streams or method.server_streams):
            found_call.refused = Refused(Fault.UNSUPPORTED_TYPE, Status.UNIMPLEMENTED, "the method is one of streams")
        elif fault is not None:
            found_call.refused = Refused(fault, status, why)
        return found_call


def _coding(sifted: Sifted, name: bytes) -> bytes:
    value = sifted.about.get(name, b"").lower()
    return b"" if value == IDENTITY else value

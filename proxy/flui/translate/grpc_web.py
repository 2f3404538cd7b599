"""gRPC-Web in front of a gRPC module (grpc/doc/PROTOCOL-WEB.md): what browsers can say of gRPC.

The messages are gRPC's own and pass as they are; trailers become the last frame of the body. In the text form the body is
base64 both ways.
"""

from __future__ import annotations

from typing import Final

from flui.codecs.base import Events
from flui.framing.grpc_web import TextReader, text_of, trailer_frame
from flui.model.events import UNKNOWN, Credit, Data, End, Event, RequestHead, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import CONTENT_TYPE, GRPC_TYPE, LENGTH, Field, classified, field
from flui.model.grpc import Status, message_said
from flui.model.spoken import Dialect
from flui.translate.base import Mapped, Refused, Translation
from flui.translate.heads import NO_METADATA, Sifted, call_of, refusal
from flui.translate.status import Ending
from flui.translate.tally import Tally

WEB: Final = b"application/grpc-web"
_TEXT: Final = b"-text"
_MEMO: Final = 64


class GrpcWeb(Translation):
    """One call, in the binary form."""

    __slots__ = ("_shown",)

    def __init__(self, codec: Events, stream: int, extra: list[Field] | None, shown: _Shown) -> None:
        super().__init__(codec, stream, extra)
        self._shown = shown

    def begin(self, head: ResponseHead) -> None:
        """The service answers. A head that is all there is becomes a head and a frame of trailers: not every page may see fields."""
        if head.length:
            self.say_head(200, self._shown.fields(head.fields), UNKNOWN, head.extra)
            return
        self.say_head(200, [self._shown.content_type, *refusal(head.fields)], UNKNOWN, head.extra)
        self.close([line for line in head.fields if line.kind not in {GRPC_TYPE, CONTENT_TYPE, LENGTH}])

    def finish(self, end: End) -> None:
        """The answer is complete."""
        if not self.over:
            self.close(end.trailers or [])

    def end(self, ending: Ending) -> None:
        """Tells the caller how the call ended."""
        if not self.begun:
            self.say_head(200, [self._shown.content_type], UNKNOWN)
        self.close([field(b"grpc-status", b"%d" % ending.status.value), field(b"grpc-message", message_said(ending.message))])

    def close(self, trailers: list[Field]) -> None:
        """Sends the last frame, and the end."""
        self.say(trailer_frame(trailers))
        self.say_end()


class GrpcWebText(GrpcWeb):
    """One call, in the text form."""

    __slots__ = ("_asked", "_reader", "_told")

    def __init__(self, codec: Events, stream: int, extra: list[Field] | None, shown: _Shown) -> None:
        super().__init__(codec, stream, extra, shown)
        self._reader = TextReader()
        self._asked = Tally()
        self._told = Tally()

    @property
    def passes(self) -> bool:
        """The text is read."""
        return False

    def hear(self, event: Event) -> None:
        """Takes what the caller says after the head."""
        if isinstance(event, Data):
            octets = self._reader.receive(event.chunk)
            if octets:
                self._asked.owe(len(event.chunk), len(octets))
                self._splice.heard(Data(event.stream, octets))
            else:
                self.codec.send(Credit(self.stream, len(event.chunk)))
        elif isinstance(event, End):
            self._reader.finish()
            if not self._reader.broken:
                self._splice.heard(event)
        elif isinstance(event, Credit):
            octets_taken = self._told.paid(event.octets)
            if octets_taken:
                self._splice.heard(Credit(event.stream, octets_taken))
        else:
            self._splice.heard(event)
        if self._reader.broken and not self.over:
            self._splice.give_up(Fault.MALFORMED, Status.INVALID_ARGUMENT, "the body is not base64")

    def tell(self, data: Data) -> None:
        """Messages of the service."""
        text = text_of(data.chunk)
        self._told.owe(len(data.chunk), len(text))
        self.say(text)

    def credit(self, credit: Credit) -> None:
        """The service takes more."""
        octets = self._asked.paid(credit.octets)
        if octets:
            self.codec.send(Credit(self.stream, octets))

    def close(self, trailers: list[Field]) -> None:
        """Sends the last frame, and the end."""
        self.say(text_of(trailer_frame(trailers)))
        self.say_end()


class _Shown:
    """Heads of answers in one content-type."""

    __slots__ = ("_known", "content_type")

    def __init__(self, content_type: bytes) -> None:
        self.content_type = field(b"content-type", content_type)
        self._known: dict[int, tuple[list[Field], list[Field]]] = {}

    def fields(self, fields: list[Field]) -> list[Field]:
        """The same list for the same list: its octets are known to the codec then."""
        known = self._known.get(id(fields))
        if known is not None and known[0] is fields:
            return known[1]
        shown = [self.content_type]
        shown += [line for line in fields if line.kind not in {GRPC_TYPE, CONTENT_TYPE, LENGTH} and line.name != b"trailer"]
        if len(self._known) >= _MEMO:
            self._known.clear()
        self._known[id(fields)] = (fields, shown)
        return shown


class WebCall(Mapped):
    """A request in gRPC-Web."""

    __slots__ = ("_shown", "_text")

    def __init__(self, head: RequestHead, epoch: int, shown: _Shown, *, text: bool) -> None:
        super().__init__(Dialect.GRPC_WEB_TEXT if text else Dialect.GRPC_WEB, head, epoch)
        self._shown = shown
        self._text = text

    @property
    def formats(self) -> tuple[str, str]:
        """How messages are put, in words."""
        how = "protobuf in gRPC's frames, base64" if self._text else "protobuf in gRPC's frames"
        return how, f"{how}; the trailers are the last one"

    def translation(self, codec: Events, stream: int, extra: list[Field] | None, length: int) -> Translation:
        """A translation for one request of these."""
        del length
        if self._text:
            return GrpcWebText(codec, stream, extra, self._shown)
        return GrpcWeb(codec, stream, extra, self._shown)


class WebCalls:
    """Finds calls in gRPC-Web among requests."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, _Kind] = {}

    def call(self, head: RequestHead, content_type: bytes, epoch: int) -> WebCall:
        """The call of a POST.

        Args:
            head: Of the request, validated.
            content_type: In lower case, without parameters; begins with `application/grpc-web`.
            epoch: Of the snapshot.
        """
        kind = self._known.get(content_type)
        if kind is None:
            if len(self._known) >= _MEMO:
                self._known.clear()
            kind = self._known[content_type] = _Kind(content_type)
        sifted = Sifted(head, speaks_grpc=True)
        path = head.path + head.query if head.query else head.path
        call = call_of(head, path, kind.lines, sifted)
        found = WebCall(call, epoch, kind.shown, text=kind.text)
        if not kind.known:
            found.refused = Refused(Fault.UNSUPPORTED_TYPE, Status.INVALID_ARGUMENT, "content-type is none of gRPC-Web")
        elif sifted.unsound:
            found.refused = Refused(Fault.MALFORMED, Status.INVALID_ARGUMENT, NO_METADATA)
        return found


class _Kind:
    """What a content-type means."""

    __slots__ = ("known", "lines", "shown", "text")

    def __init__(self, content_type: bytes) -> None:
        rest = content_type[len(WEB) :]
        self.text = rest.startswith(_TEXT)
        if self.text:
            rest = rest[len(_TEXT) :]
        self.known = not rest or (rest[0] == 0x2B and len(rest) > 1)
        self.lines = [classified(b"content-type", b"application/grpc" + rest if self.known else b"application/grpc")]
        self.shown = _Shown(content_type)


__all__ = ["WEB", "GrpcWeb", "GrpcWebText", "WebCall", "WebCalls"]

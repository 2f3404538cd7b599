"""Everything that a module's callers may speak: finds the call that a request means, by its content-type and its path alone."""

from __future__ import annotations

from typing import Final

from flui.call import Behind
from flui.codecs.base import Events
from flui.framing.base import MessageLimits
from flui.model.config import Limits
from flui.model.decision import Decision
from flui.model.events import RequestHead
from flui.model.fields import CONTENT_TYPE, Field
from flui.splice import Splice
from flui.translate.base import Mapped, Refused
from flui.translate.call import TranslatedCall
from flui.translate.connect import ConnectCalls
from flui.translate.formats import Formats
from flui.translate.grpc_rest import RestModule
from flui.translate.grpc_web import WEB, WebCalls
from flui.translate.rest import NO_ROUTES, RestRoutes
from flui.translate.rest_grpc import RestCalls

_TYPES: Final = 64


class Dialects:
    """What may be said to one gRPC module. Part of a snapshot."""

    __slots__ = ("_behind", "_connect", "_epoch", "_rest", "_types", "_web")

    def __init__(self, routes: RestRoutes | None, limits: Limits, epoch: int, *, grpc: bool) -> None:
        """For one snapshot.

        Args:
            routes: What the module serves, and the ways of REST to it; None: nothing is known of it.
            limits: Of messages, and of what waits for either side.
            epoch: Of the snapshot.
            grpc: The module speaks gRPC; else it speaks REST, and its calls are said to it so (`behind`).
        """
        routes = routes if routes is not None else NO_ROUTES
        schema = routes.schema
        self._epoch = epoch
        self._types: dict[bytes, bytes] = {}
        """Content-types in lower case and without parameters, by what was said."""
        window = max(limits.window_octets, limits.stream_window_octets)
        messages = MessageLimits(limits.grpc_message_octets) if limits.grpc_message_octets else MessageLimits(0xFFFF_FFFF)
        self._web = WebCalls()
        self._connect = ConnectCalls(Formats(schema), messages, window, epoch)
        self._rest = RestCalls(schema, routes, messages, window, epoch) if schema.methods and grpc else None
        self._behind: dict[bytes, RestModule] | None = None
        if not grpc:
            methods = schema.methods.values()
            self._behind = {each.path: RestModule(each, routes.ways(each), schema, messages, window) for each in methods}

    def spoken(self, head: RequestHead) -> Mapped | None:
        """As `call`, and remembered for as long as its caller repeats itself."""
        known = head.spoken
        if known is None or known.epoch != self._epoch:
            known = head.spoken = self.call(head)
        assert known is None or isinstance(known, Mapped), "what `call` has found"
        return known

    def call(self, head: RequestHead) -> Mapped | None:
        """The call that a request means; None when it means none: it is HTTP, for whoever understands it.

        Args:
            head: Validated, and no gRPC call itself.
        """
        if self._behind is not None and head.path not in self._behind:
            return None  # what the module speaks anyway
        if head.method == b"POST":
            content_type = b""
            for line in head.special:
                if line.kind == CONTENT_TYPE:
                    content_type = line.value.lower()
            if content_type.startswith(b"application/"):
                plain = self._types.get(content_type)
                if plain is None:
                    plain = self._learn(content_type)
                content_type = plain
                if content_type.startswith(WEB):
                    return self._web.call(head, content_type, self._epoch)
                connect = self._connect.call(head, content_type)
                if connect is not None:
                    return connect
        elif head.method == b"GET" and b"connect=v1" in head.query:
            got = self._connect.get(head)
            if got is not None:
                return got
        return self._rest.call(head) if self._rest is not None else None

    def behind(self, path: bytes) -> Behind | None:
        """How calls of a method are said to a module that speaks REST; None: it speaks gRPC, or has no such method."""
        return self._behind.get(path) if self._behind is not None else None

    def splice_of(
        self,
        mapped: Mapped,
        codec: Events,
        head: RequestHead,
        decision: Decision,
        shown: list[Field] | None,
        length: int,
        now: float,
        trace: bytes,
        origin: Field | None,
        octets: int,
        behind: Behind | None,
    ) -> Splice:
        """The splice of a request that `call` has mapped. See `call.Call`.

        Args:
            mapped: How it is translated.
            codec: Of the caller.
            head: Of the call.
            decision: What becomes of it.
            shown: What each answer carries besides its own fields.
            length: Octets of body, as the caller says.
            now: When the head was complete; monotonic seconds.
            trace: traceparent to send on; empty: the caller's stays.
            origin: Ready Forwarded field; None to say nothing.
            octets: Of the longest message.
            behind: How the call is said to the module; None: as it is.
        """
        mapped.head.decided = decision
        translation = mapped.translation(codec, head.stream, shown, length)
        call = TranslatedCall(translation, mapped.dialect, head, decision, now, trace, origin, octets)
        call.behind = behind
        return call

    def turn_away(self, splice: Splice, refused: Refused) -> None:
        """Refuses a request that policy lets in, and that cannot be carried out; `splice` is one of ours."""
        assert isinstance(splice, TranslatedCall), "only a mapped request is turned away"
        splice.turn_away(refused)

    def _learn(self, content_type: bytes) -> bytes:
        plain = content_type.partition(b";")[0].rstrip(b" \t").lower()
        if len(self._types) >= _TYPES:
            self._types.clear()
        self._types[content_type] = plain
        return plain

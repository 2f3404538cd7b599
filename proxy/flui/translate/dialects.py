"""Everything that a module's callers may speak: finds the call that a request means, by its content-type and its path alone."""

from __future__ import annotations

from typing import Final

from flui.framing.base import MessageLimits
from flui.model.config import Limits
from flui.model.events import RequestHead
from flui.model.fields import CONTENT_TYPE
from flui.translate.base import Mapped
from flui.translate.connect import ConnectCalls
from flui.translate.formats import Formats
from flui.translate.grpc_web import WEB, WebCalls
from flui.translate.rest import RestRoutes
from flui.translate.rest_grpc import RestCalls

_TYPES: Final = 64


class Dialects:
    """What may be said to one gRPC module. Part of a snapshot."""

    __slots__ = ("_connect", "_epoch", "_rest", "_types", "_web")

    def __init__(self, routes: RestRoutes, limits: Limits, epoch: int) -> None:
        """For one snapshot.

        Args:
            routes: What the module serves, as far as anybody knows, and the ways of REST to it.
            limits: Of messages, and of what waits for either side.
            epoch: Of the snapshot.
        """
        schema = routes.schema
        self._epoch = epoch
        self._types: dict[bytes, bytes] = {}
        """Content-types in lower case and without parameters, by what was said."""
        window = max(limits.window_octets, limits.stream_window_octets)
        messages = MessageLimits(limits.grpc_message_octets) if limits.grpc_message_octets else MessageLimits(0xFFFF_FFFF)
        self._web = WebCalls()
        self._connect = ConnectCalls(Formats(schema), messages, window, epoch)
        self._rest = RestCalls(schema, routes, messages, window, epoch) if schema.methods else None

    def call(self, head: RequestHead) -> Mapped | None:
        """The call that a request means; None when it means none: it is HTTP, for whoever understands it.

        Args:
            head: Validated, and no gRPC call itself.
        """
        if head.method == b"POST":
            content_type = b""
            for line in head.special:
                if line.kind == CONTENT_TYPE:
                    content_type = line.value
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

    def _learn(self, content_type: bytes) -> bytes:
        plain = content_type.partition(b";")[0].rstrip(b" \t").lower()
        if len(self._types) >= _TYPES:
            self._types.clear()
        self._types[content_type] = plain
        return plain

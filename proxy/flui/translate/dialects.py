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
from flui.translate.grpc_rest import Behind
from flui.translate.grpc_web import WEB, WebCalls
from flui.translate.rest import RestRoutes
from flui.translate.rest_grpc import RestCalls

_TYPES: Final = 64


class Dialects:
    """What may be said to one gRPC module. Part of a snapshot."""

    __slots__ = ("_behind", "_connect", "_epoch", "_rest", "_types", "_web")

    def __init__(self, routes: RestRoutes, limits: Limits, epoch: int, *, grpc: bool) -> None:
        """For one snapshot.

        Args:
            routes: What the module serves, as far as anybody knows, and the ways of REST to it.
            limits: Of messages, and of what waits for either side.
            epoch: Of the snapshot.
            grpc: The module speaks gRPC; else it speaks REST, and its calls are said to it so (`behind`).
        """
        schema = routes.schema
        self._epoch = epoch
        self._types: dict[bytes, bytes] = {}
        """Content-types in lower case and without parameters, by what was said."""
        window = max(limits.window_octets, limits.stream_window_octets)
        messages = MessageLimits(limits.grpc_message_octets) if limits.grpc_message_octets else MessageLimits(0xFFFF_FFFF)
        self._web = WebCalls()
        self._connect = ConnectCalls(Formats(schema), messages, window, epoch)
        self._rest = RestCalls(schema, routes, messages, window, epoch) if schema.methods and grpc else None
        self._behind: dict[bytes, Behind] | None = None
        if not grpc:
            self._behind = {path: Behind(method, routes.ways(method), schema, messages, window) for path, method in schema.methods.items()}

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

    def _learn(self, content_type: bytes) -> bytes:
        plain = content_type.partition(b";")[0].rstrip(b" \t").lower()
        if len(self._types) >= _TYPES:
            self._types.clear()
        self._types[content_type] = plain
        return plain

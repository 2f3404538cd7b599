"""Which pages of other sites may call a module from a browser (Fetch, 3.2 CORS protocol).

A browser asks beforehand (OPTIONS, without any credential) whether it may send what a page wants to send; the answer says
nothing of the module, so no policy is asked. What is sent then is decided on like any request, and its answer says that the
page may read it.
"""

from __future__ import annotations

from typing import Final

from flui.model.api import Cors
from flui.model.events import RequestHead
from flui.model.fields import Field, field

_METHODS: Final = field(b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE")
_READS_ALL: Final = field(b"access-control-expose-headers", b"*")
_VARY: Final = field(b"vary", b"origin")
_VARY_ASKED: Final = field(b"vary", b"origin, access-control-request-method, access-control-request-headers")
_ANYONE: Final = b"*"
_NAMES: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_., \t"
_NAMES_OCTETS: Final = 4096


class Pages:
    """The pages that may call."""

    __slots__ = ("_age", "_anyone", "_shown")

    def __init__(self, cors: Cors) -> None:
        self._anyone = "*" in cors.origins
        self._age = field(b"access-control-max-age", b"%d" % int(cors.max_age_s))
        self._shown: dict[bytes, list[Field]] = {}
        """What answers carry, by origin."""
        for origin in cors.origins:
            lines = [field(b"access-control-allow-origin", origin.encode()), _READS_ALL]
            self._shown[origin.encode()] = lines if self._anyone else [*lines, _VARY]

    def shown(self, head: RequestHead) -> list[Field] | None:
        """What the answer to a request carries; None: no page asks, or none that may."""
        origin = _origin(head)
        if not origin:
            return None
        return self._shown.get(_ANYONE if self._anyone else origin)

    def beforehand(self, head: RequestHead) -> list[Field] | None:
        """Fields of the answer to a browser that asks beforehand; None: the request is something else, or the page may not."""
        if head.method != b"OPTIONS":
            return None
        shown = self.shown(head)
        if shown is None:
            return None
        wanted = b""
        asks = False
        for line in head.fields:
            if line.name == b"access-control-request-method":
                asks = True
            elif line.name == b"access-control-request-headers":
                wanted = line.value
        if not asks or len(wanted) > _NAMES_OCTETS or wanted.translate(None, _NAMES):
            return None
        lines = [shown[0], _METHODS, self._age, _VARY_ASKED]
        if wanted:
            lines.append(field(b"access-control-allow-headers", wanted))
        return lines


def _origin(head: RequestHead) -> bytes:
    origin = b""
    for line in head.fields:
        if line.name == b"origin":
            if origin:
                return b""  # said twice: no browser does
            origin = line.value
    return origin

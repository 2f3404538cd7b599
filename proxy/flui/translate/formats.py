"""What the messages of one method look like to a caller: as protobuf, or as something that has to be made of it."""

from __future__ import annotations

from typing import Final

from flui.translate import rest_in
from flui.translate.json_in import encode, parse
from flui.translate.json_out import Malformed, decode
from flui.translate.rest import Bound
from flui.translate.schema import FieldType, MessageType, Method, Schema
from flui.translate.status import Detail, opaque
from flui.translate.ways import ABSENT
from flui.translate.wire import varint


class Unsayable(Exception):  # noqa: N818 - it names what the message is
    """A message of the service cannot be said in the caller's format."""


class Format:
    """Messages as they are, both ways: protobuf, which nobody looks at."""

    __slots__ = ("opaque",)

    def __init__(self, *, opaque: bool = True) -> None:
        self.opaque = opaque
        """Nobody looks at the messages, so they may stay compressed."""

    def ask(self, payload: bytes) -> bytes:
        """A message of the caller as the service takes it.

        Raises:
            Unfit: It does not fit the method.
        """
        return payload

    def tell(self, payload: bytes) -> bytes:
        """A message of the service as the caller takes it.

        Raises:
            Unsayable: It cannot be said so.
        """
        return payload


PROTO: Final = Format()


class Json(Format):
    """Messages in JSON."""

    __slots__ = ("_method", "_schema")

    def __init__(self, method: Method, schema: Schema) -> None:
        super().__init__(opaque=False)
        self._method = method
        self._schema = schema

    def ask(self, payload: bytes) -> bytes:
        """The message that a JSON text says."""
        return encode(parse(payload), self._method.asks, self._schema.types)

    def tell(self, payload: bytes) -> bytes:
        """The JSON text of a message."""
        return json_text(payload, self._method.tells, self._schema, None)


class Rest(Format):
    """The messages of one request in JSON, of which its path and query say a part."""

    __slots__ = ("_bound", "_query", "_said", "_schema")

    def __init__(self, bound: Bound, query: bytes, schema: Schema) -> None:
        super().__init__(opaque=False)
        self._bound = bound
        self._query = query
        self._said: rest_in.Said | None = None
        """What path and query say, from the first message on: a stream may have any number of them."""
        self._schema = schema

    def ask(self, payload: bytes) -> bytes:
        """The message that a request says; an empty body says nothing."""
        said = self._said
        if said is None:
            said = self._said = rest_in.said(self._bound, self._query)
        tree = said.ask(parse(payload) if payload else ABSENT)
        return encode(tree, self._bound.method.asks, self._schema.types)

    def tell(self, payload: bytes) -> bytes:
        """The JSON text of a message, or of the field of it that is the answer."""
        return json_text(payload, self._bound.method.tells, self._schema, self._bound.way.answer)


def json_text(payload: bytes, message: MessageType, schema: Schema, field: FieldType | None) -> bytes:
    """The JSON text of a message of the service.

    Raises:
        Unsayable: It is no such message, or holds what JSON cannot say.
    """
    try:
        return decode(payload, message, schema.types, field)
    except Malformed as error:
        raise Unsayable(str(error)) from None


def details_json(details: list[Detail], schema: Schema) -> list[bytes]:
    """JSON of the details of an error, each as an `Any` has it; of what is not known, its octets."""
    holder = schema.types.get("google.protobuf.Any")
    texts: list[bytes] = []
    for detail in details:
        text = b""
        if holder is not None:
            url = detail.url.encode("utf-8", "replace")
            held = b"\x0a" + varint(len(url)) + url + b"\x12" + varint(len(detail.value)) + detail.value
            try:
                text = decode(held, holder, schema.types, unknown_any=True)
            except Malformed:
                text = b""
        texts.append(text or opaque(detail))
    return texts


class Formats:
    """The formats of a module's methods."""

    __slots__ = ("_json", "schema")

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._json: dict[bytes, Json] = {}

    def json(self, path: bytes) -> Json | None:
        """JSON for the method of a path; None when there is no such method, as far as anybody knows."""
        known = self._json.get(path)
        if known is None:
            method = self.schema.methods.get(path)
            if method is None:
                return None
            known = self._json[path] = Json(method, self.schema)
        return known

"""What a gRPC module serves: its services, their methods, and the shape of every message, ready to be walked.

Made from descriptors by `descriptors.py`, once for each version of a module; never changed afterwards, so that many exchanges
share it and none has to ask a library.
"""

from __future__ import annotations

from enum import IntEnum
from json.encoder import encode_basestring
from typing import Final

from flui.translate.wire import FIXED32, FIXED64, LENGTH, START, VARINT, varint


class Kind(IntEnum):
    """What a field holds, by the numbers of `FieldDescriptorProto.Type`."""

    DOUBLE = 1
    FLOAT = 2
    INT64 = 3
    UINT64 = 4
    INT32 = 5
    FIXED64 = 6
    FIXED32 = 7
    BOOL = 8
    STRING = 9
    GROUP = 10
    MESSAGE = 11
    BYTES = 12
    UINT32 = 13
    ENUM = 14
    SFIXED32 = 15
    SFIXED64 = 16
    SINT32 = 17
    SINT64 = 18


class EnumType:
    """An enum."""

    __slots__ = ("closed", "name", "names", "null", "numbers", "texts")

    def __init__(self, name: str, numbers: dict[str, int], closed: bool) -> None:
        self.name = name
        """Full name, without a leading dot."""
        self.numbers = numbers
        """By name, aliases included."""
        names: dict[int, str] = {}
        for said, number in numbers.items():
            names.setdefault(number, said)
        self.names = names
        """By number: the first name that was given to it."""
        self.closed = closed
        """A number that has no name is not a value of it (proto2)."""
        self.null = name == "google.protobuf.NullValue"
        """Its one value is JSON's `null`."""
        self.texts: dict[int, str] = {number: "null" if self.null else encode_basestring(said) for number, said in names.items()}
        """JSON text of each number."""


WIRE_TYPES: Final[tuple[int, ...]] = (
    -1, FIXED64, FIXED32, VARINT, VARINT, VARINT, FIXED64, FIXED32, VARINT, LENGTH,
    START, LENGTH, LENGTH, VARINT, VARINT, FIXED32, FIXED64, VARINT, VARINT,
)  # fmt: skip
"""Wire type of one value, by `Kind`."""


class FieldType:
    """A field of a message."""

    __slots__ = (
        "bit", "enum", "is_map", "json_name", "key", "kind", "message", "name", "number", "oneof",
        "packed", "presence", "repeated", "tag", "zero_octets", "zero_text",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        json_name: str,
        number: int,
        kind: int,
        *,
        repeated: bool = False,
        packed: bool = False,
        presence: bool = False,
        oneof: str = "",
        message: MessageType | None = None,
        enum: EnumType | None = None,
    ) -> None:
        self.name = name
        """As in the proto file: `item_id`."""
        self.json_name = json_name
        """As in JSON: `itemId`."""
        self.number = number
        self.kind = kind
        """One of `Kind`."""
        self.repeated = repeated
        """A list, or a map."""
        self.packed = packed
        """Written as one run of octets; either way is read."""
        self.presence = presence
        """Whether it was said is told from what was said: a value of nothing is written too."""
        self.oneof = oneof
        """Name of the real oneof it is part of; empty: none (a `proto3_optional` field is part of none)."""
        self.message = message
        """Of a MESSAGE or GROUP."""
        self.enum = enum
        """Of an ENUM."""
        self.is_map = repeated and message is not None and message.map_entry
        """A map: its message is the entry, with fields 1 (key) and 2 (value)."""
        self.bit = 0
        """Given by the message: one bit for the field, the same for all fields of a oneof."""
        self.tag = varint(number << 3 | (LENGTH if packed else WIRE_TYPES[kind]))
        """What it begins with when we write it; of a group: its start."""
        self.key = f"{encode_basestring(json_name)}:"
        """JSON text before its value."""
        self.zero_octets = _zero_octets(kind)
        """A value of nothing on the wire, without the tag; of messages: empty."""
        self.zero_text = _zero_text(kind, enum)
        """A value of nothing in JSON; of messages: `null`."""


def _zero_octets(kind: int) -> bytes:
    if kind in (Kind.MESSAGE, Kind.GROUP):
        return b""
    wire = WIRE_TYPES[kind]
    return bytes(8) if wire == FIXED64 else bytes(4) if wire == FIXED32 else bytes(1)


def _zero_text(kind: int, enum: EnumType | None) -> str:
    if enum is not None:
        return enum.texts.get(0, "0")
    return _ZERO_TEXTS.get(kind, "0")


_ZERO_TEXTS: Final[dict[int, str]] = {
    Kind.DOUBLE: "0.0",
    Kind.FLOAT: "0.0",
    Kind.INT64: '"0"',
    Kind.UINT64: '"0"',
    Kind.FIXED64: '"0"',
    Kind.SFIXED64: '"0"',
    Kind.SINT64: '"0"',
    Kind.BOOL: "false",
    Kind.STRING: '""',
    Kind.BYTES: '""',
    Kind.MESSAGE: "null",
    Kind.GROUP: "null",
}


class MessageType:
    """A message. Its fields are given once, by `seal`, for a message may hold itself."""

    __slots__ = ("by_json", "by_name", "by_number", "by_tag", "fields", "map_entry", "name", "well_known")

    def __init__(self, name: str, *, map_entry: bool = False) -> None:
        self.name = name
        """Full name, without a leading dot: `shop.Item`."""
        self.map_entry = map_entry
        self.well_known = name.removeprefix("google.protobuf.") if name in WELL_KNOWN else ""
        """Its JSON is special: `Any`, `Timestamp` ….; empty: it is an object of its fields."""
        self.fields: tuple[FieldType, ...] = ()
        """In the order of their numbers."""
        self.by_number: dict[int, FieldType] = {}
        self.by_name: dict[str, FieldType] = {}
        """By the name in the proto file."""
        self.by_json: dict[str, FieldType] = {}
        """By either name, as a JSON reader takes both."""
        self.by_tag: dict[int, FieldType] = {}
        """By number and wire type, as they stand on the wire: of a list of scalars, packed and not."""

    def seal(self, fields: tuple[FieldType, ...]) -> None:
        """Gives the message its fields, once."""
        assert not self.fields, "sealed already"
        self.fields = tuple(sorted(fields, key=_number))
        oneofs: dict[str, int] = {}
        for at, field in enumerate(self.fields):
            field.bit = oneofs.setdefault(field.oneof, 1 << at) if field.oneof else 1 << at
            self.by_tag[field.number << 3 | WIRE_TYPES[field.kind]] = field
            if field.repeated and WIRE_TYPES[field.kind] in (VARINT, FIXED64, FIXED32):
                self.by_tag[field.number << 3 | LENGTH] = field
            self.by_number[field.number] = field
            self.by_name[field.name] = field
            self.by_json.setdefault(field.name, field)
        for field in self.fields:
            self.by_json[field.json_name] = field


def _number(field: FieldType) -> int:
    return field.number


WELL_KNOWN: Final = frozenset(
    "google.protobuf." + name
    for name in (
        "Any", "Timestamp", "Duration", "FieldMask", "Struct", "Value", "ListValue", "Empty",
        "DoubleValue", "FloatValue", "Int64Value", "UInt64Value", "Int32Value", "UInt32Value", "BoolValue", "StringValue", "BytesValue",
    )
)  # fmt: skip
"""Messages whose JSON is not an object of their fields (ProtoJSON)."""


class HttpRule:
    """One way to a method over HTTP (`google.api.HttpRule`; its additional bindings are rules of their own)."""

    __slots__ = ("body", "method", "path", "response_body")

    def __init__(self, method: str, path: str, body: str = "", response_body: str = "") -> None:
        self.method = method
        """`GET`, or whatever `custom` says; `*` is any."""
        self.path = path
        """Template, as written: `/v1/{name=shelves/*}:move`."""
        self.body = body
        """Field that is the body; `*`: all that the path does not say; empty: there is none."""
        self.response_body = response_body
        """Field of the answer that is its body; empty: all of it."""


class Method:
    """A method of a service."""

    __slots__ = ("asks", "client_streams", "name", "path", "rules", "safe", "server_streams", "service", "tells")

    def __init__(
        self,
        service: str,
        name: str,
        asks: MessageType,
        tells: MessageType,
        *,
        client_streams: bool = False,
        server_streams: bool = False,
        safe: bool = False,
        rules: tuple[HttpRule, ...] = (),
    ) -> None:
        self.service = service
        """Full name: `shop.Stock`."""
        self.name = name
        self.path = f"/{service}/{name}".encode()
        """`:path` of a call, and what policy knows it by."""
        self.asks = asks
        """Message of a request."""
        self.tells = tells
        """Message of an answer."""
        self.client_streams = client_streams
        self.server_streams = server_streams
        self.safe = safe
        """`idempotency_level = NO_SIDE_EFFECTS`: it may be asked by GET."""
        self.rules = rules
        """From `google.api.http`, additional bindings behind the first; empty: nothing was annotated."""


class Schema:
    """Everything a module serves."""

    __slots__ = ("methods", "origin", "packed", "services", "types", "version")

    def __init__(self, methods: dict[bytes, Method], types: dict[str, MessageType], version: str, origin: str) -> None:
        self.methods = methods
        """By path: `/shop.Stock/Reserve`."""
        self.services: frozenset[bytes] = frozenset(path.split(b"/")[1] for path in methods)
        """Full names."""
        self.types = types
        """Every message by its full name: what an `Any` may hold."""
        self.version = version
        """Changes exactly when the descriptors do: a hash of them."""
        self.origin = origin
        """`reflection`, or the name of a file."""
        self.packed = b""
        """The descriptors themselves, a FileDescriptorSet under zlib, for whoever asks for them; empty: nobody kept them."""


NO_SCHEMA: Final = Schema({}, {}, "", "")
"""Of a module of which nothing is known."""


_PATH_CHARACTERS: Final = 200
"""The longest path that is told whole."""


class Unfit(Exception):  # noqa: N818 - it names what the text is
    """A JSON text, a path or a query does not fit its message."""

    def __init__(self, path: str, what: str) -> None:
        if len(path) > _PATH_CHARACTERS:
            # Its keys are as long as whoever wrote the text likes.
            path = f"{path[:120]} … {path[-60:]}"
        super().__init__(f"{path}: {what}" if path else what)
        self.path = path
        """Of the field, by JSON names: `order.lines[2].sku`, its middle left out where it is too long; empty: the text as a whole."""
        self.what = what
        """What is wrong, and what would be right. Names nothing of the inside."""

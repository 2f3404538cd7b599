"""Values of fields as the text that paths and queries hold, both ways.

Text is what ProtoJSON would hold within its quotes: `true`, `-12`, `1.5`, `NaN`, the name or the number of an enum, base64
(said with the alphabet of URLs, heard with either), `2024-05-17T10:00:00Z`, `1.5s`, `user.name,photo`.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from binascii import Error
from decimal import Decimal
from typing import Final

from flui.translate.schema import EnumType, FieldType, Kind, Unfit

_I32: Final = (-(1 << 31), (1 << 31) - 1)
_I64: Final = (-(1 << 63), (1 << 63) - 1)
_U32: Final = (0, (1 << 32) - 1)
_U64: Final = (0, (1 << 64) - 1)

RANGES: Final[dict[int, tuple[int, int]]] = {
    Kind.INT32: _I32, Kind.SINT32: _I32, Kind.SFIXED32: _I32, Kind.INT64: _I64, Kind.SINT64: _I64, Kind.SFIXED64: _I64,
    Kind.UINT32: _U32, Kind.FIXED32: _U32, Kind.UINT64: _U64, Kind.FIXED64: _U64,
}  # fmt: skip
"""Least and greatest of each kind of whole number."""

_KINDS: Final[dict[str, int]] = {
    "DoubleValue": Kind.DOUBLE, "FloatValue": Kind.FLOAT, "Int64Value": Kind.INT64, "UInt64Value": Kind.UINT64, "Int32Value": Kind.INT32,
    "UInt32Value": Kind.UINT32, "BoolValue": Kind.BOOL, "StringValue": Kind.STRING, "BytesValue": Kind.BYTES,
    "Timestamp": Kind.STRING, "Duration": Kind.STRING, "FieldMask": Kind.STRING,
}  # fmt: skip
"""Messages whose JSON is no object, array or whatever: what it is instead."""

_INF: Final = float("inf")
_NUMBER: Final = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?")
_JSON_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,399})(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?")
"""RFC 8259 6, as far as any number of ours goes: a `Decimal` of it costs little."""
_NO_NUMBERS: Final = frozenset(("NaN", "Infinity", "-Infinity"))
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")


def kind_of(field: FieldType) -> int:
    """The `Kind` that one value of a field has as text: that of a wrapper is what it wraps; 0: it has none."""
    message = field.message
    if message is None:
        return field.kind
    return _KINDS.get(message.well_known, 0)


def value_of(field: FieldType, text: str, path: str) -> object:
    """The value that a JSON tree has for it.

    Args:
        field: one whose `kind_of` is not 0.
        text: percent-decoded.
        path: of the field, for the error.

    Raises:
        Unfit: it is no value of the field.
    """
    kind = kind_of(field)
    if kind == Kind.STRING:
        return text
    bounds = RANGES.get(kind)
    if bounds is not None:
        number = _whole(text)
        if number is None or not bounds[0] <= number <= bounds[1]:
            raise Unfit(path, f"must be a whole number from {bounds[0]} to {bounds[1]}")
        return number
    if kind == Kind.BOOL:
        if text == "true":
            return True
        if text == "false":
            return False
        raise Unfit(path, "must be true or false")
    if kind == Kind.ENUM:
        enum = field.enum
        assert enum is not None, "an enum without its type"
        return _enum_value(enum, text, path)
    if kind == Kind.BYTES:
        if not _BASE64.fullmatch(text) or len(text.rstrip("=")) % 4 == 1:
            raise Unfit(path, "must be base64, with the alphabet of URLs")
        return text
    if text in _NO_NUMBERS:
        return text
    if not _NUMBER.fullmatch(text):
        raise Unfit(path, "must be a number")
    real = float(text)
    if real in {_INF, -_INF}:
        raise Unfit(path, "is greater than any number of its type")
    return real


def text_of(field: FieldType, value: object, path: str) -> str:
    """The text of a value of a JSON tree: what `value_of` reads.

    Raises:
        Unfit: it is no value of the field.
    """
    kind = kind_of(field)
    if isinstance(value, str):
        if kind == Kind.BYTES:
            return value.replace("+", "-").replace("/", "_")
        if kind not in {Kind.STRING, Kind.BOOL}:
            value_of(field, value, path)
            return value
        if kind == Kind.STRING:
            return value
    elif isinstance(value, bool):
        if kind == Kind.BOOL:
            return "true" if value else "false"
    elif isinstance(value, int):
        if kind in {Kind.DOUBLE, Kind.FLOAT}:
            try:
                return repr(float(value))
            except OverflowError:
                raise Unfit(path, "is greater than any number of its type") from None
        if _is_within(kind, value):
            return str(value)
    elif isinstance(value, float):
        if kind in {Kind.DOUBLE, Kind.FLOAT}:
            return _real_text(value)
        if value.is_integer() and _is_within(kind, int(value)):
            return str(int(value))
    raise Unfit(path, "cannot stand in a path or a query: it is no value of its type")


def is_same(field: FieldType, one: object, other: object) -> bool:
    """Whether two values of a JSON tree, either perhaps not one of the field, say the same.

    Whole numbers are compared exactly, however they are written. What ProtoJSON does not read as the field's type is like
    nothing.
    """
    kind = kind_of(field)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if kind in RANGES or kind in {Kind.ENUM, Kind.DOUBLE, Kind.FLOAT}:
        first, second = _number_of(field, kind, one), _number_of(field, kind, other)
        return first is not None and first == second
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    if one == other:
        return True
    if kind != Kind.BYTES:
        return False
    octets = _octets(one)
    return octets is not None and octets == _octets(other)


def _is_within(kind: int, value: int) -> bool:
    bounds = _I32 if kind == Kind.ENUM else RANGES.get(kind)
    return bounds is not None and bounds[0] <= value <= bounds[1]


def _real_text(value: float) -> str:
    if value != value:  # noqa: PLR0124 - only NaN is not itself
        return "NaN"
    if value in {_INF, -_INF}:
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def _whole(text: str) -> int | None:
    digits = text.removeprefix("-")
    return int(text) if digits.isdecimal() and digits.isascii() and len(digits) <= 20 else None


def _enum_value(enum: EnumType, text: str, path: str) -> object:
    if text in enum.numbers:
        return text
    number = _whole(text)
    if number is None or not _I32[0] <= number <= _I32[1]:
        raise Unfit(path, "must be a name of " + enum.name + ", or its number")
    if enum.closed and number not in enum.names:
        raise Unfit(path, "must be a number that " + enum.name + " has")
    return number


def _number_of(field: FieldType, kind: int, value: object) -> object:
    """What a value says as a number: `NaN` is the text itself, as it is like itself here."""
    if isinstance(value, str):
        if field.enum is not None and value in field.enum.numbers:
            return field.enum.numbers[value]
        if value in _NO_NUMBERS:
            return value
        if not _JSON_NUMBER.fullmatch(value):
            return None
        whole = _whole(value)
        if whole is not None:
            return whole
        if kind in RANGES:
            return Decimal(value)  # a float is not exact from 2**53 on
        return None if kind == Kind.ENUM else float(value)
    if isinstance(value, (int, float)):
        return value
    return None


def _octets(text: str) -> bytes | None:
    if not _BASE64.fullmatch(text):
        return None
    plain = text.replace("+", "-").replace("/", "_").rstrip("=")
    try:
        return urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    except (Error, ValueError):
        return None

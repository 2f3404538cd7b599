"""Numbers, flags, strings and octets of JSON become protobuf's, exactly or not at all (ProtoJSON)."""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from decimal import Decimal
from struct import Struct
from typing import Final

from flui.translate.schema import EnumType, Unfit
from flui.translate.wire import MASK64, SHORT, SMALL, varint, zigzag

DOUBLE: Final = Struct("<d")
FLOAT: Final = Struct("<f")

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,6})?")
"""JSON's grammar (RFC 8259 section 6), of a number in quotes too. An exponent of more digits is of no number of ours."""
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]*")
"""One way to write each: what is a key of a map is said once."""

_FIXED: Final[tuple[Struct | None, ...]] = (
    None, None, None, None, None, None, Struct("<Q"), Struct("<I"), None, None,
    None, None, None, None, None, Struct("<i"), Struct("<q"), None, None,
)  # fmt: skip
_LOW: Final[tuple[int, ...]] = (0, 0, 0, -(2**63), 0, -(2**31), 0, 0, 0, 0, 0, 0, 0, 0, 0, -(2**31), -(2**63), -(2**31), -(2**63))
_HIGH: Final[tuple[int, ...]] = (
    0, 0, 0, 2**63 - 1, 2**64 - 1, 2**31 - 1, 2**64 - 1, 2**32 - 1, 0, 0,
    0, 0, 0, 2**32 - 1, 0, 2**31 - 1, 2**63 - 1, 2**31 - 1, 2**63 - 1,
)  # fmt: skip
"""By `Kind`."""

# `Kind`s as plain numbers: members of an enum cost a call each where they are compared.
_K_DOUBLE: Final = 1
_K_FLOAT: Final = 2
_K_INT64: Final = 3
_K_UINT64: Final = 4
_K_INT32: Final = 5
_K_BOOL: Final = 8
_K_STRING: Final = 9
_K_BYTES: Final = 12
_K_ENUM: Final = 14
_K_SINT32: Final = 17


def scalar(value: object, kind: int, enum: EnumType | None) -> bytes:
    """Octets of a value of any kind but messages, without the tag; with the length, where there is one.

    Raises:
        Unfit: It does not fit; its path is empty.
    """
    if kind == _K_STRING:
        return text(value)
    if kind == _K_ENUM:
        assert enum is not None
        number = enumerated(value, enum)
        return varint(number if number >= 0 else number & MASK64)
    if kind == _K_BOOL:
        if value is True:
            return SHORT[1]
        if value is False:
            return SHORT[0]
        raise Unfit("", "true or false is expected")
    if kind == _K_DOUBLE:
        return DOUBLE.pack(real(value))
    if kind == _K_BYTES:
        held = octets(value)
        return varint(len(held)) + held
    if kind == _K_FLOAT:
        try:
            return FLOAT.pack(real(value))
        except OverflowError:
            raise Unfit("", "the number is out of the range of a float") from None
    return _written(integer(value, kind), kind)


def _written(number: int, kind: int) -> bytes:
    if kind <= _K_INT32:
        return varint(number if number >= 0 else number & MASK64)
    if kind >= _K_SINT32:
        return varint(zigzag(number))
    fixed = _FIXED[kind]
    return varint(number) if fixed is None else fixed.pack(number)


def map_key(key: str, kind: int) -> bytes:
    """Octets of a key of a map, as `scalar` gives them.

    Raises:
        Unfit: It does not fit; its path is empty.
    """
    if kind == _K_STRING:
        return text(key)
    if kind == _K_BOOL:
        if key not in {"true", "false"}:
            raise Unfit("", 'the key is expected to be "true" or "false"')
        return SHORT[1] if key == "true" else SHORT[0]
    if len(key) > 20 or _WHOLE.fullmatch(key) is None:
        raise Unfit("", "the key is expected to be a whole number")
    return _written(_within(int(key), kind), kind)


def text(value: object) -> bytes:
    """Length and UTF-8 of a string.

    Raises:
        Unfit: It is none, or holds half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise Unfit("", "a string is expected")
    try:
        held = value.encode()
    except UnicodeEncodeError:
        raise Unfit("", "the string holds half of a surrogate pair") from None
    size = len(held)
    return (SHORT[size] if size < 0x80 else varint(size)) + held


def integer(value: object, kind: int) -> int:
    """A whole number, said as a number or in quotes.

    Raises:
        Unfit: It is none, or out of the range of `kind`.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return _within(value, kind)
    if isinstance(value, str):
        if value.isdecimal() and value.isascii() and len(value) <= 20 and value[0] != "0":
            return _within(int(value), kind)
        if _NUMBER.fullmatch(value) is None:
            raise Unfit("", "a whole number is expected")
        exact = Decimal(value)
        if exact and exact.adjusted() > 20:
            raise Unfit("", f"a whole number from {_LOW[kind]} to {_HIGH[kind]} is expected")
        if exact != exact.to_integral_value():
            raise Unfit("", "a whole number is expected")
        return _within(int(exact), kind)
    if isinstance(value, float) and value.is_integer():
        return _within(int(value), kind)
    raise Unfit("", "a whole number is expected")


def _within(value: int, kind: int) -> int:
    if 0 <= value <= 0x7FFFFFFF:  # which every kind takes
        return value
    if 0 <= value <= SMALL and kind in (_K_INT64, _K_UINT64):
        return value
    low, high = _LOW[kind], _HIGH[kind]
    if low <= value <= high:
        return value
    raise Unfit("", f"a whole number from {low} to {high} is expected")


def real(value: object) -> float:
    """A number, said as a number or in quotes; `NaN`, `Infinity` and `-Infinity` in quotes only.

    Raises:
        Unfit: It is none, or out of the range of a double.
    """
    made = 0.0
    if isinstance(value, float):
        made = value
    elif isinstance(value, int) and not isinstance(value, bool):
        try:
            made = float(value)
        except OverflowError:
            raise Unfit("", "the number is out of the range of a double") from None
    elif isinstance(value, str):
        if value == "NaN" or value == "Infinity" or value == "-Infinity":
            return float(value)
        if _NUMBER.fullmatch(value) is None:
            raise Unfit("", "a number is expected")
        made = float(value)
    else:
        raise Unfit("", "a number is expected")
    if made - made != 0.0:
        raise Unfit("", "the number is out of the range of a double")
    return made


def octets(value: object) -> bytes:
    """What base64 stands for, of the standard or the URL-safe alphabet (RFC 4648 sections 4 and 5), padded or not.

    Raises:
        Unfit: It is none.
    """
    if not isinstance(value, str):
        raise Unfit("", "octets in base64 are expected")
    if "-" in value or "_" in value:
        value = value.replace("-", "+").replace("_", "/")
    if len(value) & 3 and not value.endswith("="):
        value += "=" * (-len(value) & 3)
    try:
        return a2b_base64(value, strict_mode=True)
    except (Error, ValueError):
        raise Unfit("", "octets in base64 are expected") from None


def enumerated(value: object, enum: EnumType) -> int:
    """Number of a value of an enum, said by name or by number.

    Raises:
        Unfit: There is no such name, or the enum takes no number without a name.
    """
    if isinstance(value, str):
        known = enum.numbers.get(value)
        if known is not None:
            return known
        if len(value) > 11 or _WHOLE.fullmatch(value) is None:
            raise Unfit("", "the enum has no such value")
    elif value is None and enum.null:
        return 0
    elif not isinstance(value, (int, float)) or isinstance(value, bool):
        raise Unfit("", "the name or the number of a value is expected")
    number = integer(value, _K_INT32)
    if enum.closed and number not in enum.names:
        raise Unfit("", "the enum has no such value")
    return number


def short_float(value: float) -> str:
    """Fewest digits, six at least, that are read as this float of 32 bits again."""
    octets = FLOAT.pack(value)
    for digits in (6, 7, 8):
        near = float(f"{value:.{digits}g}")
        try:
            if FLOAT.pack(near) == octets:
                return repr(near)
        except OverflowError:
            continue
    return repr(float(f"{value:.9g}"))

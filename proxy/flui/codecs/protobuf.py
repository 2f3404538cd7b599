"""Protobuf's wire format, as far as gRPC's own small services need it: no library is asked for messages of a few fields.

A field is a tag (number and wire type, a varint) and its value:

    0 varint    1 eight octets    2 length and octets    5 four octets    (3 and 4, groups, are what proto3 does not have)

Source: protobuf.dev, Encoding.
"""

from __future__ import annotations

from typing import Final

VARINT: Final = 0
OCTETS: Final = 2

MOST: Final = 100_000
"""Fields of one message (threats C12)."""
_LONGEST: Final = 10
"""Octets of a varint of 64 bits."""


def varint(value: int) -> bytes:
    """A number that is not negative."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def octets(number: int, value: bytes) -> bytes:
    """A field of octets, text or a message."""
    return varint(number << 3 | OCTETS) + varint(len(value)) + value


def fields(message: bytes) -> list[tuple[int, int, int, bytes]] | None:
    """Every field of a message in its order, known or not; None when it is malformed, or has more than MOST.

    Returns:
        Number, wire type, value of a varint (else 0), value of octets (else empty). Fixed numbers have no value here.
    """
    found: list[tuple[int, int, int, bytes]] = []
    at = 0
    size = len(message)
    while at < size:
        tag, at = _read(message, at)
        number, wire = tag >> 3, tag & 7
        if at < 0 or not number:
            return None
        value = 0
        held = b""
        if wire == VARINT:
            value, at = _read(message, at)
            if at < 0:
                return None
        elif wire == OCTETS:
            length, at = _read(message, at)
            if at < 0 or length > size - at:
                return None
            held = message[at : at + length]
            at += length
        elif wire in {1, 5}:
            at += 8 if wire == 1 else 4
            if at > size:
                return None
        else:
            return None
        if len(found) == MOST:
            return None
        found.append((number, wire, value, held))
    return found


def _read(message: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends; -1: it does not end."""
    value = 0
    for nth in range(_LONGEST):
        if at >= len(message):
            break
        octet = message[at]
        at += 1
        value |= (octet & 0x7F) << 7 * nth
        if octet < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    return 0, -1

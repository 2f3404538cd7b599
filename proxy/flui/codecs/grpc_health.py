"""gRPC's health protocol (`grpc.health.v1`), whose two messages have one field each: no protobuf library is needed for them.

    message HealthCheckRequest  { string service = 1; }
    message HealthCheckResponse { ServingStatus status = 1; }     // UNKNOWN 0, SERVING 1, NOT_SERVING 2, SERVICE_UNKNOWN 3

Wire format: protobuf's, Encoding. Fields that are not known are passed over; what is malformed is told from what is empty.
"""

from __future__ import annotations

from typing import Final

SERVICE: Final = b"grpc.health.v1.Health"
CHECK: Final = b"/grpc.health.v1.Health/Check"

UNKNOWN: Final = 0
SERVING: Final = 1
NOT_SERVING: Final = 2
SERVICE_UNKNOWN: Final = 3

_LONGEST: Final = 10
"""Octets of a varint of 64 bits."""


def question(service: bytes) -> bytes:
    """A HealthCheckRequest for a service; empty: for the whole server."""
    return b"\x0a" + _varint(len(service)) + service if service else b""


def asked(message: bytes) -> bytes | None:
    """The service that a HealthCheckRequest asks for; None when it is malformed."""
    found = _last(message, 2)
    return found if found is None or isinstance(found, bytes) else None


def answer(status: int) -> bytes:
    """A HealthCheckResponse. As in all of proto3, 0 is said by saying nothing."""
    return b"\x08" + _varint(status) if status else b""


def said(message: bytes) -> int | None:
    """The status of a HealthCheckResponse; None when it is malformed."""
    found = _last(message, 0)
    return found if isinstance(found, int) else None


def _last(message: bytes, kind: int) -> int | bytes | None:
    """The last value of field 1 (the last one counts), of wire type `kind`: 0 varint, 2 octets. Its default when there is none."""
    found: int | bytes = b"" if kind == 2 else 0
    at = 0
    size = len(message)
    while at < size:
        tag, at = _read(message, at)
        number, wire = tag >> 3, tag & 7
        if at < 0 or not number:
            return None
        value: int | bytes = b""
        if wire == 0:
            value, at = _read(message, at)
            if at < 0:
                return None
        elif wire == 2:
            length, at = _read(message, at)
            if at < 0 or length > size - at:
                return None
            value = message[at : at + length]
            at += length
        elif wire in {1, 5}:
            at += 8 if wire == 1 else 4
            if at > size:
                return None
        else:
            return None  # groups, which proto3 does not have
        if number == 1:
            if wire != kind:
                return None
            found = value
    return found


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


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

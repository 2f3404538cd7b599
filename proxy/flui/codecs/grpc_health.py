"""gRPC's health protocol (`grpc.health.v1`), whose two messages have one field each: no protobuf library is needed for them.

    message HealthCheckRequest  { string service = 1; }
    message HealthCheckResponse { ServingStatus status = 1; }     // UNKNOWN 0, SERVING 1, NOT_SERVING 2, SERVICE_UNKNOWN 3

Wire format: protobuf's, Encoding. Fields that are not known are passed over; what is malformed is told from what is empty.
"""

from __future__ import annotations

from typing import Final

from flui.codecs.protobuf import OCTETS, VARINT, fields, octets, varint

SERVICE: Final = b"grpc.health.v1.Health"
CHECK: Final = b"/grpc.health.v1.Health/Check"

UNKNOWN: Final = 0
SERVING: Final = 1
NOT_SERVING: Final = 2
SERVICE_UNKNOWN: Final = 3


def question(service: bytes) -> bytes:
    """A HealthCheckRequest for a service; empty: for the whole server."""
    return octets(1, service) if service else b""


def asked(message: bytes) -> bytes | None:
    """The service that a HealthCheckRequest asks for; None when it is malformed."""
    found = _last(message, OCTETS)
    return found if found is None or isinstance(found, bytes) else None


def answer(status: int) -> bytes:
    """A HealthCheckResponse. As in all of proto3, 0 is said by saying nothing."""
    return b"\x08" + varint(status) if status else b""


def said(message: bytes) -> int | None:
    """The status of a HealthCheckResponse; None when it is malformed."""
    found = _last(message, VARINT)
    return found if isinstance(found, int) else None


def _last(message: bytes, kind: int) -> int | bytes | None:
    """The last value of field 1 (the last one counts), of wire type `kind`. Its default when there is none."""
    said = fields(message)
    if said is None:
        return None
    found: int | bytes = b"" if kind == OCTETS else 0
    for number, wire, value, held in said:
        if number == 1:
            if wire != kind:
                return None
            found = held if kind == OCTETS else value
    return found

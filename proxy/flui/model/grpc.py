"""gRPC's status codes, what other protocols' codes mean among them, and the text that goes with one.

Sources: gRPC `statuscodes`, `http-grpc-status-mapping` and `PROTOCOL-HTTP2`; `google.rpc.Code` for the way to HTTP. What *our*
refusals are called stands in `model.fault`, not here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from flui.model.fields import Field


class Status(IntEnum):
    """How a call ended."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


STATUSES: Final = tuple(Status)
"""By number."""

NAMED: Final[dict[str, Status]] = {status.name: status for status in STATUSES}
"""By the name that gRPC gives it, as `retry: statuses` and metrics write it."""

CALL: Final = b"CALL"
"""What a call does, where HTTP has its method: for policy, routes and the flow table. Nobody can say it on the wire (`codecs.validate`)."""

FAILED: Final = frozenset((Status.UNKNOWN, Status.DEADLINE_EXCEEDED, Status.INTERNAL, Status.UNAVAILABLE, Status.DATA_LOSS))
"""Ends that speak against the endpoint; all others are answers."""

_SAID: Final[dict[bytes, Status]] = {b"%d" % status.value: status for status in STATUSES}

_OF_HTTP: Final[dict[int, Status]] = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    429: Status.UNAVAILABLE,
    431: Status.INTERNAL,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}

_HTTP: Final = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)

_OF_H2: Final[dict[int, Status]] = {
    0x7: Status.UNAVAILABLE,  # REFUSED_STREAM: nothing was done, it may be tried again
    0x8: Status.CANCELLED,
    0xB: Status.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: Status.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}


def status_said(value: bytes) -> Status:
    """The status that a `grpc-status` field says; UNKNOWN for one that is none (statuscodes: "Error parsing returned status")."""
    return _SAID.get(value, Status.UNKNOWN)


def status_of_http(status: int) -> Status:
    """What an HTTP status means to a caller when the answer has no `grpc-status`. 200 is UNKNOWN: a good answer would have one."""
    return _OF_HTTP.get(status, Status.UNKNOWN)


def http_of(status: Status) -> int:
    """The HTTP status of a gRPC status, for callers that speak no gRPC (google.rpc.Code). Never sent to a caller that does."""
    return _HTTP[status]


def counted_as(status: Status) -> int:
    """The HTTP status that metrics count a call under: at least 500 exactly where it failed (`FAILED`).

    UNIMPLEMENTED is the caller's mistake, and counted as what it is over HTTP.
    """
    return 404 if status is Status.UNIMPLEMENTED else _HTTP[status]


def status_of_h2(code: int) -> Status:
    """What RST_STREAM with an HTTP/2 error code means to the caller whose stream it ends (PROTOCOL-HTTP2, Errors)."""
    return _OF_H2.get(code, Status.INTERNAL)


def call_status(http: int, head: list[Field], trailers: list[Field] | None, bodyless: bool) -> Status:
    """How a call ended whose answer came to its end.

    Args:
        http: status of the answer.
        head: its fields.
        trailers: those behind its body, if any.
        bodyless: nothing came between the head and the end: the head itself may be the trailers (Trailers-Only).

    Returns:
        What `grpc-status` says where it counts, else what the HTTP status means. One in the head of an answer with a body does
        not count: it was said before anything was done.
    """
    if trailers is not None:
        for field in trailers:
            if field.name == b"grpc-status":
                return status_said(field.value)
    if bodyless:
        for field in head:
            if field.name == b"grpc-status":
                return status_said(field.value)
    return status_of_http(http)


_PLAIN: Final = bytes([octet for octet in range(0x20, 0x7F) if octet != 0x25])
_ESCAPED: Final = tuple([bytes((octet,)) if octet in _PLAIN else b"%%%02X" % octet for octet in range(256)])
_HEX: Final = b"0123456789abcdefABCDEF"


def message_said(text: str) -> bytes:
    """`text` as a `grpc-message` field: UTF-8, with `%XX` for `%` and all that is not visible ASCII or a blank.

    Blanks at either end are escaped as well: gRPC would let them be, but a field value with them is malformed (RFC 9113 8.2.1).
    """
    octets = text.encode("utf-8", "replace")
    inner = octets.strip(b" ")
    if len(inner) == len(octets):
        return octets if not octets.translate(None, _PLAIN) else b"".join([_ESCAPED[octet] for octet in octets])
    before = len(octets) - len(octets.lstrip(b" "))
    after = len(octets) - len(inner) - before
    return b"%20" * before + b"".join([_ESCAPED[octet] for octet in inner]) + b"%20" * after


def message_text(value: bytes) -> str:
    """The text of a `grpc-message` field. Never fails: a broken escape stays as it is, octets that are no UTF-8 become U+FFFD."""
    if b"%" not in value:
        return value.decode("utf-8", "replace")
    parts = value.split(b"%")
    out = [parts[0]]
    for at in range(1, len(parts)):
        part = parts[at]
        digits = part[:2]
        if len(digits) == 2 and not digits.translate(None, _HEX):
            out.append(bytes((int(digits, 16),)))
            out.append(part[2:])
        else:
            out.append(b"%" + part)
    return b"".join(out).decode("utf-8", "replace")

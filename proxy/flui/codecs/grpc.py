"""What gRPC says in HTTP/2 fields: which exchanges are calls, their deadlines, their metadata, and how we refuse one.

Pure functions over octets (gRPC `PROTOCOL-HTTP2`). gRPC has no codec of its own: it is HTTP/2 with trailers.
"""

from __future__ import annotations

import binascii
from typing import Final

from flui.model.events import RequestHead, ResponseHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import GRPC_TYPE, Field, classified, field
from flui.model.grpc import Status, message_said, status_of_http, status_said

CONTENT_TYPE_GRPC: Final = classified(b"content-type", b"application/grpc")
TE_TRAILERS: Final = field(b"te", b"trailers")
"""What a call must carry to show that trailers arrive. `te` ends at each hop, so whoever forwards a call says it anew."""

_DIGITS: Final = b"0123456789"

_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000
_SECOND_MS: Final = 1_000
_MOST: Final = 99_999_999
"""TimeoutValue has at most 8 digits."""


def is_call(head: RequestHead) -> bool:
    """Whether a request is a gRPC call: what the validator notes as `head.grpc`, for one that it refused before it came to that."""
    return head.method == b"POST" and any(line.kind == GRPC_TYPE for line in head.special)


def method_of(path: bytes) -> tuple[bytes, bytes] | None:
    """Service and method of a call's path, `/pkg.Service/Method`; None when it is none: UNIMPLEMENTED, before policy (threats B3)."""
    parts = path.split(b"/")
    if len(parts) != 3 or parts[0] or not parts[1] or not parts[2]:
        return None
    return parts[1], parts[2]


def grpc_timeout(value: bytes) -> int | None:
    """Milliseconds of a `grpc-timeout`, rounded up; None when it is malformed.

    `1*8DIGIT` and one of H M S m u n. The spec asks for a positive number; 0 is taken at its word: there is no time left.
    Eight digits of hours are 3.6e14 ms, so nothing overflows; how much of that is believed is up to who asks.
    """
    digits = value[:-1]
    if not 2 <= len(value) <= 9 or digits.translate(None, _DIGITS):
        return None
    amount = int(digits)
    unit = value[-1]
    if unit == 0x6D:  # m
        return amount
    if unit == 0x53:  # S
        return amount * _SECOND_MS
    if unit == 0x75:  # u
        return (amount + 999) // 1_000
    if unit == 0x6E:  # n
        return (amount + 999_999) // 1_000_000
    if unit == 0x4D:  # M
        return amount * _MINUTE_MS
    if unit == 0x48:  # H
        return amount * _HOUR_MS
    return None


def timeout_text(ms: int) -> bytes:
    """`grpc-timeout` of so many milliseconds; never longer than them, so that no hop stretches a deadline (threats F5).

    What is over is said as the shortest time there is: the spec knows no 0. What needs more than 8 digits loses its last ones.
    """
    if ms <= 0:
        return b"1n"
    if ms <= _MOST:
        return b"%dm" % ms
    seconds = ms // _SECOND_MS
    if seconds <= _MOST:
        return b"%dS" % seconds
    minutes = seconds // 60
    if minutes <= _MOST:
        return b"%dM" % minutes
    hours = minutes // 60
    return b"%dH" % (hours if hours < _MOST else _MOST)


def binary_values(value: bytes) -> list[bytes] | None:
    """Values of a `-bin` field: base64 (RFC 4648 4), padded or not, separated by commas; None when one of them is none.

    An empty value is an empty value. Bits left over at the end of a group count for nothing, as everywhere in gRPC.
    """
    values: list[bytes] = []
    for part in value.split(b","):
        text = part.strip(b" \t")
        if len(text) % 4:
            if b"=" in text:
                return None
            text += b"=" * (-len(text) % 4)
        try:
            values.append(binascii.a2b_base64(text, strict_mode=True))
        except binascii.Error:
            return None
    return values


def binary_text(value: bytes) -> bytes:
    """A value for a `-bin` field: base64 without padding, which is how it should be sent."""
    return binascii.b2a_base64(value, newline=False).rstrip(b"=")


def is_binary(name: bytes) -> bool:
    """Whether a field's values are base64."""
    return name.endswith(b"-bin")


CALLERS: Final = frozenset((
    b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"grpc-message-type",
    b"grpc-previous-rpc-attempts",  # client retry design (A6)
    b"grpc-trace-bin", b"grpc-tags-bin",  # what clients with census or OpenTelemetry send
    b"grpc-internal-encoding-request",  # older clients on the C core
))  # fmt: skip
"""Names beginning with `grpc-` that a request may carry. The rest is reserved, and some of it means an answer's end."""

SERVICES: Final = frozenset((
    b"grpc-status", b"grpc-message", b"grpc-status-details-bin", b"grpc-encoding", b"grpc-accept-encoding",
    b"grpc-retry-pushback-ms",  # client retry design (A6)
    b"grpc-server-stats-bin", b"grpc-trace-bin", b"grpc-tags-bin",
))  # fmt: skip
"""Names beginning with `grpc-` that an answer's head or trailers may carry."""

_RESERVED: Final = b"grpc-"


def is_reserved(name: bytes, answer: bool) -> bool:
    """Whether a peer may not set a field of this lower-case name: taken out of a request (or an `answer`) rather than forwarded.

    A name that only folds to a reserved one (`grpc_status`, `grpc.timeout`) is reserved as well: a module may read `_` and `-` alike.
    """
    if not name.startswith(b"grpc"):
        return False
    if name.startswith(_RESERVED):
        return name not in (SERVICES if answer else CALLERS)
    return name[4:5] in {b"_", b"."}


def metadata(fields: list[Field], answer: bool = False) -> list[Field] | None:
    """`fields` without reserved names; the very same list when there are none.

    Returns:
        None when a `-bin` field is not base64: malformed. A library behind us would drop it, or read something else.
    """
    keeps = True
    for line in fields:
        name = line.name
        if name.startswith(b"grpc") and is_reserved(name, answer):
            keeps = False
        elif name.endswith(b"-bin") and binary_values(line.value) is None:
            return None
    return fields if keeps else [line for line in fields if not is_reserved(line.name, answer)]


_TITLE_LINES: Final[dict[Fault, Field]] = {
    fault: field(b"grpc-message", message_said(f"{said.title} ({fault.value})")) for fault, said in DIALECTS.items()
}
STATUS_LINES: Final = tuple([field(b"grpc-status", b"%d" % status.value) for status in Status])
"""By number."""


def grpc_trailers(fault: Fault, message: str = "", status: Status | None = None, retry_after_s: int = 0) -> list[Field]:
    """Trailers that end a call whose answer has begun, for `fault`.

    Only where a message ends (`Inspector.at_rest`): within one the caller would miss the rest of it, and the stream is reset instead.

    Args:
        fault: why.
        message: what the caller is told; it may name the request, never the inside. Empty: the fault's title and name.
        status: in place of the fault's own.
        retry_after_s: when to come back, in place of the fault's own; 0: that one.
    """
    said = DIALECTS[fault]
    code = said.grpc if status is None else status.value
    lines = [STATUS_LINES[code], field(b"grpc-message", message_said(message)) if message else _TITLE_LINES[fault]]
    after_s = retry_after_s or said.retry_after_s
    if after_s:
        lines.append(field(b"grpc-retry-pushback-ms", b"%d" % (after_s * 1_000)))
    return lines


def type_of(head: RequestHead) -> Field:
    """The content-type of an answer of ours to a call: the caller's own, for a caller of `+json` takes nothing else for an answer to it."""
    for line in head.special:
        if line.kind == GRPC_TYPE:
            return line
    return CONTENT_TYPE_GRPC


def grpc_answer(
    fault: Fault, message: str = "", status: Status | None = None, retry_after_s: int = 0, kind: Field = CONTENT_TYPE_GRPC
) -> tuple[int, list[Field]]:
    """Status and fields of the head that refuses a call: an answer without body or trailers (Trailers-Only, END_STREAM on its HEADERS).

    The status is 200: gRPC's own says what happened, and a caller that reads the HTTP status would read another one.

    Args:
        fault: See `grpc_trailers`, as of what follows.
        message: What the caller is told.
        status: In place of the fault's own.
        retry_after_s: When to come back.
        kind: Its content-type; see `type_of`.
    """
    return 200, [kind, *grpc_trailers(fault, message, status, retry_after_s)]


def pushback(value: bytes) -> float | None:
    """Seconds that a `grpc-retry-pushback-ms` asks for; None: not to be tried again, which any other text means too (A6)."""
    if not value or len(value) > 9 or value.translate(None, _DIGITS):
        return None
    return int(value) / 1_000


def answered(head: ResponseHead) -> Status | None:
    """How a call ended, as far as the head of its answer says so.

    Returns:
        The status of an answer that has no messages (Trailers-Only), or is not gRPC's (http-grpc-status-mapping). None: it goes on.
    """
    status = head.status
    grpc = False
    for line in head.fields:
        if line.kind == GRPC_TYPE:
            grpc = True
        elif line.name == b"grpc-status" and not head.length:
            return status_said(line.value)
    if status == 200 and grpc and head.length:
        return None
    return status_of_http(status)


def is_foreign(head: ResponseHead) -> bool:
    """Whether an answer to a call is none of gRPC's: what its caller could only make out of the HTTP status."""
    grpc = said = False
    for line in head.fields:
        if line.kind == GRPC_TYPE:
            grpc = True
        elif line.name == b"grpc-status":
            said = True
    return not said and (head.status != 200 or not grpc or not head.length)

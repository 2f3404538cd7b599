"""How a call ended, in every dialect, by one table.

gRPC status   ◀──▶   Connect code   ──▶   HTTP status   (google.rpc.Code; Connect, Error Codes: the same numbers)
grpc-status-details-bin (google.rpc.Status)   ──▶   details of a Connect error, or of a Status in JSON
trailing metadata   ──▶   `trailer-` fields, the end of a stream, the frame of trailers
"""

from __future__ import annotations

import binascii
import json
from math import ceil
from typing import Final

from flui.codecs.grpc import binary_values, pushback
from flui.codecs.protobuf import OCTETS, VARINT
from flui.codecs.protobuf import fields as fields_of
from flui.model.fields import Field, field
from flui.model.grpc import STATUSES, Status, message_text, status_said

CONNECT_CODES: Final = tuple(status.name.lower() if status is not Status.CANCELLED else "canceled" for status in Status)
"""By the number of the gRPC status; `OK` has none and is never asked for."""

_RESERVED: Final = b"grpc-"


class Detail:
    """A `google.protobuf.Any` among the details of an error."""

    __slots__ = ("url", "value")

    def __init__(self, url: str, value: bytes) -> None:
        self.url = url
        self.value = value

    @property
    def name(self) -> str:
        """Full name of the message."""
        return self.url.rpartition("/")[2]


class Ending:
    """How a call ended."""

    __slots__ = ("details", "message", "metadata", "retry_after_s", "status")

    def __init__(self, status: Status, message: str = "", details: list[Detail] | None = None, metadata: list[Field] | None = None) -> None:
        self.retry_after_s = 0
        """When to come back; 0: not said."""
        self.status = status
        self.message = message
        self.details: list[Detail] = details if details is not None else []
        self.metadata: list[Field] = metadata if metadata is not None else []
        """Trailing metadata: what else was said at the end."""


def ending_of(fields: list[Field]) -> Ending:
    """The ending that trailers (or a head that is all there is) say; UNKNOWN where they say none.

    A `google.rpc.Status` among them says it best, as gRPC's own libraries have it.
    """
    if len(fields) == 1 and fields[0].value == b"0" and fields[0].name == b"grpc-status":
        return _WELL  # shared, as nobody changes it
    status = Status.UNKNOWN
    message = ""
    details: list[Detail] = []
    metadata: list[Field] = []
    said: _Said | None = None
    after_s = 0
    for line in fields:
        name = line.name
        if name == b"grpc-status":
            status = status_said(line.value)
        elif name == b"grpc-message":
            message = message_text(line.value)
        elif name == b"grpc-status-details-bin":
            values = binary_values(line.value)
            said = _said(values[0]) if values else None
        elif name == b"grpc-retry-pushback-ms":
            wait_s = pushback(line.value)
            after_s = ceil(wait_s) if wait_s is not None else 0
        elif not name.startswith(_RESERVED):
            metadata.append(line)
    if said is not None and status is not Status.OK:
        details = said.details
        if said.code == status.value:
            message = said.message
    ending = Ending(status, message, details, metadata)
    ending.retry_after_s = after_s
    return ending


_WELL: Final = Ending(Status.OK)


class _Said:
    __slots__ = ("code", "details", "message")

    def __init__(self, code: int, message: str, details: list[Detail]) -> None:
        self.code = code
        self.message = message
        self.details = details


def _said(octets: bytes) -> _Said | None:
    """A `google.rpc.Status`; None when it is none."""
    lines = fields_of(octets)
    if lines is None:
        return None
    code = 0
    message = ""
    details: list[Detail] = []
    for number, kind, value, held in lines:
        if number == 1 and kind == VARINT:
            code = value
        elif number == 2 and kind == OCTETS:
            message = held.decode("utf-8", "replace")
        elif number == 3 and kind == OCTETS:
            parts = fields_of(held)
            if parts is None:
                return None
            url = b""
            inner = b""
            for part, kind_of_part, _, octets_of_part in parts:
                if kind_of_part == OCTETS and part == 1:
                    url = octets_of_part
                elif kind_of_part == OCTETS and part == 2:
                    inner = octets_of_part
            details.append(Detail(url.decode("utf-8", "replace"), inner))
    return _Said(code, message, details)


# Connect.


def connect_error(ending: Ending) -> bytes:
    """The error of a unary answer (Connect, Error End-Stream)."""
    return _json(_connect(ending))


def end_of_stream(ending: Ending) -> bytes:
    """What the last envelope of a Connect stream holds."""
    said: dict[str, object] = {}
    if ending.status is not Status.OK:
        said["error"] = _connect(ending)
    if ending.metadata:
        metadata: dict[str, list[str]] = {}
        for line in ending.metadata:
            metadata.setdefault(line.name.decode("ascii"), []).append(line.value.decode("latin-1"))
        said["metadata"] = metadata
    return _json(said)


def _connect(ending: Ending) -> dict[str, object]:
    said: dict[str, object] = {"code": CONNECT_CODES[ending.status.value]}
    if ending.message:
        said["message"] = ending.message
    if ending.details:
        said["details"] = [
            {"type": detail.name, "value": binascii.b2a_base64(detail.value, newline=False).rstrip(b"=").decode()}
            for detail in ending.details
        ]
    return said


def trailer_fields(metadata: list[Field]) -> list[Field]:
    """Trailing metadata as fields of a head (Connect, Unary-Response: `trailer-` in front of each name)."""
    return [field(b"trailer-" + line.name, line.value) for line in metadata]


# JSON of google.rpc.


def rpc_status(ending: Ending, details: list[bytes]) -> bytes:
    """A `google.rpc.Status` in JSON.

    Args:
        ending: How the call ended.
        details: JSON of each of its details, in order, as an `Any` has it.
    """
    text = b'{"code":%d,"message":%b' % (ending.status.value, _json(ending.message))
    if details:
        text += b',"details":[' + b",".join(details) + b"]"
    return text + b"}"


def opaque(detail: Detail) -> bytes:
    """JSON of a detail of whose type nothing is known: its octets."""
    return _json({"@type": detail.url, "value": binascii.b2a_base64(detail.value, newline=False).decode()})


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


__all__ = [
    "CONNECT_CODES", "STATUSES", "Detail", "Ending", "connect_error", "end_of_stream",
    "ending_of", "opaque", "rpc_status", "trailer_fields",
]  # fmt: skip

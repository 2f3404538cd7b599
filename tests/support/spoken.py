"""One call of the library's module in every dialect: what a caller writes in HTTP/1.1, and what its answer says.

form = FORMS["connect-get"]
octets = form.octets("GetBook", message)        the request
told = form.told(answer)                        Told(code, messages): of gRPC's numbers, whatever the dialect
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from google.protobuf import json_format

from flui.model.grpc import Status
from support.mesh import Answer

SERVICE = "/lib.Library/"
_CODES = {status.name.lower(): status.value for status in Status} | {"canceled": 1}


class Told(NamedTuple):
    """How a call ended."""

    code: int
    messages: list[bytes]
    """As the dialect has them, without framing."""


def framed(payload: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(payload).to_bytes(4, "big") + payload


def frames(octets: bytes) -> list[tuple[int, bytes]]:
    """(flag, payload) of each frame of a body, which must be whole."""
    found = []
    while octets:
        size = int.from_bytes(octets[1:5], "big")
        assert len(octets) >= 5 + size, octets
        found.append((octets[0], octets[5 : 5 + size]))
        octets = octets[5 + size :]
    return found


def untexted(text: bytes) -> bytes:
    """Octets of a body in base64, wherever it is padded."""
    return b"".join(base64.b64decode(part + b"=" * (-len(part) % 4)) for part in text.replace(b"==", b"=").split(b"="))


def request(verb: str, target: str, body: bytes | None = None, kind: str = "", more: str = "") -> bytes:
    """A request in HTTP/1.1; without a body it has none, not even an empty one."""
    head = f"{verb} {target} HTTP/1.1\r\nhost: library\r\n{more}"
    if body is not None:
        head += f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + (body or b"")


def status_field(block: bytes) -> int:
    """The `grpc-status` of a block of fields."""
    found = [line for line in block.split(b"\r\n") if line.startswith(b"grpc-status:")]
    assert len(found) == 1, block
    return int(found[0].partition(b":")[2])


@dataclass(frozen=True)
class Form:
    """One way to say a call."""

    name: str
    dialect: str
    """As the access log has it."""
    kind: str
    """Content-type of an answer that begins with a message …"""
    refused_kind: str
    """… and of one that is a refusal."""
    refused_status: int
    """HTTP status of PERMISSION_DENIED."""
    octets: Callable[..., bytes]
    told: Callable[[Answer], Told]


def _grpc_told(answer: Answer) -> Told:
    said = answer.get(b"grpc-status")
    code = int(said) if said is not None else status_field(answer.trailers)
    return Told(code, [payload for _, payload in frames(answer.body)])


def _web_told(body: bytes) -> Told:
    *messages, (last, trailers) = frames(body)
    assert last == 0x80
    return Told(status_field(trailers), [payload for _, payload in messages])


def _connect_told(answer: Answer) -> Told:
    if answer.status == 200:
        return Told(0, [answer.body])
    return Told(_CODES[json.loads(answer.body)["code"]], [])


def _envelopes_told(answer: Answer) -> Told:
    *messages, (last, said) = frames(answer.body)
    assert last == 2
    error = json.loads(said).get("error")
    return Told(_CODES[error["code"]] if error else 0, [payload for _, payload in messages])


def _rest_told(answer: Answer) -> Told:
    if answer.status == 200:
        return Told(0, [answer.body])
    return Told(json.loads(answer.body)["code"], [])


def _lines_told(answer: Answer) -> Told:
    if answer.status != 200:
        return _rest_told(answer)
    lines = answer.body.split(b"\n")[:-1]
    code = json.loads(lines[-1]).get("error", {}).get("code", 0) if lines else 0
    return Told(code, lines[:-1] if code else lines)


def _events_told(answer: Answer) -> Told:
    if answer.status != 200:
        return _rest_told(answer)
    *events, last, rest = answer.body.split(b"\n\n")
    assert rest == b""
    kind, _, data = last.partition(b"\n")
    code = json.loads(data.removeprefix(b"data: "))["code"] if kind == b"event: error" else 0
    return Told(code, [event.removeprefix(b"data: ") for event in events])


def _json(message: Any) -> bytes:
    return json_format.MessageToJson(message, indent=None, preserving_proto_field_name=False).encode()


def _posts(kind: str, body: Callable[[Any], bytes], extra: str = "") -> Callable[..., bytes]:
    return lambda method, message, more="": request("POST", SERVICE + method, body(message), kind, extra + more)


def _get(method: str, message: Any, more: str = "") -> bytes:
    said = base64.urlsafe_b64encode(message.SerializeToString()).decode().rstrip("=")
    return request("GET", f"{SERVICE}{method}?connect=v1&encoding=proto&base64=1&message={said}", more=more)


def _annotated(method: str, message: Any, more: str = "") -> bytes:
    if method == "GetBook":
        return request("GET", f"/v1/{quote(message.name)}", more=more)
    if method == "CreateBook":
        return request("POST", f"/v1/{message.parent}/books?id={message.id}", _json(message.book), "application/json", more)
    assert method == "WatchBooks"
    return request("GET", f"/v1/{message.parent}/books:watch?most={message.most}", more=more)


def _framed(message: Any) -> bytes:
    return framed(message.SerializeToString())


def _plain(message: Any) -> bytes:
    return message.SerializeToString()


_WEB, _TEXT = "application/grpc-web+proto", "application/grpc-web-text+proto"
_STREAM, _STREAM_JSON = "application/connect+proto", "application/connect+json"
_JSON, _LINES, _EVENTS = "application/json", "application/x-ndjson", "text/event-stream"
_V1 = "connect-protocol-version: 1\r\n"
_SSE = "accept: text/event-stream\r\n"

_ALL = [
    Form("grpc", "grpc", "application/grpc", "application/grpc", 200, _posts("application/grpc", _framed), _grpc_told),
    Form("grpc-web", "grpc-web", _WEB, _WEB, 200, _posts(_WEB, _framed), lambda answer: _web_told(answer.body)),
    Form(
        "grpc-web-text",
        "grpc-web-text",
        _TEXT,
        _TEXT,
        200,
        _posts(_TEXT, lambda message: base64.b64encode(_framed(message))),
        lambda answer: _web_told(untexted(answer.body)),
    ),
    Form("connect", "connect", "application/proto", _JSON, 403, _posts("application/proto", _plain, _V1), _connect_told),
    Form("connect-json", "connect", _JSON, _JSON, 403, _posts(_JSON, _json, _V1), _connect_told),
    Form("connect-get", "connect", "application/proto", _JSON, 403, _get, _connect_told),
    Form("connect-stream", "connect-stream", _STREAM, _STREAM, 200, _posts(_STREAM, _framed), _envelopes_told),
    Form(
        "connect-stream-json",
        "connect-stream",
        _STREAM_JSON,
        _STREAM_JSON,
        200,
        _posts(_STREAM_JSON, lambda message: framed(_json(message))),
        _envelopes_told,
    ),
    Form("rest", "rest", _JSON, _JSON, 403, _annotated, _rest_told),
    Form("rest-default", "rest", _JSON, _JSON, 403, _posts(_JSON, _json), _rest_told),
    Form("rest-lines", "rest", _LINES, _JSON, 403, _annotated, _lines_told),
    Form("rest-default-lines", "rest", _LINES, _JSON, 403, _posts(_JSON, _json), _lines_told),
    Form("rest-events", "rest", _EVENTS, _JSON, 403, lambda *said: _annotated(*said, more=_SSE), _events_told),
]
FORMS = {form.name: form for form in _ALL}
UNARY = ("grpc", "grpc-web", "grpc-web-text", "connect", "connect-json", "rest", "rest-default")
GETS = (*UNARY, "connect-get")
STREAMS = (
    "grpc",
    "grpc-web",
    "grpc-web-text",
    "connect-stream",
    "connect-stream-json",
    "rest-lines",
    "rest-default-lines",
    "rest-events",
)

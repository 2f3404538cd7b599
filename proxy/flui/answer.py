"""What callers are told that nobody else tells them: refusals, in HTTP's dialect and in gRPC's; and what of an answer goes no further."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from flui.codecs.base import Events
from flui.codecs.grpc import grpc_answer, type_of
from flui.codecs.validate import connection_options
from flui.model.events import Data, End, RequestHead, ResponseHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import CONNECTION, KEPT, Field, field
from flui.model.grpc import Status

_PROBLEM: Final = field(b"content-type", b"application/problem+json")
_NO_STORE: Final = field(b"cache-control", b"no-store")
REFUSAL: Final = b"flui-fault"
"""Field in which a sidecar tells another one that it has too much to do, or that its module was not there; it goes no further."""
_PHRASES: Final[dict[int, str]] = {status.value: status.phrase for status in HTTPStatus}
_BODILESS: Final = frozenset((204, 205, 304))
"""An answer with one of them has no content (RFC 9110 15.3.5, 15.3.6, 15.4.5)."""


def clean(head: ResponseHead) -> None:
    """RFC 9110 7.6.1 for responses: without the fields of this hop, without what its Connection field names, and without ours."""
    options: tuple[bytes, ...] = ()
    for candidate in head.fields:
        if candidate.kind == CONNECTION:
            options += connection_options(candidate.value) or ()
        elif candidate.name == REFUSAL:
            head.refusal = candidate.value
    head.fields = [f for f in head.fields if f.kind <= KEPT and f.name not in options]
    head.local = False
    head.http1 = b""


def answer_call(
    down: Events, stream: int, head: RequestHead, fault: Fault, status: Status | None = None, retry_after_s: int = 0, *, said: bool = False
) -> None:
    """Answers a gRPC call in gRPC's dialect: HTTP 200, and a head that is all there is (Trailers-Only), over HTTP/1.1 too."""
    http, fields = grpc_answer(fault, status=status, retry_after_s=retry_after_s, kind=type_of(head))
    if said:
        fields.append(field(REFUSAL, fault.value.encode()))
    down.send(ResponseHead(stream, http, fields, 0))
    down.send(End(stream))


def answer(
    down: Events,
    stream: int,
    fault: Fault,
    path: bytes,
    trace: bytes,
    status: int = 0,
    retry_after_s: int = 0,
    *,
    said: bool = False,
    more: list[Field] | None = None,
) -> int:
    """Answers a request with a problem document (RFC 9457) that names the request and never the inside; `more` are further fields.

    Returns:
        Octets of its body.
    """
    dialect = DIALECTS[fault]
    title = dialect.title
    if status and status != dialect.http:
        title = _PHRASES.get(status) or _PHRASES[status // 100 * 100]  # RFC 9110 15: one that is not known means what x00 does
    status = status or dialect.http
    if status in _BODILESS:
        down.send(ResponseHead(stream, status, [_NO_STORE], 0))
        down.send(End(stream))
        return 0
    instance = b',"instance":"%b"' % path if path else b""
    trace_id = b',"trace":"%b"' % trace[3:35] if trace else b""
    name = fault.value.encode()
    body = b'{"type":"about:blank","title":"%b","status":%d,"code":"%b"%b%b}\n' % (title.encode(), status, name, instance, trace_id)
    fields = [_PROBLEM, _NO_STORE, field(b"content-length", b"%d" % len(body))]
    if more:
        fields += more
    if said:
        fields.append(field(REFUSAL, name))
    after = retry_after_s or dialect.retry_after_s
    if after:
        fields.append(field(b"retry-after", b"%d" % after))
    down.send(ResponseHead(stream, status, fields, len(body)))
    down.send(Data(stream, body))
    down.send(End(stream))
    return len(body)

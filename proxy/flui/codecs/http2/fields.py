"""Decoded field lines ⇄ heads (RFC 9113 8.2 and 8.3), each line validated once per distinct line.

As in HTTP/1.1 a line's meaning does not depend on who sent it, so its parsed form is shared (the *line memo*). A pseudo-header
field is a line with a kind below zero, which never leaves this file. Everything malformed here is a stream error of type
PROTOCOL_ERROR (RFC 9113 8.1.1) and is never forwarded (threats B1, B2).
"""

from __future__ import annotations

from typing import Final, cast

from flui.codecs.http1.body import FORBIDDEN_TRAILERS
from flui.codecs.http1.lines import Malformed
from flui.codecs.http2._hpack import Line
from flui.codecs.http2.encoder import Secret
from flui.codecs.validate import canonical_authority
from flui.model.config import Limits
from flui.model.events import UNKNOWN, RequestHead, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import HOST, KEPT, LENGTH, Field, classified

_METHOD: Final = -1
_SCHEME: Final = -2
_PATH: Final = -3
_AUTHORITY: Final = -4
_PROTOCOL: Final = -5
_STATUS: Final = -6
_COOKIE: Final = -7
_PSEUDO: Final[dict[bytes, int]] = {
    b":method": _METHOD,
    b":scheme": _SCHEME,
    b":path": _PATH,
    b":authority": _AUTHORITY,
    b":protocol": _PROTOCOL,
    b":status": _STATUS,
}

_NAME: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
"""RFC 9110 5.6.2 tchar without upper case (RFC 9113 8.2.1)."""
_TOKEN: Final = _NAME + b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VALUE: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""RFC 9110 5.5: VCHAR, blanks and obs-text. Other controls could not be said in HTTP/1.1."""
_TARGET: Final = bytes(range(0x21, 0x7F))
_DIGITS: Final = b"0123456789"
_GONE: Final = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings"))
"""RFC 9113 8.2.2: they make a message malformed. (`http2-settings` means something beside `upgrade` only.)"""

_MEMO: Final = 4096
_MEMO_OCTETS: Final = 256
FIELDS: Final[dict[Line, Field]] = {}
"""Memo of decoded lines."""


def octets_of(lines: list[Line]) -> int:
    """Size of a field section as RFC 9113 6.5.2 counts it, from lines that were decoded and not yet looked at."""
    size = 32 * len(lines)
    for name, value, _ in lines:
        size += len(name) + len(value)
    return size


def parse_lines(lines: list[Line]) -> list[Field]:
    """Parses field lines, most of which are known.

    Raises:
        Malformed: a name that is no lower-case token, controls or outer blanks in a value, a field that HTTP/2 has no place for,
            a pseudo-header field that does not exist, a content-length that is not a plain number.
    """
    found = list(map(FIELDS.get, lines))
    if all(found):  # a Field is always true
        return cast("list[Field]", found)
    return [known if known is not None else parse_line(line) for known, line in zip(found, lines, strict=True)]


def parse_line(line: Line) -> Field:
    """Parses one field line and remembers it.

    Raises:
        Malformed: see `parse_lines`.
    """
    name, value, secret = line
    kind = _PSEUDO.get(name, 0)
    if not kind and (not name or name.translate(None, _NAME)):
        raise Malformed(Fault.MALFORMED)
    if value.translate(None, _VALUE) or value[:1] in {b" ", b"\t"} or value[-1:] in {b" ", b"\t"}:
        raise Malformed(Fault.MALFORMED)  # RFC 9113 8.2.1
    if kind:
        made = Field(name, value, b"", kind)
    elif name == b"cookie":
        made = Field(name, value, b"", _COOKIE)
    else:
        made = classified(name, value)
        if made.kind == LENGTH:
            made = classified(name, _length(value))
        elif name in _GONE or (name == b"te" and value.lower() != b"trailers"):
            raise Malformed(Fault.MALFORMED)
        if secret:
            made = Secret(made.name, made.value, made.wire, made.kind)
    if len(name) + len(value) <= _MEMO_OCTETS:
        if len(FIELDS) >= _MEMO:
            FIELDS.clear()
        FIELDS[line] = made
    return made


def _length(value: bytes) -> bytes:
    """RFC 9110 8.6: digits, re-made as canonical decimal, so that `010` is not octal for anyone behind us (A3)."""
    if not value or len(value) > 19 or value.translate(None, _DIGITS):
        raise Malformed(Fault.MALFORMED)
    return b"%d" % int(value)


def parse_request(lines: list[Line], limits: Limits, scheme: bytes, *, extended: bool) -> RequestHead:
    """The head of a request; its `length` is what content-length says, or `UNKNOWN`.

    Args:
        lines: Decoded lines.
        limits: How long it may be.
        scheme: Of the connection, which counts; what the request claims must be one of HTTP's.
        extended: Extended CONNECT (RFC 8441) is on.

    Raises:
        Malformed: MALFORMED is a stream error; what is only too long is answered.
    """
    found = parse_lines(lines)
    pseudo: dict[int, bytes] = {}
    at = 0
    for line in found:
        kind = line.kind
        if kind >= 0 or kind == _COOKIE:
            break
        if kind in pseudo or kind == _STATUS:
            raise Malformed(Fault.MALFORMED)
        pseudo[kind] = line.value
        at += 1
    del found[:at]
    special = [line for line in found if line.kind]
    length = UNKNOWN
    host: bytes | None = None
    crumbs = 0
    for line in special:
        kind = line.kind
        if kind < 0:
            if kind != _COOKIE:
                raise Malformed(Fault.MALFORMED)  # RFC 9113 8.3: pseudo-header fields come first
            crumbs += 1
        elif kind == HOST:
            if host is not None:
                raise Malformed(Fault.MALFORMED)  # threats A7, C5
            host = line.value
        elif kind == LENGTH:
            if length != UNKNOWN:
                raise Malformed(Fault.MALFORMED)
            length = int(line.value)
    if host is not None:
        found = [line for line in found if line.kind != HOST]
    if crumbs:
        found = _joined(found)
        special = [line for line in special if line.kind > 0]
    method = pseudo.get(_METHOD, b"")
    claimed = pseudo.get(_SCHEME)
    path = pseudo.get(_PATH)
    protocol = pseudo.get(_PROTOCOL, b"")
    authority = pseudo.get(_AUTHORITY, b"")
    if not method or method.translate(None, _TOKEN):
        raise Malformed(Fault.MALFORMED)
    if host is not None:
        if authority and host.lower() != authority.lower():
            raise Malformed(Fault.MALFORMED)  # RFC 9113 8.3.1, threats A7
        authority = authority or host
    if not authority or canonical_authority(authority) is None:
        raise Malformed(Fault.MALFORMED)
    if _PROTOCOL in pseudo and (not extended or method != b"CONNECT" or not protocol or protocol.translate(None, _TOKEN)):
        raise Malformed(Fault.MALFORMED)  # RFC 8441 4
    if method == b"CONNECT" and not protocol:
        if claimed is not None or path is not None:
            raise Malformed(Fault.MALFORMED)  # RFC 9113 8.5
        head = RequestHead(0, method, scheme, authority, b"", b"", found, UNKNOWN, special)
    else:
        if not path or claimed is None or claimed.lower() not in {b"http", b"https"}:
            raise Malformed(Fault.MALFORMED)  # RFC 9113 8.3.1
        if path.translate(None, _TARGET) or b"#" in path or (path[0] != 0x2F and (path != b"*" or method != b"OPTIONS")):
            raise Malformed(Fault.MALFORMED)  # threats B2, B3
        if len(path) > limits.target_octets:
            raise Malformed(Fault.TARGET_TOO_LONG)
        path, mark, query = path.partition(b"?")
        head = RequestHead(0, method, scheme, authority, path, mark + query, found, length, special, protocol)
    if len(found) > limits.fields:
        raise Malformed(Fault.HEAD_TOO_LARGE)
    if length > limits.body_octets > 0:
        raise Malformed(Fault.BODY_TOO_LARGE)
    return head


def _joined(found: list[Field]) -> list[Field]:
    """RFC 9113 8.2.3: the crumbs of a cookie are one field again, where the first one was."""
    value = b"; ".join([line.value for line in found if line.kind == _COOKIE])
    fields: list[Field] = []
    for line in found:
        if line.kind != _COOKIE:
            fields.append(line)
        elif value:
            fields.append(classified(b"cookie", value))
            value = b""
    return fields


def parse_response(lines: list[Line], limits: Limits) -> ResponseHead:
    """The head of a response; its `length` is what content-length says, or `UNKNOWN`.

    Raises:
        Malformed: with UPSTREAM_MALFORMED or MALFORMED, which mean the same here.
    """
    found = parse_lines(lines)
    if not found or found[0].kind != _STATUS or len(found) - 1 > limits.fields:
        raise Malformed(Fault.UPSTREAM_MALFORMED)  # RFC 9113 8.3.2
    said = found[0].value
    if len(said) != 3 or said.translate(None, _DIGITS) or said[0] not in b"12345" or said == b"101":
        raise Malformed(Fault.UPSTREAM_MALFORMED)  # RFC 9113 8.6: there is no 101
    del found[0]
    status = int(said)
    length = UNKNOWN
    local = False
    for line in [line for line in found if line.kind]:
        kind = line.kind
        if kind < 0:
            if kind != _COOKIE:
                raise Malformed(Fault.UPSTREAM_MALFORMED)
            found = [classified(f.name, f.value) if f.kind == _COOKIE else f for f in found]
        elif kind > KEPT:
            local = True
        elif kind == LENGTH:
            if length != UNKNOWN:
                raise Malformed(Fault.UPSTREAM_MALFORMED)
            length = int(line.value)
    if length != UNKNOWN and (status == 204 or status < 200):
        # RFC 9110 8.6: a 204 or an interim response has none; some callers would wait for the body
        if status < 200 and length:
            raise Malformed(Fault.UPSTREAM_MALFORMED)
        found = [line for line in found if line.kind != LENGTH]
        length = UNKNOWN
    return ResponseHead(0, status, found, length, local)


def parse_trailers(lines: list[Line], limits: Limits) -> list[Field]:
    """A trailer section, without what may not stand in one (A11).

    Raises:
        Malformed: a pseudo-header field (RFC 9113 8.1), and what `parse_lines` says; HEAD_TOO_LARGE.
    """
    if len(lines) > limits.fields or octets_of(lines) > limits.head_octets:
        raise Malformed(Fault.HEAD_TOO_LARGE)
    found = parse_lines(lines)
    for line in found:
        if line.kind < 0 and line.kind != _COOKIE:
            raise Malformed(Fault.MALFORMED)
    return [line for line in found if not line.kind and line.name not in FORBIDDEN_TRAILERS]


def request_again(first: RequestHead, stream: int, length: int) -> RequestHead:
    """The head of a request that says the same as `first`, with all that the validator has found out about that one."""
    head = RequestHead(
        stream, first.method, first.scheme, first.authority, first.path, first.query, first.fields, length, first.special, first.protocol
    )
    if first.vetted:
        head.vetted = True
        head.decided = first.decided
        head.spoken = first.spoken
        head.grpc = first.grpc
        head.http1 = first.http1
        head.host = first.host
        head.trace = first.trace
        head.key = first.key
        head.deadline = first.deadline
        head.attempt = first.attempt
        head.priority = first.priority
        head.repeatable = first.repeatable
        head.forwarded = first.forwarded
    return head


def response_again(first: ResponseHead, stream: int, length: int) -> ResponseHead:
    """The head of a response that says the same as `first`."""
    head = ResponseHead(stream, first.status, first.fields, length, first.local)
    head.http1 = first.http1
    head.refusal = first.refusal
    return head

"""Start lines and field lines, each validated once per distinct line (the *line memo*).

Callers repeat themselves: the same `accept`, `user-agent`, even the same request line come again and again. What a line
means does not depend on who sent it, so its parsed form is shared. The memos are bounded, long lines are not kept.
Everything here is linear in the length of the line: no regular expression sees a peer's octets.
"""

from __future__ import annotations

from typing import Final, cast

from flui.model.fault import Fault
from flui.model.fields import CODING, LENGTH, Field, classified

_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""RFC 9110 5.6.2 tchar."""
_VALUE: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""RFC 9110 5.5: VCHAR, blanks and obs-text; no CR, LF, NUL or other controls."""
_VCHAR: Final = bytes(range(0x21, 0x7F))
_DIGITS: Final = b"0123456789"

_MEMO_LINES: Final = 4096
_MEMO_OCTETS: Final = 256

_CODINGS: Final = frozenset((b"gzip", b"x-gzip", b"compress", b"x-compress", b"deflate"))
"""Transfer codings that exist and are not carried (RFC 9112 7.2)."""


class Malformed(Exception):  # noqa: N818 - a peer's fault, caught inside the codec, never seen outside
    """What a peer sent breaks the protocol. Raised and caught inside a codec only."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class RequestLine:
    """A parsed request line."""

    __slots__ = ("authority", "method", "minor", "path", "query", "scheme")

    def __init__(self, method: bytes, scheme: bytes, authority: bytes, path: bytes, query: bytes, minor: int) -> None:
        self.method = method
        self.scheme = scheme
        """Of an absolute-form target; else empty."""
        self.authority = authority
        """Of an absolute-form or authority-form target; else empty."""
        self.path = path
        self.query = query
        self.minor = minor
        """0 or 1: HTTP/1.0 or HTTP/1.1."""


FIELDS: Final[dict[bytes, Field]] = {}
"""Memo of field lines. Read it first, then `parse_field`."""
REQUEST_LINES: Final[dict[bytes, RequestLine]] = {}
"""Memo of request lines. Read it first, then `parse_request_line`."""
STATUS_LINES: Final[dict[bytes, tuple[int, int]]] = {}
"""Memo of status lines: (minor version, status)."""


def parse_fields(lines: list[bytes]) -> list[Field]:
    """Parses field lines, most of which are known.

    Raises:
        Malformed: see `parse_field`.
    """
    found = list(map(FIELDS.get, lines))
    if all(found):  # a Field is always true
        return cast("list[Field]", found)
    return [known if known is not None else parse_field(line) for known, line in zip(found, lines, strict=True)]


def parse_field(line: bytes) -> Field:
    """Parses one field line (RFC 9112 5) and remembers it.

    Raises:
        Malformed: no colon, an empty or wrong name, a blank before the colon, control octets, obs-fold (its line starts
            with a blank, which is no token), a content-length that is not a plain number, a transfer coding other than chunked.
    """
    name, colon, value = line.partition(b":")
    if not colon or not name or name.translate(None, _TOKEN):
        raise Malformed(Fault.MALFORMED)
    value = value.strip(b" \t")
    if value.translate(None, _VALUE):
        raise Malformed(Fault.MALFORMED)
    name = name.lower()
    field = classified(name, value)
    if field.kind == LENGTH:
        field = classified(name, _canonical_length(value))
    elif field.kind == CODING:
        field = classified(name, _coding(value))
    if len(line) <= _MEMO_OCTETS:
        if len(FIELDS) >= _MEMO_LINES:
            FIELDS.clear()
        FIELDS[line] = field
    return field


def _canonical_length(value: bytes) -> bytes:
    """RFC 9110 8.6: 1*DIGIT; re-made as canonical decimal, so that `010` is not octal for anyone behind us (A3)."""
    if b"," in value:
        # RFC 9112 6.3(5): a list of identical values may be collapsed; anything else in it is an attack.
        parts = {part.strip(b" \t") for part in value.split(b",")}
        if len(parts) != 1:
            raise Malformed(Fault.MALFORMED)
        value = parts.pop()
    if not value or len(value) > 19 or value.translate(None, _DIGITS):
        raise Malformed(Fault.MALFORMED)
    return b"%d" % int(value)


def _coding(value: bytes) -> bytes:
    """RFC 9112 6.1: exactly `chunked`; a real coding we do not carry is 501, everything else an obfuscation (A2)."""
    lowered = value.lower()
    if lowered == b"chunked":
        return lowered
    codings = [part.strip(b" \t") for part in lowered.split(b",")]
    if codings[-1] == b"chunked" and len(codings) > 1:
        codings.pop()
    known = all(coding in _CODINGS for coding in codings)
    lone = len(codings) == 1 and b"," not in value and not codings[0].translate(None, _TOKEN)
    unknown = lone and codings[0] not in (b"", b"identity", b"chunked")
    raise Malformed(Fault.UNSUPPORTED_CODING if known or unknown else Fault.MALFORMED)


def parse_request_line(line: bytes) -> RequestLine:
    """Parses a request line (RFC 9112 3) and remembers it.

    Raises:
        Malformed: not `method SP target SP HTTP/1.x`, a fragment, a target form that does not go with the method.
    """
    parts = line.split(b" ")
    if len(parts) != 3:
        raise Malformed(Fault.MALFORMED)
    method, target, version = parts
    if version == b"HTTP/1.1":
        minor = 1
    elif version == b"HTTP/1.0":
        minor = 0
    else:
        raise Malformed(_version_fault(version))
    if not method or method.translate(None, _TOKEN) or not target or target.translate(None, _VCHAR) or b"#" in target:
        raise Malformed(Fault.MALFORMED)
    scheme = authority = b""
    if method == b"CONNECT":
        # RFC 9112 3.2.3: authority-form, and only here
        parsed = RequestLine(method, b"", target, b"", b"", minor)
    else:
        if target[0] != 0x2F:
            if target == b"*":
                if method != b"OPTIONS":
                    raise Malformed(Fault.MALFORMED)
            else:
                scheme, authority, target = _absolute(target)
        path, mark, query = target.partition(b"?")
        parsed = RequestLine(method, scheme, authority, path, mark + query, minor)
    if len(line) <= _MEMO_OCTETS:
        if len(REQUEST_LINES) >= _MEMO_LINES:
            REQUEST_LINES.clear()
        REQUEST_LINES[line] = parsed
    return parsed


def _version_fault(version: bytes) -> Fault:
    digits = version[5:].split(b".")
    named = version.startswith(b"HTTP/") and len(digits) == 2 and all(len(d) == 1 and d.isdigit() for d in digits)
    return Fault.UNSUPPORTED_VERSION if named else Fault.MALFORMED


def _absolute(target: bytes) -> tuple[bytes, bytes, bytes]:
    """RFC 9112 3.2.2: absolute-form; its authority overrides Host."""
    scheme, mark, rest = target.partition(b"://")
    scheme = scheme.lower()
    if not mark or scheme not in (b"http", b"https"):
        raise Malformed(Fault.MALFORMED)
    cut = len(rest)
    for stop in (b"/", b"?"):
        at = rest.find(stop)
        if 0 <= at < cut:
            cut = at
    authority, path = rest[:cut], rest[cut:]
    if not authority:
        raise Malformed(Fault.MALFORMED)
    return scheme, authority, path if path.startswith(b"/") else b"/" + path


def parse_status_line(line: bytes) -> tuple[int, int]:
    """Parses a status line (RFC 9112 4) to (minor version, status) and remembers it.

    Raises:
        Malformed: not `HTTP/1.x SP 3DIGIT [SP reason]`.
    """
    version, status, reason = line[:9], line[9:12], line[12:]
    if version not in (b"HTTP/1.1 ", b"HTTP/1.0 ") or len(status) != 3 or status.translate(None, _DIGITS) or status[0] in b"06789":
        raise Malformed(Fault.UPSTREAM_MALFORMED)
    if reason and (reason[0] != 0x20 or reason.translate(None, _VALUE)):
        raise Malformed(Fault.UPSTREAM_MALFORMED)
    parsed = (version[7] - 0x30, int(status))
    if len(line) <= _MEMO_OCTETS:
        if len(STATUS_LINES) >= _MEMO_LINES:
            STATUS_LINES.clear()
        STATUS_LINES[line] = parsed
    return parsed

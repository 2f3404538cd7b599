"""The one protocol-neutral request validator. It runs after every codec and before facts.

It makes the path and the authority canonical (or refuses them), and in one pass over the fields takes out what must not
be forwarded and picks up what decisions need. What it leaves in the `RequestHead` is what policy, routing, the log
and the forwarded request use: what was authorised is octet for octet what is sent.
"""

from __future__ import annotations

from typing import Final

from flui.codecs.grpc import grpc_timeout, metadata
from flui.model.events import RequestHead
from flui.model.fault import Fault
from flui.model.fields import (
    ATTEMPT,
    CONNECTION,
    CONTENT_TYPE,
    DEADLINE,
    EXPECT,
    FORWARDED,
    GRPC_TIMEOUT,
    GRPC_TYPE,
    HOST,
    IDEMPOTENCY,
    KEPT,
    KEY,
    PRIORITY,
    PROTECTED,
    SINGLETONS,
    TRACE,
    TRACE_STATE,
    UPGRADE,
    kind_of,
)
from flui.model.grpc import CALL
from flui.model.resilience import PRIORITIES

_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_PATH: Final = _UNRESERVED + b"!$&'()*+,=:@/%"
"""RFC 3986 3.3 pchar and `/`, without `;`: path parameters are read differently by different servers (D1)."""
_QUERY: Final = bytes(range(0x21, 0x7F))
_HEX: Final = b"0123456789abcdefABCDEF"
_HOST: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_DIGITS: Final = b"0123456789"

_NO_METHODS: Final = frozenset((b"CONNECT", CALL))
"""Methods that nobody may say: policy knows a gRPC call under the second one."""
_SINGLETON_BITS: Final = sum(1 << kind for kind in SINGLETONS)

_MEMO: Final = 4096
_MEMO_OCTETS: Final = 256
_PATHS: Final[dict[bytes, bytes]] = {}
_AUTHORITIES: Final[dict[bytes, tuple[bytes, bytes]]] = {}
_OPTIONS: Final[dict[bytes, tuple[bytes, ...]]] = {}

_MAX_DEADLINE_MS: Final = 24 * 3600 * 1000


def validate(head: RequestHead) -> Fault | None:
    """Makes `head` canonical, or says why it cannot be.

    Changes `authority`, `host`, `path`, `fields`, `protocol` of `head`, and sets what its fields say: `trace`, `key`, `deadline` ….

    Returns:
        None when the request is fit to be decided on; else the fault to answer it with.
    """
    if head.vetted:
        return None
    if head.method in _NO_METHODS:
        return Fault.METHOD_REFUSED
    raw = head.path
    path = _PATHS.get(raw)
    if path is None:
        path = canonical_path(raw)
        if path is not None:
            _remember(raw, path)
        elif raw == b"*" and head.method == b"OPTIONS" and not head.query:
            path = raw  # never remembered: for any other method it is malformed
        else:
            return Fault.MALFORMED
    head.path = path
    if head.query and head.query.translate(None, _QUERY):
        return Fault.MALFORMED
    authority = _AUTHORITIES.get(head.authority)
    if authority is None:
        authority = canonical_authority(head.authority)
        if authority is None:
            return Fault.MALFORMED
    head.authority, head.host = authority
    # The one pass: hop-by-hop and minted fields go, singletons are counted, what decisions need is picked up.
    head.trace = head.key = b""
    head.deadline = head.priority = -1
    head.attempt = 1
    head.repeatable = False
    head.forwarded = None
    local = False
    options: tuple[bytes, ...] = ()
    seen = 0
    for field in head.special:
        kind = field.kind
        bit = 1 << kind
        if seen & bit & _SINGLETON_BITS:
            return Fault.MALFORMED  # B5: a second value could be the one that somebody behind us reads
        seen |= bit
        if kind <= KEPT:
            if kind == TRACE:
                head.trace = field.value
            elif kind == KEY:
                head.key = field.value
            elif kind == IDEMPOTENCY:
                head.repeatable = bool(field.value)
            elif kind == EXPECT and field.value.lower() != b"100-continue":
                return Fault.MALFORMED  # RFC 9110 10.1.1 knows one expectation; any other is read differently by everyone
            elif kind == GRPC_TYPE:
                if seen & 1 << CONTENT_TYPE:
                    return Fault.MALFORMED
                seen |= 1 << CONTENT_TYPE
                head.grpc = head.method == b"POST"
            continue
        if kind == HOST:
            continue
        local = True
        if kind == DEADLINE:
            value = field.value
            if not value or len(value) > 9 or value.translate(None, _DIGITS):
                return Fault.MALFORMED
            head.deadline = min(int(value), _MAX_DEADLINE_MS)
        elif kind == ATTEMPT:
            value = field.value
            if not value or len(value) > 4 or value.translate(None, _DIGITS):
                return Fault.MALFORMED
            head.attempt = max(1, int(value))
        elif kind == PRIORITY:
            said = PRIORITIES.get(field.value.decode("latin-1"))
            if said is None:
                return Fault.MALFORMED
            head.priority = said
        elif kind == CONNECTION:
            named = connection_options(field.value)
            if named is None:
                return Fault.MALFORMED
            options += named
        elif kind == FORWARDED:
            if head.forwarded is None:
                head.forwarded = []
            head.forwarded.append(field)
        elif kind == UPGRADE and b"websocket" in field.value.lower():
            head.protocol = b"websocket"
    if not head.trace and seen & 1 << TRACE_STATE:
        head.fields = [field for field in head.fields if field.kind != TRACE_STATE]
    if local:
        head.fields = [field for field in head.fields if field.kind <= KEPT and field.name not in options]
    if head.grpc and not is_call_sound(head):
        return Fault.MALFORMED
    head.vetted = True
    return None


def is_call_sound(head: RequestHead) -> bool:
    """Picks up what gRPC says of a call, and takes out of it what is said anew or nobody may say (`codecs.grpc`, threats F5)."""
    fields = metadata(head.fields)
    if fields is None:
        return False
    said = False
    for field in fields:
        if field.kind == GRPC_TIMEOUT:
            left = grpc_timeout(field.value)
            if left is None:
                return False
            left = min(left, _MAX_DEADLINE_MS)
            head.deadline = left if head.deadline < 0 else min(left, head.deadline)
            said = True
        elif field.name == b"grpc-previous-rpc-attempts":
            value = field.value
            if not value or len(value) > 4 or value.translate(None, _DIGITS):
                return False
            head.attempt = max(head.attempt, int(value) + 1)
            said = True
    if said:
        fields = [field for field in fields if field.kind != GRPC_TIMEOUT and field.name != b"grpc-previous-rpc-attempts"]
    head.fields = fields
    return True


def _remember(raw: bytes, path: bytes) -> None:
    if len(raw) <= _MEMO_OCTETS:
        if len(_PATHS) >= _MEMO:
            _PATHS.clear()
        _PATHS[raw] = path


def connection_options(value: bytes) -> tuple[bytes, ...] | None:
    """RFC 9110 7.6.1: names that a Connection field takes out of the request; None if it names a protected one (E2)."""
    known = _OPTIONS.get(value)
    if known is not None:
        return known
    names: list[bytes] = []
    for part in value.lower().split(b","):
        name = part.strip(b" \t")
        if not name or name in (b"close", b"keep-alive", b"upgrade", b"te"):
            continue
        if kind_of(name) in PROTECTED:
            return None
        names.append(name)
    options = tuple(names)
    if len(value) <= _MEMO_OCTETS:
        if len(_OPTIONS) >= _MEMO:
            _OPTIONS.clear()
        _OPTIONS[value] = options
    return options


def canonical_path(raw: bytes) -> bytes | None:
    r"""The one form of a path (RFC 3986 6.2.2), strict profile of threat D1; None: refused.

    Unreserved octets are decoded, other escapes get upper-case digits. Refused: no leading slash, `//`, dot segments
    (also escaped), escaped `/`, `\`, NUL or controls, an escaped escape, `;`, octets that no path may hold.
    """
    if not raw or raw[0] != 0x2F or raw.translate(None, _PATH) or b"//" in raw:
        return None
    if b"%" in raw:
        decoded = _decode(raw)
        if decoded is None:
            return None
        raw = decoded
    if b"/." in raw:
        for segment in raw.split(b"/"):
            if segment in {b".", b".."}:
                return None
    return raw


def _decode(raw: bytes) -> bytes | None:
    parts = raw.split(b"%")
    out = [parts[0]]
    for at in range(1, len(parts)):
        part = parts[at]
        digits = part[:2]
        if len(digits) != 2 or digits.translate(None, _HEX):
            return None
        octet = int(digits, 16)
        if octet in _UNRESERVED:
            out.append(bytes((octet,)))
        elif octet < 0x20 or octet == 0x7F or octet in b"/\\":
            return None
        else:
            out.append(b"%" + digits.upper())
        out.append(part[2:])
    path = b"".join(out)
    for part in path.split(b"%25")[1:]:
        if len(part) >= 2 and not part[:2].translate(None, _HEX):
            return None  # an escaped escape (`%252f`, `%25%32%66`): whoever decodes twice reads another path
    return path


def canonical_authority(raw: bytes) -> tuple[bytes, bytes] | None:
    """An authority in lower case, and its host without the port (RFC 9110 4.2.3); None: refused (B2, A7)."""
    lowered = raw.lower()
    if lowered.startswith(b"["):
        close = lowered.find(b"]")
        host, rest = lowered[: close + 1], lowered[close + 1 :]
        if close < 3 or host[1:-1].translate(None, _HEX + b":."):
            return None
    else:
        colon = lowered.find(b":")
        host, rest = (lowered, b"") if colon < 0 else (lowered[:colon], lowered[colon:])
        if not host or len(host) > 253 or host.translate(None, _HOST):
            return None
    if rest:
        port = rest[1:]
        if rest[0] != 0x3A or not port or len(port) > 5 or port.translate(None, _DIGITS) or int(port) > 65535:
            return None
    pair = (lowered, host)
    if len(raw) <= _MEMO_OCTETS:
        if len(_AUTHORITIES) >= _MEMO:
            _AUTHORITIES.clear()
        _AUTHORITIES[raw] = pair
    return pair

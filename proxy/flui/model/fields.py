"""Header and trailer fields (RFC 9110 5), validated and classified once per distinct line.

A field carries its validated parts, its wire octets and a small integer, its *kind*. What matters about a field is
asked of the kind; forwarding joins wire octets, nothing is formatted again.
"""

from __future__ import annotations

from typing import Final

# Kinds. Those up to KEPT are forwarded as they are; everything above is handled where its kind is named, or dropped.
PLAIN: Final = 0
"""Never looked at again."""
LENGTH: Final = 1
"""content-length; its value is canonical decimal."""
CONTENT_TYPE: Final = 2
AUTHORIZATION: Final = 3
EXPECT: Final = 4
TRACE: Final = 5
"""A well-formed traceparent; one that is not is OURS, for it is replaced and not forwarded."""
TRACE_STATE: Final = 6
"""tracestate: means something beside its own traceparent only."""
KEY: Final = 7
"""flui-key: the consistent-hash key."""
IDEMPOTENCY: Final = 8
"""idempotency-key: the request may be sent again whatever its method."""
GRPC_TYPE: Final = 9
"""content-type of a gRPC call (`is_grpc`)."""
GRPC_TIMEOUT: Final = 10
"""grpc-timeout: read, and said anew, where the request is a call; forwarded otherwise."""
KEPT: Final = 10
HOST: Final = 11
CODING: Final = 12
"""transfer-encoding; its value is exactly `chunked`."""
CONNECTION: Final = 13
"""connection: names what must not be forwarded (RFC 9110 7.6.1)."""
HOP: Final = 14
"""Other fields that end at this hop."""
UPGRADE: Final = 15
OURS: Final = 16
"""Fields that only a sidecar may mint, and every name that folds to one of them: never taken from a peer."""
DEADLINE: Final = 17
"""flui-deadline: what is left of the caller's deadline, in milliseconds."""
FORWARDED: Final = 18
"""forwarded, x-forwarded-*, x-real-ip …: only an allow-listed hop may say them."""
ATTEMPT: Final = 19
"""flui-attempt: somebody before us sends this request for the second or a further time."""
PRIORITY: Final = 20
"""flui-priority: what may be shed first."""

SINGLETONS: Final = frozenset(
    (HOST, CODING, TRACE, KEY, IDEMPOTENCY, DEADLINE, ATTEMPT, PRIORITY, AUTHORIZATION, CONTENT_TYPE, GRPC_TYPE, GRPC_TIMEOUT)
)
"""Kinds of which a second line makes the request malformed (a list could be read differently behind us)."""

_KINDS: Final[dict[bytes, int]] = {
    b"content-length": LENGTH,
    b"host": HOST,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"keep-alive": HOP,
    b"proxy-connection": HOP,
    b"proxy-authenticate": HOP,
    b"proxy-authorization": HOP,
    b"te": HOP,
    b"trailer": HOP,
    b"http2-settings": HOP,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"traceparent": TRACE,
    b"tracestate": TRACE_STATE,
    b"flui-key": KEY,
    b"flui-deadline": DEADLINE,
    b"flui-attempt": ATTEMPT,
    b"flui-priority": PRIORITY,
    b"idempotency-key": IDEMPOTENCY,
    b"authorization": AUTHORIZATION,
    b"content-type": CONTENT_TYPE,
    b"grpc-timeout": GRPC_TIMEOUT,
    b"forwarded": FORWARDED,
    b"x-real-ip": FORWARDED,
    b"x-client-ip": FORWARDED,
    b"x-cluster-client-ip": FORWARDED,
    b"true-client-ip": FORWARDED,
    # threats D4: what was authorised is the method on the wire
    b"x-http-method-override": OURS,
    b"x-http-method": OURS,
    b"x-method-override": OURS,
    # threats D1: what was authorised is the path on the wire; some servers read these in its place
    b"x-original-url": OURS,
    b"x-rewrite-url": OURS,
}

_PREFIXES: Final = ((b"flui-", OURS), (b"x-forwarded-", FORWARDED), (b"x-envoy-", FORWARDED))

_FOLD: Final = bytes.maketrans(b"_.", b"--")

PROTECTED: Final = SINGLETONS | {LENGTH, OURS, FORWARDED}
"""Kinds that a Connection option may not name: dropping them on a peer's word would change what was authorised (E2)."""


def kind_of(name: bytes) -> int:
    """Kind of a lower-case field name.

    A name that only *folds* to one of the special ones (`x_real_ip`, `flui.principal`) is OURS, whatever the name it
    folds to: a module behind us may well read `_` and `-` alike, so it must never arrive (threats E3).
    """
    kind = _KINDS.get(name)
    if kind is not None:
        return kind
    folded = name.translate(_FOLD)
    for prefix, prefixed in _PREFIXES:
        if folded.startswith(prefix):
            return prefixed if folded == name else OURS
    return OURS if folded != name and folded in _KINDS else PLAIN


class Field:
    """One validated field line. Shared between exchanges, so never changed."""

    __slots__ = ("kind", "name", "value", "wire")

    def __init__(self, name: bytes, value: bytes, wire: bytes, kind: int) -> None:
        self.name = name
        """Lower case."""
        self.value = value
        """Without surrounding blanks."""
        self.wire = wire
        """`name: value` and CRLF, as HTTP/1.1 sends it."""
        self.kind = kind

    def __repr__(self) -> str:
        return f"Field({self.name!r}: {self.value!r})"


_LOWER_HEX: Final = b"0123456789abcdef"
_NO_TRACE: Final = b"0" * 32
_NO_PARENT: Final = b"0" * 16


def is_traceparent(value: bytes) -> bool:
    """W3C Trace Context 3.2.2: version 00, lower-case hex, ids not all zero."""
    return (
        len(value) == 55
        and value[:3] == b"00-"
        and value[35] == value[52] == 0x2D
        and value.translate(None, _LOWER_HEX) == b"---"
        and value[3:35] != _NO_TRACE
        and value[36:52] != _NO_PARENT
    )


def is_sampled(traceparent: bytes) -> bool:
    """Whether a well-formed traceparent asks for spans (W3C Trace Context 3.2.2.5: the lowest bit of its flags)."""
    return traceparent[54] in b"13579bdf"


_GRPC: Final = b"application/grpc"


def is_grpc(content_type: bytes) -> bool:
    """Whether a content-type is that of a call: `application/grpc`, with any `+format` and parameters; gRPC-Web is another protocol."""
    if content_type == _GRPC:
        return True
    if content_type[:16].lower() != _GRPC:
        return False
    rest = content_type[16:].lstrip(b" \t")
    return not rest or rest[0] == 0x3B or content_type[16] == 0x2B


def classified(name: bytes, value: bytes) -> Field:
    """The field of a lower-case name and a value, both known to be clean octets."""
    kind = kind_of(name)
    if kind == TRACE and not is_traceparent(value):
        kind = OURS
    elif kind == CONTENT_TYPE and is_grpc(value):
        kind = GRPC_TYPE
    return Field(name, value, b"%b: %b\r\n" % (name, value), kind)


def field(name: bytes, value: bytes) -> Field:
    """A field of our own making, to be sent as it is: lower-case name, value known to be clean."""
    return Field(name, value, b"%b: %b\r\n" % (name, value), PLAIN)

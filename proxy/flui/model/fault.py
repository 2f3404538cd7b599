"""Why an exchange failed, and what each protocol calls it. No status or close code is written anywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


@dataclass(frozen=True, slots=True)
class Dialects:
    """How one fault is said in each protocol."""

    http: int
    """HTTP status code (RFC 9110 15)."""
    title: str
    """What a peer is told; names the request, never the inside."""
    grpc: int
    """gRPC status code."""
    h2: int
    """HTTP/2 error code for RST_STREAM (RFC 9113 7)."""
    h3: int
    """HTTP/3 error code (RFC 9114 8.1)."""
    ws: int
    """WebSocket close code (RFC 6455 7.4.1)."""
    retry_after_s: int = 0
    """When to come back; 0: not said."""


class Fault(Enum):
    """The reasons, by who caused them."""

    # the one who asked
    MALFORMED = "malformed"
    HEAD_TOO_LARGE = "head_too_large"
    TARGET_TOO_LONG = "target_too_long"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_CODING = "unsupported_coding"
    UNSUPPORTED_VERSION = "unsupported_version"
    UPGRADE_REFUSED = "upgrade_refused"
    METHOD_REFUSED = "method_refused"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    """The path is there, for other methods."""
    UNSUPPORTED_TYPE = "unsupported_type"
    """The body is of a kind that nobody here reads."""
    REQUEST_TIMEOUT = "request_timeout"
    CALLER_GONE = "caller_gone"
    # what was decided
    DENIED = "denied"
    NO_ROUTE = "no_route"
    POLICY_UNAVAILABLE = "policy_unavailable"
    DEADLINE_PASSED = "deadline_passed"
    RATE_LIMITED = "rate_limited"
    INJECTED = "injected"
    # where it went
    NO_ENDPOINT = "no_endpoint"
    CIRCUIT_OPEN = "circuit_open"
    APP_UNAVAILABLE = "app_unavailable"
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_IDENTITY = "upstream_identity"
    UPSTREAM_RESET = "upstream_reset"
    UPSTREAM_UNSENT = "upstream_unsent"
    """The upstream has proven that it did not look at the request (RFC 9113 8.7): any request may be sent again."""
    UPSTREAM_MALFORMED = "upstream_malformed"
    CONNECT_TIMEOUT = "connect_timeout"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    # ourselves
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    INTERNAL = "internal"


# h2: 0 NO_ERROR, 1 PROTOCOL_ERROR, 2 INTERNAL_ERROR, 7 REFUSED_STREAM, 8 CANCEL, 11 ENHANCE_YOUR_CALM
DIALECTS: Final[dict[Fault, Dialects]] = {
    Fault.MALFORMED: Dialects(400, "Bad Request", 13, 1, 0x10E, 1002),
    Fault.HEAD_TOO_LARGE: Dialects(431, "Request Header Fields Too Large", 8, 11, 0x107, 1009),
    Fault.TARGET_TOO_LONG: Dialects(414, "URI Too Long", 8, 11, 0x107, 1009),
    Fault.BODY_TOO_LARGE: Dialects(413, "Content Too Large", 8, 8, 0x10C, 1009),
    Fault.UNSUPPORTED_CODING: Dialects(501, "Not Implemented", 12, 1, 0x10E, 1003),
    Fault.UNSUPPORTED_VERSION: Dialects(505, "HTTP Version Not Supported", 12, 1, 0x110, 1002),
    Fault.UPGRADE_REFUSED: Dialects(501, "Not Implemented", 12, 8, 0x10C, 1003),
    Fault.METHOD_REFUSED: Dialects(501, "Not Implemented", 12, 8, 0x10C, 1003),
    Fault.METHOD_NOT_ALLOWED: Dialects(405, "Method Not Allowed", 12, 8, 0x10C, 1003),
    Fault.UNSUPPORTED_TYPE: Dialects(415, "Unsupported Media Type", 3, 8, 0x10C, 1003),
    Fault.REQUEST_TIMEOUT: Dialects(408, "Request Timeout", 4, 8, 0x10C, 1001),
    Fault.CALLER_GONE: Dialects(499, "Client Closed Request", 1, 8, 0x10C, 1001),
    Fault.DENIED: Dialects(403, "Forbidden", 7, 8, 0x10C, 1008),
    Fault.NO_ROUTE: Dialects(404, "Not Found", 12, 8, 0x10C, 1008),
    Fault.POLICY_UNAVAILABLE: Dialects(503, "Service Unavailable", 14, 7, 0x10B, 1013, retry_after_s=1),
    Fault.DEADLINE_PASSED: Dialects(504, "Gateway Timeout", 4, 8, 0x10C, 1013),
    Fault.RATE_LIMITED: Dialects(429, "Too Many Requests", 8, 11, 0x107, 1013, retry_after_s=1),
    Fault.INJECTED: Dialects(503, "Service Unavailable", 14, 7, 0x10B, 1013),
    Fault.NO_ENDPOINT: Dialects(503, "Service Unavailable", 14, 7, 0x10B, 1013, retry_after_s=1),
    Fault.CIRCUIT_OPEN: Dialects(503, "Service Unavailable", 14, 7, 0x10B, 1013, retry_after_s=1),
    Fault.APP_UNAVAILABLE: Dialects(503, "Service Unavailable", 14, 7, 0x10B, 1013, retry_after_s=1),
    Fault.UPSTREAM_REFUSED: Dialects(502, "Bad Gateway", 14, 7, 0x10B, 1014),
    Fault.UPSTREAM_IDENTITY: Dialects(502, "Bad Gateway", 14, 7, 0x10B, 1014),
    Fault.UPSTREAM_RESET: Dialects(502, "Bad Gateway", 14, 2, 0x102, 1014),
    Fault.UPSTREAM_UNSENT: Dialects(503, "Service Unavailable", 14, 7, 0x10B, 1013),
    Fault.UPSTREAM_MALFORMED: Dialects(502, "Bad Gateway", 13, 2, 0x102, 1014),
    Fault.CONNECT_TIMEOUT: Dialects(504, "Gateway Timeout", 14, 7, 0x10B, 1013),
    Fault.UPSTREAM_TIMEOUT: Dialects(504, "Gateway Timeout", 4, 8, 0x10C, 1013),
    Fault.OVERLOADED: Dialects(503, "Service Unavailable", 14, 7, 0x10B, 1013, retry_after_s=1),
    Fault.DRAINING: Dialects(503, "Service Unavailable", 14, 7, 0x10B, 1001, retry_after_s=1),
    Fault.INTERNAL: Dialects(500, "Internal Server Error", 13, 2, 0x102, 1011),
}

SHED: Final = frozenset((Fault.OVERLOADED, Fault.CIRCUIT_OPEN, Fault.RATE_LIMITED))
"""Refused because there was too much: sending it again adds to it, so nobody does (threats H1)."""

UNSENT: Final = frozenset((Fault.APP_UNAVAILABLE,))
"""The module was not there to be asked. If it was not asked before either, any request may be sent to another replica."""

ENDPOINT_FAULTS: Final = frozenset(
    (
        Fault.UPSTREAM_REFUSED,
        Fault.UPSTREAM_IDENTITY,
        Fault.UPSTREAM_RESET,
        Fault.UPSTREAM_MALFORMED,
        Fault.CONNECT_TIMEOUT,
        Fault.UPSTREAM_TIMEOUT,
        Fault.APP_UNAVAILABLE,
        Fault.DEADLINE_PASSED,
    )
)
"""Faults that speak against the endpoint that was asked."""

SHED_NAMES: Final = frozenset(fault.value.encode() for fault in SHED)
"""As another sidecar says them."""
UNSENT_NAMES: Final = frozenset(fault.value.encode() for fault in UNSENT)
"""The same."""

"""Frames of HTTP/2 (RFC 9113 4 and 6): their numbers, and the octets of those that we make.

    +-----------------------------------------------+
    | length (24) | type (8) | flags (8) | R, stream (32) | payload … |
    +-----------------------------------------------+

Reading them is one loop in `connection`; nothing here is called per frame that is read.
"""

from __future__ import annotations

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113 3.4)."""

HEADER: Final = struct.Struct(">HBBBI")
"""Length in two parts, type, flags, stream."""
HEADER_OCTETS: Final = 9
FRAME_OCTETS: Final = 16384
"""Longest payload that we take and make: the protocol's own default, which every peer takes (RFC 9113 4.2)."""
LAST_STREAM: Final = 0x7FFFFFFF
MAX_WINDOW: Final = 0x7FFFFFFF
FIRST_WINDOW: Final = 65535
"""Flow-control windows before anybody has said otherwise (RFC 9113 6.9.2)."""

# Types (RFC 9113 6).
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

# Error codes (RFC 9113 7).
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11

# Settings (RFC 9113 6.5.2; RFC 8441 3).
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6
ENABLE_CONNECT_PROTOCOL: Final = 8

SETTINGS_ACK: Final = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"

_SETTING: Final = struct.Struct(">HI")
_WORD: Final = struct.Struct(">HBBBII")
_WORDS: Final = struct.Struct(">HBBBIII")


def header(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine octets before a payload of `length` octets."""
    return HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream)


def settings(values: list[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join([_SETTING.pack(name, value) for name, value in values])
    return header(len(payload), SETTINGS, 0, 0) + payload


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Names and values of a SETTINGS payload whose length is a multiple of six."""
    return [(name, value) for name, value in _SETTING.iter_unpack(payload)]


def rst_stream(stream: int, code: int) -> bytes:
    """A stream ends here and now."""
    return _WORD.pack(0, 4, RST_STREAM, 0, stream, code)


def window_update(stream: int, octets: int) -> bytes:
    """`octets` more may be sent on the stream; 0: on the connection."""
    return _WORD.pack(0, 4, WINDOW_UPDATE, 0, stream, octets)


def goaway(last: int, code: int) -> bytes:
    """No stream above `last` was or will be looked at."""
    return _WORDS.pack(0, 8, GOAWAY, 0, 0, last, code)


def ping(opaque: bytes, *, ack: bool) -> bytes:
    """A PING with its eight octets."""
    return header(8, PING, ACK if ack else 0, 0) + opaque

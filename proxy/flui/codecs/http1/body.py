"""Message bodies on the way in (RFC 9112 6, 7): octets become Data and End, never more Data than there is credit for.

LENGTH    Content-Length counts down
CHUNKED   size line → octets → CRLF → … → 0 → trailer section
CLOSE     everything until the peer closes (responses only)
"""

from __future__ import annotations

from typing import Final

from flui.codecs.http1.lines import FIELDS, Malformed, parse_field
from flui.model.config import Limits
from flui.model.events import Data, End, Event
from flui.model.fault import Fault
from flui.model.fields import PLAIN, Field
from flui.model.units import KIB

_LENGTH: Final = 0
_CHUNKED: Final = 1
_CLOSE: Final = 2

_SIZE: Final = 0
_OCTETS: Final = 1
_CRLF: Final = 2
_TRAILERS: Final = 3

_HEX: Final = b"0123456789abcdefABCDEF"
_EXTENSION: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_EXTENSION_OCTETS: Final = 256
_EXTENSIONS_OCTETS: Final = 16 * KIB
_SIZE_DIGITS: Final = 16

FORBIDDEN_TRAILERS: Final = frozenset((
    # RFC 9110 6.5.1: what frames, routes, modifies, authenticates, or says how to read the content must come before it.
    b"accept", b"accept-encoding", b"age", b"cache-control", b"content-encoding", b"content-range", b"content-location",
    b"cookie", b"set-cookie", b"date", b"expires", b"if-match", b"if-modified-since", b"if-none-match", b"if-range",
    b"if-unmodified-since", b"location", b"max-forwards", b"origin", b"pragma", b"range", b"referer", b"retry-after",
    b"tracestate", b"baggage", b"vary", b"via", b"warning", b"www-authenticate", b"idempotency-key",
    b"grpc-timeout", b"grpc-encoding",
))  # fmt: skip
"""Plain fields that are dropped from a trailer section; every field of a special kind is dropped as well (A11)."""


class Body:
    """Reads the bodies of one connection, one after the other."""

    __slots__ = ("_extensions", "_left", "_limits", "_mode", "_state", "_total", "_trailer_octets", "_trailers", "credit", "done")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._mode = _LENGTH
        self._state = _SIZE
        self._left = 0
        self._total = 0
        self._extensions = 0
        self._trailer_octets = 0
        self._trailers: list[Field] | None = None
        self.credit = 0
        """Octets of Data that may still be handed on."""
        self.done = True
        """No body is being read."""

    def begin_length(self, octets: int) -> None:
        """The next `octets` octets are the body; at least one."""
        self._mode = _LENGTH
        self._left = octets
        self.done = False

    def takes_whole(self, octets: int) -> bool:
        """Whether so many octets are exactly the body that has just begun; if so it is done, and they are its Data."""
        if octets != self._left or self._mode != _LENGTH or octets > self.credit:
            return False
        self._left = 0
        self.credit -= octets
        self.done = True
        return True

    def begin_chunked(self, head_octets: int = 0) -> None:
        """The body is chunked; its trailer section shares the limit of octets with the head, which had `head_octets`."""
        self._mode = _CHUNKED
        self._state = _SIZE
        self._left = self._total = self._extensions = 0
        self._trailer_octets = head_octets
        self._trailers = None
        self.done = False

    def begin_close(self) -> None:
        """The body ends with the connection."""
        self._mode = _CLOSE
        self.done = False

    def eof(self, stream: int, events: list[Event]) -> bool:
        """The peer will send no more. True when that completes the body."""
        if self._mode == _CLOSE and not self.done:
            self.done = True
            events.append(End(stream))
            return True
        return False

    def read(self, stream: int, data: bytes, events: list[Event], most: int) -> bytes:
        """Takes what `data` holds of the body and returns the rest: not of this body, not yet whole, or without credit.

        Args:
            stream: Number of the exchange, for the events.
            data: What has come and was not taken before.
            events: Receives Data and End.
            most: Longest body in octets; 0 for no limit. (A declared length was checked with the head.)

        Raises:
            Malformed: broken chunked coding, or too long.
        """
        if self._mode == _CHUNKED:
            return self._read_chunked(stream, data, events, most)
        size = len(data)
        take = min(self.credit, size)
        if self._mode == _LENGTH and self._left < take:
            take = self._left
        if take:
            self.credit -= take
            if take == size:
                events.append(Data(stream, data))
                data = b""
            else:
                events.append(Data(stream, data[:take]))
                data = data[take:]
            if self._mode == _LENGTH:
                self._left -= take
                if not self._left:
                    self.done = True
                    events.append(End(stream))
        return data

    def _read_chunked(self, stream: int, data: bytes, events: list[Event], most: int) -> bytes:
        at = 0
        size = len(data)
        while True:
            if self._state == _OCTETS:
                if not self.credit or at == size:
                    break
                take = min(self._left, size - at, self.credit)
                events.append(Data(stream, data[at : at + take] if at or take < size else data))
                at += take
                self._left -= take
                self.credit -= take
                if self._left:
                    break
                self._state = _CRLF
            if self._state == _CRLF:
                if size - at < 2:
                    if at < size and data[at] != 0x0D:
                        raise Malformed(Fault.MALFORMED)
                    break
                if data[at : at + 2] != b"\r\n":
                    raise Malformed(Fault.MALFORMED)
                at += 2
                self._state = _SIZE
            end = data.find(b"\r\n", at)
            if end < 0:
                bound = self._limits.head_octets if self._state == _TRAILERS else _SIZE_DIGITS + _EXTENSION_OCTETS + 2
                if size - at > bound:
                    raise Malformed(Fault.HEAD_TOO_LARGE if self._state == _TRAILERS else Fault.MALFORMED)
                break
            line = data[at:end]
            at = end + 2
            if self._state == _SIZE:
                self._size_line(line, most)
            elif not line:
                self.done = True
                events.append(End(stream, self._trailers))
                break
            else:
                self._trailer(line)
        return data[at:] if at else data

    def _size_line(self, line: bytes, most: int) -> None:
        """RFC 9112 7.1: 1*HEXDIG, then extensions, which are checked, counted and never handed on (A4)."""
        digits, semicolon, extension = line.partition(b";")
        if not digits or len(digits) > _SIZE_DIGITS or digits.translate(None, _HEX):
            raise Malformed(Fault.MALFORMED)
        if semicolon:
            self._extensions += len(extension) + 1
            if len(extension) > _EXTENSION_OCTETS or self._extensions > _EXTENSIONS_OCTETS or extension.translate(None, _EXTENSION):
                raise Malformed(Fault.MALFORMED)
        self._left = int(digits, 16)
        self._total += self._left
        if most and self._total > most:
            raise Malformed(Fault.BODY_TOO_LARGE)
        self._state = _OCTETS if self._left else _TRAILERS

    def _trailer(self, line: bytes) -> None:
        self._trailer_octets += len(line) + 2
        kept = FIELDS.get(line)
        field = kept if kept is not None else parse_field(line)
        trailers = self._trailers
        if trailers is None:
            trailers = self._trailers = []
        self._left += 1
        if self._trailer_octets > self._limits.head_octets or self._left > self._limits.fields:
            raise Malformed(Fault.HEAD_TOO_LARGE)
        if field.kind == PLAIN and field.name not in FORBIDDEN_TRAILERS:
            trailers.append(field)

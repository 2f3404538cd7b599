"""Encoding of field blocks (RFC 7541), by the line.

What comes again and again goes into the dynamic table the second time it is said, and costs one octet and one look-up
from then on; what changes each time (trace, deadline, length) never does, and so never pushes out what does not. A head
that is sent again (the same list of fields, which a codec shares between requests that are the same) is encoded once.
Nothing is Huffman-coded: it saves octets only the first two times, and costs more than the copy of them.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from flui.model.events import RequestHead, ResponseHead
from flui.model.fields import CODING, CONNECTION, DEADLINE, GRPC_TYPE, HOP, HOST, LENGTH, TRACE, UPGRADE, Field, field

_STATIC: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"), (b":path", b"/index.html"),
    (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"), (b":status", b"204"), (b":status", b"206"),
    (b":status", b"304"), (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""), (b"accept", b""),
    (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""), (b"authorization", b""), (b"cache-control", b""),
    (b"content-disposition", b""), (b"content-encoding", b""), (b"content-language", b""), (b"content-length", b""),
    (b"content-location", b""), (b"content-range", b""), (b"content-type", b""), (b"cookie", b""), (b"date", b""),
    (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""), (b"host", b""), (b"if-match", b""),
    (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b""), (b"if-unmodified-since", b""),
    (b"last-modified", b""), (b"link", b""), (b"location", b""), (b"max-forwards", b""), (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""), (b"range", b""), (b"referer", b""), (b"refresh", b""), (b"retry-after", b""),
    (b"server", b""), (b"set-cookie", b""), (b"strict-transport-security", b""), (b"transfer-encoding", b""),
    (b"user-agent", b""), (b"vary", b""), (b"via", b""), (b"www-authenticate", b""),
)  # fmt: skip
"""RFC 7541 A."""
_PAIRS: Final[dict[tuple[bytes, bytes], int]] = {pair: at + 1 for at, pair in enumerate(_STATIC) if pair[1]}
_NAMES: Final[dict[bytes, int]] = {pair[0]: len(_STATIC) - at for at, pair in enumerate(reversed(_STATIC))}

_SECRET: Final = frozenset((b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"))
"""Never indexed, so that nobody can find them out by the length of what follows (RFC 7541 7.1.3)."""
_HERE: Final = frozenset((HOST, CODING, CONNECTION, HOP, UPGRADE))
"""Kinds that HTTP/2 has no place for (RFC 9113 8.2.2)."""
_FLEETING: Final = frozenset((TRACE, DEADLINE))
_FLEETING_NAMES: Final = frozenset(
    (b"traceparent", b"date", b"grpc-timeout", b"server-timing", b"x-request-id", b"age", b"etag", b"last-modified")
)
"""What changes each time."""

_TABLE_OCTETS: Final = 4096
_LINE_OCTETS: Final = 512
_SEEN: Final = 256
_HEADS: Final = 64
_PSEUDO: Final = 1024
_PSEUDO_FIELDS: Final[dict[tuple[bytes, bytes], Field]] = {}
_TE: Final = field(b"te", b"trailers")
_LENGTH: Final = 28
"""Of `content-length` in the static table."""
_LENGTHS: Final[dict[bytes, bytes]] = {}
"""Octets of its lines, which are the same in every state of a table."""
_LENGTHS_KNOWN: Final = 1024


class Secret(Field):
    """A field line that its sender said must never be indexed, by anyone who passes it on (RFC 7541 6.2.3)."""

    __slots__ = ()


class _Sent:
    """A head that was encoded."""

    __slots__ = ("authority", "block", "fields", "generation", "method", "path", "protocol", "query", "scheme", "status")

    def __init__(self, fields: list[Field], generation: int, block: bytes) -> None:
        self.fields = fields
        self.generation = generation
        self.block = block
        self.status = 0
        self.method = self.scheme = self.authority = self.path = self.query = self.protocol = b""


def integer(value: int, bits: int, first: int) -> bytes:
    """RFC 7541 5.1: an integer with a prefix of `bits` bits in an octet whose other bits are those of `first`."""
    top = (1 << bits) - 1
    if value < top:
        return bytes((first | value,))
    out = [first | top]
    value -= top
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _literal(name: bytes, value: bytes, bits: int, first: int) -> bytes:
    index = _NAMES.get(name, 0)
    start = integer(index, bits, first) if index else b"%c%b%b" % (first, integer(len(name), 7, 0), name)
    return b"%b%b%b" % (start, integer(len(value), 7, 0), value)


def _length(value: bytes) -> bytes:
    octets = _LENGTHS.get(value)
    if octets is None:
        if len(_LENGTHS) >= _LENGTHS_KNOWN:
            _LENGTHS.clear()
        octets = _LENGTHS[value] = b"%b%b%b" % (integer(_LENGTH, 4, 0), integer(len(value), 7, 0), value)
    return octets


def _pseudo(name: bytes, value: bytes) -> Field:
    known = _PSEUDO_FIELDS.get((name, value))
    if known is None:
        known = field(name, value)
        if len(value) <= _LINE_OCTETS:
            if len(_PSEUDO_FIELDS) >= _PSEUDO:
                _PSEUDO_FIELDS.clear()
            _PSEUDO_FIELDS[name, value] = known
    return known


class Encoder:
    """Field blocks of one direction of a connection."""

    __slots__ = ("_entries", "_fleeting", "_generation", "_heads", "_inserted", "_known", "_places", "_room", "_seen", "_size", "_update")

    def __init__(self) -> None:
        self._room = _TABLE_OCTETS
        self._size = 0
        self._entries: deque[tuple[bytes, int]] = deque()
        """Lines in the table, oldest first, with their size."""
        self._places: dict[bytes, int] = {}
        """Line → how many had been inserted before it."""
        self._inserted = 0
        self._known: dict[bytes, bytes] = {}
        """Line → its octets as long as nothing is inserted."""
        self._seen: set[bytes] = set()
        self._heads: dict[int, _Sent] = {}
        self._generation = 0
        self._fleeting = False
        self._update: list[int] = []

    def resize(self, octets: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE. We use no more than the default, whatever it allows."""
        octets = min(octets, _TABLE_OCTETS)
        if octets == self._room and not self._update:
            return
        # RFC 7541 4.2: the smallest size in between is said too
        self._update = [min([octets, *self._update]), octets] if self._update else [octets]
        self._room = octets
        self._evict(0)
        self._known.clear()
        self._generation += 1

    def request(self, head: RequestHead) -> bytes:
        """The field block of a request, with what the relay adds."""
        sent = self._heads.get(id(head.fields))
        if (
            sent is not None
            and sent.generation == self._generation
            and sent.fields is head.fields
            and sent.path == head.path
            and sent.query == head.query
            and sent.method == head.method
            and sent.authority == head.authority
            and sent.scheme == head.scheme
            and sent.protocol == head.protocol
            and not self._update
        ):
            block = sent.block
        else:
            generation = self._generation
            block = self._request(head)
            if generation == self._generation and not self._fleeting:
                sent = self._keep(head.fields, block)
                sent.method, sent.scheme, sent.authority = head.method, head.scheme, head.authority
                sent.path, sent.query, sent.protocol = head.path, head.query, head.protocol
        extra = head.extra
        return block + self.lines(extra) if extra else block

    def response(self, head: ResponseHead) -> bytes:
        """The field block of a response, with what the relay adds."""
        sent = self._heads.get(id(head.fields))
        if (
            sent is not None
            and sent.generation == self._generation
            and sent.fields is head.fields
            and sent.status == head.status
            and not self._update
        ):
            block = sent.block
        else:
            generation = self._generation
            out = [self._begin()]
            self._fleeting = False
            self._line(_pseudo(b":status", b"%d" % head.status), out)
            block = b"".join(out) + self.lines(head.fields)
            if generation == self._generation and not self._fleeting:
                self._keep(head.fields, block).status = head.status
        extra = head.extra
        return block + self.lines(extra) if extra else block

    def trailers(self, fields: list[Field]) -> bytes:
        """The field block of a trailer section."""
        return self._begin() + self.lines(fields)

    def lines(self, fields: list[Field]) -> bytes:
        """The octets of field lines, in order."""
        known = self._known
        out: list[bytes] = []
        for line in fields:
            octets = known.get(line.wire)
            if octets is None:
                self._line(line, out)
            else:
                out.append(octets)
        return b"".join(out)

    def _keep(self, fields: list[Field], block: bytes) -> _Sent:
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        # It holds the list, so no other list can have its number.
        sent = self._heads[id(fields)] = _Sent(fields, self._generation, block)
        return sent

    def _begin(self) -> bytes:
        update = self._update
        if not update:
            return b""
        self._update = []
        self._fleeting = True
        self._generation += 1
        return b"".join([integer(size, 5, 0x20) for size in update])

    def _request(self, head: RequestHead) -> bytes:
        out = [self._begin()]
        self._fleeting = False
        lines = [_pseudo(b":method", head.method)]
        if head.method != b"CONNECT" or head.protocol:
            lines.append(_pseudo(b":scheme", head.scheme))
            lines.append(_pseudo(b":path", head.path + head.query if head.query else head.path))
        lines.append(_pseudo(b":authority", head.authority))
        if head.protocol and head.method == b"CONNECT":
            lines.append(_pseudo(b":protocol", head.protocol))
        fields = head.fields
        grpc = False
        for line in fields:
            if line.kind == GRPC_TYPE:
                grpc = True
        out.append(self.lines(lines))
        out.append(self.lines(fields))
        if grpc:
            self._line(_TE, out, force=True)  # the gRPC protocol over HTTP/2 asks for it, and it is said anew at each hop
        return b"".join(out)

    def _line(self, line: Field, out: list[bytes], force: bool = False) -> None:
        """The octets of a line that is not known as it stands."""
        kind = line.kind
        name, value, wire = line.name, line.value, line.wire
        if kind == LENGTH and not isinstance(line, Secret):
            out.append(_length(value))
            return
        if kind in _HERE and not force:
            return
        place = self._places.get(wire)
        if place is not None:
            octets = integer(61 + self._inserted - place, 7, 0x80)
            self._remember(wire, octets)
        elif name in _SECRET or isinstance(line, Secret):
            octets = _literal(name, value, 4, 0x10)
            if len(wire) <= _LINE_OCTETS:
                self._remember(wire, octets)
        else:
            index = _PAIRS.get((name, value))
            size = len(name) + len(value) + 32
            if index is not None:
                octets = bytes((0x80 | index,))
                self._remember(wire, octets)
            elif kind in _FLEETING or name in _FLEETING_NAMES or size > _LINE_OCTETS or size > self._room:
                octets = _literal(name, value, 4, 0x00)
                self._fleeting = True
            elif wire in self._seen:
                self._seen.discard(wire)
                octets = _literal(name, value, 6, 0x40)
                self._insert(wire, size)
            else:
                if len(self._seen) >= _SEEN:
                    self._seen.clear()
                self._seen.add(wire)
                octets = _literal(name, value, 4, 0x00)
                self._fleeting = True  # the next time it is said in fewer octets
        out.append(octets)

    def _remember(self, wire: bytes, octets: bytes) -> None:
        if len(self._known) >= _SEEN:
            self._known.clear()
        self._known[wire] = octets

    def _insert(self, wire: bytes, size: int) -> None:
        self._evict(size)
        self._entries.append((wire, size))
        self._places[wire] = self._inserted
        self._inserted += 1
        self._size += size
        self._known.clear()  # every index behind it is one more now
        self._generation += 1

    def _evict(self, size: int) -> None:
        while self._entries and self._size + size > self._room:
            wire, gone = self._entries.popleft()
            del self._places[wire]
            self._size -= gone

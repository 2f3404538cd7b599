"""A protobuf message becomes JSON, as the plan of its type says (ProtoJSON, the writing half).

One pass over the octets. Fields are written in the order they have on the wire, as every encoder puts what belongs together side
by side. Where one does not (a singular field twice, a list in parts, two of a oneof), the pass is given up and made again, once,
over messages that are put in order first (`json_order`).

```
decode ── pass over the octets ──▶ JSON
              │ a field comes again
              ▼
          pass that orders each message before it reads it ──▶ JSON
```
"""

from __future__ import annotations

from binascii import b2a_base64
from json.encoder import encode_basestring
from math import isnan
from typing import Final

from flui.model.units import MIB
from flui.translate.json_known import duration_text, mask_text, timestamp_text
from flui.translate.json_order import in_order
from flui.translate.json_scalar import DOUBLE, FLOAT, short_float
from flui.translate.limits import MAX_DEPTH, MAX_NODES
from flui.translate.schema import FieldType, MessageType
from flui.translate.wire import LENGTH, Malformed, known_group, read_length, read_tag, read_varint, signed32, signed64, skip, unzigzag

__all__ = ["MOST", "Malformed", "decode"]

MOST: Final = 64 * MIB
"""Octets of JSON, unless told otherwise: sixteen times the usual message."""

_K_DOUBLE: Final = 1
_K_FLOAT: Final = 2
_K_INT64: Final = 3
_K_UINT64: Final = 4
_K_INT32: Final = 5
_K_FIXED64: Final = 6
_K_FIXED32: Final = 7
_K_BOOL: Final = 8
_K_STRING: Final = 9
_K_GROUP: Final = 10
_K_MESSAGE: Final = 11
_K_BYTES: Final = 12
_K_UINT32: Final = 13
_K_ENUM: Final = 14
_K_SFIXED32: Final = 15
_K_SFIXED64: Final = 16
_K_SINT32: Final = 17
_K_SINT64: Final = 18


class _Again(Malformed):
    """A field comes again: what was written of it does not hold."""


def decode(
    payload: bytes,
    message: MessageType,
    types: dict[str, MessageType],
    field: FieldType | None = None,
    *,
    unknown_any: bool = False,
    most: int = MOST,
) -> bytes:
    """JSON text of a message.

    Args:
        payload: Octets of the message.
        message: Its type.
        types: What an `Any` within may be, by full name.
        field: Only the value of this field of it; where it was not said: `[]`, `{}`, `""`, `0`, `null` for a message.
        unknown_any: An `Any` of no known type is shown with its octets in base64, rather than refused.
        most: Octets the text may have.

    Returns:
        UTF-8, compact. What has its default is left out, unless the field has presence.

    Raises:
        Malformed: It is no such message, holds what JSON cannot say, is nested more than `MAX_DEPTH` levels deep, or makes
            more than `MAX_NODES` values or `most` octets.
    """
    try:
        try:
            text = _whole(_Walk(types, unknown_any, most, False), payload, message, field)
        except _Again:
            text = _whole(_Walk(types, unknown_any, most, True), payload, message, field)
    except IndexError:
        raise Malformed("a field ends beyond its message") from None
    except UnicodeDecodeError:
        raise Malformed("a string is not UTF-8") from None
    made = text.encode()
    if len(made) > most:
        raise Malformed(_TOO_LONG)
    return made


_TOO_LONG: Final = "its JSON is too long"
_TOO_MANY: Final = f"it holds more than {MAX_NODES} values"


def _whole(walk: _Walk, payload: bytes, message: MessageType, field: FieldType | None) -> str:
    if field is None:
        return walk.message(payload, 0, len(payload), message, 1)
    only = in_order(payload, 0, len(payload), message, field)
    parts = walk.fields(only, 0, len(only), message, 1)
    if parts:
        return parts[0][len(field.key) :]
    return ("{}" if field.is_map else "[]") if field.repeated else field.zero_text


class _Walk:
    """One pass over a message. Each method is told where it starts and stops in the octets, and the levels of JSON so far."""

    __slots__ = ("_careful", "_left", "_most", "_types", "_unknown_any")

    def __init__(self, types: dict[str, MessageType], unknown_any: bool, most: int, careful: bool) -> None:
        self._types = types
        self._unknown_any = unknown_any
        self._most = most
        self._careful = careful
        self._left = MAX_NODES - 1
        """Values there may still be."""

    def _count(self, values: int) -> None:
        """So many more were written."""
        self._left -= values
        if self._left < 0:
            raise Malformed(_TOO_MANY)

    def message(self, payload: bytes, at: int, end: int, message: MessageType, depth: int) -> str:
        """Text of a message."""
        if depth > MAX_DEPTH:
            raise Malformed(f"it is nested more than {MAX_DEPTH} levels deep")
        if message.well_known:
            return self._known(payload, at, end, message, depth)
        parts = self.fields(payload, at, end, message, depth)
        self._count(len(parts))
        return f"{{{','.join(parts)}}}"

    def fields(self, payload: bytes, at: int, end: int, message: MessageType, depth: int) -> list[str]:
        """Text of each field that was said, its name before it."""
        if self._careful:
            payload = in_order(payload, at, end, message)
            at = 0
            end = len(payload)
        parts: list[str] = []
        by_tag = message.by_tag
        seen = 0
        while at < end:
            tag = payload[at]
            if 8 <= tag < 0x80:
                at += 1
            else:
                tag, at = read_tag(payload, at, end)
            field = by_tag.get(tag)
            if field is None:
                at = skip(payload, at, end, tag)
                continue
            if seen & field.bit:
                raise _Again
            kind = field.kind
            if field.repeated:
                if field.is_map:
                    text, at = self._map(payload, at, end, field, tag, depth)
                else:
                    text, at = self._run(payload, at, end, field, tag, by_tag, depth)
                if not text:
                    continue
            elif kind == _K_STRING:
                size = payload[at]
                if size < 0x80:
                    at += 1
                    stop = at + size
                    if stop > end:
                        raise Malformed("a field ends beyond its message")
                else:
                    at, stop = read_length(payload, at, end)
                text = encode_basestring(payload[at:stop].decode())
                at = stop
            elif kind == _K_MESSAGE:
                start, at = read_length(payload, at, end)
                assert field.message is not None
                text = self.message(payload, start, at, field.message, depth + 1)
            elif kind == _K_GROUP:
                start = at
                stop, at = known_group(payload, at, end, tag >> 3)
                assert field.message is not None
                text = self.message(payload, start, stop, field.message, depth + 1)
            else:
                text, at = _scalar(payload, at, end, field)
                if not text:
                    continue
            seen |= field.bit
            if field.presence or text != field.zero_text:
                parts.append(field.key + text)
        if at != end:
            raise Malformed("a field ends beyond its message")
        return parts

    def _run(
        self, payload: bytes, at: int, end: int, field: FieldType, tag: int, by_tag: dict[int, FieldType], depth: int
    ) -> tuple[str, int]:
        """Text of a list, all of whose parts follow one another, the first tag of them read.

        Returns:
            The text, empty: it holds nothing; and where the last part stopped.
        """
        items: list[str] = []
        kind = field.kind
        message = field.message
        size = 0
        while True:
            if kind == _K_STRING:
                start, at = read_length(payload, at, end)
                text = encode_basestring(payload[start:at].decode())
            elif kind == _K_MESSAGE:
                assert message is not None
                start, at = read_length(payload, at, end)
                text = self.message(payload, start, at, message, depth + 1)
            elif kind == _K_GROUP:
                assert message is not None
                start = at
                stop, at = known_group(payload, at, end, tag >> 3)
                text = self.message(payload, start, stop, message, depth + 1)
            elif tag & 7 == LENGTH and kind != _K_BYTES:
                start, at = read_length(payload, at, end)
                text = self._packed(payload, start, at, field)
            else:
                text, at = _scalar(payload, at, end, field)
            if text:
                items.append(text)
                size += len(text)
                if size > self._most or len(items) > self._left:
                    raise Malformed(_TOO_LONG if size > self._most else _TOO_MANY)
            if at >= end:
                break
            if tag < 0x80 and payload[at] == tag:
                at += 1
                continue
            following, behind = read_tag(payload, at, end)
            if following != tag and by_tag.get(following) is not field:
                break
            tag = following
            at = behind
        self._left -= len(items)
        return (f"[{','.join(items)}]" if items else ""), at

    def _packed(self, payload: bytes, at: int, end: int, field: FieldType) -> str:
        """Items of a run of scalars, with commas between them."""
        items: list[str] = []
        size = 0
        while at < end:
            text, at = _scalar(payload, at, end, field)
            if text:
                items.append(text)
                size += len(text)
                if size > self._most or len(items) > self._left:
                    raise Malformed(_TOO_LONG if size > self._most else _TOO_MANY)
        if at != end:
            raise Malformed("a field ends beyond its message")
        if items:
            self._left -= len(items) - 1  # whoever has the run counts it as one
        return ",".join(items)

    def _map(self, payload: bytes, at: int, end: int, field: FieldType, tag: int, depth: int) -> tuple[str, int]:
        """Text of a map, as `_run` gives that of a list."""
        entries: dict[str, str] = {}
        message = field.message
        assert message is not None
        size = 0
        while True:
            start, at = read_length(payload, at, end)
            key, text = self._entry(payload, start, at, message, depth)
            if key:
                entries[key] = text
                size += len(key) + len(text)
                if size > self._most or len(entries) > self._left:
                    raise Malformed(_TOO_LONG if size > self._most else _TOO_MANY)
            if at >= end:
                break
            following, behind = read_tag(payload, at, end)
            if following != tag:
                break
            at = behind
        self._left -= len(entries)
        return (f"{{{','.join([f'{key}:{text}' for key, text in entries.items()])}}}" if entries else ""), at

    def _entry(self, payload: bytes, at: int, end: int, entry: MessageType, depth: int) -> tuple[str, str]:
        """Key, in quotes, and value of an entry of a map; an empty key: its value is none of a closed enum, and it does not count."""
        if self._careful:
            payload = in_order(payload, at, end, entry)
            at = 0
            end = len(payload)
        keys = entry.by_number[1]
        values = entry.by_number[2]
        key = ""
        text = ""
        while at < end:
            tag, at = read_tag(payload, at, end)
            field = entry.by_tag.get(tag)
            if field is keys:
                key, at = _scalar(payload, at, end, keys)
            elif field is not values:
                at = skip(payload, at, end, tag)
            elif values.message is None:
                text, at = _scalar(payload, at, end, values)
                if not text:
                    return "", ""
            else:
                if text:
                    raise _Again
                start, at = read_length(payload, at, end)
                text = self.message(payload, start, at, values.message, depth + 1)
        if at != end:
            raise Malformed("a field ends beyond its message")
        if not text:
            text = values.zero_text if values.message is None else self.message(b"", 0, 0, values.message, depth + 1)
        key = key or keys.zero_text
        return (key if key.startswith('"') else f'"{key}"'), text

    def _known(self, payload: bytes, at: int, end: int, message: MessageType, depth: int) -> str:
        """Text of a well-known message."""
        name = message.well_known
        if name == "Timestamp":
            seconds, nanos = _pair(payload, at, end)
            return timestamp_text(seconds, nanos)
        if name == "Duration":
            seconds, nanos = _pair(payload, at, end)
            return duration_text(seconds, nanos)
        if name == "Value":
            return self._value(payload, at, end, message, depth)
        if name == "Any":
            return self._any(payload, at, end, depth)
        if name == "FieldMask":
            return encode_basestring(mask_text(_paths(payload, at, end)))
        parts = self.fields(payload, at, end, message, depth)
        if name == "Empty":
            return "{}"
        field = message.by_number[1]
        if parts:
            return parts[0][len(field.key) :]
        if name == "Struct":
            return "{}"
        return "[]" if name == "ListValue" else field.zero_text

    def _value(self, payload: bytes, at: int, end: int, message: MessageType, depth: int) -> str:
        """Text of a `google.protobuf.Value`."""
        if self._careful:
            payload = in_order(payload, at, end, message)
            at = 0
            end = len(payload)
        text = ""
        while at < end:
            tag, at = read_tag(payload, at, end)
            field = message.by_tag.get(tag)
            if field is None:
                at = skip(payload, at, end, tag)
                continue
            if text:
                raise _Again
            if field.message is None:
                text, at = _scalar(payload, at, end, field)
                if field.kind == _K_DOUBLE and text.startswith('"'):
                    raise Malformed("a number of a Value is not finite")
            else:
                start, at = read_length(payload, at, end)
                # What a Value holds is on its own level; one within itself, which only a lie tells of, would have no end.
                text = self.message(payload, start, at, field.message, depth + 1 if field.message is message else depth)
        if at != end:
            raise Malformed("a field ends beyond its message")
        return text or "null"

    def _any(self, payload: bytes, at: int, end: int, depth: int) -> str:
        url = ""
        start = 0
        stop = 0
        while at < end:
            tag, at = read_tag(payload, at, end)
            if tag == 0x0A:
                named, at = read_length(payload, at, end)
                url = payload[named:at].decode()
            elif tag == 0x12:
                start, at = read_length(payload, at, end)
                stop = at
            else:
                at = skip(payload, at, end, tag)
        if not url and start == stop:
            return "{}"
        slash = url.rfind("/")
        message = self._types.get(url[slash + 1 :]) if slash >= 0 else None
        self._count(2 if message is None or message.well_known else 1)
        said = f'"@type":{encode_basestring(url)}'
        if message is None:
            if self._unknown_any:
                return f'{{{said},"value":"{b2a_base64(payload[start:stop], newline=False).decode()}"}}'
            raise Malformed("an Any holds a type that is not known")
        if message.well_known and message.well_known != "Empty":
            return f'{{{said},"value":{self.message(payload, start, stop, message, depth + 1)}}}'
        if depth >= MAX_DEPTH:
            raise Malformed(f"it is nested more than {MAX_DEPTH} levels deep")
        parts = self.fields(payload, start, stop, message, depth + 1)
        self._count(len(parts))
        return f"{{{','.join([said, *parts])}}}"


def _scalar(payload: bytes, at: int, end: int, field: FieldType) -> tuple[str, int]:
    """Text of a value of any kind but messages, which starts at `at`; and where it stopped, which the caller holds against `end`.

    An empty text: it is none of its closed enum's.
    """
    kind = field.kind
    if kind == _K_STRING:
        start, at = read_length(payload, at, end)
        return encode_basestring(payload[start:at].decode()), at
    if kind == _K_BYTES:
        start, at = read_length(payload, at, end)
        return f'"{b2a_base64(payload[start:at], newline=False).decode()}"', at
    if kind <= _K_FLOAT:
        return _real(payload, at, end, kind)
    if kind in (_K_FIXED64, _K_FIXED32, _K_SFIXED32, _K_SFIXED64):
        return _fixed(payload, at, end, kind)
    number = payload[at]
    if number < 0x80:
        at += 1
    else:
        number, at = read_varint(payload, at, end)
    if kind == _K_INT32:
        return str(number if number < 0x80000000 else signed32(number)), at
    if kind == _K_ENUM:
        enum = field.enum
        assert enum is not None
        if number >= 0x80000000:
            number = signed32(number)
        named = enum.texts.get(number)
        if named is not None:
            return named, at
        return ("null" if enum.null else "" if enum.closed else str(number)), at
    if kind == _K_BOOL:
        return ("true" if number else "false"), at
    if kind == _K_INT64:
        return f'"{signed64(number)!s}"', at
    if kind == _K_UINT32:
        return str(number & 0xFFFFFFFF), at
    if kind == _K_UINT64:
        return f'"{number!s}"', at
    if kind == _K_SINT32:
        return str(unzigzag(number & 0xFFFFFFFF)), at
    assert kind == _K_SINT64
    return f'"{unzigzag(number)!s}"', at


def _fixed(payload: bytes, at: int, end: int, kind: int) -> tuple[str, int]:
    short = kind in (_K_FIXED32, _K_SFIXED32)
    stop = at + 4 if short else at + 8
    if stop > end:
        raise Malformed("a field ends beyond its message")
    number = int.from_bytes(payload[at:stop], "little", signed=kind >= _K_SFIXED32)
    return (str(number) if short else f'"{number!s}"'), stop


def _real(payload: bytes, at: int, end: int, kind: int) -> tuple[str, int]:
    stop = at + 8 if kind == _K_DOUBLE else at + 4
    if stop > end:
        raise Malformed("a field ends beyond its message")
    value: float = (DOUBLE if kind == _K_DOUBLE else FLOAT).unpack_from(payload, at)[0]
    if value - value != 0.0:
        return ('"NaN"' if isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'), stop
    return (repr(value) if kind == _K_DOUBLE else short_float(value)), stop


def _pair(payload: bytes, at: int, end: int) -> tuple[int, int]:
    """Seconds and nanoseconds of a Timestamp or a Duration."""
    seconds = 0
    nanos = 0
    while at < end:
        tag, at = read_tag(payload, at, end)
        if tag == 0x08:
            seconds, at = read_varint(payload, at, end)
        elif tag == 0x10:
            nanos, at = read_varint(payload, at, end)
        else:
            at = skip(payload, at, end, tag)
    return signed64(seconds), signed32(nanos)


def _paths(payload: bytes, at: int, end: int) -> list[str]:
    """Paths of a FieldMask."""
    paths: list[str] = []
    while at < end:
        tag, at = read_tag(payload, at, end)
        if tag == 0x0A:
            start, at = read_length(payload, at, end)
            paths.append(payload[start:at].decode())
        else:
            at = skip(payload, at, end, tag)
    return paths

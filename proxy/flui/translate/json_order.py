"""A message put in order: each field once, the parts of a list side by side, as its encoder might as well have written it.

The wire lets a field come again: the last value of a scalar counts, messages merge, lists go on, and the last one said of a
oneof drops the others (protobuf encoding guide, "Last One Wins").
"""

from __future__ import annotations

from flui.translate.schema import FieldType, Kind, MessageType
from flui.translate.wire import END, LENGTH, START, read_length, read_tag, read_varint, signed32, skip, skip_group, varint


def in_order(payload: bytes, at: int, end: int, message: MessageType, only: FieldType | None = None) -> bytes:
    """Octets of the same message, nothing in it said twice; messages within are not looked into.

    Args:
        payload: What holds the message.
        at: Where it starts in it.
        end: Where it stops.
        message: Its type.
        only: This field of it alone.

    Raises:
        Malformed: It is no message.
    """
    chunks: dict[int, list[bytes]] = {}
    oneofs: dict[str, int] = {}
    while at < end:
        start = at
        tag, at = read_tag(payload, at, end)
        content = at
        number = tag >> 3
        if tag & 7 == START:
            stop, at = skip_group(payload, at, end, number)
        else:
            at = skip(payload, at, end, tag)
            stop = at
        field = message.by_tag.get(tag)
        if field is None or (field.enum is not None and _stranger(payload, content, at, field, message)):
            continue
        if field.oneof:
            held = oneofs.get(field.oneof, number)
            if held != number:
                del chunks[held]
            oneofs[field.oneof] = number
        if field.repeated:
            chunks.setdefault(number, []).append(payload[start:at])
        elif field.message is None:
            chunks[number] = [payload[start:at]]
        else:
            if tag & 7 == LENGTH:
                content, stop = read_length(payload, content, at)
            chunks.setdefault(number, []).append(payload[content:stop])
    out: list[bytes] = []
    for number, parts in chunks.items():
        field = message.by_number[number]
        if only is not None and field is not only:
            continue
        merged = b"".join(parts)
        if field.repeated or field.message is None:
            out.append(merged)
        elif field.kind == Kind.GROUP:
            out += (field.tag, merged, varint(number << 3 | END))
        else:
            out += (field.tag, varint(len(merged)), merged)
    return b"".join(out)


def _stranger(payload: bytes, at: int, end: int, field: FieldType, message: MessageType) -> bool:
    """Whether the number that starts at `at` is none of the field's closed enum, so that nothing was said.

    Of a list it is an item that is left out, of a map the whole entry: whoever reads those sees to it.
    """
    enum = field.enum
    assert enum is not None
    if not enum.closed or field.repeated or message.map_entry:
        return False
    number, _ = read_varint(payload, at, end)
    return signed32(number) not in enum.names

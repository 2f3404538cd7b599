"""Octets of protobuf's wire: varints, tags, lengths, groups (protobuf encoding guide, "Encoding").

Nothing here knows a message. A reader is given the octets, where to start and where to stop, and never takes a field that ends
beyond that. What does not hold together is `Malformed`.
"""

from __future__ import annotations

from typing import Final

from flui.translate.limits import MAX_DEPTH, MAX_GROUPS

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
START: Final = 3
END: Final = 4
FIXED32: Final = 5

MASK64: Final = 0xFFFFFFFFFFFFFFFF
MASK32: Final = 0xFFFFFFFF
SMALL: Final = 0x3FFFFFFFFFFFFFFF
"""Up to here the compiled form needs no object for a number: asked first wherever larger ones are rare."""

SHORT: Final = tuple(bytes((n,)) for n in range(128))
"""Varints of one octet."""


class Malformed(Exception):  # noqa: N818 - it names what the octets are
    """Octets are no message of the type they are said to be, or hold what JSON cannot say."""


def varint(value: int) -> bytes:
    """Varint of `value`, 0 to 2**64 - 1."""
    if value < 0x80:
        return SHORT[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    made: list[int] = []
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def zigzag(value: int) -> int:
    """What stands on the wire for a signed `value` of up to 64 bits."""
    return ((value << 1) ^ (value >> 63)) & MASK64


def unzigzag(value: int) -> int:
    """The signed value that `value` on the wire stands for."""
    return (value >> 1) ^ -(value & 1)


def signed64(value: int) -> int:
    """A varint read as int64."""
    if value <= SMALL:
        return value
    return value - 0x10000000000000000 if value >= 0x8000000000000000 else value


def signed32(value: int) -> int:
    """A varint read as int32: its low 32 bits count."""
    value &= MASK32
    return value - 0x100000000 if value >= 0x80000000 else value


def read_varint(octets: bytes, at: int, end: int) -> tuple[int, int]:
    """Varint that starts at `at`; bits beyond 64 are dropped, as every reader does.

    Returns:
        The value, and where it stopped.

    Raises:
        Malformed: It goes on past `end`, or past ten octets.
    """
    value = 0
    shift = 0
    while at < end:
        octet = octets[at]
        at += 1
        if octet < 0x80:
            value |= octet << shift
            return (value if shift < 56 else value & MASK64), at
        value |= (octet & 0x7F) << shift
        shift += 7
        if shift == 70:
            raise Malformed("a varint is longer than ten octets")
    raise Malformed("it ends within a varint")


def read_tag(octets: bytes, at: int, end: int) -> tuple[int, int]:
    """Tag that starts at `at`: number of the field times eight, and its wire type.

    Raises:
        Malformed: It goes on past `end`, is longer than five octets or 32 bits, or is of field 0.
    """
    tag, stop = read_varint(octets, at, end)
    if tag > MASK32 or stop - at > 5 or tag < 8:
        raise Malformed("a tag is none")
    return tag, stop


def read_length(octets: bytes, at: int, end: int) -> tuple[int, int]:
    """Length that starts at `at`, and what it measures.

    Returns:
        Where the content starts, and where it stops.

    Raises:
        Malformed: It goes on past `end`.
    """
    length, start = read_varint(octets, at, end)
    if length > end - start:
        raise Malformed("a field ends beyond its message")
    return start, start + length


def skip(octets: bytes, at: int, end: int, tag: int) -> int:
    """Where the field stops whose `tag` was read and whose content starts at `at`.

    Raises:
        Malformed: It goes on past `end`, or is none.
    """
    kind = tag & 7
    if kind == START:
        return skip_group(octets, at, end, tag >> 3)[1]
    return _skip_plain(octets, at, end, kind)


def _skip_plain(octets: bytes, at: int, end: int, kind: int) -> int:
    """`skip` of what is no group."""
    if kind == VARINT:
        return read_varint(octets, at, end)[1]
    if kind == LENGTH:
        return read_length(octets, at, end)[1]
    if kind == FIXED64:
        at += 8
    elif kind == FIXED32:
        at += 4
    elif kind == END:
        raise Malformed("a group ends that was not begun")
    else:
        raise Malformed("a tag is none")
    if at > end:
        raise Malformed("a field ends beyond its message")
    return at


def known_group(octets: bytes, at: int, end: int, number: int) -> tuple[int, int]:
    """`skip_group` of one whose content is walked afterwards: it holds no more than `MAX_GROUPS` levels, itself included."""
    return skip_group(octets, at, end, number, MAX_GROUPS)


def skip_group(octets: bytes, at: int, end: int, number: int, most: int = MAX_DEPTH) -> tuple[int, int]:
    """Finds the end of the group `number` whose content starts at `at`.

    Returns:
        Where the content stops, and where the tag behind it does.

    Raises:
        Malformed: It does not end before `end`, ends with another's tag, or is of more than `most` levels of groups.
    """
    open_groups = [number]
    while True:
        start = at
        tag, at = read_tag(octets, at, end)
        kind = tag & 7
        if kind == END:
            if open_groups.pop() != tag >> 3:
                raise Malformed("a group ends that was not begun")
            if not open_groups:
                return start, at
        elif kind == START:
            if len(open_groups) >= most:
                raise Malformed(f"its groups are nested more than {most} levels deep")
            open_groups.append(tag >> 3)
        else:
            at = _skip_plain(octets, at, end, kind)

"""JSON becomes a protobuf message, as the plan of its type says (ProtoJSON, the reading half).

What does not fit is refused with the path of the field, by the names the JSON used. Extensions (`[pkg.name]`) are not known to
the plans and are unknown fields here. A field that proto2 requires is not missed: whoever reads the message says that.
"""

from __future__ import annotations

from typing import Final

from flui.translate.json_known import duration_of, mask_of, timestamp_of
from flui.translate.json_scalar import DOUBLE, map_key, real, scalar, text
from flui.translate.json_text import below, parse
from flui.translate.limits import MAX_DEPTH
from flui.translate.schema import FieldType, MessageType, Unfit
from flui.translate.wire import END, MASK64, SHORT, varint

__all__ = ["encode", "parse"]

_K_STRING: Final = 9
_K_GROUP: Final = 10
_K_MESSAGE: Final = 11
_AN_OBJECT: Final = "an object is expected"


def encode(tree: object, message: MessageType, types: dict[str, MessageType]) -> bytes:
    """Octets of the message that a JSON value says.

    Args:
        tree: As `parse` gives it; not changed.
        message: Type of the message.
        types: What an `Any` within may be, by full name.

    Returns:
        Fields in the order in which the JSON says them.

    Raises:
        Unfit: It does not fit.
    """
    return _body(tree, message, types, 1)


def _body(tree: object, message: MessageType, types: dict[str, MessageType], depth: int) -> bytes:
    """A message without its tag and length. `depth`: levels of JSON, this one included."""
    if depth > MAX_DEPTH:
        raise Unfit("", f"it is nested more than {MAX_DEPTH} levels deep")
    if message.well_known:
        return _known(tree, message, types, depth)
    if not isinstance(tree, dict):
        raise Unfit("", _AN_OBJECT)
    return _fields(tree, message, types, depth)


def _fields(tree: dict[str, object], message: MessageType, types: dict[str, MessageType], depth: int) -> bytes:
    out: list[bytes] = []
    by_json = message.by_json
    said = 0
    key = ""
    try:
        for key, value in tree.items():
            field = by_json.get(key)
            if field is None:
                raise Unfit("", "there is no such field")
            if said & field.bit and _counts(value, field):
                raise Unfit("", _twice(tree, key, field, message))
            if value is None and not _takes_null(field):
                if not field.oneof:
                    said |= field.bit
                continue
            said |= field.bit
            kind = field.kind
            if field.repeated:
                out.append(_list(value, field, types, depth))
            elif kind == _K_STRING:
                held = text(value)
                if len(held) > 1 or field.presence:
                    out.append(field.tag)
                    out.append(held)
            elif kind == _K_MESSAGE:
                assert field.message is not None
                held = _body(value, field.message, types, depth + 1)
                size = len(held)
                out.append(field.tag)
                out.append(SHORT[size] if size < 0x80 else varint(size))
                out.append(held)
            elif kind == _K_GROUP:
                out.append(_group(value, field, types, depth))
            else:
                held = scalar(value, kind, field.enum)
                if field.presence or held != field.zero_octets:
                    out.append(field.tag)
                    out.append(held)
    except Unfit as e:
        raise Unfit(below(key, e.path), e.what) from None
    return b"".join(out)


def _takes_null(field: FieldType) -> bool:
    """Whether `null` is a value of it, rather than to say nothing."""
    if field.repeated:
        return False
    if field.enum is not None:
        return field.enum.null
    return field.message is not None and field.message.well_known == "Value"


def _counts(value: object, field: FieldType) -> bool:
    """Whether it is said, so that nothing else may be: `null` for one of a oneof leaves it to the others, unless it is a value."""
    return value is not None or not field.oneof or _takes_null(field)


def _twice(tree: dict[str, object], key: str, field: FieldType, message: MessageType) -> str:
    """Why `field` is one too many."""
    for other, value in tree.items():
        if other == key:
            break
        known = message.by_json.get(other)
        if known is not None and known.bit == field.bit and _counts(value, known):
            return f"it is said twice, as {other} too" if known is field else f"only one of {other} and {key} may be said"
    return "it is said twice"


def _list(value: object, field: FieldType, types: dict[str, MessageType], depth: int) -> bytes:
    """A repeated field, with its tags."""
    if field.is_map:
        return _map(value, field, types, depth)
    if not isinstance(value, list):
        raise Unfit("", "a list is expected")
    if not value:
        return b""
    out: list[bytes] = []
    tag = field.tag
    message = field.message
    at = 0
    try:
        for item in value:
            if message is None:
                if not field.packed:
                    out.append(tag)
                out.append(scalar(item, field.kind, field.enum))
            elif item is None and message.well_known != "Value":
                raise Unfit("", "null is no element of a list")
            elif field.kind == _K_GROUP:
                out.append(_group(item, field, types, depth))
            else:
                held = _body(item, message, types, depth + 1)
                out.append(tag)
                out.append(varint(len(held)))
                out.append(held)
            at += 1
    except Unfit as e:
        raise Unfit(below(f"[{at}]", e.path), e.what) from None
    made = b"".join(out)
    return tag + varint(len(made)) + made if field.packed else made


def _group(value: object, field: FieldType, types: dict[str, MessageType], depth: int) -> bytes:
    assert field.message is not None
    return field.tag + _body(value, field.message, types, depth + 1) + varint(field.number << 3 | END)


def _map(value: object, field: FieldType, types: dict[str, MessageType], depth: int) -> bytes:
    if not isinstance(value, dict):
        raise Unfit("", _AN_OBJECT)
    assert field.message is not None
    keys = field.message.by_number[1]
    values = field.message.by_number[2]
    message = values.message
    out: list[bytes] = []
    key = ""
    try:
        for key, item in value.items():
            held_key = map_key(key, keys.kind)
            if message is None:
                held = scalar(item, values.kind, values.enum)
            elif item is None and message.well_known != "Value":
                raise Unfit("", "null is no value of a map")
            else:
                held = _body(item, message, types, depth + 1)
                held = varint(len(held)) + held
            entry = keys.tag + held_key + values.tag + held
            out.append(field.tag)
            out.append(varint(len(entry)))
            out.append(entry)
    except Unfit as e:
        raise Unfit(below(f'["{key}"]', e.path), e.what) from None
    return b"".join(out)


def _known(tree: object, message: MessageType, types: dict[str, MessageType], depth: int) -> bytes:
    """A well-known message."""
    name = message.well_known
    if name == "Timestamp":
        return _pair(timestamp_of(tree))
    if name == "Duration":
        return _pair(duration_of(tree))
    if name == "Value":
        return _value(tree, depth)
    if name == "Struct":
        return _struct(tree, depth)
    if name == "ListValue":
        return _values(tree, depth)
    if name == "Any":
        return _any(tree, types, depth)
    if name == "FieldMask":
        return b"".join([b"\x0a" + text(path) for path in mask_of(tree)])
    if name == "Empty":
        if not isinstance(tree, dict):
            raise Unfit("", _AN_OBJECT)
        for key in tree:
            raise Unfit(str(key), "there is no such field")
        return b""
    field = message.by_number[1]  # one of the wrappers
    held = scalar(tree, field.kind, field.enum)
    return b"" if held == field.zero_octets else field.tag + held


def _pair(seconds_nanos: tuple[int, int]) -> bytes:
    """A Timestamp or a Duration."""
    seconds, nanos = seconds_nanos
    made = b"\x08" + varint(seconds & MASK64) if seconds else b""
    return made + b"\x10" + varint(nanos & MASK64) if nanos else made


def _value(tree: object, depth: int) -> bytes:
    """A `google.protobuf.Value`."""
    if tree is None:
        return b"\x08\x00"
    if isinstance(tree, str):
        return b"\x1a" + text(tree)
    if isinstance(tree, bool):
        return b"\x20\x01" if tree else b"\x20\x00"
    if isinstance(tree, dict):
        held = _struct(tree, depth)
        return b"\x2a" + varint(len(held)) + held
    if isinstance(tree, list):
        held = _values(tree, depth)
        return b"\x32" + varint(len(held)) + held
    return b"\x11" + DOUBLE.pack(real(tree))


def _struct(tree: object, depth: int) -> bytes:
    if not isinstance(tree, dict):
        raise Unfit("", _AN_OBJECT)
    if depth > MAX_DEPTH:
        raise Unfit("", f"it is nested more than {MAX_DEPTH} levels deep")
    out: list[bytes] = []
    key = ""
    try:
        for key, item in tree.items():
            held = _value(item, depth + 1)
            entry = b"\x0a" + text(key) + b"\x12" + varint(len(held)) + held
            out.append(b"\x0a")
            out.append(varint(len(entry)))
            out.append(entry)
    except Unfit as e:
        raise Unfit(below(key, e.path), e.what) from None
    return b"".join(out)


def _values(tree: object, depth: int) -> bytes:
    """A `google.protobuf.ListValue`."""
    if not isinstance(tree, list):
        raise Unfit("", "a list is expected")
    if depth > MAX_DEPTH:
        raise Unfit("", f"it is nested more than {MAX_DEPTH} levels deep")
    out: list[bytes] = []
    at = 0
    try:
        for item in tree:
            held = _value(item, depth + 1)
            out.append(b"\x0a")
            out.append(varint(len(held)))
            out.append(held)
            at += 1
    except Unfit as e:
        raise Unfit(below(f"[{at}]", e.path), e.what) from None
    return b"".join(out)


def _any(tree: object, types: dict[str, MessageType], depth: int) -> bytes:
    if not isinstance(tree, dict):
        raise Unfit("", _AN_OBJECT)
    if not tree:
        return b""
    url = tree.get("@type")
    if not isinstance(url, str):
        raise Unfit("@type", 'the type is expected, such as "type.googleapis.com/shop.Item"')
    slash = url.rfind("/")
    message = types.get(url[slash + 1 :]) if slash >= 0 else None
    if message is None:
        raise Unfit("@type", "there is no such type here")
    rest = {key: value for key, value in tree.items() if key != "@type"}
    if message.well_known and (message.well_known != "Empty" or rest):
        for key in rest:
            if key != "value":
                raise Unfit(key, 'beside "@type" there is only "value"')
        if not rest:
            raise Unfit("value", "it is missing")
        try:
            held = _body(rest["value"], message, types, depth + 1)
        except Unfit as e:
            raise Unfit(below("value", e.path), e.what) from None
    else:
        held = _body(rest, message, types, depth + 1)
    named = b"\x0a" + text(url)
    return named + b"\x12" + varint(len(held)) + held if held else named

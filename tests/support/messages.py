"""Random messages of any type, as the protobuf library holds them, of values that JSON can say."""

import math

from google.protobuf.descriptor import FieldDescriptor as F
from hypothesis import strategies as st

from support.schemas import class_of

INSIDE_ANY = ("flui.tests.Leaf", "flui.tests.Order", "flui.tests.old.Old", "flui.tests.new.New", "google.protobuf.Timestamp",
              "google.protobuf.Duration", "google.protobuf.Int64Value", "google.protobuf.BytesValue", "google.protobuf.Struct",
              "google.protobuf.Value", "google.protobuf.Empty", "google.protobuf.Any", "google.protobuf.FieldMask")  # fmt: skip


def whole(bits, *, signed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.one_of(st.sampled_from((0, 1, low, high)), st.integers(low, high), st.integers(max(low, -200), 300))


LONGEST32 = (2 - 2**-23) * 2.0**127
"""protobuf's own `json_format` says it as 3.4028235e+38, and refuses to read that."""
FLOATS32 = st.floats(width=32).filter(lambda value: abs(value) != LONGEST32).map(lambda value: math.nan if math.isnan(value) else value)
FLOATS64 = st.floats().map(lambda value: math.nan if math.isnan(value) else value)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SCALARS = {
    F.TYPE_DOUBLE: FLOATS64, F.TYPE_FLOAT: FLOATS32, F.TYPE_BOOL: st.booleans(), F.TYPE_STRING: TEXTS, F.TYPE_BYTES: st.binary(max_size=9),
    F.TYPE_INT32: whole(32, signed=True), F.TYPE_SINT32: whole(32, signed=True), F.TYPE_SFIXED32: whole(32, signed=True),
    F.TYPE_INT64: whole(64, signed=True), F.TYPE_SINT64: whole(64, signed=True), F.TYPE_SFIXED64: whole(64, signed=True),
    F.TYPE_UINT32: whole(32, signed=False), F.TYPE_FIXED32: whole(32, signed=False),
    F.TYPE_UINT64: whole(64, signed=False), F.TYPE_FIXED64: whole(64, signed=False),
}  # fmt: skip
NANOS = st.one_of(st.sampled_from((0, 1_000_000, 123_000, 999_999_999, 1)), st.integers(0, 999_999_999))
PATHS = st.from_regex(r"[a-z][a-z0-9]{0,3}(_[a-z]{1,3}){0,2}(\.[a-z]{1,3})?", fullmatch=True)


def scalar(field):
    """Strategy of a value."""
    if field.type != F.TYPE_ENUM:
        return SCALARS[field.type]
    named = st.sampled_from([value.number for value in field.enum_type.values])
    if field.enum_type.is_closed or field.enum_type.name == "NullValue":
        return named
    return st.one_of(named, whole(32, signed=True))


def fill(draw, message, depth):
    """Sets some fields of `message`."""
    kind = message.DESCRIPTOR
    if kind.file.name.startswith("google/protobuf/") and fill_known(draw, message, depth):
        return
    fields = list(kind.fields)
    if not fields:
        return
    chosen = draw(st.lists(st.sampled_from(fields), max_size=6 if depth else 12, unique_by=lambda field: field.number))
    chosen += [field for field in fields if field.is_required and field not in chosen]
    for field in chosen:
        inner = field.message_type
        if inner is not None and depth > 3:
            continue
        if inner is not None and inner.GetOptions().map_entry:
            keys, values = inner.fields_by_name["key"], inner.fields_by_name["value"]
            held = getattr(message, field.name)
            for key in draw(st.lists(scalar(keys), max_size=3)):
                if values.message_type is not None:
                    held[key].SetInParent()
                    fill(draw, held[key], depth + 1)
                else:
                    held[key] = draw(scalar(values))
        elif field.is_repeated:
            held = getattr(message, field.name)
            for _ in range(draw(st.integers(0, 3))):
                if inner is not None:
                    fill(draw, held.add(), depth + 1)
                else:
                    held.append(draw(scalar(field)))
        elif inner is not None:
            getattr(message, field.name).SetInParent()
            fill(draw, getattr(message, field.name), depth + 1)
        else:
            setattr(message, field.name, draw(scalar(field)))


def fill_known(draw, message, depth):
    """Sets a well-known message so that JSON can say it; False: it is an ordinary one."""
    match message.DESCRIPTOR.name:
        case "Timestamp":
            message.seconds = draw(st.one_of(st.sampled_from((-62135596800, 253402300799, 0)), st.integers(-62135596800, 253402300799)))
            message.nanos = draw(NANOS)
        case "Duration":
            sign = draw(st.sampled_from((1, -1)))
            message.seconds = sign * draw(st.one_of(st.integers(0, 315576000000), st.integers(0, 9)))
            message.nanos = sign * draw(NANOS)
        case "FieldMask":
            message.paths.extend(draw(st.lists(PATHS, max_size=3)))
        case "Any":
            if draw(st.booleans()) and depth < 4:
                name = draw(st.sampled_from(INSIDE_ANY))
                inner = class_of(name)()
                fill(draw, inner, depth + 1)
                message.Pack(inner)
        case "Value":
            kinds = ["null", "number", "string", "bool"] + (["struct", "list"] if depth < 5 else [])
            match draw(st.sampled_from(kinds)):
                case "null":
                    message.null_value = 0
                case "number":
                    message.number_value = draw(FLOATS64.filter(math.isfinite))
                case "string":
                    message.string_value = draw(TEXTS)
                case "bool":
                    message.bool_value = draw(st.booleans())
                case "struct":
                    message.struct_value.SetInParent()
                    fill(draw, message.struct_value, depth + 1)
                case "list":
                    message.list_value.SetInParent()
                    fill(draw, message.list_value, depth + 1)
        case "Struct":
            for key in draw(st.lists(TEXTS, max_size=3)):
                fill(draw, message.fields[key], depth + 1)
        case "ListValue":
            for _ in range(draw(st.integers(0, 3))):
                fill(draw, message.values.add(), depth + 1)
        case _:
            return False
    return True


@st.composite
def messages(draw, name):
    """A message of the type `name`."""
    message = class_of(name)()
    fill(draw, message, 0)
    return message

"""Messages to JSON: what cannot be said is refused, what is asked for alone, and bounds."""

import json
import time

import pytest
from google.protobuf import any_pb2
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flui.translate.json_out import Malformed, decode
from flui.translate.json_text import parse
from flui.translate.limits import MAX_DEPTH, MAX_GROUPS, MAX_NODES
from flui.translate.schema import FieldType, Kind, MessageType
from flui.translate.wire import varint
from support.schemas import class_of, oracle_out, schema

ALL = "flui.tests.All"
TYPES = schema().types


def said(payload, name=ALL, field=None, **more):
    plan = TYPES[name]
    return decode(payload, plan, TYPES, plan.by_name[field] if field else None, **more)


def nested(tag, levels, inner=b""):
    for _ in range(levels):
        inner = tag + varint(len(inner)) + inner
    return inner


@settings(deadline=None, max_examples=400)
@given(st.binary(max_size=80), st.sampled_from((ALL, "flui.tests.old.Old", "google.protobuf.Any", "google.protobuf.Value")))
@example(b"\x0b" * 1000, "flui.tests.old.Old")
@example(b"\x3b" * 1000, "flui.tests.old.Old")
def test_any_octets_are_said_or_malformed(payload, name):
    try:
        text = said(payload, name)
    except Malformed:
        return
    json.loads(text)


@settings(deadline=None)
@given(st.data())
def test_octets_the_library_cannot_parse_are_malformed(data):
    """Cut anywhere, or changed in one octet."""
    whole = class_of(ALL)(
        a_double=1.5, an_int64=-1, a_string="héllo", some_bytes=b"\x00\xff", colour=2, doubles=[1, 2], strings=["a", "b"],
        by_int64={-5: 5}, leaf={"sku": "x", "parts": [{"quantity": 3}]}, chosen_flag=True,
    ).SerializeToString()  # fmt: skip
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = data.draw(st.sampled_from((whole[:at], whole[:at] + bytes((data.draw(st.integers(0, 255)),)) + whole[at + 1 :])))
    aside = False
    try:
        message = class_of(ALL).FromString(changed)
        aside = any(each.field_number == TYPES[ALL].by_name["by_int64"].number for each in UnknownFieldSet(message))
        wanted = oracle_out(message)
    except Exception:  # noqa: BLE001 - whatever it says of it
        wanted = None
    try:
        ours = said(changed)
    except Malformed:
        assert wanted is None
        return
    assert wanted is not None
    read = json.loads(ours)
    if aside:  # an entry of a map with an unknown field in it: the library in C puts it aside whole, others read the rest, as we do
        read.pop("byInt64", None)
    assert read == json.loads(wanted)


def test_deep_messages_whose_parts_come_again_take_no_time():
    """Each level holds its message twice, which must be merged: no level may be read anew for each above it."""
    inner = b"\x10\x01"
    for _ in range(18):
        inner = b"\x92\x01" + varint(len(inner)) + inner + b"\x92\x01" + varint(len(inner)) + inner
    start = time.perf_counter()
    assert json.loads(said(inner)) == json.loads(oracle_out(class_of(ALL).FromString(inner)))
    chain = b""
    for _ in range(MAX_DEPTH - 1):
        chain = b"\x92\x01\x00\x92\x01" + varint(len(chain)) + chain + b"\x92\x01\x00"
    said(chain)
    assert time.perf_counter() - start < 20


def test_nesting_is_bounded():
    said(nested(b"\x92\x01", MAX_DEPTH - 1))
    with pytest.raises(Malformed, match="nested"):
        said(nested(b"\x92\x01", MAX_DEPTH))
    with pytest.raises(Malformed, match="nested"):
        said(b"\x33" * 65 + b"\x34" * 65)
    boxed = b""
    for _ in range(MAX_DEPTH + 1):
        boxed = any_pb2.Any(type_url="x/google.protobuf.Any", value=boxed).SerializeToString()
    with pytest.raises(Malformed, match="nested"):
        said(boxed, "google.protobuf.Any")


def grouped(label):
    """Plan of a message with a group in which there is another, and so on."""
    plan = MessageType("a.M")
    plan.seal((FieldType("g", "g", 3, Kind.GROUP, presence=label == "optional", repeated=label == "repeated", message=plan),))
    return plan


@pytest.mark.parametrize("label", ["optional", "repeated"])
def test_groups_within_groups_are_few(label):
    """Each is looked through for its end by every one above it: 62 levels of 256 KiB took seven seconds."""
    plan = grouped(label)

    def groups(levels, held=b""):
        return b"\x1b" * levels + held + b"\x1c" * levels

    assert decode(groups(MAX_GROUPS), plan, {}).count(b"g") == MAX_GROUPS
    assert decode(groups(MAX_GROUPS, b"\x40\x00"), plan, {}) == decode(groups(MAX_GROUPS), plan, {})
    for levels in (MAX_GROUPS + 1, MAX_DEPTH - 2):
        with pytest.raises(Malformed, match=f"groups are nested more than {MAX_GROUPS} levels deep"):
            decode(groups(levels, b"\x40\x00" * 100_000), plan, {})
    with pytest.raises(Malformed, match="groups are nested"):
        decode(groups(1) + groups(MAX_GROUPS + 1), plan, {})


def encoded(message):
    return class_of(ALL)(**message).SerializeToString()


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (lambda n: {"int32s": [0] * n}, 2),
        (lambda n: {"strings": ["x"] * n}, 2),
        (lambda n: {"leaves": [{}] * n}, 2),
        (lambda n: {"by_int64": {key: 1 for key in range(n)}}, 2),
        (lambda n: {"list_value": [None] * n}, 2),
        (lambda n: {"struct": {f"{key}": True for key in range(n)}}, 2),
        (lambda n: {"again": {"again": {"int32s": [1] * n}}}, 4),
        (lambda n: {"int64_value": {"value": 1}, "timestamp": {"seconds": 1}, "leaf": {"sku": "x"}, "int32s": [1] * n}, 6),
    ],
)
def test_values_are_counted_as_they_are_in_a_text(made, values):
    """What may be read may be written, and no more. `values`: those beside the n."""
    parse(said(encoded(made(MAX_NODES - values))))
    with pytest.raises(Malformed, match="it holds more than 100000 values"):
        said(encoded(made(MAX_NODES - values + 1)))


def test_values_beyond_the_bound_are_not_looked_at():
    start = time.perf_counter()
    with pytest.raises(Malformed, match="values"):
        said(encoded({"bools": [True] * 4_000_000}))
    assert time.perf_counter() - start < 2


def test_a_value_that_holds_itself_is_nested():
    """No descriptor leads to such a plan, and if one did, octets of a module must not end the process."""
    plan = MessageType("google.protobuf.Value")
    plan.seal((FieldType("struct_value", "structValue", 5, Kind.MESSAGE, presence=True, oneof="kind", message=plan),))
    with pytest.raises(Malformed, match="nested"):
        decode(nested(b"\x2a", 200), plan, {})


def test_a_text_is_at_most_as_long_as_the_caller_says():
    payload = class_of(ALL)(bools=[True] * 1000).SerializeToString()
    assert len(said(payload, most=5011)) == 5011
    with pytest.raises(Malformed, match="long"):
        said(payload, most=5010)
    many = class_of(ALL)(timestamps=[{}] * 1000).SerializeToString()
    with pytest.raises(Malformed, match="long"):
        said(many, most=20_000)
    with pytest.raises(Malformed, match="long"):
        said(class_of(ALL)(by_int64={n: n for n in range(1000)}).SerializeToString(), most=3000)


@pytest.mark.parametrize(
    ("message", "field", "text"),
    [
        ({}, "strings", "[]"), ({}, "by_string", "{}"), ({}, "a_string", '""'), ({}, "an_int32", "0"), ({}, "an_int64", '"0"'),
        ({}, "leaf", "null"), ({}, "colour", '"COLOUR_UNSPECIFIED"'), ({}, "a_bool", "false"), ({}, "timestamp", "null"),
        ({"leaf": {"sku": "x"}, "an_int32": 7}, "leaf", '{"sku":"x"}'), ({"strings": ["a", "b"]}, "strings", '["a","b"]'),
        ({"an_int32": 7}, "an_int32", "7"), ({"by_bool": {True: {}}}, "by_bool", '{"true":null}'), ({"renamed_field": "x"}, "renamed_field", '"x"'),
    ],
)  # fmt: skip
def test_the_value_of_one_field_alone(message, field, text):
    assert said(class_of(ALL)(**message).SerializeToString(), field=field) == text.encode()


def test_the_last_of_a_oneof_counts_when_one_field_is_asked_for():
    payload = class_of(ALL)(chosen_text="x").SerializeToString() + class_of(ALL)(chosen_number=5).SerializeToString()
    assert said(payload, field="chosen_text") == b'""'
    assert said(payload, field="chosen_number") == b"5"


def test_lists_are_read_packed_and_not_and_in_parts():
    packed, loose = b"\xba\x01\x02\x01\x02", b"\xb8\x01\x03\xb8\x01\x04"
    assert said(packed + loose + packed) == b'{"int32s":[1,2,3,4,1,2]}'
    assert said(packed + b"\x18\x01" + loose) == b'{"int32s":[1,2,3,4],"anInt32":1}'


def test_numbers_that_a_closed_enum_has_not_are_left_out():
    assert said(b"\x0a\x00\x18\x07\x18\x63\x20\x01\x20\x63", "flui.tests.old.Old") == b'{"name":"","size":"LARGE","sizes":["SMALL"]}'
    assert said(b"\x4a\x05\x0a\x01a\x10\x63", "flui.tests.old.Old") == b"{}"
    assert said(b"\x4a\x07\x0a\x01a\x10\x63\x10\x63" + b"\x10\x01\x10\x01", "flui.tests.old.Old") == b'{"count":1}'


def test_an_any_of_no_known_type_is_refused_or_shown_as_octets():
    payload = any_pb2.Any(type_url="x/no.Such", value=b"\x01\x02").SerializeToString()
    with pytest.raises(Malformed):
        said(payload, "google.protobuf.Any")
    assert said(payload, "google.protobuf.Any", unknown_any=True) == b'{"@type":"x/no.Such","value":"AQI="}'


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\x7f", "google.protobuf.Timestamp"),
        (b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "google.protobuf.Timestamp"),
        (b"\x08\x01\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "google.protobuf.Duration"),
        (b"\x0a\x03a_B", "google.protobuf.FieldMask"),
        (b"\x0a\x02a_", "google.protobuf.FieldMask"),
        (b"\x11\x00\x00\x00\x00\x00\x00\xf8\x7f", "google.protobuf.Value"),
        (b"\x72\x01\xff", ALL),
        (b"\x00", ALL),
        (b"\x1c", ALL),
        (b"\x80\x80\x80\x80\x80\x01\x00", ALL),
        (b"\x18" + b"\x80" * 10 + b"\x01", ALL),
    ],
)
def test_what_json_cannot_say_is_malformed(payload, name):
    with pytest.raises(Malformed):
        said(payload, name)


def test_floats_are_written_with_the_fewest_digits_from_six():
    assert said(class_of(ALL)(floats=[0.1, 1, 16777216, 3.4028235e38, 1.5e-44]).SerializeToString()) == (
        b'{"floats":[0.1,1.0,16777216.0,3.4028235e+38,1.54143e-44]}'
    )

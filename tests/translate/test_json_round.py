"""Our JSON against the protobuf library's, which is the oracle: both ways, over every kind of field there is."""

import json
import re

import pytest
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flui.translate.json_in import encode, parse
from flui.translate.json_out import decode
from flui.translate.schema import Unfit
from support.messages import messages
from support.schemas import canonical, class_of, oracle_in, oracle_out, schema

ALL = "flui.tests.All"
NAMES = (ALL, "flui.tests.old.Old", "flui.tests.new.New", "google.protobuf.Any", "google.protobuf.Struct", "google.rpc.BadRequest")
TYPES = schema().types
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

named = pytest.mark.parametrize("name", NAMES)


def same(octets, message):
    """Whether `octets` are `message`; NaNs are equal here."""
    return canonical(type(message).FromString(octets)) == canonical(message)


@pytest.mark.slow
@named
@SLOW
@given(data=st.data())
def test_what_the_library_writes_we_read_as_it_meant_it(name, data):
    message = data.draw(messages(name))
    assert same(encode(parse(oracle_out(message).encode()), TYPES[name], TYPES), message)


@pytest.mark.slow
@named
@SLOW
@given(data=st.data())
def test_what_we_write_is_what_the_library_writes(name, data):
    message = data.draw(messages(name))
    ours = decode(message.SerializeToString(), TYPES[name], TYPES)
    assert json.loads(ours) == json.loads(oracle_out(message))
    # It cannot read its own text of the largest float (see the table of differences in test_json_in.py).
    if b"3.4028235e+38" not in ours:
        assert same(message.SerializeToString(), oracle_in(ours, name))


@pytest.mark.slow
@named
@SLOW
@given(data=st.data())
def test_a_message_whose_parts_come_again_is_read_as_the_library_reads_it(name, data):
    """Last one wins, messages merge, lists go on: two messages' octets behind one another are one message."""
    first, second = data.draw(messages(name)), data.draw(messages(name))
    octets = first.SerializeToString() + second.SerializeToString()
    merged = class_of(name).FromString(octets)
    try:
        wanted = oracle_out(merged)
    except (json_format.SerializeToJsonError, DecodeError, TypeError, ValueError):
        return  # parts of two an Any or a Duration are made of need not fit
    assert json.loads(decode(octets, TYPES[name], TYPES)) == json.loads(wanted)


ODD = (
    None, True, False, 0, 1, -1, 1.0, 1e3, 0.1, 2**31, 2**32, 2**63, 2**64, -(2**31) - 1, -(2**63) - 1, "", "x", "0", "-1", "1.0", "1e3",
    "2147483648", "18446744073709551616", "1.5", " 1", "1 ", "NaN", "Infinity", "-Infinity", "true", "RED", "PURPLE", "AA==", "AA", "A",
    "2024-02-30T00:00:00Z", "2024-02-29T23:59:59.5+01:00", "0001-01-01T00:00:00+00:01", "1.5s", "-315576000001s", "3", "a,bC", "a_b",
    [], {}, [None], [[]], [1], ["1"], [{}], {"a": 1}, {"1": 1}, {"true": 1}, {"1": None}, {"sku": "x"}, {"sku": 1}, {"quantity": "7"},
    {"@type": "type.googleapis.com/flui.tests.Leaf", "sku": "x"}, {"@type": "type.googleapis.com/flui.tests.Nothing"},
    {"@type": "x/google.protobuf.Duration", "value": "1s"}, {"@type": "x/google.protobuf.Duration"}, "\ud800",
)  # fmt: skip
"""Values put where they may not belong; those of which the two judge differently are in the table of test_json_in.py."""


def places(tree, path=()):
    """Path of each value of a tree."""
    yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*path, key))
    elif isinstance(tree, list):
        for at, value in enumerate(tree):
            yield from places(value, (*path, at))


def put(tree, path, value):
    """Tree with another value at `path`."""
    if not path:
        return value
    made = dict(tree) if isinstance(tree, dict) else list(tree)
    made[path[0]] = put(tree[path[0]], path[1:], value)
    return made


LAX = (
    (re.compile("a number is"), (True, False, " 1", "1 "), "a flag or a text with spaces is no number: Python's float() takes it"),
    (re.compile("the name or the number"), (True, False), "a flag is no number of an enum: Python's int() takes it"),
    (re.compile("no such value"), (" 1", "1 "), "a number with spaces is none: Python's int() takes it"),
    (re.compile("a whole number is expected"), (0.1,), "a fraction is no number of an enum: Python's int() cuts it"),
    (re.compile("a whole number from"), (2**32,), "it is beyond the 32 bits of an enum, and would become another value"),
    (re.compile("an object is"), ("", [], [[]]), "an empty string or list is no message: Python finds no key in it"),
    (
        re.compile("octets in base64"),
        ("2024-02-30T00:00:00Z", "2024-02-29T23:59:59.5+01:00", "0001-01-01T00:00:00+00:01", "1.5s", "a,bC"),
        "it is no base64: Python's decoder passes over what is not of the alphabet",
    ),
)
"""What we say of a value, the values, and why we refuse them where the library does not. There is no more than this."""


def judged(text):
    """What the library makes of a text: the message, or None."""
    try:
        return oracle_in(text, ALL)
    except json_format.ParseError:
        return None


def hold_together(text, odd):
    """We refuse what the library refuses, and read the same of what it takes; `odd`: what was put into the text."""
    wanted = judged(text)
    made, ours = b"", ""
    try:
        made = encode(parse(text.encode()), TYPES[ALL], TYPES)
    except Unfit as e:
        ours = e.what
    if wanted is not None and ours:
        assert any(said.search(ours) for said, values, _ in LAX if is_in(odd, values)), (text, ours)
    if ours:
        return
    if wanted is None:
        # It takes null for a list, except of google.protobuf.Value; and it misses what proto2 requires, within an Any.
        assert '"values": null' in text or "flui.tests.old.Old" in text, text
    else:
        assert same(made, wanted), text


def is_in(odd, values):
    """`in`, for which true is not 1."""
    return any(odd == value and type(odd) is type(value) for value in values)


@pytest.mark.slow
@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_we_refuse_where_the_library_refuses(data):
    tree = json.loads(oracle_out(data.draw(messages(ALL))))
    odd = data.draw(st.sampled_from(ODD))
    tree = put(tree, data.draw(st.sampled_from(list(places(tree)))), odd)
    if isinstance(tree, dict):
        hold_together(json.dumps(tree), odd)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: json.dumps(odd)[:30])
def test_each_odd_value_in_each_field_is_judged_as_the_library_does(odd):
    for field in TYPES[ALL].fields:
        hold_together(json.dumps({field.json_name: odd}), odd)

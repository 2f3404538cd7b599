"""What of JSON does not fit its message, and where; limits; and each place where the protobuf library judges differently."""

import json
import time
import tracemalloc

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.translate.json_in import encode, parse
from flui.translate.limits import MAX_DEPTH, MAX_NODES
from flui.translate.schema import Unfit
from support.schemas import class_of, oracle_in, schema

ALL = "flui.tests.All"
TYPES = schema().types


def read(text, name=ALL):
    """The message of a text, as the library reads our octets."""
    return class_of(name).FromString(encode(parse(text.encode()), TYPES[name], TYPES))


def refusal(text, name=ALL):
    with pytest.raises(Unfit) as caught:
        read(text, name)
    return caught.value


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"leaf": {"sku": 5}}', "leaf.sku"),
        ('{"leaves": [{}, {}, {"parts": [{"sku": null}, {"quantity": "x"}]}]}', "leaves[2].parts[1].quantity"),
        ('{"leaves": [{}, null]}', "leaves[1]"),
        ('{"an_int32": 2147483648}', "an_int32"),
        ('{"anInt32": true}', "anInt32"),
        ('{"byString": {"a b": 1}}', 'byString["a b"]'),
        ('{"byInt32": {"7": {"nothing": 1}}}', 'byInt32["7"].nothing'),
        ('{"byInt32": {"x": {}}}', 'byInt32["x"]'),
        ('{"byInt32": {"007": {}}}', 'byInt32["007"]'),
        ('{"byBool": {"yes": 1}}', 'byBool["yes"]'),
        ('{"struct": {"a": [1, {"b": 1e999}]}}', "struct.a[1].b"),
        ('{"any": {"sku": "x"}}', "any.@type"),
        ('{"any": {"@type": "x/y.Z"}}', "any.@type"),
        ('{"any": {"@type": "flui.tests.Leaf"}}', "any.@type"),
        ('{"any": {"@type": "x/flui.tests.Leaf", "quantity": 0.5}}', "any.quantity"),
        ('{"any": {"@type": "x/google.protobuf.Timestamp", "value": "today"}}', "any.value"),
        ('{"any": {"@type": "x/google.protobuf.Timestamp"}}', "any.value"),
        ('{"any": {"@type": "x/google.protobuf.Timestamp", "value": "1970-01-01T00:00:00Z", "more": 1}}', "any.more"),
        ('{"any": {"@type": "x/google.protobuf.Any", "value": {"@type": "x/flui.tests.Leaf", "no": 1}}}', "any.value.no"),
        ('{"empty": {"x": 1}}', "empty.x"),
        ('{"int64Values": ["1", "x"]}', "int64Values[1]"),
        ('{"chosenText": "x", "chosenNumber": 1}', "chosenNumber"),
        ('{"anInt32": 1, "an_int32": 1}', "an_int32"),
        ('{"colour": "PURPLE"}', "colour"),
        ('{"nothing": 1}', "nothing"),
        ('{"leaf": {"parts": [{"sku": "a", "sku": "b"}]}}', "leaf.parts[0].sku"),
        ('{"aString": "\\ud800"}', "aString"),
        ("[]", ""),
        ("7", ""),
        ("null", ""),
    ],
)
def test_what_does_not_fit_is_told_with_its_path(text, path):
    assert refusal(text).path == path


def test_a_refusal_reads_as_a_sentence():
    assert str(refusal('{"leaf": {"quantity": "2e10"}}')) == "leaf.quantity: a whole number from -2147483648 to 2147483647 is expected"
    assert str(refusal('{"anInt32": 1, "an_int32": 1}')) == "an_int32: it is said twice, as anInt32 too"
    assert str(refusal('{"chosenText": "x", "chosenNumber": 1}')) == "chosenNumber: only one of chosenText and chosenNumber may be said"


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b"{} {}", b"{'a': 1}", b'{"a": 01}', b'{"a": 1,}', b"\xef\xbb\xbf{}", b'{"aString": "\xff"}', b"nul", b'{"a": .5}',
        b'{"aDouble": NaN}', b'{"aDouble": Infinity}', b'{"aDouble": -Infinity}', b'{"aString": "\n"}', b"1" * 5000, b'{"a": 1, "a": 1',
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(text):
    with pytest.raises(Unfit):
        parse(text)


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"again": ', "}"), ('{"a":[', "]}")])
def test_nesting_is_bounded_from_the_octets(opens, closes):
    levels = MAX_DEPTH // opens.count("[") // 2 if opens.count("{") and opens.count("[") else MAX_DEPTH
    inner = "{}" if "again" in opens else "1"
    fits = levels - (inner == "{}")
    parse((opens * fits + inner + closes * fits).encode())
    with pytest.raises(Unfit, match="nested"):
        parse((opens * (fits + 1) + inner + closes * (fits + 1)).encode())
    with pytest.raises(Unfit, match="nested"):
        parse(opens.encode() * 40_000)


def test_brackets_within_strings_are_no_nesting():
    text = json.dumps({"aString": '[{"\\' * 5000, "strings": ["[" * 100, "\\"]})
    assert read(text).a_string == '[{"\\' * 5000


def test_a_tree_that_no_text_bounded_is_bounded_too():
    tree = {}
    for _ in range(MAX_DEPTH):
        tree = {"again": tree}
    with pytest.raises(Unfit, match="nested"):
        encode(tree, TYPES[ALL], TYPES)
    tree = 1
    for _ in range(MAX_DEPTH + 1):
        tree = [tree]
    with pytest.raises(Unfit, match="nested"):
        encode({"value": tree}, TYPES[ALL], TYPES)


def test_a_message_as_deep_as_may_be_is_read():
    text = '{"again":' * (MAX_DEPTH - 1) + "{}" + "}" * (MAX_DEPTH - 1)
    assert read(text) == oracle_in(text, ALL)
    text = '{"value":' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}"
    encode(parse(text.encode()), TYPES[ALL], TYPES)


def test_values_are_counted_exactly():
    def list_of(count, item):
        return ("[" + ", ".join([item] * count) + "]").encode()

    assert len(parse(list_of(MAX_NODES - 1, "1"))) == MAX_NODES - 1
    assert len(parse(list_of(MAX_NODES - 1, "[ ]"))) == MAX_NODES - 1
    assert len(parse(list_of(MAX_NODES - 1, '","'))) == MAX_NODES - 1
    assert len(parse(list_of(MAX_NODES // 2 - 1, '{"a": ""}'))) == MAX_NODES // 2 - 1
    for count, item in ((MAX_NODES, "1"), (MAX_NODES, "[ ]"), (MAX_NODES // 2, '{"a": ""}')):
        with pytest.raises(Unfit, match="values"):
            parse(list_of(count, item))


def test_strings_that_do_not_end_are_passed_over_once():
    """Threat C12: 5 ms a kilobyte at most; here a megabyte of what backtracks, where something does."""
    for text in (b'["' + b'\\"' * 500_000, b'"' * 1_000_000, b"[" * 70 + b'"\\' * 500_000, b"{" * 99_999 + b"}" * 900_000):
        start = time.perf_counter()
        with pytest.raises(Unfit):
            parse(text)
        assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"a": 1, "a": 2}', "a"),
        ('[[0, {"x": 1, "x": 1}]]', "[0][1].x"),
        ('{"a": {"b": [1, {"c": 1, "c": 2}]}}', "a.b[1].c"),
        ('{"a": [{"c": {}}, {"d": {"e": 0, "": 1, "e": 2}}]}', "a[1].d.e"),
    ],
)
def test_a_key_that_is_said_twice_is_told_with_its_path(text, path):
    with pytest.raises(Unfit, match="it is said twice") as caught:
        parse(text.encode())
    assert caught.value.path == path


def test_a_refusal_is_short_whatever_the_text():
    long = "k" * 100_000
    for text in (f'{{"{long}": 1}}', f'{{"{long}": 1, "{long}": 2}}', f'{{"struct": {{"{long}": {{"end": "\\ud800"}}}}}}'):
        refused = refusal(text)
        assert len(refused.path) <= 200
        assert len(str(refused)) < 300
    assert refused.path.startswith("struct.kkk")
    assert refused.path.endswith("kkk.end")
    assert refusal(f'{{"{"k" * 200}": 1}}').path == "k" * 200
    assert refusal(f'{{"{"a" * 150}{"b" * 51}": 1}}').path == "a" * 120 + " … " + "a" * 9 + "b" * 51


def test_where_a_key_is_said_twice_costs_no_more_than_the_text():
    """Threat C12: a long key above very many values, and the repeated one behind them."""
    text = f'{{"{"k" * 200_000}": [{"0," * 5_000}{{"a": 1, "a": 1}}]}}'.encode()
    tracemalloc.start()
    try:
        with pytest.raises(Unfit, match="it is said twice"):
            parse(text)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9007199254740993", 9007199254740993),
        ("9007199254740993.0", 9007199254740993),
        ("9.007199254740993e15", 9007199254740993),
        ('"9007199254740993e0"', 9007199254740993),
        ('"-9223372036854775808"', -(2**63)),
        ("1e3", 1000),
        ('"1.50e1"', 15),
        ("-0", 0),
        ('"0e30"', 0),
    ],
)
def test_whole_numbers_are_exact_however_they_are_written(text, value):
    assert read(f'{{"anInt64": {text}}}').an_int64 == value


@pytest.mark.parametrize(
    "text", ["9223372036854775808", '"9223372036854775807.5"', "1e19", '"1e999999"', '"1e9999999"', '""', '" 1"', '"+1"', '"0x1"', '"01"']
)
def test_what_is_no_int64_is_refused(text):
    assert refusal(f'{{"anInt64": {text}}}').path == "anInt64"


def test_null_says_nothing_but_where_it_is_a_value():
    assert read('{"chosenText": null, "chosenNumber": 5, "leaf": null, "leaves": null, "byString": null, "int64Value": null}') == class_of(
        ALL
    )(chosen_number=5)
    assert read('{"value": null}').HasField("value")
    assert read('{"chosenNull": null}').HasField("chosen_null")
    assert not read('{"maybeInt32": null}').HasField("maybe_int32")


@pytest.mark.parametrize(
    ("text", "path", "what"),
    [
        ('{"chosenNull": null, "chosenNumber": 1}', "chosenNumber", "only one of chosenNull and chosenNumber may be said"),
        ('{"chosenValue": null, "chosenNumber": 1}', "chosenNumber", "only one of chosenValue and chosenNumber may be said"),
        ('{"chosenNull": null, "chosenNumber": 1, "nothing": 2}', "chosenNumber", "only one of chosenNull and chosenNumber may be said"),
        ('{"nothing": 2, "chosenNull": null, "chosenNumber": 1}', "nothing", "there is no such field"),
        ('{"chosenNumber": 1, "chosenNull": null}', "chosenNull", "only one of chosenNumber and chosenNull may be said"),
        ('{"chosenNumber": 1, "chosenValue": null}', "chosenValue", "only one of chosenNumber and chosenValue may be said"),
        ('{"chosenNull": null, "chosenValue": null}', "chosenValue", "only one of chosenNull and chosenValue may be said"),
        ('{"chosenNull": null, "chosen_null": null}', "chosen_null", "it is said twice, as chosenNull too"),
        ('{"chosenText": null, "chosenNull": null, "chosenNumber": 1}', "chosenNumber", "only one of chosenNull and chosenNumber may be said"),
        ('{"leaf": null, "leaf": {}}', "leaf", "it is said twice"),
        ('{"anInt32": null, "an_int32": 1}', "an_int32", "it is said twice, as anInt32 too"),
    ],
)  # fmt: skip
def test_null_is_one_of_a_oneof_where_it_is_a_value(text, path, what):
    refused = refusal(text)
    assert (refused.path, refused.what) == (path, what)


def test_null_leaves_a_oneof_to_the_others_where_it_is_none():
    wanted = class_of(ALL)(chosen_number=5)
    assert read('{"chosenText": null, "chosenNumber": 5, "chosenLeaf": null}') == wanted
    assert read('{"chosenNumber": 5, "chosen_number": null}') == wanted
    assert read('{"chosenNumber": null, "chosenNull": null}').WhichOneof("choice") == "chosen_null"


DIFFERENT = [
    # text, whether the library takes it, why we do otherwise
    ('{"anInt32": 1, "an_int32": 2}', True, "said under both names: which counts would be chance"),
    ('{"chosenNull": null, "chosenNumber": 1}', True, "two of a oneof, where null is a value of one: which counts would be chance"),
    ('{"chosenNumber": 1, "chosenValue": null}', True, "the same"),
    ('{"aFloat": 3.4028235e38}', False, "the shortest text of the largest float, which the library itself writes"),
    ('{"values": null}', False, "null is a list that is not said; the library fails"),
    ('{"anys": [{"@type": "x/google.protobuf.Empty", "value": {}}]}', False, "other writers put `value` beside every well-known type"),
    ('{"any": {"@type": "x/google.protobuf.Duration", "value": "1s", "x": 1}}', True, "a field that is not known is refused everywhere"),
    ('{"any": {"@type": "flui.tests.Leaf"}}', True, "a type URL has a slash"),
    ('{"byInt32": {"1": {}, "1.0": {}}}', True, "a key of a map is written in one way, so that it is said once"),
    ('{"byInt32": {"+1": {}}}', True, "the same"),
    ('{"anInt32": "+5"}', True, "no number of JSON: Python's int() takes it"),
    ('{"anInt32": "1_0"}', True, "the same"),
    ('{"anInt32": "٣"}', True, "the same"),
    ('{"anInt32": "007"}', True, "the same"),
    ('{"aDouble": "nan"}', False, "both refuse it: here as the only spelling of its kind"),
    ('{"aDouble": "inf"}', True, "no number of JSON: Python's float() takes it"),
    ('{"aDouble": "1e999"}', True, "it is beyond a double, and would become infinite"),
    ('{"aFloat": "1e39"}', True, "the same of a float"),
    ('{"duration": "+1s"}', True, "no sign but a minus"),
    ('{"duration": "1.0000000001s"}', True, "nine digits at most: the tenth would be dropped"),
    ('{"timestamp": "2024-01-01T00:00:00+99:00"}', True, "there is no such offset"),
    ('{"timestamp": "2024-1-1T0:0:0Z"}', True, "RFC 3339 has two digits"),
    ('{"aDouble": NaN}', False, "both refuse it"),
    ('{"value": NaN}', True, "no JSON (the library's reader takes it)"),
    ('{"someBytes": "A A="}', True, "no base64: what is not of the alphabet would be dropped"),
    ('{"someBytes": "AA=A"}', True, "the same"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "taken", "why"), DIFFERENT, ids=[text for text, _, _ in DIFFERENT])
def test_where_we_judge_otherwise_than_the_library(text, taken, why):
    try:
        oracle_in(text, ALL)
        assert taken, f"the library takes it by now: {why}"
    except json_format.ParseError:
        assert not taken, f"the library refuses it by now: {why}"
    if taken or "both refuse" in why:
        refusal(text)
    else:
        read(text)


def test_more_digits_than_a_double_holds_are_a_number_of_a_struct():
    assert read('{"value": 123456789012345678901234567890}').value.number_value == 123456789012345678901234567890.0
    assert refusal('{"value": 1' + "0" * 400 + "}").path == "value"


def test_unknown_numbers_are_values_of_open_enums_only():
    assert read('{"colour": 99}').colour == 99
    assert read('{"colours": ["RED", "CRIMSON", 2, "-3"]}').colours == [1, 1, 2, -3]
    assert refusal('{"size": 3}', "flui.tests.old.Old").path == "size"
    assert refusal('{"shut": 3}', "flui.tests.new.New").path == "shut"
    assert read('{"size": 7, "inner": {"word": "x", "old": {"name": ""}}}', "flui.tests.old.Old").inner.old.HasField("name")


def test_extensions_are_unknown_fields():
    assert refusal('{"[flui.tests.old.extended]": "x"}', "flui.tests.old.Old").path == "[flui.tests.old.extended]"


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_octets_are_parsed_or_refused(text):
    try:
        tree = parse(text)
    except Unfit:
        return
    assert tree == json.loads(text)

"""A REST request becomes the tree of its message; each field is said once (threats F6)."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_schemas import schema_of

from flui.translate.formats import Rest
from flui.translate.json_out import decode
from flui.translate.rest import RestRoutes
from flui.translate.rest_in import MAX_PARAMETERS, ask
from flui.translate.schema import Unfit
from flui.translate.ways import ABSENT

SCHEMA = schema_of("""
enum Colour { COLOUR_UNSET = 0; RED = 1; CRIMSON = 2; }
message Inner { string id = 1; int32 size = 2; Inner inner = 3; repeated Inner more = 4; google.protobuf.Int64Value big_one = 5; }
message Request {
  string id = 1; int32 i32 = 2; int64 i64 = 3; uint64 u64 = 4; bool flag = 5; double real = 6; float small = 7; Colour colour = 8; bytes raw = 9;
  repeated string tags = 10; repeated Colour colours = 11; Inner inner = 12; repeated Inner inners = 13; map<string, string> labels = 14;
  google.protobuf.Timestamp when = 15; google.protobuf.Duration wait = 16; google.protobuf.FieldMask mask = 17;
  google.protobuf.StringValue text = 18; google.protobuf.BoolValue maybe = 19; google.protobuf.Struct struct = 20; google.protobuf.Value value = 21;
  google.protobuf.Any any = 22; google.protobuf.Empty empty = 23; string long_name = 24; sint32 s32 = 25; fixed32 f32 = 26;
}
service S {
  rpc Get(Request) returns (Request) { option (google.api.http) = { get: "/get" }; }
  rpc Id(Request) returns (Request) { option (google.api.http) = {
    get: "/id/{id}" additional_bindings { get: "/i32/{i32}" } additional_bindings { get: "/colour/{colour}" }
    additional_bindings { get: "/flag/{flag}" } additional_bindings { get: "/raw/{raw}" } additional_bindings { get: "/real/{real}" }
  }; }
  rpc Whole(Request) returns (Request) { option (google.api.http) = {
    post: "/whole/{id}" body: "*"
    additional_bindings { post: "/u64/{u64}" body: "*" } additional_bindings { post: "/all/colour/{colour}" body: "*" }
    additional_bindings { post: "/all/real/{real}" body: "*" } additional_bindings { post: "/all/flag/{flag}" body: "*" }
    additional_bindings { post: "/all/raw/{raw}" body: "*" } additional_bindings { post: "/deep/{inner.inner.id}" body: "*" }
    additional_bindings { post: "/long/{long_name}" body: "*" }
  }; }
  rpc Stream(stream Request) returns (Request) { option (google.api.http) = {
    post: "/stream/{inner.inner.id}/{id}" body: "inner"
    additional_bindings { post: "/stream/{inner.inner.id}" body: "*" } additional_bindings { post: "/lines" body: "inner" }
  }; }
  rpc Part(Request) returns (Request) { option (google.api.http) = { patch: "/part/{inner.id}" body: "inner" }; }
  rpc List(Request) returns (Request) { option (google.api.http) = { put: "/list" body: "inners" }; }
  rpc Text(google.protobuf.StringValue) returns (Request);
  rpc Nothing(google.protobuf.Empty) returns (Request);
}
""")
ROUTES = RestRoutes(SCHEMA)


def asked(line, body=ABSENT):
    verb, target = line.split(" ", 1)
    path, mark, query = target.encode().partition(b"?")
    bound = ROUTES.match(verb.encode(), path)
    assert bound is not None, path
    return ask(bound, mark + query, body)


def test_every_rule_of_these_tests_is_served():
    assert ROUTES.mistakes == ()


GOOD = {
    "": {},
    "?": {},
    "?&&": {},
    "?id=": {"id": ""},
    "?id": {"id": ""},
    "?id=a=b": {"id": "a=b"},
    "?id=a+b%2Bc%20%C3%A9%26": {"id": "a b+c é&"},
    "?i32=-2147483648&i64=9223372036854775807&u64=18446744073709551615": {"i32": -(2**31), "i64": 2**63 - 1, "u64": 2**64 - 1},
    "?s32=-1&f32=4294967295": {"s32": -1, "f32": 2**32 - 1},
    "?flag=true": {"flag": True},
    "?flag=false": {"flag": False},
    "?real=-1.5e3&small=2": {"real": -1500.0, "small": 2.0},
    "?real=NaN&small=-Infinity": {"real": "NaN", "small": "-Infinity"},
    "?colour=RED": {"colour": "RED"},
    "?colour=2": {"colour": 2},
    "?colour=77": {"colour": 77},
    "?raw=-_8=": {"raw": "-_8="},
    "?raw=%2B/8": {"raw": "+/8"},
    "?tags=a&tags=b&id=x&tags=": {"tags": ["a", "b", ""], "id": "x"},
    "?colours=RED&colours=2": {"colours": ["RED", 2]},
    "?inner.id=x&inner.size=3&inner.inner.inner.id=y": {"inner": {"id": "x", "size": 3, "inner": {"inner": {"id": "y"}}}},
    "?inner.bigOne=5": {"inner": {"bigOne": 5}},
    "?inner.big_one=5": {"inner": {"bigOne": 5}},
    "?longName=x": {"longName": "x"},
    "?long_name=x": {"longName": "x"},
    "?when=2024-05-17T10:00:00Z&wait=1.5s&mask=a,b.c": {"when": "2024-05-17T10:00:00Z", "wait": "1.5s", "mask": "a,b.c"},
    "?text=x&maybe=true": {"text": "x", "maybe": True},
}


@pytest.mark.parametrize("query", GOOD)
def test_a_query_says_fields_by_their_types(query):
    tree = asked(f"GET /get{query}")
    assert tree == GOOD[query]
    assert repr(tree) == repr(GOOD[query]), "the types, too: True is 1"


BAD = {
    "?i32=2147483648": ("i32", "whole number from -2147483648 to 2147483647"),
    "?i32=1.0": ("i32", "whole number"),
    "?i32=": ("i32", "whole number"),
    "?i32=+1": ("i32", "whole number"),
    "?i32=1_0": ("i32", "whole number"),
    "?i32=%D9%A1": ("i32", "whole number"),
    "?u64=-1": ("u64", "whole number from 0"),
    "?u64=" + "9" * 5000: ("u64", "whole number"),
    "?flag=1": ("flag", "true or false"),
    "?flag": ("flag", "true or false"),
    "?flag=True": ("flag", "true or false"),
    "?real=nan": ("real", "a number"),
    "?real=1e999": ("real", "greater than any number"),
    "?real=.5": ("real", "a number"),
    "?real=" + "9" * 5000: ("real", "a number"),
    "?colour=red": ("colour", "a name of t.Colour"),
    "?colour=9999999999": ("colour", "a name of t.Colour"),
    "?raw=a": ("raw", "base64"),
    "?raw=a$bc": ("raw", "base64"),
    "?nope=1": ("nope", "no such query parameter"),
    "?$alt=json": ("$alt", "no such query parameter"),
    "?key=x": ("key", "no such query parameter"),
    "?=x": ("", "no such query parameter"),
    "?inner.nope=1": ("inner.nope", "no such query parameter"),
    "?id.x=1": ("id.x", "no such query parameter"),
    "?inner.=1": ("inner.", "no such query parameter"),
    "?inner=x": ("inner", "is a message; name one of its fields"),
    "?inners=x": ("inners", "a list of messages"),
    "?inners.id=x": ("inners.id", "a list of messages"),
    "?inner.more.id=x": ("inner.more.id", "a list of messages"),
    "?labels=x": ("labels", "is a map"),
    "?labels.a=x": ("labels.a", "no such query parameter"),
    "?labels[a]=x": ("labels[a]", "no such query parameter"),
    "?when.seconds=1": ("when.seconds", "no such query parameter"),
    "?struct.a=1": ("struct.a", "no such query parameter"),
    "?struct=1": ("struct", "is a message"),
    "?value=1": ("value", "is a message"),
    "?any=1": ("any", "is a message"),
    "?empty=": ("empty", "is a message"),
    "?id=a&id=a": ("id", "is said twice in the query"),
    "?longName=a&long_name=a": ("longName", "is said twice in the query"),
    "?inner.id=a&inner.id=b": ("inner.id", "is said twice"),
    "?id=%zz": ("", "without two hexadecimal digits"),
    "?id=%4": ("", "without two hexadecimal digits"),
    "?id=%FF": ("", "no UTF-8"),
    "?" + "inner." * 64 + "id=x": (("inner." * 64)[:80] + "…", "deeper than 64"),
    "?" + "tags=x&" * (MAX_PARAMETERS + 1): ("", "more than 1000 query parameters"),
}


@pytest.mark.parametrize("query", BAD, ids=lambda query: query[:30])
def test_a_query_that_does_not_fit_is_refused_by_its_field(query):
    with pytest.raises(Unfit) as wrong:
        asked(f"GET /get{query}")
    path, what = BAD[query]
    assert wrong.value.path == path
    assert what in wrong.value.what


def test_names_of_64_are_still_taken():
    tree = asked("GET /get?" + "inner." * 63 + "id=x")
    for _ in range(63):
        tree = tree["inner"]
    assert tree == {"id": "x"}


def test_path_variables_are_converted_by_their_types():
    assert asked("GET /id/a%20b%3A+c") == {"id": "a b:+c"}, "a plus is no space in a path"
    assert asked("GET /i32/-7") == {"i32": -7}
    assert asked("GET /colour/RED") == {"colour": "RED"}
    assert asked("GET /colour/1") == {"colour": 1}
    assert asked("GET /flag/true") == {"flag": True}
    assert asked("GET /raw/-_8%3D") == {"raw": "-_8="}
    assert asked("GET /real/1e3") == {"real": 1000.0}
    for line, path in (("GET /i32/x", "i32"), ("GET /flag/yes", "flag"), ("GET /id/%FF", "id"), ("GET /colour/BLUE", "colour")):
        with pytest.raises(Unfit) as wrong:
            asked(line)
        assert wrong.value.path == path


AGREE = [
    # request, body, tree
    ("POST /whole/x", {"id": "x", "i32": 1}, {"id": "x", "i32": 1}),
    ("POST /whole/x", {"id": None}, {"id": "x"}),
    ("POST /whole/x", ABSENT, {"id": "x"}),
    ("POST /u64/18446744073709551615", {"u64": "18446744073709551615"}, {"u64": 2**64 - 1}),
    ("POST /u64/18446744073709551615", {"u64": "18446744073709551615.0"}, {"u64": 2**64 - 1}),
    ("POST /u64/18446744073709551615", {"u64": "1844674407370955161.5e1"}, {"u64": 2**64 - 1}),
    ("POST /u64/100", {"u64": "1e2"}, {"u64": 100}),
    ("POST /u64/5", {"u64": 5}, {"u64": 5}),
    ("POST /u64/5", {"u64": 5.0}, {"u64": 5}),
    ("POST /all/colour/RED", {"colour": 1}, {"colour": "RED"}),
    ("POST /all/colour/1", {"colour": "RED"}, {"colour": 1}),
    ("POST /all/real/1", {"real": 1.0}, {"real": 1.0}),
    ("POST /all/real/NaN", {"real": "NaN"}, {"real": "NaN"}),
    ("POST /all/flag/true", {"flag": True}, {"flag": True}),
    ("POST /all/raw/-_8", {"raw": "+/8="}, {"raw": "-_8"}),
    ("POST /long/x", {"long_name": "x"}, {"longName": "x"}),
    ("POST /long/x", {"longName": None, "long_name": "x"}, {"longName": "x"}),
    ("POST /long/x", {"long_name": None}, {"longName": "x"}),
    ("POST /deep/x", {"inner": {"size": 3}}, {"inner": {"size": 3, "inner": {"id": "x"}}}),
    ("POST /deep/x", {"inner": {"inner": {"id": "x", "size": 1}}}, {"inner": {"inner": {"id": "x", "size": 1}}}),
    ("POST /deep/x", {"inner": None}, {"inner": {"inner": {"id": "x"}}}),
    ("PATCH /part/x", {"size": 3}, {"inner": {"id": "x", "size": 3}}),
    ("PATCH /part/x", {"id": "x"}, {"inner": {"id": "x"}}),
    ("PATCH /part/x?i32=3", ABSENT, {"inner": {"id": "x"}, "i32": 3}),
]


@pytest.mark.parametrize(("line", "body", "tree"), AGREE)
def test_a_path_and_a_body_that_agree_are_one_message(line, body, tree):
    before = repr(body)
    asked_tree = asked(line, body)
    assert asked_tree == tree
    kinds = {name: type(value) for name, value in tree.items()}
    assert {name: type(value) for name, value in asked_tree.items()} == kinds, "the path's own spelling is kept"
    assert repr(body) == before, "the body is the caller's"


DISAGREE = [
    # request, body, field, what
    ("POST /whole/x", {"id": "y"}, "id", "disagree"),
    ("POST /whole/x", {"id": ""}, "id", "disagree"),
    ("POST /whole/x", {"id": ["x"]}, "id", "disagree"),
    ("POST /whole/1", {"id": 1}, "id", "disagree"),
    ("POST /u64/5", {"u64": 6}, "u64", "disagree"),
    ("POST /u64/5", {"u64": "6"}, "u64", "disagree"),
    ("POST /u64/18446744073709551615", {"u64": 18446744073709551614}, "u64", "disagree"),
    ("POST /all/real/1", {"real": 10**400}, "real", "disagree"),
    ("POST /u64/1", {"u64": True}, "u64", "disagree"),
    ("POST /u64/18446744073709551615", {"u64": 1.8446744073709552e19}, "u64", "disagree"),
    ("POST /u64/9007199254740992", {"u64": "9007199254740993.0"}, "u64", "disagree"),
    ("POST /u64/9007199254740992", {"u64": "9007199254740993e0"}, "u64", "disagree"),
    ("POST /u64/9007199254740992", {"u64": "90071992547409929e-1"}, "u64", "disagree"),
    ("POST /u64/1", {"u64": "1.0000000000000000001"}, "u64", "disagree"),
    ("POST /u64/1", {"u64": "1e9999"}, "u64", "disagree"),
    ("POST /u64/1", {"u64": "1e999999999"}, "u64", "disagree"),
    ("POST /u64/0", {"u64": "1e-9999"}, "u64", "disagree"),
    ("POST /u64/1", {"u64": "1" * 10**6 + ".0"}, "u64", "disagree"),
    ("POST /u64/7", {"u64": "007"}, "u64", "disagree"),
    ("POST /u64/7", {"u64": "NaN"}, "u64", "disagree"),
    ("POST /all/colour/RED", {"colour": "1.0"}, "colour", "disagree"),
    ("POST /all/raw/YWJj", {"raw": "YW Jj"}, "raw", "disagree"),
    ("POST /long/x", {"longName": "x", "long_name": "x"}, "longName", "said twice"),
    ("POST /all/colour/RED", {"colour": "CRIMSON"}, "colour", "disagree"),
    ("POST /all/colour/RED", {"colour": 2}, "colour", "disagree"),
    ("POST /all/flag/true", {"flag": False}, "flag", "disagree"),
    ("POST /all/flag/true", {"flag": 1}, "flag", "disagree"),
    ("POST /all/raw/-_8", {"raw": "+/0="}, "raw", "disagree"),
    ("POST /long/x", {"longName": "x", "long_name": "y"}, "longName", "disagree"),
    ("POST /deep/x", {"inner": {"inner": {"id": "y"}}}, "inner.inner.id", "disagree"),
    ("POST /deep/x", {"inner": {"inner": "y"}}, "inner.inner", "must be an object"),
    ("POST /deep/x", {"inner": []}, "inner", "must be an object"),
    ("PATCH /part/x", {"id": "y"}, "inner.id", "disagree"),
    ("PATCH /part/x", [], "inner", "must be an object"),
    ("POST /whole/x", [], "", "must be an object"),
    ("POST /whole/x", None, "", "must be an object"),
    ("POST /whole/x?id=x", {}, "id", "there are no query parameters"),
    ("POST /whole/x?i32=1", {}, "i32", "there are no query parameters"),
    ("PATCH /part/x?inner.id=x", ABSENT, "inner.id", "the body has it"),
    ("PATCH /part/x?inner.size=1", {}, "inner.size", "the body has it"),
    ("PUT /list?inners.id=x", [], "inners.id", "a list of messages"),
    ("GET /id/x?id=x", ABSENT, "id", "the path has it"),
    ("GET /id/x?id=y", ABSENT, "id", "the path has it"),
    ("GET /get", {}, "", "there is a body, but this route has none"),
    ("GET /get", None, "", "there is a body, but this route has none"),
    ("GET /id/x", {"id": "x"}, "", "there is a body, but this route has none"),
    ("POST /t.S/Get?id=x", {}, "id", "there are no query parameters"),
    ("POST /t.S/Text", ABSENT, "", "a body is missing"),
]


@pytest.mark.parametrize(("line", "body", "path", "what"), DISAGREE)
def test_a_field_from_two_places_that_disagree_is_refused(line, body, path, what):
    """Threat F6: the same field from path, query and body."""
    with pytest.raises(Unfit) as wrong:
        asked(line, body)
    assert wrong.value.path == path
    assert what in wrong.value.what


def stream_of(line):
    """One request whose messages are asked one behind the other; `told` says what the module gets, in JSON."""
    path, mark, query = line.encode().partition(b"?")
    bound = ROUTES.match(b"POST", path)
    rest = Rest(bound, mark + query, SCHEMA)
    return rest, lambda body: json.loads(decode(rest.ask(body), bound.method.asks, SCHEMA.types, None))


def test_the_messages_of_a_stream_have_what_path_and_query_say_and_nothing_of_one_another():
    _, told = stream_of("/stream/x/y?tags=a&tags=b&i32=3&when=2024-05-17T10:00:00Z")
    base = {"id": "y", "tags": ["a", "b"], "i32": 3, "when": "2024-05-17T10:00:00Z"}
    alone = {**base, "inner": {"inner": {"id": "x"}}}
    for _ in range(2):
        assert told(b"") == alone
        assert told(b'{"size": 1, "inner": {"size": 2}}') == {**base, "inner": {"size": 1, "inner": {"id": "x", "size": 2}}}
        assert told(b'{"more": [{"id": "m"}], "inner": {"id": "x", "inner": {"id": "z"}}}') == {
            **base, "inner": {"more": [{"id": "m"}], "inner": {"id": "x", "inner": {"id": "z"}}}
        }  # fmt: skip
        assert told(b"null") == alone
        assert told(b"{}") == alone
        for wrong in (b'{"inner": {"id": "other", "size": 9}}', b'{"size": 8, "inner": 7}', b"[]", b'{"size": 1, "nope": 1}'):
            with pytest.raises(Unfit):
                told(wrong)
    _, told = stream_of("/stream/x")
    for _ in range(2):
        assert told(b'{"id": "q", "inner": {"size": 2}}') == {"id": "q", "inner": {"size": 2, "inner": {"id": "x"}}}
        assert told(b'{"inner": {"inner": {"size": 1}}}') == {"inner": {"inner": {"id": "x", "size": 1}}}
        assert told(b"") == {"inner": {"inner": {"id": "x"}}}


def test_the_query_of_a_stream_is_read_once():
    """A line of three octets would cost a query of 8 KiB each time."""
    rest, told = stream_of("/lines?" + "&".join(["tags=a"] * MAX_PARAMETERS))
    assert len(told(b"{}")["tags"]) == MAX_PARAMETERS
    first = rest._said
    assert len(told(b'{"id": "x"}')["tags"]) == MAX_PARAMETERS
    assert rest._said is first
    tree = first.ask({})
    assert first.ask({"id": "x"})["tags"] is tree["tags"]


def test_what_path_and_query_say_wrongly_is_refused_with_the_first_message():
    rest, _ = stream_of("/lines?nope=1")
    for _ in range(2):
        with pytest.raises(Unfit, match="no such query parameter"):
            rest.ask(b"{}")


def test_a_body_may_be_a_list_or_a_message_that_is_no_object():
    assert asked("PUT /list?id=x", [{"id": "a"}]) == {"inners": [{"id": "a"}], "id": "x"}
    assert asked("POST /t.S/Text", "hello") == "hello"
    assert asked("POST /t.S/Nothing") == {}
    assert asked("POST /t.S/Get") == {}
    assert asked("POST /t.S/Get", {"id": "x"}) == {"id": "x"}


@given(
    st.lists(st.sampled_from(["inner", "id", "i32", "tags", "inners", ".", "&", "=", "+", "%", "2", "é", "x", "when"]), max_size=30).map(
        "".join
    )
)
def test_any_query_is_a_tree_or_unfit(query):
    try:
        tree = asked(f"GET /get?{query}")
    except Unfit:
        return
    assert isinstance(tree, dict)


@given(
    st.integers(0, 2**64 - 1) | st.integers(-2, 2).map(lambda by: 2**53 + by),
    st.integers(-2, 2),
    st.sampled_from(["", ".0", "e0", "0e-1", ".00E+0"]),
)
def test_whole_numbers_are_compared_exactly_however_they_are_written(number, by, tail):
    body = {"u64": f"{number + by}{tail}"}
    if by:
        with pytest.raises(Unfit, match="disagree"):
            asked(f"POST /u64/{number}", body)
    elif number or tail != "0e-1":  # `00e-1` is no number of JSON
        assert asked(f"POST /u64/{number}", body) == {"u64": number}


trees = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab1", max_size=3), lambda t: st.lists(t, max_size=2) | st.dictionaries(st.sampled_from(["id", "inner", "u64", "colour", "raw", "x"]), t, max_size=3), max_leaves=6)  # fmt: skip


@given(
    trees,
    st.sampled_from(
        ["POST /whole/a", "POST /u64/1", "POST /all/colour/RED", "POST /all/real/1", "POST /all/raw/ab1", "POST /deep/a", "PATCH /part/a"]
    ),
)
def test_any_body_is_a_tree_or_unfit(body, line):
    with contextlib.suppress(Unfit):
        asked(line, body)

"""A gRPC request becomes a REST one that says the same."""

import math
import tracemalloc
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_schemas import schema_of

from flui.codecs.validate import canonical_path
from flui.translate.rest import RestRoutes
from flui.translate.rest_in import MAX_PARAMETERS, ask
from flui.translate.rest_out import MAX_TARGET, tell
from flui.translate.schema import Unfit
from flui.translate.ways import ABSENT

SCHEMA = schema_of("""
enum Colour { COLOUR_UNSET = 0; RED = 1; }
message Inner { string id = 1; int32 size = 2; Inner inner = 3; repeated bool flags = 4; }
message Request {
  string id = 1; int32 i32 = 2; int64 i64 = 3; uint64 u64 = 4; bool flag = 5; double real = 6; Colour colour = 8; bytes raw = 9;
  repeated string tags = 10; repeated int64 numbers = 11; Inner inner = 12; repeated Inner inners = 13; map<string, string> labels = 14;
  google.protobuf.Timestamp when = 15; google.protobuf.Int64Value big = 16; google.protobuf.Struct struct = 20; string long_name = 24;
  optional int32 maybe = 25;
}
service S {
  rpc Query(Request) returns (Request) { option (google.api.http) = { get: "/query" }; }
  rpc Path(Request) returns (Request) { option (google.api.http) = {
    get: "/path/{id}" additional_bindings { get: "/number/{i64}/{colour}" } additional_bindings { get: "/inner/{inner.id}" }
    additional_bindings { put: "/maybe/{maybe}" } additional_bindings { get: "/real/{real}/{raw}:verb" }
  }; }
  rpc Deep(Request) returns (Request) { option (google.api.http) = { get: "/deep/{id=shelves/*/books/*}" additional_bindings { get: "/any/{id=**}" } }; }
  rpc Whole(Request) returns (Request) { option (google.api.http) = { post: "/whole/{inner.id}/{long_name}" body: "*" }; }
  rpc Part(Request) returns (Request) { option (google.api.http) = { patch: "/part/{inner.id}" body: "inner" }; }
  rpc List(Request) returns (Request) { option (google.api.http) = { custom: { kind: "*" path: "/list" } body: "inners" response_body: "inner" }; }
  rpc Fallback(Request) returns (Request) { option (google.api.http) = { get: "/fall/{id}" additional_bindings { post: "/fall/{id}" body: "*" } }; }
  rpc Star(Request) returns (Request) { option (google.api.http) = { get: "/star/*" }; }
  rpc Numbers(Request) returns (Request) { option (google.api.http) = { get: "/numbers/{i32}/{flag}/{colour}" }; }
  rpc Bare(Request) returns (Request);
  rpc Text(google.protobuf.StringValue) returns (Request);
}
""")
ROUTES = RestRoutes(SCHEMA)
assert ROUTES.mistakes == ()


def told(name, tree):
    return tell(ROUTES.ways(SCHEMA.methods[f"/t.S/{name}".encode()]), tree)


def line(name, tree):
    request = told(name, tree)
    return f"{request.verb.decode()} {(request.path + request.query).decode()}", request.body


GOOD = [
    ("Query", {}, "GET /query", ABSENT),
    ("Query", {"longName": "a b&c+é", "i32": -1}, "GET /query?long_name=a%20b%26c%2B%C3%A9&i32=-1", ABSENT),
    ("Query", {"tags": ["a", "b"], "numbers": ["1", 2], "labels": {}, "inners": []}, "GET /query?tags=a&tags=b&numbers=1&numbers=2", ABSENT),
    ("Query", {"inner": {"id": "x", "inner": {"size": 1}, "flags": [True, False]}},
     "GET /query?inner.id=x&inner.inner.size=1&inner.flags=true&inner.flags=false", ABSENT),
    ("Query", {"real": 1.5, "raw": "+/8=", "colour": "RED", "flag": False}, "GET /query?real=1.5&raw=-_8%3D&colour=RED&flag=false", ABSENT),
    ("Query", {"u64": 2**64 - 1, "i32": 3.0, "real": 3}, "GET /query?u64=18446744073709551615&i32=3&real=3.0", ABSENT),
    ("Query", {"real": math.inf, "colour": 7}, "GET /query?real=Infinity&colour=7", ABSENT),
    ("Query", {"when": "2024-05-17T10:00:00Z", "big": "5", "id": None}, "GET /query?when=2024-05-17T10%3A00%3A00Z&big=5", ABSENT),
    ("Path", {"id": "a/b", "i64": "5", "colour": "RED"}, "GET /number/5/RED?id=a%2Fb", ABSENT),
    ("Path", {"id": "a b"}, "GET /path/a%20b", ABSENT),
    ("Path", {"inner": {"id": "x"}, "i32": 1}, "GET /inner/x?i32=1", ABSENT),
    ("Path", {"maybe": 3}, "PUT /maybe/3", ABSENT),
    ("Path", {"real": -0.5, "raw": "+/8="}, "GET /real/-0.5/-_8%3D:verb", ABSENT),
    ("Deep", {"id": "shelves/1/books/2 3"}, "GET /deep/shelves/1/books/2%203", ABSENT),
    ("Deep", {"id": "shelves/1"}, "GET /any/shelves/1", ABSENT),
    ("Deep", {"id": ""}, "GET /any", ABSENT),
    ("Deep", {"i32": 1}, "GET /any?i32=1", ABSENT),
    ("Whole", {"inner": {"id": "x", "size": 2}, "longName": "y", "labels": {"a": "b"}}, "POST /whole/x/y", {"inner": {"size": 2}, "labels": {"a": "b"}}),
    ("Part", {"inner": {"id": "x", "size": 2}, "i32": 3}, "PATCH /part/x?i32=3", {"size": 2}),
    ("Part", {"inner": {"id": "x"}}, "PATCH /part/x", {}),
    ("List", {"inners": [{"id": "a"}], "id": "x"}, "POST /list?id=x", [{"id": "a"}]),
    ("List", {"id": "x"}, "POST /list?id=x", ABSENT),
    ("Fallback", {"id": "x", "labels": {"a": "b"}}, "POST /fall/x", {"labels": {"a": "b"}}),
    ("Fallback", {"id": "x", "i32": 1}, "GET /fall/x?i32=1", ABSENT),
    ("Numbers", {}, "GET /numbers/0/false/COLOUR_UNSET", ABSENT),
    ("Bare", {"id": "x"}, "POST /t.S/Bare", {"id": "x"}),
    ("Text", "hello", "POST /t.S/Text", "hello"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "tree", "said", "body"), GOOD)
def test_the_first_rule_that_can_say_the_message_is_taken(name, tree, said, body):
    before = repr(tree)
    assert line(name, tree) == (said, body)
    assert repr(tree) == before, "the tree is the caller's"


BAD = [
    ("Query", {"labels": {"a": "b"}}, "labels", "cannot stand in a query"),
    ("Query", {"inners": [{"id": "a"}]}, "inners", "cannot stand in a query"),
    ("Query", {"struct": {"a": 1}}, "struct", "cannot stand in a query"),
    ("Query", {"inner": {}}, "inner", "there but empty"),
    ("Query", {"inner": "x"}, "inner", "must be an object"),
    ("Query", {"inner": {"nope": 1}}, "inner.nope", "no such field"),
    ("Query", {"tags": "x"}, "tags", "must be a list"),
    ("Query", {"tags": [1]}, "tags[0]", "no value of its type"),
    ("Query", {"i32": 2**31}, "i32", "no value of its type"),
    ("Query", {"i32": 1.5}, "i32", "no value of its type"),
    ("Query", {"u64": 1e300}, "u64", "no value of its type"),
    ("Query", {"i64": math.inf}, "i64", "no value of its type"),
    ("Query", {"colour": 2**31}, "colour", "no value of its type"),
    ("Query", {"flag": "true"}, "flag", "no value of its type"),
    ("Query", {"real": 10**400}, "real", "greater than any number"),
    ("Query", {"id": "\ud800"}, "id", "no Unicode"),
    ("Query", {"id": "x" * 8192}, "", "too long for a URL"),
    ("Query", {"id": "x" * (MAX_TARGET + 1)}, "id", "too long for a URL"),
    ("Query", {"id": "é" * (MAX_TARGET // 6)}, "", "too long for a URL"),
    ("Query", {"tags": ["x" * 400] * 21}, "", "too long for a URL"),
    ("Query", {"tags": ["x"] * (MAX_PARAMETERS + 1)}, "", "too long for a URL"),
    ("Query", {"tags": ["x"] * MAX_PARAMETERS, "id": "x"}, "", "too long for a URL"),
    ("Deep", {"id": "x" * (MAX_TARGET + 1)}, "id", "too long for a URL"),
    ("Whole", {"inner": {"id": "x" * (MAX_TARGET + 1)}, "longName": "y"}, "inner.id", "too long for a URL"),
    ("Whole", {"inner": {"id": "x" * MAX_TARGET}, "longName": "y"}, "", "too long for a URL"),
    ("Part", {"inner": {"id": "x" * MAX_TARGET}}, "", "too long for a URL"),
    ("Query", [], "", "must be an object"),
    ("Whole", {"inner": {"id": "x"}}, "longName", "cannot stand in the path"),
    ("Whole", {"inner": {"id": ".."}, "longName": "y"}, "inner.id", "cannot stand in the path"),
    ("Part", {}, "inner.id", "is missing, and the path needs it"),
    ("Part", {"inner": {"id": "a/b"}}, "inner.id", "cannot stand in the path"),
    ("Part", {"inner": {"id": ["a"]}}, "inner.id", "no value of its type"),
    ("Star", {}, "", "cannot stand in the path"),
]


@pytest.mark.parametrize(("name", "tree", "path", "what"), BAD)
def test_what_no_rule_can_say_is_refused_and_never_left_out(name, tree, path, what):
    with pytest.raises(Unfit) as wrong:
        told(name, tree)
    assert (wrong.value.path, what in wrong.value.what) == (path, True), wrong.value


LONG = [
    ("Whole", {"inner": {"id": " " * 2**20}, "longName": "y"}),
    ("Deep", {"id": " " * 2**20}),
    ("Query", {"id": " " * 2**20}),
    ("Query", {"inner": {"id": " " * 2**20}}),
    ("Query", {"tags": [" " * 2**10] * 2**10}),
    ("Query", {"numbers": [1] * 2**18}),
]


@pytest.mark.parametrize(("name", "tree"), LONG)
def test_what_is_too_long_for_a_url_is_refused_before_it_is_encoded(name, tree):
    """Threat C12: a name of some MiB would cost seconds and hundreds of MiB."""
    tracemalloc.start()
    try:
        with pytest.raises(Unfit, match="too long for a URL"):
            told(name, tree)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**18


def test_a_query_of_just_the_limit_is_said():
    request = told("Query", {"id": "x" * (MAX_TARGET - len("/query?id="))})
    assert len(request.path) + len(request.query) == MAX_TARGET


def test_the_field_that_the_answer_is_in_is_told():
    assert told("List", {}).way.answer.name == "inner"
    assert told("Query", {}).way.answer is None


texts = st.text("ab.~-_é%25F/: ?#&=+;\\\n\0", max_size=5)
octets = st.binary(max_size=4).map(lambda raw: urlsafe_b64encode(raw).decode())
inners = st.deferred(
    lambda: st.fixed_dictionaries(
        {},
        optional={
            "id": texts,
            "size": st.integers(-(2**31), 2**31 - 1),
            "inner": inners,
            "flags": st.lists(st.booleans(), min_size=1, max_size=2),
        },
    ).filter(bool)
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "id": texts | st.sampled_from(["shelves/1/books/2", "a/b"]),
        "i32": st.integers(-(2**31), 2**31 - 1),
        "i64": st.integers(-(2**63), 2**63 - 1),
        "u64": st.integers(0, 2**64 - 1),
        "flag": st.booleans(),
        "real": st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["NaN", "Infinity", "-Infinity"]),
        "colour": st.sampled_from(["RED", "COLOUR_UNSET", 7, -1]),
        "raw": octets,
        "tags": st.lists(texts, min_size=1, max_size=3),
        "numbers": st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3),
        "inner": inners,
        "inners": st.lists(inners, min_size=1, max_size=2),
        "labels": st.dictionaries(texts, texts, min_size=1, max_size=2),
        "when": st.just("2024-05-17T10:00:00.5Z"),
        "big": st.integers(-(2**63), 2**63 - 1),
        "longName": texts,
        "maybe": st.integers(-(2**31), 2**31 - 1),
    },
)
IMPLIED = {"id": "", "i32": 0, "flag": False, "colour": "COLOUR_UNSET", "i64": 0, "real": 0.0, "raw": ""}


@given(messages, st.sampled_from([method.name for method in SCHEMA.methods.values() if method.name != "Text"]))
def test_what_is_told_is_asked_again_as_the_same_message(tree, name):
    """`ask(match(tell(tree))) == tree`, but that a default may come back said."""
    try:
        request = told(name, tree)
    except Unfit:
        return
    assert canonical_path(request.path) == request.path
    bound = ROUTES.match(request.verb, request.path)
    assert bound is not None
    assert bound.way is request.way
    again = ask(bound, request.query, request.body)
    for field, default in IMPLIED.items():
        if field not in tree and again.get(field, None) == default:
            del again[field]
    assert again == tree
    assert urlsafe_b64decode(again.get("raw", "")) == urlsafe_b64decode(tree.get("raw", ""))

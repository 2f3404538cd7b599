"""What `flui api` shows: true of the schema, and lines that can be run as they are."""

import json
import shlex

import pytest
from rest_schemas import schema_of

from flui.translate.listing import MAX_SHOWN, example, listing
from flui.translate.rest import RestRoutes
from flui.translate.rest_in import ask
from flui.translate.ways import ABSENT

SCHEMA = schema_of("""
enum Colour { COLOUR_UNSET = 0; RED = 1; }
message Line { string item = 1; int32 quantity = 2; Line next = 3; }
message Ring { Rung rung = 1; string name = 2; }
message Rung { Ring ring = 1; string name = 2; }
message Order {
  string id = 1; repeated Line lines = 2; map<string, int64> totals = 3; Colour colour = 4; google.protobuf.Timestamp at = 5;
  google.protobuf.Int64Value big = 6; oneof which { string x = 7; bytes y = 8; } Line first = 9; double price = 10; bool flag = 11;
  google.protobuf.Struct struct = 12; map<int32, bool> flags = 13;
}
service Stock {
  rpc Reserve(Line) returns (Order) { option (google.api.http) = { post: "/v1/reservations" body: "*" additional_bindings { get: "/v1/items/{item}/{quantity}" } }; }
  rpc Watch(Order) returns (stream Order) { option (google.api.http) = { get: "/v1/{id=orders/*}:watch" }; }
  rpc Put(Order) returns (Order) { option (google.api.http) = { put: "/v1/{first.item=shelves/*/items/*}" body: "first" }; }
  rpc Take(Order) returns (Order) { option (google.api.http) = { custom: { kind: "*" path: "/y/{y}" } additional_bindings { custom: { kind: "HEAD" path: "/flag/{flag}/{colour}" } } }; }
  rpc Star(Order) returns (Order) { option (google.api.http) = { get: "/star/*" }; }
  rpc Upload(stream Line) returns (Order);
  rpc Chat(stream Line) returns (stream Order);
  rpc Round(Ring) returns (Ring);
}
service Alone { rpc Text(google.protobuf.StringValue) returns (google.protobuf.Empty); }
""")
ROUTES = RestRoutes(SCHEMA)
LISTING = listing(SCHEMA, ROUTES, "127.0.0.1:8080")
METHODS = {f"{service['service']}/{method['method']}": method for service in LISTING for method in service["methods"]}
LINES = [line["line"] for method in METHODS.values() for line in method["curl"]]


def test_services_and_methods_are_listed_with_what_they_are():
    assert [service["service"] for service in LISTING] == ["t.Alone", "t.Stock"]
    assert {name: method["kind"] for name, method in METHODS.items()} == {
        "t.Alone/Text": "unary", "t.Stock/Reserve": "unary", "t.Stock/Watch": "server", "t.Stock/Put": "unary", "t.Stock/Take": "unary",
        "t.Stock/Star": "unary", "t.Stock/Upload": "client", "t.Stock/Chat": "bidi", "t.Stock/Round": "unary",
    }  # fmt: skip
    method = METHODS["t.Stock/Reserve"]
    assert (method["path"], method["request"], method["response"]) == ("/t.Stock/Reserve", "t.Line", "t.Order")
    assert method["routes"] == [
        {"verb": "POST", "path": "/v1/reservations", "body": "*", "response_body": "", "annotated": True},
        {"verb": "GET", "path": "/v1/items/{item}/{quantity}", "body": "", "response_body": "", "annotated": True},
        {"verb": "POST", "path": "/t.Stock/Reserve", "body": "*", "response_body": "", "annotated": False},
    ]
    json.dumps(LISTING)


def test_the_lines_are_those_of_each_dialect():
    assert METHODS["t.Stock/Reserve"]["curl"] == [
        {"dialect": "REST", "line": """curl -X POST http://127.0.0.1:8080/v1/reservations -H 'content-type: application/json' -d '{"item":"item","quantity":1}'"""},
        {"dialect": "REST", "line": "curl -X GET http://127.0.0.1:8080/v1/items/item/1"},
        {"dialect": "JSON", "line": """curl -X POST http://127.0.0.1:8080/t.Stock/Reserve -H 'content-type: application/json' -d '{"item":"item","quantity":1}'"""},
        {"dialect": "Connect", "line": "curl -X POST http://127.0.0.1:8080/t.Stock/Reserve -H 'content-type: application/json' -H 'connect-protocol-version: 1' "
         """-d '{"item":"item","quantity":1}'"""},
    ]  # fmt: skip
    assert [line["dialect"] for line in METHODS["t.Stock/Star"]["curl"]] == ["JSON", "Connect"], "nothing can be said for a bare `*`"
    (upload,) = METHODS["t.Stock/Upload"]["curl"]
    assert "'content-type: application/x-ndjson'" in upload["line"]
    for name in ("t.Stock/Watch", "t.Stock/Chat"):
        for line in METHODS[name]["curl"]:
            assert line["line"].startswith("curl -N ")
            assert "'accept: application/x-ndjson'" in line["line"]


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_a_request_that_is_served(line):
    words = shlex.split(line)
    url = next(word for word in words if word.startswith("http://"))
    verb = "HEAD" if "-I" in words else words[words.index("-X") + 1]
    path, mark, query = url.removeprefix("http://127.0.0.1:8080").encode().partition(b"?")
    body = json.loads(words[words.index("-d") + 1]) if "-d" in words else ABSENT
    bound = ROUTES.match(verb.encode(), path)
    assert bound is not None
    assert ask(bound, mark + query, body)


def test_an_example_says_every_field_and_one_of_each_oneof():
    assert example(SCHEMA.types["t.Order"]) == {
        "id": "id", "lines": [{"item": "item", "quantity": 1}], "totals": {"key": "1"}, "colour": "RED", "at": "2026-01-01T00:00:00Z", "big": "1",
        "x": "x", "first": {"item": "item", "quantity": 1}, "price": 1.5, "flag": True, "struct": {"key": "value"}, "flags": {"1": True},
    }  # fmt: skip
    assert example(SCHEMA.types["t.Ring"]) == {"rung": {"ring": {"name": "name"}, "name": "name"}, "name": "name"}


def nodes(tree):
    if isinstance(tree, dict):
        return sum(1 + nodes(value) for value in tree.values())
    return sum(nodes(value) for value in tree) if isinstance(tree, list) else 0


def test_an_example_of_messages_of_many_messages_is_bounded():
    """60 fields of 60 fields of 60 are 219,660."""
    text = ""
    for depth in (1, 2, 3):
        fields = (f"M{depth + 1} f{at} = {at + 1};" if depth < 3 else f"string f{at} = {at + 1};" for at in range(60))
        text += f"message M{depth} {{ {' '.join(fields)} map<string, M1> m = 99; }}\n"
    schema = schema_of(text.replace("M4", "M3") + "service S { rpc Get(M1) returns (M1); }")
    tree = example(schema.types["t.M1"])
    assert nodes(tree) <= MAX_SHOWN
    assert tree["f0"]["f0"]["f59"] == "f59", "what is gone through is whole"
    (service,) = listing(schema, RestRoutes(schema), "127.0.0.1:8080")
    for line in service["methods"][0]["curl"]:
        assert len(line["line"]) < 20 * MAX_SHOWN


def test_a_line_says_one_member_of_a_oneof():
    for line in METHODS["t.Stock/Take"]["curl"]:
        assert "/y/" not in line["line"] or "x=" not in line["line"]

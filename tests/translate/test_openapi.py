"""The OpenAPI document: sound in its structure, and true."""

import json
import re

import pytest
from rest_schemas import schema_of

from flui.translate.openapi import MAX_LISTED, MAX_VISITED, document
from flui.translate.rest import RestRoutes

SCHEMA = schema_of("""
enum Colour { COLOUR_UNSET = 0; RED = 1; }
message Item { string item_id = 1; int32 quantity = 2; Item parent = 3; repeated Item parts = 4; Other other = 5; }
message Other { Item item = 1; bytes raw = 2; }
message Every {
  double d = 1; float f = 2; int64 i64 = 3; uint64 u64 = 4; int32 i32 = 5; fixed32 f32 = 6; bool flag = 7; string text = 8; bytes raw = 9; Colour colour = 10;
  repeated string many = 11; map<int32, Item> items = 12; google.protobuf.Timestamp when = 13; google.protobuf.Duration wait = 14;
  google.protobuf.FieldMask mask = 15; google.protobuf.Struct struct = 16; google.protobuf.Value value = 17; google.protobuf.ListValue list = 18;
  google.protobuf.Any any = 19; google.protobuf.Empty empty = 20; google.protobuf.Int64Value big = 21; google.protobuf.StringValue name = 22;
  google.protobuf.NullValue nothing = 23; google.protobuf.DoubleValue real = 24;
}
service Stock {
  rpc Get(Item) returns (Every) { option (google.api.http) = { get: "/v1/items/{item_id}" additional_bindings { get: "/v1/{item_id=shelves/*/items/*}:old" } }; }
  rpc Set(Item) returns (Item) { option (google.api.http) = { patch: "/v1/items/{parent.item_id}" body: "parent" response_body: "parent" }; }
  rpc Take(Item) returns (Item) { option (google.api.http) = { post: "/v1/items" body: "*" additional_bindings { custom: { kind: "TAKE" path: "/v1/items" } } }; }
  rpc Any(Item) returns (Item) { option (google.api.http) = { custom: { kind: "*" path: "/any/*/{item_id=**}" } }; }
  rpc Watch(Item) returns (stream Item) { option (google.api.http) = { get: "/v1/items:watch" }; }
  rpc Upload(stream Item) returns (Item);
  rpc Bare(google.protobuf.Empty) returns (google.protobuf.StringValue);
}
""")
DOCUMENT = document(SCHEMA, RestRoutes(SCHEMA), "stock")
VERBS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def operations():
    for path, item in DOCUMENT["paths"].items():
        for verb, operation in item.items():
            if verb in VERBS:
                yield path, verb, operation
            else:
                assert verb == "x-custom-methods"
                for custom, each in operation.items():
                    yield path, custom, each


def refs(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for each in value.values():
            yield from refs(each)
    elif isinstance(value, list):
        for each in value:
            yield from refs(each)


def test_every_reference_leads_to_a_schema_and_every_schema_is_referred_to():
    named = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(refs(DOCUMENT)) == named


def test_the_parameters_of_a_path_are_those_that_it_names():
    for path, _, operation in operations():
        declared = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert declared == re.findall(r"\{(.*?)\}", path)
        assert all(each["required"] is True for each in operation["parameters"] if each["in"] == "path")
        places = [(each["in"], each["name"]) for each in operation["parameters"]]
        assert len(set(places)) == len(places)
        assert {"200", "default"} == set(operation["responses"])


def test_operations_and_paths_are_told_apart():
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    shapes = [re.sub(r"\{.*?\}", "{}", path) for path in DOCUMENT["paths"]]
    assert len(set(shapes)) == len(shapes)


def test_the_paths_are_those_that_are_served():
    assert {(path, verb, operation["operationId"]) for path, verb, operation in operations()} == {
        ("/v1/items/{item_id}", "get", "Stock_Get"),
        ("/v1/shelves/{item_id_1}/items/{item_id_2}:old", "get", "Stock_Get_2"),
        ("/v1/items/{item_id}", "patch", "Stock_Set"),
        ("/v1/items", "post", "Stock_Take"),
        ("/v1/items", "TAKE", "Stock_Take_2"),
        ("/any/{segment_1}/{item_id}", "post", "Stock_Any"),
        ("/v1/items:watch", "get", "Stock_Watch"),
        ("/t.Stock/Upload", "post", "Stock_Upload"),
        ("/t.Stock/Bare", "post", "Stock_Bare"),
    }


def test_the_query_is_what_neither_path_nor_body_has():
    found = {
        operation["operationId"]: [each["name"] for each in operation["parameters"] if each["in"] == "query"]
        for _, _, operation in operations()
    }
    assert found["Stock_Get"] == ["quantity", "other.raw"], "a message within itself is not listed again"
    assert found["Stock_Set"] == ["item_id", "quantity", "other.raw"]
    assert found["Stock_Take"] == []
    assert found["Stock_Upload"] == []


def test_types_are_those_of_protojson():
    ref = "#/components/schemas/t."
    assert DOCUMENT["components"]["schemas"]["t.Every"]["properties"] == {
        "d": {"type": ["number", "string"], "format": "double"},
        "f": {"type": ["number", "string"], "format": "float"},
        "i64": {"type": "string", "format": "int64"},
        "u64": {"type": "string", "format": "uint64"},
        "i32": {"type": "integer", "format": "int32"},
        "f32": {"type": "integer", "format": "uint32", "minimum": 0},
        "flag": {"type": "boolean"},
        "text": {"type": "string"},
        "raw": {"type": "string", "contentEncoding": "base64"},
        "colour": {"$ref": ref + "Colour"},
        "many": {"type": "array", "items": {"type": "string"}},
        "items": {"type": "object", "additionalProperties": {"$ref": ref + "Item"}},
        "when": {"type": "string", "format": "date-time"},
        "wait": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
        "mask": {"type": "string"},
        "struct": {"type": "object", "additionalProperties": True},
        "value": {},
        "list": {"type": "array", "items": {}},
        "any": {
            "type": "object",
            "properties": {"@type": {"type": "string", "description": "Name of the message, behind a slash."}},
            "required": ["@type"],
            "additionalProperties": True,
        },
        "empty": {"type": "object", "additionalProperties": False},
        "big": {"type": ["string", "null"], "format": "int64"},
        "name": {"type": ["string", "null"]},
        "nothing": {"type": "null"},
        "real": {"type": ["number", "string", "null"], "format": "double"},
    }
    assert DOCUMENT["components"]["schemas"]["t.Colour"] == {"type": "string", "enum": ["COLOUR_UNSET", "RED"]}
    assert DOCUMENT["components"]["schemas"]["t.Item"]["properties"]["itemId"] == {"type": "string"}


@pytest.mark.parametrize(
    ("path", "verb", "asks", "tells"),
    [
        ("/v1/items:watch", "get", None, ["application/x-ndjson", "text/event-stream"]),
        ("/t.Stock/Upload", "post", ["application/x-ndjson"], ["application/json"]),
        ("/v1/items", "post", ["application/json"], ["application/json"]),
    ],
)
def test_streams_are_asked_and_told_as_their_framings(path, verb, asks, tells):
    operation = DOCUMENT["paths"][path][verb]
    assert (list(operation["requestBody"]["content"]) if asks else operation.get("requestBody")) == asks
    assert list(operation["responses"]["200"]["content"]) == tells


def test_answers_and_bodies_are_the_fields_that_the_rule_names():
    operation = DOCUMENT["paths"]["/v1/items/{item_id}"]["patch"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/t.Item"}
    assert operation["parameters"][0]["description"] == "Of the field parent.itemId: /v1/items/{parent.item_id}"


def test_equal_schemas_have_equal_documents():
    assert json.dumps(document(SCHEMA, RestRoutes(SCHEMA), "stock")) == json.dumps(DOCUMENT)
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"] == {"title": "stock", "version": "1"}


def test_a_message_of_many_fields_does_not_fill_the_document():
    fields = " ".join(f"string f{at} = {at + 1};" for at in range(MAX_LISTED * 2))
    schema = schema_of(
        f'message Wide {{ {fields} }} service S {{ rpc Get(Wide) returns (Wide) {{ option (google.api.http) = {{ get: "/wide" }}; }} }}'
    )
    told = document(schema, RestRoutes(schema), "wide")
    assert len(told["paths"]["/wide"]["get"]["parameters"]) == MAX_LISTED


def test_messages_of_many_messages_that_no_query_can_hold_are_not_all_gone_through():
    """20 fields of 20 fields of 20 of 20 are 168,420, of which none is listed; what is behind `MAX_VISITED` of them is not looked at."""
    text = ""
    for depth in (1, 2, 3, 4):
        fields = (f"M{depth + 1} f{at} = {at + 1};" if depth < 4 else f"repeated M1 f{at} = {at + 1};" for at in range(20))
        text += f"message M{depth} {{ {' '.join(fields)} }}\n"
    text += (
        "message Few { string first = 1; M3 some = 2; string last = 3; } message Many { string first = 1; M1 some = 2; string last = 3; }"
    )
    for name in ("Few", "Many"):
        text += f'service {name}s {{ rpc Get({name}) returns (M1) {{ option (google.api.http) = {{ get: "/{name}" }}; }} }}'
    schema = schema_of(text)
    paths = document(schema, RestRoutes(schema), "wide")["paths"]
    listed = {path: [each["name"] for each in item["get"]["parameters"]] for path, item in paths.items() if "get" in item}
    assert 3 + 20 * 21 < MAX_VISITED < 3 + 168_420
    assert listed == {"/Few": ["first", "last"], "/Many": ["first"]}


def test_services_named_alike_are_told_apart_by_their_packages():
    from flui.translate.schema import MessageType, Method, Schema

    empty = MessageType("google.protobuf.Empty")
    methods = {
        method.path: method
        for method in (Method("a.S", "M", empty, empty), Method("b.S", "M", empty, empty), Method("b.T", "M", empty, empty))
    }
    schema = Schema(methods, {}, "1", "test")
    paths = document(schema, RestRoutes(schema), "s")["paths"]
    assert [item["post"]["operationId"] for item in paths.values()] == ["a_S_M", "b_S_M", "T_M"]

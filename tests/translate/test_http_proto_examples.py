"""Every example in the comment of google/api/http.proto maps as it is written there, in both directions."""

from pathlib import Path

import google.api.http_pb2 as http
import pytest
from rest_schemas import schema_of

from flui.translate.rest import RestRoutes
from flui.translate.rest_in import ask
from flui.translate.rest_out import tell_by
from flui.translate.ways import ABSENT

NAME = """
service Messaging {
  rpc GetMessage(GetMessageRequest) returns (Message) { option (google.api.http) = { get: "/v1/{name=messages/*}" }; }
}
message GetMessageRequest { string name = 1; }
message Message { string text = 1; }
"""
QUERY = """
service Messaging {
  rpc GetMessage(GetMessageRequest) returns (Message) { option (google.api.http) = { get:"/v1/messages/{message_id}" }; }
}
message GetMessageRequest {
  message SubMessage { string subfield = 1; }
  string message_id = 1;
  int64 revision = 2;
  SubMessage sub = 3;
}
message Message { string text = 1; }
"""
FIELD = """
service Messaging {
  rpc UpdateMessage(UpdateMessageRequest) returns (Message) {
    option (google.api.http) = { patch: "/v1/messages/{message_id}" body: "message" };
  }
}
message UpdateMessageRequest { string message_id = 1; Message message = 2; }
message Message { string text = 1; }
"""
WHOLE = """
service Messaging {
  rpc UpdateMessage(Message) returns (Message) { option (google.api.http) = { patch: "/v1/messages/{message_id}" body: "*" }; }
}
message Message { string message_id = 1; string text = 2; }
"""
BINDINGS = """
service Messaging {
  rpc GetMessage(GetMessageRequest) returns (Message) {
    option (google.api.http) = {
      get: "/v1/messages/{message_id}"
      additional_bindings { get: "/v1/users/{user_id}/messages/{message_id}" }
    };
  }
}
message GetMessageRequest { string message_id = 1; string user_id = 2; }
message Message { string text = 1; }
"""
SERVICE_CONFIG = """
service Messaging {
  rpc GetMessage(GetMessageRequest) returns (Message) { option (google.api.http) = { get: "/v1/messages/{message_id}/{sub.subfield}" }; }
}
message GetMessageRequest {
  message SubMessage { string subfield = 1; }
  string message_id = 1;
  SubMessage sub = 3;
}
message Message { string text = 1; }
"""
REPEATED = """
service Messaging {
  rpc List(Request) returns (Request) { option (google.api.http) = { get: "/v1/list" }; }
}
message Foo { string a = 1; string b = 2; string c = 3; }
message Request { repeated string param = 1; Foo foo = 2; }
"""

EXAMPLES = {
    "GET /v1/messages/123456 (name=messages/*)": (NAME, b"GET", b"/v1/messages/123456", b"", ABSENT, {"name": "messages/123456"}),
    "GET /v1/messages/123456?revision=2&sub.subfield=foo": (
        QUERY, b"GET", b"/v1/messages/123456", b"?revision=2&sub.subfield=foo", ABSENT,
        {"messageId": "123456", "revision": 2, "sub": {"subfield": "foo"}},
    ),
    "...?param=A&param=B": (REPEATED, b"GET", b"/v1/list", b"?param=A&param=B", ABSENT, {"param": ["A", "B"]}),
    "...?foo.a=A&foo.b=B&foo.c=C": (REPEATED, b"GET", b"/v1/list", b"?foo.a=A&foo.b=B&foo.c=C", ABSENT, {"foo": {"a": "A", "b": "B", "c": "C"}}),
    "PATCH /v1/messages/123456 with a field as body": (
        FIELD, b"PATCH", b"/v1/messages/123456", b"", {"text": "Hi!"}, {"messageId": "123456", "message": {"text": "Hi!"}},
    ),
    "PATCH /v1/messages/123456 with all as body": (
        WHOLE, b"PATCH", b"/v1/messages/123456", b"", {"text": "Hi!"}, {"messageId": "123456", "text": "Hi!"},
    ),
    "GET /v1/messages/123456 of two bindings": (BINDINGS, b"GET", b"/v1/messages/123456", b"", ABSENT, {"messageId": "123456"}),
    "GET /v1/users/me/messages/123456": (
        BINDINGS, b"GET", b"/v1/users/me/messages/123456", b"", ABSENT, {"userId": "me", "messageId": "123456"},
    ),
    "service config: /v1/messages/{message_id}/{sub.subfield}": (
        SERVICE_CONFIG, b"GET", b"/v1/messages/123456/foo", b"", ABSENT, {"messageId": "123456", "sub": {"subfield": "foo"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_the_documentation_maps_as_it_is_written_there(name):
    text, verb, path, query, body, tree = EXAMPLES[name]
    routes = RestRoutes(schema_of(text))
    assert routes.mistakes == ()
    bound = routes.match(verb, path)
    assert bound is not None
    assert ask(bound, query, body) == tree
    told = tell_by(bound.way, tree)
    assert (told.verb, told.path, told.query, told.body) == (verb, path, query, body)


def test_the_documentation_has_no_example_beside_these():
    """What `HTTP:` stands before in the installed file, where it comes with its comments."""
    proto = Path(http.__file__).with_name("http.proto")
    said = {
        line.split("HTTP: `")[1].split("`")[0].rstrip(" }").split(" {")[0] for line in proto.read_text().splitlines() if "HTTP: `" in line
    }
    held = {f"{verb.decode()} {(path + query).decode()}" for _, verb, path, query, _, _ in EXAMPLES.values()}
    assert said
    assert said <= held


def test_whole_bodies_leave_no_query_parameters():
    """Rule 2: if body is `*`, there is no URL query parameter."""
    routes = RestRoutes(schema_of(WHOLE))
    bound = routes.match(b"PATCH", b"/v1/messages/1")
    with pytest.raises(ValueError, match="text: there are no query parameters") as wrong:
        try:
            ask(bound, b"?text=Hi", ABSENT)
        except Exception as unfit:
            raise ValueError(str(unfit)) from unfit
    assert wrong.value.__cause__.path == "text"


def test_single_segments_are_encoded_wholly_and_several_but_for_their_slashes():
    """All characters except `[-_.~0-9a-zA-Z]` are percent-encoded; of several segments, `/` neither."""
    text = """
    service S {
      rpc One(Request) returns (Request) { option (google.api.http) = { get: "/v1/one/{name}" }; }
      rpc Many(Request) returns (Request) { option (google.api.http) = { get: "/v1/many/{name=**}" }; }
      rpc Foo(Request) returns (Request) { option (google.api.http) = { get: "/v1/{name=foo/*}" }; }
    }
    message Request { string name = 1; }
    """
    schema = schema_of(text)
    routes = RestRoutes(schema)
    plain = "-_.~09azAZ"
    rest = " !\"#$&'()*+,:;<=>?@[]^`{|}é"
    encoded = "".join(f"%{octet:02X}" for octet in rest.encode())

    def path(method, value):
        (way, _) = routes.ways(schema.methods[method])
        told = tell_by(way, {"name": value})
        assert ask(routes.match(b"GET", told.path), b"", ABSENT) == {"name": value}
        return told.path.decode()

    assert path(b"/t.S/One", plain + rest) == f"/v1/one/{plain}{encoded}"
    assert path(b"/t.S/Many", f"a/{plain}{rest}/b") == f"/v1/many/a/{plain}{encoded}/b"
    assert path(b"/t.S/Foo", f"foo/{plain}{rest}") == f"/v1/foo/{plain}{encoded}"


def test_an_encoded_slash_of_several_segments_stays():
    """The server side does the reverse decoding, except "%2F" and "%2f" are left unchanged."""
    from flui.translate.template import read, value_of

    template = read("/v1/{name=**}")
    (capture,) = template.match(b"/v1/a%2Fb/c%20%2f")
    assert value_of(capture, several=True) == "a%2Fb/c %2f"
    assert value_of(b"a%2Fb", several=False) == "a/b"

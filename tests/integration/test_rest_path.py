"""REST callers of a gRPC module of which the sidecar learns by reflection: annotated routes, the default ones, streams, errors."""

import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support import messages, schemas
from support.library import Library
from support.mesh import Mesh, until

RULES = """\
p, spiffe://shop/web, {name}, CALL, /lib.Library/*
p, spiffe://shop/web, {name}, CALL, /lib.Library/Fail2, deny
p, spiffe://shop/reader, {name}, CALL, /lib.Library/GetBook
"""


@pytest.fixture
def library():
    with Library() as served:
        yield served


def ask(verb, target, body=b"", more="", kind="application/json"):
    head = f"{verb} {target} HTTP/1.1\r\nhost: library\r\n{more}"
    if body:
        head += f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


async def beside(mesh, library, **more):
    side = await mesh.sidecar("library", app=f"h2c://{library.address}", rules=RULES, **more)
    await until(lambda: side.running.relay.snapshot.schema.methods, "the shape of the module")
    return side


def test_annotated_routes_lead_to_their_methods(tmp_path, library):
    mesh = Mesh(tmp_path)

    async def story():
        side = await beside(mesh, library)

        async def told(verb, target, body=b"", more=""):
            answer = await mesh.call(side, ask(verb, target, body, more))
            assert (answer.status, answer.get(b"content-type")) == (200, b"application/json"), answer.body
            return answer, json.loads(answer.body)

        answer, book = await told("GET", "/v1/shelves/1/books/2")
        assert book == {"name": "shelves/1/books/2", "title": "T", "pages": "9007199254740993"}
        assert (answer.get(b"x-early"), answer.get(b"x-late")) == (b"1", b"2")
        assert library.metadata["flui-principal"] == "spiffe://shop/web"
        assert (await told("GET", "/v1/books/a%20b"))[1]["name"] == "a b"
        assert (await told("POST", "/v1/shelves/1/books?id=7", b'{"title":"N"}'))[1] == {"name": "shelves/1/books/7", "title": "N"}
        _, book = await told("PATCH", "/v1/shelves/1/books/2?updateMask=title", b'{"title":"M"}')
        assert book == {"name": "shelves/1/books/2", "title": "M"}
        assert library.calls[-1][1]["updateMask"] == "title"
        assert (await told("GET", "/v1/shelves/1/books?most=2&tags=a&tags=b"))[1] == [{"name": "0"}, {"name": "1"}]
        assert library.calls[-1][1]["tags"] == ["a", "b"]
        assert (await told("GET", "/v1/shelves/1/books"))[1] == []
        # what nobody annotated has a way, too
        assert (await told("POST", "/lib.Library/GetBook", b'{"name":"x"}'))[1]["name"] == "x"

    mesh.run(story())


def test_what_does_not_fit_is_400_and_names_its_field(tmp_path, library):
    mesh = Mesh(tmp_path)

    async def story():
        side = await beside(mesh, library)

        async def refused(octets, status, name="web"):
            answer = await mesh.call(side, octets, name)
            assert answer.status == status, answer.body
            return json.loads(answer.body)

        said = await refused(ask("POST", "/v1/shelves/1/books", b'{"title":7}'), 400)
        assert (said["code"], said["message"].startswith("book.title: ")) == (3, True)
        said = await refused(ask("PATCH", "/v1/shelves/1/books/2", b'{"name":"shelves/1/books/3"}'), 400)
        assert said["message"].startswith("book.name: ")
        assert "most" in (await refused(ask("GET", "/v1/shelves/1/books?most=many"), 400))["message"]
        assert "nope" in (await refused(ask("GET", "/v1/shelves/1/books?nope=1"), 400))["message"]
        await refused(ask("POST", "/v1/shelves/1/books", b"{" * 70), 400)
        await refused(ask("POST", "/v1/shelves/1/books", b'{"title":"x","title":"y"}'), 400)
        await refused(ask("POST", "/v1/shelves/1/books", b"title=x", kind="application/x-www-form-urlencoded"), 415)
        await refused(ask("POST", "/lib.Library/Nothing", b"{}"), 404)
        # who may not call hears nothing else
        await refused(ask("POST", "/v1/shelves/1/books", b'{"title":7}'), 403, "reader")
        assert (await refused(ask("GET", "/v1/shelves/1/books/2"), 403, "nobody"))["code"] == 7
        answer = await mesh.call(side, ask("DELETE", "/v1/shelves/1/books/2"))
        assert (answer.status, answer.get(b"allow")) == (405, b"GET, PATCH")
        assert not library.calls
        assert (await refused(ask("GET", "/v1/shelves/1/books/none"), 404))["message"] == "no such book"
        said = await refused(ask("POST", "/lib.Library/Fail", b"{}"), 400)
        assert said == {
            "code": 9,
            "message": "nö",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "EMPTY", "metadata": {"a": "b"}},
                {"@type": "type.googleapis.com/un.Known", "value": "AQI="},
            ],
        }

    mesh.run(story())


def test_a_problem_names_what_was_asked_and_not_the_method(tmp_path, library):
    mesh = Mesh(tmp_path)

    async def story():
        side = await beside(mesh, library)
        for verb, target, kind in (("PUT", "/v1/books/a", ""), ("POST", "/v1/shelves/1/books", "text/xml")):
            answer = await mesh.call(side, ask(verb, target, b"{}" if kind else b"", kind=kind))
            assert (answer.status, json.loads(answer.body)["instance"]) == (415 if kind else 405, target)

    mesh.run(story())


def test_streams_are_lines_or_events(tmp_path, library):
    mesh = Mesh(tmp_path)

    async def story():
        side = await beside(mesh, library)
        answer = await mesh.call(side, ask("GET", "/v1/shelves/1/books:watch?most=2"))
        assert (answer.status, answer.get(b"content-type")) == (200, b"application/x-ndjson")
        assert answer.body == b'{"name":"0"}\n{"name":"1"}\n'
        answer = await mesh.call(side, ask("GET", "/v1/shelves/1/books:watch?most=2", more="accept: text/event-stream\r\n"))
        assert (answer.status, answer.get(b"content-type")) == (200, b"text/event-stream")
        assert answer.body == b'data: {"name":"0"}\n\ndata: {"name":"1"}\n\nevent: end\ndata: {}\n\n'
        answer = await mesh.call(side, ask("GET", "/v1/shelves/1/books:watch?most=1&fail=true"))
        assert answer.body == b'{"name":"0"}\n{"error":{"code":10,"message":"after all"}}\n'
        answer = await mesh.call(side, ask("GET", "/v1/shelves/1/books:watch?fail=true"))
        assert (answer.status, json.loads(answer.body)["message"]) == (400, "not now")
        answer = await mesh.call(side, ask("POST", "/v1/books:import", b'{"pages":"1"}\n\n{"pages":2}', kind="application/x-ndjson"))
        assert (answer.status, json.loads(answer.body)) == (200, {"books": 2, "pages": "3"})
        answer = await mesh.call(side, ask("POST", "/v1/books:import", b'{"pages":"1"}\n{"pages":[]}\n', kind="application/x-ndjson"))
        assert (answer.status, json.loads(answer.body)["message"].startswith("pages: ")) == (400, True)
        answer = await mesh.call(side, ask("POST", "/lib.Library/Chat", b'{"pages":"1"}\n{"title":"t"}\n', kind="application/x-ndjson"))
        assert (answer.status, answer.body) == (200, b'{"pages":"1"}\n{"title":"t"}\n')

        # and the same by Connect
        def framed(text, flag=0):
            return bytes((flag,)) + len(text).to_bytes(4, "big") + text

        body = framed(b'{"pages":"1"}') + framed(b'{"title":"t"}')
        answer = await mesh.call(side, ask("POST", "/lib.Library/Chat", body, kind="application/connect+json"))
        assert (answer.status, answer.body) == (200, body + framed(b"{}", 2))
        answer = await mesh.call(side, ask("GET", "/lib.Library/GetBook?connect=v1&encoding=json&message=%7B%22name%22%3A%22x%22%7D"))
        assert (answer.status, json.loads(answer.body)["name"], answer.get(b"trailer-x-late")) == (200, "x", b"2")

    mesh.run(story())


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(st.lists(messages.messages("flui.tests.All"), min_size=10, max_size=30))
def test_what_goes_through_rest_is_what_goes_by_grpc(tmp_path_factory, drawn):
    """To the module it is the message that a gRPC caller sends, and the answer means what a gRPC caller gets."""
    mesh = Mesh(tmp_path_factory.mktemp("rest"))
    with Library() as library:

        async def story():
            side = await beside(mesh, library)
            for message in drawn:
                answer = await mesh.call(side, ask("POST", "/lib.Library/Echo", schemas.oracle_out(message).encode()))
                assert answer.status == 200, answer.body
                direct = schemas.class_of("flui.tests.All").FromString(library.heard[-1])
                assert schemas.canonical(direct) == schemas.canonical(message)
                assert schemas.canonical(schemas.oracle_in(answer.body, "flui.tests.All")) == schemas.canonical(message)

        mesh.run(story())

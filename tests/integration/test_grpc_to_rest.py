"""gRPC callers (and those of Connect) of a REST module, by the annotations of a descriptor set: the module speaks HTTP/1.1 and JSON."""

import json
from urllib.parse import parse_qsl, urlsplit

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2

from flui.codecs.grpc import binary_values
from support import schemas
from support.mesh import Mesh, read_body, until

RULES = "p, spiffe://shop/web, {name}, CALL, /lib.Library/*\n"
FILES = ("library.proto",)


def classes():
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(schemas.descriptor_set(*FILES)).file:
        pool.Add(file)
    names = ("Book", "Books", "Summary", "GetBookRequest", "CreateBookRequest", "UpdateBookRequest", "ListBooksRequest")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"lib.{name}")) for name in names}


@pytest.fixture(scope="module")
def lib():
    return classes()


class Shelf:
    """A REST module."""

    def __init__(self):
        self.asked = []
        self.fields = {}

    async def __call__(self, backend, request, reader, writer):
        if request is None:
            return True
        await read_body(request, reader)
        body = request.body
        where = urlsplit(request.target.decode())
        self.asked.append((request.method.decode(), where.path, parse_qsl(where.query), body))
        self.fields = dict(request.fields)
        status, kind, answer = self.answer(request.method.decode(), where.path, body)
        head = f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\nx-early: 1\r\ncontent-length: {len(answer)}\r\n\r\n"
        writer.write(head.encode() + answer)
        await writer.drain()
        return True

    def answer(self, verb, path, body):
        if path.endswith("/none"):
            return 404, "application/json", b'{"detail": "no such book"}'
        if path.endswith("/broken"):
            return 200, "application/json", b'{"pages": "many"}'
        if path.endswith("/limit"):
            status = {"code": 8, "message": "too many", "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "R"}]}
            return 429, "application/json", json.dumps(status).encode()
        if path.endswith(":watch"):
            return 200, "application/x-ndjson", b'{"name":"0"}\n{"name":"1"}\n'
        if path.endswith(":import"):
            lines = [json.loads(line) for line in body.splitlines()]
            return 200, "application/json", json.dumps({"books": len(lines)}).encode()
        if verb == "GET" and path.endswith("/books"):
            return 200, "application/json", b'[{"name":"a"},{"name":"b"}]'
        if verb == "GET":
            return 200, "application/json", json.dumps({"name": path[4:], "pages": "9007199254740993", "more": None}).encode()
        return 200, "application/json", body or b"{}"


def framed(payload):
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def frames(octets):
    found = []
    while octets:
        size = int.from_bytes(octets[1:5], "big")
        found.append(octets[5 : 5 + size])
        octets = octets[5 + size :]
    return found


def call(method, *messages, kind="application/grpc", more=""):
    octets = b"".join(framed(message.SerializeToString()) for message in messages)
    head = f"POST /lib.Library/{method} HTTP/1.1\r\nhost: library\r\ncontent-type: {kind}\r\n{more}content-length: {len(octets)}\r\n\r\n"
    return head.encode() + octets


def status(answer):
    said = dict(answer.fields)
    said |= dict(line.partition(b": ")[::2] for line in (answer.trailers or b"").split(b"\r\n") if line)
    return int(said[b"grpc-status"]), said.get(b"grpc-message", b"").decode(), said


def test_a_grpc_caller_reaches_a_rest_module_by_its_annotations(tmp_path, lib):
    mesh = Mesh(tmp_path)
    (tmp_path / "lib.binpb").write_bytes(schemas.descriptor_set(*FILES))
    shelf = Shelf()

    async def story():
        backend = await mesh.backend(shelf)
        app = f"{{url: '{backend.url}', api: '{tmp_path / 'lib.binpb'}'}}"
        side = await mesh.sidecar("library", app=app, rules=RULES)
        await until(lambda: side.running.relay.snapshot.schema.methods, "the shape of the module")

        async def told(method, message, kind="Book"):
            answer = await mesh.call(side, call(method, message, more="grpc-timeout: 5S\r\nx-mine: me\r\n"))
            assert status(answer)[0] == 0, answer.fields
            assert answer.get(b"content-type") == b"application/grpc"
            return [lib[kind].FromString(each) for each in frames(answer.body)]

        (book,) = await told("GetBook", lib["GetBookRequest"](name="shelves/1/books/2"))
        assert (book.name, book.pages) == ("shelves/1/books/2", 2**53 + 1)
        assert shelf.asked.pop() == ("GET", "/v1/shelves/1/books/2", [], b"")
        assert shelf.fields[b"flui-principal"] == b"spiffe://shop/web"
        assert shelf.fields[b"x-mine"] == b"me"
        assert 4000 < int(shelf.fields[b"flui-deadline"]) <= 5000
        assert not [name for name in shelf.fields if name.startswith(b"grpc")]
        (book,) = await told("CreateBook", lib["CreateBookRequest"](parent="shelves/1", id="7", book=lib["Book"](title="N", pages=3)))
        assert shelf.asked.pop() == ("POST", "/v1/shelves/1/books", [("id", "7")], b'{"title":"N","pages":"3"}')
        assert (book.title, book.pages) == ("N", 3)
        books = await told("ListBooks", lib["ListBooksRequest"](parent="shelves/1", most=2, tags=["a", "b"]), "Books")
        assert [book.name for book in books[0].books] == ["a", "b"]
        assert shelf.asked.pop()[2] == [("most", "2"), ("tags", "a"), ("tags", "b")]
        assert [book.name for book in await told("WatchBooks", lib["ListBooksRequest"](parent="shelves/1"))] == ["0", "1"]
        answer = await mesh.call(side, call("ImportBooks", lib["Book"](pages=1), lib["Book"](pages=2)))
        assert lib["Summary"].FromString(frames(answer.body)[0]).books == 2
        assert shelf.asked.pop()[3] == b'{"pages":"1"}\n{"pages":"2"}\n'

    mesh.run(story())


def test_errors_of_a_rest_module_have_the_status_that_they_mean(tmp_path, lib):
    mesh = Mesh(tmp_path)
    (tmp_path / "lib.binpb").write_bytes(schemas.descriptor_set(*FILES))
    shelf = Shelf()

    async def story():
        backend = await mesh.backend(shelf)
        app = f"{{url: '{backend.url}', api: '{tmp_path / 'lib.binpb'}'}}"
        side = await mesh.sidecar("library", app=app, rules=RULES)
        await until(lambda: side.running.relay.snapshot.schema.methods, "the shape of the module")

        async def refused(method, message):
            answer = await mesh.call(side, call(method, message))
            assert answer.status == 200
            return status(answer)

        get = lib["GetBookRequest"]
        assert (await refused("GetBook", get(name="shelves/1/books/none")))[:2] == (5, "no such book")
        number, said, fields = await refused("GetBook", get(name="shelves/1/books/limit"))
        assert (number, said) == (8, "too many")
        details = status_pb2.Status.FromString(binary_values(fields[b"grpc-status-details-bin"])[0])
        reason = error_details_pb2.ErrorInfo()
        assert details.details[0].Unpack(reason)
        assert reason.reason == "R"
        assert (await refused("GetBook", get(name="shelves/1/books/broken")))[0] == 13
        assert not [line for line in side.log() if line["status"] >= 500]
        asked = len(shelf.asked)
        assert (await refused("GetBook", get(name="")))[0] == 3  # no path can say it
        assert (await refused("Nothing", get()))[0] == 12
        assert (await mesh.call(side, call("GetBook", get(name="x"), kind="application/json"))).status == 403  # HTTP is the module's own
        assert len(shelf.asked) == asked
        # and in Connect, through gRPC
        body = get(name="shelves/1/books/2").SerializeToString()
        head = (
            f"POST /lib.Library/GetBook HTTP/1.1\r\nhost: library\r\ncontent-type: application/proto\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        answer = await mesh.call(side, head.encode() + body)
        assert (answer.status, lib["Book"].FromString(answer.body).name) == (200, "shelves/1/books/2")

    mesh.run(story())

"""What a request leaves behind: nothing that only a collection could free, whatever its dialect and however it ends.

Objects that hold each other wait for the collector, which then takes a fifth of a second out of every few thousand requests.
"""

import contextlib
import gc
import json

import pytest

from flui.downstream.exchange import Exchange
from flui.model.events import RequestHead, ResponseHead
from flui.splice import Splice
from flui.translate.base import Mapped, Translation
from flui.translate.grpc_rest import GrpcRest
from support import schemas
from support.library import Library
from support.mesh import Mesh, until

RULES = "p, spiffe://shop/web, {name}, CALL, /lib.Library/*\np, spiffe://shop/web, {name}, CALL, /lib.Library/Fail2, deny\n"
KEPT = (Exchange, Splice, Translation, Mapped, GrpcRest, RequestHead, ResponseHead)
TIMES = 10


def framed(payload):
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def post(path, kind, body, more=""):
    head = f"POST {path} HTTP/1.1\r\nhost: library\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get(path):
    return f"GET {path} HTTP/1.1\r\nhost: library\r\n\r\n".encode()


BOOK = b"\x0a\x01x"
"""GetBookRequest(name="x")."""
JSON = b'{"name":"x"}'
PARENT = b'{"parent":"shelves/1"}'
VERSION = "connect-protocol-version: 1\r\n"
ASKED = {
    "grpc": (200, post("/lib.Library/GetBook", "application/grpc", framed(BOOK))),
    "grpc-web": (200, post("/lib.Library/GetBook", "application/grpc-web+proto", framed(BOOK))),
    "grpc-web-text": (200, post("/lib.Library/GetBook", "application/grpc-web-text", b"AAAAAAMKAXg=")),
    "connect": (200, post("/lib.Library/GetBook", "application/proto", BOOK)),
    "connect-json": (200, post("/lib.Library/GetBook", "application/json", JSON, VERSION)),
    "connect-stream": (200, post("/lib.Library/WatchBooks", "application/connect+json", framed(PARENT))),
    "rest": (200, get("/v1/shelves/1/books/2")),
    "rest-stream": (200, post("/lib.Library/WatchBooks", "application/json", PARENT)),
    "denied": (403, post("/lib.Library/Fail2", "application/json", JSON, VERSION)),
    "denied-grpc-web": (200, post("/lib.Library/Fail2", "application/grpc-web", framed(BOOK))),
    "unfit": (400, post("/lib.Library/GetBook", "application/json", b'{"name":7}')),
    "unknown": (404, post("/lib.Library/Nothing", "application/json", JSON)),
    "not-a-call": (403, get("/elsewhere")),
}


@contextlib.contextmanager
def no_collections():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def kept():
    """What is there, by its class."""
    found = {}
    for one in gc.get_objects():
        if isinstance(one, KEPT):
            found[type(one).__name__] = found.get(type(one).__name__, 0) + 1
    return found


async def leaves_nothing(mesh, side, octets, status):
    await until(lambda: side.running.relay.snapshot.schema.methods, "the shape of the module")
    caller = await mesh.caller(side)
    for _ in range(3):  # what is said again and again is known by then
        assert (await caller.ask(octets)).status == status
    with no_collections():
        before = kept()
        for _ in range(TIMES):
            assert (await caller.ask(octets)).status == status
        assert kept() == before
    caller.close()


@pytest.mark.parametrize("dialect", ASKED)
def test_a_request_to_a_grpc_module_leaves_nothing_for_the_collector(tmp_path, dialect):
    status, octets = ASKED[dialect]
    mesh = Mesh(tmp_path)

    async def story(library):
        side = await mesh.sidecar("library", app=f"h2c://{library.address}", rules=RULES)
        await leaves_nothing(mesh, side, octets, status)

    with Library() as library:
        mesh.run(story(library))


@pytest.mark.parametrize(("dialect", "status"), [("grpc", 200), ("connect", 200), ("connect-json", 200), ("unknown", 403)])
def test_a_call_to_a_rest_module_leaves_nothing_for_the_collector(tmp_path, dialect, status):
    _, octets = ASKED[dialect]
    mesh = Mesh(tmp_path)
    (tmp_path / "lib.binpb").write_bytes(schemas.descriptor_set("library.proto"))

    async def shelf(backend, request, reader, writer):
        if request is not None:
            answer = json.dumps({"name": "x"}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
            await writer.drain()
        return True

    async def story():
        backend = await mesh.backend(shelf)
        side = await mesh.sidecar("library", app=f"{{url: '{backend.url}', api: '{tmp_path / 'lib.binpb'}'}}", rules=RULES)
        await leaves_nothing(mesh, side, octets, status)

    mesh.run(story())

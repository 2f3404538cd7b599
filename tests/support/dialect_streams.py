"""The streams that are translated, as issue 6 names them: who says them how, and what is measured of each."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import message_factory

from support.held import OneHttp1, OneHttp2
from support.mesh import Mesh
from support.pair import Pair, SidecarProcess, wait
from support.pouring import Pouring
from support.shelf import Shelf
from support.spoken import framed, status_field, untexted

MIB = 1 << 20
KERNEL = 24 * MIB
"""What the buffers of kernels and of grpcio may take besides us."""
GROWTH = 32 * MIB
AT_ONCE_S = 0.1
CALLERS = {"http1": OneHttp1, "http2": OneHttp2}
RULES = "p, spiffe://shop/web, orders, CALL, /lib.Library/*\n"
WATCH, IMPORT = "/lib.Library/WatchBooks", "/lib.Library/ImportBooks"


class Way(NamedTuple):
    """How a stream is said."""

    kind: str
    json: bool
    framed: bool
    more: tuple[tuple[str, str], ...] = ()
    text: bool = False

    def message(self, message: Any) -> bytes:
        """One message of the caller."""
        if self.json:
            fields = ("title",) if hasattr(message, "title") else ("parent", "most")
            said = json.dumps({name: getattr(message, name) for name in fields}).encode()
        else:
            said = message.SerializeToString()
        octets = framed(said) if self.framed else said + b"\n"
        return base64.b64encode(octets) if self.text else octets


DOWN = {
    "grpc-web": Way("application/grpc-web+proto", False, True),
    "grpc-web-text": Way("application/grpc-web-text+proto", False, True, text=True),
    "connect-proto": Way("application/connect+proto", False, True),
    "connect-json": Way("application/connect+json", True, True),
    "rest-ndjson": Way("application/json", True, False),
    "rest-sse": Way("application/json", True, False, (("accept", "text/event-stream"),)),
}
UP = {
    "connect-proto": DOWN["connect-proto"],
    "connect-json": DOWN["connect-json"],
    "rest-ndjson": Way("application/x-ndjson", True, False),
    "grpc-web": DOWN["grpc-web"],  # browsers cannot, other callers do
    "grpc-web-text": DOWN["grpc-web-text"],
}

TO_REST = {
    "grpc": Way("application/grpc", False, True, (("te", "trailers"),)),
    "connect-json": DOWN["connect-json"],
}
"""Streams of a module that speaks REST, and no gRPC."""


def ending(name: str, body: bytes) -> int:
    """The status at the end of a stream, in gRPC's numbers."""
    names = {"aborted": 10, "canceled": 1, "unavailable": 14, "internal": 13}
    if name == "grpc-web-text":
        body = untexted(body)
    if name.startswith("grpc-web"):
        at = body.rindex(b"\x80", 0, body.index(b"grpc-status"))
        return status_field(body[at + 5 :])
    if name.startswith("connect"):
        at = body.rindex(b"\2\0\0")
        said = json.loads(body[at + 5 :])
        return names[said["error"]["code"]] if "error" in said else 0
    if name == "rest-sse":
        event, _, data = body[:-2].rpartition(b"\n\n")[2].partition(b"\n")
        return json.loads(data.removeprefix(b"data: "))["code"] if event == b"event: error" else 0
    if body.startswith(b'{"code"'):
        return int(json.loads(body)["code"])
    if body.startswith(b'{"books"'):
        return 0
    last = json.loads(body.rstrip(b"\n").rpartition(b"\n")[2])
    return last["error"]["code"] if "error" in last else 0


class Stage:
    """A sidecar in a process of its own, and its module in this one."""

    def __init__(self, folder: Path, module: Any, app: str) -> None:
        self.module = module
        self.pair = Pair(folder, app, mesh=False, rules=RULES, orders="limits: {body: 4GiB}")
        self.side: SidecarProcess = self.pair.orders
        self._callers = Mesh(folder)
        self._callers.ca = self.pair.mesh.ca
        self.asks = message_factory.GetMessageClass(module.pool.FindMessageTypeByName("lib.ListBooksRequest"))

    def caller(self, http: str) -> OneHttp1 | OneHttp2:
        return CALLERS[http](self.pair.inbound, self._callers.context())

    def watch(self, caller: OneHttp1 | OneHttp2, name: str, most: int) -> None:
        """Asks for a stream of books."""
        way = DOWN.get(name) or TO_REST[name]
        caller.begin("POST", WATCH, way.kind, way.more)
        caller.write(way.message(self.asks(parent="shelves/1", most=most)))
        caller.end()

    def knows(self) -> bool:
        with self.caller("http1") as caller:
            self.watch(caller, "rest-ndjson", 1)
            self.module.go.set()
            caller.rest()
            return caller.status == 200

    def settled(self) -> None:
        """Nothing is left of any exchange."""
        side = self.side
        wait(lambda: side.metric("flui_connections_open", listener="inbound") == 0, "no caller's connection is left")
        wait(lambda: side.metric("flui_endpoint_requests_active") == 0, "no request is under way")
        wait(lambda: side.metric("flui_buffered_octets") == 0, "nothing waits")


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    with Pouring() as module:
        made = Stage(folder, module, f"{{url: 'h2c://{module.address}', timeout: 0s}}")
        with made.pair:
            wait(made.knows, "the sidecar knows the module's shape")
            module.again()
            made.settled()
            yield made
            made.pair.check()


@contextlib.contextmanager
def rest_stage(folder: Path) -> Iterator[Stage]:
    """The same, in front of a module that speaks REST."""
    file = folder / "library.binpb"
    with Shelf() as module:
        file.write_bytes(module.octets)
        made = Stage(folder, module, f"{{url: 'http://{module.address}', timeout: 0s, api: '{file}'}}")
        with made.pair:
            yield made
            made.pair.check()


def still(count: Any, quiet_s: float = 0.4) -> int:
    """What `count()` is once it has not changed for so long."""
    before, since = count(), time.monotonic()
    while time.monotonic() - since < quiet_s:
        time.sleep(0.02)
        now = count()
        if now != before:
            before, since = now, time.monotonic()
    return int(before)

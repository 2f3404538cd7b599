"""A small real OTLP/HTTP endpoint: takes POSTs of protobuf, keeps the spans, and can be made to hang, refuse, dribble or die.

with Collector() as collector:
    ... send to collector.endpoint ...
    spans = collector.wait(3)          # waits for an event, never sleeps; fails after 10 s
    collector.answers.append(Answer(503, {"retry-after": "1"}))   # the next POST is refused, the one after it is taken
    with collector.hanging(): ...      # POSTs are read and not answered
    collector.kill()                   # the port refuses connections from now on
"""

from __future__ import annotations

import gzip
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

PATIENCE_S = 10.0


@dataclass(frozen=True)
class Answer:
    """What a POST is answered."""

    status: int = 200
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = ExportTraceServiceResponse().SerializeToString()
    takes: bool = True
    """Whether its spans are kept, if the status is below 300."""


OK = Answer()


@dataclass(frozen=True)
class Got:
    """One span as it arrived; ids in hex, as in a traceparent."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    status: int
    attributes: dict[str, str | int | float]
    resource: dict[str, str | int | float]
    scope: str

    @property
    def service(self) -> str:
        return str(self.resource["service.name"])


def plain(attributes: Any) -> dict[str, str | int | float]:
    """Attributes as a dictionary; one that is said twice is a mistake."""
    told: dict[str, str | int | float] = {}
    pair: KeyValue
    for pair in attributes:
        assert pair.key not in told, f"{pair.key} twice"
        told[pair.key] = getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
    return told


def spans_of_request(octets: bytes) -> list[Got]:
    """The spans of one `ExportTraceServiceRequest`."""
    request = ExportTraceServiceRequest.FromString(octets)
    return [
        Got(
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.name,
            span.kind,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.status.code,
            plain(span.attributes),
            plain(resource_spans.resource.attributes),
            scope_spans.scope.name,
        )
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


class Collector:
    """The endpoint, in threads of its own; ended by `kill` or by leaving the `with` block."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.answers: deque[Answer] = deque()
        """For the next POSTs, one each; then `OK`."""
        self.posts: list[int] = []
        """Spans in each POST that was read whole, in order, whatever it was answered."""
        self.heads: list[dict[str, str]] = []
        """Header fields of the POSTs, names in lower case."""
        self.paths: list[str] = []
        self.wrong: list[str] = []
        """What a client did that OTLP does not allow."""
        self._spans: list[Got] = []
        self._changed = threading.Condition()
        self._open = threading.Event()
        self._open.set()
        self.sockets: set[socket.socket] = set()
        self._dead = False
        self._server = _Server((host, 0), self)
        self.port: int = self._server.server_address[1]
        self.endpoint = f"http://{host}:{self.port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="collector", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert not self.wrong, self.wrong

    @property
    def spans(self) -> list[Got]:
        """What was taken so far."""
        with self._changed:
            return list(self._spans)

    def wait(self, spans: int, within_s: float = PATIENCE_S) -> list[Got]:
        """All spans, once there are so many."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self._spans) >= spans, within_s)
            assert enough, f"{len(self._spans)} spans of {spans} came within {within_s} s"
            return list(self._spans)

    def wait_posts(self, posts: int, within_s: float = PATIENCE_S) -> None:
        """Returns once so many POSTs have been read."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.posts) >= posts, within_s), f"{len(self.posts)} POSTs of {posts}"

    def trace(self, trace_id: str) -> list[Got]:
        """The spans of one trace that have come, parents before children; one whose parent is not among them counts as a beginning."""
        found = [span for span in self.spans if span.trace_id == trace_id]
        assert len({span.span_id for span in found}) == len(found), "a span came twice"
        roots = [span for span in found if span.parent_id not in {other.span_id for other in found}]
        ordered: list[Got] = []
        waiting = deque(roots)
        while waiting:
            span = waiting.popleft()
            ordered.append(span)
            waiting.extend(child for child in found if child.parent_id == span.span_id)
        return ordered

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """POSTs that come meanwhile are read, and answered only afterwards."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def kill(self) -> None:
        """Ends at once: the port refuses, connections are cut."""
        if self._dead:
            return
        self._dead = True
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.set()  # whatever hung has nobody to answer now
        self._thread.join(PATIENCE_S)

    def take(self, path: str, head: dict[str, str], octets: bytes) -> Answer:
        """One POST was read."""
        spans: list[Got] = []
        try:
            if head.get("content-encoding") == "gzip":
                octets = gzip.decompress(octets)
            assert head.get("content-type") == "application/x-protobuf", head.get("content-type")
            spans = spans_of_request(octets)
        except (OSError, EOFError, ValueError, DecodeError, AssertionError) as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
        answer = self.answers.popleft() if self.answers else OK
        with self._changed:
            self.paths.append(path)
            self.heads.append(head)
            self.posts.append(len(spans))
            if answer.status < 300 and answer.takes:
                self._spans.extend(spans)
            self._changed.notify_all()
        return answer

    def opened(self) -> None:
        """Waits until POSTs are answered."""
        self._open.wait(60)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], collector: Collector) -> None:
        self.collector = collector
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.collector.sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.collector.sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away while it was answered: what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        collector = self.server.collector
        octets = self.rfile.read(int(self.headers["content-length"]))
        answer = collector.take(self.path, {name.lower(): value for name, value in self.headers.items()}, octets)
        collector.opened()
        self.send_response(answer.status)
        for name, value in answer.fields.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        pass

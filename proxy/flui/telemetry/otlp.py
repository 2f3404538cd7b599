"""Sends spans by OTLP over HTTP, from a thread of its own. The only file that knows OpenTelemetry; imported when tracing is configured.

    event loop: offer(record) ─▶ deque, 2,048 at most ─▶ thread: protobuf ─▶ POST ─▶ sent | failed
                      └─ full: dropped                              ▲   └─ 429, 502-504, no answer: twice more ─┐
                                                                    └───────────────────────────────────────────┘

A collector that is down, hangs or answers octet by octet costs spans and this thread's time, nothing else. Messages are
filled in by hand, because the SDK's way costs 79 µs a span of a lock that the event loop needs, and this one 14; and
the SDK itself costs 1.4 MiB. A test holds that both say the same.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from random import Random
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status

from flui import __version__
from flui.codecs.http1 import Http1Client
from flui.model.config import Limits
from flui.model.events import Data, End, RequestHead, Reset, ResponseHead
from flui.model.fields import Field, field
from flui.model.units import KIB
from flui.telemetry.spans import SpanKind, SpanRecord

QUEUE: Final = 2_048
"""Spans that may wait."""
BATCH: Final = 512
"""Spans in one POST."""
LINGER_S: Final = 1.0
"""Longest wait for a batch to fill."""
TIMEOUT_S: Final = 2.0
"""One POST, from connecting to the end of the answer."""
TRIES: Final = 3
LONGEST_PAUSE_S: Final = 300.0
"""Longest `retry-after` that is obeyed to its end."""

_PIECE: Final = 16
"""Spans encoded at a stretch: 0.25 ms in which the event loop would wait for the interpreter's lock."""
_BREATH_S: Final = 50e-6
# OTLP specification, "Failures": all other statuses of 400 and above must not be retried
_RETRYABLE: Final = frozenset((429, 502, 503, 504))
_READ: Final = 64 * KIB
_LIMITS: Final = Limits()
_KINDS: Final = {SpanKind.SERVER: Span.SpanKind.SPAN_KIND_SERVER, SpanKind.CLIENT: Span.SpanKind.SPAN_KIND_CLIENT}
_IS_REMOTE_KNOWN: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_IS_REMOTE: Final = SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


class _Answer(NamedTuple):
    """What a collector said."""

    status: int
    fields: list[Field]
    body: bytes


class Exporter:
    """Takes spans from the event loop and posts them to a collector. All methods are for the event loop's thread.

    Args:
        endpoint: `http://HOST:PORT/v1/traces`, or https; without a path, that one is meant.
        service: Name of the service beside us.
        instance: What tells this sidecar from others of the same service.
        linger_s: Longest wait for a batch to fill.
        timeout_s: Longest POST.
        pause_s: First pause before a POST is repeated, at most; the next is twice as long.

    Raises:
        ValueError: The endpoint is no such URL.
    """

    __slots__ = (
        "_authority",
        "_bell",
        "_closing",
        "_dropped",
        "_envelope",
        "_failed",
        "_host",
        "_linger_s",
        "_pause_s",
        "_port",
        "_queue",
        "_random",
        "_room",
        "_secure",
        "_sent",
        "_target",
        "_thread",
        "_timeout_s",
        "_until",
        "failure",
    )

    def __init__(
        self,
        endpoint: str,
        service: str,
        instance: str,
        *,
        linger_s: float = LINGER_S,
        timeout_s: float = TIMEOUT_S,
        pause_s: float = 0.5,
    ) -> None:
        url = urlsplit(endpoint)
        if url.scheme not in {"http", "https"} or not url.hostname or url.username is not None:
            raise ValueError(f"{endpoint}: not a URL like http://HOST:PORT/v1/traces")
        self._secure = url.scheme == "https"
        self._host = url.hostname
        self._port = url.port or (443 if self._secure else 80)
        self._authority = url.netloc.encode("ascii")
        path = url.path if url.path.strip("/") else "/v1/traces"
        self._target = (path.encode("ascii"), f"?{url.query}".encode("ascii") if url.query else b"")
        self._linger_s = linger_s
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._random = Random()  # noqa: S311 - spreads pauses, no secret
        self._envelope = _envelope(service, instance)
        self._queue: deque[SpanRecord] = deque()
        self._room = QUEUE
        # Two ways to wake the thread, neither of which waits: a full batch rings, and closing ends every pause.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._closing = threading.Event()
        self._until = float("inf")
        # Each of these has one writer, so no lock: the loop owns _dropped, the thread the others.
        self._dropped = 0
        self._sent = 0
        self._failed = 0
        self.failure = ""
        """Why the last POST failed; empty when it did not."""
        self._thread = threading.Thread(target=self._run, name="flui-otlp", daemon=True)
        self._thread.start()

    def offer(self, span: SpanRecord) -> None:
        """Takes one span. Never blocks, never raises; one that finds no room is dropped and counted."""
        queue = self._queue
        size = len(queue)
        if size >= self._room:
            self._dropped += 1
            return
        queue.append(span)
        if size == BATCH - 1:
            self._bell.put(None)

    def samples(self) -> list[tuple[tuple[str, ...], float]]:
        """What became of spans so far; for `Meters.read` with `families.SPANS`."""
        return [(("sent",), self._sent), (("failed",), self._failed), (("dropped",), self._dropped)]

    def close(self, timeout: float) -> bool:
        """Sends what waits, each batch once, and ends the thread. Blocks: for shutdown.

        Args:
            timeout: Seconds at most. What has not been sent by then is dropped and counted.

        Returns:
            True when nothing was left behind.
        """
        self._until = time.monotonic() + timeout
        self._room = 0
        self._closing.set()
        self._bell.put(None)
        self._thread.join(timeout)
        left = len(self._queue)
        self._queue.clear()
        self._dropped += left
        return not left and not self._thread.is_alive()

    # The thread.

    def _run(self) -> None:
        while not self._closing.is_set():
            with suppress(Empty):  # a quiet time: what there is goes out
                self._bell.get(timeout=self._linger_s)
            self._deliver(self._take())
            while len(self._queue) >= BATCH:
                self._deliver(self._take())
        while self._queue and time.monotonic() < self._until:
            self._deliver(self._take())

    def _take(self) -> list[SpanRecord]:
        """At most a batch; nobody else takes spans away, but for `close` when its time is up."""
        batch: list[SpanRecord] = []
        with suppress(IndexError):
            while len(batch) < BATCH:
                batch.append(self._queue.popleft())
        return batch

    def _deliver(self, batch: list[SpanRecord]) -> None:
        """Sends one batch, or gives it up; counts it either way."""
        if not batch:
            return
        body = self._encode(batch)
        for attempt in range(TRIES):
            pause_s = self._pause_s * (1 << attempt) * self._random.uniform(0.5, 1.0)
            try:
                answer = self._post(body)
            except (OSError, HTTPException, ValueError) as error:
                # down, hanging, no such host, a certificate that nobody vouches for, no HTTP
                self.failure = str(error) or type(error).__name__
            else:
                if 200 <= answer.status < 300:
                    rejected = min(len(batch), self._rejected(answer.body))
                    self._sent += len(batch) - rejected
                    self._failed += rejected
                    return
                self.failure = f"answered {answer.status}"
                if answer.status not in _RETRYABLE:
                    break
                asked_s = _retry_after(answer.fields)
                if asked_s is not None:
                    pause_s = min(asked_s, LONGEST_PAUSE_S)
            if attempt == TRIES - 1 or self._closing.is_set():
                break
            self._closing.wait(pause_s)
        self._failed += len(batch)

    def _encode(self, batch: list[SpanRecord]) -> bytes:
        """One request. Protobuf messages that follow one another are one message, so it is made in pieces."""
        pieces: list[bytes] = []
        for at in range(0, len(batch), _PIECE):
            request = ExportTraceServiceRequest()
            request.CopyFrom(self._envelope)
            spans = request.resource_spans[0].scope_spans[0].spans
            for record in batch[at : at + _PIECE]:
                fill(spans.add(), record)
            pieces.append(request.SerializeToString())
            # not 0: this thread would take the interpreter's lock back before the event loop's has woken up for it
            time.sleep(_BREATH_S)
        return b"".join(pieces)

    def _post(self, body: bytes) -> _Answer:
        """One POST, on a connection of its own: at most one a second, and none that died meanwhile.

        Our own codec says and hears it: it bounds what a collector can do to us, and the clock is asked for each read.

        Raises:
            OSError: No connection, no answer in time, or one that is not HTTP.
        """
        deadline = min(time.monotonic() + self._timeout_s, self._until)
        connection = (HTTPSConnection if self._secure else HTTPConnection)(self._host, self._port, timeout=_left(deadline))
        try:
            connection.connect()
            sock = connection.sock
            codec = Http1Client(_LIMITS)
            stream = codec.open()
            fields = [
                field(b"content-type", b"application/x-protobuf"),
                field(b"content-length", b"%d" % len(body)),
                field(b"user-agent", b"flui/%b" % __version__.encode()),
                field(b"connection", b"close"),
            ]
            path, query = self._target
            codec.send(RequestHead(stream, b"POST", b"http", self._authority, path, query, fields, len(body)))
            codec.send(Data(stream, body))
            codec.send(End(stream))
            sock.settimeout(_left(deadline))
            sock.sendall(codec.take())
            head: ResponseHead | None = None
            said: list[bytes] = []
            while True:
                sock.settimeout(_left(deadline))
                octets = sock.recv(_READ)
                if octets:
                    codec.receive(octets)
                else:
                    codec.receive_eof()
                ended = not codec.reading  # more than a window of an answer that we read one number of
                for event in codec.events():
                    if isinstance(event, ResponseHead) and event.status >= 200:
                        head = event
                    elif isinstance(event, Data):
                        said.append(event.chunk)
                    elif isinstance(event, (End, Reset)):
                        ended = True
                if ended and head is None:
                    raise ConnectionError("the answer broke off, or is not HTTP")
                if ended and head is not None:
                    return _Answer(head.status, head.fields, b"".join(said))
        finally:
            connection.close()

    def _rejected(self, body: bytes) -> int:
        """How many of the spans the collector says that it did not take."""
        try:
            partial = ExportTraceServiceResponse.FromString(body).partial_success
        except DecodeError:
            self.failure = ""  # it said 200: what else it said is its own affair
            return 0
        self.failure = f"rejected {partial.rejected_spans} spans" if partial.rejected_spans else ""
        return max(0, partial.rejected_spans)


def fill(span: Span, record: SpanRecord) -> None:
    """Writes a record into an empty protobuf span."""
    span.trace_id = record.trace_id
    span.span_id = record.span_id
    span.name = record.name
    span.kind = _KINDS[record.kind]
    span.start_time_unix_nano = record.start_ns
    span.end_time_unix_nano = record.end_ns
    span.flags = _IS_REMOTE_KNOWN
    if record.parent_id:
        span.parent_span_id = record.parent_id
        span.flags = _IS_REMOTE_KNOWN | _IS_REMOTE  # the parent is another process, always
    span.status.code = Status.StatusCode.STATUS_CODE_ERROR if record.failed else Status.StatusCode.STATUS_CODE_UNSET
    add = span.attributes.add
    for key, value in record.attributes.items():
        told = add(key=key).value
        if isinstance(value, str):
            told.string_value = value
        elif isinstance(value, int):
            told.int_value = value
        else:
            told.double_value = value


def _envelope(service: str, instance: str) -> ExportTraceServiceRequest:
    """A request without spans: who we are (semantic conventions, resource: service and telemetry SDK)."""
    request = ExportTraceServiceRequest()
    sender = request.resource_spans.add()
    for key, value in (
        ("service.name", service),
        ("service.instance.id", instance),
        ("telemetry.sdk.language", "python"),
        ("telemetry.sdk.name", "flui"),
        ("telemetry.sdk.version", __version__),
    ):
        sender.resource.attributes.add(key=key).value.string_value = value
    scope = sender.scope_spans.add().scope
    scope.name = "flui"
    scope.version = __version__
    return request


def _left(deadline: float) -> float:
    """Seconds until `deadline`.

    Raises:
        TimeoutError: It has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _retry_after(fields: list[Field]) -> float | None:
    """RFC 9110 10.2.3: seconds or a date; None: not said, or not understood."""
    value = next((f.value for f in fields if f.name == b"retry-after"), b"")
    if value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value.decode("latin-1"))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())  # noqa: TID251 - a date of the wall clock

"""Spans by OTLP over HTTP: a real endpoint reads what arrives, and none of its failures reaches the event loop."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from random import Random

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace import SpanKind as SdkKind
from opentelemetry.trace.status import Status, StatusCode

from flui import __version__
from flui.codecs.http1 import Http1Server
from flui.model.config import Limits, Tracing
from flui.model.decision import Decision, Forward, Why
from flui.model.events import RequestHead
from flui.model.topology import Target
from flui.splice import Splice
from flui.telemetry.families import SPANS
from flui.telemetry.meters import Meters
from flui.telemetry.otlp import BATCH, QUEUE, Exporter, fill
from flui.telemetry.spans import Sampler, SpanKind, SpanRecord, span_of
from support.collector import Answer, Collector

LONG_S = 30.0


def record(number: int = 1, **changes: object) -> SpanRecord:
    """A span as an exchange makes it."""
    values: dict = {
        "trace_id": os.urandom(16),
        "span_id": number.to_bytes(8, "big"),
        "parent_id": b"",
        "name": "GET app",
        "kind": SpanKind.SERVER,
        "start_ns": 1_700_000_000_000_000_000,
        "end_ns": 1_700_000_000_040_000_000,
        "attributes": {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "url.scheme": "https",
            "server.address": "orders",
            "flui.principal": "spiffe://shop/web",
            "flui.rule": "policy.csv:3",
            "flui.service": "orders",
            "flui.route": "app",
            "flui.upstream": "orders-1",
            "flui.attempts": 1,
            "flui.queue_ms": 0.25,
            "flui.upstream_ms": 12.5,
        },
        "failed": False,
    }
    return SpanRecord(**{**values, **changes})


@contextmanager
def exporting(endpoint: str, linger_s: float = 0.02, timeout_s: float = 2.0, pause_s: float = 0.01) -> Iterator[Exporter]:
    exporter = Exporter(endpoint, "orders", "orders-1", linger_s=linger_s, timeout_s=timeout_s, pause_s=pause_s)
    try:
        yield exporter
    finally:
        exporter.close(5)
        assert not exporter._thread.is_alive()


def counted(exporter: Exporter) -> dict[str, float]:
    return {labels[0]: number for labels, number in exporter.samples()}


@contextmanager
def answering(respond: Callable[[socket.socket], None]) -> Iterator[str]:
    """An endpoint that does with each connection what it is told, after having read what came first."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    if stop.is_set():
                        return
                    connection.recv(65_536)
                    try:
                        respond(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1/traces"
        finally:
            stop.set()
            socket.create_connection(listening.getsockname()).close()
            thread.join(10)
            assert not thread.is_alive()


# What arrives.


def test_a_span_is_what_the_sdk_would_have_sent() -> None:
    """The oracle: the encoder of OpenTelemetry's own exporter, over the same values, gives the same message."""
    for kind, theirs, parent, failed in (
        (SpanKind.SERVER, SdkKind.SERVER, b"", False),
        (SpanKind.CLIENT, SdkKind.CLIENT, b"\x01" * 8, True),
    ):
        ours = record(7, kind=kind, parent_id=parent, failed=failed)
        trace_id = int.from_bytes(ours.trace_id, "big")
        sdk = ReadableSpan(
            ours.name,
            context=SpanContext(trace_id, 7, is_remote=False, trace_flags=TraceFlags(1)),
            parent=SpanContext(trace_id, int.from_bytes(parent, "big"), is_remote=True) if parent else None,
            attributes=ours.attributes,
            kind=theirs,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=ours.start_ns,
            end_time=ours.end_ns,
        )
        span = Span()
        fill(span, ours)
        assert span == encode_spans([sdk]).resource_spans[0].scope_spans[0].spans[0]


def test_ids_parent_kind_times_status_and_attributes_arrive() -> None:
    ours = record(9, parent_id=b"\x02" * 8, kind=SpanKind.CLIENT, failed=True)
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        exporter.offer(ours)
        (got,) = collector.wait(1)
        assert (got.trace_id, got.span_id, got.parent_id) == (ours.trace_id.hex(), ours.span_id.hex(), ours.parent_id.hex())
        assert (got.name, got.kind, got.status) == ("GET app", Span.SpanKind.SPAN_KIND_CLIENT, 2)
        assert (got.start_ns, got.end_ns) == (ours.start_ns, ours.end_ns)
        assert got.attributes == ours.attributes
        assert collector.paths == ["/v1/traces"]
        assert collector.heads[0]["content-type"] == "application/x-protobuf"


def test_the_resource_says_whose_spans_they_are() -> None:
    """OpenTelemetry's conventions for a service and for what made the spans."""
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        exporter.offer(record())
        (got,) = collector.wait(1)
    assert got.resource["service.name"] == "orders"
    assert got.resource["service.instance.id"] == "orders-1"
    assert (got.resource["telemetry.sdk.name"], got.resource["telemetry.sdk.language"]) == ("flui", "python")
    assert got.resource["telemetry.sdk.version"]
    assert got.scope == "flui"
    assert collector.heads[0]["user-agent"] == f"flui/{__version__}"


def test_one_trace_over_three_sidecars_has_a_chain_of_parents() -> None:
    """Caller (unseen), outbound sidecar, inbound sidecar, and on from the module: from traceparents to what the collector holds."""
    caller = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    parent = caller
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        for hop, listener in enumerate(("outbound", "inbound", "outbound")):
            own = Sampler(Tracing(collector.endpoint), Random(hop)).follow(parent, 0.0)
            head = RequestHead(1, b"GET", b"http", b"orders", b"/items/7", b"", [], 0)
            head.host, head.trace, head.deadline, head.priority = b"orders", parent, -1, -1
            why = Why(listener, "orders", "app", "p.csv:1", "spiffe://shop/web")
            action = Forward((Target("up"),), timeout_s=0.0, idle_timeout_s=0.0, key=None, add=(), deadline=None, keep_forwarded=False)
            splice = Splice(Http1Server(Limits(), b"http"), head, Decision(action, why, float("inf"), (), b""), 0.0, own, None)
            splice.status = 200
            exporter.offer(span_of(splice, 0.0, 1_700_000_000.0, 0.01 * (3 - hop)))
            parent = own
        collector.wait(3)
        chain = collector.trace("0af7651916cd43dd8448eb211c80319c")
    assert [span.parent_id for span in chain] == ["b7ad6b7169203331", chain[0].span_id, chain[1].span_id]
    assert [span.kind for span in chain] == [3, 2, 3]
    assert chain[2].span_id == parent[36:52].decode()
    assert [span.end_ns - span.start_ns for span in chain] == [30_000_000, 20_000_000, 10_000_000]


@pytest.mark.slow
def test_every_span_arrives_once_in_batches_of_512() -> None:
    with Collector() as collector, exporting(collector.endpoint, linger_s=LONG_S) as exporter:
        for number in range(1, 1_301):
            exporter.offer(record(number))
        assert exporter.close(10)
        assert sorted(int(span.span_id, 16) for span in collector.spans) == list(range(1, 1_301))
        assert max(collector.posts) <= BATCH
        assert counted(exporter) == {"sent": 1_300, "failed": 0, "dropped": 0}


def test_a_full_batch_does_not_wait_for_the_time() -> None:
    with Collector() as collector, exporting(collector.endpoint, linger_s=LONG_S) as exporter:
        for number in range(1, BATCH + 1):
            exporter.offer(record(number))
        assert len(collector.wait(BATCH)) == BATCH


def test_the_meters_read_what_became_of_spans() -> None:
    meters = Meters()
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        sampler = Sampler(Tracing(collector.endpoint, 10_000, 1.0), Random(1))
        meters.read(SPANS, exporter.samples)
        meters.read(SPANS, sampler.samples)
        for _ in range(3):
            sampler.root(0.0)
        exporter.offer(record())
        collector.wait(1)
        exporter.close(5)
    assert meters.samples(SPANS) == {("sent",): 1, ("failed",): 0, ("dropped",): 0, ("over_rate",): 2}


# What a collector refuses.


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        collector.answers.extend([Answer(status), Answer(status)])
        exporter.offer(record())
        collector.wait(1)
        assert exporter.close(5)
        assert collector.posts == [1, 1, 1]
        assert counted(exporter) == {"sent": 1, "failed": 0, "dropped": 0}
        assert exporter.failure == ""


def test_after_the_third_try_a_batch_is_given_up() -> None:
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        collector.answers.extend([Answer(503)] * 3)
        exporter.offer(record())
        collector.wait_posts(3)
        assert exporter.close(5)
        assert collector.posts == [1, 1, 1]
        assert counted(exporter) == {"sent": 0, "failed": 1, "dropped": 0}
        assert exporter.failure == "answered 503"


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    """OTLP: all other 4xx and 5xx must not be retried; and a redirect is not a receipt."""
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        collector.answers.append(Answer(status, {"location": "http://127.0.0.1:1/"} if status == 302 else {}))
        exporter.offer(record(1))
        collector.wait_posts(1)
        exporter.offer(record(2))
        (got,) = collector.wait(1)
        assert int(got.span_id, 16) == 2
        assert exporter.close(5)
        assert collector.posts == [1, 1]
        assert counted(exporter) == {"sent": 1, "failed": 1, "dropped": 0}


def test_retry_after_is_waited_for() -> None:
    """In seconds (here 0, where our own first pause would be 10 s at least), and as a date that has passed."""
    with Collector() as collector, exporting(collector.endpoint, pause_s=20.0) as exporter:
        collector.answers.extend([Answer(429, {"retry-after": "0"}), Answer(503, {"retry-after": formatdate(0, usegmt=True)})])
        exporter.offer(record())
        assert collector.wait(1)
        assert collector.posts == [1, 1, 1]


def test_a_long_retry_after_holds_the_next_try_back_and_closing_ends_the_wait() -> None:
    with Collector() as collector, exporting(collector.endpoint, pause_s=0.0001) as exporter:
        collector.answers.append(Answer(503, {"retry-after": "120"}))
        exporter.offer(record())
        collector.wait_posts(1)
        begun = time.monotonic()
        # nothing more may come while it waits: a condition that must not become true within 0.2 s
        with pytest.raises(AssertionError):
            collector.wait_posts(2, within_s=0.2)
        assert exporter.close(10)
        assert time.monotonic() - begun < 5
        assert counted(exporter)["sent"] == 1


def test_spans_that_the_collector_rejects_are_failed() -> None:
    """OTLP partial success: 200, and how many were not taken."""
    partial = ExportTraceServiceResponse()
    partial.partial_success.rejected_spans = 2
    partial.partial_success.error_message = "too old"
    with Collector() as collector, exporting(collector.endpoint, linger_s=LONG_S) as exporter:
        collector.answers.append(Answer(200, body=partial.SerializeToString()))
        for number in (1, 2, 3):
            exporter.offer(record(number))
        assert exporter.close(5)
        assert counted(exporter) == {"sent": 1, "failed": 2, "dropped": 0}
        assert exporter.failure == "rejected 2 spans"


@pytest.mark.parametrize("body", [b"", b"\xff\xff", b"ok"])
def test_what_else_a_collector_says_with_200_does_not_matter(body: bytes) -> None:
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        collector.answers.append(Answer(200, body=body))
        exporter.offer(record())
        collector.wait(1)
        assert exporter.close(5)
        assert counted(exporter) == {"sent": 1, "failed": 0, "dropped": 0}


def test_a_collector_that_is_back_gets_what_comes_then() -> None:
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        collector.answers.extend([Answer(503)] * 3)
        exporter.offer(record(1))
        collector.wait_posts(3)
        exporter.offer(record(2))
        (got,) = collector.wait(1)
        assert int(got.span_id, 16) == 2


# What a collector does not do.


def test_a_dead_collector_costs_spans_and_nothing_else() -> None:
    collector = Collector()
    collector.kill()
    with exporting(collector.endpoint) as exporter:
        for number in range(100):
            exporter.offer(record(number))
        assert exporter.close(5)
        assert counted(exporter) == {"sent": 0, "failed": 100, "dropped": 0}
        assert "refused" in exporter.failure.lower()


def test_a_collector_that_dies_while_it_answers_costs_spans_and_nothing_else() -> None:
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        with collector.hanging():
            exporter.offer(record())
            collector.wait_posts(1)
            collector.kill()
        assert exporter.close(5)
        assert counted(exporter)["failed"] == 1


def test_a_name_that_nobody_knows_costs_spans_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with exporting("http://collector.invalid:4318/v1/traces") as exporter:
        exporter.offer(record())
        assert exporter.close(5)
        assert counted(exporter)["failed"] == 1


@pytest.mark.slow
def test_a_hanging_collector_is_given_up_after_the_timeout_and_the_queue_is_all_that_is_kept() -> None:
    with Collector() as collector, exporting(collector.endpoint, timeout_s=LONG_S) as exporter:
        with collector.hanging():
            exporter.offer(record(1))
            collector.wait_posts(1)
            for number in range(2, QUEUE + 500):
                exporter.offer(record(number))
            assert len(exporter._queue) == QUEUE
            assert counted(exporter) == {"sent": 0, "failed": 0, "dropped": 498}
        assert exporter.close(10)
        assert counted(exporter) == {"sent": QUEUE + 1, "failed": 0, "dropped": 498}


def test_a_post_that_is_not_answered_is_tried_three_times_within_its_timeouts() -> None:
    with Collector() as collector:
        with collector.hanging(), exporting(collector.endpoint, timeout_s=0.05) as exporter:
            exporter.offer(record())
            collector.wait_posts(3)
            assert exporter.close(5)
            assert counted(exporter)["failed"] == 1
            assert "time" in exporter.failure
        assert len(collector.posts) == 3


def test_an_answer_that_comes_octet_by_octet_has_one_timeout_for_all_of_it() -> None:
    """A timeout per read would let a collector hold the thread for good."""
    pulse = threading.Event()

    def dribble(connection: socket.socket) -> None:
        for _ in range(10_000):
            connection.sendall(b"H")
            pulse.wait(0.005)

    with answering(dribble) as endpoint, exporting(endpoint, timeout_s=0.1) as exporter:
        begun = time.monotonic()
        exporter.offer(record())
        assert exporter.close(20)
        assert time.monotonic() - begun < 5
        assert counted(exporter)["failed"] == 1


def test_an_answer_without_end_or_that_is_no_http_does_no_harm() -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"8000\r\n" + b"x" * 32_768 + b"\r\n")

    with answering(endless) as endpoint, exporting(endpoint) as exporter:
        exporter.offer(record())
        assert exporter.close(10)
        assert counted(exporter)["sent"] == 1  # it said 200
    for octets in (b"SSH-2.0-nonsense\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\ncontent-le"):
        with (
            answering(lambda connection, octets=octets: connection.sendall(octets)) as endpoint,
            exporting(endpoint, timeout_s=LONG_S) as exporter,
        ):
            exporter.offer(record())
            assert exporter.close(10)  # known at once, not when its time is up
            assert counted(exporter)["failed"] == 1


# What it costs the event loop.


def _offer_us(exporter: Exporter, spans: list[SpanRecord]) -> float:
    """Microseconds per offer, the best of runs that are short beside a turn of the interpreter's lock."""
    best = float("inf")
    offer = exporter.offer
    for _ in range(200):
        begun = time.perf_counter()
        for span in spans:
            offer(span)
        best = min(best, time.perf_counter() - begun)
    return best / len(spans) * 1e6


@pytest.mark.slow
def test_an_offer_takes_less_than_5_us_whatever_the_collector_does() -> None:
    spans = [record(number) for number in range(20)]
    with Collector() as collector, exporting(collector.endpoint) as exporter:
        assert _offer_us(exporter, spans) < 5
        with collector.hanging():
            assert _offer_us(exporter, spans) < 5
    with exporting(collector.endpoint) as exporter:  # dead now
        assert _offer_us(exporter, spans) < 5


@pytest.mark.slow
def test_a_hanging_collector_does_not_make_the_memory_grow() -> None:
    with Collector() as collector, collector.hanging(), exporting(collector.endpoint, timeout_s=LONG_S) as exporter:
        exporter.offer(record(1))
        collector.wait_posts(1)
        for number in range(QUEUE):
            exporter.offer(record(number))
        tracemalloc.start()
        for number in range(20_000):
            exporter.offer(record(number))
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert grown < 64 * 1024
        exporter._until = 0.0  # the test has seen enough: do not wait for the answer
        collector._open.set()


# Ending.


def test_closing_sends_what_waits_and_ends_the_thread() -> None:
    with Collector() as collector, exporting(collector.endpoint, linger_s=LONG_S) as exporter:
        exporter.offer(record(1))
        exporter.offer(record(2))
        assert exporter.close(5)
        assert len(collector.spans) == 2
        assert not exporter._thread.is_alive()
        exporter.offer(record(3))
        assert counted(exporter) == {"sent": 2, "failed": 0, "dropped": 1}
        assert exporter.close(5)


def test_closing_takes_no_longer_than_it_may() -> None:
    with Collector() as collector, exporting(collector.endpoint, timeout_s=LONG_S) as exporter, collector.hanging():
        exporter.offer(record(1))
        collector.wait_posts(1)
        for number in range(2, 12):
            exporter.offer(record(number))
        begun = time.monotonic()
        assert not exporter.close(0.2)
        assert 0.1 < time.monotonic() - begun < 2
        assert counted(exporter)["dropped"] == 10


@pytest.mark.slow
def test_an_exporter_that_nobody_closed_does_not_keep_the_process() -> None:
    code = (
        "from flui.telemetry.otlp import Exporter\n"
        "import socket\n"
        "listening = socket.create_server(('127.0.0.1', 0))\n"
        "Exporter(f'http://127.0.0.1:{listening.getsockname()[1]}/v1/traces', 'a', 'b')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_endpoint_without_a_path_means_the_usual_one() -> None:
    with Collector() as collector:
        for end in ("", "/", "/v1/traces?tenant=a"):
            with exporting(f"http://127.0.0.1:{collector.port}{end}") as exporter:
                exporter.offer(record())
                assert exporter.close(5)
        assert collector.paths == ["/v1/traces", "/v1/traces", "/v1/traces?tenant=a"]


@pytest.mark.parametrize("endpoint", ["", "collector:4318", "ftp://collector/", "http://", "http://u:p@collector:4318/v1/traces"])
def test_an_endpoint_that_is_no_url_is_an_error_at_once(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"http://HOST:PORT/v1/traces"):
        Exporter(endpoint, "orders", "orders-1")


@pytest.mark.slow
def test_opentelemetry_is_imported_by_nothing_else() -> None:
    """It costs 12 MB and 0.1 s: only whoever configures tracing pays."""
    code = (
        "import sys, flui.runtime.cli, flui.telemetry.spans; print([m for m in sys.modules if m.startswith(('opentelemetry', 'google'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=True, capture_output=True)
    assert done.stdout.strip() == b"[]"

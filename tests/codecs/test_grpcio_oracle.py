"""grpcio on the other end: what we write it reads, what it writes we read, and both mean the same by it.

Between it and us stands `h2`, so that only what gRPC puts into HTTP/2 is in question here.
"""

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import h2.config
import h2.connection
import h2.events
import pytest

from flui.codecs.grpc import binary_text, binary_values, grpc_answer, grpc_timeout, is_reserved, method_of, timeout_text
from flui.framing.base import Message, MessageLimits
from flui.framing.grpc import GrpcFraming
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import field, is_grpc
from flui.model.grpc import Status, call_status, message_said, message_text, status_of_http

pytestmark = pytest.mark.slow

FRAMING = GrpcFraming(MessageLimits())
WAIT_S = 10.0
TEXTS = ["plain", "50% off", "%41", "line\r\nbreak\tand\0nul", "☺ 😈 ÿ", "~ \x7f"]


def framed(*payloads):
    sink = FRAMING.writer([])
    for payload in payloads:
        assert sink.send(Message(payload)) is None
    return sink.take(1 << 20)


def messages(octets):
    source = FRAMING.reader([], Fault.MALFORMED)
    source.receive(octets)
    source.finish()
    found = []
    while (message := source.take()) is not None:
        found.append(message.payload)
    assert source.fault is None
    return found


def fields_of(event):
    return [field(bytes(name), bytes(value)) for name, value in event.headers]


class Handler(grpc.GenericRpcHandler):
    """Services that say what they were told."""

    def service(self, details):
        return {
            "/t.T/Echo": grpc.stream_stream_rpc_method_handler(lambda requests, context: requests),
            "/t.T/Left": grpc.unary_unary_rpc_method_handler(lambda request, context: b"%f" % context.time_remaining()),
            "/t.T/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/t.T/Told": grpc.unary_unary_rpc_method_handler(self.told),
        }.get(details.method)

    def fail(self, request, context):
        code, text = json.loads(request)
        context.abort(next(status for status in grpc.StatusCode if status.value[0] == code), text)

    def told(self, request, context):
        context.set_trailing_metadata((("t-bin", request),))
        said = {name: value for name, value in context.invocation_metadata() if name.startswith("x-")}
        return b"".join(said["x-bin"]) if isinstance(said["x-bin"], list) else said["x-bin"]


@pytest.fixture(scope="module")
def port():
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=(Handler(),), options=(("grpc.max_receive_message_length", 4 << 20),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(None).wait(WAIT_S)


def call(port, method, octets, *extra):
    """HTTP status, fields of the head, octets, trailers, RST_STREAM code of a call made with h2."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as wire:
        connection.initiate_connection()
        head = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", method), (b":authority", b"t")]
        connection.send_headers(1, [*head, (b"te", b"trailers"), (b"content-type", b"application/grpc"), *extra])
        connection.send_data(1, octets, end_stream=True)
        heads, trailers, data, reset = [], None, b"", None
        while True:
            wire.sendall(connection.data_to_send())
            received = wire.recv(65_536)
            assert received, "it hung up"
            for event in connection.receive_data(received):
                match event:
                    case h2.events.ResponseReceived():
                        heads = fields_of(event)
                    case h2.events.TrailersReceived():
                        trailers = fields_of(event)
                    case h2.events.DataReceived():
                        data += event.data
                    case h2.events.StreamReset():
                        reset = int(event.error_code)
                if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    return int(heads[0].value) if heads else 0, heads[1:], data, trailers, reset


def value_of(fields, name):
    return next((line.value for line in fields if line.name == name), None)


def test_our_messages_are_read_and_its_own_are_read_by_us(port):
    sent = [b"", b"one", bytes(10_000)]
    _, head, data, trailers, _ = call(port, b"/t.T/Echo", framed(*sent))
    assert is_grpc(value_of(head, b"content-type"))
    assert messages(data) == sent
    watch = FRAMING.inspector(head, Fault.UPSTREAM_MALFORMED)
    assert (watch.inspect(data), watch.finish(), watch.octets) == (3, None, 10_003)
    assert call_status(200, head, trailers, bodyless=False) is Status.OK


@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        (b"\1\0\0\0\1x", Fault.MALFORMED),
        (b"\0\0\x40\0\1", Fault.BODY_TOO_LARGE),
        (b"\0\0\0\0\0", None),
    ],
)
def test_what_we_refuse_it_refuses_with_the_same_status(port, octets, fault):
    """Its limit is ours: 4 MiB. (Of a flag above 1 it reads the lowest bit only; the protocol knows 0 and 1, and so do we.)"""
    watch = FRAMING.inspector([], Fault.MALFORMED)
    watch.inspect(octets)
    assert watch.fault is fault
    http, head, data, trailers, _ = call(port, b"/t.T/Echo", octets)
    assert call_status(http, head, trailers, bodyless=not data).value == (DIALECTS[fault].grpc if fault else 0)


@pytest.mark.parametrize("ms", [1_500, 59_999, 60_000, 3_600_000, 99_999_999, 100_000_000])
def test_it_reads_our_timeouts_as_we_do(port, ms):
    text = timeout_text(ms)
    _, _, data, trailers, _ = call(port, b"/t.T/Left", framed(b""), (b"grpc-timeout", text))
    assert call_status(200, [], trailers, bodyless=False) is Status.OK
    left = float(messages(data)[0]) * 1_000
    assert grpc_timeout(text) - 1_500 < left <= grpc_timeout(text)


@pytest.mark.parametrize("text", [b"0n", b"0m", b"0H"])
def test_no_time_is_no_time(port, text):
    assert grpc_timeout(text) == 0
    http, head, data, trailers, _ = call(port, b"/t.T/Left", framed(b""), (b"grpc-timeout", text))
    assert call_status(http, head, trailers, bodyless=not data) is Status.DEADLINE_EXCEEDED


def test_what_we_say_of_a_deadline_that_is_over_leaves_a_millisecond_at_most(port):
    """The spec knows no 0. Whether so short a call is answered in time is chance."""
    _, _, data, trailers, _ = call(port, b"/t.T/Left", framed(b""), (b"grpc-timeout", timeout_text(-1)))
    if trailers is not None and data:
        assert float(messages(data)[0]) <= 0.001


@pytest.mark.parametrize("text", TEXTS)
def test_messages_are_escaped_alike(port, text):
    _, head, data, trailers, _ = call(port, b"/t.T/Fail", framed(json.dumps([9, text]).encode()))
    said = trailers if trailers is not None else head
    assert call_status(200, head, trailers, bodyless=not data) is Status.FAILED_PRECONDITION
    assert value_of(said, b"grpc-message") == message_said(text)
    assert message_text(value_of(said, b"grpc-message")) == text


@pytest.mark.parametrize("status", [status for status in Status if status])
def test_statuses_are_numbered_alike(port, status):
    _, head, data, trailers, _ = call(port, b"/t.T/Fail", framed(json.dumps([status.value, "x"]).encode()))
    assert call_status(200, head, trailers, bodyless=not data) is status


def test_an_unknown_method_is_unimplemented(port):
    http, head, data, trailers, _ = call(port, b"/t.T/Nothing", framed(b""))
    assert call_status(http, head, trailers, bodyless=not data) is Status.UNIMPLEMENTED


@pytest.mark.parametrize("value", [b"", b"\0", b"\0\1", b"\0\1\2", bytes(range(256))])
def test_binary_metadata_is_read_alike(port, value):
    for text in (binary_text(value), binary_text(value) + b"=" * (-len(binary_text(value)) % 4)):
        _, _, data, trailers, _ = call(port, b"/t.T/Told", framed(value), (b"x-bin", text))
        assert messages(data) == [value]
        assert binary_values(value_of(trailers, b"t-bin")) == [value]


class Answering:
    """An HTTP/2 server of h2 that notes what a gRPC client says, and answers every call with the same fields."""

    def __init__(self, listening, answer):
        self.listening = listening
        self.answer = answer
        self.heads = []
        self.data = b""

    def serve(self):
        with contextlib.suppress(ConnectionError):
            wire, _ = self.listening.accept()
            with wire:
                wire.settimeout(WAIT_S)
                connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
                connection.initiate_connection()
                wire.sendall(connection.data_to_send())
                while received := wire.recv(65_536):
                    for event in connection.receive_data(received):
                        self.on(connection, event)
                    wire.sendall(connection.data_to_send())

    def on(self, connection, event):
        match event:
            case h2.events.RequestReceived():
                self.heads.append(fields_of(event))
            case h2.events.DataReceived():
                self.data += event.data
            case h2.events.StreamEnded():
                connection.send_headers(event.stream_id, self.answer, end_stream=True)


@contextlib.contextmanager
def answering(status, fields):
    lines = [(b":status", b"%d" % status), *((line.name, line.value) for line in fields)]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT_S)
        server = Answering(listening, lines)
        thread = threading.Thread(target=server.serve)
        thread.start()
        options = (("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
        with grpc.insecure_channel(f"127.0.0.1:{listening.getsockname()[1]}", options) as channel:
            yield server, channel.unary_unary("/t.T/Echo")
        thread.join(WAIT_S)
        assert not thread.is_alive()


def error_of(ask, **options):
    with pytest.raises(grpc.RpcError) as caught:
        ask(b"hello", timeout=5, **options)
    return caught.value


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
def test_its_client_hears_our_refusals(fault):
    with answering(*grpc_answer(fault)) as (_, ask):
        error = error_of(ask)
    assert error.code().value[0] == DIALECTS[fault].grpc
    assert error.details() == f"{DIALECTS[fault].title} ({fault.value})"


@pytest.mark.parametrize("text", [*TEXTS, " blanks around ", "  "])
def test_its_client_hears_our_words(text):
    with answering(*grpc_answer(Fault.DENIED, text)) as (_, ask):
        assert error_of(ask).details() == text


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 502, 503, 504, 500, 418])
def test_its_client_takes_http_statuses_as_we_do(status):
    with answering(status, [field(b"content-type", b"text/html")]) as (_, ask):
        assert error_of(ask).code().value[0] == status_of_http(status)


def test_what_its_client_sends_we_understand():
    with answering(*grpc_answer(Fault.DENIED)) as (server, ask):
        error_of(ask, metadata=(("x-bin", b"\0\1\2\xff"),))
    head = {line.name: line.value for line in server.heads[0]}
    assert is_grpc(head[b"content-type"])
    assert method_of(head[b":path"]) == (b"t.T", b"Echo")
    assert 4_000 < grpc_timeout(head[b"grpc-timeout"]) < 5_050, "it rounds up to three digits"
    assert binary_values(head[b"x-bin"]) == [b"\0\1\2\xff"]
    assert messages(server.data) == [b"hello"]
    assert [name for name in head if is_reserved(name, answer=False)] == []

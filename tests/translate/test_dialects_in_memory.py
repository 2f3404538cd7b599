"""What callers and modules may say at the wrong time, or too much of: dialects and splice in memory, with no socket."""

import json

import pytest

from flui.codecs.http1 import Http1Server
from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, RequestHead, ResponseHead
from flui.model.fields import classified
from flui.model.grpc import Status
from flui.translate.descriptors import files_of_set, schema_of
from flui.translate.dialects import Dialects
from flui.translate.rest import RestRoutes
from support import schemas
from support.rig import DECISION

ROUTES = RestRoutes(schema_of(files_of_set(schemas.descriptor_set("library.proto")), "a test"))
LIBRARY = b"/lib.Library/"
PARENT = b'{"parent":"shelves/1"}'
PARENT_PROTO = b"\x0a\x09shelves/1"
NDJSON = [classified(b"content-type", b"application/x-ndjson")]
GRPC = [classified(b"content-type", b"application/grpc")]


class Port:
    """A codec that takes everything at once, and says so."""

    def __init__(self):
        self.said = []

    def send(self, event):
        self.said.append(event)

    def open(self):
        return 1

    def events(self):
        return []

    def of(self, kind):
        return [event for event in self.said if type(event) is kind]


def framed(payload, flag=0):
    return bytes((flag,)) + len(payload).to_bytes(4, "big") + payload


def head_of(method, kind, verb=b"POST", query=b""):
    fields = [classified(b"content-type", kind)] if kind else []
    head = RequestHead(3, verb, b"http", b"stock", LIBRARY + method, query, fields, UNKNOWN if kind else 0)
    assert validate(head) is None
    return head


def begun(method, kind, *, grpc=False, down=None, verb=b"POST", query=b""):
    """The splice of a call, the caller's codec and the module's."""
    dialects = Dialects(ROUTES, Limits(), 1, grpc=grpc)
    head = head_of(method, kind, verb, query)
    mapped = dialects.call(head)
    call = mapped.head
    call.stream = head.stream
    down, up = down or Port(), Port()
    octets = Limits().grpc_message_octets
    splice = dialects.splice_of(mapped, down, call, DECISION, None, head.length, 0.0, b"", None, octets, dialects.behind(LIBRARY + method))
    if mapped.refused is not None:
        dialects.turn_away(splice, mapped.refused)
    else:
        splice.attach(up, 0.0)
    return splice, down, up


def titles(events):
    return [json.loads(event.chunk[5:]).get("name", "") for event in events]


# --- a REST module ----------------------------------------------------------------------------------------------------------


def test_many_messages_in_one_piece_go_to_a_rest_module_one_after_the_other():
    splice, _, up = begun(b"ImportBooks", b"application/connect+json")
    splice.from_down(Data(3, b"".join(framed(b'{"name":"%d"}' % number) for number in range(2_000))))
    splice.from_down(End(3))
    lines = b"".join(event.chunk for event in up.of(Data)).splitlines()
    assert [json.loads(line)["name"] for line in lines] == [str(number) for number in range(1_000)] or len(lines) <= 2_000
    asked = sum(len(event.chunk) for event in up.of(Data))
    while not up.of(End):
        splice.from_up([Credit(1, asked)], 0.1)
        more = sum(len(event.chunk) for event in up.of(Data)) - asked
        assert more or up.of(End)
        asked = more
    lines = b"".join(event.chunk for event in up.of(Data)).splitlines()
    assert [json.loads(line)["name"] for line in lines] == [str(number) for number in range(2_000)]


def test_many_messages_of_a_rest_module_in_one_piece_are_told_in_their_order():
    window = max(Limits().window_octets, Limits().stream_window_octets)
    splice, down, _ = begun(b"WatchBooks", b"application/connect+json")
    splice.from_down(Data(3, framed(PARENT)))
    splice.from_down(End(3))
    many = window // 5 - 2
    lines = b"{}\n" * many + b"".join(b'{"name":"%d"}\n' % number for number in range(12))
    splice.from_up([ResponseHead(1, 200, list(NDJSON), UNKNOWN), Data(1, lines), End(1)], 0.1)
    for _ in range(100):
        if down.of(End):
            break
        splice.from_down(Credit(3, window))
    *told, _ = down.of(Data)
    assert titles(told) == [""] * many + [str(number) for number in range(12)]


@pytest.mark.parametrize("kind", [b"application/connect+json", b"application/connect+proto", b"application/grpc-web"])
def test_a_caller_that_goes_wrong_within_a_running_answer_gets_no_second_head(kind):
    splice, down, _ = begun(b"WatchBooks", kind)
    asked = framed(PARENT if b"json" in kind else PARENT_PROTO)
    splice.from_down(Data(3, asked))
    splice.from_up([ResponseHead(1, 200, list(NDJSON), UNKNOWN), Data(1, b'{"name":"a"}\n')], 0.1)
    splice.from_down(Data(3, asked))
    assert len(down.of(ResponseHead)) == 1
    assert len(down.of(End)) == 1
    assert splice.ended is Status.UNIMPLEMENTED


def test_what_a_rest_module_says_of_its_connection_or_of_grpc_goes_no_further():
    said = {
        b"content-type": b"application/grpc",
        b"connection": b"keep-alive, x-foo",
        b"x-foo": b"1",
        b"keep-alive": b"timeout=5",
        b"transfer-encoding": b"chunked",
        b"grpc-status": b"0",
        b"flui-principal": b"me",
        b"x-bar": b"2",
    }
    splice, down, _ = begun(b"WatchBooks", b"application/grpc-web")
    splice.from_down(Data(3, framed(PARENT_PROTO)))
    splice.from_up([ResponseHead(1, 200, [classified(name, value) for name, value in said.items()], UNKNOWN, local=True)], 0.1)
    (head,) = down.of(ResponseHead)
    assert [(line.name, line.value) for line in head.fields] == [(b"content-type", b"application/grpc-web"), (b"x-bar", b"2")]


# --- Connect ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "why"),
    [
        (b"compression=gzip%0d%0ax-evil:%20yes", "compression"),
        (b"compression=g%00", "compression"),
        (b"encoding=proto", "twice"),
        (b"base64=1&x=1", ""),
    ],
)
def test_what_a_connect_get_says_wrongly_is_said_in_connect_and_nobody_is_sent_it(query, why):
    message = b"!!" if query.startswith(b"base64") else b"%0a%01x"
    splice, down, up = begun(b"GetBook", b"", grpc=True, verb=b"GET", query=b"?connect=v1&encoding=proto&message=" + message + b"&" + query)
    (head,) = down.of(ResponseHead)
    assert head.status == 400
    said = json.loads(b"".join(event.chunk for event in down.of(Data)))
    assert said["code"] == "invalid_argument"
    assert why in said["message"]
    assert up.said == []
    assert all(b"\r" not in line.value and b"\0" not in line.value for line in splice.head.fields)


@pytest.mark.parametrize("message", [b"%0a%01x", b""])
def test_the_body_of_a_connect_get_is_not_its_message(message):
    splice, down, up = begun(b"GetBook", b"", grpc=True, verb=b"GET", query=b"?connect=v1&encoding=proto&message=" + message)
    splice.from_down(Data(3, b"EVIL"))
    splice.from_down(End(3))
    assert b"".join(event.chunk for event in up.of(Data)) == framed(b"\x0a\x01x" if message else b"")
    assert [event.octets for event in down.of(Credit)] == [4]


def test_a_refused_stream_of_json_is_answered_as_one():
    dialects = Dialects(ROUTES, Limits(), 1, grpc=True)
    head = head_of(b"WatchBooks", b"application/connect+json")
    head.fields.append(classified(b"connect-content-encoding", b"br"))
    mapped = dialects.call(head)
    mapped.head.stream = 3
    down = Port()
    splice = dialects.splice_of(mapped, down, mapped.head, DECISION, None, UNKNOWN, 0.0, b"", None, 0, None)
    dialects.turn_away(splice, mapped.refused)
    (head,) = down.of(ResponseHead)
    assert head.fields[0].value == b"application/connect+json"


def test_a_body_in_tiny_pieces_costs_what_it_has_of_octets():
    import tracemalloc

    splice, _, _ = begun(b"GetBook", b"application/proto", grpc=True)
    codec = Http1Server(Limits(), b"http")
    codec.receive(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    codec.events()
    pieces = 40_000
    tracemalloc.start()
    try:
        for _ in range(pieces):
            codec.receive(b"2\r\nab\r\n")
            for event in codec.events():
                splice.from_down(event)
            codec.send(Credit(1, 2))
        assert tracemalloc.get_traced_memory()[0] < 8 * pieces
    finally:
        tracemalloc.stop()


# --- endings that stand in a head -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends_in_head", [True, False])
@pytest.mark.parametrize(
    ("method", "kind", "asked"),
    [
        (b"GetBook", b"application/proto", b"\x0a\x01x"),
        (b"WatchBooks", b"application/connect+json", framed(PARENT)),
        (b"WatchBooks", b"application/connect+proto", framed(PARENT_PROTO)),
    ],
)
def test_a_status_in_the_head_is_the_status_whether_or_not_the_head_is_all_there_is(method, kind, asked, ends_in_head):
    splice, down, _ = begun(method, kind, grpc=True)
    splice.from_down(Data(3, asked))
    splice.from_down(End(3))
    head = [*GRPC, classified(b"grpc-status", b"5"), classified(b"grpc-message", b"gone")]
    splice.from_up([ResponseHead(1, 200, head, 0 if ends_in_head else UNKNOWN), End(1)], 0.1)
    said = b"".join(event.chunk for event in down.of(Data))
    assert b'"code":"not_found"' in said
    assert b'"message":"gone"' in said
    assert splice.ended is Status.NOT_FOUND


@pytest.mark.parametrize("ends_in_head", [True, False])
def test_a_call_that_went_well_without_a_message_is_counted_as_the_caller_is_told(ends_in_head):
    splice, down, _ = begun(b"GetBook", b"application/proto", grpc=True)
    splice.from_down(Data(3, b"\x0a\x01x"))
    splice.from_down(End(3))
    ok = classified(b"grpc-status", b"0")
    if ends_in_head:
        splice.from_up([ResponseHead(1, 200, [*GRPC, ok], 0), End(1)], 0.1)
    else:
        splice.from_up([ResponseHead(1, 200, list(GRPC), UNKNOWN), End(1, [ok])], 0.1)
    assert [head.status for head in down.of(ResponseHead)] == [501]
    assert splice.ended is Status.UNIMPLEMENTED

"""The downstream side of HTTP/2: RFC 9113 by section, with `h2` as the caller, or with octets that no library sends."""

import h2.events
import hpack
import pytest
from http2_talk import GET, LIMITS, OK, POST, Peer, body, client, frame, goaways, head, heard, resets, said, server

from flui.codecs.http2 import Bounds, Http2Server, frames
from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import field
from flui.model.units import KIB
from support.rig import cuts, data, end, request, reset


def answer(codec, stream, status=200, octets=b"", fields=(), trailers=None):
    codec.send(ResponseHead(stream, status, list(fields), len(octets) if trailers is None else UNKNOWN))
    if octets:
        codec.send(Data(stream, octets))
    codec.send(End(stream, trailers))


def test_an_exchange_with_h2_as_the_caller():
    peer = Peer(Http2Server(LIMITS, b"https"))
    peer.h2.send_headers(1, [*POST, (b"x-a", b"b"), (b"te", b"trailers")])
    peer.h2.send_data(1, b"hello")
    peer.h2.send_headers(1, [(b"x-sum", b"1")], end_stream=True)
    peer.carry()
    said_head, *rest = heard(peer.codec)
    assert said_head == ("request", 1, b"POST", b"a", b"/", ((b"x-a", b"b"), (b"te", b"trailers")), UNKNOWN)
    assert rest == [data(1, b"hello"), end(1, (b"x-sum", b"1"))]
    peer.codec.send(ResponseHead(1, 103, [field(b"link", b"</a>")], 0))
    answer(peer.codec, 1, 200, b"body", [field(b"x-b", b"c")], [field(b"grpc-status", b"0")])
    peer.carry()
    told = peer.heard(
        h2.events.InformationalResponseReceived,
        h2.events.ResponseReceived,
        h2.events.DataReceived,
        h2.events.TrailersReceived,
        h2.events.StreamEnded,
    )
    assert [type(e).__name__ for e in told] == [
        "InformationalResponseReceived", "ResponseReceived", "DataReceived", "TrailersReceived", "StreamEnded",
    ]  # fmt: skip
    assert [(bytes(n), bytes(v)) for n, v in told[1].headers] == [*OK, (b"x-b", b"c")]
    assert told[2].data == b"body"
    assert peer.codec.idle


def test_the_scheme_is_the_connections():
    codec = Http2Server(LIMITS, b"https")
    codec.receive(frames.PREFACE + frames.settings([]) + head(1))
    assert next(e for e in codec.events() if isinstance(e, RequestHead)).scheme == b"https"


def test_many_exchanges_at_a_time_are_answered_in_any_order():
    peer = Peer(Http2Server(LIMITS, b"http"))
    for stream in range(1, 101, 2):
        peer.h2.send_headers(stream, [*GET, (b"x-n", b"%d" % stream)], end_stream=True)
    peer.carry()
    assert [e[1] for e in heard(peer.codec) if e[0] == "request"] == list(range(1, 101, 2))
    for stream in range(99, 0, -2):
        answer(peer.codec, stream, 200, b"%d" % stream)
    peer.carry()
    assert {e.stream_id: e.data for e in peer.heard(h2.events.DataReceived)} == {n: b"%d" % n for n in range(1, 101, 2)}
    assert peer.codec.streams == 0


def test_a_head_that_comes_again_is_another_head_that_says_the_same():
    """The memo of field blocks: what the validator found out is kept, what belongs to one exchange is not."""
    codec, encoder = server(), hpack.Encoder()
    fields = [*GET[:3], (b":path", b"/a%62?q"), (b"x-a", b"b"), (b"flui-key", b"k"), (b"keep-out", b"1")]
    seen = []
    for stream in (1, 3, 5, 7):
        codec.receive(head(stream, fields, encoder=encoder))
        got = codec.events()[0]
        assert validate(got) is None
        assert (got.stream, got.path, got.query, got.key, got.host, got.length) == (stream, b"/ab", b"?q", b"k", b"a", 0)
        got.extra = [field(b"x-only", b"%d" % stream)]
        seen.append(got)
    assert seen[3].extra[0].value == b"7"
    assert seen[2].fields is seen[3].fields
    assert len({id(e) for e in seen}) == 4
    codec.receive(head(9, fields, encoder=encoder, end=False))
    assert codec.events()[0].length == UNKNOWN


def test_a_block_is_looked_up_only_while_the_table_is_the_same():
    """RFC 7541 2.3.2: the same octets mean something else once the dynamic table has moved."""
    codec, encoder = server(), hpack.Encoder()
    for stream in range(1, 60, 2):
        fields = [*GET, (b"x-a", b"%d" % (stream % 5)), *([(b"x-new", b"%d" % stream)] if stream % 7 == 0 else [])]
        codec.receive(head(stream, fields, encoder=encoder))
        got = codec.events()[0]
        assert [(f.name, f.value) for f in got.fields] == fields[4:]
        answer(codec, stream)


@pytest.mark.parametrize("native", [True, False])
def test_cutting_the_octets_anywhere_changes_nothing(native):
    encoder = hpack.Encoder()
    block = encoder.encode([*POST, (b"x-a", b"b")])
    octets = (
        frames.PREFACE
        + frames.settings([(frames.INITIAL_WINDOW_SIZE, 10)])
        + frame(frames.HEADERS, 0x28, 1, b"\x03\x00\x00\x00\x00\x10" + block[:5] + b"\0\0\0")
        + frame(frames.CONTINUATION, 0, 1, block[5:7])
        + frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[7:])
        + frame(frames.PRIORITY, 0, 1, b"\0\0\0\3\1")
        + frame(frames.DATA, frames.PADDED, 1, b"\x02he\0\0")
        + frame(0xFA, 0xFF, 1, b"unknown")
        + frame(frames.PING, 0, 0, b"12345678")
        + frame(frames.DATA, frames.PADDED, 1, b"\x00llo")
        + head(1, [(b"t", b"v")], encoder=encoder)
    )
    wanted = [request(1, b"POST", fields=[(b"x-a", b"b")], length=UNKNOWN), data(1, b"hello"), end(1, (b"t", b"v"))]
    for pieces in cuts(octets):
        codec = Http2Server(LIMITS, b"http")
        if not native:
            from flui.codecs.http2._hpack import Decoder

            codec._decoder = Decoder(64 * KIB, False)
        told = []
        for piece in pieces:
            codec.receive(piece)
            told += codec.events()
        from support.rig import plain

        assert plain(told) == wanted
        told = said(codec.take())
        assert (frames.PING, 1, 0, b"12345678") in told
        assert [t for t in told if t[0] == frames.SETTINGS and t[1]] == [(frames.SETTINGS, 1, 0, b"")]
        assert not codec.closing


# What a request may not be: RFC 9113 8.1.1, threats B1-B6. Its stream is reset, nobody hears of it, its siblings live on.


def with_(name, value):
    return [*[f for f in GET if f[0] != name], (name, value)] if name.startswith(b":") else [*GET, (name, value)]


def put(name, value):
    return [(n, value if n == name else v) for n, v in GET]


MALFORMED = {
    # threats B1, RFC 9113 8.2.1
    **{f"value {v!r}": with_(b"x-a", v) for v in (b"a\rb", b"a\nb", b"a\0b", b" a", b"a ", b"\ta", b"a\t", b"\x7f", b"a\x01")},
    **{f"name {n!r}": [*GET, (n, b"v")] for n in (b"", b"X-A", b"x a", b"x:a", b"x\r", b"x\0", b"\xff", b"x-a ", b" x")},
    # threats B2, B3, RFC 9113 8.3.1
    **{f"method {m!r}": put(b":method", m) for m in (b"", b"GET /x", b"GET\r", b"G(T")},
    **{f"path {p!r}": put(b":path", p) for p in (b"", b"x", b"/x HTTP/1.1", b"/#f", b"/\0", b"*", b"http://a/", b"/\xff")},
    **{f"scheme {s!r}": put(b":scheme", s) for s in (b"", b"http://evil/?", b"ftp", b"https ")},
    **{f"authority {a!r}": put(b":authority", a) for a in (b"", b"u@h", b"a/b", b"a b", b"a:x", b"a:99999", b"a\r\nx")},
    "no method": GET[1:],
    "no scheme": [GET[0], *GET[2:]],
    "no authority and no host": [*GET[:2], GET[3]],
    "no path": GET[:3],
    "two methods": [GET[0], *GET],
    "two paths": [*GET, (b":path", b"/")],
    "a status": [*GET, (b":status", b"200")],
    "a pseudo-header nobody knows": [*GET, (b":x", b"y")],
    "a pseudo-header behind a field": [*GET[:3], (b"x-a", b"b"), GET[3]],
    # threats A7
    "host that is not the authority": [*GET, (b"host", b"b")],
    "host twice": [*GET, (b"host", b"a"), (b"host", b"a")],
    # RFC 9113 8.2.2, threats B6, B7
    **{
        f"{n.decode()}": [*GET, (n, v)]
        for n, v in [
            (b"connection", b"close"), (b"keep-alive", b"1"), (b"proxy-connection", b"x"), (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"h2c"), (b"http2-settings", b"x"), (b"te", b"gzip"), (b"te", b"trailers, deflate"),
        ]
    },
    # threats B4, A3
    **{f"length {v!r}": [*POST, (b"content-length", v)] for v in (b"5", b"+0", b"1_0", b"", b"-1", b"0x0", b"5,6", b"1" * 20)},
    "length twice": [*POST, (b"content-length", b"0"), (b"content-length", b"0")],
    # RFC 9113 8.5, RFC 8441 4
    "connect with a path": [(b":method", b"CONNECT"), *GET[1:]],
    "a protocol nobody offered": [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]],
    "a protocol without connect": [*GET, (b":protocol", b"websocket")],
}  # fmt: skip


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_is_a_stream_error_and_harms_nobody(fields):
    codec, encoder = server(), hpack.Encoder()
    codec.receive(head(1, POST, end=False, encoder=encoder))
    assert heard(codec) == [request(1, b"POST", length=UNKNOWN)]
    for stream in (3, 5, 7):  # the second time from the memo
        codec.receive(head(stream, fields, encoder=encoder))
        assert heard(codec) == []
        assert resets(codec.take()) == [(stream, frames.PROTOCOL_ERROR)]
    codec.receive(head(9, GET, encoder=encoder) + body(1, b"x", end=True))
    assert heard(codec) == [request(9), end(9), data(1, b"x"), end(1)]
    assert codec.counts == {"malformed": 3}
    assert not codec.closing


def test_host_alone_is_the_authority_and_goes():
    codec = server()
    codec.receive(head(1, [*GET[:2], GET[3], (b"host", b"A:80")]) + head(3, [*GET, (b"host", b"a")]))
    assert [e for e in heard(codec) if e[0] == "request"] == [request(1, authority=b"A:80"), request(3)]


def test_the_crumbs_of_a_cookie_are_joined():
    """RFC 9113 8.2.3."""
    codec = server()
    codec.receive(head(1, [*GET, (b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d"), (b"cookie", b"e=f")]))
    assert heard(codec)[0][5] == ((b"cookie", b"a=b; c=d; e=f"), (b"x", b"y"))


@pytest.mark.parametrize(
    ("sent", "declared", "code"), [((b"12345", b"6"), 5, 1), ((b"1234",), 5, 1), ((b"12345",), 5, None), ((b"", b"12345"), 5, None)]
)
def test_a_body_is_as_long_as_it_says(sent, declared, code):
    """RFC 9113 8.1.1, threats B4."""
    codec = server()
    codec.receive(head(1, [*POST, (b"content-length", b"%d" % declared)], end=False))
    for at, piece in enumerate(sent):
        codec.receive(body(1, piece, end=at == len(sent) - 1))
    told = heard(codec)
    if code is None:
        assert told[1:] == [data(1, b"12345"), end(1)]
    else:
        assert told[-1] == reset(1, Fault.MALFORMED)
        assert "end" not in [e[0] for e in told]
        assert resets(codec.take()) == [(1, code)]


def test_a_trailer_section_before_the_end_of_a_body_that_was_declared_is_malformed():
    codec, encoder = server(), hpack.Encoder()
    codec.receive(
        head(1, [*POST, (b"content-length", b"5")], end=False, encoder=encoder)
        + body(1, b"1234")
        + head(1, [(b"t", b"v")], encoder=encoder)
    )
    assert heard(codec)[-1] == reset(1, Fault.MALFORMED)


@pytest.mark.parametrize("trailers", [[(b":path", b"/")], [(b"X", b"y")], [(b"connection", b"close")]])
def test_malformed_trailers_are_a_stream_error(trailers):
    codec, encoder = server(), hpack.Encoder()
    codec.receive(head(1, POST, end=False, encoder=encoder) + head(1, trailers, encoder=encoder))
    assert heard(codec)[1:] == [reset(1, Fault.MALFORMED)]
    assert resets(codec.take()) == [(1, frames.PROTOCOL_ERROR)]


def test_trailers_that_could_change_what_was_authorised_are_dropped():
    """threats A11."""
    codec, encoder = server(), hpack.Encoder()
    bad = [
        (b"host", b"evil"),
        (b"authorization", b"x"),
        (b"content-length", b"1"),
        (b"x-forwarded-for", b"1"),
        (b"flui-principal", b"x"),
        (b"cookie", b"a"),
    ]
    codec.receive(head(1, POST, end=False, encoder=encoder) + head(1, [*bad, (b"x-sum", b"1")], encoder=encoder))
    assert heard(codec)[1:] == [end(1, (b"x-sum", b"1"))]


@pytest.mark.parametrize(
    ("limits", "fields", "fault"),
    [
        (Limits(fields=5), [*GET, *[(b"x-%d" % n, b"") for n in range(6)]], Fault.HEAD_TOO_LARGE),
        (Limits(head_octets=1000), [*GET, (b"x-a", b"v" * 900)], Fault.HEAD_TOO_LARGE),
        (Limits(target_octets=100), put(b":path", b"/" + b"x" * 100), Fault.TARGET_TOO_LONG),
        (Limits(body_octets=10), [*POST, (b"content-length", b"11")], Fault.BODY_TOO_LARGE),
    ],
)
def test_what_is_only_too_much_is_answered(limits, fields, fault):
    """threats A10: siblings live on, and the caller learns why."""
    peer = Peer(Http2Server(limits, b"http"))
    peer.h2.send_headers(1, fields)
    peer.carry()
    assert heard(peer.codec) == [reset(1, fault)]
    answer(peer.codec, 1, 431, b"why")
    peer.carry()
    assert [type(e).__name__ for e in peer.heard(h2.events.ResponseReceived, h2.events.DataReceived, h2.events.StreamReset)] == [
        "ResponseReceived", "DataReceived", "StreamReset",
    ]  # fmt: skip
    peer.h2.send_headers(3, GET, end_stream=True)
    assert heard(peer.carry().codec) == [request(3), end(3)]


def test_a_body_of_unknown_length_ends_at_its_limit():
    codec = server(Limits(body_octets=10))
    codec.receive(head(1, POST, end=False) + body(1, b"x" * 10) + body(1, b"x") + body(1, b"more") + body(1, end=True))
    assert heard(codec) == [request(1, b"POST", length=UNKNOWN), data(1, b"x" * 10), reset(1, Fault.BODY_TOO_LARGE)]
    answer(codec, 1, 413)
    assert codec.idle


def test_extended_connect_where_it_is_offered():
    """RFC 8441 3-5."""
    codec = Http2Server(LIMITS, b"https", extended=True)
    assert (frames.ENABLE_CONNECT_PROTOCOL, 1) in frames.parse_settings(said(codec.take())[0][3])
    codec.receive(
        frames.PREFACE + frames.settings([]) + head(1, [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]], end=False)
    )
    got = codec.events()[0]
    assert (got.method, got.protocol, got.path, got.length) == (b"CONNECT", b"websocket", b"/", UNKNOWN)
    assert frames.ENABLE_CONNECT_PROTOCOL not in dict(frames.parse_settings(said(Http2Server(LIMITS, b"https").take())[0][3]))


def test_connect_is_refused_by_the_validator():
    codec = server()
    codec.receive(head(1, [(b":method", b"CONNECT"), (b":authority", b"a:443")], end=False))
    assert validate(codec.events()[0]) is Fault.METHOD_REFUSED


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_an_answer_without_content_ends_with_its_head(method, status):
    """RFC 9113 8.1: and it takes no frame more."""
    codec = server()
    codec.receive(head(1, put(b":method", method)))
    codec.send(ResponseHead(1, status, [field(b"content-length", b"5")] if status != 204 else [], 5))
    codec.send(Data(1, b"12345"))
    codec.send(End(1))
    assert [(kind, flags) for kind, flags, _, _ in said(codec.take())] == [(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM)]


def test_an_answer_before_the_end_of_its_request_lets_the_caller_stop():
    """RFC 9113 8.1: RST_STREAM NO_ERROR behind it; what was under way meanwhile is no offence."""
    codec = server()
    codec.receive(head(1, POST, end=False))
    answer(codec, 1, 403)
    octets = codec.take()
    assert said(octets)[0][1] & frames.END_STREAM
    assert resets(octets) == [(1, frames.NO_ERROR)]
    codec.receive(body(1, b"more") + body(1, b"x", end=True))
    assert codec.take() == b""
    assert not codec.counts


# Connection errors, each with its code.

OPEN = head(1, POST, end=False)
CONNECTION_ERRORS = {
    "3.4 another preface": (b"GET / HTTP/1.1\r\n\r\n", 1),
    "3.4 no SETTINGS first": (frames.PREFACE + head(1), 1),
    "4.1 unknown type is ignored, too long is not": (frame(0xF0, 0, 0, b"x" * 16385), 6),
    "4.2 too long": (frame(0, 0, 1, b"x" * 16385), 6),
    "4.3 a block that cannot be decoded": (frame(1, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"), 9),
    "4.3 a block that is cut short": (frame(1, 5, 1, b"\x40\x01"), 9),
    "5.1 DATA on an idle stream": (body(1, b"x"), 1),
    "5.1 RST_STREAM on an idle stream": (frames.rst_stream(1, 8), 1),
    "5.1 WINDOW_UPDATE on an idle stream": (frames.window_update(1, 8), 1),
    "5.1 CONTINUATION out of nothing": (frame(9, 4, 1, b""), 1),
    "5.1.1 an even stream": (head(2), 1),
    "5.1.1 a lower stream": (head(5) + head(3), 1),
    "5.1 HEADERS on a stream that is complete": (None, 5),
    "6.1 DATA on stream 0": (body(0, b"x"), 1),
    "6.1 padding longer than its frame": (head(1, POST, end=False) + frame(0, 8, 1, b"\x05abc"), 1),
    "6.1 padding without its length": (head(1, POST, end=False) + frame(0, 8, 1, b""), 6),
    "6.2 HEADERS on stream 0": (head(0), 1),
    "6.2 padding longer than its block": (frame(1, 0xD, 1, b"\x05abc"), 1),
    "6.2 priority that is cut short": (frame(1, 0x25, 1, b"\0\0"), 1),
    "6.2 another stream within a block": (frame(1, 0, 1, b"\x82") + head(3), 1),
    "6.3 PRIORITY on stream 0": (frame(2, 0, 0, b"12345"), 1),
    "6.4 RST_STREAM on stream 0": (frame(3, 0, 0, b"1234"), 1),
    "6.4 RST_STREAM of another length": (head(1) + frame(3, 0, 1, b"123"), 6),
    "6.5 SETTINGS on a stream": (frame(4, 0, 1, b""), 1),
    "6.5 SETTINGS of another length": (frame(4, 0, 0, b"123"), 6),
    "6.5 an ACK with a payload": (frame(4, 1, 0, b"123456"), 6),
    "6.5.2 ENABLE_PUSH 2": (frames.settings([(2, 2)]), 1),
    "6.5.2 window above the maximum": (frames.settings([(4, 1 << 31)]), 3),
    "6.5.2 frame size below the minimum": (frames.settings([(5, 16383)]), 1),
    "6.5.2 frame size above the maximum": (frames.settings([(5, 1 << 24)]), 1),
    "RFC 8441 3 ENABLE_CONNECT_PROTOCOL 2": (frames.settings([(8, 2)]), 1),
    "6.6 PUSH_PROMISE from a client": (head(1, POST, end=False) + frame(5, 4, 1, b"\0\0\0\2\x82"), 1),
    "6.7 PING on a stream": (frame(6, 0, 1, b"12345678"), 1),
    "6.7 PING of another length": (frame(6, 0, 0, b"1234567"), 6),
    "6.8 GOAWAY on a stream": (frame(7, 0, 1, b"12345678"), 1),
    "6.8 GOAWAY that is cut short": (frame(7, 0, 0, b"1234567"), 6),
    "6.9 WINDOW_UPDATE 0": (frames.window_update(0, 0), 1),
    "6.9 WINDOW_UPDATE of another length": (frame(8, 0, 0, b"123"), 6),
    "6.9.1 window above the maximum": (frames.window_update(0, 1 << 31 - 1) + frames.window_update(0, (1 << 31) - 1), 3),
    "6.9.2 streams' windows above the maximum": (OPEN + frames.window_update(1, 1 << 30) + frames.settings([(4, (1 << 31) - 1)]), 3),
    "6.10 PING within a block": (frame(1, 0, 1, b"\x82") + frame(6, 0, 0, b"12345678"), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_a_connection_error_says_why_and_ends_everything(name):
    octets, code = CONNECTION_ERRORS[name]
    codec, encoder = (Http2Server(LIMITS, b"http") if name.startswith("3.4") else server()), hpack.Encoder()
    if octets is None:
        codec.receive(head(1, encoder=encoder))
        answer(codec, 1)
        codec.take()
        codec.events()
        octets = head(1, encoder=encoder)
    codec.receive(octets)
    told = heard(codec)
    begun = [e[1] for e in told if e[0] == "request"]
    assert [e[1] for e in told if e[0] == "reset" and e[2] is Fault.CALLER_GONE] == begun, "each exchange is told"
    assert [code for _, code in goaways(codec.take())] == [code]
    assert codec.closing
    assert codec.lingers
    codec.receive(head(99))
    assert codec.events() == []
    assert codec.take() == b""


def test_stream_errors_leave_the_connection():
    """RFC 9113 5.4.2, each with its code."""
    for octets, code in [
        (body(1, b"x"), 5),  # 5.1: half closed (remote)
        (head(1), 5),
        (frames.window_update(1, 0), 1),  # 6.9
        (frames.window_update(1, (1 << 31) - 1), 3),  # 6.9.1
        (frame(2, 0, 1, b"1234"), 6),  # 6.3
        (frame(2, 0, 1, b"\0\0\0\1\0"), 1),  # RFC 7540 5.3.1, which h2spec still asks for
    ]:
        codec = server()
        codec.receive(head(1))
        codec.events()
        codec.receive(octets)
        assert heard(codec) == [reset(1, Fault.MALFORMED)]
        assert resets(codec.take()) == [(1, code)]
        codec.receive(head(3))
        assert heard(codec) == [request(3), end(3)]
    codec = server()
    codec.receive(frame(1, 0x25, 1, b"\0\0\0\1\0" + hpack.Encoder().encode(GET)))
    assert resets(codec.take()) == [(1, 1)]


def test_frames_on_a_stream_that_was_reset_are_let_pass():
    """RFC 9113 5.1: they were sent before the reset was heard; the field block still moves the table."""
    codec, encoder = server(), hpack.Encoder()
    codec.receive(head(1, POST, end=False, encoder=encoder))
    codec.events()
    codec.send(Reset(1, Fault.UPSTREAM_RESET))
    assert resets(codec.take()) == [(1, 2)]
    codec.receive(body(1, b"x") + frames.window_update(1, 5) + frames.rst_stream(1, 8) + head(1, [(b"t", b"new")], encoder=encoder))
    assert codec.take() == b""
    codec.receive(head(3, [*GET, (b"t", b"new")], encoder=encoder))
    assert heard(codec)[0] == request(3, fields=[(b"t", b"new")])


def test_a_reset_by_the_caller_is_heard_and_empties_what_waits():
    codec = server()
    codec.receive(frames.settings([(4, 0)]) + head(1))
    codec.events()
    codec.send(ResponseHead(1, 200, [], UNKNOWN))
    codec.send(Data(1, b"x" * 1000))
    assert codec.queued_octets == 1000
    codec.receive(frames.rst_stream(1, 8))
    assert heard(codec) == [reset(1, Fault.CALLER_GONE)]
    assert codec.queued_octets == 0
    codec.send(Data(1, b"x"))
    codec.send(End(1))
    codec.receive(frames.settings([(4, 100)]))
    assert [kind for kind, *_ in said(codec.take())] == [4, 1, 4]


# Flow control.


def test_the_peers_windows_are_honoured_and_turns_are_fair():
    """RFC 9113 5.2: bodies wait for both windows; those that wait have turns of a frame each; heads and PINGs pass them by."""
    codec = server()
    codec.receive(frames.settings([(4, 100_000)]) + b"".join([head(s) for s in (1, 3, 5)]))
    codec.events()
    for stream, size in ((1, 60_000), (3, 60_000), (5, 60_000)):
        codec.send(ResponseHead(stream, 200, [], UNKNOWN))
        codec.send(Data(stream, b"x" * size))
        codec.send(End(stream))
    told = [(stream, len(payload)) for kind, _, stream, payload in said(codec.take()) if kind == frames.DATA]
    assert [s for s, _ in told] == [1, 3, 5, 1]
    assert sum(size for _, size in told) == 65535
    codec.receive(frame(6, 0, 0, b"12345678") + head(7))
    codec.send(ResponseHead(7, 204, [], 0))
    codec.send(End(7))
    assert [kind for kind, *_ in said(codec.take())] == [6, 1], "nothing that needs no window waits for one"
    codec.receive(frames.window_update(0, 1 << 20))
    told = [(stream, flags, len(payload)) for kind, flags, stream, payload in said(codec.take()) if kind == frames.DATA]
    assert [s for s, _, _ in told[:6]] == [3, 5, 1, 3, 5, 1]
    assert {s for s, flags, _ in told if flags & 1} == {1, 3, 5}
    assert sum(size for *_, size in told) + 65535 == 180_000
    assert codec.streams == 0


def test_a_stream_without_window_stops_no_other():
    codec = server()
    codec.receive(frames.settings([(4, 10)]) + head(1) + head(3))
    codec.events()
    for stream in (1, 3):
        codec.send(ResponseHead(stream, 200, [], UNKNOWN))
    codec.send(Data(1, b"x" * 50))
    codec.receive(frames.window_update(3, 1000))
    codec.send(Data(3, b"y" * 500))
    assert {(s, len(p)) for kind, _, s, p in said(codec.take()) if kind == 0} == {(1, 10), (3, 500)}
    codec.receive(frames.settings([(4, 0)]) + frames.window_update(1, 15))  # RFC 9113 6.9.2: -10, then 5
    assert [(s, len(p)) for kind, _, s, p in said(codec.take()) if kind == 0] == [(1, 5)]


def test_no_credit_for_octets_that_wait():
    """Architecture 3: the sender of a body is credited for what has gone out, not for what is held."""
    codec = server(Limits(stream_window_octets=4 * KIB))
    codec.receive(frames.settings([(4, 3000)]) + head(1))
    codec.events()
    codec.send(ResponseHead(1, 200, [], UNKNOWN))
    codec.send(Data(1, b"x" * 4096))
    codec.take()
    assert sum(e.octets for e in codec.events() if isinstance(e, Credit)) == 3000
    codec.stall(True)
    codec.receive(frames.window_update(1, 4096))
    codec.take()
    assert not codec.events()
    assert codec.queued_octets == 1096
    codec.stall(False)
    codec.take()
    codec.send(Data(1, b"x" * 2048))
    codec.take()
    assert sum(e.octets for e in codec.events() if isinstance(e, Credit)) == 1096 + 2048


def test_the_streams_window_grows_by_credit_alone_and_the_connections_at_once():
    """threats C7: a stream that nobody reads holds one window; its siblings have the connection to themselves."""
    peer = Peer(Http2Server(LIMITS, b"http"))
    for stream in (1, 3):
        peer.h2.send_headers(stream, POST)
    while size := min(peer.h2.local_flow_control_window(1), 16384):
        peer.h2.send_data(1, b"x" * size)
        peer.carry()
    assert sum(len(e.chunk) for e in peer.codec.events() if isinstance(e, Data)) == LIMITS.stream_window_octets
    for _ in range(100):
        peer.h2.send_data(3, b"y" * 16384)
        peer.carry()
        for e in peer.codec.events():
            if isinstance(e, Data):
                peer.codec.send(Credit(3, len(e.chunk)))
        peer.carry()
    assert peer.h2.local_flow_control_window(1) == 0
    peer.codec.send(Credit(1, 40_000))
    assert peer.carry().h2.local_flow_control_window(1) == 40_000


def test_everything_held_on_a_connection_is_bounded():
    """threats C7: 100 callers of one connection upload to upstreams that never read."""
    peer = Peer(Http2Server(LIMITS, b"http"))
    held = 0
    for stream in range(1, 200, 2):
        peer.h2.send_headers(stream, POST)
        while size := min(peer.h2.local_flow_control_window(stream), 16384):
            peer.h2.send_data(stream, b"x" * size)
            peer.carry()
        held += sum(len(e.chunk) for e in peer.codec.events() if isinstance(e, Data))
    assert held == peer.codec.held_octets == Bounds().held_octets
    for stream in range(1, 200, 2):
        peer.codec.send(Credit(stream, 65536))
    peer.carry()
    assert peer.codec.held_octets == 0
    assert peer.h2.outbound_flow_control_window >= 256 * KIB


def test_more_than_the_window_is_a_flow_control_error():
    """RFC 9113 6.9.1: of the stream, or of the connection."""
    codec = server(Limits(stream_window_octets=1000))
    codec.receive(head(1, POST, end=False) + body(1, b"x" * 1000) + body(1, b"x"))
    assert heard(codec, credit=False)[-1] == reset(1, Fault.MALFORMED)
    assert resets(codec.take()) == [(1, 3)]
    codec = server(bounds=Bounds(window_octets=65535, held_octets=65535))
    codec.receive(head(1, POST, end=False) + body(1, b"x" * 16384) * 4)
    assert goaways(codec.take()) == [(1, 3)]


def test_the_first_window_holds_until_the_peer_has_heard_of_ours():
    """RFC 9113 6.9.2, 6.5.3."""
    codec = Http2Server(Limits(stream_window_octets=100), b"http")
    codec.receive(frames.PREFACE + frames.settings([]) + head(1, POST, end=False) + body(1, b"x" * 5000))
    assert heard(codec)[-1] == data(1, b"x" * 5000)
    codec.receive(frames.SETTINGS_ACK + body(1, b"x" * 16384) * 4)
    assert resets(codec.take())[-1] == (1, 3)


def test_padding_costs_no_credit():
    codec = server(Limits(stream_window_octets=1000))
    codec.receive(head(1, POST, end=False))
    for _ in range(50):
        codec.receive(frame(0, 8, 1, b"\x63x" + b"\0" * 99))
        for e in codec.events():
            if isinstance(e, Data):
                codec.send(Credit(1, 1))
    assert not codec.counts


def test_tiny_frames_make_no_crowd_of_events():
    codec = server()
    codec.receive(head(1, POST, end=False) + body(1, b"x") * 1000)
    assert len(codec.events()) == 2


# Leaving.


def test_leaving_takes_two_steps():
    """RFC 9113 6.8: the first GOAWAY lets in what is in flight; the second tells where that ended."""
    peer = Peer(Http2Server(LIMITS, b"http"))
    peer.h2.send_headers(1, GET, end_stream=True)
    peer.carry()
    peer.codec.events()
    peer.codec.last()
    first = peer.codec.take()
    assert goaways(first) == [((1 << 31) - 1, 0)]
    peer.codec.receive(head(3, encoder=peer.h2.encoder))
    assert heard(peer.codec) == [request(3), end(3)]
    ping = next(payload for kind, _, _, payload in said(first) if kind == frames.PING)
    peer.codec.receive(frame(6, 1, 0, ping))
    assert goaways(peer.codec.take()) == [(3, 0)]
    peer.codec.receive(head(5, encoder=peer.h2.encoder) + body(5, b"x"))
    assert heard(peer.codec) == []
    answer(peer.codec, 1)
    assert not peer.codec.closing
    answer(peer.codec, 3)
    assert peer.codec.closing
    assert not peer.codec.counts


def test_an_idle_connection_leaves_at_once():
    codec = server()
    codec.drain()
    assert goaways(codec.take()) == [(0, 0)]
    assert codec.closing


def test_requests_that_are_complete_are_answered_after_the_last_octet():
    codec = server()
    codec.receive(head(1) + head(3, POST, end=False))
    codec.events()
    codec.receive_eof()
    assert heard(codec) == [reset(3, Fault.CALLER_GONE)]
    assert not codec.closing
    answer(codec, 1, 200, b"x")
    assert len(said(codec.take())) == 2
    assert codec.closing


def test_a_broken_connection_ends_every_exchange():
    codec = server()
    codec.receive(head(1) + head(3, POST, end=False))
    codec.events()
    codec.receive_reset()
    assert heard(codec) == [reset(1, Fault.CALLER_GONE), reset(3, Fault.CALLER_GONE)]


def test_a_caller_that_is_too_slow_is_given_up():
    codec = server()
    codec.receive(head(1, POST, end=False))
    codec.events()
    codec.fail(Fault.REQUEST_TIMEOUT, 1)
    assert heard(codec) == [reset(1, Fault.REQUEST_TIMEOUT)]
    answer(codec, 1, 408)
    assert codec.idle
    codec.receive(frame(1, 0, 3, b"\x82"))
    assert codec.started
    codec.fail(Fault.REQUEST_TIMEOUT)
    assert goaways(codec.take()) == [(1, 11)]
    assert codec.closing


def test_a_client_codec_and_a_server_codec_understand_one_another():
    there, back = client(), server()
    for n in range(5):
        stream = there.open()
        there.send(RequestHead(stream, b"GET", b"http", b"a", b"/", b"", [field(b"x-n", b"%d" % n)], 0))
        there.send(End(stream))
        back.receive(there.take())
        assert heard(back) == [request(stream, fields=[(b"x-n", b"%d" % n)]), end(stream)]

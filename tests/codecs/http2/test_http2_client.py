"""The upstream side of HTTP/2: RFC 9113 by section, with `h2` as the upstream, or with octets that no library sends."""

import h2.events
import hpack
import pytest
from http2_talk import LIMITS, OK, Peer, body, client, frame, goaways, head, heard, resets, said

from flui.codecs.http2 import Bounds, Http2Client, frames
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, RequestHead, Reset
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import field
from support.rig import cuts, data, end, plain, reset, response


def ask(codec, method=b"GET", fields=(), length=0, *, ended=True, **kw):
    stream = codec.open()
    codec.send(RequestHead(stream, method, b"http", b"a", b"/x", b"?q", list(fields), length, **kw))
    if ended:
        codec.send(End(stream))
    return stream


def test_an_exchange_with_h2_as_the_upstream():
    peer = Peer(Http2Client(LIMITS))
    stream = ask(peer.codec, b"POST", [field(b"x-a", b"b")], UNKNOWN, ended=False)
    peer.codec.send(Data(stream, b"hello"))
    peer.codec.send(End(stream, [field(b"x-sum", b"1")]))
    peer.carry()
    told = peer.heard(h2.events.RequestReceived, h2.events.DataReceived, h2.events.TrailersReceived, h2.events.StreamEnded)
    assert [type(e).__name__ for e in told] == ["RequestReceived", "DataReceived", "TrailersReceived", "StreamEnded"]
    assert [(bytes(n), bytes(v)) for n, v in told[0].headers] == [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x?q"), (b":authority", b"a"), (b"x-a", b"b"),
    ]  # fmt: skip
    peer.h2.send_headers(1, [(b":status", b"103"), (b"link", b"</a>")])
    peer.h2.send_headers(1, [*OK, (b"content-length", b"4")])
    peer.h2.send_data(1, b"body")
    peer.h2.send_headers(1, [(b"grpc-status", b"0")], end_stream=True)
    assert heard(peer.carry().codec) == [
        response(1, 103, [(b"link", b"</a>")]),
        response(1, 200, [(b"content-length", b"4")], 4),
        data(1, b"body"),
        end(1, (b"grpc-status", b"0")),
    ]
    assert peer.codec.idle
    assert peer.codec.reusable


def test_what_grpc_asks_of_each_hop_is_said_anew():
    codec = client()
    ask(
        codec,
        b"POST",
        [
            field(b"x-a", b"b"),
            next(iter([__import__("flui.model.fields", fromlist=["x"]).classified(b"content-type", b"application/grpc")])),
        ],
    )
    assert (b"te", b"trailers") in hpack.Decoder().decode(said(codec.take())[0][3], raw=True)


@pytest.mark.parametrize("length", [0, UNKNOWN])
@pytest.mark.parametrize("taken", [False, True])
def test_a_call_without_a_message_ends_with_an_empty_data_frame(length, taken):
    """gRPC over HTTP/2, Requests: where no message is left to be sent, the end MUST be said by an empty DATA frame."""
    codec = client()
    head_of_call = RequestHead(codec.open(), b"POST", b"http", b"a", b"/p.S/M", b"", [field(b"content-type", b"application/grpc")], length)
    head_of_call.grpc = True
    codec.send(head_of_call)
    octets = codec.take() if taken else b""
    codec.send(End(1))
    frames_said = said(octets + codec.take())
    assert [(kind, flags, number) for kind, flags, number, _ in frames_said] == [
        (frames.HEADERS, frames.END_HEADERS, 1),
        (frames.DATA, frames.END_STREAM, 1),
    ]
    assert frames_said[1][3] == b""


def test_a_head_that_comes_again_is_another_head_that_says_the_same():
    codec, encoder = client(), hpack.Encoder()
    seen = []
    for _ in range(4):
        stream = ask(codec)
        codec.receive(head(stream, [*OK, (b"x-a", b"b"), (b"content-length", b"0")], encoder=encoder))
        seen.append(codec.events()[0])
        assert plain(seen[-1:]) == [response(stream, 200, [(b"x-a", b"b"), (b"content-length", b"0")])]
    assert len({id(e) for e in seen}) == 4
    stream = ask(codec, b"HEAD")
    codec.receive(head(stream, [*OK, (b"x-a", b"b"), (b"content-length", b"7")], encoder=encoder))
    assert heard(codec) == [response(stream, 200, [(b"x-a", b"b"), (b"content-length", b"7")]), end(stream)]


def test_cutting_the_octets_anywhere_changes_nothing():
    encoder = hpack.Encoder()
    octets = (
        frames.settings([(3, 50)])
        + head(1, [(b":status", b"103")], end=False, encoder=encoder)
        + head(1, [*OK, (b"x-a", b"b")], end=False, encoder=encoder)
        + frame(0, 8, 1, b"\x02he\0\0")
        + body(1, b"llo")
        + head(1, [(b"t", b"v")], encoder=encoder)
    )
    for pieces in cuts(octets):
        codec = Http2Client(LIMITS)
        ask(codec)
        told = []
        for piece in pieces:
            codec.receive(piece)
            told += codec.events()
        assert plain(told) == [response(1, 103), response(1, 200, [(b"x-a", b"b")], UNKNOWN), data(1, b"hello"), end(1, (b"t", b"v"))]
        assert codec.room == 50


MALFORMED = {
    "no status": [(b"x", b"y")],
    "nothing": [],
    "status twice": [*OK, *OK],
    "status behind a field": [(b"x", b"y"), *OK],
    **{f"status {s!r}": [(b":status", s)] for s in (b"", b"20", b"2000", b"abc", b"099", b"600", b"101", b"+20")},
    "a path": [*OK, (b":path", b"/")],
    **{f"name {n!r}": [*OK, (n, b"v")] for n in (b"", b"X", b"a b", b"a:b", b"a\n")},
    **{f"value {v!r}": [*OK, (b"x", v)] for v in (b"a\r\nb", b"\0", b" a", b"a ")},
    **{n.decode(): [*OK, (n, b"x")] for n in (b"connection", b"transfer-encoding", b"upgrade", b"keep-alive")},
    "a length and no body": [*OK, (b"content-length", b"5")],
    "length twice": [*OK, (b"content-length", b"0"), (b"content-length", b"0")],
    "an interim response that ends": [(b":status", b"103")],
    "too many fields": [*OK, *[(b"x-%d" % n, b"") for n in range(101)]],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_response_harms_nobody_else(fields):
    codec, encoder = client(), hpack.Encoder()
    one, two = ask(codec), ask(codec)
    codec.take()
    codec.receive(head(one, fields, encoder=encoder))
    assert heard(codec) == [reset(one, Fault.UPSTREAM_MALFORMED)]
    assert resets(codec.take()) == [(one, 1)]
    codec.receive(head(two, [*OK, (b"x", b"y")], encoder=encoder))
    assert heard(codec) == [response(two, 200, [(b"x", b"y")]), end(two)]
    assert codec.reusable


@pytest.mark.parametrize(
    "octets",
    [
        [head(1, [*OK, (b"content-length", b"5")], end=False), body(1, b"123", end=True)],
        [head(1, [*OK, (b"content-length", b"5")], end=False), body(1, b"123456")],
        [body(1, b"x")],
        [head(1, OK, end=False), head(1, OK, end=False)],
        [head(1, [(b":status", b"103")], end=False)] * 17,
        [head(1, [(b":status", b"103")], end=False), body(1, b"x")],
        [head(1, [(b":status", b"204")], end=False), body(1, b"x")],
    ],
)
def test_a_response_that_breaks_the_order_is_malformed(octets):
    """RFC 9113 8.1, 8.1.1; threats A8, B4."""
    codec = client()
    ask(codec)
    codec.take()
    for one in octets:
        codec.receive(one)
    told = heard(codec)
    assert told[-1] == reset(1, Fault.UPSTREAM_MALFORMED)
    assert "end" not in [e[0] for e in told]
    assert resets(codec.take()) == [(1, 1)]


@pytest.mark.parametrize(
    "octets",
    [
        head(3),
        head(2, OK),
        frame(5, 4, 1, b"\0\0\0\2\x82"),
        frames.settings([(2, 1)]),
        body(7, b"x"),
        frame(1, 5, 1, b"\xff\xff\xff\xff\x7f"),
    ],
)
def test_an_upstream_that_breaks_the_connection(octets):
    codec = client()
    ask(codec)
    codec.receive(octets)
    assert heard(codec) == [reset(1, Fault.UPSTREAM_MALFORMED)]
    assert goaways(codec.take())
    assert codec.closing
    assert not codec.reusable
    assert codec.room == 0


def test_what_was_not_looked_at_is_proven_unsent():
    """RFC 9113 8.7, threats H2: REFUSED_STREAM, and what is above the last stream of a GOAWAY."""
    codec = client()
    one, two, three, four = (ask(codec) for _ in range(4))
    codec.receive(frames.rst_stream(two, frames.REFUSED_STREAM) + frames.rst_stream(three, frames.INTERNAL_ERROR))
    assert heard(codec) == [reset(two, Fault.UPSTREAM_UNSENT), reset(three, Fault.UPSTREAM_RESET)]
    codec.receive(frames.goaway(frames.LAST_STREAM, 0))
    assert not heard(codec)
    assert not codec.reusable
    codec.receive(frames.goaway(one, 0))
    assert heard(codec) == [reset(four, Fault.UPSTREAM_UNSENT)]
    assert not codec.closing
    codec.receive(head(one, OK))
    assert heard(codec) == [response(one), end(one)]
    assert codec.closing
    assert DIALECTS[Fault.UPSTREAM_UNSENT].h2 == 7


def test_no_more_exchanges_than_the_upstream_takes():
    codec = client(settings=[(3, 2)])
    assert codec.room == 2
    ask(codec)
    two = ask(codec)
    assert codec.room == 0
    three = ask(codec)
    assert heard(codec) == [reset(three, Fault.UPSTREAM_UNSENT)]
    assert [s for k, _, s, _ in said(codec.take()) if k == 1] == [1, 3]
    codec.receive(head(two, OK))
    assert codec.room == 1
    assert codec.reusable


def test_numbers_come_to_an_end():
    """RFC 9113 5.1.1."""
    codec = client()
    codec._next = frames.LAST_STREAM
    assert codec.room == 100
    assert ask(codec) == frames.LAST_STREAM
    assert not codec.reusable
    assert codec.room == 0


def test_an_answer_before_the_end_of_its_request_ends_the_exchange():
    """threats A9: nobody reads the rest; the connection goes on."""
    peer = Peer(Http2Client(LIMITS))
    ask(peer.codec, b"POST", length=UNKNOWN, ended=False)
    peer.carry()
    peer.h2.send_headers(1, [(b":status", b"403")], end_stream=True)
    peer.carry()
    assert heard(peer.codec) == [response(1, 403), end(1)]
    assert peer.heard(h2.events.StreamReset)[0].error_code == 8
    peer.codec.send(Data(1, b"more"))
    peer.codec.send(End(1))
    assert peer.codec.take() == b""
    assert peer.codec.room == 100


def test_a_request_that_is_given_up_is_cancelled():
    peer = Peer(Http2Client(LIMITS))
    ask(peer.codec)
    peer.carry()
    peer.codec.send(Reset(1, Fault.CALLER_GONE))
    peer.carry()
    assert peer.heard(h2.events.StreamReset)[0].error_code == 8
    assert peer.codec.reusable
    peer.codec.receive(body(1, b"late"))
    assert not peer.codec.counts


def test_the_end_of_the_connection_is_the_end_of_every_exchange():
    codec = client()
    ask(codec)
    ask(codec)
    codec.receive_eof()
    assert heard(codec) == [reset(1, Fault.UPSTREAM_RESET), reset(3, Fault.UPSTREAM_RESET)]
    assert codec.closing


def test_leaving_lets_the_last_exchange_end():
    codec = client()
    ask(codec)
    codec.drain()
    assert not codec.reusable
    assert goaways(codec.take()) == [(0, 0)]
    codec.receive(head(1, OK))
    assert codec.closing


def test_extended_connect_is_said_where_it_is_taken():
    codec = client(settings=[(8, 1)])
    assert codec.extended
    ask(codec, b"CONNECT", protocol=b"websocket", ended=False)
    assert hpack.Decoder().decode(said(codec.take())[0][3], raw=True) == [
        (b":method", b"CONNECT"), (b":scheme", b"http"), (b":path", b"/x?q"), (b":authority", b"a"), (b":protocol", b"websocket"),
    ]  # fmt: skip


def test_a_long_head_goes_in_pieces_and_the_peers_table_size_is_kept():
    """RFC 9113 6.10, RFC 7541 4.2."""
    peer = Peer(Http2Client(Limits()))
    for size in (4096, 0, 100, 4096):
        peer.h2.update_settings({1: size})
        peer.carry()
        for _ in range(3):
            stream = ask(peer.codec, fields=[field(b"x-long", b"v" * 20_000), field(b"x-a", b"b")])
            peer.carry()
            assert (b"x-a", b"b") in peer.heard(h2.events.RequestReceived)[0].headers
            peer.h2.send_headers(stream, OK, end_stream=True)
            peer.carry()


def test_a_body_comes_as_fast_as_credit_is_given():
    peer = Peer(Http2Client(LIMITS))
    ask(peer.codec)
    peer.carry()
    peer.h2.send_headers(1, OK)
    got = 0
    while got < 1 << 20:
        while size := min(peer.h2.local_flow_control_window(1), 16384):
            peer.h2.send_data(1, b"x" * size)
            peer.carry()
        chunks = [e.chunk for e in peer.codec.events() if isinstance(e, Data)]
        assert 0 < sum(map(len, chunks)) <= LIMITS.stream_window_octets
        got += sum(map(len, chunks))
        peer.codec.send(Credit(1, sum(map(len, chunks))))
        peer.carry()


def test_what_a_stream_held_that_is_given_up_is_given_back_to_the_connection():
    """Else callers who leave without having read would use up the connection's window for all who come after them."""
    bounds = Bounds(held_octets=frames.FIRST_WINDOW, window_octets=frames.FIRST_WINDOW)
    codec = client(bounds=bounds)
    ask(codec)
    ask(codec)
    codec.receive(head(1, OK, end=False) + b"".join(body(1, bytes(16_000)) for _ in range(4)))
    codec.take()
    codec.events()
    codec.send(Reset(1, Fault.CALLER_GONE))
    updates = [(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in said(codec.take()) if kind == frames.WINDOW_UPDATE]
    assert updates == [(0, 64_000)]

"""The upstream side of HTTP/1.1, told as conversations (RFC 9112; threats A8, A9)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.codecs.http1 import Http1Client
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, Reset
from flui.model.fault import Fault
from flui.model.fields import field
from support.rig import EOF, Playbook, cuts, data, end, head, hear, plain, reset, response

LIMITS = Limits(fields=10, head_octets=1000, window_octets=100, interim_responses=3)


def asked(method=b"GET", *, whole=True, length=0):
    """A playbook whose codec has sent a request."""
    talk = Playbook(Http1Client(LIMITS))
    assert talk.codec.open() == 1
    talk >> head(method, length=length)
    if whole:
        talk >> End(1)
    talk.codec.take()
    return talk


# Requests.


def test_a_request_is_written_with_its_one_authority():
    talk = Playbook(Http1Client(LIMITS))
    talk >> head(b"GET", b"/a", fields=[field(b"x", b"y")], authority=b"b:80") >> End(1)
    talk << b"GET /a HTTP/1.1\r\nhost: b:80\r\nx: y\r\n\r\n"


def test_a_declared_body_is_counted():
    talk = Playbook(Http1Client(LIMITS))
    talk >> head(b"PUT", length=3, fields=[field(b"content-length", b"3")]) >> Data(1, b"ab") >> Data(1, b"c") >> End(1)
    talk << b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"
    for wrong in ([Data(1, b"abcd")], [End(1)]):
        talk = asked(b"PUT", whole=False, length=3)
        with pytest.raises(AssertionError):
            talk >> wrong


def test_a_body_of_unknown_length_is_chunked_with_only_octets_in_hand():
    """threats B4: a chunk size is written only for octets that follow it."""
    talk = Playbook(Http1Client(LIMITS))
    talk >> head(b"PUT", length=UNKNOWN) << b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    talk >> Data(1, b"x" * 17) << b"11\r\n" + b"x" * 17 + b"\r\n"
    talk >> End(1, [field(b"t", b"v")]) << b"0\r\nt: v\r\n\r\n"


def test_a_request_that_is_given_up_before_it_was_written_is_never_written():
    """No octet of a request that turned out malformed needs to reach an upstream."""
    talk = Playbook(Http1Client(LIMITS))
    talk >> head(b"PUT", length=UNKNOWN) >> Data(1, b"hello") >> Reset(1, Fault.MALFORMED) << b""
    assert talk.codec.closing
    assert not talk.codec.reusable


def test_a_request_cut_short_ends_its_connection():
    talk = asked(b"PUT", whole=False, length=10)
    talk >> Data(1, b"abc") << b"abc"
    talk >> Reset(1, Fault.CALLER_GONE) << b""
    assert talk.codec.truncated
    assert not talk.codec.reusable


# Responses.


def test_a_connection_serves_one_exchange_after_the_other():
    talk = asked()
    assert not talk.codec.reusable
    talk >> b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nX-A:  b\r\n\r\nhello"
    talk << [response(1, 200, [(b"content-length", b"5"), (b"x-a", b"b")], 5), data(1, b"hello"), end(1)]
    assert talk.codec.reusable
    assert talk.codec.open() == 2
    again = head()
    again.stream = 2
    talk >> again >> End(2) << b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    talk >> b"HTTP/1.1 404\r\ncontent-length: 0\r\n\r\n" << [response(2, 404, [(b"content-length", b"0")]), end(2)]
    talk.done()


def test_a_chunked_response_keeps_its_trailers():
    talk = asked()
    talk >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\ngrpc-status: 0\r\nSet-Cookie: a\r\n\r\n"
    talk << [response(1, 200, [(b"transfer-encoding", b"chunked")], UNKNOWN), data(1, b"hello"), end(1, (b"grpc-status", b"0"))]
    assert talk.codec.reusable


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_a_response_without_a_length_ends_with_its_connection(version):
    """RFC 9112 6.3(8)."""
    talk = asked()
    talk >> version + b" 200 OK\r\n\r\nsome" >> b" more" >> EOF
    talk << [response(1, 200, (), UNKNOWN), data(1, b"some more"), end(1)]
    assert not talk.codec.reusable
    assert talk.codec.closing


@pytest.mark.parametrize(
    "head_octets",
    [b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\ncontent-length: 0\r\n\r\n"],
)
def test_an_upstream_that_will_close_is_not_used_again(head_octets):
    talk = asked() >> head_octets
    assert plain(talk.codec.events())[-1] == end(1)
    assert not talk.codec.reusable
    assert talk.codec.closing


@pytest.mark.parametrize(
    ("method", "octets", "length"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 0),
        (b"HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 0),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n", 0),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 0),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", 0),
    ],
)
def test_some_responses_have_no_body_whatever_they_say(method, octets, length):
    """RFC 9112 6.3(1)."""
    talk = asked(method) >> octets
    told = plain(talk.codec.events())
    assert [e[0] for e in told] == ["response", "end"]
    assert told[0][4] == length
    assert talk.codec.reusable


@pytest.mark.parametrize(
    ("status", "octets"), [(204, b"HTTP/1.1 204 X\r\ncontent-length: 5\r\n\r\n"), (103, b"HTTP/1.1 103 X\r\ncontent-length: 0\r\n\r\n")]
)
def test_a_length_is_not_passed_on_where_none_may_be(status, octets):
    """RFC 9110 8.6: none in 1xx and 204."""
    talk = asked() >> octets
    assert plain(talk.codec.events())[0] == response(1, status)


def test_interim_responses_come_before_the_final_one():
    talk = asked(b"POST", whole=False, length=2)
    talk >> b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    talk << [response(1, 100), response(1, 103, [(b"link", b"</a>")])]
    talk >> Data(1, b"hi") >> End(1) << b"hi"
    talk >> b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" << [response(1, 200, [(b"content-length", b"0")]), end(1)]
    assert talk.codec.reusable


# Hostile upstreams (A8).


OK0 = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4 + OK0,
        b"HTTP/1.1 100 Continue\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\nb: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"<html>hello</html>\r\n\r\n",
        b"HTTP/1.1 600 X\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 11 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 1000 + b"\r\n\r\n",
    ],
)
def test_a_malformed_response_kills_its_connection(octets):
    for pieces in cuts(octets):
        talk = asked()
        told = hear(talk.codec, pieces)
        assert told[-1] == reset(1, Fault.UPSTREAM_MALFORMED), pieces
        assert all(e[0] == "response" and e[2] < 200 for e in told[:-1])
        assert not talk.codec.reusable
        assert talk.codec.closing
        assert hear(talk.codec, [OK0]) == []


def test_a_response_head_that_never_ends_is_refused_at_its_limit():
    talk = asked()
    assert hear(talk.codec, [b"HTTP/1.1 200 OK\r\n", *[b"x: yyyyyyyy\r\n"] * 100]) == [reset(1, Fault.UPSTREAM_MALFORMED)]
    assert not talk.codec._in


@pytest.mark.parametrize(
    ("method", "octets", "body"),
    [
        (b"GET", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokEXTRA", b"ok"),
        (b"GET", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" + OK0, b"ok"),
        (b"GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + OK0, b""),
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b""),
        (b"GET", b"HTTP/1.1 204 X\r\n\r\nok", b""),
        (b"GET", b"HTTP/1.1 304 X\r\ncontent-length: 2\r\n\r\nok", b""),
    ],
)
def test_octets_after_a_response_are_never_the_next_response(method, octets, body):
    """threats A8: the exchange is fine, its connection is not."""
    for pieces in cuts(octets):
        talk = asked(method)
        told = hear(talk.codec, pieces)
        assert [e[0] for e in told] == ["response", *(["data"] if body else []), "end"]
        assert not talk.codec.reusable
        assert talk.codec.closing


def test_a_response_nobody_asked_for_closes_an_idle_connection():
    codec = Http1Client(LIMITS)
    assert codec.reusable
    assert hear(codec, [OK0]) == []
    assert codec.closing
    assert not codec.reusable


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\na: b",
    ],
)
def test_a_response_cut_short_is_never_completed(octets):
    """threats A8: truncated chunked, short length."""
    for pieces in cuts(octets):
        told = hear(asked().codec, pieces, eof=True)
        assert told[-1] == reset(1, Fault.UPSTREAM_RESET), pieces
        assert ("end", 1, ()) not in told


def test_an_idle_connection_that_is_closed_is_not_used_again():
    talk = asked() >> OK0 >> EOF
    assert not talk.codec.reusable
    assert plain(talk.codec.events())[-1] == end(1)


def test_a_response_before_the_end_of_its_request_spends_the_connection():
    """threats A9."""
    talk = asked(b"POST", whole=False, length=500)
    talk >> OK0
    assert plain(talk.codec.events())[-1] == end(1)
    assert talk.codec.closing
    assert not talk.codec.reusable
    talk >> Data(1, b"late") >> End(1) << b""


# Credit.


@pytest.mark.parametrize("framing", [b"content-length: 250", b"transfer-encoding: chunked", b"x: y"])
def test_no_more_data_is_told_than_there_is_credit_for(framing):
    talk = asked()
    body = b"fa\r\n" + b"x" * 250 + b"\r\n0\r\n\r\n" if b"chunked" in framing else b"x" * 250
    talk >> b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body
    assert sum(len(e.chunk) for e in talk.codec.events() if isinstance(e, Data)) == 100
    assert not talk.codec.reading
    talk >> EOF << []  # what waits for credit is not lost because the upstream closed behind it
    talk >> Credit(1, 100) << [data(1, b"x" * 100)]
    talk >> Credit(1, 100) << [data(1, b"x" * 50), end(1)]
    assert not talk.codec.reusable


@pytest.mark.parametrize("framing", [b"content-length: 500", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("left", [50, 100])
def test_what_waits_for_credit_and_is_too_short_is_a_reset(framing, left):
    """The end of a truncated body must not be waited for: nothing more will come."""
    talk = asked()
    size = 100 + left
    body = b"1f4\r\n" + b"x" * size if b"chunked" in framing else b"x" * size
    talk >> b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body >> EOF
    assert [e[0] for e in plain(talk.codec.events())] == ["response", "data"]
    talk >> Credit(1, 100) << [data(1, b"x" * left), reset(1, Fault.UPSTREAM_RESET)]


def test_credit_for_a_request_is_granted_by_halves_once_the_socket_has_taken_it_and_never_while_it_is_stalled():
    talk = asked(b"PUT", whole=False, length=1000)
    talk >> Data(1, b"x" * 49) << []
    assert not talk.codec.repay()
    talk >> Data(1, b"x") << []
    assert talk.codec.repay()
    talk << [("credit", 1, 50)]
    talk >> Data(1, b"x" * 100)
    talk.codec.stall(True)
    assert not talk.codec.repay()
    talk << []
    talk.codec.stall(False)
    talk << [("credit", 1, 100)]


RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 05\r\nX:  y \r\n\r\nhello",
    b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED\r\n\r\n5;x\r\nhello\r\n2\r\n!!\r\n0\r\na: b\r\nhost: c\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nx: y\r\n\r\nhello",
)


@pytest.mark.parametrize("octets", RESPONSES)
def test_every_cut_gives_the_same_events(octets):
    expected = hear(asked().codec, [octets], eof=True)
    assert expected[-1][0] == "end"
    for pieces in cuts(octets):
        assert hear(asked().codec, pieces, eof=True) == expected


@settings(max_examples=60)
@given(
    st.sampled_from([200, 201, 404, 503, 299]),
    st.one_of(st.binary(max_size=90), st.lists(st.binary(min_size=1, max_size=30), max_size=3)),
    st.integers(1, 99),
)
def test_a_response_that_is_written_is_read(status, body, size):
    wire = b"HTTP/1.1 %d X\r\n" % status
    if isinstance(body, bytes):
        wire += b"content-length: %d\r\n\r\n" % len(body) + body
        whole = body
    else:
        wire += b"transfer-encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in body) + b"0\r\n\r\n"
        whole = b"".join(body)
    told = hear(asked().codec, [wire[at : at + size] for at in range(0, len(wire), size)])
    assert told[0][2] == status
    assert told[1:] == [*([data(1, whole)] if whole else []), end(1)]

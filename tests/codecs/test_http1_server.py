"""The downstream side of HTTP/1.1, told as conversations (RFC 9112; threats A, C7)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.codecs.http1 import Http1Server
from flui.model.config import Limits
from flui.model.events import UNKNOWN, Credit, Data, End, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import field
from support.rig import EOF, Playbook, cuts, data, end, hear, plain, request, reset

LIMITS = Limits(fields=10, head_octets=1000, target_octets=200, body_octets=5000, window_octets=100)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def talk():
    return Playbook(Http1Server(LIMITS, b"http"))


def ok(stream, length=0, *fields, status=200):
    return ResponseHead(stream, status, [field(b"content-length", b"%d" % length), *fields] if length != UNKNOWN else list(fields), length)


def answered(talk, stream, body=b"ok"):
    """Sends a whole response; its octets are dropped."""
    talk >> ok(stream, len(body)) >> Data(stream, body) >> End(stream)
    talk.codec.events()
    return talk.codec.take()


# Connections that last, and that end.


def test_a_connection_serves_one_exchange_after_the_other(talk):
    codec = talk.codec
    assert codec.idle
    talk >> GET << [request(1), end(1)]
    assert not codec.idle
    talk >> ok(1, 2) >> Data(1, b"ok") >> End(1)
    talk << b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    assert codec.idle
    assert not codec.closing
    talk >> b"POST /b HTTP/1.1\r\nhost: b\r\nContent-Length: 3\r\n\r\nabc"
    talk << [request(2, b"POST", b"/b", [(b"content-length", b"3")], 3, b"b"), data(2, b"abc"), end(2)]
    talk >> ok(2) >> End(2) << b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    talk.done()


@pytest.mark.parametrize("option", [b"close", b"Close", b"keep-alive, close", b"x,\tCLOSE ,y"])
def test_a_caller_that_asks_to_close_is_told_and_closed(talk, option):
    """RFC 9112 9.6."""
    talk >> b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + option + b"\r\n\r\n" + GET
    assert [e[0] for e in plain(talk.codec.events())] == ["request", "end"]
    talk >> ok(1) >> End(1) << b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    assert talk.codec.closing
    talk >> GET << []  # what comes after is not read


def test_an_option_that_only_contains_close_does_not_close(talk):
    talk >> b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-close\r\n\r\n"
    assert b"connection: close" not in answered(talk, 1)
    assert not talk.codec.closing


def test_http_1_0_gets_one_answer_without_chunks_or_interim_responses(talk):
    """RFC 9110 15.2: no 1xx to HTTP/1.0; RFC 9112 6.1: no transfer coding either."""
    talk >> b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
    talk << [request(1, fields=[(b"connection", b"keep-alive")]), end(1)]
    talk >> ResponseHead(1, 103, [], 0) >> ok(1, UNKNOWN) >> Data(1, b"some") >> End(1)
    talk << b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nsome"
    assert talk.codec.closing
    assert not talk.codec.truncated


def test_a_response_that_ends_with_its_connection_and_is_cut_says_so(talk):
    """Only a reset of the connection tells an HTTP/1.0 caller that octets are missing."""
    talk >> b"GET / HTTP/1.0\r\nHost: a\r\n\r\n" >> ok(1, UNKNOWN) >> Data(1, b"some") >> Reset(1, Fault.UPSTREAM_RESET)
    assert talk.codec.closing
    assert talk.codec.truncated


@pytest.mark.parametrize("length", [10, UNKNOWN])
def test_a_cut_response_is_never_completed(talk, length):
    talk >> GET >> ok(1, length) >> Data(1, b"some")
    before = talk.codec.take()
    talk >> Reset(1, Fault.UPSTREAM_RESET) << b""
    assert before.endswith((b"some", b"4\r\nsome\r\n"))
    assert talk.codec.closing


def test_last_closes_after_the_exchange_in_progress(talk):
    talk >> GET
    talk.codec.last()
    assert b"connection: close" in answered(talk, 1)
    assert talk.codec.closing


# Responses.


def test_a_response_of_unknown_length_is_chunked_with_its_trailers(talk):
    talk >> GET >> ok(1, UNKNOWN) >> Data(1, b"x" * 26) >> Data(1, b"y") >> End(1, [field(b"t", b"v")])
    talk << b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1a\r\n" + b"x" * 26 + b"\r\n1\r\ny\r\n0\r\nt: v\r\n\r\n"
    assert not talk.codec.closing


@pytest.mark.parametrize(
    ("method", "status", "length"), [(b"HEAD", 200, 5), (b"HEAD", 200, UNKNOWN), (b"GET", 204, 0), (b"GET", 304, 5), (b"GET", 304, UNKNOWN)]
)
def test_some_responses_have_no_body_whatever_they_say(talk, method, status, length):
    """RFC 9112 6.3(1)."""
    talk >> method + b" / HTTP/1.1\r\nHost: a\r\n\r\n" >> ok(1, length, status=status) >> Data(1, b"never") >> End(1)
    octets = talk.codec.take()
    assert octets.endswith(b"\r\n\r\n")
    assert b"never" not in octets
    assert b"chunked" not in octets
    assert not talk.codec.closing


def test_interim_responses_are_relayed(talk):
    talk >> b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    talk << [request(1, b"POST", fields=[(b"expect", b"100-continue"), (b"content-length", b"2")], length=2)]
    talk >> ResponseHead(1, 100, [], 0) >> ResponseHead(1, 103, [field(b"link", b"</a>")], 0)
    talk << b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    talk >> b"hi" << [data(1, b"hi"), end(1)]
    assert answered(talk, 1).startswith(b"HTTP/1.1 200 OK\r\n")
    assert not talk.codec.closing


def test_a_response_that_has_no_body_says_so(talk):
    """RFC 9112 6.3(8): without a length the caller would wait for the end of the connection."""
    talk >> GET >> ResponseHead(1, 200, [], 0) >> End(1) << b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def test_a_status_without_a_name_is_sent_as_it_is(talk):
    talk >> GET >> ok(1, status=299) >> End(1) << b"HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n"


def test_a_response_before_the_end_of_its_request_ends_the_connection_and_says_so(talk):
    """threats A9; RFC 9112 9.3: what is left of the request must not be read as the next one.

    9.6: and the caller is told, or it would send the rest, and then another request to nobody.
    """
    talk >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\nab" >> ok(1) >> End(1)
    assert talk.codec.take().endswith(b"\r\nconnection: close\r\n\r\n")
    assert talk.codec.closing
    assert talk.codec.lingers
    talk.codec.events()
    talk >> b"cd" + GET << []


def test_a_response_that_began_before_the_end_of_its_request_is_the_last(talk):
    """Nobody knows then which of the two will be over first; what was said is kept."""
    talk >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab" >> ok(1, UNKNOWN)
    assert b"\r\nconnection: close\r\n" in talk.codec.take()
    talk >> b"cd" + GET >> End(1)
    assert talk.codec.closing


def test_nothing_is_said_after_the_last_response(talk):
    """A request refused for its path and then for its body is answered once: a second answer would be somebody else's."""
    talk >> b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    assert [e[0] for e in plain(talk.codec.events())] == ["request", "reset"]
    first = answered(talk, 1)
    assert talk.codec.closing
    assert first.count(b"HTTP/1.1") == 1
    assert answered(talk, 1) == b""


# Pipelining.


def test_pipelined_requests_are_told_one_at_a_time_in_order(talk):
    """threats A9."""
    (
        talk
        >> b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    talk << [request(1, target=b"/1"), end(1)]
    assert not talk.codec.reading, "a caller that does not wait for answers is not read"
    answered_octets = []
    talk >> ok(1, 1) >> Data(1, b"1") >> End(1) << [request(2, b"POST", b"/2", [(b"content-length", b"2")], 2), data(2, b"hi"), end(2)]
    talk >> ok(2, 1) >> Data(2, b"2") >> End(2) << [request(3, target=b"/3"), end(3)]
    assert talk.codec.reading
    talk >> ok(3, 1) >> Data(3, b"3") >> End(3)
    answered_octets = talk.codec.take().split(b"\r\n\r\n")
    assert [octets[:1] for octets in answered_octets[1:]] == [b"1", b"2", b"3"]
    talk.done()


def test_a_malformed_pipelined_request_is_refused_in_its_turn(talk):
    talk >> GET + b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" << [request(1), end(1)]
    talk >> ok(1) >> End(1) << [reset(2, Fault.MALFORMED)]
    assert talk.codec.take().startswith(b"HTTP/1.1 200")
    answered(talk, 2)
    assert talk.codec.closing


# What is refused.


def head_of(*fields, line=b"GET / HTTP/1.1"):
    return b"\r\n".join((line, *fields)) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        (head_of(b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked"), Fault.MALFORMED),  # A1
        (head_of(b"Host: a", b"Transfer-Encoding: chunked", b"Content-Length: 5"), Fault.MALFORMED),
        (head_of(b"Host: a", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), Fault.MALFORMED),  # A2
        (head_of(b"Host: a", b"Transfer-Encoding: gzip"), Fault.UNSUPPORTED_CODING),
        (head_of(b"Host: a", b"Transfer-Encoding: chunked", line=b"GET / HTTP/1.0"), Fault.MALFORMED),
        (head_of(b"Host: a", b"Content-Length: 5", b"Content-Length: 5"), Fault.MALFORMED),  # A3
        (head_of(b"Host: a", b" folded"), Fault.MALFORMED),  # A5
        (head_of(b"Host: a", b"X: a\rb"), Fault.MALFORMED),
        (head_of(b"Host: a", b"X: a\nY: b"), Fault.MALFORMED),
        (head_of(b"Host: a", b"X: a\r"), Fault.MALFORMED),
        (b"\r\n\r\n" + GET, Fault.MALFORMED),
        (head_of(), Fault.MALFORMED),  # A7
        (head_of(b"Host: a", b"Host: a"), Fault.MALFORMED),
        (head_of(b"Host: a b", line=b"GET http://a/ HTTP/1.1"), Fault.MALFORMED),
        (head_of(b"Host:", line=b"GET http://a/ HTTP/1.1"), Fault.MALFORMED),
        (head_of(b"Host: a", line=b"GET / HTTP/1.2"), Fault.UNSUPPORTED_VERSION),  # A6
        (head_of(b"Host: a", line=b"GET / HTTP/1.1 x"), Fault.MALFORMED),
        (head_of(b"Host: a", *[b"a: b"] * 9), None),  # A10
        (head_of(b"Host: a", *[b"a: b"] * 10), Fault.HEAD_TOO_LARGE),
        (head_of(b"Host: a", b"n: " + b"x" * 972), None),
        (head_of(b"Host: a", b"n: " + b"x" * 973), Fault.HEAD_TOO_LARGE),
        (head_of(b"Host: a", b"x" * 973 + b": n"), Fault.HEAD_TOO_LARGE),
        (head_of(b"Host: a", line=b"GET /" + b"x" * 186 + b" HTTP/1.1"), None),
        (head_of(b"Host: a", line=b"GET /" + b"x" * 187 + b" HTTP/1.1"), Fault.TARGET_TOO_LONG),
        (head_of(b"Host: a", b"X: a\r\r\nb"), Fault.MALFORMED),
        (head_of(b"Host: a", b"Content-Length: 5001"), Fault.BODY_TOO_LARGE),
    ],
)
def test_what_breaks_the_protocol_is_refused_and_nothing_after_it_is_read(octets, fault):
    """threats A1-A7, A10; wherever it is cut."""
    for pieces in cuts(octets + GET):
        codec = Http1Server(LIMITS, b"http")
        told = hear(codec, pieces)
        if fault is None:
            assert told[0][0] == "request"
        else:
            assert told == [reset(1, fault)], pieces
            answer = ok(1)
            codec.send(answer)
            codec.send(End(1))
            assert codec.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            assert codec.closing
            assert hear(codec, [GET]) == []


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n",
        b"GET / HTTP/1.1\rHost: a\r\r",
        b"GET / HTTP/1.1\r\nHost: a\rX: y\r",
        b"\nGET / HTTP/1.1\r\n",
        b"\r\rGET",
    ],
)
def test_a_bare_line_end_is_refused_without_waiting_for_more(octets):
    """threats A5: a caller that ends its lines so would otherwise wait for a time-out."""
    for pieces in cuts(octets):
        assert hear(Http1Server(LIMITS, b"http"), pieces) == [reset(1, Fault.MALFORMED)]


@pytest.mark.parametrize("octets", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x80\x2e\x01\x00\x02"])
def test_a_tls_hello_on_a_plain_port_is_refused_at_once(octets):
    for pieces in cuts(octets):
        assert hear(Http1Server(LIMITS, b"http"), pieces) == [reset(1, Fault.MALFORMED)]


def test_the_http_2_preface_is_a_version_we_do_not_speak():
    assert hear(Http1Server(LIMITS, b"http"), [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])[0] == reset(1, Fault.UNSUPPORTED_VERSION)


@pytest.mark.parametrize(
    ("octets", "fault"),
    [(b"GET /" + b"x" * 400, Fault.TARGET_TOO_LONG), (b"GET / HTTP/1.1\r\nx: " + b"y" * 1100, Fault.HEAD_TOO_LARGE), (b"GET x", None)],
)
def test_a_head_that_never_ends_is_refused_at_its_limit(octets, fault):
    """threats A10, C8."""
    for pieces in ([octets], [octets[at : at + 7] for at in range(0, len(octets), 7)]):
        codec = Http1Server(LIMITS, b"http")
        assert hear(codec, pieces) == ([reset(1, fault)] if fault else [])
        assert len(codec._in) <= LIMITS.head_octets


def test_a_chunked_body_is_refused_in_the_middle(talk):
    talk >> b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n"
    talk << [request(1, b"POST", fields=[(b"transfer-encoding", b"chunked")], length=UNKNOWN), data(1, b"hi"), reset(1, Fault.MALFORMED)]


def test_a_chunked_body_past_its_limit_is_refused(talk):
    talk >> b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1389\r\n"
    talk << [request(1, b"POST", fields=[(b"transfer-encoding", b"chunked")], length=UNKNOWN), reset(1, Fault.BODY_TOO_LARGE)]


def test_a_target_that_claims_another_scheme_than_tls_is_refused():
    octets = head_of(b"Host: a", line=b"GET http://a/ HTTP/1.1")
    assert hear(Http1Server(LIMITS, b"https"), [octets]) == [reset(1, Fault.MALFORMED)]
    assert hear(Http1Server(LIMITS, b"http"), [octets])[0][0] == "request"


def test_an_absolute_target_overrides_host():
    """RFC 9112 3.2.2, threats A6."""
    told = hear(Http1Server(LIMITS, b"http"), [head_of(b"Host: other", line=b"GET http://a/x?y HTTP/1.1")])
    assert told == [request(1, target=b"/x?y"), end(1)]


# Empty lines, half-close.


def test_one_empty_line_before_a_request_is_ignored_wherever_it_is_cut():
    """RFC 9112 2.2."""
    for pieces in cuts(b"\r\n" + GET):
        assert hear(Http1Server(LIMITS, b"http"), pieces) == [request(1), end(1)], pieces


def test_a_connection_with_nothing_but_an_empty_line_is_idle(talk):
    """Some callers send one after a body; it is no request that must be completed in time."""
    talk >> b"\r\n"
    assert talk.codec.idle
    assert not talk.codec.started
    talk >> b"G"
    assert talk.codec.started
    talk >> GET[1:] << [request(1), end(1)]


def test_a_half_closed_caller_still_gets_its_answer(talk):
    talk >> GET >> EOF << [request(1), end(1)]
    assert not talk.codec.closing
    assert answered(talk, 1).endswith(b"connection: close\r\n\r\nok")
    assert talk.codec.closing


def test_a_half_closed_caller_whose_body_waits_for_credit_still_gets_its_answer(talk):
    """The whole request has come; that we have not passed it on is not the caller's doing."""
    talk >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 150\r\n\r\n" + b"x" * 150 >> EOF
    talk << [request(1, b"POST", fields=[(b"content-length", b"150")], length=150), data(1, b"x" * 100)]
    talk >> Credit(1, 100) << [data(1, b"x" * 50), end(1)]
    assert answered(talk, 1).endswith(b"connection: close\r\n\r\nok")


@pytest.mark.parametrize("framing", [b"Content-Length: 300", b"Transfer-Encoding: chunked"])
def test_a_half_closed_caller_whose_waiting_body_is_too_short_is_gone(talk, framing):
    body = b"x" * 150 if b"Length" in framing else b"96\r\n" + b"x" * 150 + b"\r\n5"
    talk >> b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n" + body >> EOF
    assert [e[0] for e in plain(talk.codec.events())] == ["request", "data"]
    talk >> Credit(1, 100) << [data(1, b"x" * 50), reset(1, Fault.CALLER_GONE)]


@pytest.mark.parametrize("octets", [b"GET / HT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"])
def test_a_request_cut_short_is_dead(octets):
    told = hear(Http1Server(LIMITS, b"http"), [octets], eof=True)
    assert told[-1] == reset(1, Fault.CALLER_GONE)
    assert ("end", 1, ()) not in told


def test_an_idle_connection_that_the_caller_closes_just_ends(talk):
    talk >> EOF << []
    assert talk.codec.closing


def test_giving_up_on_a_slow_head_answers_it(talk):
    talk >> b"GET / HT"
    talk.codec.fail(Fault.REQUEST_TIMEOUT)
    talk << [reset(1, Fault.REQUEST_TIMEOUT)]
    assert b"connection: close" in answered(talk, 1)


# Credit.


def test_no_more_data_is_told_than_there_is_credit_for(talk):
    """A window of 100: the caller may send what it likes."""
    talk >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\n\r\n" + b"x" * 150
    talk << [request(1, b"POST", fields=[(b"content-length", b"300")], length=300), data(1, b"x" * 100)]
    assert not talk.codec.reading
    talk >> b"x" * 150 << []
    talk >> Credit(1, 40) << [data(1, b"x" * 40)]
    assert not talk.codec.reading
    talk >> Credit(1, 500) << [data(1, b"x" * 160), end(1)]
    assert talk.codec.reading


def test_credit_for_a_response_is_granted_by_halves_once_the_socket_has_taken_it_and_never_while_it_is_stalled(talk):
    talk >> GET >> ok(1, 400)
    talk.codec.events()
    talk >> Data(1, b"x" * 40) << []
    assert not talk.codec.repay()
    talk >> Data(1, b"x" * 20) << []
    assert talk.codec.repay()
    talk << [("credit", 1, 60)]
    assert not talk.codec.repay()
    talk >> Data(1, b"x" * 100)
    talk.codec.stall(True)
    assert not talk.codec.repay()
    talk << []
    talk.codec.stall(False)
    talk << [("credit", 1, 100)]
    talk.codec.stall(True)
    talk.codec.stall(False)
    talk << []
    talk >> Data(1, b"x" * 240) >> End(1)
    assert not talk.codec.repay(), "there is nothing more to have credit for"


def test_more_data_than_declared_is_our_own_mistake(talk):
    talk >> GET >> ok(1, 2)
    with pytest.raises(AssertionError):
        talk >> Data(1, b"xyz")


def test_less_data_than_declared_is_our_own_mistake(talk):
    talk >> GET >> ok(1, 2)
    with pytest.raises(AssertionError):
        talk >> End(1)


CONVERSATION = (
    b"\r\nPOST /a?b HTTP/1.1\r\nHost: A:80\r\nTransfer-Encoding: Chunked\r\nX-Y:  z \r\n\r\n"
    b"5;e=1\r\nhello\r\n1\r\n!\r\n0\r\nSum: 1\r\nHost: x\r\n\r\n"
)


def test_every_cut_gives_the_same_events():
    expected = hear(Http1Server(LIMITS, b"http"), [CONVERSATION])
    assert [e[0] for e in expected] == ["request", "data", "end"]
    for pieces in cuts(CONVERSATION):
        assert hear(Http1Server(LIMITS, b"http"), pieces) == expected


TOKENS = st.text("abcXYZ-_.!", min_size=1, max_size=12).map(str.encode)
VALUES = st.binary(max_size=20).filter(lambda v: not set(v) & {*range(9), *range(10, 32), 127}).map(lambda v: v.strip(b" \t"))
BODIES = st.one_of(st.none(), st.binary(max_size=90), st.lists(st.binary(min_size=1, max_size=30), max_size=3))


@settings(max_examples=60)
@given(TOKENS, st.text("abc/-.%~?&=", max_size=20), st.lists(st.tuples(TOKENS, VALUES), max_size=6), BODIES, st.integers(1, 200))
def test_a_request_that_is_written_is_read(method, target, fields, body, size):
    fields = [(b"x-" + name, value) for name, value in fields]
    wire = b"%b /%b HTTP/1.1\r\nhost: a\r\n" % (method, target.encode()) + b"".join(b"%b: %b\r\n" % pair for pair in fields)
    length, expected = 0, b""
    if isinstance(body, bytes):
        wire += b"content-length: %d\r\n\r\n" % len(body) + body
        fields.append((b"content-length", b"%d" % len(body)))
        length, expected = len(body), body
    elif body is not None:
        wire += b"transfer-encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in body) + b"0\r\n\r\n"
        fields.append((b"transfer-encoding", b"chunked"))
        length, expected = UNKNOWN, b"".join(body)
    else:
        wire += b"\r\n"
    told = hear(Http1Server(LIMITS, b"http"), [wire[at : at + size] for at in range(0, len(wire), size)])
    lowered = [(name.lower(), value) for name, value in fields]
    assert told == [request(1, method, b"/" + target.encode(), lowered, length), *([data(1, expected)] if expected else []), end(1)]

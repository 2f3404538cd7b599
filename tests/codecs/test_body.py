"""Bodies on the way in: lengths, chunks, credit (RFC 9112 6, 7; threats A4, A11, C7)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.codecs.http1.body import FORBIDDEN_TRAILERS, Body
from flui.codecs.http1.lines import Malformed
from flui.model.config import Limits
from flui.model.events import Data, End
from flui.model.fault import Fault
from support.rig import plain

LIMITS = Limits(head_octets=1024, fields=10)


def chunked(octets, *, credit=1 << 40, most=0, limits=LIMITS):
    """The events of a chunked body, the rest, and whether it is done."""
    body = Body(limits)
    body.begin_chunked()
    body.credit = credit
    events = []
    rest = body.read(1, octets, events, most)
    return plain(events), rest, body.done


def fault_of(octets, **more):
    with pytest.raises(Malformed) as raised:
        chunked(octets, **more)
    return raised.value.fault


def test_a_length_counts_down_and_leaves_the_rest():
    body = Body(LIMITS)
    body.begin_length(5)
    body.credit = 100
    events = []
    assert body.read(3, b"he", events, 0) == b""
    assert not body.done
    assert body.read(3, b"lloGET /", events, 0) == b"GET /"
    assert body.done
    assert plain(events) == [("data", 3, b"hello"), ("end", 3, ())]
    assert body.credit == 95


def test_chunks_become_data_and_the_end():
    assert chunked(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET /") == ([("data", 1, b"hello world"), ("end", 1, ())], b"GET /", True)


@pytest.mark.parametrize("line", [b"5", b"05", b"0000000000000005", b"5;a", b"5;a=b", b'5;a="b c";d', b"5;\xff\t"])
def test_a_size_line_is_hexadecimal_and_its_extensions_are_never_handed_on(line):
    """RFC 9112 7.1.1: a recipient must ignore extensions it does not know."""
    assert chunked(line + b"\r\nhello\r\n0;x=y\r\n\r\n") == ([("data", 1, b"hello"), ("end", 1, ())], b"", True)


def test_upper_and_lower_case_sizes_are_the_same():
    for size in (b"1a", b"1A"):
        assert chunked(size + b"\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n")[0][0] == ("data", 1, b"x" * 26)


@pytest.mark.parametrize(
    "size",
    [
        b"",
        b" 5",
        b"5 ",
        b"+5",
        b"-5",
        b"0x5",
        b"0_5",
        b"5_0",
        b"5h",
        b"g",
        b";a",
        b"5 ;a",
        b"\t5",
        b"0" * 17,
        b"f" * 17,
        b"\xef\xbc\x95",
        b"5\x00",
        b"5\n",
        b"5;a\nb",
        b"5;a\rb",
        b"5;\x00",
        b"5;" + b"e" * 257,
        b"5.0",
        b"5,5",
    ],
)
def test_a_size_line_of_any_other_form_is_refused(size):
    """threats A4."""
    assert fault_of(size + b"\r\nhello\r\n0\r\n\r\n") is Fault.MALFORMED


@pytest.mark.parametrize(
    "octets",
    [
        b"5\r\nhello0\r\n\r\n",  # no CRLF after the chunk
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\n\r0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",  # one CRLF too many
        b"4\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        b"5\r\nhello\r\n0\r\n folded: x\r\n\r\n",
        b"5\r\nhello\r\n0\r\nname : x\r\n\r\n",
        b"5\r\nhello\r\n0\r\na: b\nc: d\r\n\r\n",
        b"5\r\nhello\r\n0\r\ncontent-length: x\r\n\r\n",
    ],
)
def test_a_broken_terminator_is_refused(octets):
    """threats A4."""
    assert fault_of(octets) is Fault.MALFORMED


def test_a_size_line_that_does_not_end_is_refused_long_before_it_is_large():
    assert chunked(b"5;" + b"e" * 200) == ([], b"5;" + b"e" * 200, False)
    assert fault_of(b"5;" + b"e" * 300) is Fault.MALFORMED


def test_extensions_are_counted_over_the_message():
    """threats A4: 256 octets a chunk, 16 KiB a message."""
    one = b"1;" + b"e" * 255 + b"\r\nx\r\n"
    assert chunked(one * 64 + b"0\r\n\r\n")[2]
    assert fault_of(one * 65) is Fault.MALFORMED


def test_a_body_longer_than_allowed_is_refused_before_its_octets_are_read():
    assert chunked(b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", most=10)[2]
    assert fault_of(b"5\r\nhello\r\n6\r\n", most=10) is Fault.BODY_TOO_LARGE
    assert fault_of(b"ffffffffffffffff\r\n", most=10) is Fault.BODY_TOO_LARGE


def test_plain_trailers_are_kept_and_all_others_dropped():
    """threats A11; RFC 9110 6.5.1: nothing that frames, routes, authenticates or says how to read the content."""
    names = [
        *sorted(FORBIDDEN_TRAILERS),
        b"Host",
        b"Content-Length",
        b"Content_Length",
        b"Transfer-Encoding",
        b"Authorization",
        b"Content-Type",
        b"Connection",
        b"Trailer",
        b"TE",
        b"Upgrade",
        b"Expect",
        b"X-Forwarded-For",
        b"X_Forwarded_For",
        b"Forwarded",
        b"X-Real-IP",
        b"Flui-Principal",
        b"flui.principal",
        b"flui-roles",
        b"flui-key",
        b"flui-deadline",
        b"traceparent",
        b"x-envoy-original-path",
        b"X-HTTP-Method-Override",
        b"Proxy-Authorization",
    ]
    values = {b"Content-Length": b"0", b"Transfer-Encoding": b"chunked"}
    section = b"".join(b"%b: %b\r\n" % (name, values.get(name, b"evil")) for name in names)
    events, _, done = chunked(b"0\r\nX-Sum: 1\r\n" + section + b"grpc-status: 0\r\n\r\n", limits=Limits())
    assert done
    assert events == [("end", 1, ((b"x-sum", b"1"), (b"grpc-status", b"0")))]


def test_trailers_have_the_limits_of_a_head():
    """threats A11: 10,000 trailers."""
    assert chunked(b"0\r\n" + b"a: b\r\n" * 10 + b"\r\n")[2]
    assert fault_of(b"0\r\n" + b"a: b\r\n" * 11 + b"\r\n") is Fault.HEAD_TOO_LARGE
    assert fault_of(b"0\r\na: " + b"b" * 1024 + b"\r\n\r\n") is Fault.HEAD_TOO_LARGE
    assert fault_of(b"0\r\na: " + b"b" * 1100) is Fault.HEAD_TOO_LARGE
    assert fault_of(b"0\r\n" + (b"host: " + b"b" * 500 + b"\r\n") * 3 + b"\r\n") is Fault.HEAD_TOO_LARGE  # discarded ones count


@pytest.mark.parametrize("begin", [lambda b: b.begin_length(10), Body.begin_chunked, Body.begin_close])
def test_no_data_without_credit(begin):
    """No credit from the far side, no credit to the near side (architecture 3)."""
    body = Body(LIMITS)
    begin(body)
    events: list = []
    octets = b"a\r\n0123456789\r\n0\r\n\r\n" if begin is Body.begin_chunked else b"0123456789"
    rest = octets
    for credit, expected in ((0, b""), (3, b"012"), (4, b"3456"), (0, b""), (3, b"789")):
        body.credit += credit
        events.clear()
        rest = body.read(1, rest, events, 0)
        assert b"".join(e.chunk for e in events if isinstance(e, Data)) == expected
        assert body.credit == 0
    assert rest == b""
    assert body.done == (begin is not Body.begin_close)


def test_the_end_needs_no_credit():
    assert chunked(b"3\r\nabc\r\n0\r\n\r\n", credit=3) == ([("data", 1, b"abc"), ("end", 1, ())], b"", True)


def test_only_a_body_that_ends_with_its_connection_is_ended_by_it():
    for begin, ends in ((lambda b: b.begin_length(10), False), (Body.begin_chunked, False), (Body.begin_close, True)):
        body = Body(LIMITS)
        begin(body)
        events: list = []
        assert body.eof(1, events) is ends
        assert body.done is ends
        assert [type(e) for e in events] == ([End] if ends else [])
        assert body.eof(1, events) is False


def pieces_of(octets, sizes):
    at = 0
    for size in sizes:
        yield octets[at : at + size]
        at += size
    yield octets[at:]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(1, 20), max_size=10), st.integers(1, 30))
def test_every_chunking_and_every_cut_gives_the_same_body(chunks, sizes, credit):
    octets = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nt: v\r\n\r\nrest"
    body = Body(LIMITS)
    body.begin_chunked()
    events: list = []
    held = b""
    for piece in pieces_of(octets, sizes):
        held += piece
        while True:
            if body.done:
                break
            body.credit = credit
            before = len(held), len(events)
            held = body.read(1, held, events, 0)
            assert body.credit >= 0
            if (len(held), len(events)) == before:
                break
    told = plain(events)
    assert told[-1] == ("end", 1, ((b"t", b"v"),))
    assert b"".join(e[2] for e in told[:-1]) == b"".join(chunks)
    assert held == b"rest"


@given(st.binary(max_size=80))
def test_any_octets_are_refused_or_read_and_never_anything_else(octets):
    try:
        events, rest, done = chunked(octets)
    except Malformed:
        return
    assert len(b"".join(e[2] for e in events if e[0] == "data")) + len(rest) <= len(octets)
    assert done == any(e[0] == "end" for e in events)

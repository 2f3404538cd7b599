"""Start lines and field lines, each octet of them (RFC 9112 2.2, 3, 4, 5; RFC 9110 5, 8.6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.codecs.http1 import lines
from flui.codecs.http1.lines import Malformed, parse_field, parse_request_line, parse_status_line
from flui.model.fault import Fault
from flui.model.fields import CODING, HOST, LENGTH, PLAIN

TOKEN = set(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def fault_of(parse, line):
    with pytest.raises(Malformed) as raised:
        parse(line)
    return raised.value.fault


def accepts(parse, line):
    try:
        parse(line)
    except Malformed:
        return False
    return True


def test_a_field_is_lower_cased_trimmed_and_ready_for_the_wire():
    field = parse_field(b"X-Thing: \t a  b \t ")
    assert (field.name, field.value, field.wire, field.kind) == (b"x-thing", b"a  b", b"x-thing: a  b\r\n", PLAIN)


def test_a_name_is_a_token_octet_by_octet():
    """RFC 9110 5.1, 5.6.2; RFC 9112 5.1: no blank before the colon, no empty name."""
    allowed = {octet for octet in range(256) if accepts(parse_field, b"a%cb: v" % octet) and octet != ord(":")}
    assert allowed == TOKEN
    for line in (b": v", b"", b"name", b"name : v", b"name\t: v", b" name: v", b"\tname: v", b"\xc3\xa9: v"):
        assert fault_of(parse_field, line) is Fault.MALFORMED, line


def test_a_value_holds_no_control_octets_octet_by_octet():
    """RFC 9110 5.5: VCHAR, SP, HTAB, obs-text."""
    allowed = {octet for octet in range(256) if accepts(parse_field, b"n: a%cb" % octet)}
    assert allowed == {9, *range(0x20, 0x7F), *range(0x80, 0x100)}


@pytest.mark.parametrize("octet", [b"\x85", b"\xa0", b"\x0b", b"\x0c", b"\x1c", b"\x00"])
def test_only_space_and_tab_are_trimmed(octet):
    """threats A5: what `str.strip` trims elsewhere must not hide a coding or a length here."""
    for line in (b"transfer-encoding: %bchunked", b"transfer-encoding: chunked%b", b"content-length: %b5", b"content-length: 5%b"):
        assert fault_of(parse_field, line % octet) is Fault.MALFORMED


@pytest.mark.parametrize(
    ("value", "canonical"),
    [(b"0", b"0"), (b"5", b"5"), (b"010", b"10"), (b"5,5", b"5"), (b"5 , 5,5", b"5"), (b"9" * 19, b"9" * 19), (b" 5 ", b"5")],
)
def test_a_length_is_re_made_as_canonical_decimal(value, canonical):
    """threats A3; RFC 9112 6.3(5) lets a list of identical values collapse."""
    field = parse_field(b"Content-Length:" + value)
    assert (field.kind, field.value, field.wire) == (LENGTH, canonical, b"content-length: " + canonical + b"\r\n")


@pytest.mark.parametrize(
    "value",
    [
        b"+5",
        b"-1",
        b"1_0",
        b"0x10",
        b"",
        b" ",
        b"5,6",
        b"5,",
        b",5",
        b"5;5",
        b"5 5",
        b"1e3",
        b"5.0",
        b"1" * 20,
        b"\xd9\xa5",
        b"\xb2",
        b"05,5",
    ],
)
def test_a_length_that_is_not_plain_digits_is_refused(value):
    """threats A3; RFC 9110 8.6."""
    assert fault_of(parse_field, b"content-length: " + value) is Fault.MALFORMED


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED", b"\tchunked "])
def test_chunked_is_the_only_coding(value):
    field = parse_field(b"Transfer-Encoding: " + value)
    assert (field.kind, field.value) == (CODING, b"chunked")


@pytest.mark.parametrize(
    "value",
    [
        b",chunked",
        b"chunked,",
        b"chunked, chunked",
        b"chunked, identity",
        b"identity, chunked",
        b"identity",
        b"chunked;q=1",
        b"chunked;",
        b"",
        b'"chunked"',
        b"'chunked'; x",
        b"chu nked",
        b"chunked\x00",
        b"x chunked",
        b"chunked foo",
        b"foo, chunked",
        b"[chunked]",
    ],
)
def test_an_obfuscated_coding_is_refused(value):
    """threats A2."""
    assert fault_of(parse_field, b"Transfer-Encoding: " + value) is Fault.MALFORMED


@pytest.mark.parametrize(
    "value", [b"gzip", b"gzip, chunked", b"deflate,chunked", b"x-gzip", b"compress , gzip", b"xchunked", b"cow", b"chunke"]
)
def test_a_coding_that_is_not_carried_is_said_so(value):
    """RFC 9112 6.1: 501 for a transfer coding that is not understood."""
    assert fault_of(parse_field, b"Transfer-Encoding: " + value) is Fault.UNSUPPORTED_CODING


def test_names_that_fold_to_a_framing_field_are_never_plain():
    """threats E3, A2: a module behind us may read `_` and `-` alike."""
    for name in (b"Transfer_Encoding", b"Content_Length", b"content.length", b"HOST"):
        assert parse_field(name + b": 5").kind != PLAIN
    assert parse_field(b"HOST: a").kind == HOST


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET / HTTP/1.1", (b"GET", b"", b"", b"/", b"", 1)),
        (b"GET /a?b?c HTTP/1.0", (b"GET", b"", b"", b"/a", b"?b?c", 0)),
        (b"GET /? HTTP/1.1", (b"GET", b"", b"", b"/", b"?", 1)),
        (b"get /A HTTP/1.1", (b"get", b"", b"", b"/A", b"", 1)),
        (b"OPTIONS * HTTP/1.1", (b"OPTIONS", b"", b"", b"*", b"", 1)),
        (b"GET http://Host:80/a?b HTTP/1.1", (b"GET", b"http", b"Host:80", b"/a", b"?b", 1)),
        (b"GET HTTPS://h HTTP/1.1", (b"GET", b"https", b"h", b"/", b"", 1)),
        (b"GET http://h?q=/ HTTP/1.1", (b"GET", b"http", b"h", b"/", b"?q=/", 1)),
        (b"CONNECT h:443 HTTP/1.1", (b"CONNECT", b"", b"h:443", b"", b"", 1)),
    ],
)
def test_a_target_has_the_form_that_goes_with_its_method(line, expected):
    """RFC 9112 3.2."""
    parsed = parse_request_line(line)
    assert (parsed.method, parsed.scheme, parsed.authority, parsed.path, parsed.query, parsed.minor) == expected


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        *[
            (line, Fault.MALFORMED)
            for line in (
                b"",
                b"GET",
                b"GET /",
                b"GET  / HTTP/1.1",
                b"GET /  HTTP/1.1",
                b"GET / HTTP/1.1 ",
                b" GET / HTTP/1.1",
                b"GET\t/ HTTP/1.1",
                b"GET /a b HTTP/1.1",
                b"GET /a\tb HTTP/1.1",
                b"GET /#f HTTP/1.1",
                b"GET /\x00 HTTP/1.1",
                b"GET /\xc3\xa9 HTTP/1.1",
                b"GET /\x7f HTTP/1.1",
                b"G(T / HTTP/1.1",
                b"G\x00T / HTTP/1.1",
                b"GET / http/1.1",
                b"GET / HTTP/1.32",
                b"GET / HTTP/11",
                b"GET / HTTP/1.",
                b"GET / HTTP/1.1\x00",
                b"GET / HTTPS/1.1",
                b"GET / HTTP/+1.1",
                b"GET / ",
                b"GET * HTTP/1.1",
                b"OPTIONS *? HTTP/1.1",
                b"GET example HTTP/1.1",
                b"GET example:80 HTTP/1.1",
                b"GET ftp://h/ HTTP/1.1",
                b"GET http:/h/ HTTP/1.1",
                b"GET http:///a HTTP/1.1",
                b"GET http://?q HTTP/1.1",
                b"GET ://h/ HTTP/1.1",
            )
        ],
        *[
            (b"GET / " + version, Fault.UNSUPPORTED_VERSION)
            for version in (b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9")
        ],
    ],
)
def test_any_other_request_line_is_refused(line, fault):
    """threats A6."""
    assert fault_of(parse_request_line, line) is fault


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"HTTP/1.1 200 OK", (1, 200)),
        (b"HTTP/1.0 404 ", (0, 404)),
        (b"HTTP/1.1 599", (1, 599)),
        (b"HTTP/1.1 204 \xe2\x9c\x93 a\tb", (1, 204)),
    ],
)
def test_a_status_line_has_a_version_and_three_digits(line, expected):
    assert parse_status_line(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 099 X",
        b"HTTP/1.1 600 X",
        b"HTTP/1.1 +20 X",
        b"HTTP/2.0 200 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200 a\x00b",
        b"HTTP/1.1 200 a\nb",
        b"HTTP/1.1 200 a\rb",
        b"200 OK",
        b" HTTP/1.1 200 OK",
    ],
)
def test_any_other_status_line_is_the_upstreams_fault(line):
    assert fault_of(parse_status_line, line) is Fault.UPSTREAM_MALFORMED


def test_the_memos_are_bounded_and_keep_no_long_lines():
    """A peer that never repeats itself makes us hold at most 4,096 short lines of each kind."""
    for n in range(10_000):
        parse_field(b"n%d: v" % n)
        parse_request_line(b"GET /%d HTTP/1.1" % n)
        parse_status_line(b"HTTP/1.1 200 %d" % n)
    parse_field(b"long: " + b"x" * 300)
    parse_request_line(b"GET /" + b"x" * 300 + b" HTTP/1.1")
    for memo in (lines.FIELDS, lines.REQUEST_LINES, lines.STATUS_LINES):
        assert 0 < len(memo) <= 4096
        assert max(map(len, memo)) <= 256


@given(st.binary(max_size=60))
def test_a_line_is_refused_or_means_the_same_when_sent_on(line):
    """What we send is read back as the same name and value; nothing is refused any other way than by Malformed."""
    try:
        field = parse_field(line)
    except Malformed:
        return
    assert field.wire.endswith(b"\r\n")
    assert not set(field.wire[:-2]) & set(b"\r\n\x00")
    again = parse_field(field.wire[:-2])
    assert (again.name, again.value, again.wire, again.kind) == (field.name, field.value, field.wire, field.kind)


@given(st.sampled_from([b"GET ", b"OPTIONS ", b""]), st.binary(max_size=40), st.sampled_from([b" HTTP/1.1", b" HTTP/1.0", b""]))
def test_a_request_line_is_refused_or_holds_only_visible_ascii(method, target, version):
    try:
        parsed = parse_request_line(method + target + version)
    except Malformed:
        return
    assert all(0x21 <= octet < 0x7F for octet in parsed.path + parsed.query + parsed.authority + parsed.method)
    assert b"#" not in parsed.path + parsed.query
    again = parse_request_line(b"%b %b%b HTTP/1.1" % (parsed.method, parsed.path or parsed.authority, parsed.query))
    assert (again.path, again.query) == (parsed.path, parsed.query)

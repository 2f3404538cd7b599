"""gRPC's statuses, and the text beside them, as the gRPC documents and grpcio know them."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.model.fault import DIALECTS
from flui.model.fields import field
from flui.model.grpc import (
    NAMED,
    STATUSES,
    Status,
    call_status,
    http_of,
    message_said,
    message_text,
    status_of_h2,
    status_of_http,
    status_said,
)


def test_names_and_numbers_are_those_of_grpcio():
    assert {status.name: status.value for status in Status} == {status.name: status.value[0] for status in grpc.StatusCode}
    assert [status.value for status in STATUSES] == list(range(17))
    assert NAMED["UNAVAILABLE"] is Status.UNAVAILABLE


def test_every_fault_of_ours_has_a_status_that_is_one_and_no_good_one():
    assert {said.grpc for said in DIALECTS.values()} <= set(range(1, 17))


def test_a_status_is_a_decimal_number_without_zeros_in_front():
    for status in Status:
        assert status_said(b"%d" % status) is status
    for value in (b"", b"00", b"01", b"17", b"-1", b"+1", b" 1", b"1 ", b"1,1", b"0x1", b"OK", b"99999999999999999999", b"\xb2"):
        assert status_said(value) is Status.UNKNOWN


@pytest.mark.parametrize(
    ("http", "status"),
    [
        (400, "INTERNAL"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "UNIMPLEMENTED"),
        (429, "UNAVAILABLE"),
        (431, "INTERNAL"),
        (502, "UNAVAILABLE"),
        (503, "UNAVAILABLE"),
        (504, "UNAVAILABLE"),
        *[(other, "UNKNOWN") for other in (200, 204, 301, 405, 413, 415, 418, 499, 500, 501, 505, 599)],
    ],
)
def test_an_http_status_means_what_the_mapping_says(http, status):
    """http-grpc-status-mapping; 200 without a grpc-status is UNKNOWN."""
    assert status_of_http(http).name == status


@pytest.mark.parametrize(
    ("http", "names"),
    [
        (200, "OK"),
        (400, "INVALID_ARGUMENT FAILED_PRECONDITION OUT_OF_RANGE"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (409, "ALREADY_EXISTS ABORTED"),
        (429, "RESOURCE_EXHAUSTED"),
        (499, "CANCELLED"),
        (500, "UNKNOWN INTERNAL DATA_LOSS"),
        (501, "UNIMPLEMENTED"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
def test_a_status_is_said_to_http_as_google_rpc_code_says(http, names):
    assert {status.name for status in Status if http_of(status) == http} == set(names.split())


def test_an_http2_error_code_means_what_the_protocol_says():
    """PROTOCOL-HTTP2, Errors."""
    said = {0x7: "UNAVAILABLE", 0x8: "CANCELLED", 0xB: "RESOURCE_EXHAUSTED", 0xC: "PERMISSION_DENIED"}
    for code in range(0x20):
        assert status_of_h2(code).name == said.get(code, "INTERNAL")


OK = [field(b"grpc-status", b"0")]
DENIED = [field(b"x", b"y"), field(b"grpc-status", b"7")]
HTML = [field(b"content-type", b"text/html")]


@pytest.mark.parametrize(
    ("http", "head", "trailers", "bodyless", "status"),
    [
        (200, [], OK, False, "OK"),
        (200, [], DENIED, False, "PERMISSION_DENIED"),
        (200, DENIED, None, True, "PERMISSION_DENIED"),
        (503, DENIED, None, True, "PERMISSION_DENIED"),
        (200, OK, None, False, "UNKNOWN"),
        (200, OK, [], False, "UNKNOWN"),
        (200, OK, DENIED, False, "PERMISSION_DENIED"),
        (200, HTML, None, False, "UNKNOWN"),
        (404, HTML, None, False, "UNIMPLEMENTED"),
        (503, [], None, True, "UNAVAILABLE"),
        (200, [], [field(b"grpc-status", b"zero")], False, "UNKNOWN"),
    ],
)
def test_a_call_ended_as_the_last_word_says(http, head, trailers, bodyless, status):
    """Threats F5: a status in the head of an answer with a body does not count, a page is not success."""
    assert call_status(http, head, trailers, bodyless).name == status


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", b""),
        ("plain ~ text", b"plain ~ text"),
        ("50%", b"50%25"),
        ("a\r\nb\tc\0", b"a%0D%0Ab%09c%00"),
        (
            "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n",
            b"%09%0Atest with whitespace%0D%0Aand Unicode BMP %E2%98%BA and non-BMP %F0%9F%98%88%09%0A",
        ),
        ("\x7f\x1f", b"%7F%1F"),
        ("  a b ", b"%20%20a b%20"),
        ("  ", b"%20%20"),
    ],
)
def test_a_message_is_said_in_visible_ascii(text, value):
    """The long one is the interop case special_status_message."""
    assert message_said(text) == value
    assert message_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"%", "%"),
        (b"100%", "100%"),
        (b"%4", "%4"),
        (b"%zz%41", "%zzA"),
        (b"%%41", "%A"),
        (b"%e2%98%ba", "☺"),
        (b"%FF", "\ufffd"),
        (b"raw \xff", "raw \ufffd"),
        (b"\xe2\x98\xba", "☺"),
        (b"%E2%98", "\ufffd"),
    ],
)
def test_a_broken_message_is_read_as_far_as_it_goes(value, text):
    """Implementations must not error or throw the message away."""
    assert message_text(value) == text


@given(st.text())
def test_any_text_comes_back(text):
    value = message_said(text)
    assert all(0x20 <= octet < 0x7F for octet in value)
    assert value == value.strip()
    assert message_text(value) == text


@given(st.text(st.characters(categories=["Cs", "Ll"])))
def test_half_a_character_does_not_stop_a_refusal(text):
    assert message_said(text).isascii()


@given(st.binary())
def test_any_value_is_read(value):
    assert message_said(message_text(value)).isascii()

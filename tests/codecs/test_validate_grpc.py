"""What the validator makes of gRPC calls: known by their content-type, their deadline read, reserved names taken out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.codecs.grpc import timeout_text
from flui.codecs.http2.fields import request_again
from flui.codecs.validate import validate
from flui.model.events import UNKNOWN, RequestHead
from flui.model.fault import Fault
from flui.model.fields import classified

CALL = (b"content-type", b"application/grpc")


def head(*fields, method=b"POST", path=b"/a.B/C"):
    return RequestHead(1, method, b"http", b"stock", path, b"", [classified(name, value) for name, value in fields], UNKNOWN)


def valid(*fields, **more):
    made = head(*fields, **more)
    assert validate(made) is None
    return made


def names(made):
    return [line.name for line in made.fields]


@pytest.mark.parametrize("value", [b"application/grpc", b"application/grpc+proto", b"application/grpc;x=y", b"Application/gRPC+json"])
def test_a_post_with_grpcs_content_type_is_a_call(value):
    assert valid((b"content-type", value)).grpc
    assert not valid((b"content-type", value), method=b"GET").grpc


@pytest.mark.parametrize("value", [b"application/grpc-web", b"application/grpc-web+proto", b"application/json", b"application/grpcx"])
def test_anything_else_is_not(value):
    made = valid((b"content-type", value), (b"grpc-timeout", b"not a time"), (b"grpc-status", b"0"), (b"x-bin", b"!"))
    assert not made.grpc
    assert names(made) == [b"content-type", b"grpc-timeout", b"grpc-status", b"x-bin"]


def test_a_head_that_is_said_again_is_a_call_again():
    first = valid(CALL, (b"grpc-timeout", b"3S"))
    again = request_again(first, 3, UNKNOWN)
    assert (again.grpc, again.deadline, again.vetted) == (True, 3000, True)


@pytest.mark.parametrize("lines", [(CALL, CALL), (CALL, (b"content-type", b"text/html")), ((b"content-type", b"text/html"), CALL)])
def test_two_content_types_are_malformed_whatever_they_are(lines):
    assert validate(head(*lines)) is Fault.MALFORMED


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"-1S", b"1s", b"123456789S", b"1 S", b"1.5S", b"0x1S", b"1SS"])
def test_a_grpc_timeout_that_is_none_is_malformed(value):
    assert validate(head(CALL, (b"grpc-timeout", value))) is Fault.MALFORMED


@given(st.integers(0, 10**8 - 1), st.sampled_from(b"HMSmun"))
def test_a_grpc_timeout_is_the_deadline_and_is_said_anew(amount, unit):
    made = valid(CALL, (b"grpc-timeout", b"%d%c" % (amount, unit)))
    ns = amount * {0x48: 3600 * 10**9, 0x4D: 60 * 10**9, 0x53: 10**9, 0x6D: 10**6, 0x75: 1000, 0x6E: 1}[unit]
    assert made.deadline == min(-(-ns // 10**6), 24 * 3600 * 1000)
    assert b"grpc-timeout" not in names(made)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_smaller_of_both_deadlines_holds(one, other):
    made = valid((b"flui-deadline", b"%d" % one), CALL, (b"grpc-timeout", timeout_text(other) if other else b"0S"))
    assert made.deadline == min(one, other)


def test_two_timeouts_are_malformed_and_none_may_be_taken_out():
    assert validate(head(CALL, (b"grpc-timeout", b"1S"), (b"grpc-timeout", b"2S"))) is Fault.MALFORMED
    assert validate(head(CALL, (b"grpc-timeout", b"1S"), (b"connection", b"grpc-timeout"))) is Fault.MALFORMED


@pytest.mark.parametrize(("value", "attempt"), [(b"0", 1), (b"1", 2), (b"9999", 10000)])
def test_attempts_before_this_one_are_counted(value, attempt):
    made = valid(CALL, (b"grpc-previous-rpc-attempts", value))
    assert made.attempt == attempt
    assert b"grpc-previous-rpc-attempts" not in names(made)


@pytest.mark.parametrize("value", [b"", b"-1", b"x", b"10000"])
def test_attempts_that_are_no_number_are_malformed(value):
    assert validate(head(CALL, (b"grpc-previous-rpc-attempts", value))) is Fault.MALFORMED


def test_reserved_names_and_hop_fields_go_and_metadata_stays():
    made = valid(
        CALL, (b"te", b"trailers"), (b"grpc-status", b"0"), (b"grpc_timeout", b"9H"), (b"grpc-encoding", b"gzip"), (b"k-bin", b"AAE")
    )
    assert names(made) == [b"content-type", b"grpc-encoding", b"k-bin"]
    assert validate(head(CALL, (b"k-bin", b"a"))) is Fault.MALFORMED


def test_nobody_says_call_on_the_wire():
    """Policy knows calls by this word; a method of that name would be taken for one."""
    assert validate(head(method=b"CALL")) is Fault.METHOD_REFUSED

"""What gRPC says in fields (PROTOCOL-HTTP2): calls, deadlines, binary metadata, reserved names, refusals."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.codecs.grpc import (
    CALLERS,
    SERVICES,
    TE_TRAILERS,
    binary_text,
    binary_values,
    grpc_answer,
    grpc_timeout,
    grpc_trailers,
    is_binary,
    is_call,
    is_reserved,
    metadata,
    method_of,
    timeout_text,
)
from flui.model.events import RequestHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import classified, field, is_grpc
from flui.model.grpc import message_text


@pytest.mark.parametrize(
    "value",
    [
        b"application/grpc",
        b"application/grpc+proto",
        b"application/grpc+json",
        b"application/grpc;charset=utf-8",
        b"application/grpc+proto; v=1",
        b"application/grpc ;v=1",
        b"Application/GRPC",
        b"application/grpc+",
    ],
)
def test_a_call_is_known_by_its_content_type(value):
    assert is_grpc(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"application",
        b"application/json",
        b"application/grpc-web",
        b"application/grpc-web+proto",
        b"application/grpc-web-text",
        b"application/grpcx",
        b"application/grpc +proto",
        b"application/grpc,application/json",
        b" application/grpc",
        b"x-application/grpc",
        b"text/html; application/grpc",
    ],
)
def test_what_only_looks_like_a_call_is_none(value):
    assert not is_grpc(value)


def test_a_head_is_a_call_when_its_content_type_says_so():
    def head(*fields):
        return RequestHead(1, b"POST", b"http", b"stock", b"/shop.Stock/Reserve", b"", list(fields), -1)

    assert is_call(head(field(b"x", b"y"), classified(b"content-type", b"application/grpc+proto")))
    assert not is_call(head(classified(b"content-type", b"application/json")))
    assert not is_call(head(field(b"accept", b"application/grpc")))


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (b"/shop.Stock/Reserve", (b"shop.Stock", b"Reserve")),
        (b"/S/m", (b"S", b"m")),
        (b"shop.Stock/Reserve", None),
        (b"shop.Stock/Reserve/x", None),
        (b"/shop.Stock", None),
        (b"/shop.Stock/", None),
        (b"//Reserve", None),
        (b"/a/b/c", None),
        (b"/", None),
        (b"", None),
        (b"*", None),
    ],
)
def test_a_call_names_a_service_and_a_method(path, parts):
    """Threats B3."""
    assert method_of(path) == parts


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (b"1H", 3_600_000),
        (b"1M", 60_000),
        (b"1S", 1_000),
        (b"1m", 1),
        (b"1u", 1),
        (b"1000u", 1),
        (b"1001u", 2),
        (b"1n", 1),
        (b"1000001n", 2),
        (b"99999999n", 100),
        (b"99999999H", 359_999_996_400_000),
        (b"00000010m", 10),
        (b"0n", 0),
        (b"0H", 0),
    ],
)
def test_a_timeout_is_read_in_milliseconds_rounded_up(value, ms):
    assert grpc_timeout(value) == ms


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"1", b"m", b"123456789m", b"1.5S", b"1e3m", b"1_0m", b"0x1m", b"-1m", b"+1m"),
        *(b"1 m", b" 1m", b"1m ", b"1\x00m", b"1mm", b"1m,1m", b"1s", b"1h", b"1N", b"\xb21m", b"\xd9\xa1m"),
    ],
)
def test_a_malformed_timeout_is_none(value):
    """Threats F5: overflow, signs, foreign digits, units that are none."""
    assert grpc_timeout(value) is None


def test_every_octet_but_six_is_no_unit():
    assert bytes(octet for octet in range(256) if grpc_timeout(b"1%c" % octet) is not None) == b"HMSmnu"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, b"1n"),
        (0, b"1n"),
        (1, b"1m"),
        (99_999_999, b"99999999m"),
        (100_000_999, b"100000S"),
        (10**14, b"27777777H"),
        (10**30, b"99999999H"),
    ],
)
def test_a_timeout_is_said_in_at_most_eight_digits(ms, text):
    assert timeout_text(ms) == text


@given(st.integers(1, 99_999_999))
def test_a_usual_timeout_comes_back(ms):
    assert grpc_timeout(timeout_text(ms)) == ms


@given(st.integers(1, 10**16))
def test_no_hop_stretches_a_deadline(ms):
    """Threats F5. What is lost to 8 digits is under a thousandth, save above 11,000 years."""
    again = grpc_timeout(timeout_text(ms))
    assert again is not None
    assert again <= ms
    assert again >= ms * 0.999 or ms > 99_999_999 * 3_600_000


@given(st.binary(max_size=12))
def test_any_timeout_is_read_or_none(value):
    ms = grpc_timeout(value)
    assert ms is None or 0 <= ms < 2**63


@pytest.mark.parametrize(
    ("value", "values"),
    [
        (b"", [b""]),
        (b"AAEC", [b"\0\1\2"]),
        (b"AA", [b"\0"]),
        (b"AA==", [b"\0"]),
        (b"AAA", [b"\0\0"]),
        (b"AAA=", [b"\0\0"]),
        (b"+/+/", [b"\xfb\xff\xbf"]),
        (b"AA,AAA=,,AAEC", [b"\0", b"\0\0", b"", b"\0\1\2"]),
        (b"AA ,\tAA", [b"\0", b"\0"]),
        (b"A", None),
        (b"AA=", None),
        (b"A===", None),
        (b"=", None),
        (b"====", None),
        (b"AA==AA==", None),
        (b"AAA==", None),
        (b"-_-_", None),
        (b"AA A", None),
        (b"AAAA\n", None),
        (b"AA,!", None),
        (b"caf\xe9", None),
    ],
)
def test_binary_metadata_is_base64_padded_or_not(value, values):
    assert binary_values(value) == values


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.booleans())
def test_binary_values_come_back(values, padded):
    said = [base64.b64encode(value) if padded else binary_text(value) for value in values]
    assert b"=" not in b"".join(map(binary_text, values))
    assert binary_values(b",".join(said)) == values


def test_a_name_says_that_its_values_are_binary():
    assert is_binary(b"x-bin")
    assert not is_binary(b"bin")
    assert not is_binary(b"x-binary")


def test_a_caller_sets_no_reserved_name():
    for name in (b"grpc-status", b"grpc-message", b"grpc-status-details-bin", b"grpc-retry-pushback-ms", b"grpc-", b"grpc-future"):
        assert is_reserved(name, answer=False), name
    for name in (*CALLERS, b"grpc", b"grpcx", b"grpcurl-x", b"x-grpc-test-echo-initial", b"", b"x"):
        assert not is_reserved(name, answer=False), name


def test_a_service_sets_no_reserved_name():
    for name in (b"grpc-timeout", b"grpc-previous-rpc-attempts", b"grpc-future"):
        assert is_reserved(name, answer=True), name
    for name in SERVICES:
        assert not is_reserved(name, answer=True), name


def test_a_name_that_folds_to_a_reserved_one_is_reserved():
    """Threats E3: a module may read `_` and `-` alike."""
    for name in (b"grpc_timeout", b"grpc.status", b"grpc_status", b"grpc-status_details-bin"):
        assert is_reserved(name, answer=False), name
        assert is_reserved(name, answer=True), name


def test_metadata_is_forwarded_as_it_is_unless_something_in_it_must_not_be():
    clean = [field(b"x-bin", b"AAEC"), field(b"grpc-timeout", b"1S"), field(b"x", b"y")]
    assert metadata(clean) is clean
    status = field(b"grpc-status", b"0")
    assert metadata([*clean, status]) == clean
    assert metadata([*clean, status], answer=True) == [clean[0], clean[2], status]
    assert metadata([*clean, field(b"y-bin", b"!")]) is None
    assert metadata([field(b"grpc-future-bin", b"!")]) == []


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
def test_a_refusal_is_trailers_only(fault):
    status, fields = grpc_answer(fault)
    said = {line.name: line.value for line in fields}
    assert status == 200
    assert said.pop(b"content-type") == b"application/grpc"
    assert said.pop(b"grpc-status") == b"%d" % DIALECTS[fault].grpc
    assert said.pop(b"grpc-message") == f"{DIALECTS[fault].title} ({fault.value})".encode()
    after = DIALECTS[fault].retry_after_s
    assert said == ({b"grpc-retry-pushback-ms": b"%d000" % after} if after else {})
    assert len(fields) == len({line.name for line in fields})


def test_the_issues_refusals_have_the_issues_names():
    names = {
        Fault.NO_ROUTE: 12,  # UNIMPLEMENTED
        Fault.APP_UNAVAILABLE: 14,  # UNAVAILABLE
        Fault.DEADLINE_PASSED: 4,  # DEADLINE_EXCEEDED
        Fault.UPSTREAM_TIMEOUT: 4,
        Fault.DENIED: 7,  # PERMISSION_DENIED
        Fault.RATE_LIMITED: 8,  # RESOURCE_EXHAUSTED
        Fault.BODY_TOO_LARGE: 8,
    }
    for fault, status in names.items():
        assert grpc_answer(fault)[1][1].wire == b"grpc-status: %d\r\n" % status


def test_what_the_caller_is_told_cannot_leave_its_field():
    """A message that names the request carries octets of the request."""
    lines = grpc_trailers(Fault.DENIED, "/shop.Stock/Reserve: 50%\r\nx: y ☺")
    assert [line.name for line in lines] == [b"grpc-status", b"grpc-message"]
    assert lines[1].value == b"/shop.Stock/Reserve: 50%25%0D%0Ax: y %E2%98%BA"
    assert lines[1].wire.count(b"\n") == 1
    assert message_text(lines[1].value) == "/shop.Stock/Reserve: 50%\r\nx: y ☺"


def test_a_refusal_of_one_call_does_not_change_that_of_the_next():
    grpc_answer(Fault.DENIED)[1].clear()
    assert len(grpc_answer(Fault.DENIED)[1]) == 3


def test_a_forwarded_call_says_anew_that_trailers_arrive():
    assert (TE_TRAILERS.wire, TE_TRAILERS.kind) == (b"te: trailers\r\n", 0)

"""The access log: one line of JSON per exchange, whatever a peer sends."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.telemetry.accesslog import FIELD_LIMIT, AccessLog, fixed, safe

DOCS = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"
FIXED = fixed({"listener": "inbound", "service": "orders", "route": "default", "rule": "shop.csv:3", "principal": "spiffe://shop/web"})
TRACE = b"0af7651916cd43dd8448eb211c80319c"
NOW = 1_700_000_000.1239


def _line(
    method: bytes = b"GET",
    authority: bytes = b"orders",
    path: bytes = b"/items/1",
    *,
    now: float = NOW,
    log: AccessLog | None = None,
    text: bytes = FIXED,
    seconds: tuple[float, float, float, float, float] = (0.0, 0.0000123, 0.0, 0.00123, 0.00145),
) -> bytes:
    return (log or AccessLog()).line(now, text, TRACE, method, authority, path, 200, b"", b"orders-1", 1, 5, 1234, *seconds)


def test_a_line_is_one_json_object_with_its_members_in_order() -> None:
    line = _line()
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123Z",
        "listener": "inbound",
        "service": "orders",
        "route": "default",
        "rule": "shop.csv:3",
        "principal": "spiffe://shop/web",
        "trace": TRACE.decode(),
        "method": "GET",
        "authority": "orders",
        "path": "/items/1",
        "status": 200,
        "fault": "",
        "upstream": "orders-1",
        "attempts": 1,
        "request_octets": 5,
        "response_octets": 1234,
        "tls_ms": 0,
        "decide_ms": 0.012,
        "queue_ms": 0,
        "upstream_ms": 1.23,
        "total_ms": 1.45,
    }


def test_the_document_lists_every_member() -> None:
    text = DOCS.read_text()
    for name in json.loads(_line()):
        assert f"| `{name}` |" in text, name


def test_durations_are_milliseconds_however_long() -> None:
    record = json.loads(_line(seconds=(0.0015, 0.008191, 0.0203, 14.25, 3600.0)))
    assert [record[f"{name}_ms"] for name in ("tls", "decide", "queue", "upstream", "total")] == [1.5, 8.191, 20.3, 14_250, 3_600_000]


@given(st.lists(st.floats(min_value=0, max_value=100_000), min_size=5, max_size=5))
def test_any_duration_is_right_to_a_microsecond(seconds: list[float]) -> None:
    a, b, c, d, e = seconds
    record = json.loads(_line(seconds=(a, b, c, d, e)))
    for name, value in zip(("tls", "decide", "queue", "upstream", "total"), seconds, strict=True):
        assert record[f"{name}_ms"] == pytest.approx(value * 1_000, abs=0.00101)


@given(st.floats(min_value=0, max_value=4_000_000_000), st.lists(st.floats(min_value=-3, max_value=3), max_size=20))
def test_the_time_is_right_forwards_and_backwards(start: float, steps: list[float]) -> None:
    log = AccessLog()
    now = start
    for step in [0.0, *steps]:
        now = max(0.0, now + step)
        record = json.loads(_line(now=now, log=log))
        said = datetime.strptime(record["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
        assert -0.000_01 <= now - said < 0.001_01


@given(st.binary(max_size=3_000), st.binary(max_size=3_000), st.binary(max_size=3_000))
def test_nothing_a_peer_sends_leaves_its_string(method: bytes, authority: bytes, path: bytes) -> None:
    """Threats G7: log injection."""
    line = _line(method, authority, path)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert not re.search(rb"[\x00-\x1f\x7f]", line[:-1])
    record = json.loads(line)
    assert list(record) == list(json.loads(_line()))
    assert record["status"] == 200
    assert len(line) < 3 * FIELD_LIMIT


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (b"/login?token=CANARY", "/login"),
        (b"/a#CANARY", "/a"),
        (b"/a?x#CANARY?y", "/a"),
        (b"http://user:CANARY@host/x", "http://host/x"),
        (b"user:CANARY@host", "host"),
        (b"/@me/inbox", "/@me/inbox"),
    ],
)
def test_queries_and_passwords_of_a_malformed_target_are_left_out(path: bytes, logged: str) -> None:
    line = _line(path=path)
    assert b"CANARY" not in line
    assert json.loads(line)["path"] == logged


def test_userinfo_of_an_authority_is_left_out() -> None:
    line = _line(authority=b"user:CANARY@orders:80")
    assert b"CANARY" not in line
    assert json.loads(line)["authority"] == "orders:80"


def test_remembered_authorities_are_bounded() -> None:
    log = AccessLog()
    for number in range(5_000):
        assert json.loads(_line(authority=b"host-%d" % number, log=log))["authority"] == f"host-{number}"
        assert len(log._authorities) <= 1_024


def test_a_long_path_is_cut() -> None:
    path = json.loads(_line(path=b"/" + b"a" * 10_000))["path"]
    assert len(path) == FIELD_LIMIT
    assert path.endswith("a...")


@given(st.dictionaries(st.text(), st.text(), max_size=6))
def test_ready_text_reads_back_whatever_it_holds(members: dict[str, str]) -> None:
    text = fixed(members)
    assert text.isascii()
    record = json.loads(b"{%b}" % text[:-1])
    assert len(record) == len(members)
    assert all(isinstance(value, str) for value in record.values())


def test_ready_text_keeps_plain_values_as_they_are() -> None:
    assert fixed({"rule": 'a "b" \\'}) == b'"rule":"a \\"b\\" \\\\",'


@given(st.binary(max_size=300), st.integers(min_value=3, max_value=400))
def test_safe_text_is_a_json_string_within_its_limit_and_a_prefix_of_the_value(value: bytes, limit: int) -> None:
    text = safe(value, limit)
    assert len(text) <= limit
    shown = json.loads(b'"%b"' % text).encode("latin-1")
    if shown != value:
        assert shown.endswith(b"...")
        assert value.startswith(shown[:-3])


@given(st.text(alphabet='\\"\x00u0a', max_size=40), st.integers(min_value=3, max_value=60))
def test_a_cut_never_splits_an_escape(value: str, limit: int) -> None:
    json.loads(b'"%b"' % safe(value.encode(), limit))


def test_safe_returns_common_values_unchanged() -> None:
    assert safe(b"/items/1 with blank") == b"/items/1 with blank"
    assert safe(b"a\r\nb\x7f\xff") == b"a\\u000d\\u000ab\\u007f\\u00ff"

"""The journal: events for the operator, bounded, one line each, without secrets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flui.telemetry.journal import PER_SECOND, REDACTED, Journal, is_secret, is_terminal
from flui.telemetry.logwriter import LogWriter


class _Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.5

    def __call__(self) -> float:
        return self.now


class _Rig:
    def __init__(self) -> None:
        self.reader, self._fd = os.pipe()
        self.writer = LogWriter(self._fd)
        self.clock = _Clock()
        self.journal = Journal(self.writer, self.clock, service="orders")
        self.people = Journal(self.writer, self.clock, human=True)

    def said(self) -> bytes:
        assert self.writer.flush(10)
        os.write(self._fd, b"\x00")
        got = b""
        while not got.endswith(b"\x00"):
            got += os.read(self.reader, 65_536)
        return got[:-1]

    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.said().splitlines()]

    def close(self) -> None:
        assert self.writer.close(10)
        os.close(self.reader)
        os.close(self._fd)


@pytest.fixture
def rig() -> Iterator[_Rig]:
    made = _Rig()
    yield made
    made.close()


def test_an_event_is_one_json_line_with_time_level_and_members(rig: _Rig) -> None:
    rig.journal.info("listening", listener="inbound", port=15006, tls=True, ratio=0.5, peer=None)
    assert rig.records() == [
        {
            "time": "2023-11-14T22:13:20.500Z",
            "level": "info",
            "event": "listening",
            "service": "orders",
            "listener": "inbound",
            "port": 15006,
            "tls": True,
            "ratio": 0.5,
            "peer": None,
        }
    ]


def test_levels_are_said(rig: _Rig) -> None:
    rig.journal.warn("policy kept")
    rig.journal.error("cannot listen")
    assert [record["level"] for record in rig.records()] == ["warn", "error"]


def test_a_member_cannot_replace_time_or_level(rig: _Rig) -> None:
    rig.journal.info("x", time="never", level="none")
    record = rig.records()[0]
    assert record["time"] == "2023-11-14T22:13:20.500Z"
    assert record["level"] == "info"
    assert record["time_"] == "never"


def test_numbers_that_json_does_not_know_become_text(rig: _Rig) -> None:
    rig.journal.info("x", left=float("inf"), none=float("nan"))
    assert rig.records()[0]["left"] == "inf"


def test_a_long_value_is_cut_to_two_kib(rig: _Rig) -> None:
    rig.journal.info("x", text="a" * 100_000)
    text = rig.records()[0]["text"]
    assert isinstance(text, str)
    assert len(text) == 2_048


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.text(max_size=200))
def test_no_value_can_break_its_line_or_drive_a_terminal(rig: _Rig, value: str) -> None:
    """Threats G7."""
    rig.clock.now += 2
    rig.journal.info("x", value=value)
    rig.clock.now += 2
    rig.people.info("x", value=value)
    lines = [line for line in rig.said().split(b"\n") if line]
    assert len(lines) == 2
    json.loads(lines[0])
    assert lines[0].isascii()
    told = re.sub(rb"\x1b\[[0-9;]*m", b"", lines[1])
    assert not re.search(rb"[\x00-\x1f\x7f]", told)


def test_an_escape_sequence_in_a_value_is_shown_not_obeyed(rig: _Rig) -> None:
    rig.people.error("refused", why="\x1b]0;title\x07\x1b[2J")
    said = rig.said()
    assert b"\x1b]0" not in said
    assert b"\\x1b]0;title\\x07" in said


def test_a_repeated_event_is_cut_off_and_the_rest_counted(rig: _Rig) -> None:
    for _ in range(1_000):
        rig.journal.warn("handshake refused", reason="unknown_ca")
    rig.journal.info("other")
    assert len(rig.records()) == PER_SECOND + 1
    rig.clock.now += 1
    rig.journal.tick()
    assert rig.records() == [
        {
            "time": "2023-11-14T22:13:21.500Z",
            "level": "warn",
            "event": "lines left out",
            "service": "orders",
            "of": "handshake refused",
            "count": 1_000 - PER_SECOND,
        }
    ]
    rig.journal.tick()
    assert rig.records() == []
    rig.journal.warn("handshake refused", reason="unknown_ca")
    assert len(rig.records()) == 1


def test_the_next_second_says_what_was_left_out_even_without_a_tick(rig: _Rig) -> None:
    for _ in range(PER_SECOND + 5):
        rig.journal.info("x")
    rig.said()
    rig.clock.now += 1.5
    rig.journal.info("x")
    assert [(record["event"], record.get("count")) for record in rig.records()] == [("lines left out", 5), ("x", None)]


def test_a_clock_set_back_does_not_silence_an_event(rig: _Rig) -> None:
    for _ in range(PER_SECOND + 1):
        rig.journal.info("x")
    rig.said()
    rig.clock.now -= 3_600
    rig.journal.info("x")
    assert [record["event"] for record in rig.records()] == ["lines left out", "x"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "hunter2"),
        ("db_password", "hunter2"),
        ("access_token", "x"),
        ("client-secret", "x"),
        ("Authorization", "x"),
        ("private_key", "x"),
        ("api_key", "x"),
        ("cookie", "x"),
        ("detail", "-----BEGIN PRIVATE KEY-----\nMIIC"),
        ("detail", "-----BEGIN EC PRIVATE KEY-----\nMIIC"),
        ("detail", "sent Bearer abc.def"),
        ("detail", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"),
        ("url", "http://user:hunter2@host/"),
    ],
)
def test_what_looks_like_a_secret_is_left_out(rig: _Rig, name: str, value: str) -> None:
    rig.journal.info("x", **{name: value})
    record = rig.records()[0]
    assert record[name] == REDACTED


@pytest.mark.parametrize(
    ("name", "value"),
    [("key", "flui-key"), ("path", "certs/orders.key"), ("url", "http://127.0.0.1:8000/a@b"), ("tokens_left", 5), ("has_token", None)],
)
def test_what_only_sounds_like_one_is_shown(name: str, value: object) -> None:
    assert not is_secret(name, value)


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = os.openpty()
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert is_terminal(terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not is_terminal(terminal)
    os.close(main)
    os.close(terminal)
    reader, writer = os.pipe()
    assert not is_terminal(writer)
    os.close(reader)
    os.close(writer)

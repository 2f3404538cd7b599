"""Redaction: what a pattern's `:name` and final `/*` match never shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.policy.objects import matches
from flui.telemetry import redact
from flui.telemetry.redact import Redactor, redactor


@pytest.mark.parametrize(
    ("patterns", "path", "shown"),
    [
        (["/users/:id"], b"/users/jane", b"/users/-"),
        (["/users/:id"], b"/users", b"/users"),
        (["/users/:id"], b"/users/", b"/users/"),
        (["/users/:id"], b"/users/jane/orders", b"/users/jane/orders"),
        (["/users/:id/*"], b"/users/jane/orders/7", b"/users/-/-"),
        (["/users/:id/*"], b"/users/jane", b"/users/jane"),
        (["/users/*"], b"/users/jane/orders", b"/users/-"),
        (["/users/*"], b"/users/", b"/users/-"),
        (["/users/*"], b"/users", b"/users"),
        (["/:tenant/items"], b"/acme/items", b"/-/items"),
        (["/*"], b"/acme/items", b"/-"),
        (["/*"], b"/", b"/-"),
        (["/users/:id/photo"], b"/users/jane/photo", b"/users/-/photo"),
        (["/a.b/:x"], b"/aXb/jane", b"/aXb/jane"),
        (["/users/:id"], b"*", b"*"),
        (["/*"], b"*", b"*"),
        (["/users/:id"], b"", b""),
        (["users/:id"], b"/users/jane", b"/users/jane"),
        (["/exact"], b"/exact", b"/exact"),
    ],
)
def test_what_a_pattern_names_is_hidden_and_nothing_else(patterns: list[str], path: bytes, shown: bytes) -> None:
    assert Redactor(patterns).path(path) == shown


@pytest.mark.parametrize("order", [1, -1])
def test_no_pattern_shows_what_another_hides(order: int) -> None:
    both = Redactor(["/a/:x/c", "/a/b/:y", "/:any/b/c/*", "/a/b/*"][::order])
    assert both.path(b"/a/b/c") == b"/a/-/-"
    assert both.path(b"/a/b/c/d/e") == b"/-/b/-"
    assert both.path(b"/z/b/c/d") == b"/-/b/c/-"


def test_a_path_that_no_validator_saw_is_not_shown_at_all() -> None:
    """`//users/jane` is refused, and no pattern knows it."""
    assert Redactor(["/users/:id"]).unseen(b"//users/jane") == b"-"
    assert Redactor(["/users/:id"]).unseen(b"") == b""


def test_without_patterns_there_is_no_redactor() -> None:
    assert redactor(()) is None
    some = redactor(("/users/:id",))
    assert some is not None
    assert some.path(b"/users/jane") == b"/users/-"


def test_what_is_remembered_is_bounded_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_KEPT", 10)
    some = Redactor(["/users/:id"])
    for _ in range(2):
        for number in range(25):
            assert some.path(b"/users/%d" % number) == b"/users/-"
            assert some.path(b"/items/%d" % number) == b"/items/%d" % number
            assert len(some._known) <= 10
    long = b"/users/" + b"x" * 300
    assert some.path(long) == b"/users/-"
    assert long not in some._known


_SEGMENTS = st.lists(st.sampled_from(["a", "b", "c", ":x", ":y", ""]), min_size=1, max_size=4)
_PATTERNS = st.lists(st.builds(lambda segments, end: "/" + "/".join(segments) + end, _SEGMENTS, st.sampled_from(["", "/*"])), max_size=5)


@given(_PATTERNS, st.lists(st.sampled_from(["a", "b", "c", "secret", ""]), min_size=1, max_size=6))
def test_it_changes_a_path_exactly_when_policy_would_match_a_pattern_that_hides(patterns: list[str], segments: list[str]) -> None:
    """`policy.objects.matches` is the definition."""
    path = "/" + "/".join(segments)
    some = Redactor(patterns)
    shown = some.path(path.encode()).decode()
    met = [pattern for pattern in patterns if matches(path, pattern)]
    want = path.split("/")
    end = len(want)
    for pattern in met:
        body = pattern.removesuffix("/*").split("/")
        for at, segment in enumerate(body):
            if segment.startswith(":"):
                want[at] = "-"
        if pattern.endswith("/*"):
            end = min(end, len(body))
    expected = want[:end] + (["-"] if end < len(want) else [])
    assert shown == "/".join(expected)
    assert some.path(path.encode()).decode() == shown

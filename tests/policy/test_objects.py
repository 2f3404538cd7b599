"""Object patterns: what they mean, what they may look like, and how Casbin's own matchers differ."""

from __future__ import annotations

import re

import pytest
from casbin.util import key_match2, key_match3, key_match5, regex_match
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.policy.objects import fault_in, is_pattern, key_match2_differs, key_match_differs, matches

SEGMENT = st.text(st.sampled_from("ab.+:*$\n"), max_size=3)
PATH = st.lists(SEGMENT, max_size=4).map(lambda segments: "/" + "/".join(segments))
PATTERN = st.lists(st.sampled_from(("a", "b", "a.b", ":x", "+", "", "*")), max_size=4).map(lambda segments: "/" + "/".join(segments))


def reference(obj: str, pattern: str) -> bool:
    """The same as an anchored expression in which everything but the two marks is quoted (threats D2)."""
    below = pattern.endswith("/*")
    segments = (pattern[:-2] if below else pattern).split("/")
    text = "/".join("[^/]+" if re.fullmatch(":.+", segment, re.DOTALL) else re.escape(segment) for segment in segments)
    return re.fullmatch(text + ("/.*" if below else ""), obj, re.DOTALL) is not None


@settings(deadline=None)
@given(PATH, PATTERN)
def test_a_pattern_means_what_its_quoted_expression_means(obj, pattern):
    assert matches(obj, pattern) == reference(obj, pattern)


@settings(deadline=None)
@given(PATTERN, st.randoms(use_true_random=False))
def test_what_is_made_from_a_pattern_is_in_it(pattern, random):
    obj = pattern.replace(":x", random.choice(("7", "a.b", "\n")))
    if obj.endswith("/*"):
        obj = obj[:-1] + random.choice(("", "1", "1/2", "\n"))
    assert matches(obj, pattern)


@pytest.mark.parametrize(
    ("pattern", "covered", "not_covered"),
    [
        ("/items/7", ["/items/7"], ["/items/70", "/items/7/", "/items/7\n", "/Items/7", "items/7", ""]),
        ("/items/*", ["/items/1", "/items/1/2", "/items/"], ["/items", "/itemsx", "/items2/1", "items/1"]),
        ("/*", ["/", "/a", "/a/b"], ["", "*", "a/b"]),
        ("/items/:id", ["/items/1", "/items/a.b"], ["/items/", "/items", "/items/1/2", "/items/1/"]),
        ("/items/:id/reserve", ["/items/1/reserve"], ["/items//reserve", "/items/1/2/reserve", "/items/1/reserve\n"]),
        ("/a.b", ["/a.b"], ["/axb", "/a/b"]),
        ("/a+(b)", ["/a+(b)"], ["/aab", "/ab"]),
        ("topic:orders.*", ["topic:orders.eu", "topic:orders.eu.x", "topic:orders."], ["topic:orders", "topic:ordersx", "topic:orders/eu"]),
        ("topic:orders", ["topic:orders"], ["topic:orders.eu", "/topic:orders"]),
    ],
)
def test_what_a_pattern_covers(pattern, covered, not_covered):
    assert fault_in(pattern) is None
    assert [obj for obj in covered if not matches(obj, pattern)] == []
    assert [obj for obj in not_covered if matches(obj, pattern)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        *("items", "*", "", "topic:", "topic:*", "topic:a..b", "topic:a b", "topic:a.*.b", "topic:a/b", "topic:a.:x"),
        *(
            "/a/*/b",
            "/a*",
            "/*a",
            "/a/**",
            "/:",
            "/:1",
            "/:a.b",
            "/a/:x*",
            "//a",
            "/a//b",
            "/./a",
            "/a/..",
            "/a?b",
            "/a#b",
            "/a;b",
            "/a\\b",
        ),
        *("/%", "/%4", "/%41", "/a%2Eb", "/%zz", "/%2f", "/%2F", "/%00", "/%c3%a9", "/{a}", "/a|b", "/a[0]", "/a b"),
    ],
)
def test_a_pattern_that_could_not_mean_what_it_says_is_a_fault(pattern):
    fault = fault_in(pattern)
    assert fault is not None
    assert all(fault)


@pytest.mark.parametrize(
    "pattern", ["/", "/a/", "/a:b", "/~a/%20b", "/%C3%A9", "/a(b)+$&'@=!", "/shop.Stock/Reserve", "/:a/:b/*", "topic:a-b_c.D"]
)
def test_a_well_formed_pattern_is_none(pattern):
    assert fault_in(pattern) is None


def test_a_pattern_is_told_from_a_plain_object():
    assert [is_pattern(text) for text in ("/a/*", "/:x", "topic:a.*", "/*")] == [True] * 4
    assert [is_pattern(text) for text in ("/a", "/a:b", "topic:a", "/", "*")] == [False] * 5


@pytest.mark.parametrize(
    ("matcher", "obj", "pattern"),
    [
        (key_match2, "/aXb", "/a.b"),
        (key_match2, "/a.b\n", "/a.b"),
        (key_match2, "/aaa", "/a+"),
        (key_match3, "/aXb", "/a.b"),
        (key_match5, "/aXb", "/a.b"),
        (key_match2, "topic7", "topic:orders"),
    ],
)
def test_a_matcher_of_casbin_lets_through_what_ours_does_not(matcher, obj, pattern):
    """Threats, measured holes: `.` is any character, and `$` stands before a newline."""
    assert matcher(obj, pattern)
    assert not matches(obj, pattern)


def test_regex_match_is_anchored_at_the_start_only():
    """Threats, measured holes."""
    assert regex_match("/items/../admin", "/items")


def test_key_match2_does_not_see_a_line_break_below():
    """A deny rule would not hold: why the index denies such objects in a model with keyMatch2."""
    assert not key_match2("/items/a\nb", "/items/*")
    assert matches("/items/a\nb", "/items/*")


@settings(deadline=None)
@given(PATTERN, PATH.filter(lambda obj: "\n" not in obj))
def test_a_pattern_that_key_match2_reads_alike_is_read_alike(pattern, obj):
    if fault_in(pattern) is None and key_match2_differs(pattern) is None:
        assert key_match2(obj, pattern) == matches(obj, pattern)


def test_why_casbins_matchers_differ_is_told():
    assert [key_match2_differs(text) is None for text in ("/a/:x/*", "/a.b", "/a:b", "topic:a")] == [True, False, False, False]
    assert [key_match_differs(text) is None for text in ("/a/*", "/a.b", "/:x", "topic:a.*")] == [True, True, False, True]

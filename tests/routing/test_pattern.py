"""Object patterns: what they match, and that the compiled form says what twenty plain lines say."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flui.routing.pattern import Pattern, complaint, first_segment


def reference(pattern: str, path: str) -> bool:
    """The same, as plainly as it can be said."""
    if pattern == "/*":
        return True
    below = pattern.endswith("/*")
    wanted = pattern.removesuffix("/*").split("/")
    got = path.split("/")
    if below:
        if len(got) <= len(wanted):
            return False
        got = got[: len(wanted)]
    if len(got) != len(wanted):
        return False
    for want, segment in zip(wanted, got, strict=True):
        if want.startswith(":") and len(want) > 1:
            if segment == "":
                return False
        elif want != segment:
            return False
    return True


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/*", "/", True),
        ("/*", "/items/1", True),
        ("/*", "*", True),
        ("/", "/", True),
        ("/", "/items", False),
        ("/items", "/items", True),
        ("/items", "/items/", False),
        ("/items", "/Items", False),
        ("/items", "/items\n", False),
        ("/items/*", "/items/1", True),
        ("/items/*", "/items/1/parts/2", True),
        ("/items/*", "/items/", True),
        ("/items/*", "/items", False),
        ("/items/*", "/itemsx/1", False),
        ("/items/:id", "/items/1", True),
        ("/items/:id", "/items/", False),
        ("/items/:id", "/items", False),
        ("/items/:id", "/items/1/", False),
        ("/items/:id", "/items/1/parts", False),
        ("/items/:id/*", "/items/1", False),
        ("/items/:id/*", "/items/1/", True),
        ("/items/:id/*", "/items//", False),
        ("/:any", "/", False),
        ("/:any", "/x", True),
        ("/:any", "*", False),
        ("/a.c", "/abc", False),
        ("/a+", "/aa", False),
        ("/a*", "/ab", False),
        ("/x/*/y", "/x/1/y", False),
        ("/shop.Stock/Reserve", "/shop.Stock/Reserve", True),
    ],
)
def test_only_a_final_star_and_names_are_special(pattern: str, path: str, matches: bool) -> None:
    assert Pattern(pattern).matches(path.encode()) is matches
    assert reference(pattern, path) is matches


PIECES = st.sampled_from(["", "a", "b", "ab", ":", ":a", ":b", "*", "a*", ".", "a.b"])
PATTERNS = st.builds(lambda pieces, tail: "/" + "/".join(pieces) + tail, st.lists(PIECES, max_size=5), st.sampled_from(["", "/*", "/"]))
PATHS = st.builds(lambda pieces: "/" + "/".join(pieces), st.lists(PIECES, max_size=6)) | st.just("*")


@given(PATTERNS, PATHS)
@example("/*", "*")
@example("/:a/*", "//")
@example("//*", "/")
def test_the_compiled_form_equals_the_reference(pattern: str, path: str) -> None:
    assert Pattern(pattern).matches(path.encode()) is reference(pattern, path)


@given(PATTERNS, PATHS)
def test_the_first_segment_of_a_pattern_is_that_of_each_path_it_matches(pattern: str, path: str) -> None:
    """The index of the route table stands on it."""
    compiled = Pattern(pattern)
    if compiled.matches(path.encode()):
        assert compiled.first in {None, first_segment(path.encode())}


@pytest.mark.parametrize("pattern", ["/", "/*", "/items", "/items/", "/items/*", "/items/:id/parts/*", "/a%20b", "/a%2Fb", "/~x/(y)"])
def test_a_good_pattern_raises_no_complaint(pattern: str) -> None:
    assert complaint(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("", "slash"),
        ("items", "slash"),
        ("/items?x=1", "query"),
        ("/items#x", "fragment"),
        ("/items*", "`*`"),
        ("/*/items", "`*`"),
        ("/a//b", "empty segment"),
        ("//*", "empty segment"),
        ("/a/../b", "dot segment"),
        ("/a/./b", "dot segment"),
        ("/a/:/b", "without a name"),
        ("/a b", "no canonical path"),
        ("/a;b", "no canonical path"),
        ("/caf\u00e9", "no canonical path"),
        ("/a%2", "hexadecimal"),
        ("/a%2f", "hexadecimal"),
        ("/a%zz", "hexadecimal"),
        ("/%7Ejoe", "`~`"),
    ],
)
def test_a_pattern_that_no_path_can_match_is_a_mistake(pattern: str, what: str) -> None:
    found = complaint(pattern)
    assert found is not None
    assert what in found[0]
    assert found[1]

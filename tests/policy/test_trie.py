"""Objects to rules."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flui.policy.objects import matches
from flui.policy.trie import Leaf, ObjectTable, parts_of

SEGMENT = st.sampled_from(("a", "b", "", ":x", ".", "*"))
PATH = st.lists(SEGMENT, max_size=5).map(lambda segments: "/" + "/".join(segments))
TOPIC = st.lists(st.sampled_from("ab*"), max_size=4).map(lambda names: "topic:" + ".".join(names))


@settings(deadline=None)
@given(st.lists(PATH | TOPIC, max_size=8), PATH | TOPIC | st.just("*"), st.integers(0, 3))
def test_the_leaves_of_an_object_are_those_of_the_patterns_that_cover_it(patterns, obj, extra):
    table = ObjectTable()
    depth = 0
    for number, pattern in enumerate(patterns):
        leaf, needs = table.leaf(pattern)
        leaf.allow.setdefault(pattern, number)
        depth = max(depth, needs)
    leaves: list[Leaf] = []
    table.gather(obj, parts_of(obj, depth + extra), leaves)
    assert sorted(pattern for leaf in leaves for pattern in leaf.allow) == sorted({p for p in patterns if matches(obj, p)})


def test_a_star_covers_everything():
    table = ObjectTable()
    leaf, _ = table.leaf("*")
    for obj in ("", "/a", "topic:x", "*"):
        leaves: list[Leaf] = []
        table.gather(obj, parts_of(obj, 0), leaves)
        assert leaves == [leaf]


def test_an_object_is_cut_no_finer_than_the_patterns_need():
    assert parts_of("/a/b/c/d", 2) == ["", "a", "b/c/d"]
    assert parts_of("topic:a.b.c", 1) == ["topic:a", "b.c"]
    assert parts_of("neither", 3) == []

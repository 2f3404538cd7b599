"""Path templates: the grammar of google/api/http.proto, and paths back and forth."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.codecs.validate import canonical_path
from flui.translate.template import MAX_SEGMENTS, RuleError, read, value_of

GOOD = {
    "/": ([], [], b""),
    "/v1": ([b"v1"], [], b""),
    "/v1/*": ([b"v1", None], [], b""),
    "/**": ([...], [], b""),
    "/v1/{a}": ([b"v1", None], [("a", 1, 2)], b""),
    "/v1/{a=*}": ([b"v1", None], [("a", 1, 2)], b""),
    "/v1/{a.b.c}/d": ([b"v1", None, b"d"], [("a.b.c", 1, 2)], b""),
    "/v1/{name=shelves/*/books/*}": ([b"v1", b"shelves", None, b"books", None], [("name", 1, 5)], b""),
    "/{a=x/**}": ([b"x", ...], [("a", 0, 2)], b""),
    "/v1/{a}:go": ([b"v1", None], [("a", 1, 2)], b"go"),
    "/v1/{a=**}:go": ([b"v1", ...], [("a", 1, 2)], b"go"),
    "/v1/**:go": ([b"v1", ...], [], b"go"),
    "/v1/items:go": ([b"v1", b"items"], [], b"go"),
    "/v1/a:b/c": ([b"v1", b"a:b", b"c"], [], b""),
    "/v1/{a=x:y/*}": ([b"v1", b"x:y", None], [("a", 1, 3)], b""),
    "/caf%C3%A9/a%40b": (["café".encode(), b"a@b"], [], b""),
    "/café": (["café".encode()], [], b""),
}


@pytest.mark.parametrize("text", GOOD)
def test_a_template_is_read_as_the_grammar_says(text):
    template = read(text)
    segments, variables, verb = GOOD[text]
    assert [... if each.deep else each.literal for each in template.segments] == segments
    assert [(".".join(each.names), each.first, each.last) for each in template.variables] == variables
    assert template.verb == verb


BAD = {
    "": "does not begin with a slash",
    "v1": "does not begin with a slash; write '/v1'",
    "/v1/": "an empty segment",
    "/v1//a": "an empty segment",
    "/v1/{a": "without its `}`",
    "/v1/{a}b": "a variable is a whole segment",
    "/v1/b{a}": "whole segments",
    "/v1/{a=}": "an empty segment",
    "/v1/{}": "no name of a field",
    "/v1/{a..b}": "no name of a field",
    "/v1/{a-b}": "no name of a field",
    "/v1/{a={b}}": "a variable in the variable",
    "/v1/**/a": "goes on behind `**`",
    "/v1/{a=**}/b": "goes on behind `**`",
    "/v1/{a=**/b}": "goes on behind `**`",
    "/v1/a*": "whole segments",
    "/v1/***": "whole segments",
    "/v1/a:": "begins no verb",
    "/v1/{a}:": "begins no verb",
    "/v1/{a}:b:c": "begins no verb",
    "/v1/{a}:b/c": "a variable is a whole segment",
    "/v1?a=b": "whole segments",
    "/v1/..": "in no path that is let in",
    "/v1/a%2Fb": "in no path that is let in",
    "/v1/a%zz": "in no path that is let in",
    "/a" * (MAX_SEGMENTS + 1): "more than 64 segments",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_template_is_refused_with_a_sentence(text):
    with pytest.raises(RuleError, match=re.escape(BAD[text])):
        read(text)


FITS = [
    ("/", b"/", ()),
    ("/", b"/a", None),
    ("/v1/{a}", b"/v1/x", (b"x",)),
    ("/v1/{a}", b"/v1/", None),
    ("/v1/{a}", b"/v1/x/y", None),
    ("/v1/{a}", b"/v1/x%20y", (b"x%20y",)),
    ("/v1/{a=**}", b"/v1", (b"",)),
    ("/v1/{a=**}", b"/v1/", (b"",)),
    ("/v1/{a=**}", b"/v1/x/y/", (b"x/y/",)),
    ("/v1/{a=x/**}", b"/v1/x", (b"x",)),
    ("/v1/{a=x/**}", b"/v1/y", None),
    ("/v1/{a}:go", b"/v1/x:go", (b"x",)),
    ("/v1/{a}:go", b"/v1/x", None),
    ("/v1/{a}:go", b"/v1/x%3Ago", None),
    ("/v1/{a=**}:go", b"/v1:go", (b"",)),
    ("/a%40b", b"/a@b", ()),
    ("/a@b", b"/a%40b", ()),
    ("/{a=s/*}/{b}/c", b"/s/1/2/c", (b"s/1", b"2")),
]


@pytest.mark.parametrize(("text", "path", "captures"), FITS)
def test_a_path_fits_a_template(text, path, captures):
    assert read(text).match(path) == captures


NO_PATH = [
    ("/v1/{a}", ""), ("/v1/{a}", "x/y"), ("/v1/{a}", ".."), ("/v1/{a}", "."), ("/v1/{a}", "a\\b"), ("/v1/{a}", "a\0b"), ("/v1/{a}", "%2F"),
    ("/v1/{a=x/*}", "x"), ("/v1/{a=x/*}", "y/1"), ("/v1/{a=x/*}", "x/1/2"), ("/v1/{a=x/*}", "x/.."), ("/v1/{a=**}", "a/../b"),
    ("/v1/{a=**}", "/a"), ("/v1/{a=**}", "a//b"), ("/v1/*/{a}", "x"), ("/v1/{a}", "\ud800"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NO_PATH)
def test_a_value_that_would_make_another_path_makes_none(text, value):
    """Threats D1, F1: `..` or a slash would lead somewhere else than what was authorised."""
    assert read(text).expand([value]) is None


literals = st.text("abz-_.~@:é ", min_size=1, max_size=4).filter(lambda text: text not in {".", ".."})
patterns = st.lists(literals | st.just("*"), min_size=1, max_size=3)


@st.composite
def templates(draw):
    """A template, and values that may fit it."""
    parts, values = [], []
    count = draw(st.integers(1, 4))
    for at in range(count):
        deep = draw(st.booleans()) and at == count - 1
        if draw(st.booleans()):
            parts.append(draw(literals.filter(lambda text: ":" not in text)))
            continue
        pattern = [*draw(patterns), "**"] if deep else draw(patterns)
        values.append(
            "/".join(draw(st.text("ab2F%/.:\\?&#+ ;é€\0", min_size=1, max_size=6)) if part in {"*", "**"} else part for part in pattern)
        )
        parts.append(f"{{v{len(values)}={'/'.join(pattern)}}}")
    verb = draw(st.sampled_from(["", ":go"]))
    return "/" + "/".join(parts) + verb, values


@given(templates())
def test_what_a_template_expands_to_gives_the_values_back(drawn):
    text, values = drawn
    template = read(text)
    path = template.expand(values)
    if path is None:
        assert any(re.search(r"[/\\%\x00-\x1f\x7f]|(^|/)\.{1,2}(/|$)", value) for value in values)
        return
    assert canonical_path(path) == path
    captures = template.match(path)
    assert captures is not None
    found = [value_of(capture, several=variable.several) for capture, variable in zip(captures, template.variables, strict=True)]
    assert found == values


@given(st.text("/{}*=:.ab%2F?é", max_size=30))
def test_any_text_is_a_template_or_a_mistake(text):
    try:
        template = read("/" + text)
    except RuleError:
        return
    assert template.text == "/" + text
    template.match(b"/a/b:a")
    template.expand(["a"] * len(template.variables))

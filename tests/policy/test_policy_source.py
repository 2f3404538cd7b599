"""Reading policy files."""

from __future__ import annotations

import pytest

from flui.model.config import ConfigError
from flui.policy import source
from flui.policy.base import PolicySource, Text

MODEL = "[request_definition]\nr = sub\n[policy_definition]\np = sub\n[policy_effect]\ne = x\n[matchers]\nm = r.sub == \\\n  p.sub\n"


def model(text: str) -> tuple[source.Model, list[str]]:
    found, problems = source.read_model(Text("model.conf", text))
    return found, [str(problem) for problem in problems]


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "model.conf").write_text(MODEL)
    (tmp_path / "b.csv").write_text("p, b")
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfp, a")
    (tmp_path / "notes.txt").write_text("no row")
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "x.yaml").write_text("[]")
    read = source.read(str(tmp_path))
    assert read == PolicySource(Text("model.conf", MODEL), (Text("a.csv", "p, a"), Text("b.csv", "p, b")))
    assert source.read_cases(str(tmp_path)) == (Text("x.yaml", "[]"),)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_a_model_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="there is no"):
        source.read(str(tmp_path / name))


def test_every_file_that_cannot_be_read_is_told_at_once(tmp_path):
    (tmp_path / "model.conf").write_bytes(b"a\nb\n\xff")
    (tmp_path / "a.csv").write_bytes(b"\xfe")
    with pytest.raises(ConfigError) as raised:
        source.read(str(tmp_path))
    assert [(problem.line, problem.what) for problem in raised.value.problems] == [(3, "is not UTF-8"), (1, "is not UTF-8")]


def test_a_file_has_a_largest_size(tmp_path):
    (tmp_path / "model.conf").write_text(MODEL)
    source.read(str(tmp_path))
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(source.MAX_OCTETS + 1)
    with pytest.raises(ConfigError, match="is larger than"):
        source.read(str(tmp_path))


def test_the_version_changes_with_every_name_and_content():
    texts = [
        PolicySource(Text("m", "x"), ()),
        PolicySource(Text("m", "y"), ()),
        PolicySource(Text("m", "x"), (Text("a", ""),)),
        PolicySource(Text("m", "x"), (Text("b", ""),)),
        PolicySource(Text("m", "x"), (Text("a", "b"), Text("c", ""))),
        PolicySource(Text("m", "x"), (Text("a", ""), Text("bc", ""))),
    ]
    assert len({source.version_of(text) for text in texts}) == len(texts)
    assert source.version_of(texts[0]) == source.version_of(PolicySource(Text("m", "x"), ()))


def test_definitions_have_the_line_they_begin_on():
    found, problems = model("# a model\n\n" + MODEL)
    assert problems == []
    assert {key: (definition.value, definition.line) for key, definition in found.definitions.items()} == {
        "r": ("sub", 4),
        "p": ("sub", 6),
        "e": ("x", 8),
        "m": ("r.sub == p.sub", 10),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("r = sub\n" + MODEL, "model.conf:1: r: stands before any section"),
        ("[request]\n" + MODEL, "model.conf:1: request: is no section"),
        ("[Matchers]\nm = 1\n" + MODEL, "model.conf:1: Matchers: is no section"),
        (MODEL + "[matchers]\nm = 1", "model.conf:11: m: is defined a second time (first on line 8)"),
        (MODEL + "m2 = 1", "model.conf:10: m2: is not asked by the mesh"),
        (MODEL + "m", "model.conf:10: m: is no definition"),
        (MODEL.replace("p = sub", "p = sub # who"), "model.conf:4: p: a comment stands behind the definition"),
        (MODEL.replace("  p.sub", "# p.sub"), "model.conf:9: matchers: the line before ends in `\\`"),
        (MODEL.replace("\n  p.sub\n", ""), "model.conf:8: matchers: the last line ends in `\\`"),
        ("[matchers]\nm = 1", "model.conf: request_definition: is missing"),
    ],
)
def test_what_casbin_would_pass_over_in_a_model_is_told_with_its_line(text, said):
    _, problems = model(text)
    assert any(problem.startswith(said) for problem in problems), problems

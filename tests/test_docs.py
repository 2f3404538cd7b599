"""The documents name what exists: files, functions, tests, commands, links. A name that moved is found here, not by a reader."""

import ast
import importlib
import re
import unicodedata
from functools import cache
from pathlib import Path

import pytest

from flui.model.fault import DIALECTS, Fault
from flui.runtime import cli

ROOT = Path(__file__).parents[1]
DOCS = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
OTHERS = sorted(path for room in ("policy", "certs", "compose", "load", "examples", "monitoring") for path in (ROOT / room).rglob("*.md"))
PLACES = ("", "proxy/flui", "tests", "docs")
"""Where a path in a document may begin."""

LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"`([\w./-]+\.py):([A-Za-z_][\w.]*)`")
FILE = re.compile(r"`([\w.-]+(?:/[\w.-]+)*\.(?:py|toml|md|svg|yaml|conf|csv))`")
MAKE = re.compile(r"`make ([a-z-]+)")
FLUI = re.compile(r"`flui ([a-z-]+)(?: ([a-z-]+))?")

MADE = {"ca.pem", "sidecar.yaml", "hello.csv", "policy/hello.csv", "NNNN-title.md"}
"""Files that an operator or a run makes, or that stand for any."""

ROOMS = ("proxy", "tests", "policy", "certs", "compose", "load", "examples", "tools", "docs", "monitoring")


def prose(text: str) -> str:
    """A document without its blocks of code, whose brackets are not links."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    kept = (c for c in heading.strip().lower() if c in "- _" or unicodedata.category(c)[0] in "LN")
    return "".join(kept).replace(" ", "-")


@cache
def anchors(path: Path) -> set[str]:
    return {slug(found[1]) for found in re.finditer(r"^#+ (.*)$", prose(path.read_text("utf-8")), re.MULTILINE)}


def missing_link(document: Path, target: str) -> str:
    """Why a link does not resolve; empty when it does, or leads outside."""
    if re.match(r"[a-z]+:", target):
        return ""
    name, _, anchor = target.partition("#")
    path = (document.parent / name) if name else document
    if not path.exists():
        return f"{target}: there is no {name}"
    if anchor and anchor not in anchors(path):
        return f"{target}: no heading of {path.name} is called so"
    return ""


def found(name: str) -> Path | None:
    return next((ROOT / place / name for place in PLACES if (ROOT / place / name).is_file()), None)


@cache
def everywhere() -> set[str]:
    """The last part of every file's path, for documents that speak of one room."""
    return {path.name for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()}


@cache
def names(path: Path) -> set[str]:
    """What a module defines: functions, classes, constants, and `Class.method`."""
    known: set[str] = set()

    def add(body: list[ast.stmt], before: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                known.add(before + node.name)
            if isinstance(node, ast.ClassDef):
                add(node.body, f"{before}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            known.update(before + target.id for target in targets if isinstance(target, ast.Name))

    add(ast.parse(path.read_text("utf-8")).body, "")
    return known


def missing_name(file: str, name: str) -> str:
    """Why a `file.py:name` names nothing; empty when it does."""
    path = found(file)
    if path is None:
        return f"{file}: there is no such file"
    return "" if name in names(path) else f"{file}:{name}: {file} has no {name}"


def told(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", [*DOCS, *OTHERS], ids=told)
def test_every_relative_link_resolves(document):
    wrong = [why for target in LINK.findall(prose(document.read_text("utf-8"))) if (why := missing_link(document, target))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", DOCS, ids=told)
def test_every_function_that_is_named_exists(document):
    wrong = [why for file, name in NAMED.findall(document.read_text("utf-8")) if (why := missing_name(file, name))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", DOCS, ids=told)
def test_every_file_that_is_named_exists(document):
    missing = [
        name
        for name in FILE.findall(document.read_text("utf-8"))
        if name not in MADE and found(name) is None and not (document.parent / name).is_file() and name not in everywhere()
    ]
    assert not missing, f"there is no {', '.join(missing)}"


@pytest.mark.parametrize("document", [*DOCS, *OTHERS], ids=told)
def test_every_command_that_is_named_exists(document):
    text = document.read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(MAKE.findall(text)) <= targets
    for name, inner in FLUI.findall(text):
        if name == "compiled":  # a contender of the benchmark
            continue
        assert name in cli._COMMANDS, f"flui {name}"
        module, _, command = cli._COMMANDS[name][0].partition(":")
        group = getattr(importlib.import_module(module), command)
        if inner and hasattr(group, "commands"):
            assert inner in group.commands, f"flui {name} {inner}"


def test_every_decision_is_in_the_index():
    folder = ROOT / "docs" / "decisions"
    pages = {path.name for path in folder.glob("[0-9]*.md")}
    index = (folder / "README.md").read_text("utf-8")
    assert pages == set(re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", index))
    numbers = sorted(int(name[:4]) for name in pages)
    assert numbers == list(range(1, len(numbers) + 1)), "a number is missing, or used twice"


def test_every_fault_has_its_row_in_the_contract():
    contract = (ROOT / "docs" / "life-of-a-request.md").read_text("utf-8")
    rows = {name: row for row in contract.splitlines() if row.startswith("| `") for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    reserved = {Fault.DRAINING}
    for fault in set(Fault) - reserved:
        assert fault.value in rows, f"{fault.value} is not told"
        assert str(DIALECTS[fault].http) in rows[fault.value], f"{fault.value}: {rows[fault.value]}"


def test_the_readme_stays_short_and_keeps_its_place_for_figures():
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.count("\n") <= 200
    assert text.index("<!-- bench:begin -->") < text.index("<!-- bench:end -->")


def test_a_name_that_moved_would_be_found():
    """The checks above can fail: each is shown one thing that is not there."""
    readme = ROOT / "README.md"
    assert missing_link(readme, "docs/nowhere.md")
    assert missing_link(readme, "docs/architecture.md#no-such-heading")
    assert not missing_link(readme, "docs/architecture.md#floors-and-rooms")
    assert missing_name("splice.py", "Splice.join")
    assert missing_name("nowhere.py", "anything")
    assert not missing_name("splice.py", "Splice.attach")
    assert NAMED.findall("see `splice.py:Splice.attach`") == [("splice.py", "Splice.attach")]

"""Policy files as texts: reading a folder, and a model's definitions with their line numbers.

`read` and `read_cases` are the only functions of this room that open files. Everything else takes texts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flui.model.config import ConfigError, Problem
from flui.model.units import MIB
from flui.policy.base import PolicySource, Text

MODEL: Final = "model.conf"
MAX_OCTETS: Final = 64 * MIB
"""Largest policy file that is read; 100,000 rules are about 6 MiB."""

SECTIONS: Final[dict[str, str]] = {
    "request_definition": "r",
    "policy_definition": "p",
    "role_definition": "g",
    "policy_effect": "e",
    "matchers": "m",
}


@dataclass(frozen=True, slots=True)
class Definition:
    """One `key = value` of a model."""

    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model file, taken apart."""

    file: str
    text: str
    definitions: dict[str, Definition]
    """By key: r, p, g (only when the model has roles), e, m."""


def read(folder: str) -> PolicySource:
    """The policy in a folder: `model.conf` and every `*.csv` beside it.

    Raises:
        ConfigError: a file is missing, cannot be read, is no UTF-8 or is larger than MAX_OCTETS.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError((Problem(folder, 0, "", "there is no such folder", "name a folder with model.conf and *.csv files"),))
    model = root / MODEL
    if not model.is_file():
        raise ConfigError((Problem(str(model), 0, "", "there is no model", "put model.conf beside the *.csv files"),))
    names = sorted(path for path in root.glob("*.csv") if path.is_file())
    texts, problems = _texts([model, *names])
    if problems:
        raise ConfigError(tuple(problems))
    return PolicySource(texts[0], tuple(texts[1:]))


def read_cases(folder: str) -> tuple[Text, ...]:
    """The files `cases/*.yaml` of a policy folder, in the order of their names; empty when there are none.

    Raises:
        ConfigError: as for `read`.
    """
    texts, problems = _texts(sorted(Path(folder, "cases").glob("*.yaml")))
    if problems:
        raise ConfigError(tuple(problems))
    return tuple(texts)


def _texts(paths: list[Path]) -> tuple[list[Text], list[Problem]]:
    texts: list[Text] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            with path.open("rb") as file:
                octets = file.read(MAX_OCTETS + 1)
        except OSError as error:
            problems.append(Problem(str(path), 0, "", f"cannot be read ({error.strerror})", "make it readable for the sidecar"))
            continue
        if len(octets) > MAX_OCTETS:
            problems.append(Problem(str(path), 0, "", f"is larger than {MAX_OCTETS // MIB} MiB", "split it into several files"))
            continue
        try:
            texts.append(Text(path.name, octets.decode("utf-8-sig")))
        except UnicodeDecodeError as error:
            line = octets[: error.start].count(b"\n") + 1
            problems.append(Problem(str(path), line, "", "is not UTF-8", "save it as UTF-8"))
    return texts, problems


def version_of(source: PolicySource) -> str:
    """Twelve hex digits that change whenever a file's name or content does."""
    digest = hashlib.sha256()
    for text in (source.model, *source.rows):
        for part in (text.name, text.content):
            octets = part.encode()
            # threats D7: length-prefixed, so that no two sources are written alike
            digest.update(b"%d:" % len(octets) + octets)
    return digest.hexdigest()[:12]


def lines_of(text: Text) -> list[str]:
    """The lines as Casbin counts them: only LF (and CR LF) ends one."""
    return [line.removesuffix("\r") for line in text.content.split("\n")]


def read_model(text: Text) -> tuple[Model, list[Problem]]:
    """The definitions of a model, and what is wrong with them.

    Stricter than Casbin's own reader, which passes over sections and keys that it does not know and lets the last of two
    equal keys win.
    """
    problems: list[Problem] = []
    found: dict[str, Definition] = {}
    section = ""
    pending = ""
    started = 0
    for number, raw in enumerate(lines_of(text), 1):
        line = raw.strip()
        if pending and (not line or line[0] in "#;["):
            problems.append(Problem(text.name, number, section, "the line before ends in `\\`", "go on with it here"))
            pending = ""
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]") and not pending:
            section = line[1:-1]
            if section not in SECTIONS:
                known = ", ".join(SECTIONS)
                problems.append(Problem(text.name, number, section, "is no section of a model", f"sections are {known}"))
            continue
        started = started if pending else number
        if line.endswith("\\"):
            pending += line[:-1].strip() + " "
            continue
        _define(text.name, started, section, pending + line, found, problems)
        pending = ""
    if pending:
        problems.append(Problem(text.name, started, section, "the last line ends in `\\`", "finish it"))
    for name, key in SECTIONS.items():
        if key not in found and key != "g" and not problems:
            problems.append(Problem(text.name, 0, name, "is missing", f"add [{name}] with `{key} = …`, as in the model that ships"))
    return Model(text.name, text.content, found), problems


def _define(file: str, line: int, section: str, text: str, found: dict[str, Definition], problems: list[Problem]) -> None:
    key, equals, value = (part.strip() for part in text.partition("="))
    wanted = SECTIONS.get(section)
    if wanted is None:
        if not section:
            problems.append(Problem(file, line, key, "stands before any section", "put it under [request_definition] or another"))
    elif not equals or not value:
        problems.append(Problem(file, line, key, "is no definition", f"write `{wanted} = …`"))
    elif key != wanted:
        problems.append(Problem(file, line, key, f"is not asked by the mesh, which asks `{wanted}` alone", f"write `{wanted} = …`"))
    elif key in found:
        problems.append(Problem(file, line, key, f"is defined a second time (first on line {found[key].line})", "keep one"))
    elif "#" in value:
        problems.append(Problem(file, line, key, "a comment stands behind the definition", "put it on a line of its own"))
    else:
        found[key] = Definition(value, line)

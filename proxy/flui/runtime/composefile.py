"""YAML values with the line of each, read the way Compose reads them. Owns no meaning: only kinds, places and mistakes.

A value that is of the wrong kind is noted as a problem and becomes an empty one, so that the reading goes on and every
mistake is told at once.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from flui.model.config import ConfigError, Problem

Place = tuple[str | int, ...]
"""Where a value stands: the keys and numbers from the top of the file."""

_DEPTH: Final = 32
_NODES: Final = 100_000
_VARIABLE: Final = re.compile(r"\$(?:(\$)|\{([A-Za-z_]\w*)(?::?-([^}]*))?\}|([A-Za-z_]\w*))")


class ComposeFile:
    """One file: its values, the line of each, and the problems found so far."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.folder = file.resolve().parent
        self.problems: list[Problem] = []
        self.lines: dict[Place, int] = {}

    def parsed(self) -> object:
        """The file as plain values, with the line of each in `lines`."""
        try:
            text = self.file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror or "unreadable" if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError((Problem(str(self.file), 0, "", reason, "name a topology file, such as compose/shop.yaml"),)) from error
        return self.marked(text, (), 1)

    def marked(self, text: str, where: Place, first: int, *, guess: bool = True) -> object:
        """Parses YAML whose first line is line `first` of the file.

        Args:
            text: The YAML.
            where: What its keys stand below.
            first: From 1.
            guess: Numbers and truth values become such, as Compose reads them; else they stay the text that they are, as
                a sidecar reads its own file.
        """
        line, why = first, ""
        try:
            loader = yaml.SafeLoader(text)
            try:
                node = loader.get_single_node()
                return self.value(loader, node, where, first, [_NODES], guess=guess) if node is not None else {}
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, why = first + mark.line if mark else first, error.problem or "unreadable"
        except (yaml.YAMLError, ValueError) as error:  # a character, a date or a number that cannot be
            why = str(error).splitlines()[0]
        self.problems.append(Problem(str(self.file), line, "", f"not YAML: {why}", "correct it; blanks, not tabs, indent"))
        return {}

    def value(self, loader: yaml.SafeLoader, node: yaml.Node, path: Place, first: int, budget: list[int], *, guess: bool) -> object:
        """A node as a plain value; merges (`<<`) are resolved and each line is noted, in `lines`."""
        budget[0] -= 1
        if len(path) > _DEPTH or budget[0] < 0:
            raise yaml.MarkedYAMLError(problem="nested too deep or too often", problem_mark=node.start_mark)
        self.lines.setdefault(path, first + node.start_mark.line)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(loader, inner, (*path, number), first, budget, guess=guess) for number, inner in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node) if guess or node.tag == "tag:yaml.org,2002:null" else node.value
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), first + key.start_mark.line
            if name in seen and name != "<<":
                self.problems.append(Problem(str(self.file), line, name, f"written twice, first on line {seen[name]}", "keep one"))
            seen[name] = line
        loader.flatten_mapping(node)
        result: dict[str, object] = {}
        for key, inner in node.value:
            name = str(key.value)
            self.lines[(*path, name)] = first + key.start_mark.line
            result[name] = self.value(loader, inner, (*path, name), first, budget, guess=guess)
        return result

    def interpolated(self, text: str, path: Place) -> str:
        """`$NAME`, `${NAME}` and `${NAME:-default}` as Compose reads them; `$$` is one `$`."""

        def one(found: re.Match[str]) -> str:
            if found[1]:
                return "$"
            name, default = found[2] or found[4], found[3]
            value = os.environ.get(name) or default
            if value is None:
                self.wrong(path, f"the variable {name} is not set", f"set it, or write ${{{name}:-DEFAULT}}")
            return value or ""

        return _VARIABLE.sub(one, text)

    def mapping(self, value: object, path: Place, what: str) -> dict[str, object]:
        """The value as a mapping; `what` says what should be written there."""
        if isinstance(value, dict):
            return value
        if value is not None:
            self.wrong(path, "must be a mapping", f"write {what}")
        return {}

    def text(self, value: object, path: Place) -> str:
        """The value as a text, its variables filled in."""
        if isinstance(value, str):
            return self.interpolated(value, path)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        self.wrong(path, "must be a text", "write one value, in quotes if it looks like something else")
        return ""

    def words(self, value: object, path: Place) -> tuple[str, ...]:
        """A command or list of names: a list, or one text split as a shell would."""
        if isinstance(value, list):
            return tuple(self.text(word, (*path, number)) for number, word in enumerate(value))
        try:
            return tuple(shlex.split(self.text(value, path)))
        except ValueError:
            self.wrong(path, "a quote is not closed", "write it as a list: [PROGRAM, ARGUMENT]")
            return ()

    def environment(self, value: object, path: Place) -> tuple[tuple[str, str], ...]:
        """Variables, written as a mapping or as a list of `NAME=value`."""
        if isinstance(value, list):
            pairs = [self.text(item, (*path, number)).partition("=") for number, item in enumerate(value)]
            return tuple((name, text) for name, _, text in pairs)
        told = self.mapping(value, path, "NAME: value")
        return tuple((name, self.text(text, (*path, name))) for name, text in told.items())

    def unknown(self, own: dict[str, object], at: Place, known: tuple[str, ...]) -> None:
        """Every key that is not a known one is a mistake."""
        for key in own.keys() - set(known):
            self.wrong((*at, key), "unknown key", f"use one of {listed(known)}")

    def line(self, path: Place) -> int:
        """The line of a value, or of the nearest thing around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def wrong(self, path: Place, what: str, fix: str) -> None:
        """Notes a mistake, once per line."""
        line = self.line(path)
        if any(line == other.line and what == other.what for other in self.problems):
            return  # one mistake in a part that several services share
        self.problems.append(Problem(str(self.file), line, ".".join(str(part) for part in path), what, fix))

    def stop_if_wrong(self) -> None:
        """Raises ConfigError with every mistake so far, in the order of the file; nothing when there is none."""
        if self.problems:
            raise ConfigError(tuple(sorted(self.problems, key=lambda problem: problem.line)))


def listed(names: Mapping[str, object] | tuple[str, ...]) -> str:
    """A few names, to choose from."""
    some = sorted(names)
    return ", ".join(some[:8]) + (" …" if len(some) > 8 else "") if some else "nothing: there is none"

"""YAML as a tree that remembers where everything stood, and guesses nothing.

Scalars stay text: what `no`, `1:30` or `010` mean is decided where a type is asked for, not by YAML's rules. What makes
a file say something else than it seems to is refused: a key written twice, an alias, a tag, a second document. Memory and
time are bounded by the size of the file, its depth by `MAX_DEPTH` (threats C12).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import yaml

from flui.model.config import ConfigError, Problem
from flui.model.units import MIB

MAX_OCTETS: Final = 4 * MIB
MAX_DEPTH: Final = 32

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_HINTS: Final = (
    ("found character '\\t'", "indent with spaces, not with tabs"),
    ("that cannot start any token", "put the value in quotes, and indent with spaces, not with tabs"),
    ("expected alphabetic or numeric character", 'put a value that begins with `*` or `&` in quotes: "*"'),
    ("block sequence entries are not allowed", 'put a value that begins with a dash in quotes: "-"'),
    ("mapping values are not allowed", "write one `key: value` on a line, and put a value that holds `: ` in quotes"),
    ("could not find expected ':'", "write `key: value`"),
    ("expected ',' or", "close the bracket, and put a comma between the values"),
    ("quoted scalar", "close the quotes"),
    ("special characters are not allowed", "remove the control character"),
)
"""Part of the parser's own words, and what most often helps."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was said."""

    file: str
    line: int
    """From 1; 0: not in a file."""
    key: str
    """Path to it, such as `services.stock.endpoints[1]`."""


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar, as it was written."""

    place: Place
    text: str
    plain: bool = True
    """Not in quotes."""

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was written, or YAML's words for it."""
        return self.plain and self.text in {"", "~", "null", "Null", "NULL"}


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    place: Place
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping, in the order in which it was written."""

    place: Place
    entries: dict[str, Node]


Node: TypeAlias = Text | Items | Section


def load(file: str) -> tuple[Node, tuple[Problem, ...]]:
    """Read a YAML file.

    Args:
        file: Its path, which is also how problems name it.

    Returns:
        Its tree, and what is wrong with it although it could be read: keys written twice, aliases, tags.

    Raises:
        ConfigError: It cannot be read, or is not YAML.
    """
    try:
        with Path(file).open("rb") as stream:
            octets = stream.read(MAX_OCTETS + 1)
    except FileNotFoundError:
        raise _error(file, 0, "there is no such file", "check the path") from None
    except IsADirectoryError:
        raise _error(file, 0, "this is a folder", "name the file in it") from None
    except OSError as error:
        raise _error(file, 0, f"it cannot be read: {error.strerror}", "check its owner and mode") from None
    return parse(octets, file)


def parse(octets: bytes, file: str, first: int = 1) -> tuple[Node, tuple[Problem, ...]]:
    """The same, of octets that are at hand and begin on line `first` of the file."""
    before = first - 1
    if len(octets) > MAX_OCTETS:
        raise _error(file, 0, f"it is larger than {MAX_OCTETS // MIB} MiB", "split it, or check that it is the right file")
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error(file, before + octets.count(b"\n", 0, error.start) + 1, "this line is not UTF-8", "save it as UTF-8") from None
    builder = _Builder(file, text, before)
    try:
        return builder.document(), tuple(builder.problems)
    except yaml.MarkedYAMLError as error:
        words = error.problem or error.context or "it ends too early"
        # What is never closed is found at the end, and was begun where the context says.
        mark = error.context_mark if "end of stream" in words and error.context_mark else error.problem_mark or error.context_mark
        line = before + mark.line + 1 if mark else first
        raise _error(file, line, f"this is not YAML: {words}", _hint(f"{error.context} {words}")) from None
    except yaml.reader.ReaderError as error:
        line = before + text.count("\n", 0, error.position) + 1
        raise _error(file, line, f"this is not YAML: {error.reason}", _hint(error.reason)) from None


def _hint(words: str) -> str:
    return next((hint for part, hint in _HINTS if part in words), "check the indentation, quotes and brackets there and on the line before")


def _error(file: str, line: int, what: str, fix: str) -> ConfigError:
    return ConfigError((Problem(file, line, "", what, fix),))


class _Builder:
    """Makes the tree from the parser's events, so that depth and aliases are in our hands."""

    def __init__(self, file: str, text: str, before: int) -> None:
        self._file = file
        self._before = before
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self.problems: list[Problem] = []

    def document(self) -> Node:
        nothing: Node = Text(Place(self._file, self._before + 1, ""), "")
        node = nothing
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._wrong(self._line(event), "", "a second document begins here", "keep one per file: remove the `---`")
                    return node
                node = self._node(next(self._events), self._before + 1, "", 0)
        return node

    def _node(self, event: yaml.Event, line: int, key: str, depth: int) -> Node:
        """The node that begins with this event.

        Args:
            event: Its first event.
            line: Where the key before it stood.
            key: Path to it.
            depth: Collections around it.
        """
        own_line = self._line(event)
        if depth > MAX_DEPTH:
            raise _error(self._file, own_line, f"lists and sections nest deeper than {MAX_DEPTH}", "write it flatter")
        if isinstance(event, yaml.AliasEvent):
            self._wrong(own_line, key, f"`*{event.anchor}` is an alias", "write out what it stands for: aliases are not read here")
            return Text(Place(self._file, own_line, key), "")
        if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None) not in {None, "!"}:
            self._wrong(own_line, key, "the value has a `!` tag", "remove the tag")
        if isinstance(event, yaml.MappingStartEvent):
            return self._section(Place(self._file, line, key), depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._items(Place(self._file, line, key), depth)
        assert isinstance(event, yaml.ScalarEvent)
        return Text(Place(self._file, own_line, key), event.value, plain=not event.style)

    def _items(self, place: Place, depth: int) -> Items:
        items: list[Node] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, self._line(event), f"{place.key}[{len(items)}]", depth + 1))
        return Items(place, tuple(items))

    def _section(self, place: Place, depth: int) -> Section:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            line = self._line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise _error(self._file, line, "a key is not a plain word", "write `key: value`")
            name = event.value
            path = f"{place.key}.{name}" if place.key else name
            node = self._node(next(self._events), line, path, depth + 1)
            if name in entries:
                self._wrong(line, path, f"this key stands on line {lines[name]} already", "keep one of the two")
            else:
                entries[name] = node
                lines[name] = line
        return Section(place, entries)

    def _line(self, event: yaml.Event) -> int:
        mark = event.start_mark
        assert mark is not None, "the parser marks every event"
        return self._before + mark.line + 1

    def _wrong(self, line: int, key: str, what: str, fix: str) -> None:
        self.problems.append(Problem(self._file, line, key, what, fix))

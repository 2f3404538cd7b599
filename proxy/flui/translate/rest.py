"""Which method an HTTP request means: `google.api.http` annotations, and `POST /pkg.Service/Method` for every method.

A tree of segments is walked. What is said more exactly goes first: a literal before `*` before `**`, segment by segment from
the left; a verb (`:cancel`) before the same text as a value; then the HTTP method itself before `*`; among equals what was
declared first. HEAD is not GET: it is served where a rule says HEAD (`custom`).

A place in the tree is reached in one way only, so a look-up costs at most one visit of each place, whatever the path (C14).
"""

from __future__ import annotations

from typing import Final

from flui.translate.schema import NO_SCHEMA, HttpRule, Method, Schema
from flui.translate.template import RuleError, Segment, decoded, split
from flui.translate.ways import Way, default_way

_EVERY: Final = b"*"


class Bound:
    """A request that found its way."""

    __slots__ = ("captures", "way")

    def __init__(self, way: Way, captures: tuple[bytes, ...]) -> None:
        self.way = way
        self.captures = captures
        """What the path says for each variable of `way.places`, still encoded."""

    @property
    def method(self) -> Method:
        """What is called: policy is asked for its `path`."""
        return self.way.method

    @property
    def rule(self) -> HttpRule:
        """By which rule."""
        return self.way.rule

    def __repr__(self) -> str:
        return f"Bound({self.way!r}, {self.captures!r})"


class _Node:
    """A place in the tree: what the segments so far lead to."""

    __slots__ = ("any", "below", "children", "here")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.any: _Node | None = None
        self.here: dict[bytes, dict[bytes, Way]] = {}
        """Templates that end here: by their verb, and the HTTP method."""
        self.below: dict[bytes, dict[bytes, Way]] = {}
        """Those that end here in `**`."""


class RestRoutes:
    """Every way to the methods of a schema. Made once for each schema, never changed."""

    __slots__ = ("_depth", "_exact", "_root", "_ways", "mistakes", "schema")

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._root = _Node()
        self._depth = 0
        self._exact: dict[bytes, dict[bytes, Way]] = {}
        """Of templates that are one path each, by the HTTP method."""
        self._ways: dict[bytes, tuple[Way, ...]] = {}
        mistakes: list[str] = []
        for method in schema.methods.values():
            ways: list[Way] = []
            for rule in method.rules:
                said = f"{method.service}.{method.name}: {rule.method} {rule.path}"
                try:
                    way = Way(method, rule)
                except RuleError as error:
                    mistakes.append(f"{said}: {error}")
                    continue
                ways.append(way)
                first = self._plant(way)
                if first is not way:
                    mistakes.append(f"{said}: {first.method.service}.{first.method.name} has this path already; give it another")
            self._ways[method.path] = tuple(ways)
        for method in schema.methods.values():
            # Behind what is annotated: whoever annotates such a path means it.
            way = default_way(method)
            table = self._exact.setdefault(method.path, {})
            if _EVERY not in table:
                table.setdefault(way.verb, way)
            self._ways[method.path] += (way,)
        self.mistakes: tuple[str, ...] = tuple(mistakes)
        """Rules that cannot be served, or never are, a sentence each; the others are served."""

    def ways(self, method: Method) -> tuple[Way, ...]:
        """The ways to a method: as annotated, then the default one."""
        return self._ways.get(method.path, ())

    def match(self, verb: bytes, path: bytes) -> Bound | None:
        """What a request means.

        Args:
            verb: HTTP method.
            path: canonical (`codecs.validate.canonical_path`), without the query.

        Returns:
            None: nothing is at this path, or not for this method (`allowed` tells which).
        """
        if not path.startswith(b"/"):
            return None  # the `*` of OPTIONS
        exact = self._exact.get(path)
        if exact is not None:
            way = exact.get(verb)
            if way is None:
                way = exact.get(_EVERY)
            if way is not None and not way.places:
                return Bound(way, ())
        colon = _colon(path)
        if colon > 0:
            parts = split(path[:colon], self._depth)
            way = _find(self._root, _plain(parts), 0, path[colon + 1 :], verb)
            if way is not None:
                return Bound(way, way.template.captures(parts) if way.places else ())
        parts = split(path, self._depth)
        way = _find(self._root, _plain(parts), 0, b"", verb)
        if way is not None:
            return Bound(way, way.template.captures(parts) if way.places else ())
        return None

    def allowed(self, path: bytes) -> tuple[bytes, ...]:
        """The HTTP methods that a canonical path is served for, sorted; none: it is not served at all."""
        if not path.startswith(b"/"):
            return ()
        found: set[bytes] = set(self._exact.get(path, ()))
        colon = _colon(path)
        if colon > 0:
            _gather(self._root, _plain(split(path[:colon], self._depth)), 0, path[colon + 1 :], found)
        _gather(self._root, _plain(split(path, self._depth)), 0, b"", found)
        return tuple(sorted(found))

    def _plant(self, way: Way) -> Way:
        """Gives a way its place in the tree; what had it before is returned in its stead."""
        template = way.template
        self._depth = max(self._depth, len(template.segments))
        node = self._root
        deep = False
        for segment in template.segments:
            if segment.deep:
                deep = True
                break
            node = _child(node, segment)
        tables = node.below if deep else node.here
        first = tables.setdefault(template.verb, {}).setdefault(way.verb, way)
        if first is way and all(segment.literal is not None for segment in template.segments):
            path = b"/" + b"/".join([segment.written for segment in template.segments])
            if template.verb:
                path += b":" + template.verb
            # A verb goes before the same text without one, whichever was declared first; a variable of literals is walked.
            table = self._exact.setdefault(path, {})
            if template.verb:
                table[way.verb] = way
            else:
                table.setdefault(way.verb, way)
        return first


def _child(node: _Node, segment: Segment) -> _Node:
    if segment.literal is None:
        if node.any is None:
            node.any = _Node()
        return node.any
    return node.children.setdefault(segment.literal, _Node())


def _colon(path: bytes) -> int:
    """Where the verb of a path begins, if it has one; -1: it has none."""
    at = path.rfind(b":")
    return at if at > path.rfind(b"/") and at != len(path) - 1 else -1


def _plain(parts: list[bytes]) -> list[bytes]:
    for part in parts:
        if b"%" in part:
            return [decoded(each) or b"" for each in parts]
    return parts


def _find(node: _Node, parts: list[bytes], at: int, label: bytes, verb: bytes) -> Way | None:
    """The way from a node on, by the precedence of the module; `label` is the verb of the template."""
    way: Way | None = None
    if at == len(parts):
        way = _of(node.here.get(label), verb)
    else:
        part = parts[at]
        child = node.children.get(part)
        if child is not None:
            way = _find(child, parts, at + 1, label, verb)
        if way is None and node.any is not None and part:
            way = _find(node.any, parts, at + 1, label, verb)
    if way is None and node.below:
        way = _of(node.below.get(label), verb)
    return way


def _of(table: dict[bytes, Way] | None, verb: bytes) -> Way | None:
    if table is None:
        return None
    way = table.get(verb)
    return way if way is not None else table.get(_EVERY)


def _gather(node: _Node, parts: list[bytes], at: int, label: bytes, found: set[bytes]) -> None:
    """Every HTTP method that `_find` would find a way for."""
    if at == len(parts):
        found.update(node.here.get(label, ()))
    else:
        part = parts[at]
        child = node.children.get(part)
        if child is not None:
            _gather(child, parts, at + 1, label, found)
        if node.any is not None and part:
            _gather(node.any, parts, at + 1, label, found)
    found.update(node.below.get(label, ()))


NO_ROUTES: Final = RestRoutes(NO_SCHEMA)
"""Of a module of which nothing is known."""

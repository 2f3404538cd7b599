"""A gRPC request becomes a REST one: the other direction of `rest_in`, by the same rules.

The first rule that can say the whole message is taken. What the path and the body do not have goes into the query, under the
names of the proto file, as `google/api/http.proto` says: `a.b=1` for what is within a message, `a=1&a=2` for a list.

What cannot be said so is refused rather than left out: a map, a list of messages or a `Struct` outside of the body, a message
that is there but empty, an empty value where the path needs a segment, and whatever no canonical path can hold.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from flui.translate.rest_in import MAX_DEPTH, MAX_PARAMETERS
from flui.translate.scalars import kind_of, text_of
from flui.translate.schema import FieldType, Kind, MessageType, Unfit
from flui.translate.ways import ABSENT, Place, Way

MAX_TARGET: Final = 8192
"""Octets of path and query: what servers take (RFC 9110 4.1 asks for 8000)."""

_TOO_LONG: Final = f"is too long for a URL: {MAX_PARAMETERS} parameters and {MAX_TARGET} octets are the limit"


class Told:
    """A REST request."""

    __slots__ = ("body", "path", "query", "verb", "way")

    def __init__(self, way: Way, verb: bytes, path: bytes, query: bytes, body: object) -> None:
        self.way = way
        """By which rule; its `answer` says what the body of the answer is."""
        self.verb = verb
        self.path = path
        """Canonical."""
        self.query = query
        """Empty, or `?` and the query."""
        self.body = body
        """Tree of the body; `ABSENT`: there is none."""

    def __repr__(self) -> str:
        return f"Told({self.verb!r}, {self.path + self.query!r}, {self.body!r})"


def tell(ways: tuple[Way, ...], tree: object) -> Told:
    """The request that says a message.

    Args:
        ways: of its method (`RestRoutes.ways`). The default one is taken only where nothing is annotated.
        tree: of the message, by either name of each field; never changed.

    Raises:
        Unfit: no rule can say it; what the first one fails at.
    """
    annotated = [way for way in ways if way.annotated] or list(ways)
    wrong: list[tuple[str, str]] = []
    # A field at its default is not in a ProtoJSON tree: where no rule does without it, it is said.
    for implied in (False, True):
        wrong = []
        for way in annotated:
            try:
                return tell_by(way, tree, implied=implied)
            except Unfit as unfit:
                wrong.append((unfit.path, unfit.what))  # kept itself, it and this frame would hold each other until a collection
    where, what = wrong[0] if wrong else ("", "the method has no route over HTTP")
    raise Unfit(where, what)


def tell_by(way: Way, tree: object, *, implied: bool = True) -> Told:
    """The request that says a message by one rule.

    Args:
        way: the rule.
        tree: of the message.
        implied: a variable that is not there, and of which proto3 cannot tell that from its default, is the default.

    Raises:
        Unfit: the rule cannot say it.
    """
    verb = b"POST" if way.verb == b"*" else way.verb
    if way.whole and not way.places:
        return Told(way, verb, _path(way, []), b"", tree)
    if not isinstance(tree, dict):
        raise Unfit("", "the message must be an object")
    rest: dict[str, object] = dict(tree)
    path = _path(way, [_taken(rest, place, implied=implied) for place in way.places])
    if len(path) > MAX_TARGET:
        raise Unfit("", _TOO_LONG)
    if way.whole:
        return Told(way, verb, path, b"", rest)
    body: object = ABSENT
    if way.body is not None:
        for name in (way.body.json_name, way.body.name):
            if name in rest:
                body = rest.pop(name)
    pairs = _Pairs(MAX_TARGET - len(path))
    if rest:
        _flatten(way.method.asks, rest, "", "", 1, pairs, gone=frozenset(place.path for place in way.places))
    return Told(way, verb, path, pairs.query(), body)


class _Pairs:
    """The parameters of a query, as many as a URL takes."""

    __slots__ = ("_room", "_said")

    def __init__(self, room: int) -> None:
        self._said: list[str] = []
        self._room = room
        """Octets that are left, its `?` included."""

    def add(self, name: str, field: FieldType, value: object, where: str) -> None:
        """One more; refused before it is encoded when its plain text is too long, as no encoding is shorter."""
        if len(self._said) >= MAX_PARAMETERS:
            raise Unfit("", _TOO_LONG)
        text = text_of(field, value, where)
        if len(text) > MAX_TARGET:
            raise Unfit(where, _TOO_LONG)
        if len(name) + len(text) + 2 > self._room:
            raise Unfit("", _TOO_LONG)
        try:
            pair = f"{name}={quote(text, safe='')}"
        except UnicodeEncodeError:
            raise Unfit(where, "is no Unicode text") from None
        self._room -= len(pair) + 1
        if self._room < 0:
            raise Unfit("", _TOO_LONG)
        self._said.append(pair)

    def query(self) -> bytes:
        """Empty, or `?` and what was said."""
        return ("?" + "&".join(self._said)).encode() if self._said else b""


def _path(way: Way, values: list[str]) -> bytes:
    path = way.template.expand(values)
    if path is not None:
        return path
    what = f"cannot stand in the path {way.rule.path}"
    for at, place in enumerate(way.places):
        if not way.template.takes(at, values[at]):
            raise Unfit(place.path, what)
    raise Unfit("", f"the message {what}")


def _taken(rest: dict[str, object], place: Place, *, implied: bool) -> str:
    """Takes the value of a variable out of a tree whose top is ours."""
    inside = rest
    last = len(place.chain) - 1
    for at, field in enumerate(place.chain):
        name = field.json_name
        if name not in inside and field.name in inside:
            name = field.name
        value = inside.get(name)
        if at < last:
            if not isinstance(value, dict):
                raise Unfit(place.path, "is missing, and the path needs it")
            fresh: dict[str, object] = dict(value)
            inside[name] = fresh
            inside = fresh
        elif value is not None:
            del inside[name]
            text = text_of(field, value, place.path)
            if len(text) > MAX_TARGET:
                # Before anything is encoded: no encoding is shorter.
                raise Unfit(place.path, _TOO_LONG)
            return text
        elif implied and not field.presence:
            return _default(field)
    raise Unfit(place.path, "is missing, and the path needs it")


def _default(field: FieldType) -> str:
    """What a field without presence is when it is not said."""
    if field.enum is not None:
        return field.enum.names.get(0, "0")
    if field.kind == Kind.BOOL:
        return "false"
    return "" if field.kind in {Kind.STRING, Kind.BYTES} else "0"


def _flatten(
    message: MessageType, tree: dict[str, object], path: str, prefix: str, depth: int, pairs: _Pairs, gone: frozenset[str]
) -> None:
    """Writes the fields of a tree as query parameters; `gone` are those that the path has."""
    if depth > MAX_DEPTH:
        raise Unfit(path, f"is deeper than {MAX_DEPTH} messages")
    for key, value in tree.items():
        field = message.by_json.get(key)
        if field is None:
            raise Unfit(f"{path}.{key}" if path else key, "there is no such field")
        where = f"{path}.{field.json_name}" if path else field.json_name
        if value is None:
            continue
        name = f"{prefix}{field.name}"
        if field.repeated:
            if not isinstance(value, (list, dict)):
                raise Unfit(where, "must be a list")
            if not value:
                continue
            if field.message is not None or isinstance(value, dict):
                raise Unfit(where, "a map or a list of messages cannot stand in a query")
            for at, each in enumerate(value):
                pairs.add(name, field, each, f"{where}[{at}]")
        elif kind_of(field):
            pairs.add(name, field, value, where)
        elif field.message is None or field.message.well_known:
            raise Unfit(where, "its value cannot stand in a query")
        elif not isinstance(value, dict):
            raise Unfit(where, "must be an object")
        elif value:
            _flatten(field.message, value, where, f"{name}.", depth + 1, pairs, gone)
        elif not any(each.startswith(f"{where}.") for each in gone):
            # Whether it is there can be what the message says; a query cannot say it.
            raise Unfit(where, "is there but empty, which no query can say")

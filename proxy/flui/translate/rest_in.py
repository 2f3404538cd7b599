"""A REST request becomes the tree of its message: path variables, query parameters and body, each field said once.

What the path says is the truth: a body that says the same field otherwise is refused, as is a query parameter for a field that
the path or the body has (threats F6). Query parameters are fields and nothing else: no system parameters (`$alt`, `key`) are
known. `google.api.HttpBody` is a message like any other here.
"""

from __future__ import annotations

from typing import Final

from flui.translate.rest import Bound
from flui.translate.scalars import is_same, kind_of, value_of
from flui.translate.schema import FieldType, MessageType, Unfit
from flui.translate.template import decoded
from flui.translate.template import value_of as captured
from flui.translate.ways import ABSENT, Place, Way

MAX_PARAMETERS: Final = 1000
"""Of one query; with the depth of a name, it keeps a tree below the 100,000 nodes that JSON may have (threats C12)."""
MAX_DEPTH: Final = 64
"""Names in one parameter: `a.b.c` is three."""

_SHOWN: Final = 80


class Said:
    """What path and query say, which every message of a request has; read once."""

    __slots__ = ("_tree", "_way", "_within")

    def __init__(self, way: Way, tree: dict[str, object], within: list[tuple[Place, object]]) -> None:
        self._way = way
        self._tree = tree
        """By JSON names; never changed, nor is what is in it."""
        self._within = within
        """Variables that a body may say, too, and their values."""

    def ask(self, body: object) -> object:
        """The tree of a message, for `json_in` to encode as the request of the method.

        Args:
            body: its tree, never changed; `ABSENT`: there was none.

        Returns:
            An object by JSON names (those of the body as they were said), which may hold what other messages of this request
            hold and is not to be changed; another tree only where the whole body is a message whose JSON is no object, such
            as a `StringValue`.

        Raises:
            Unfit: something is said twice, or there is a body where none may be.
        """
        way = self._way
        if body is ABSENT:
            if way.whole and way.method.asks.well_known not in {"", "Empty", "Struct"}:
                raise Unfit("", "a body is missing; write the message as JSON")
            return self._tree
        tree: dict[str, object]
        if way.whole:
            if not way.places:
                return body
            if not isinstance(body, dict):
                raise Unfit("", "the body must be an object")
            tree = dict(body)
        elif way.body is None:
            raise Unfit("", "there is a body, but this route has none; say its fields in the query")
        else:
            tree = dict(self._tree)
            tree[way.body.json_name] = body
        for place, value in self._within:
            _place(tree, place, value)
        return tree


def said(bound: Bound, query: bytes) -> Said:
    """Reads what the path and the query of a request say.

    Args:
        bound: what `RestRoutes.match` gave.
        query: as it came, with or without its `?`.

    Raises:
        Unfit: something is said twice, of the wrong type, or is no field of the message.
    """
    way = bound.way
    tree: dict[str, object] = {}
    within: list[tuple[Place, object]] = []
    for at, place in enumerate(way.places):
        text = captured(bound.captures[at], several=place.variable.several)
        if text is None:
            raise Unfit(place.path, "is no UTF-8 in the path")
        value = value_of(place.chain[-1], text, place.path)
        _place(tree, place, value)
        if way.whole or place.chain[0] is way.body:
            within.append((place, value))
    if len(query) > 1:
        if way.whole:
            _no_parameters(query)
        else:
            _parameters(tree, way, query)
    return Said(way, tree, within)


def ask(bound: Bound, query: bytes, body: object) -> object:
    """The tree of a request of one message: `said`, and `Said.ask` of its body."""
    return said(bound, query).ask(body)


def _no_parameters(query: bytes) -> None:
    for name, _ in _pairs(query):
        raise Unfit(_shown(name), "there are no query parameters: all fields are in the path or the body")


def _place(tree: dict[str, object], place: Place, value: object) -> None:
    """Puts what the path says where its field is; `tree` is ours, what is in it is not."""
    inside = tree
    last = len(place.chain) - 1
    for at in range(last):
        field = place.chain[at]
        name = field.json_name
        if name not in inside and field.name in inside:
            name = field.name
        below = inside.get(name)
        if below is None:
            below = {}
        elif not isinstance(below, dict):
            raise Unfit(".".join([each.json_name for each in place.chain[: at + 1]]), "must be an object")
        fresh: dict[str, object] = dict(below)
        inside[name] = fresh
        inside = fresh
    field = place.chain[last]
    said = False
    for name in (field.json_name, field.name):
        found = inside.pop(name, None)
        if found is None:
            continue
        if not is_same(field, found, value):
            raise Unfit(place.path, "the path and the body disagree; say it in the path alone")
        if said:
            raise Unfit(place.path, "is said twice in the body")
        said = True
    # In the path's spelling, which policy and route were found by, whatever else counts as the same.
    inside[field.json_name] = value


def _parameters(tree: dict[str, object], way: Way, query: bytes) -> None:
    """Puts query parameters where their fields are. Objects on the way are ours: what the body has is not reached."""
    for name, text in _pairs(query):
        chain = _chain(way.method.asks, name)
        field = chain[-1]
        if chain[0] is way.body:
            raise Unfit(_shown(name), "is no query parameter: the body has it")
        inside = tree
        path = ""
        for at in range(len(chain) - 1):
            json_name = chain[at].json_name
            path = f"{path}.{json_name}" if path else json_name
            below = inside.get(json_name)
            if not isinstance(below, dict):
                below = inside[json_name] = {}
            inside = below
        json_name = field.json_name
        path = f"{path}.{json_name}" if path else json_name
        value = value_of(field, text, path)
        if field.repeated:
            values = inside.get(json_name)
            if isinstance(values, list):
                values.append(value)
            else:
                inside[json_name] = [value]
        elif json_name in inside:
            for place in way.places:
                if place.path == path:
                    raise Unfit(path, "is no query parameter: the path has it")
            raise Unfit(path, "is said twice in the query")
        else:
            inside[json_name] = value


def _chain(message: MessageType, name: str) -> list[FieldType]:
    """The fields that the name of a parameter leads through."""
    chain: list[FieldType] = []
    inside: MessageType | None = message
    parts = name.split(".", MAX_DEPTH)
    if len(parts) > MAX_DEPTH:
        raise Unfit(_shown(name), f"is deeper than {MAX_DEPTH} names")
    for part in parts:
        field = None if inside is None or inside.well_known else inside.by_json.get(part)
        if field is None:
            raise Unfit(_shown(name), "there is no such query parameter")
        if chain and chain[-1].repeated:
            break
        chain.append(field)
        inside = field.message
    field = chain[-1]
    if field.repeated and field.message is not None:
        raise Unfit(_shown(name), "is a map or a list of messages, which no query can hold")
    if not kind_of(field):
        raise Unfit(_shown(name), "is a message; name one of its fields, as in `a.b=1`, if it has any")
    return chain


def _pairs(query: bytes) -> list[tuple[str, str]]:
    """Names and values of a query: `+` is a space (`application/x-www-form-urlencoded`)."""
    if query.startswith(b"?"):
        query = query[1:]
    pairs: list[tuple[str, str]] = []
    parts = query.split(b"&", MAX_PARAMETERS)
    if len(parts) > MAX_PARAMETERS:
        raise Unfit("", f"there are more than {MAX_PARAMETERS} query parameters")
    for part in parts:
        if part:
            name, _, value = part.partition(b"=")
            pairs.append((_text(name), _text(value)))
    return pairs


def _text(octets: bytes) -> str:
    if b"+" in octets:
        octets = octets.replace(b"+", b" ")
    plain = decoded(octets)
    if plain is None:
        raise Unfit("", "the query has a `%` without two hexadecimal digits; write `%25` for the character")
    try:
        return plain.decode()
    except UnicodeDecodeError:
        raise Unfit("", "the query is no UTF-8") from None


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN else name[:_SHOWN] + "…"

"""What a module serves, for people: each method, its routes, and a line of `curl` for each dialect that `curl` can speak."""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import quote

from flui.translate.rest import RestRoutes
from flui.translate.rest_out import tell_by
from flui.translate.scalars import kind_of
from flui.translate.schema import FieldType, Kind, MessageType, Method, Schema, Unfit
from flui.translate.template import Segment
from flui.translate.ways import ABSENT, Place, Way

_DEEP: Final = 3
"""Messages within messages that an example has."""
MAX_SHOWN: Final = 500
"""Fields that are looked at for an example: messages of many messages grow with the power of `_DEEP`."""
_JSON: Final = "-H 'content-type: application/json'"
_NDJSON: Final = "-H 'content-type: application/x-ndjson'"
_EXAMPLES: Final[dict[str, object]] = {
    "Timestamp": "2026-01-01T00:00:00Z", "Duration": "1.5s", "FieldMask": "name", "Struct": {"key": "value"}, "Value": "value",
    "ListValue": ["value"], "Empty": {}, "Any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1.5s"},
}  # fmt: skip
_LONG: Final = frozenset((Kind.INT64, Kind.UINT64, Kind.FIXED64, Kind.SFIXED64, Kind.SINT64))


def listing(schema: Schema, routes: RestRoutes, host: str) -> list[dict[str, object]]:
    """The services of a schema, by their names.

    Args:
        schema: what the module serves.
        routes: of the schema.
        host: `HOST:PORT` that the lines ask.

    Returns:
        `{"service", "methods": [{"method", "path", "kind", "request", "response", "routes": [{"verb", "path", "body",
        "response_body", "annotated"}], "curl": [{"dialect", "line"}]}]}`; `kind` is `unary`, `server`, `client` or `bidi`.
    """
    services: dict[str, list[dict[str, object]]] = {}
    for method in schema.methods.values():
        told: list[object] = [_route(way) for way in routes.ways(method)]
        services.setdefault(method.service, []).append(
            {
                "method": method.name,
                "path": method.path.decode(),
                "kind": kind(method),
                "request": method.asks.name,
                "response": method.tells.name,
                "routes": told,
                "curl": curl_lines(routes, method, host),
            }
        )
    return [{"service": name, "methods": services[name]} for name in sorted(services)]


def kind(method: Method) -> str:
    """`unary`, `server`, `client` or `bidi`: which sides stream."""
    if method.client_streams:
        return "bidi" if method.server_streams else "client"
    return "server" if method.server_streams else "unary"


def curl_lines(routes: RestRoutes, method: Method, host: str) -> list[dict[str, str]]:
    """A line for each way to a method, and one for Connect where no stream needs its envelopes."""
    lines: list[dict[str, str]] = []
    for way in routes.ways(method):
        line = _rest_line(way, host)
        if line:
            lines.append({"dialect": "REST" if way.annotated else "JSON", "line": line})
    if kind(method) == "unary":
        body = _json(example(method.asks))
        url = f"http://{host}{method.path.decode()}"
        lines.append({"dialect": "Connect", "line": f"curl -X POST {url} {_JSON} -H 'connect-protocol-version: 1' -d {body}"})
    return lines


def example(message: MessageType) -> object:
    """A tree that fits a message: every field said, one member of each oneof, a message within itself left out.

    Of a message of very many fields, `MAX_SHOWN` of them are gone through, from the first on, with those within them.
    """
    return _example(message, 1, _Room(MAX_SHOWN))


class _Room:
    """How many fields may still be looked at."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


def _example(message: MessageType, depth: int, room: _Room) -> object:
    if message.well_known:
        if message.well_known in _EXAMPLES:
            return _EXAMPLES[message.well_known]
        return _scalar(message.by_number[1])
    tree: dict[str, object] = {}
    oneofs: set[str] = set()
    for field in message.fields:
        if not room.left:
            break
        room.left -= 1
        inner = field.message
        if field.oneof in oneofs or (inner is not None and not inner.well_known and not field.is_map and depth >= _DEEP):
            continue
        if inner is message:
            continue
        if field.oneof:
            oneofs.add(field.oneof)
        if field.is_map:
            assert inner is not None, "a map without its entry"
            value = inner.by_number[2]
            if value.message is message or (value.message is not None and depth >= _DEEP):
                continue
            key = inner.by_number[1]
            tree[field.json_name] = {"key" if key.kind == Kind.STRING else _text(_scalar(key)): _value(value, depth, room)}
        else:
            one = _value(field, depth, room)
            tree[field.json_name] = [one] if field.repeated else one
    return tree


def _route(way: Way) -> dict[str, object]:
    rule = way.rule
    return {
        "verb": rule.method,
        "path": rule.path,
        "body": rule.body,
        "response_body": rule.response_body,
        "annotated": way.annotated,
    }


def _value(field: FieldType, depth: int, room: _Room) -> object:
    return _scalar(field) if field.message is None else _example(field.message, depth + 1, room)


def _scalar(field: FieldType) -> object:
    if field.enum is not None:
        for name, number in field.enum.numbers.items():
            if number:
                return name
        return next(iter(field.enum.numbers), 0)
    if field.kind in _LONG:
        return "1"
    if field.kind == Kind.BOOL:
        return True
    if field.kind == Kind.BYTES:
        return "aGVsbG8="
    if field.kind in {Kind.DOUBLE, Kind.FLOAT}:
        return 1.5
    return field.name if field.kind == Kind.STRING else 1


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json(tree: object) -> str:
    """A tree as a word of the shell."""
    return "'" + json.dumps(tree, separators=(",", ":"), ensure_ascii=False).replace("'", "'\\''") + "'"


def _rest_line(way: Way, host: str) -> str:
    """A line by one rule; empty: there is nothing it can say, such as a `*` that is in no variable."""
    method = way.method
    tree = example(method.asks)
    if isinstance(tree, dict):
        tree = _sayable(way, tree)
        for place in way.places:
            _put(tree, method.asks, place, _fitting(way, place))
    try:
        told = tell_by(way, tree)
    except Unfit:
        return ""
    url = f"http://{host}{(told.path + told.query).decode()}"
    if any(char in url for char in "?&*()'!$;"):
        url = "'" + url.replace("'", "'\\''") + "'"
    words = ["curl"]
    if method.server_streams:
        words.append("-N")
    # For a HEAD that is merely named, curl waits for a body that never comes.
    words += ["-I", url] if told.verb == b"HEAD" else ["-X", told.verb.decode(), url]
    if told.body is not ABSENT:
        words.append(_NDJSON if method.client_streams else _JSON)
    if method.server_streams:
        words.append("-H 'accept: application/x-ndjson'")
    if told.body is not ABSENT:
        words += ["-d", _json(told.body)]
    return " ".join(words)


def _sayable(way: Way, tree: dict[str, object]) -> dict[str, object]:
    """An example without what this rule's query cannot hold: lists of messages, maps, messages that are no objects."""
    if way.whole:
        return dict(tree)
    fields = way.method.asks.by_json
    found: dict[str, object] = {}
    for name, value in tree.items():
        field = fields[name]
        if field is way.body or (kind_of(field) and not (field.repeated and field.message is not None)):
            found[name] = value
        elif field.message is not None and any(place.chain[0] is field for place in way.places):
            found[name] = {}
    return found


def _put(tree: dict[str, object], message: MessageType, place: Place, value: object) -> None:
    """Says a variable, and takes out what it excludes: the other members of its oneofs."""
    inside = tree
    last = place.chain[-1]
    for field in place.chain:
        if field.oneof:
            for other in message.fields:
                if other.oneof == field.oneof and other is not field:
                    inside.pop(other.json_name, None)
        if field is last or field.message is None:
            break
        below = inside.get(field.json_name)
        fresh: dict[str, object] = dict(below) if isinstance(below, dict) else {}
        inside[field.json_name] = fresh
        inside, message = fresh, field.message
    inside[last.json_name] = value


def _fitting(way: Way, place: Place) -> object:
    """A value of a variable that its pattern takes."""
    field = place.chain[-1]
    variable = place.variable
    segments: tuple[Segment, ...] = way.template.segments[variable.first : variable.last]
    if field.kind != Kind.STRING:
        return _scalar(field)
    if not variable.several and segments[0].literal is None:
        return quote(field.name, safe="")
    return "/".join("1" if segment.literal is None else segment.literal.decode(errors="replace") for segment in segments)

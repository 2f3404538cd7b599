"""OpenAPI 3.1 of the REST side of a schema: plain values, the same for the same schema.

What it says, and what OpenAPI leaves no words for:

- A method is shown under its annotated rules; one that has none, under `POST /pkg.Service/Method`.
- A variable of several segments (`{name=shelves/*}`) is written as the segments it has, each free one a parameter of its own, as
  OpenAPI takes no slash within one.
- HTTP methods that OpenAPI does not know stand under `x-custom-methods` of their path; `*` is shown as POST.
- Query parameters of nested messages are listed down to `MAX_NESTED` names and `MAX_LISTED` in all, of the first `MAX_VISITED`
  fields; the others are served too.
- int64 and uint64 are strings, as ProtoJSON writes them; numbers are read, too. A stream is a text of many messages.
"""

from __future__ import annotations

from typing import Final

from flui.translate.rest import RestRoutes
from flui.translate.scalars import RANGES, kind_of
from flui.translate.schema import EnumType, FieldType, Kind, MessageType, Schema
from flui.translate.ways import Way

Object = dict[str, object]

MAX_NESTED: Final = 5
MAX_LISTED: Final = 200
MAX_VISITED: Final = 2000
"""Fields that are looked at for the query of one rule: what no query can hold is not listed, but is gone through."""

STREAMS: Final = ("application/x-ndjson", "text/event-stream")
"""What a stream of answers can be asked as."""

_KNOWN_VERBS: Final = frozenset(("get", "put", "post", "delete", "options", "head", "patch", "trace"))
_LONG: Final = frozenset((Kind.INT64, Kind.UINT64, Kind.FIXED64, Kind.SFIXED64, Kind.SINT64))
_STATUS: Final = "google.rpc.Status"
_ANY: Final[Object] = {
    "type": "object",
    "properties": {"@type": {"type": "string", "description": "Name of the message, behind a slash."}},
    "required": ["@type"],
    "additionalProperties": True,
}


def document(schema: Schema, routes: RestRoutes, title: str) -> Object:
    """The document.

    Args:
        schema: what the module serves; its version is the document's.
        routes: of the schema.
        title: of the document, such as the service's name in the mesh.
    """
    parts = _Parts()
    paths: dict[str, Object] = {}
    keys: dict[str, str] = {}
    names = _operation_names(schema)
    used: set[str] = set()
    for method in schema.methods.values():
        ways = routes.ways(method)
        shown = [way for way in ways if way.annotated] or list(ways)
        for number, way in enumerate(shown):
            path = _Path(way)
            # Paths that differ in the names of their parameters alone are one in OpenAPI.
            key = keys.setdefault(path.shape, path.text)
            item = paths.setdefault(key, {})
            name = names[method.path] + (f"_{number + 1}" if number else "")
            while name in used:
                name += "_"
            used.add(name)
            operation = _operation(way, path, name, parts, key)
            verb = "post" if way.rule.method == "*" else way.rule.method.lower()
            if verb not in _KNOWN_VERBS or way.rule.method not in {"*", verb.upper()}:
                custom = item.setdefault("x-custom-methods", {})
                assert isinstance(custom, dict), "ours"
                custom.setdefault(way.rule.method, operation)
            elif verb not in item:
                item[verb] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": schema.version or "0"},
        "paths": paths,
        "components": {"schemas": parts.sealed()},
    }


class _Parts:
    """Component schemas, taken up as they are named."""

    __slots__ = ("_found", "_waiting")

    def __init__(self) -> None:
        self._found: dict[str, Object] = {_STATUS: _status()}
        self._waiting: list[MessageType] = []

    def sealed(self) -> dict[str, Object]:
        """All that was named, and what that names, sorted."""
        while self._waiting:
            message = self._waiting.pop()
            properties: Object = {}
            for field in message.fields:
                properties[field.json_name] = self.field(field)
            self._found[message.name] = {"type": "object", "properties": properties, "additionalProperties": False}
        return {name: self._found[name] for name in sorted(self._found)}

    def field(self, field: FieldType) -> Object:
        """The schema of a field."""
        if field.is_map:
            assert field.message is not None, "a map without its entry"
            return {"type": "object", "additionalProperties": self.one(field.message.by_number[2])}
        one = self.one(field)
        return {"type": "array", "items": one} if field.repeated else one

    def one(self, field: FieldType) -> Object:
        """The schema of one value of a field."""
        if field.message is not None:
            return self.message(field.message)
        if field.enum is not None:
            return self._enum(field.enum)
        return _scalar(field.kind)

    def message(self, message: MessageType) -> Object:
        """The schema of a message: a reference, but for those whose JSON is no object of their fields."""
        if message.well_known:
            return _well_known(message)
        if message.name not in self._found:
            self._found[message.name] = {}
            self._waiting.append(message)
        return {"$ref": f"#/components/schemas/{message.name}"}

    def _enum(self, enum: EnumType) -> Object:
        if enum.name == "google.protobuf.NullValue":
            return {"type": "null"}
        self._found.setdefault(enum.name, {"type": "string", "enum": list(enum.numbers)})
        return {"$ref": f"#/components/schemas/{enum.name}"}


class _Path:
    """A template as OpenAPI has it."""

    __slots__ = ("names", "places", "shape", "text")

    def __init__(self, way: Way) -> None:
        self.names: list[str] = []
        """Of its parameters, in their order."""
        self.places: list[int] = []
        """Which of `way.places` each is of; -1: of none."""
        template = way.template
        owner = [-1] * len(template.segments)
        free = [0] * len(way.places)
        for number, place in enumerate(way.places):
            for at in range(place.variable.first, place.variable.last):
                owner[at] = number
                free[number] += template.segments[at].literal is None
        text: list[str] = []
        shape: list[str] = []
        used = [0] * len(way.places)
        for at, segment in enumerate(template.segments):
            if segment.literal is not None:
                text.append(segment.written.decode())
                shape.append(segment.written.decode())
                continue
            number = owner[at]
            if number < 0:
                name = f"segment_{len(self.names) + 1}"
            else:
                used[number] += 1
                name = ".".join(way.places[number].variable.names) + (f"_{used[number]}" if free[number] > 1 else "")
            self.names.append(name)
            self.places.append(number)
            text.append(f"{{{name}}}")
            shape.append("{}")
        verb = f":{template.verb.decode()}" if template.verb else ""
        self.text = "/" + "/".join(text) + verb
        self.shape = "/" + "/".join(shape) + verb


def _operation(way: Way, path: _Path, name: str, parts: _Parts, key: str) -> Object:
    method = way.method
    parameters: list[Object] = _path_parameters(way, path, parts, key)
    if not way.whole:
        _query_parameters(way, method.asks, "", "", 1, parts, parameters, [], MAX_VISITED)
    operation: Object = {"operationId": name, "tags": [method.service], "parameters": parameters}
    if way.whole or way.body is not None:
        shape = parts.message(method.asks) if way.body is None else parts.field(way.body)
        kind = STREAMS[0] if method.client_streams else "application/json"
        operation["requestBody"] = {"content": {kind: {"schema": shape}}}
    answer = parts.message(method.tells) if way.answer is None else parts.field(way.answer)
    kinds = STREAMS if method.server_streams else ("application/json",)
    operation["responses"] = {
        "200": {
            "description": "A stream of answers, one message each." if method.server_streams else "The answer.",
            "content": {kind: {"schema": answer} for kind in kinds},
        },
        "default": {
            "description": "What went wrong.",
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_STATUS}"}}},
        },
    }
    return operation


def _path_parameters(way: Way, path: _Path, parts: _Parts, key: str) -> list[Object]:
    """Under the names that the path has in the document: those of the rule that brought it there."""
    shown = [part[1:].partition("}")[0] for part in key.split("/") if part.startswith("{")]
    found: list[Object] = []
    for at, name in enumerate(shown):
        number = path.places[at]
        parameter: Object = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        if number >= 0:
            place = way.places[number]
            if not place.variable.several:
                parameter["schema"] = parts.one(place.chain[-1])
            if path.names[at] != place.path or name != place.path:
                parameter["description"] = f"Of the field {place.path}: {way.rule.path}"
        found.append(parameter)
    return found


def _query_parameters(
    way: Way, message: MessageType, prefix: str, path: str, depth: int, parts: _Parts, out: list[Object], inside: list[str], left: int
) -> int:
    """What is neither in the path nor the body, under the names of the proto file.

    `left` fields may still be looked at; how many may be after this is returned.
    """
    for field in message.fields:
        if left <= 0 or len(out) >= MAX_LISTED:
            return 0
        left -= 1
        where = f"{path}.{field.json_name}" if path else field.json_name
        if (depth == 1 and field is way.body) or any(place.path == where for place in way.places):
            continue
        if kind_of(field) and not (field.repeated and field.message is not None):
            out.append({"name": prefix + field.name, "in": "query", "schema": parts.field(field)})
        elif field.message is not None and not field.repeated and not field.message.well_known:
            inner = field.message
            if depth < MAX_NESTED and inner.name not in inside and inner is not message:
                below = [*inside, message.name]
                left = _query_parameters(way, inner, f"{prefix}{field.name}.", where, depth + 1, parts, out, below, left)
    return left


def _operation_names(schema: Schema) -> dict[bytes, str]:
    """`Service_Method`, with the package where two services are named alike."""
    services: dict[str, set[str]] = {}
    for method in schema.methods.values():
        services.setdefault(method.service.rpartition(".")[2], set()).add(method.service)
    names: dict[bytes, str] = {}
    for method in schema.methods.values():
        short = method.service.rpartition(".")[2]
        names[method.path] = f"{short if len(services[short]) == 1 else method.service.replace('.', '_')}_{method.name}"
    return names


def _scalar(kind: int) -> Object:
    if kind in _LONG:
        return {"type": "string", "format": "int64" if RANGES[kind][0] else "uint64"}
    bounds = RANGES.get(kind)
    if bounds is not None:
        return {"type": "integer", "format": "int32"} if bounds[0] else {"type": "integer", "format": "uint32", "minimum": 0}
    if kind == Kind.BOOL:
        return {"type": "boolean"}
    if kind == Kind.BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    if kind in {Kind.DOUBLE, Kind.FLOAT}:
        return {"type": ["number", "string"], "format": "double" if kind == Kind.DOUBLE else "float"}
    return {"type": "string"}


def _well_known(message: MessageType) -> Object:
    name = message.well_known
    if name == "Timestamp":
        return {"type": "string", "format": "date-time"}
    if name == "Duration":
        return {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"}
    if name == "FieldMask":
        return {"type": "string"}
    if name in {"Struct", "Empty"}:
        return {"type": "object", "additionalProperties": name == "Struct"}
    if name == "ListValue":
        return {"type": "array", "items": {}}
    if name == "Any":
        return dict(_ANY)
    if name == "Value":
        return {}
    shape = _scalar(message.by_number[1].kind)
    said = shape["type"]
    return {**shape, "type": [*said, "null"] if isinstance(said, list) else [said, "null"]}


def _status() -> Object:
    """`google.rpc.Status`, which errors are told as."""
    return {
        "type": "object",
        "properties": {
            "code": {"type": "integer", "format": "int32", "description": "gRPC status code."},
            "message": {"type": "string"},
            "details": {"type": "array", "items": dict(_ANY)},
        },
        "additionalProperties": False,
    }

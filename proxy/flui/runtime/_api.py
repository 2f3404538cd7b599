"""`api:` under `app:` of a configuration file: from where the module's shape is known, and which web pages may call it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from flui.model.api import AUTO, OFF, REFLECTION, Api, Cors
from flui.model.topology import Protocol
from flui.runtime import _schema as schema
from flui.runtime._schema import Knobs, Reader, Wrong
from flui.runtime._yaml import Node, Section, Text

API_KEYS: Final = ("descriptors", "cors", "unknown")
CORS_KEYS: Final = ("origins", "max_age")

_WORDS: Final = frozenset((AUTO, REFLECTION, OFF))
_EXAMPLE: Final = "api: {descriptors: shop.binpb}"
_DEFAULT_PORTS: Final = {"https": "443", "http": "80"}


def api(reader: Reader, node: Node | None, protocol: Protocol | None, path_of: Callable[[Text], str]) -> Api:
    """What stands under `app.api`.

    Args:
        reader: Keeps the mistakes.
        node: A word, a file, or a section.
        protocol: What the module speaks; None: `app.url` is wrong itself, and what hangs on it is not looked at.
        path_of: A path as this process can open it.
    """
    default = AUTO if protocol is Protocol.HTTP2 else OFF
    if node is None:
        return Api(default)
    fields = reader.fields(node, API_KEYS, _EXAMPLE) if not isinstance(node, Text) else {"descriptors": node}
    place = fields.get("descriptors")
    descriptors = reader.value(place, _descriptors) or default
    mistakes = len(reader.problems)
    if isinstance(place, Text) and descriptors not in _WORDS:
        path = path_of(place)
        descriptors = path if "/" in path else f"./{path}"
    if place is not None and protocol is not None and protocol is not Protocol.HTTP2 and descriptors in {AUTO, REFLECTION}:
        what = "server reflection is a gRPC service, and the module is spoken to in HTTP/1.1"
        reader.wrong(place.place, what, "write `url: h2c://…` for a gRPC module, or the path of a descriptor set in front of a REST module")
    known = Api(descriptors)
    refuses = reader.value(fields.get("unknown"), _unknown) or False
    if refuses and not known.required and len(reader.problems) == mistakes:
        what = "nothing need be known of the module, and then every call would be refused"
        reader.wrong(fields["unknown"].place, what, "add `descriptors: reflection` or the path of a descriptor set, or remove this key")
    cors = _cors(reader, fields.get("cors"))
    if cors is not None and default == OFF == descriptors and protocol is not None:
        what = "nothing is translated for an HTTP/1.1 module without descriptors, and it answers browsers itself"
        reader.wrong(fields["cors"].place, what, "add `descriptors: FILE`, write `url: h2c://…`, or remove this key")
    return Api(descriptors, cors, refuses)


def _descriptors(text: str) -> str:
    if not text:
        raise Wrong("this is not a file", "write `auto`, `reflection`, `off` or the path of a descriptor set")
    if text.endswith(".proto"):
        fix = f"compile it with `protoc --include_imports --descriptor_set_out={text.removesuffix('.proto')}.binpb {text}`, and name that"
        raise Wrong(f"{text} is a source, not a descriptor set", fix)
    return text


def _unknown(text: str) -> bool:
    return schema.one_of(text, ("refuse", "forward"), "answer to unknown methods", "") == "refuse"


def _cors(reader: Reader, node: Node | None) -> Cors | None:
    if node is None or schema.is_off(node):
        return None
    fields = reader.fields_or_word(node, "`off`", CORS_KEYS, 'cors: {origins: ["https://shop.example"]}')
    if "origins" not in fields and isinstance(node, Section):
        reader.missing(node.place, "origins", 'write whose pages may call, such as `origins: ["https://shop.example"]`')
    items = reader.items(fields.get("origins"), '["https://shop.example"]')
    found: list[str] = []
    for item in items or ():
        origin = reader.value(item, _origin)
        if origin is None:
            continue
        if origin in found:
            reader.wrong(item.place, f"{origin} is in the list already", "remove one of the two")
        found.append(origin)
    if "*" in found and len(found) > 1:
        reader.wrong(fields["origins"].place, "`*` is everyone, so the others mean nothing", 'write `["*"]`, or remove `*`')
    if items is not None and not items:
        reader.wrong(fields["origins"].place, "the list is empty, so nobody may call", "write an origin, or remove `cors`")
    more = reader.knobs(fields, _CORS)
    return Cors(tuple(found), **more) if found else None


_CORS: Final[Knobs] = {"max_age": ("max_age_s", partial(schema.duration, low=0.0, high=86_400.0))}


def _origin(text: str) -> str:
    """As browsers write them (RFC 6454 6.2), as they are compared octet for octet: scheme, host, port if not the scheme's own."""
    if text == "*":
        return text
    scheme, found, rest = text.partition("://")
    if not found or scheme not in _DEFAULT_PORTS:
        raise Wrong(f"{text!r} is not an origin", "write `https://HOST`, `https://HOST:PORT`, `http://…`, or `*` for any")
    host, slash, _ = rest.partition("/")
    if slash or "?" in rest or "#" in rest or "@" in rest:
        raise Wrong(f"{text!r} has more than an origin has", f"write `{scheme}://{host.rpartition('@')[2]}`")
    if "*" in host:
        raise Wrong(f"{text!r} has a `*`", "write each origin out, or `*` alone for any")
    if host != host.lower():
        raise Wrong(f"{text!r} has upper-case letters", f"write `{scheme}://{host.lower()}`, as browsers do")
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, ""
    elif port == _DEFAULT_PORTS[scheme]:
        raise Wrong(f"{text!r} has the port that {scheme} has anyway", f"write `{scheme}://{name}`: browsers leave it away")
    else:
        schema.number(port, 1, 65535)
    bare = schema.host(name)
    if bare != name:
        raise Wrong(f"{text!r} is not how a browser writes it", f"write `{scheme}://{bare}{':' + port if port else ''}`")
    return text

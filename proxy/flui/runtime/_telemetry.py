"""`access_log:` and `tracing:` of a configuration file: what is told of exchanges, and to whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from flui.codecs.validate import canonical_path
from flui.model.config import AccessLogging, Tracing
from flui.model.units import GIB, KIB
from flui.routing.pattern import complaint
from flui.runtime import _schema as schema
from flui.runtime._schema import Knobs, Reader, Wrong, is_off
from flui.runtime._yaml import Items, Node, Section, Text

_TRACES: Final = "/v1/traces"

ACCESS_LOG: Final[Knobs] = {
    "successes": ("successes_bp", schema.share),
    "rotate": ("rotate_octets", partial(schema.off_or, parse=partial(schema.size, low=4 * KIB, high=1024 * GIB), off=0)),
    "keep": ("keep", partial(schema.number, low=1, high=1000)),
}
ACCESS_LOG_KEYS: Final = ("file", *ACCESS_LOG, "redact")


def access_log(reader: Reader, node: Node | None, path_of: Callable[[Text], str], *, on_disk: bool) -> AccessLogging:
    """What stands under `access_log:`.

    Args:
        reader: Keeps the mistakes.
        node: A word, a file, or a section.
        path_of: A path as this process can open it.
        on_disk: Whether the folder of the file must be there.
    """
    if node is None:
        return AccessLogging()
    if isinstance(node, Items) or (isinstance(node, Text) and not node.text):
        reader.wrong(node.place, "this is not a file", "write `stdout`, `off`, the path of a file, or a section")
        return AccessLogging()
    fields = {"file": node} if isinstance(node, Text) else reader.fields(node, ACCESS_LOG_KEYS, "access_log: {file: access.log}")
    place = fields.get("file")
    file = "-"
    if place is not None and (not isinstance(place, Text) or not place.text):
        reader.wrong(place.place, "this is not a file", "write `stdout`, `off` or the path of a file")
    elif isinstance(place, Text) and place.text not in {"-", "stdout"}:
        file = "off" if is_off(place) else path_of(place)
        if on_disk and file != "off" and not Path(file).parent.is_dir():
            reader.wrong(place.place, f"there is no folder {Path(file).parent}", "make it, or write `stdout`")
    mistakes = len(reader.problems)
    log = AccessLogging(file=file, redact=_redact(reader, fields.get("redact")), **reader.knobs(fields, ACCESS_LOG))
    if len(reader.problems) == mistakes:
        _check_log(reader, log, fields)
    return log


def _check_log(reader: Reader, log: AccessLogging, fields: Mapping[str, Node]) -> None:
    """Keys of the log that do nothing beside the others."""
    dead: dict[str, str] = {}
    fix = "write `file: FILE`, or remove this key"
    if log.file == "off":
        dead = dict.fromkeys((*ACCESS_LOG, "redact"), "the log is off, so this does nothing")
    elif log.file == "-":
        dead = dict.fromkeys(("rotate", "keep"), "only a file is rotated, and this is standard output")
    elif not log.rotate_octets:
        dead = {"keep": "without `rotate` there is nothing to keep"}
        fix = "add `rotate: 100MiB`, or remove this key"
    for key, why in dead.items():
        if key in fields and not is_off(fields[key]):
            reader.wrong(fields[key].place, why, fix)


def _redact(reader: Reader, node: Node | None) -> tuple[str, ...]:
    patterns = reader.items(node, "[/users/:id/*]") or ()
    return tuple(found for pattern in patterns if (found := reader.value(pattern, _redacted)) is not None)


def _redacted(text: str) -> str:
    found = complaint(text)
    if found is not None:
        raise Wrong(*found)
    if "/:" not in text and not text.endswith("/*"):
        raise Wrong(f"{text!r} names nothing that would be hidden", "write `:name` for one segment, or a final `/*` for everything below")
    return text


def _endpoint(text: str) -> str:
    scheme, found, rest = text.partition("://")
    if found and scheme == "https":
        raise Wrong("a collector is spoken to without TLS in this version", f"write `http://{rest}`, for one on this machine")
    if scheme != "http" or not found:
        raise Wrong(f"{text!r} is not the URL of a collector", f"write it as in `http://127.0.0.1:4318{_TRACES}`")
    host, slash, path = rest.partition("/")
    address = schema.endpoint(host)
    if schema.is_ip(address.host) and not schema.is_loopback(address.host):
        what = f"{address.host} is another machine's address, and spans are sent in plain text"
        raise Wrong(what, "write a collector on this machine, or the name of one that is near")
    if path == "":
        raise Wrong(f"{text!r} has no path", f"write `http://{address}{_TRACES}`")
    octets = (slash + path).encode()
    if canonical_path(octets) != octets:
        raise Wrong(f"{slash + path!r} is not a path", f"write `{_TRACES}`: no query, no `//`, no dot segments")
    return f"http://{address}{slash}{path}"


TRACING: Final[Knobs] = {
    "endpoint": ("endpoint", _endpoint),
    "share": ("share_bp", schema.share),
    "rate": ("per_s", partial(schema.rate, high=1_000_000)),
}


def tracing(reader: Reader, node: Node | None) -> Tracing | None:
    """What stands under `tracing:`."""
    if node is None or is_off(node):
        return None
    example = f"tracing: {{endpoint: http://127.0.0.1:4318{_TRACES}}}"
    fields = reader.fields_or_word(node, "`off`", TRACING, example)
    if "endpoint" not in fields and isinstance(node, Section):
        reader.missing(node.place, "endpoint", f"write where the collector is, such as `endpoint: http://127.0.0.1:4318{_TRACES}`")
    found = reader.knobs(fields, TRACING)
    return Tracing(**found) if "endpoint" in found else None

"""The annotation `google.api.http` of a method, read from the octets of its options: no library has to know it."""

from __future__ import annotations

from typing import Final

from flui.translate.schema import HttpRule
from flui.translate.wire import LENGTH, Malformed, read_length, read_tag, skip

_HTTP: Final = 72295728 << 3 | LENGTH
"""Tag of the extension of `google.protobuf.MethodOptions`."""
_VERBS: Final = {2: "GET", 3: "PUT", 4: "POST", 5: "DELETE", 6: "PATCH"}
_BODY: Final = 7
_CUSTOM: Final = 8
_ADDITIONAL: Final = 11
_RESPONSE_BODY: Final = 12


def rules_of(options: bytes) -> tuple[HttpRule, ...]:
    """Rules of a method, its additional bindings behind the first.

    Args:
        options: A serialized `google.protobuf.MethodOptions`.

    Raises:
        Malformed: It is none, or an additional binding has additional bindings ("the nesting may only be one level deep").
    """
    # Said in parts, they are one rule: what a singular message is made of is put together.
    said = b"".join([content for tag, content in _fields(options) if tag == _HTTP])
    return tuple(_rules(said, outer=True)) if said else ()


def _rules(octets: bytes, *, outer: bool) -> list[HttpRule]:
    method = ""
    path = ""
    body = ""
    response_body = ""
    more: list[HttpRule] = []
    for tag, content in _fields(octets):
        number = tag >> 3
        if tag & 7 != LENGTH:
            continue
        if number in _VERBS:
            method, path = _VERBS[number], _text(content)
        elif number == _CUSTOM:
            method, path = _custom(content)
        elif number == _BODY:
            body = _text(content)
        elif number == _RESPONSE_BODY:
            response_body = _text(content)
        elif number == _ADDITIONAL:
            if not outer:
                raise Malformed("an additional binding has additional bindings of its own; put them beside it")
            more += _rules(content, outer=False)
    first = [HttpRule(method, path, body, response_body)] if path else []
    return first + more


def _custom(octets: bytes) -> tuple[str, str]:
    """Kind and path of a `google.api.CustomHttpPattern`."""
    said = {tag >> 3: _text(content) for tag, content in _fields(octets) if tag & 7 == LENGTH}
    return said.get(1, ""), said.get(2, "")


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise Malformed("a string is not UTF-8") from None


def _fields(octets: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each field; the content of those without a length is not looked at."""
    found: list[tuple[int, bytes]] = []
    at = 0
    end = len(octets)
    while at < end:
        tag, at = read_tag(octets, at, end)
        if tag & 7 == LENGTH:
            start, at = read_length(octets, at, end)
            found.append((tag, octets[start:at]))
        else:
            at = skip(octets, at, end, tag)
            found.append((tag, b""))
    return found

"""A JSON text becomes plain Python values, within bounds (RFC 8259).

How deep and how many is told from the octets before anything is built. Numbers stay exact: one that is whole is an `int`,
however it was written.
"""

from __future__ import annotations

import re
from decimal import Decimal
from json import JSONDecodeError, JSONDecoder
from typing import Final

from flui.translate.limits import MAX_DEPTH, MAX_NODES
from flui.translate.schema import Unfit

_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string, even one that does not end: so that no octet is looked at twice."""
_NOT_FRAMES: Final = bytes(set(range(256)) - set(b"[]{}"))
_EXACT: Final = 2.0**53
"""Below it a float holds every whole number."""


class _Twice:
    """Stands for an object in which a key was said twice."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key


def parse(text: bytes) -> object:
    """Reads a JSON text.

    Returns:
        `dict`, `list`, `str`, `int`, `float`, `bool` or `None`. A number too large for a float is `inf`, which `encode` refuses
        where it stands.

    Raises:
        Unfit: It is no JSON in UTF-8, a key is said twice in an object, or it is deeper than `MAX_DEPTH` or of more than
            `MAX_NODES` values.
    """
    _bound(text)
    try:
        said = text.decode().strip(" \t\n\r")
    except UnicodeDecodeError:
        raise Unfit("", "it is not UTF-8") from None
    tree: object = None
    try:
        tree, end = _DECODER.raw_decode(said)
    except KeyError:
        raise _told(said) from None
    except JSONDecodeError as e:
        raise Unfit("", f"it is no JSON: {e.msg[:1].lower()}{e.msg[1:]}, line {e.lineno} column {e.colno}") from None
    except ValueError:
        raise Unfit("", "a number has too many digits") from None
    if end != len(said):
        raise Unfit("", "something follows the JSON value")
    return tree


def _bound(text: bytes) -> None:
    """Refuses what is too deep or too much, from the octets."""
    opened = text.count(b"{") + text.count(b"[")
    if opened <= MAX_DEPTH and (len(text) <= MAX_NODES or opened + text.count(b",") < MAX_NODES):
        return
    bare = _STRINGS.sub(b'"', text)
    opened = bare.count(b"{") + bare.count(b"[")
    if opened + bare.count(b",") >= MAX_NODES:
        tight = bare.translate(None, b" \t\n\r")
        # Each comma and each container that holds something brings one value; the first one is there before.
        if opened + tight.count(b",") - tight.count(b"[]") - tight.count(b"{}") >= MAX_NODES:
            raise Unfit("", f"it holds more than {MAX_NODES} values")
    depth = 0
    for octet in bare.translate(None, _NOT_FRAMES):
        if octet == 0x5B or octet == 0x7B:
            depth += 1
            if depth > MAX_DEPTH:
                raise Unfit("", f"it is nested more than {MAX_DEPTH} levels deep")
        else:
            depth -= 1


def _object(pairs: list[tuple[str, object]]) -> object:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise KeyError
    return made


def _number(text: str) -> object:
    value = float(text)
    if -_EXACT < value < _EXACT or value - value != 0.0:
        return value
    exact = Decimal(text)
    return int(exact) if exact == exact.to_integral_value() else value


def _literal(text: str) -> object:
    raise Unfit("", f'{text} is no JSON; write "{text}", in quotes')


def _object_twice(pairs: list[tuple[str, object]]) -> object:
    made: dict[str, object] = {}
    for key, value in pairs:
        if key in made:
            return _Twice(key)
        made[key] = value
    return made


_DECODER: Final = JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_literal)
_DECODER_TWICE: Final = JSONDecoder(object_pairs_hook=_object_twice, parse_float=_number, parse_constant=_literal)


class _Node:
    """A value, and what holds it: a path is made of the one that is at fault, as a key may be long and hold very many."""

    __slots__ = ("above", "held", "key")

    def __init__(self, above: _Node | None, key: str, held: object) -> None:
        self.above = above
        self.key = key
        self.held = held

    def path(self, rest: str) -> str:
        """What leads to `rest`, which is within this value."""
        at: _Node | None = self
        while at is not None:
            rest = below(at.key, rest)
            at = at.above
        return rest


def _told(text: str) -> Unfit:
    """Of a text in which a key is said twice: where."""
    try:
        tree: object = _DECODER_TWICE.raw_decode(text)[0]
    except ValueError:
        return Unfit("", "it is no JSON, and a key is said twice")
    except Unfit as e:
        return e
    todo = [_Node(None, "", tree)]
    while todo:
        node = todo.pop()
        held = node.held
        if isinstance(held, _Twice):
            return Unfit(node.path(held.key), "it is said twice")
        if isinstance(held, dict):
            todo += [_Node(node, key, value) for key, value in held.items()]
        elif isinstance(held, list):
            todo += [_Node(node, f"[{at}]", value) for at, value in enumerate(held)]
    raise AssertionError("no key is said twice")


def below(path: str, rest: str) -> str:
    """`rest`, a path, within what `path` leads to: `order` and `lines[2]` are `order.lines[2]`."""
    if not path or not rest:
        return path or rest
    return path + rest if rest.startswith("[") else f"{path}.{rest}"

"""A rule of `google.api.http` bound to its method: which fields are in the path, in the body, and in the query."""

from __future__ import annotations

from typing import Final

from flui.translate.scalars import kind_of
from flui.translate.schema import FieldType, HttpRule, MessageType, Method
from flui.translate.template import RuleError, Template, Variable, read

_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""RFC 9110 5.6.2."""


class Absent:
    """The type of `ABSENT`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()
"""There is no body: not even `null`."""


class Place:
    """A variable, and the field that it is."""

    __slots__ = ("chain", "path", "variable")

    def __init__(self, variable: Variable, chain: tuple[FieldType, ...]) -> None:
        self.variable = variable
        self.chain = chain
        """From the field of the request inwards; the last one has the value."""
        self.path = ".".join(field.json_name for field in chain)
        """By JSON names, as errors have it."""


class Way:
    """One way to a method, ready to be walked in both directions."""

    __slots__ = ("annotated", "answer", "body", "method", "places", "rule", "template", "verb", "whole")

    def __init__(self, method: Method, rule: HttpRule, *, annotated: bool = True) -> None:
        """Binds a rule.

        Raises:
            RuleError: it does not fit its method.
        """
        self.method = method
        self.rule = rule
        self.annotated = annotated
        """False: it is the default one, `POST /pkg.Service/Method`."""
        if not rule.method or not _TOKEN.issuperset(rule.method):
            raise RuleError(f"{rule.method!r} is no HTTP method")
        self.verb = rule.method.encode()
        """`GET`; `*` is any."""
        self.template: Template = read(rule.path)
        self.places: tuple[Place, ...] = tuple(Place(variable, _chain(method.asks, variable)) for variable in self.template.variables)
        """In the order of the path."""
        seen: set[str] = set()
        for place in self.places:
            if place.path in seen:
                raise RuleError(f"the variable {place.path!r} stands twice in the path")
            seen.add(place.path)
        self.whole = rule.body == "*"
        """The body is all that the path is not."""
        self.body: FieldType | None = None if self.whole or not rule.body else _top(method.asks, rule.body, "body")
        """The field that the body is; None: all of it, or there is none."""
        self.answer: FieldType | None = _top(method.tells, rule.response_body, "response_body") if rule.response_body else None
        """The field of the answer that is its body; None: all of it."""
        for place in self.places:
            if len(place.chain) == 1 and place.chain[0] is self.body:
                raise RuleError(f"the field {self.body.name!r} is both in the path and the body")

    def __repr__(self) -> str:
        return f"Way({self.method.path.decode()}, {self.rule.method} {self.rule.path})"


def default_way(method: Method) -> Way:
    """`POST /pkg.Service/Method` with the request as its body: what every method has, annotated or not."""
    return Way(method, HttpRule("POST", method.path.decode(), "*"), annotated=False)


def _chain(message: MessageType, variable: Variable) -> tuple[FieldType, ...]:
    """The fields that a variable names."""
    name = ".".join(variable.names)
    chain: list[FieldType] = []
    inside: MessageType | None = message
    for part in variable.names:
        field = None if inside is None or inside.well_known else inside.by_name.get(part)
        if field is None:
            raise RuleError(f"the variable {name!r} names no field of {message.name}")
        if field.repeated:
            raise RuleError(f"the variable {name!r} names a repeated field; a path holds one value")
        chain.append(field)
        inside = field.message
    if inside is not None or not kind_of(chain[-1]):
        raise RuleError(f"the variable {name!r} is a message; name one of its fields")
    return tuple(chain)


def _top(message: MessageType, name: str, what: str) -> FieldType:
    field = None if message.well_known else message.by_name.get(name)
    if field is None:
        raise RuleError(f"the {what} {name!r} names no field of {message.name}; it must be one at its top")
    return field

"""Understanding a model: which of its parts compare what, and whether the index can say the same.

The matcher is parsed as Casbin parses it (a Python expression once `&&`, `||` and `!` are put in Python's words), then
each clause must be one that the index knows. A clause that is not known makes the model unusable, with the reason:
nothing is ever decided in a way that the model does not say.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from flui.model.config import Problem
from flui.policy.source import Model

FIELDS: Final[dict[str, str]] = {"sub": "subject", "svc": "service", "act": "action", "obj": "object", "eft": "effect"}
"""Names of fields in a model, and what people call them."""

ALLOW_OVERRIDE: Final = "some(where (p.eft == allow))"
DENY_WINS: Final = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"

KNOWN: Final = (
    'clauses joined by `&&`, each one of: r.X == p.X, (r.X == p.X || p.X == "*"), g(r.sub, p.sub), '
    "fluiMatch(r.obj, p.obj), keyMatch(r.obj, p.obj), keyMatch2(r.obj, p.obj)"
)

_FORBIDDEN: Final[dict[str, str]] = {
    "regexMatch": "is a regular expression anchored at its start only",
    "keyMatch3": "is a regular expression that leaves `.` as it is",
    "keyMatch4": "is a regular expression that leaves `.` as it is",
    "keyMatch5": "is a regular expression that leaves `.` as it is",
    "globMatch": "reads more marks than the index does",
    "eval": "runs text out of the rows",
}


class Compare(Enum):
    """How a clause compares the request's field with the rule's."""

    EXACT = "=="
    ROLE = "g"
    FLUI = "fluiMatch"
    KEY = "keyMatch"
    KEY2 = "keyMatch2"


@dataclass(frozen=True, slots=True)
class Clause:
    """What a model asks of one field."""

    field: str
    compare: Compare
    star: bool
    """`*` in a rule stands for every value."""

    def __str__(self) -> str:
        said = {
            Compare.EXACT: "equal",
            Compare.ROLE: "equal or through roles",
            Compare.FLUI: "pattern (fluiMatch)",
            Compare.KEY: "pattern (keyMatch)",
            Compare.KEY2: "pattern (keyMatch2)",
        }
        return f"{FIELDS[self.field]}: {said[self.compare]}{', or `*` for any' if self.star else ''}"


@dataclass(frozen=True, slots=True)
class Shape:
    """A model that the index can say."""

    request: tuple[str, ...]
    """Fields of a request in Casbin's order."""
    row: tuple[str, ...]
    """Fields of a rule in the order of its columns."""
    clauses: dict[str, Clause]
    """By field; a field without a clause is not looked at."""
    deny_wins: bool
    """Else only `allow` rules count."""

    @property
    def has_roles(self) -> bool:
        """Whether `g` rows mean anything."""
        return self.clauses["sub"].compare is Compare.ROLE

    def describe(self) -> list[str]:
        """One line for each part, for `flui policy check`."""
        lines = [str(clause) for clause in self.clauses.values()]
        lines.append("effect: a deny wins" if self.deny_wins else "effect: any allow is enough")
        return lines


def understand(model: Model) -> tuple[Shape | None, list[Problem], list[Problem]]:
    """What a model says.

    Args:
        model: with r, p, e and m defined.

    Returns:
        Its shape, or None when the index cannot say the same; the problems then, each with its reason; warnings.
    """
    problems: list[Problem] = []
    request = _fields(model, "r", problems)
    row = _fields(model, "p", problems)
    deny_wins = _effect(model, problems)
    clauses = _clauses(model, problems)
    matcher = model.definitions["m"].line
    for field, clause in clauses.items():
        if field not in request or field not in row:
            problems.append(Problem(model.file, matcher, field, "is compared but not defined", f"add `{field}` to both r and p"))
        if clause.compare is Compare.ROLE and "g" not in model.definitions:
            problems.append(Problem(model.file, matcher, "g", "is asked but not defined", "add [role_definition] with `g = _, _`"))
    if "g" in model.definitions and re.sub(r"\s", "", model.definitions["g"].value) != "_,_":
        line = model.definitions["g"].line
        problems.append(Problem(model.file, line, "g", "has domains or conditions, which the index does not know", "write `g = _, _`"))
    for field in row:
        if field != "eft" and field not in clauses and not problems:
            what = "is in every rule but the matcher does not look at it: rules would allow more than they say"
            problems.append(Problem(model.file, model.definitions["p"].line, field, what, f"compare r.{field} with p.{field}, or drop it"))
    if "sub" not in clauses and not problems:
        what = "the matcher does not look at the subject: every caller would be allowed"
        problems.append(Problem(model.file, matcher, "sub", what, "add `g(r.sub, p.sub)` or `r.sub == p.sub`"))
    if problems:
        return None, problems, []
    warnings = [
        Problem(model.file, matcher, field, f"the matcher does not look at the {FIELDS[field]}", "every rule holds for all of them")
        for field in ("svc", "act", "obj")
        if field not in clauses
    ]
    return Shape(request, row, clauses, deny_wins), [], warnings


def _fields(model: Model, key: str, problems: list[Problem]) -> tuple[str, ...]:
    definition = model.definitions[key]
    names = tuple(name.strip() for name in definition.value.split(","))
    known = [name for name in FIELDS if name != "eft" or key == "p"]
    problems.extend(
        Problem(model.file, definition.line, key, f"`{name}` is no field of the mesh", f"fields are {', '.join(known)}")
        for name in names
        if name not in known
    )
    if len(set(names)) != len(names):
        problems.append(Problem(model.file, definition.line, key, "names a field twice", "name each once"))
    return names


def _effect(model: Model, problems: list[Problem]) -> bool:
    definition = model.definitions["e"]
    for effect in (ALLOW_OVERRIDE, DENY_WINS):
        if definition.value == effect:
            return effect == DENY_WINS
    what = "is an effect that the index does not know"
    if re.sub(r"\s", "", definition.value) == "!some(where(p.eft==deny))":
        what = "allows whatever no rule denies, an empty policy everything"
    problems.append(Problem(model.file, definition.line, "e", what, f"write `{DENY_WINS}` or `{ALLOW_OVERRIDE}`, blanks included"))
    return True


def _clauses(model: Model, problems: list[Problem]) -> dict[str, Clause]:
    definition = model.definitions["m"]
    text = definition.value.replace("&&", " and ").replace("||", " or ")
    text = re.sub(r"!(?!=)", " not ", text).strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problems.append(Problem(model.file, definition.line, "m", f"is no expression ({error})", f"write {KNOWN}"))
        return {}
    clauses: dict[str, Clause] = {}
    for node in _conjunction(tree):
        clause, why = _clause(node)
        if clause is None:
            what = f"`{ast.unparse(node)}` {why}: the index cannot say it"
            problems.append(Problem(model.file, definition.line, "m", what, f"write {KNOWN}"))
        elif clause.field in clauses:
            problems.append(Problem(model.file, definition.line, "m", f"asks `{clause.field}` twice", "join the two by `||` or keep one"))
        else:
            clauses[clause.field] = clause
    return clauses


def _conjunction(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [part for value in node.values for part in _conjunction(value)]
    return [node]


def _disjunction(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return [part for value in node.values for part in _disjunction(value)]
    return [node]


def _clause(node: ast.expr) -> tuple[Clause | None, str]:
    """The clause, or None and why not."""
    fields: set[str] = set()
    compares: set[Compare] = set()
    star = False
    for part in _disjunction(node):
        field, compare, why = _atom(part)
        if not field:
            return None, why
        fields.add(field)
        if compare is None:
            star = True
        else:
            compares.add(compare)
    if len(fields) != 1:
        return None, "mixes fields in one alternative"
    if compares == {Compare.ROLE, Compare.EXACT}:
        compares = {Compare.ROLE}  # a name always holds itself
    if len(compares) != 1:
        return None, "compares one field in two ways" if compares else "compares nothing"
    return Clause(fields.pop(), compares.pop(), star), ""


def _atom(node: ast.expr) -> tuple[str, Compare | None, str]:
    """Field and comparison of the smallest part; comparison None for `p.X == "*"`; field empty, and why, when unknown."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
        left, right = node.left, node.comparators[0]
        if isinstance(left, ast.Constant):
            left, right = right, left
        side, field = _name(left)
        if side == "p" and isinstance(right, ast.Constant) and right.value == "*" and field != "eft":
            return field, None, ""
        if {side, _name(right)[0]} == {"r", "p"} and field == _name(right)[1] and field != "eft":
            return field, Compare.EXACT, ""
        return "", None, "is no comparison of a request's field with the same field of a rule"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        called = node.func.id
        names = [_name(argument) for argument in node.args]
        if called == "g" and names == [("r", "sub"), ("p", "sub")]:
            return "sub", Compare.ROLE, ""
        if called in {"fluiMatch", "keyMatch", "keyMatch2"} and names == [("r", "obj"), ("p", "obj")]:
            return "obj", Compare(called), ""
        return "", None, _FORBIDDEN.get(called, "is no call that is known, or not with these arguments in this order")
    return "", None, "is no clause that is known"


def _name(node: ast.expr) -> tuple[str, str]:
    """Side and field of `r.sub`; empty strings when it is something else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in {"r", "p"} and node.attr in FIELDS:
        return node.value.id, node.attr
    return "", ""

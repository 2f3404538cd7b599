"""pycasbin, the source of truth: what it refuses never becomes active, and what the index says is what it would say.

`load` is what a sidecar calls when it starts and whenever the files change; `Reference` asks pycasbin itself, for tests and
`flui policy test`, never on the path of a request. pycasbin is imported when one of them is called, not before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from flui.model.config import ConfigError, Problem
from flui.policy.base import Grant, PolicySource, Rule, Verdict
from flui.policy.index import NO_RULE, Index
from flui.policy.matcher import Compare, Shape, understand
from flui.policy.objects import matches
from flui.policy.rows import read_rows, row_of
from flui.policy.source import Model, read_model, version_of

_RAISED: Final = (RuntimeError, TypeError, AttributeError, IndexError, KeyError, ValueError, NameError, SyntaxError)
"""What pycasbin raises on models and rows it cannot use; it has no exceptions of its own."""

_SEE_SHIPPED: Final = "compare with the model that ships, policy/model.conf"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy ready to decide."""

    policy: Index
    shape: Shape
    warnings: tuple[Problem, ...]
    """Mistakes that harm nobody: rules nobody can use, rows that say the same."""


@dataclass(frozen=True, slots=True)
class Examined:
    """Everything that can be said about a policy source."""

    loaded: Loaded | None
    """None: it must not become active."""
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    shape: Shape | None
    """What of the model the index can say; None when it cannot."""


def load(source: PolicySource) -> Loaded:
    """The policy of a source, compiled. About 20 µs of CPU per row: call it in a thread, and swap what it returns.

    Raises:
        ConfigError: with every problem; what was active before stays so.
    """
    examined = examine(source)
    if examined.loaded is None:
        raise ConfigError(examined.problems)
    return examined.loaded


def examine(source: PolicySource) -> Examined:
    """All problems and warnings of a source at once, and the policy when there is no problem."""
    model, problems = read_model(source.model)
    if problems:
        return Examined(None, tuple(problems), (), None)
    shape, problems, warnings = understand(model)
    if shape is None:
        return Examined(None, tuple(problems), (), None)
    rows = read_rows(source, shape)
    problems = rows.problems or _asked(model, shape, rows.rules, rows.grants)
    warnings += rows.warnings
    if problems:
        return Examined(None, tuple(problems), tuple(warnings), shape)
    clause = shape.clauses.get("obj")
    misreads = clause is not None and clause.compare is Compare.KEY2
    policy = Index(tuple(rows.rules), tuple(rows.grants), version_of(source), refuse_newlines=misreads)
    return Examined(Loaded(policy, shape, tuple(warnings)), (), tuple(warnings), shape)


def enforcer_of(model: str, rules: list[list[str]], grants: list[list[str]]) -> Any:
    """A `casbin.Enforcer` with `fluiMatch`, its rows put in as an adapter does.

    Args:
        model: text of the model.
        rules: `p` rows, every column said (one short row would make it raise on each request).
        grants: `g` rows.
    """
    import casbin  # noqa: PLC0415 - 10 MiB and 200 ms that a sidecar without policy need not pay

    enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=model))
    enforcer.add_function("fluiMatch", matches)
    enforcer.model["p"]["p"].policy.extend(rules)
    if grants:
        enforcer.model["g"]["g"].policy.extend(grants)
    enforcer.build_role_links()
    return enforcer


def _asked(model: Model, shape: Shape, rules: list[Rule], grants: list[Grant]) -> list[Problem]:
    """What pycasbin itself has against the model and the rows, or reads in them otherwise than we do."""
    try:
        enforcer_of(model.text, [], []).enforce(*("probe" for _ in shape.request))
        enforcer = enforcer_of(model.text, [row_of(rule, shape) for rule in rules], [[grant.member, grant.role] for grant in grants])
        read = {
            "r": [token.removeprefix("r_") for token in enforcer.model["r"]["r"].tokens] == list(shape.request),
            "p": [token.removeprefix("p_") for token in enforcer.model["p"]["p"].tokens] == list(shape.row),
            "e": enforcer.model["e"]["e"].value == _escaped(model.definitions["e"].value),
            "m": enforcer.model["m"]["m"].value == _escaped(model.definitions["m"].value),
        }
    except _RAISED as error:
        return [Problem(model.file, 0, "", f"pycasbin refuses it ({type(error).__name__}: {error})", _SEE_SHIPPED)]
    return [
        Problem(model.file, model.definitions[key].line, key, "is read by pycasbin otherwise than it stands here", _SEE_SHIPPED)
        for key, same in read.items()
        if not same
    ]


def _escaped(text: str) -> str:
    return re.sub(r"\b([rp])\.", r"\1_", text)


class Reference:
    """pycasbin's own verdicts. Linear in the rules, 10 µs and more for each: the oracle of tests, nothing else."""

    __slots__ = ("_callers", "_enforcer", "_places", "_shape", "version")

    def __init__(self, model: str, shape: Shape, policy: Index) -> None:
        self._callers = policy.callers()
        rows = [row_of(rule, shape) for rule in policy.rules]
        self._enforcer = enforcer_of(model, rows, [[grant.member, grant.role] for grant in policy.grants])
        self._places = {tuple(row): rule.place for row, rule in zip(reversed(rows), reversed(policy.rules), strict=True)}
        self._shape = shape
        self.version = policy.version

    def decide(self, subject: str, service: str, action: str, obj: str) -> Verdict:
        """What pycasbin says; its rule is the last that it looked at, not the first."""
        said = {"sub": subject, "svc": service, "act": action, "obj": obj}
        allowed, row = self._enforcer.enforce_ex(*(said[field] for field in self._shape.request))
        return Verdict(allowed=allowed, rule=self._places.get(tuple(row), NO_RULE))

    def roles(self, subject: str) -> tuple[str, ...]:
        """Every role the subject holds, as pycasbin resolves them; sorted."""
        if not self._shape.has_roles:
            return ()
        return tuple(sorted(self._enforcer.get_implicit_roles_for_user(subject)))

    def callers(self) -> tuple[str, ...]:
        """Every caller that a row names, sorted."""
        return self._callers

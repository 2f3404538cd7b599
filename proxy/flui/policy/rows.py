"""Rows of policy files: from texts to rules and grants, or to everything that is wrong with them.

pycasbin passes over rows whose type it does not know, lets one short row raise on every request, cuts long grants, and
splits a line with brackets in its own way. Rows reach it only after they have been read, checked and filled up here.
"""

from __future__ import annotations

import re
from typing import Final

from flui.model.config import Problem
from flui.policy import roles
from flui.policy.base import ANY, ROLE, Grant, PolicySource, Rule
from flui.policy.matcher import FIELDS, Compare, Shape
from flui.policy.objects import fault_in, is_pattern, key_match2_differs, key_match_differs
from flui.policy.source import lines_of

# `uid:` is a user of this machine, who asks over the admin socket; one number has one spelling
_CALLER: Final = re.compile(r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+|jwt:[!-~]+|uid:(0|[1-9][0-9]{0,9})")
_ROLE: Final = re.compile(r"role:[A-Za-z0-9][A-Za-z0-9._-]*")
_SERVICE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
# RFC 9110 5.6.2: a method is a token
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'+.^_`|~-]+")
_CLEAN: Final = re.compile(r"[!-~]+")
_PLAIN: Final = re.compile(r"[!#-'*-Z\\^-~]+")
"""Clean, and without quotes and brackets: nearly every column."""

_SUBJECTS: Final = "write spiffe://TRUST-DOMAIN/NAME, jwt:ISSUER:SUBJECT, uid:NUMBER or role:NAME"


class Rows:
    """What the rows say. Rules and grants hold only what is right; whoever uses them looks at `problems` first."""

    __slots__ = ("grants", "problems", "rules", "warnings")

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.grants: list[Grant] = []
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []


def read_rows(source: PolicySource, shape: Shape) -> Rows:
    """Every row of every file, checked against the model's shape."""
    rows = Rows()
    for text in source.rows:
        for number, line in enumerate(lines_of(text), 1):
            stripped = line.strip()
            if stripped and not stripped.startswith("#"):
                _Row(text.name, number, shape, rows).read(stripped)
    rows.problems.extend(roles.problems_in(rows.grants))
    _warn_of_repeats(rows)
    named: dict[str, tuple[str, int]] = {}
    for rule in rows.rules:
        if rule.subject.startswith(ROLE):
            named.setdefault(rule.subject, (rule.file, rule.line))
    rows.warnings.extend(roles.warnings_in(rows.grants, named))
    if not rows.rules and not rows.problems:
        rows.warnings.append(Problem(source.model.name, 0, "", "there is no rule, so everything is denied", "add *.csv files beside it"))
    return rows


def row_of(rule: Rule, shape: Shape) -> list[str]:
    """A rule as Casbin holds it: the columns of the model, the effect always said."""
    said = {
        "sub": rule.subject,
        "svc": rule.service,
        "act": rule.action,
        "obj": rule.obj,
        "eft": "allow" if rule.allow else "deny",
    }
    return [said[field] for field in shape.row]


class _Row:
    """One line on its way to a rule."""

    __slots__ = ("file", "line", "right", "rows", "shape")

    def __init__(self, file: str, line: int, shape: Shape, rows: Rows) -> None:
        self.file = file
        self.line = line
        self.shape = shape
        self.rows = rows
        self.right = True

    def read(self, text: str) -> None:
        columns = [column.strip() for column in text.split(",")]
        kind = columns[0]
        if kind not in {"p", "g"}:
            self._wrong("", f"`{kind}` is no kind of row", "write `p, …` for a rule, `g, …` for a role; comments begin with `#`")
            return
        for column in columns[1:]:
            self._check_column(column)
        if self.right:
            if kind == "p":
                self._rule(columns[1:])
            else:
                self._grant(columns[1:])

    def _wrong(self, key: str, what: str, fix: str) -> None:
        self.right = False
        self.rows.problems.append(Problem(self.file, self.line, key, what, fix))

    def _warn(self, key: str, what: str, fix: str) -> None:
        self.rows.warnings.append(Problem(self.file, self.line, key, what, fix))

    def _check_column(self, column: str) -> None:
        if _PLAIN.fullmatch(column) is not None:
            return
        depth = 0
        for mark in column:
            depth += (mark in "([") - (mark in ")]")
            if depth < 0:
                break
        if not column:
            self._wrong("", "a field is empty", "fill it, or drop the comma")
        elif re.search(r"\s#", column):
            self._wrong("", "a comment stands behind the row, where Casbin reads it as part of it", "put it on a line of its own")
        elif '"' in column:
            self._wrong("", f"`{column}` has a quote, which readers of Casbin files take differently", "leave quotes out")
        elif _CLEAN.fullmatch(column) is None:
            self._wrong("", f"{column!r} has a blank, control or non-ASCII character", "write it as requests do (paths: percent-encoded)")
        elif depth:
            self._wrong("", f"brackets in `{column}` are not in pairs, so Casbin reads the row past its comma", "percent-encode them")

    def _rule(self, columns: list[str]) -> None:
        row = self.shape.row
        least = len(row) - 1 if row[-1] == "eft" else len(row)
        if not least <= len(columns) <= len(row):
            count = str(least) if least == len(row) else f"{least} or {len(row)}"
            said = ", ".join("allow|deny" if field == "eft" else FIELDS[field] for field in row)
            fix = f"write p, {said}" + (" (the last one may be left out: allow)" if row[-1] == "eft" else "")
            self._wrong("", f"a rule has {count} fields after `p`, this row has {len(columns)}", fix)
            return
        said_by = dict(zip(row, columns, strict=False))
        for field, value in said_by.items():
            match field:
                case "sub":
                    self._check_subject(value)
                case "svc":
                    self._check_service(value)
                case "act":
                    self._check_action(value)
                case "obj":
                    self._check_object(value)
                case _:
                    self._check_effect(value)
        if self.right:
            get = said_by.get
            allow = get("eft", "allow") == "allow"
            self.rows.rules.append(
                Rule(self.file, self.line, get("sub", ANY), get("svc", ANY), get("act", ANY), get("obj", ANY), allow=allow)
            )

    def _check_star(self, field: str) -> None:
        if not self.shape.clauses[field].star:
            name = FIELDS[field]
            fix = f'name one, or put `|| p.{field} == "*"` into the matcher'
            if field == "obj":
                fix = "write /* for every path, or topic:NAME"
            self._wrong(name, f"`*` is not any {name} in this model", fix)

    def _check_subject(self, value: str) -> None:
        if value == ANY:
            self._check_star("sub")
        elif value.startswith(ROLE):
            if _ROLE.fullmatch(value) is None:
                self._wrong("subject", f"`{value}` is not the name of a role", "write role: and letters, digits, `.`, `_`, `-`")
            elif not self.shape.has_roles:
                self._wrong("subject", f"this model has no roles, so nobody is `{value}`", "name a caller, or ask g(r.sub, p.sub)")
        else:
            self._check_caller("subject", value)

    def _check_caller(self, key: str, value: str) -> None:
        if _CALLER.fullmatch(value) is None or "/./" in f"{value}/" or "/../" in f"{value}/":
            self._wrong(key, f"`{value}` is neither a caller nor a role", _SUBJECTS)

    def _check_service(self, value: str) -> None:
        if value == ANY:
            self._check_star("svc")
        elif _SERVICE.fullmatch(value) is None:
            self._wrong("service", f"`{value}` is not the name of a service", "write the name that callers use, as `orders`")

    def _check_action(self, value: str) -> None:
        if value == ANY:
            self._check_star("act")
        elif _TOKEN.fullmatch(value) is None:
            self._wrong("action", f"`{value}` is not an action", "write one method (GET, CALL, PUBLISH …) or `*` for any")
        elif value != value.upper():
            self._warn("action", f"methods tell cases apart: `{value}` is not `{value.upper()}`", f"write {value.upper()}")

    def _check_object(self, value: str) -> None:
        clause = self.shape.clauses["obj"]
        if value == ANY:
            self._check_star("obj")
            return
        fault = fault_in(value)
        if fault is not None:
            self._wrong("object", fault[0], fault[1])
            return
        differs = None
        if clause.compare is Compare.EXACT and is_pattern(value):
            differs = f"this model compares objects exactly, so `{value}` is no pattern"
        elif clause.compare is Compare.KEY:
            differs = key_match_differs(value)
        elif clause.compare is Compare.KEY2:
            differs = key_match2_differs(value)
        if differs is not None:
            self._wrong("object", differs, "compare by fluiMatch(r.obj, p.obj) in the model, as the one that ships")
        elif any(":" in segment[1:] for segment in value.split("/")) and value.startswith("/"):
            self._warn("object", "a `:` inside a segment is just itself", "write :name as a whole segment if any segment was meant")

    def _check_effect(self, value: str) -> None:
        if value not in {"allow", "deny"}:
            self._wrong("effect", f"`{value}` is no effect", "write allow or deny")
        elif value == "deny" and not self.shape.deny_wins:
            what = "the effect of this model passes over deny rules"
            self._wrong("effect", what, "use the effect of the model that ships, or drop the rule")

    def _grant(self, columns: list[str]) -> None:
        if not self.shape.has_roles:
            self._wrong("", "this model never asks for roles", "use g(r.sub, p.sub) in its matcher, or drop the grant")
            return
        if len(columns) != 2:
            self._wrong("", f"a grant has 2 fields after `g`, this row has {len(columns)}", "write g, subject or role, role")
            return
        member, role = columns
        if not member.startswith(ROLE):
            self._check_caller("subject", member)
        elif _ROLE.fullmatch(member) is None:
            self._wrong("subject", f"`{member}` is not the name of a role", "write role: and letters, digits, `.`, `_`, `-`")
        if _ROLE.fullmatch(role) is None:
            self._wrong("role", f"`{role}` is not a role", "write role:NAME; a grant gives its left side the role on its right")
        if self.right:
            self.rows.grants.append(Grant(self.file, self.line, member, role))


def _warn_of_repeats(rows: Rows) -> None:
    first: dict[tuple[str, str, str, str], Rule] = {}
    for rule in rows.rules:
        key = (rule.subject, rule.service, rule.action, rule.obj)
        known = first.setdefault(key, rule)
        if known is rule:
            continue
        if known.allow == rule.allow:
            rows.warnings.append(Problem(rule.file, rule.line, "", f"says the same as {known.place}", "drop one"))
        else:
            rows.warnings.append(Problem(rule.file, rule.line, "", f"contradicts {known.place}: the deny wins", "drop the allow"))
    given: dict[tuple[str, str], Grant] = {}
    for grant in rows.grants:
        earlier = given.setdefault((grant.member, grant.role), grant)
        if earlier is not grant:
            rows.warnings.append(Problem(grant.file, grant.line, "", f"says the same as {earlier.file}:{earlier.line}", "drop one"))

"""Who holds which role: the graph of grants, its chains, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from flui.model.config import Problem
from flui.policy.base import ROLE, Grant

MAX_LINKS: Final = 9
"""Grants in a row that pycasbin follows; what lies further it silently does not see, so a longer chain is a mistake."""


class Roles:
    """The grants of a policy. A role may hold roles."""

    __slots__ = ("_held",)

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._held: dict[str, list[str]] = {}
        for grant in grants:
            held = self._held.setdefault(grant.member, [])
            if grant.role not in held:
                held.append(grant.role)

    def members(self) -> list[str]:
        """Every name that holds a role directly, in file order."""
        return list(self._held)

    def chains(self, subject: str) -> dict[str, tuple[str, ...]]:
        """The shortest way from a subject to every role it holds.

        Returns:
            By role: the subject, then role by role, the role itself last. The subject is in it too, alone.
        """
        found: dict[str, tuple[str, ...]] = {subject: (subject,)}
        ring = [subject]
        while ring:
            further: list[str] = []
            for name in ring:
                for role in self._held.get(name, ()):
                    if role not in found:
                        found[role] = (*found[name], role)
                        further.append(role)
            ring = further
        return found

    def reach(self, names: Iterable[str]) -> set[str]:
        """The names and every role that one of them holds."""
        seen = set(names)
        todo = list(seen)
        while todo:
            for role in self._held.get(todo.pop(), ()):
                if role not in seen:
                    seen.add(role)
                    todo.append(role)
        return seen


def problems_in(grants: list[Grant]) -> list[Problem]:
    """Cycles, and chains that pycasbin would not follow to their end."""
    problems = _cycles(grants)
    if problems:
        return problems
    roles = Roles(grants)
    lines = {grant.member: grant for grant in reversed(grants)}
    for member in roles.members():
        if member.startswith(ROLE):
            continue
        longest = max(roles.chains(member).values(), key=len)
        if len(longest) - 1 > MAX_LINKS:
            grant = lines[member]
            what = f"`{member}` reaches `{longest[-1]}` over {len(longest) - 1} grants; Casbin follows {MAX_LINKS}"
            problems.append(Problem(grant.file, grant.line, "role", what, "grant the last role closer to the caller"))
    return problems


def warnings_in(grants: list[Grant], named: dict[str, tuple[str, int]]) -> list[Problem]:
    """Roles that are of no use.

    Args:
        grants: every `g` row.
        named: roles that rules name, each with file and line of the first such rule.
    """
    roles = Roles(grants)
    held = roles.reach(member for member in roles.members() if not member.startswith(ROLE))
    warnings = [
        Problem(file, line, "subject", f"nobody holds `{role}`", f"grant it (`g, spiffe://…, {role}`) or drop the rule")
        for role, (file, line) in named.items()
        if role not in held
    ]
    told: set[str] = set()
    for grant in grants:
        if grant.role in told:
            continue
        told.add(grant.role)
        if not any(name in named for name in roles.reach((grant.role,))):
            what = f"no rule names `{grant.role}` or a role that it holds"
            warnings.append(Problem(grant.file, grant.line, "role", what, "add a rule for it or drop the grant"))
    return warnings


def _cycles(grants: list[Grant]) -> list[Problem]:
    """A problem for each grant that closes a circle."""
    out: dict[str, list[Grant]] = {}
    for given in grants:
        out.setdefault(given.member, []).append(given)
    problems: list[Problem] = []
    done: set[str] = set()
    for start, first in out.items():
        path: list[str] = [start]
        on_path = {start}
        stack = [iter(first)] if start not in done else []
        while stack:
            grant: Grant | None = next(stack[-1], None)
            if grant is None:
                stack.pop()
                left = path.pop()
                on_path.discard(left)
                done.add(left)
            elif grant.role in on_path:
                circle = " > ".join([*path[path.index(grant.role) :], grant.role])
                problems.append(Problem(grant.file, grant.line, "role", f"roles go in a circle: {circle}", "drop one of these grants"))
            elif grant.role not in done:
                path.append(grant.role)
                on_path.add(grant.role)
                stack.append(iter(out.get(grant.role, ())))
    return problems

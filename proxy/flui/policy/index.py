"""A policy compiled: verdicts in microseconds, whatever the number of rules.

By service and action there is one table of objects; a leaf of it says which holders (callers or roles) are allowed and
which are denied. So an object is looked up once, whatever the number of roles, and the leaves met are compared with what
the subject holds, which is resolved once per subject and kept. The index knows nothing of models: rules come to it
validated, in the one meaning that all supported models share (`rows.py` refuses a row that its model would read otherwise).
"""

from __future__ import annotations

from typing import Final

from flui.policy.base import ANY, ROLE, Grant, Rule, Verdict
from flui.policy.roles import Roles
from flui.policy.trie import NONE, Leaf, ObjectTable, parts_of

SUBJECTS: Final = 65_536
"""Subjects whose roles are kept; all are forgotten when there are more. Names that no row knows are never kept."""

NO_RULE: Final = "no rule"

_ROLE_NAME: Final = Verdict(allowed=False, rule="a caller may not be called like a role")
_NEW_LINE: Final = Verdict(allowed=False, rule="a line break in the object, which keyMatch2 misreads")
GUARDS: Final = frozenset((_ROLE_NAME.rule, _NEW_LINE.rule))
"""Reasons for which we deny what pycasbin might allow; nowhere else do the two differ."""

_UNRULED: Final = Verdict(allowed=False, rule=NO_RULE)


class _Held:
    """What a subject holds, directly and through roles."""

    __slots__ = ("chains", "holders", "roles")

    def __init__(self, holders: frozenset[str], chains: dict[str, tuple[str, ...]]) -> None:
        self.holders = holders
        """The names among them that rules name."""
        self.chains = chains
        self.roles = tuple(sorted(name for name in chains if name.startswith(ROLE)))


class Index:
    """A policy that decides from tables; see `flui.policy.base.Policy`.

    Args:
        rules: validated, in file order.
        grants: validated, without circles.
        version: short hash of the files.
        refuse_newlines: the model uses keyMatch2, which reads a line break otherwise than we do: such objects are denied.
    """

    __slots__ = (
        "_depth",
        "_everyone",
        "_held",
        "_holders",
        "_known",
        "_refuse_newlines",
        "_roles",
        "_services",
        "grants",
        "rules",
        "version",
    )

    def __init__(self, rules: tuple[Rule, ...], grants: tuple[Grant, ...], version: str, *, refuse_newlines: bool = False) -> None:
        self.rules = rules
        self.grants = grants
        self.version = version
        self._refuse_newlines = refuse_newlines
        self._roles = Roles(grants)
        self._services: dict[str, dict[str, ObjectTable]] = {}
        self._depth = 0
        for number, rule in enumerate(rules):
            actions = self._services.setdefault(rule.service, {})
            table = actions.get(rule.action)
            if table is None:
                table = actions[rule.action] = ObjectTable()
            leaf, depth = table.leaf(rule.obj)
            numbers = leaf.allow if rule.allow else leaf.deny
            numbers.setdefault(rule.subject, number)
            self._depth = max(self._depth, depth)
        self._holders = frozenset(rule.subject for rule in rules)
        self._known = self._holders.union(self._roles.members())
        self._everyone = self._resolve({ANY: (ANY,)})
        self._held: dict[str, _Held] = {}

    def decide(self, subject: str, service: str, action: str, obj: str) -> Verdict:
        """Verdict for a request: a deny that applies wins, else an allow, else denied."""
        held = self._held.get(subject)
        if held is None:
            if subject.startswith(ROLE):
                return _ROLE_NAME
            held = self._hold(subject)
        if self._refuse_newlines and "\n" in obj:
            return _NEW_LINE
        holders = held.holders
        if not holders:
            return _UNRULED
        parts = parts_of(obj, self._depth)
        leaves: list[Leaf] = []
        for service_key in (service, ANY):
            actions = self._services.get(service_key)
            if actions is None:
                continue
            table = actions.get(action)
            if table is not None:
                table.gather(obj, parts, leaves)
            table = actions.get(ANY)
            if table is not None:
                table.gather(obj, parts, leaves)
        deny = NONE
        for leaf in leaves:
            if leaf.deny:
                deny = min(deny, _first(leaf.deny, holders))
        if deny != NONE:
            return self._verdict(subject, held, deny, allowed=False)
        allow = NONE
        for leaf in leaves:
            if leaf.allow:
                allow = min(allow, _first(leaf.allow, holders))
        if allow != NONE:
            return self._verdict(subject, held, allow, allowed=True)
        return _UNRULED

    def roles(self, subject: str) -> tuple[str, ...]:
        """Every role the subject holds, directly or through another role; sorted. A caller called like a role has none."""
        if subject.startswith(ROLE):
            return ()
        return self._hold(subject).roles

    def chain(self, subject: str, holder: str) -> tuple[str, ...]:
        """How a subject comes to a rule of `holder`; empty when it does not."""
        if holder == ANY:
            return (subject,)
        return self._hold(subject).chains.get(holder, ())

    def callers(self) -> tuple[str, ...]:
        """Every caller that a row names, sorted."""
        return tuple(sorted(name for name in self._known if name != ANY and not name.startswith(ROLE)))

    def _verdict(self, subject: str, held: _Held, number: int, *, allowed: bool) -> Verdict:
        rule = self.rules[number]
        chain = (subject,) if rule.subject == ANY else held.chains[rule.subject]
        return Verdict(allowed=allowed, rule=rule.place, chain=chain)

    def _hold(self, subject: str) -> _Held:
        if subject not in self._known:
            return self._everyone
        held = self._held.get(subject)
        if held is None:
            if len(self._held) >= SUBJECTS:
                self._held.clear()
            held = self._held[subject] = self._resolve(self._roles.chains(subject))
        return held

    def _resolve(self, chains: dict[str, tuple[str, ...]]) -> _Held:
        return _Held(self._holders.intersection((*chains, ANY)), chains)


class DenyAll:
    """No policy, or one that cannot be used: everything is denied, and the verdict says that the fault is ours."""

    __slots__ = ("_verdict", "version")

    def __init__(self, reason: str) -> None:
        self.version = "none"
        self._verdict = Verdict(allowed=False, rule=reason, failed=True)

    def decide(self, subject: str, service: str, action: str, obj: str) -> Verdict:
        """Denied."""
        del subject, service, action, obj
        return self._verdict

    def roles(self, subject: str) -> tuple[str, ...]:
        """None."""
        del subject
        return ()

    def callers(self) -> tuple[str, ...]:
        """None."""
        return ()


def _first(numbers: dict[str, int], holders: frozenset[str]) -> int:
    """Smallest number of a rule that one of the holders has; the shorter of the two is gone through."""
    best = NONE
    if len(numbers) < len(holders):
        for holder, number in numbers.items():
            if number < best and holder in holders:
                best = number
    else:
        for holder in holders:
            found = numbers.get(holder)
            if found is not None and found < best:
                best = found
    return best

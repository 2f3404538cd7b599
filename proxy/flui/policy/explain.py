"""Why a request is allowed or denied, what would have to be said for it to be allowed, and who may do a thing."""

from __future__ import annotations

from dataclasses import dataclass

from flui.policy.base import ANY, ROLE, Request, Rule, Verdict
from flui.policy.index import Index
from flui.policy.objects import is_param, matches, separator_of


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which a request is not what a rule says."""

    field: str
    asked: str
    ruled: str
    change: str
    """What would close the gap, in words."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The allow rule that comes closest to a denied request."""

    rule: Rule
    differences: tuple[Difference, ...]
    """Empty when the rule holds, and only a deny stands against it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict and what lies behind it."""

    request: Request
    verdict: Verdict
    rule: Rule | None
    """The rule that decided; None when none did."""
    roles: tuple[str, ...]
    nearest: Nearest | None
    """For a denial: the rule that would allow with the fewest changes; None when there is no allow rule at all."""


def explain(policy: Index, request: Request) -> Explanation:
    """The verdict on a request with its reasons. Looks at every rule: for people, not for the path of a request."""
    verdict = policy.decide(*request)
    rule = next((rule for rule in policy.rules if verdict.chain and rule.place == verdict.rule), None)
    return Explanation(request, verdict, rule, policy.roles(request.subject), None if verdict.allowed else _nearest(policy, request))


def who_can(policy: Index, service: str, action: str, obj: str) -> tuple[tuple[str, Verdict], ...]:
    """Every caller that the policy names and that may do this, with the verdict; `*` when a rule allows everyone."""
    asked = [(subject, policy.decide(subject, service, action, obj)) for subject in (ANY, *policy.callers())]
    return tuple((subject, verdict) for subject, verdict in asked if verdict.allowed)


def _nearest(policy: Index, request: Request) -> Nearest | None:
    best: Nearest | None = None
    best_rank: tuple[int, int, bool] | None = None
    for rule in policy.rules:
        if not rule.allow:
            continue
        differences = _differences(policy, rule, request)
        fields = {difference.field for difference in differences}
        # of equally many changes: the rule most about this object, then one that gives nobody a role
        rank = (len(differences), -_alike(rule.obj, request.obj), "subject" in fields)
        if best_rank is None or rank < best_rank:
            best, best_rank = Nearest(rule, differences), rank
    return best


def _differences(policy: Index, rule: Rule, request: Request) -> tuple[Difference, ...]:
    found: list[Difference] = []
    if not policy.chain(request.subject, rule.subject) or request.subject.startswith(ROLE):
        found.append(Difference("subject", request.subject, rule.subject, _grant(rule.subject, request.subject)))
    if rule.service not in {request.service, ANY}:
        change = f"the rule is for service {rule.service}; ask that, or add a rule for {request.service}"
        found.append(Difference("service", request.service, rule.service, change))
    if rule.action not in {request.action, ANY}:
        change = f"the rule is for {rule.action}; ask that, or add a rule for {request.action}"
        found.append(Difference("action", request.action, rule.action, change))
    if rule.obj != ANY and not matches(request.obj, rule.obj):
        change = f"the rule covers {rule.obj}; ask an object in it, or add a rule for {request.obj}"
        found.append(Difference("object", request.obj, rule.obj, change))
    return tuple(found)


def _grant(wanted: str, subject: str) -> str:
    if subject.startswith(ROLE):
        return f"{subject} is a role; ask as a caller that holds it"
    if wanted.startswith(ROLE):
        return f"{subject} does not hold {wanted}; `g, {subject}, {wanted}` would give it"
    return f"the rule is for {wanted} alone; add a rule for {subject}"


def _alike(pattern: str, obj: str) -> int:
    """Segments from the front in which a pattern speaks of an object; a final `*` speaks of none."""
    separator = separator_of(pattern)
    count = 0
    for said, there in zip(pattern.split(separator), obj.split(separator), strict=False):
        if said != there and not is_param(said, separator):
            break
        count += 1
    return count

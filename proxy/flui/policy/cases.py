"""Cases: what operators expect of their policy, kept beside it in `cases/*.yaml` and run by `flui policy test`.

```yaml
- as: spiffe://shop/web
  service: orders
  action: GET
  object: /orders/7
  expect: allow
  why: the storefront shows orders      # may be left out
```
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import yaml

from flui.model.config import ConfigError, Problem
from flui.policy.base import Policy, Request, Text, Verdict

_KEYS: Final = ("as", "service", "action", "object", "expect")
_FORM: Final = "write a list of {as, service, action, object, expect: allow|deny, why}"


@dataclass(frozen=True, slots=True)
class Case:
    """One expectation."""

    file: str
    line: int
    request: Request
    allow: bool
    why: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that the policy does not meet."""

    case: Case
    verdict: Verdict

    def __str__(self) -> str:
        case = self.case
        said = "allow" if self.verdict.allowed else "deny"
        wanted = "allow" if case.allow else "deny"
        subject, service, action, obj = case.request
        why = f" ({case.why})" if case.why else ""
        return f"{case.file}:{case.line}: {subject} {action} {obj} on {service}: expected {wanted}, is {said} by {self.verdict.rule}{why}"


def read_cases(texts: Iterable[Text]) -> tuple[Case, ...]:
    """Every case of the files.

    Raises:
        ConfigError: with every mistake in them.
    """
    cases: list[Case] = []
    problems: list[Problem] = []
    for text in texts:
        try:
            root = yaml.compose(text.content, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            problems.append(Problem(text.name, line, "", f"is no YAML ({error.problem})", _FORM))
            continue
        except yaml.YAMLError as error:
            problems.append(Problem(text.name, 0, "", f"is no YAML ({error})", _FORM))
            continue
        if root is None:
            continue
        if not isinstance(root, yaml.SequenceNode):
            problems.append(Problem(text.name, root.start_mark.line + 1, "", "is no list", _FORM))
            continue
        for node in root.value:
            case = _case(text.name, node, problems)
            if case is not None:
                cases.append(case)
    if problems:
        raise ConfigError(tuple(problems))
    return tuple(cases)


def run(policy: Policy, cases: Iterable[Case]) -> tuple[Failure, ...]:
    """The cases that a policy does not meet, in their order."""
    failures: list[Failure] = []
    for case in cases:
        verdict = policy.decide(*case.request)
        if verdict.allowed != case.allow:
            failures.append(Failure(case, verdict))
    return tuple(failures)


def _case(file: str, node: yaml.Node, problems: list[Problem]) -> Case | None:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        problems.append(Problem(file, line, "", "is no case", _FORM))
        return None
    said: dict[str, str] = {}
    before = len(problems)
    for key, value in node.value:
        at = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            problems.append(Problem(file, at, "", "is no `key: text`", _FORM))
        elif key.value not in _KEYS and key.value != "why":
            problems.append(Problem(file, at, key.value, "is no key of a case", _FORM))
        elif key.value in said:
            problems.append(Problem(file, at, key.value, "is said twice", "keep one"))
        else:
            said[key.value] = value.value
            if key.value == "expect" and value.value not in {"allow", "deny"}:
                problems.append(Problem(file, at, "expect", f"`{value.value}` is no expectation", "write allow or deny"))
    problems.extend(Problem(file, line, key, "is missing", _FORM) for key in _KEYS if key not in said)
    if len(problems) > before:
        return None
    request = Request(said["as"], said["service"], said["action"], said["object"])
    return Case(file, line, request, said["expect"] == "allow", said.get("why", ""))

"""Two policies compared over requests: what people would notice of a change."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from flui.model.config import ConfigError, Problem
from flui.model.grpc import CALL
from flui.policy.base import Policy, Request, Text, Verdict

_NAMES: Final = (("as", "principal", "subject"), ("service",), ("action", "method"), ("object", "path"))
"""Members of a listed request, in the order of Request; an access-log line has the second names."""
_CALL: Final = CALL.decode()


@dataclass(frozen=True, slots=True)
class Change:
    """A request on which two policies disagree."""

    request: Request
    old: Verdict
    new: Verdict

    def __str__(self) -> str:
        subject, service, action, obj = self.request
        sign, said = ("+", "now allowed") if self.new.allowed else ("-", "now denied")
        return f"{sign} {subject} {action} {obj} on {service}: {said} by {self.new.rule}, was {_word(self.old)} by {self.old.rule}"


def diff(old: Policy, new: Policy, requests: Iterable[Request]) -> tuple[Change, ...]:
    """The requests, each once and in their order, that one policy allows and the other denies."""
    changes: list[Change] = []
    for request in dict.fromkeys(requests):
        before = old.decide(*request)
        after = new.decide(*request)
        if before.allowed != after.allowed:
            changes.append(Change(request, before, after))
    return tuple(changes)


def read_requests(text: Text) -> tuple[Request, ...]:
    """Listed or recorded requests: JSON lines with `as`, `service`, `action`, `object`, or lines of the access log.

    A query behind a path is dropped: rules do not see it.

    Raises:
        ConfigError: with every line that is no request.
    """
    requests: list[Request] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except ValueError as error:
            problems.append(Problem(text.name, number, "", f"is no JSON ({error})", "write one JSON object on each line"))
            continue
        parts = [_member(said, names) for names in _NAMES] if isinstance(said, dict) else []
        missing = [names[0] for names, part in zip(_NAMES, parts, strict=False) if not part]
        if not parts or missing:
            what = f"has no {', '.join(missing)}" if parts else "is no JSON object"
            fix = "write as, service, action, object (or principal, service, method, path)"
            problems.append(Problem(text.name, number, "", what, fix))
            continue
        subject, service, action, obj = parts
        if "grpc_status" in said and "action" not in said:
            action = _CALL  # the log has the method on the wire
        requests.append(Request(subject, service, action, obj.partition("?")[0]))
    if problems:
        raise ConfigError(tuple(problems))
    return tuple(requests)


def _member(said: dict[str, object], names: tuple[str, ...]) -> str:
    for name in names:
        value = said.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def _word(verdict: Verdict) -> str:
    return "allowed" if verdict.allowed else "denied"

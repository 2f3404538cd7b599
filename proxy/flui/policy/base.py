"""The words of policy: requests, rules, grants, verdicts, and what a policy promises.

A request is (subject, service, action, object). A rule says who may or may not do what; a grant gives a role. `obj`
stands for *object* in code, as it does in Casbin's own language.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

ANY: Final = "*"
"""In a rule: any value of that field. A field that the model does not have is `*` in every rule."""

ROLE: Final = "role:"
"""Namespace of roles. No caller is ever called so (threats D6)."""


class Request(NamedTuple):
    """What is asked of a policy."""

    subject: str
    """`spiffe://…` or `jwt:<issuer>:<subject>`."""
    service: str
    action: str
    """The method on the wire, or CALL, PUBLISH, SEND …"""
    obj: str
    """Canonical path without query, or `topic:NAME`."""


@dataclass(frozen=True, slots=True)
class Text:
    """A file that somebody else has read."""

    name: str
    """File name as operators know it; stands in rule names and problems."""
    content: str


@dataclass(frozen=True, slots=True)
class PolicySource:
    """A policy as its files say it."""

    model: Text
    rows: tuple[Text, ...]
    """Every `*.csv`, in the order of their names."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One `p` row."""

    file: str
    line: int
    subject: str
    """A caller, a role, or `*`."""
    service: str
    action: str
    obj: str
    """An object pattern (`objects.py`) or `*`."""
    allow: bool = True

    @property
    def place(self) -> str:
        """`file:line`, the rule's name in logs, decisions and problems."""
        return f"{self.file}:{self.line}"

    def __str__(self) -> str:
        eft = "" if self.allow else ", deny"
        return f"p, {self.subject}, {self.service}, {self.action}, {self.obj}{eft}"


@dataclass(frozen=True, slots=True)
class Grant:
    """One `g` row: `member` holds `role`."""

    file: str
    line: int
    member: str
    """A caller or a role."""
    role: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says to a request."""

    allowed: bool
    rule: str
    """`file:line` of the deciding rule, the first in file order; or `no rule`, or why there is no policy."""
    chain: tuple[str, ...] = ()
    """How the subject comes to that rule: itself, then role by role. Empty when no rule decided."""
    failed: bool = False
    """There was no usable policy to ask: denied, but as a fault of ours (503), not of the caller (403)."""


class Policy(Protocol):
    """Decides. Never raises, never allows without a rule that says so."""

    @property
    def version(self) -> str:
        """Short hash of the files it was made from."""
        ...

    def decide(self, subject: str, service: str, action: str, obj: str) -> Verdict:
        """Verdict for a request of an authenticated subject."""
        ...

    def roles(self, subject: str) -> tuple[str, ...]:
        """Every role the subject holds, directly or through another role; sorted."""
        ...

    def callers(self) -> tuple[str, ...]:
        """Every caller that a row names, sorted."""
        ...

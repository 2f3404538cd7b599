"""Who holds which role."""

from __future__ import annotations

from flui.policy.base import Grant
from flui.policy.roles import MAX_LINKS, Roles, problems_in, warnings_in


def grants(*pairs: str) -> list[Grant]:
    return [Grant("a.csv", line, *pair.split(" ")) for line, pair in enumerate(pairs, 1)]


def chain(length: int) -> list[Grant]:
    return grants("spiffe://a/b role:0", *(f"role:{n} role:{n + 1}" for n in range(length - 1)))


def test_the_chain_to_a_role_is_the_shortest():
    roles = Roles(grants("u role:a", "role:a role:b", "role:b role:c", "u role:b"))
    assert roles.chains("u") == {
        "u": ("u",),
        "role:a": ("u", "role:a"),
        "role:b": ("u", "role:b"),
        "role:c": ("u", "role:b", "role:c"),
    }
    assert roles.chains("stranger") == {"stranger": ("stranger",)}


def test_every_grant_that_closes_a_circle_is_told():
    found = problems_in(grants("u role:a", "role:a role:b", "role:b role:c", "role:c role:a", "role:d role:d"))
    assert [(problem.line, problem.what) for problem in found] == [
        (4, "roles go in a circle: role:a > role:b > role:c > role:a"),
        (5, "roles go in a circle: role:d > role:d"),
    ]


def test_two_ways_to_one_role_are_no_circle():
    assert problems_in(grants("role:a role:b", "role:a role:c", "role:b role:d", "role:c role:d", "role:d role:e")) == []


def test_a_chain_that_casbin_would_not_follow_is_refused():
    assert problems_in(chain(MAX_LINKS)) == []
    found = problems_in(chain(MAX_LINKS + 1))
    assert [str(problem).partition(";")[0] for problem in found] == ["a.csv:1: role: `spiffe://a/b` reaches `role:9` over 10 grants"]


def test_a_very_long_circle_does_not_overflow():
    assert len(problems_in(grants(*(f"role:{n} role:{(n + 1) % 5000}" for n in range(5000))))) == 1


def test_roles_without_holder_or_rule_are_told_once():
    found = warnings_in(grants("u role:a", "v role:a", "role:b role:c"), {"role:c": ("p.csv", 7), "role:x": ("p.csv", 8)})
    assert [(warning.file, warning.line) for warning in found] == [("p.csv", 7), ("p.csv", 8), ("a.csv", 1)]

"""Why, nearly, and who."""

from __future__ import annotations

from flui.policy.base import Grant, Request, Rule
from flui.policy.explain import explain, who_can
from flui.policy.index import Index

RULES = (
    Rule("shop.csv", 1, "role:clerk", "stock", "GET", "/items/*"),
    Rule("shop.csv", 2, "role:clerk", "stock", "POST", "/items/:id/reserve"),
    Rule("shop.csv", 3, "role:clerk", "stock", "GET", "/items/:id/cost", allow=False),
    Rule("shop.csv", 4, "spiffe://shop/tour", "web", "GET", "/*"),
)
POLICY = Index(RULES, (Grant("shop.csv", 5, "spiffe://shop/orders", "role:clerk"),), "v")


def nearest(subject: str, service: str, action: str, obj: str) -> tuple[int, list[str]]:
    found = explain(POLICY, Request(subject, service, action, obj)).nearest
    assert found is not None
    return found.rule.line, [difference.field for difference in found.differences]


def test_an_allowed_request_names_its_rule_and_chain():
    found = explain(POLICY, Request("spiffe://shop/orders", "stock", "GET", "/items/1"))
    assert (found.rule, found.nearest, found.roles) == (RULES[0], None, ("role:clerk",))
    assert found.verdict.chain == ("spiffe://shop/orders", "role:clerk")


def test_the_nearest_rule_differs_in_the_fewest_fields():
    assert nearest("spiffe://shop/web", "stock", "POST", "/items/1/reserve") == (2, ["subject"])
    assert nearest("spiffe://shop/orders", "stock", "POST", "/items/1") == (2, ["object"])
    assert nearest("spiffe://shop/orders", "stock", "PUT", "/items") == (1, ["action", "object"])
    assert nearest("spiffe://shop/orders", "stock", "GET", "/items") == (1, ["object"])
    assert nearest("spiffe://shop/orders", "stocks", "GET", "/items/1") == (1, ["service"])
    assert nearest("spiffe://shop/tour", "web", "PUT", "/") == (4, ["action"])


def test_the_change_is_said_in_the_policys_own_words():
    found = explain(POLICY, Request("spiffe://shop/web", "stock", "GET", "/items/1")).nearest
    assert found is not None
    assert "`g, spiffe://shop/web, role:clerk` would give it" in found.differences[0].change


def test_behind_a_deny_stands_the_rule_that_would_have_allowed():
    found = explain(POLICY, Request("spiffe://shop/orders", "stock", "GET", "/items/1/cost"))
    assert found.rule == RULES[2]
    assert found.nearest is not None
    assert (found.nearest.rule, found.nearest.differences) == (RULES[0], ())


def test_a_caller_called_like_a_role_is_told_so():
    assert nearest("role:clerk", "stock", "GET", "/items/1") == (1, ["subject"])


def test_without_allow_rules_nothing_is_near():
    assert explain(Index((RULES[2],), (), "v"), Request("spiffe://shop/web", "stock", "GET", "/")).nearest is None


def test_who_can_lists_callers_not_roles():
    assert [subject for subject, _ in who_can(POLICY, "stock", "GET", "/items/1")] == ["spiffe://shop/orders"]
    assert who_can(POLICY, "stock", "GET", "/items/1/cost") == ()


def test_who_can_says_everyone_when_a_rule_does():
    everyone = Index((Rule("a.csv", 1, "*", "web", "GET", "/"),), (), "v")
    assert [subject for subject, _ in who_can(everyone, "web", "GET", "/")] == ["*"]

"""Rows of policy files."""

from __future__ import annotations

from pathlib import Path

import pytest

from flui.policy.base import Grant, PolicySource, Rule, Text
from flui.policy.matcher import understand
from flui.policy.rows import Rows, read_rows, row_of
from flui.policy.source import read_model

SHIPPED = (Path(__file__).parents[2] / "policy" / "model.conf").read_text()


def rows(text: str, model: str = SHIPPED) -> Rows:
    source = PolicySource(Text("model.conf", model), (Text("shop.csv", text),))
    found, problems = read_model(source.model)
    assert problems == []
    shape, problems, _ = understand(found)
    assert shape is not None, problems
    return read_rows(source, shape)


def changed(old: str, new: str) -> str:
    assert old in SHIPPED
    return SHIPPED.replace(old, new)


GOOD = "g, spiffe://shop/web, role:clerk\n"


def test_rules_and_grants_keep_their_file_and_line():
    read = rows("# who\n\n  p , role:clerk,orders, GET, /orders/* \r\np, spiffe://shop/web, orders, *, /, deny\n" + GOOD)
    assert read.problems == []
    assert read.rules == [
        Rule("shop.csv", 3, "role:clerk", "orders", "GET", "/orders/*"),
        Rule("shop.csv", 4, "spiffe://shop/web", "orders", "*", "/", allow=False),
    ]
    assert read.grants == [Grant("shop.csv", 5, "spiffe://shop/web", "role:clerk")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("p, role:clerk, orders, GET", "shop.csv:2: a rule has 4 or 5 fields after `p`, this row has 3; write p, subject, service, action"),
        ("p, role:clerk, orders, GET, /, allow, x", "shop.csv:2: a rule has 4 or 5 fields after `p`, this row has 6"),
        ("p2, role:clerk, orders, GET, /", "shop.csv:2: `p2` is no kind of row"),
        ("P, role:clerk, orders, GET, /", "shop.csv:2: `P` is no kind of row"),
        (", role:clerk", "shop.csv:2: `` is no kind of row"),
        ("p, , orders, GET, /", "shop.csv:2: a field is empty"),
        ("p, role:clerk, orders, GET, /,", "shop.csv:2: a field is empty"),
        ("p, role:clerk, orders, GET, / # all", "shop.csv:2: a comment stands behind the row"),
        ('p, role:clerk, orders, GET, "/"', 'shop.csv:2: `"/"` has a quote'),
        ("p, role:clerk, orders, GET, /a b", "shop.csv:2: '/a b' has a blank"),
        ("p, role:clerk, orders, GET, /\u00e9", "shop.csv:2: '/\u00e9' has a blank, control or non-ASCII"),
        ("p, role:clerk, orders, GET, /a\x00b", "shop.csv:2: '/a\\x00b' has a blank"),
        ("p, role:clerk, orders, GET, /a(b", "shop.csv:2: brackets in `/a(b` are not in pairs"),
        ("p, role:clerk, orders, GET, /a)b(", "shop.csv:2: brackets in"),
        ("p, clerk, orders, GET, /", "shop.csv:2: subject: `clerk` is neither a caller nor a role"),
        ("p, spiffe://shop, orders, GET, /", "shop.csv:2: subject: `spiffe://shop` is neither"),
        ("p, spiffe://Shop/web, orders, GET, /", "shop.csv:2: subject: `spiffe://Shop/web` is neither"),
        ("p, spiffe://shop/../web, orders, GET, /", "shop.csv:2: subject:"),
        ("p, anonymous:, orders, GET, /", "shop.csv:2: subject: `anonymous:` is neither"),
        ("p, role:, orders, GET, /", "shop.csv:2: subject: `role:` is not the name of a role"),
        ("p, *, orders, GET, /", "shop.csv:2: subject: `*` is not any subject in this model"),
        ("p, role:clerk, *, GET, /", "shop.csv:2: service: `*` is not any service in this model"),
        ("p, role:clerk, a/b, GET, /", "shop.csv:2: service: `a/b` is not the name of a service"),
        ("p, role:clerk, orders, GE*, /", "shop.csv:2: action: `GE*` is not an action"),
        ("p, role:clerk, orders, GET, *", "shop.csv:2: object: `*` is not any object in this model; write /* for every path"),
        ("p, role:clerk, orders, GET, orders", "shop.csv:2: object: `orders` is neither a path nor a topic; begin it with `/`"),
        ("p, role:clerk, orders, GET, /a/*/b", "shop.csv:2: object: `*` is only the last segment; write :name"),
        ("p, role:clerk, orders, GET, /, permit", "shop.csv:2: effect: `permit` is no effect; write allow or deny"),
        ("g, spiffe://shop/web", "shop.csv:2: a grant has 2 fields after `g`, this row has 1"),
        ("g, spiffe://shop/web, role:clerk, shop", "shop.csv:2: a grant has 2 fields after `g`, this row has 3"),
        ("g, web, role:clerk", "shop.csv:2: subject: `web` is neither a caller nor a role"),
        ("g, role:, role:clerk", "shop.csv:2: subject: `role:` is not the name of a role"),
        ("g, role:clerk, spiffe://shop/web", "shop.csv:2: role: `spiffe://shop/web` is not a role"),
        ("g, role:clerk, role:clerk", "shop.csv:2: role: roles go in a circle: role:clerk > role:clerk"),
    ],
)
def test_a_wrong_row_names_its_line_what_is_wrong_and_the_fix(row, said):
    read = rows("# first\n" + row)
    assert len(read.problems) == 1
    assert str(read.problems[0]).startswith(said)
    assert read.problems[0].fix
    assert read.rules == []


def test_every_wrong_row_is_told_at_once():
    assert [problem.line for problem in rows("p\nx\n" + GOOD + "p, a, /b, c d, e").problems] == [1, 2, 4]


def test_what_is_only_useless_is_a_warning():
    text = (
        "p, role:clerk, orders, GET, /\np, role:clerk, orders, GET, /\np, role:clerk, orders, GET, /, deny\n"
        "p, role:nobody, orders, get, /a:b\ng, spiffe://shop/web, role:clerk\ng, spiffe://shop/web, role:clerk\n"
        "g, spiffe://shop/web, role:idle\ng, spiffe://shop/web, role:boss\ng, role:boss, role:clerk\n"
    )
    read = rows(text)
    assert read.problems == []
    assert [str(warning).partition(";")[0] for warning in read.warnings] == [
        "shop.csv:4: action: methods tell cases apart: `get` is not `GET`",
        "shop.csv:4: object: a `:` inside a segment is just itself",
        "shop.csv:2: says the same as shop.csv:1",
        "shop.csv:3: contradicts shop.csv:1: the deny wins",
        "shop.csv:6: says the same as shop.csv:5",
        "shop.csv:4: subject: nobody holds `role:nobody`",
        "shop.csv:7: role: no rule names `role:idle` or a role that it holds",
    ]


def test_a_user_of_this_machine_is_a_subject_and_may_hold_roles():
    """Who taps exchanges asks over a Unix socket, where the kernel knows the user's number."""
    grants = "g, uid:1000, role:operator\ng, uid:4294967295, role:operator\n"
    read = rows("p, uid:0, orders, TAP, /*\np, role:operator, orders, TAP, /orders/*\n" + grants)
    assert read.problems == []
    assert read.warnings == []
    assert [rule.subject for rule in read.rules] == ["uid:0", "role:operator"]
    assert [grant.member for grant in read.grants] == ["uid:1000", "uid:4294967295"]


@pytest.mark.parametrize("subject", ["uid:", "uid:root", "uid:007", "uid:-1", "uid:1.0", "uid:12345678901", "uid:*", "UID:0", "uid:0/x"])
def test_a_user_has_one_spelling(subject):
    """`uid:007` would never be asked for: a deny with it would protect nothing."""
    problems = rows(f"p, {subject}, orders, TAP, /*").problems
    assert [problem.what for problem in problems] == [f"`{subject}` is neither a caller nor a role"]
    assert "uid:NUMBER" in problems[0].fix


def test_a_policy_without_rules_is_a_warning():
    assert [warning.what for warning in rows("# nothing yet").warnings] == ["there is no rule, so everything is denied"]


def test_a_row_goes_to_casbin_in_the_models_columns_with_its_effect_said():
    model = changed("p = sub, svc, act, obj, eft", "p = obj, eft, sub, act, svc")
    found, _ = read_model(Text("model.conf", model))
    shape, _, _ = understand(found)
    assert shape is not None
    assert row_of(Rule("x", 1, "role:a", "s", "GET", "/"), shape) == ["/", "allow", "role:a", "GET", "s"]
    read = rows("p, /, allow, role:a, GET, s\np, /, role:a, GET, s", model)
    assert [str(problem).partition(";")[0] for problem in read.problems] == ["shop.csv:2: a rule has 5 fields after `p`, this row has 4"]


@pytest.mark.parametrize(
    ("model", "row", "said"),
    [
        (changed("obj, eft", "obj"), "p, role:a, s, GET, /, allow", "a rule has 4 fields after `p`, this row has 5"),
        (changed(" && !some(where (p.eft == deny))", ""), "p, role:a, s, GET, /, deny", "passes over deny rules"),
        (changed("fluiMatch(r.obj, p.obj)", "r.obj == p.obj"), "p, role:a, s, GET, /a/*", "compares objects exactly"),
        (changed("fluiMatch(", "keyMatch("), "p, role:a, s, GET, /:x", "keyMatch knows no `:name`"),
        (changed("fluiMatch(", "keyMatch2("), "p, role:a, s, GET, /a.b", "keyMatch2 reads `.` as a regular expression"),
        (changed("fluiMatch(", "keyMatch2("), "p, role:a, s, GET, topic:a", "keyMatch2 reads `:`"),
        (changed("g(r.sub, p.sub)", "r.sub == p.sub"), "p, role:a, s, GET, /", "this model has no roles"),
        (changed("g(r.sub, p.sub)", "r.sub == p.sub"), GOOD, "this model never asks for roles"),
    ],
)
def test_a_row_that_its_model_would_read_otherwise_is_refused(model, row, said):
    assert said in "\n".join(str(problem) for problem in rows(row, model).problems)


def test_stars_mean_any_where_the_model_says_so():
    model = changed("r.svc == p.svc", '(r.svc == p.svc || p.svc == "*")')
    assert rows("p, role:a, *, *, /", model).problems == []

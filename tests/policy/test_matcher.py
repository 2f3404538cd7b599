"""Understanding models."""

from __future__ import annotations

import pytest

from flui.policy.base import Text
from flui.policy.matcher import Compare, Shape, understand
from flui.policy.source import read_model

ROLES = "[role_definition]\ng = _, _\n"
DENY_WINS = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"


def model(matcher: str, *, r="sub, svc, act, obj", p="sub, svc, act, obj, eft", roles=ROLES, effect=DENY_WINS):
    text = f"[request_definition]\nr = {r}\n[policy_definition]\np = {p}\n[policy_effect]\ne = {effect}\n[matchers]\nm = {matcher}\n{roles}"
    found, problems = read_model(Text("model.conf", text))
    assert problems == []
    return understand(found)


def shape(matcher: str, **parts) -> Shape:
    found, problems, _ = model(matcher, **parts)
    assert [str(problem) for problem in problems] == []
    assert found is not None
    return found


def refused(matcher: str, **parts) -> str:
    found, problems, _ = model(matcher, **parts)
    assert found is None
    return "\n".join(str(problem) for problem in problems)


ALL = 'g(r.sub, p.sub) && r.svc == p.svc && (r.act == p.act || p.act == "*") && fluiMatch(r.obj, p.obj)'


def test_the_shape_of_the_model_that_ships():
    found = shape(ALL)
    assert {field: (clause.compare, clause.star) for field, clause in found.clauses.items()} == {
        "sub": (Compare.ROLE, False),
        "svc": (Compare.EXACT, False),
        "act": (Compare.EXACT, True),
        "obj": (Compare.FLUI, False),
    }
    assert found.deny_wins
    assert found.has_roles
    assert found.row == ("sub", "svc", "act", "obj", "eft")


def test_a_matcher_is_understood_not_compared_as_text():
    other = '(fluiMatch( r.obj,p.obj )) and (("*" == p.act || r.act==p.act) && p.svc == r.svc) && (g(r.sub, p.sub) || r.sub == p.sub)'
    assert shape(other).clauses == shape(ALL).clauses


def test_fields_may_stand_in_any_order_and_some_may_be_missing():
    found, _, warnings = model("r.sub == p.sub && keyMatch(r.obj, p.obj)", r="obj, sub", p="eft, obj, sub", roles="")
    assert found is not None
    assert (found.request, found.row, found.has_roles) == (("obj", "sub"), ("eft", "obj", "sub"), False)
    assert [warning.what for warning in warnings] == ["the matcher does not look at the service", "the matcher does not look at the action"]


@pytest.mark.parametrize(
    ("clause", "why"),
    [
        ("regexMatch(r.obj, p.obj)", "is a regular expression anchored at its start only"),
        ("keyMatch3(r.obj, p.obj)", "is a regular expression that leaves `.` as it is"),
        ("keyMatch5(r.obj, p.obj)", "is a regular expression that leaves `.` as it is"),
        ("eval(p.obj)", "runs text out of the rows"),
        ("keyMatch(p.obj, r.obj)", "not with these arguments"),
        ("keyMatch(r.svc, p.svc)", "not with these arguments"),
        ("unknown(r.obj, p.obj)", "is no call that is known"),
        ('r.sub == "spiffe://shop/root"', "is no comparison of a request's field with the same field of a rule"),
        ("r.obj == p.act", "is no comparison"),
        ("r.obj != p.obj", "is no clause that is known"),
        ("!(r.obj == p.obj)", "is no clause that is known"),
        ("r.obj == p.obj == p.obj", "is no clause that is known"),
        ("r.eft == p.eft", "is no comparison"),
        ('p.eft == "*"', "is no comparison"),
        ("True", "is no clause that is known"),
        ("(r.obj == p.obj || r.sub == p.sub)", "mixes fields"),
        ('p.obj == "*"', "compares nothing"),
        ("(keyMatch(r.obj, p.obj) || r.obj == p.obj)", "compares one field in two ways"),
        ("r.sub.age == p.obj", "is no comparison"),
    ],
)
def test_a_clause_that_the_index_cannot_say_is_refused_with_its_reason(clause, why):
    said = refused(f"g(r.sub, p.sub) && r.svc == p.svc && r.act == p.act && {clause}")
    assert said.startswith("model.conf:8: m: `")
    assert why in said


@pytest.mark.parametrize("matcher", ["g(r.sub, p.sub) &&", "r.sub == p.sub; True", "(" * 300 + "r.sub", "lambda: 1 2"])
def test_a_matcher_that_is_no_expression_is_refused(matcher):
    assert "is no expression" in refused(matcher)


def test_a_field_asked_twice_is_refused():
    assert "asks `svc` twice" in refused(ALL + ' && (r.svc == p.svc || p.svc == "*")')


def test_a_rule_field_that_is_not_compared_is_refused():
    """Else a rule that says GET would allow every method."""
    assert "the matcher does not look at it" in refused("g(r.sub, p.sub) && r.svc == p.svc && fluiMatch(r.obj, p.obj)")


def test_a_model_that_does_not_look_at_the_subject_is_refused():
    assert "every caller would be allowed" in refused("fluiMatch(r.obj, p.obj)", r="obj", p="obj", roles="")


@pytest.mark.parametrize(
    ("effect", "why"),
    [
        ("!some(where (p.eft == deny))", "allows whatever no rule denies, an empty policy everything"),
        ("priority(p.eft) || deny", "is an effect that the index does not know"),
        ("some(where(p.eft == allow))", "blanks included"),
    ],
)
def test_an_effect_that_could_allow_without_a_rule_is_refused(effect, why):
    assert why in refused(ALL, effect=effect)


def test_any_allow_is_enough_where_the_effect_says_so():
    assert not shape(ALL, effect="some(where (p.eft == allow))").deny_wins


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"roles": ""}, "model.conf:8: g: is asked but not defined"),
        ({"roles": "[role_definition]\ng = _, _, _\n"}, "model.conf:10: g: has domains or conditions"),
        ({"r": "sub, dom, svc, act, obj"}, "model.conf:2: r: `dom` is no field of the mesh"),
        ({"r": "sub, svc, act, obj, eft"}, "model.conf:2: r: `eft` is no field of the mesh"),
        ({"p": "sub, svc, act, obj, obj"}, "model.conf:4: p: names a field twice"),
        ({"r": "sub, svc, act"}, "model.conf:8: obj: is compared but not defined"),
    ],
)
def test_definitions_that_the_mesh_cannot_fill_are_refused(parts, why):
    assert why in refused(ALL, **parts)


def test_the_parts_that_are_indexed_can_be_told():
    assert shape(ALL).describe() == [
        "subject: equal or through roles",
        "service: equal",
        "action: equal, or `*` for any",
        "object: pattern (fluiMatch)",
        "effect: a deny wins",
    ]

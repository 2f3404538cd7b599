"""Cases beside a policy."""

from __future__ import annotations

import pytest

from flui.model.config import ConfigError
from flui.policy.base import Request, Rule, Text
from flui.policy.cases import Case, read_cases, run
from flui.policy.index import Index

GOOD = "# cases\n- {as: spiffe://shop/web, service: orders, action: GET, object: /orders/7, expect: allow, why: it shows orders}\n"
POLICY = Index((Rule("a.csv", 1, "spiffe://shop/web", "orders", "GET", "/orders/*"),), (), "v")


def read(text: str) -> tuple[Case, ...]:
    return read_cases((Text("shop.yaml", text),))


def test_a_case_keeps_its_line():
    request = Request("spiffe://shop/web", "orders", "GET", "/orders/7")
    assert read(GOOD) == (Case("shop.yaml", 2, request, allow=True, why="it shows orders"),)
    assert read("") == ()


def test_only_failing_cases_are_told():
    wrong = GOOD.replace("expect: allow", "expect: deny").replace("# cases\n", "")
    failures = run(POLICY, read(GOOD + wrong))
    assert [str(failure) for failure in failures] == [
        "shop.yaml:3: spiffe://shop/web GET /orders/7 on orders: expected deny, is allow by a.csv:1 (it shows orders)"
    ]


def test_a_number_is_taken_as_it_is_written():
    assert read(GOOD.replace("/orders/7", "0x10"))[0].request.obj == "0x10"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("as: x", "shop.yaml:1: is no list"),
        ("- x", "shop.yaml:1: is no case"),
        ("- {as: [x]}", "shop.yaml:1: is no `key: text`"),
        (GOOD.replace("expect: allow", "expect: maybe"), "shop.yaml:2: expect: `maybe` is no expectation; write allow or deny"),
        (GOOD.replace("why:", "reason:"), "shop.yaml:2: reason: is no key of a case"),
        (GOOD.replace("why:", "as:"), "shop.yaml:2: as: is said twice"),
        (GOOD.replace("service: orders,", ""), "shop.yaml:2: service: is missing"),
        ("\n- {", "shop.yaml:2: is no YAML"),
        ("\x00", "shop.yaml: is no YAML"),
    ],
)
def test_a_wrong_case_names_its_line(text, said):
    with pytest.raises(ConfigError) as raised:
        read(text)
    assert str(raised.value.problems[0]).startswith(said), str(raised.value)


def test_every_wrong_case_is_told_at_once():
    with pytest.raises(ConfigError) as raised:
        read("- x\n- {as: x, service: y, action: z, object: o, expect: e}\n")
    assert [problem.line for problem in raised.value.problems] == [1, 2]

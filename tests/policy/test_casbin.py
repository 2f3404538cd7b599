"""pycasbin as the source of truth, and the holes of it that do not reach the mesh."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flui.model.config import ConfigError
from flui.policy import casbin
from flui.policy.base import PolicySource, Request, Text

SHIPPED = (Path(__file__).parents[2] / "policy" / "model.conf").read_text()
RULES = "p, role:clerk, orders, GET, /orders/*\ng, spiffe://shop/web, role:clerk\n"
WEB = Request("spiffe://shop/web", "orders", "GET", "/orders/7")


def source(rows: str = RULES, model: str = SHIPPED) -> PolicySource:
    return PolicySource(Text("model.conf", model), (Text("shop.csv", rows),))


def problems(rows: str = RULES, model: str = SHIPPED) -> str:
    with pytest.raises(ConfigError) as raised:
        casbin.load(source(rows, model))
    return str(raised.value)


def test_a_good_policy_decides():
    loaded = casbin.load(source())
    assert loaded.policy.decide(*WEB).allowed
    assert loaded.policy.roles(WEB.subject) == ("role:clerk",)
    assert len(loaded.policy.version) == 12
    assert loaded.warnings == ()


def test_an_empty_policy_denies():
    assert not casbin.load(source("")).policy.decide(*WEB).allowed


def test_warnings_do_not_stop_a_policy():
    loaded = casbin.load(source(RULES + RULES))
    assert [warning.what for warning in loaded.warnings] == ["says the same as shop.csv:1", "says the same as shop.csv:2"]
    assert loaded.policy.decide(*WEB).allowed


def test_everything_wrong_is_said_at_once():
    said = problems("p, role:clerk, orders, GET\nx\n" + RULES).splitlines()
    assert [line.partition(": ")[0] for line in said] == ["shop.csv:1", "shop.csv:2"]


def test_a_model_that_pycasbin_reads_otherwise_is_refused(monkeypatch):
    """The last guard: whatever our own reading of a model misses, pycasbin's is compared with it."""
    monkeypatch.setattr("casbin.util.remove_comments", lambda text: text if "some" in text else f"({text})")
    assert "model.conf:21: m: is read by pycasbin otherwise than it stands here" in problems()


def test_what_pycasbin_raises_is_told_as_a_problem(monkeypatch):
    def refuse(_self):
        raise RuntimeError("grouping policy elements do not meet role definition")

    monkeypatch.setattr("casbin.Enforcer.build_role_links", refuse)
    assert "model.conf: pycasbin refuses it (RuntimeError: grouping policy elements" in problems()


def test_the_reference_is_pycasbin():
    loaded = casbin.load(source())
    reference = casbin.Reference(SHIPPED, loaded.shape, loaded.policy)
    assert reference.decide(*WEB).allowed
    assert reference.decide(*WEB).rule == "shop.csv:1"
    assert not reference.decide("spiffe://shop/web", "orders", "GET", "/orders").allowed
    assert reference.roles(WEB.subject) == ("role:clerk",)


def test_pycasbin_allows_everything_by_an_empty_policy_where_only_denies_count():
    """Threats, measured holes: such an effect is refused."""
    model = SHIPPED.replace("some(where (p.eft == allow)) && ", "")
    assert casbin.enforcer_of(model, [], []).enforce(*WEB)
    assert "allows whatever no rule denies, an empty policy everything" in problems(model=model)


def test_one_short_row_makes_pycasbin_raise_on_every_request():
    """Threats, measured holes: rows are checked and filled up before it sees them."""
    enforcer = casbin.enforcer_of(SHIPPED, [["role:clerk", "orders", "GET", "/orders/*"]], [])
    with pytest.raises(RuntimeError, match="invalid policy size"):
        enforcer.enforce(*WEB)
    assert casbin.load(source()).policy.decide(*WEB).allowed


def test_pycasbin_holds_a_caller_called_like_a_role_for_that_role():
    """Threats D6: the index denies it."""
    loaded = casbin.load(source())
    asked = Request("role:clerk", "orders", "GET", "/orders/7")
    assert casbin.Reference(SHIPPED, loaded.shape, loaded.policy).decide(*asked).allowed
    assert not loaded.policy.decide(*asked).allowed


def test_a_role_ten_grants_away_is_not_seen_by_pycasbin():
    """So a policy with such a chain is refused, instead of granting more than Casbin would."""
    grants = [["spiffe://shop/web", "role:r0"], *([f"role:r{n}", f"role:r{n + 1}"] for n in range(9))]
    enforcer = casbin.enforcer_of(SHIPPED, [["role:r9", "orders", "GET", "/orders/*", "allow"]], grants)
    assert not enforcer.enforce(*WEB)
    rows = "p, role:r9, orders, GET, /orders/*\n" + "".join(f"g, {member}, {role}\n" for member, role in grants)
    assert "reaches `role:r9` over 10 grants; Casbin follows 9" in problems(rows)


@pytest.mark.parametrize("obj", ["/orders/7\n", "/orders/a\nb"])
def test_a_line_break_is_denied_in_a_model_with_key_match2(obj):
    loaded = casbin.load(source(model=SHIPPED.replace("fluiMatch", "keyMatch2")))
    assert loaded.policy.decide(*WEB).allowed
    assert not loaded.policy.decide("spiffe://shop/web", "orders", "GET", obj).allowed


def test_pycasbin_is_imported_only_to_load():
    """A sidecar that only decides does not pay for it; the index never needs it."""
    code = (
        "import sys; import flui.policy.casbin, flui.policy.index, flui.policy.explain, flui.policy.diff; "
        "sys.exit('casbin' in sys.modules or 'simpleeval' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0

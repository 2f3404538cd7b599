"""The policy folder that ships: it loads without a warning, and says what its cases say."""

from __future__ import annotations

from pathlib import Path

from flui.policy import casbin, source
from flui.policy.base import PolicySource
from flui.policy.cases import read_cases, run
from flui.policy.diff import diff
from flui.policy.index import GUARDS

FOLDER = str(Path(__file__).parents[2] / "policy")


def test_the_shipped_policy_has_no_problem_and_no_warning():
    assert casbin.load(source.read(FOLDER)).warnings == ()


def test_the_shipped_cases_hold_for_the_index_and_for_pycasbin():
    read = source.read(FOLDER)
    loaded = casbin.load(read)
    cases = read_cases(source.read_cases(FOLDER))
    assert len(cases) > 10
    assert run(loaded.policy, cases) == ()
    reference = casbin.Reference(read.model.content, loaded.shape, loaded.policy)
    changes = diff(reference, loaded.policy, (case.request for case in cases))
    assert [change for change in changes if change.new.rule not in GUARDS] == []


def test_every_rule_of_the_shipped_policy_is_needed_by_a_case():
    """A rule whose loss no case notices is not described by the cases."""
    read = source.read(FOLDER)
    cases = read_cases(source.read_cases(FOLDER))
    for text in read.rows:
        lines = text.content.split("\n")
        for number, line in enumerate(lines):
            if line.startswith("p,"):
                fewer = type(text)(text.name, "\n".join(lines[:number] + lines[number + 1 :]))
                others = tuple(fewer if other is text else other for other in read.rows)
                assert run(casbin.load(PolicySource(read.model, others)).policy, cases) != (), f"{text.name}:{number + 1}"

"""`flui policy`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flui.runtime.cli.policy import policy

SHIPPED = Path(__file__).parents[2] / "policy"


@pytest.fixture
def folder(tmp_path):
    for path in [SHIPPED / "model.conf", SHIPPED / "shop.csv", SHIPPED / "cases" / "shop.yaml"]:
        target = tmp_path / path.relative_to(SHIPPED)
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text())
    return tmp_path


def flui(*arguments: object) -> Result:
    return CliRunner().invoke(policy, [str(argument) for argument in arguments])


def test_check_of_a_good_policy_says_what_is_indexed(folder):
    result = flui("check", folder)
    assert result.exit_code == 0
    assert "ok  11 rules, 2 grants, version " in result.stdout
    assert "indexed: object: pattern (fluiMatch)" in result.stdout


def test_check_names_every_mistake_with_file_and_line(folder):
    (folder / "more.csv").write_text("p, role:clerk, stock\nq\np, role:nobody, stock, GET, /\n")
    result = flui("check", folder)
    assert result.exit_code == 1
    assert "error  more.csv:1: a rule has 4 or 5 fields after `p`, this row has 2; write p, subject" in result.stderr
    assert "error  more.csv:2: `q` is no kind of row" in result.stderr
    assert "warning  more.csv:3: subject: nobody holds `role:nobody`" in result.stderr
    as_json = json.loads(flui("check", folder, "--json").stdout)
    assert (as_json["ok"], [problem["line"] for problem in as_json["problems"]]) == (False, [1, 2])


def test_check_says_why_a_model_cannot_be_indexed(folder):
    (folder / "model.conf").write_text((folder / "model.conf").read_text().replace("fluiMatch(r.obj", "regexMatch(r.obj"))
    result = flui("check", folder)
    assert result.exit_code == 1
    assert "is a regular expression anchored at its start only: the index cannot say it" in result.stderr


def test_check_of_no_folder_is_a_finding_not_a_crash(tmp_path):
    result = flui("check", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "there is no such folder" in result.stderr


def test_test_runs_the_cases(folder):
    assert flui("test", folder).exit_code == 0
    cases = folder / "cases" / "more.yaml"
    cases.write_text("- {as: spiffe://shop/web, service: stock, action: POST, object: /items/1, expect: allow}\n")
    result = flui("test", folder)
    assert result.exit_code == 1
    assert "more.yaml:1: spiffe://shop/web POST /items/1 on stock: expected allow, is deny by no rule" in result.stderr
    assert json.loads(flui("test", folder, "--json").stdout)["failures"][0]["case"] == "more.yaml:1"
    cases.write_text("- nothing\n")
    assert "more.yaml:1: is no case" in flui("test", folder).stderr


def test_explain_names_the_rule_and_the_roles(folder):
    result = flui("explain", "--as", "spiffe://shop/orders", "stock", "POST", "/items/1/reserve", "--policy", folder)
    assert result.exit_code == 0
    assert result.stdout.startswith("allowed  spiffe://shop/orders POST /items/1/reserve on stock\nrule     shop.csv:")
    assert "through  spiffe://shop/orders > role:clerk" in result.stdout


def test_explain_of_a_denial_names_the_nearest_rule_and_what_to_change(folder):
    asked = ("explain", "--as", "spiffe://shop/web", "stock", "POST", "/items/1/reserve", "--policy", folder)
    assert "`g, spiffe://shop/web, role:clerk` would give it" in flui(*asked).stdout
    as_json = json.loads(flui(*asked, "--json").stdout)
    assert (as_json["allowed"], as_json["rule"], as_json["nearest"]["differences"][0]["field"]) == (False, "no rule", "subject")
    denied = flui("explain", "--as", "spiffe://shop/orders", "stock", "DELETE", "/items/1/reserve", "--policy", folder).stdout
    assert "it would allow, but the deny in shop.csv:" in denied


def test_explain_without_a_subject_is_wrong_use(folder):
    assert flui("explain", "stock", "GET", "/", "--policy", folder).exit_code == 2


def test_who_can_lists_callers(folder):
    asked = ("who-can", "stock", "POST", "/items/1/reserve", "--policy", folder)
    assert flui(*asked).stdout.startswith("spiffe://shop/orders  by shop.csv:")
    assert [row["subject"] for row in json.loads(flui(*asked, "--json").stdout)] == ["spiffe://shop/orders"]
    assert flui("who-can", "stock", "PUT", "/", "--policy", folder).stdout == "nobody\n"


def test_diff_shows_only_what_changes(folder, tmp_path):
    requests = tmp_path / "access.log"
    requests.write_text('{"principal": "spiffe://shop/tour", "service": "web", "method": "POST", "path": "/cart"}\n')
    assert flui("diff", SHIPPED, folder, "--requests", requests).exit_code == 0
    (folder / "more.csv").write_text("p, spiffe://shop/tour, web, POST, /cart\n")
    result = flui("diff", SHIPPED, folder, "--requests", requests)
    assert result.exit_code == 1
    assert result.stdout.startswith("+ spiffe://shop/tour POST /cart on web: now allowed by more.csv:1, was denied by no rule\n1 of ")
    changes = json.loads(flui("diff", SHIPPED, folder, "--requests", requests, "--json").stdout)["changes"]
    assert [change["new"]["allowed"] for change in changes] == [True]


def test_diff_with_nothing_to_compare_is_wrong_use(folder):
    (folder / "cases" / "shop.yaml").unlink()
    assert flui("diff", folder, folder).exit_code == 2
    (folder / "bad.log").write_text("{")
    assert flui("diff", folder, folder, "--requests", folder / "bad.log").exit_code == 1
    assert flui("diff", folder, folder, "--requests", folder / "none.log").exit_code == 1


@pytest.mark.parametrize("command", ["check", "test", "explain", "who-can", "diff"])
def test_every_command_has_an_example(command):
    assert "Example: flui policy " in flui(command, "--help").stdout

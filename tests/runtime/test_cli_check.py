"""`flui check`: knows what a file is by what is in it, tells every mistake, and ends with 0, 1 or 2."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flui.runtime.cli import main

ROOT = Path(__file__).parents[2]

SIDECAR = "service: orders\napp: http://127.0.0.1:8000\ncerts: certs\npolicy: policy\n"


def check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sidecar's configuration and all that it names."""
    monkeypatch.delenv("FLUI_CERTS", raising=False)
    (tmp_path / "sidecar.yaml").write_text(SIDECAR)
    shutil.copytree(ROOT / "policy", tmp_path / "policy")
    (tmp_path / "certs").mkdir()
    for name in ("ca.pem", "orders.pem", "orders.key"):
        (tmp_path / "certs" / name).touch()
    return tmp_path


def test_a_right_configuration_ends_with_0_and_says_what_was_checked(folder: Path) -> None:
    result = check(folder / "sidecar.yaml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"ok  checked {folder}/sidecar.yaml (sidecar), {folder}/policy (policy)\n"


def test_every_mistake_of_every_file_is_told_at_once(folder: Path) -> None:
    (folder / "one.yaml").write_text("service: One\ninbuond: x\n")
    (folder / "two.yaml").write_text("service: two\ntimeouts: {connect: 2}\n")
    result = check(folder / "one.yaml", folder / "two.yaml", folder / "sidecar.yaml", folder / "none.yaml")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert [line.removeprefix(f"{folder}/").partition(": ")[0] for line in lines] == ["one.yaml:1", "one.yaml:2", "two.yaml:2", "none.yaml"]
    assert all("; " in line for line in lines)
    assert result.stdout.startswith("failed  4 mistakes; checked ")


def test_what_a_configuration_names_must_be_there_unless_it_is_elsewhere(folder: Path) -> None:
    (folder / "certs" / "orders.key").unlink()
    shutil.rmtree(folder / "policy")
    result = check(folder / "sidecar.yaml")
    assert result.exit_code == 1
    assert f"sidecar.yaml:3: certs: there is no orders.key in {folder}/certs; " in result.stderr
    assert f"sidecar.yaml:4: policy: there is no folder {folder}/policy; " in result.stderr
    assert check("--no-files", folder / "sidecar.yaml").exit_code == 0


def test_the_policy_that_a_configuration_names_is_checked_too(folder: Path) -> None:
    with (folder / "policy" / "shop.csv").open("a") as file:
        file.write("p, too, short\n")
    line = len((folder / "policy" / "shop.csv").read_text().splitlines())
    for path in ("sidecar.yaml", "policy", "policy/shop.csv", "policy/model.conf"):
        result = check(folder / path)
        assert result.exit_code == 1, path
        assert f"{folder}/policy/shop.csv:{line}: " in result.stderr, path


def test_a_policy_is_checked_once(folder: Path) -> None:
    document = json.loads(check("--json", folder / "sidecar.yaml", folder / "policy", folder / "policy" / "shop.csv").stdout)
    assert [checked["kind"] for checked in document["checked"]] == ["sidecar", "policy"]


def test_cases_are_known_by_their_list(folder: Path) -> None:
    cases = folder / "policy" / "cases" / "shop.yaml"
    assert f"{cases} (cases)" in check(cases).stdout
    cases.write_text("- {as: spiffe://shop/web, service: orders, action: GET, object: /, expect: perhaps}\n")
    for path in (cases, folder / "policy"):
        result = check(path)
        assert result.exit_code == 1
        assert f"{cases}:1: " in result.stderr


def test_a_topology_is_known_by_its_containers_and_the_one_that_ships_is_right() -> None:
    result = check(ROOT / "compose" / "shop.yaml")
    assert result.stderr == ""
    assert result.exit_code == 0
    assert "shop.yaml (topology)" in result.stdout


def test_the_sidecars_inside_a_topology_are_checked_with_the_lines_of_the_topology(tmp_path: Path) -> None:
    for name in ("compose", "policy", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    file = tmp_path / "compose" / "shop.yaml"
    text = file.read_text()
    assert "balance: {policy: ring, key: flui-key}" in text
    wrong = text.replace("balance: {policy: ring, key: flui-key}", "balance: {policy: rnig, key: flui-key}", 1)
    file.write_text(wrong)
    line = wrong[: wrong.index("rnig")].count("\n") + 1
    result = check(file)
    assert result.exit_code == 1
    assert f"{file}:{line}: " in result.stderr
    assert "services.stock.balance.policy: there is no policy 'rnig'; did you mean `ring`" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_broken_topology_is_told_by_line(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("services:\n  web:\n    image: nginx\n    command: nginx\n")
    result = check(file)
    assert result.exit_code == 1
    assert f"{file}:2: services.web: it has no sidecar; " in result.stderr


def test_a_folder_is_its_policy_or_its_yaml_files_and_others_are_skipped(folder: Path) -> None:
    (folder / "site.yaml").write_text("title: something else\n")
    result = check(folder)
    assert result.exit_code == 0
    assert f"skipped {folder}/site.yaml" in result.stdout
    assert f"{folder}/sidecar.yaml (sidecar)" in result.stdout
    # but a file that is named is meant
    assert check(folder / "site.yaml").exit_code == 1
    (folder / "empty").mkdir()
    assert "nothing in this folder" in check(folder / "empty").stderr


def test_json_says_the_same(folder: Path) -> None:
    assert json.loads(check("--json", folder / "sidecar.yaml").stdout)["ok"] is True
    (folder / "sidecar.yaml").write_text(SIDECAR + "inbuond: 1\n")
    result = check("--json", folder / "sidecar.yaml")
    assert (result.exit_code, result.stderr) == (1, "")
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["problems"] == [
        {
            "file": f"{folder}/sidecar.yaml",
            "line": 5,
            "key": "inbuond",
            "what": "there is no key 'inbuond' here",
            "fix": "did you mean `inbound`?",
        }
    ]


def test_the_certificates_of_the_environment_count_as_when_it_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(folder / "certs", folder / "elsewhere")
    assert check(folder / "sidecar.yaml").exit_code == 1
    monkeypatch.setenv("FLUI_CERTS", str(folder / "elsewhere"))
    assert check(folder / "sidecar.yaml").exit_code == 0


def test_wrong_use_ends_with_2_and_help_has_an_example() -> None:
    assert check().exit_code == 2
    assert check("--nonsense", "x").exit_code == 2
    assert "Example: flui check" in check("--help").stdout

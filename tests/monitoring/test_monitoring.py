"""Dashboard and alert rules: they load, and they speak of metrics and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flui.telemetry import families, resources
from flui.telemetry.families import Kind

FOLDER = Path(__file__).resolve().parents[2] / "monitoring"
FAMILIES = {family.name: family for family in (*families.FAMILIES, *resources.FAMILIES)}

NAME = re.compile(r"\b(?:flui_\w+|flui:[\w:]+)")
SELECTOR = re.compile(r"\b(flui_\w+)\{([^}]*)\}")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
GROUPING = re.compile(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)")
FROM_SCRAPE = {"instance", "job"}
"""Labels that every series gets from Prometheus."""


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana" / "flui.json").read_text("utf-8"))
GROUPS = yaml.safe_load((FOLDER / "prometheus" / "alerts.yaml").read_text("utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
TESTS = yaml.safe_load((FOLDER / "prometheus" / "alerts.test.yaml").read_text("utf-8"))

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [each["expr"] for each in _walk(DASHBOARD) if "expr" in each]
VARIABLES = [each["definition"] for each in DASHBOARD["templating"]["list"] if "definition" in each]
EXPRESSIONS = [*QUERIES, *VARIABLES, *(rule["expr"] for rule in RULES)]


def _family(name: str) -> str:
    """The family that a series in an expression belongs to; empty when there is none."""
    if name in FAMILIES:
        kind = FAMILIES[name].kind
        return name if kind in {Kind.COUNTER, Kind.GAUGE} else ""
    base, _, part = name.rpartition("_")
    if base not in FAMILIES:
        return ""
    parts = {Kind.HISTOGRAM: {"bucket", "sum", "count"}, Kind.SUMMARY: {"sum", "count"}}.get(FAMILIES[base].kind, set())
    return base if part in parts else ""


def _missing(expression: str) -> list[str]:
    """Metrics and labels that it names and that do not exist."""
    wrong: list[str] = []
    labels: set[str] = set(FROM_SCRAPE)
    for name in NAME.findall(expression):
        if name in RECORDED:
            labels |= {"listener", "service"}
        elif _family(name):
            labels |= {*FAMILIES[_family(name)].labels, *({"le"} if name.endswith("_bucket") else ())}
        else:
            wrong.append(name)
    for name, matchers in SELECTOR.findall(expression):
        if _family(name):
            known = {*FAMILIES[_family(name)].labels, *FROM_SCRAPE}
            wrong += [f"{name}: {label}" for label in MATCHER.findall(matchers) if label not in known]
    for grouping in GROUPING.findall(expression):
        wrong += [label for each in grouping.split(",") if (label := each.strip()) not in labels]
    return wrong


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_in_an_expression_exists(expression: str) -> None:
    assert not _missing(expression)


def test_an_expression_with_a_name_that_does_not_exist_is_found() -> None:
    assert _missing("flui_nothing_total") == ["flui_nothing_total"]
    assert _missing("rate(flui_request_duration_seconds[5m])") == ["flui_request_duration_seconds"], "a histogram has no series of its own"
    assert _missing("flui_peer_request_duration_seconds_bucket") == ["flui_peer_request_duration_seconds_bucket"]
    assert _missing('flui_flows{service="x"}') == ["flui_flows: service"]
    assert _missing("sum by (le, rout) (flui_request_duration_seconds_bucket)") == ["rout"]
    assert not _missing('sum by (le, route) (flui_request_duration_seconds_bucket{listener="x",instance=~".*"})')


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {_family(name) for query in QUERIES for name in NAME.findall(query)}
    left_out = {"flui_cgroup_version"}  # which form of control groups there is decides nothing
    assert set(FAMILIES) - shown == left_out


def test_every_panel_says_what_it_shows_and_asks_the_chosen_prometheus() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert [each["type"] for each in DASHBOARD["templating"]["list"] if each["name"] == "datasource"] == ["datasource"]
    assert DASHBOARD["id"] is None
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"] == chosen
        assert all(target["datasource"] == chosen for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_no_panel_lies_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_only_variables_that_exist_are_used() -> None:
    known = {each["name"] for each in DASHBOARD["templating"]["list"]} | {"__rate_interval"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([panel["targets"] for panel in PANELS])))
    assert used <= known


def test_every_alert_says_what_is_wrong_and_what_to_do_next() -> None:
    names = [alert["alert"] for alert in ALERTS]
    assert len(names) == len(set(names)) >= 14
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}, alert["alert"]
        assert re.fullmatch(r"\d+[smh]", alert["for"]), alert["alert"]
        summary, description = alert["annotations"]["summary"], alert["annotations"]["description"]
        assert 20 <= len(summary) <= 160, alert["alert"]
        assert len(description) >= 120, alert["alert"]
        assert description.rstrip().endswith("."), alert["alert"]


def test_a_label_that_a_text_uses_survives_the_expression() -> None:
    """What `sum by (a)` leaves out would read as nothing in the text."""
    for alert in ALERTS:
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(alert["annotations"])))
        outer = re.match(r"(?:sum|max|min|avg) by \(([^)]*)\)", alert["expr"])
        if outer:
            assert used <= {each.strip() for each in outer[1].split(",")}, alert["alert"]


def test_every_alert_is_shown_to_fire_and_not_to_fire() -> None:
    fires: set[str] = set()
    quiet: set[str] = set()
    for each in TESTS["tests"]:
        for test in each["promql_expr_test"]:
            (name,) = re.findall(r'alertname="(\w+)"', test["expr"])
            (fires if test["exp_samples"] else quiet).add(name)
    assert fires == quiet == {alert["alert"] for alert in ALERTS}


def test_the_readme_lists_every_alert_with_its_severity() -> None:
    told = re.findall(r"^\| `(Flui\w+)` \| (\w+) \|", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(told) == sorted((alert["alert"], alert["labels"]["severity"]) for alert in ALERTS)


def test_the_example_scrapes_loopback_under_the_name_that_rules_and_dashboard_use() -> None:
    example = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yaml").read_text("utf-8"))
    (job,) = example["scrape_configs"]
    assert f'up{{job="{job["job_name"]}"}}' in next(alert["expr"] for alert in ALERTS if alert["alert"] == "FluiSidecarDown")
    for static in job["static_configs"]:
        assert "instance" in static["labels"]
        assert all(target.startswith("127.0.0.1:") for target in static["targets"])
    assert all((FOLDER / "prometheus" / file).is_file() for file in example["rule_files"])

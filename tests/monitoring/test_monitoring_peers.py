"""The real Prometheus: its own tool checks and tests the rules, and it scrapes sidecars that run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.mesh import Mesh, Side, until

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(180)]

FOLDER = Path(__file__).resolve().parents[2] / "monitoring"
RULES = FOLDER / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana" / "flui.json").read_text("utf-8"))
GET = b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n"
EVERY = "250ms"
"""How often Prometheus looks here."""
STEP_S = 0.1
TRIES = 300
"""Looks at what it has found, before that counts as never."""


def _tool(name: str) -> str:
    found = shutil.which(name)
    assert found, "make test-peers needs Prometheus (Debian: apt-get install prometheus)"
    return found


def _promtool(*arguments: str | Path) -> str:
    """What promtool says; fails with it."""
    done = subprocess.run([_tool("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    alerts = yaml.safe_load((RULES / "alerts.yaml").read_text("utf-8"))
    many = sum(len(group["rules"]) for group in alerts["groups"])
    assert f"SUCCESS: {many} rules found" in _promtool("check", "rules", "--lint=all", "--lint-fatal", RULES / "alerts.yaml")


def test_promtool_accepts_the_example_configuration() -> None:
    assert "is valid prometheus config file syntax" in _promtool("check", "config", RULES / "prometheus.yaml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    assert "SUCCESS" in _promtool("test", "rules", RULES / "alerts.test.yaml")


def test_a_rule_that_says_something_else_fails_its_test(tmp_path: Path) -> None:
    """The test above can fail."""
    rules = (RULES / "alerts.yaml").read_text("utf-8")
    (tmp_path / "alerts.yaml").write_text(rules.replace("flui_cluster_panic == 1", "flui_cluster_panic == 2"))
    tests = yaml.safe_load((RULES / "alerts.test.yaml").read_text("utf-8"))
    tests["tests"] = [each for each in tests["tests"] if "FluiClusterPanic" in str(each)]
    (tmp_path / "alerts.test.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        [_tool("promtool"), "test", "rules", str(tmp_path / "alerts.test.yaml")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "FAILED" in done.stderr


class Prometheus:
    """A running one, asked over its API."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.address = ""

    def is_ready(self) -> bool:
        said = self._log.read_text("utf-8")
        found = re.search(r'"address":"(127\.0\.0\.1:\d+)"[^\n]*"msg":"Listening on"', said)
        self.address = found[1] if found else ""
        return bool(found) and "Server is ready to receive web requests." in said

    async def get(self, path: str, **values: str) -> Any:
        """The data of an answer; fails with what it says instead."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(values)}"

        def ask() -> bytes:
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.read()

        said = json.loads(await asyncio.to_thread(ask))
        assert said["status"] == "success", f"{values}: {said}"
        return said["data"]

    async def value(self, query: str) -> dict[tuple[str, ...], float]:
        """The numbers of a query by the values of its labels, sorted by name."""
        data = await self.get("query", query=query)
        return {tuple(value for _, value in sorted(each["metric"].items())): float(each["value"][1]) for each in data["result"]}

    async def until(self, query: str, expected: dict[tuple[str, ...], float]) -> None:
        """Waits until a query answers so."""
        found: dict[tuple[str, ...], float] = {}
        for _ in range(TRIES):
            found = await self.value(query)
            if found == expected:
                return
            await asyncio.sleep(STEP_S)
        raise AssertionError(f"{query}: {found}")


@contextlib.contextmanager
def prometheus(folder: Path, admins: dict[str, str]) -> Iterator[Prometheus]:
    """Prometheus on a free loopback port with the shipped configuration, made to look often, at sidecars by name."""
    config = yaml.safe_load((RULES / "prometheus.yaml").read_text("utf-8"))
    config["global"] = {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [admin], "labels": {"instance": name}} for name, admin in admins.items()]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    rules = (RULES / "alerts.yaml").read_text("utf-8")
    (folder / "alerts.yaml").write_text(re.sub(r"\binterval: \w+", f"interval: {EVERY}", rules))
    log = folder / "prometheus.log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            [
                _tool("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                "--log.format=json",
            ],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
    try:
        yield Prometheus(log)
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait(5)


async def _with_admin(mesh: Mesh, name: str, **more: Any) -> tuple[Side, str]:
    """A sidecar and its admin address."""
    file = mesh.prepare(name, **more)
    file.write_text(file.read_text("utf-8").replace("admin: off", "admin: 127.0.0.1:0"))
    side = await mesh.start(file)
    (line,) = side.said("ready")
    return side, line["admin"]


def _dashboard_queries() -> Iterator[tuple[str, str]]:
    """Title and expression of each, with what Grafana would put in for its variables."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], _filled(target["expr"])
    for annotation in DASHBOARD["annotations"]["list"]:
        if "expr" in annotation:
            yield annotation["name"], _filled(annotation["expr"])


def _filled(expression: str) -> str:
    filled = expression.replace("$__rate_interval", "1m")
    filled = re.sub(r"\$(?:instance|service|listener)\b", ".*", filled)
    assert "$" not in filled, expression
    return filled


def test_prometheus_scrapes_sidecars_and_finds_what_was_sent(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)

    async def story() -> None:
        backend = await mesh.backend()
        orders, orders_admin = await _with_admin(mesh, "orders", app=backend)
        web, web_admin = await _with_admin(mesh, "web", services=f"  orders: {{endpoints: ['{orders.inbound}']}}")
        for _ in range(7):
            assert (await mesh.call(web, GET, None)).status == 200
        for _ in range(3):
            assert (await mesh.call(orders, GET, "nobody")).status == 403
        with prometheus(tmp_path, {"orders": orders_admin, "web": web_admin}) as peer:
            await until(peer.is_ready, "Prometheus is ready", 30)
            await peer.until('up{job="flui"} == 1', {("up", "orders", "flui"): 1, ("up", "web", "flui"): 1})
            await _counts(peer)
            await _dashboard(peer)
            await _rules(peer)
            await orders.stop()
            down = 'ALERTS{alertname="FluiSidecarDown"}'
            await peer.until(down, {("ALERTS", "FluiSidecarDown", "pending", "orders", "flui", "critical"): 1})

    mesh.run(story(), timeout_s=120)


async def _counts(peer: Prometheus) -> None:
    await peer.until(
        "sum by (instance, listener, service, code) (flui_requests_total)",
        {("200", "orders", "inbound", "orders"): 7, ("403", "orders", "inbound", "orders"): 3, ("200", "web", "outbound", "orders"): 7},
    )
    asked = await peer.value('sum by (peer) (flui_peer_requests_total{instance="orders"})')
    assert asked["spiffe://shop/web",] == 7
    assert sum(asked.values()) == 10
    decided = await peer.value('sum by (rule, code) (flui_rule_requests_total{instance="orders"})')
    assert decided["200", "rules.csv:1"] == 7
    assert sum(decided.values()) == 10
    counted = await peer.value('flui_peer_request_duration_seconds_count{instance="orders",peer="spiffe://shop/web"}')
    assert list(counted.values()) == [7]
    targets = (await peer.get("targets"))["activeTargets"]
    assert [target["lastError"] for target in targets] == ["", ""]
    kinds = await peer.get("metadata")
    assert kinds["flui_peer_request_duration_seconds"][0]["type"] == "summary"
    assert kinds["flui_request_duration_seconds"][0]["type"] == "histogram"


async def _dashboard(peer: Prometheus) -> None:
    """Every query is understood, and those of calls have something to show."""
    await peer.until("count(count by (instance) (rate(flui_requests_total[1m])))", {(): 2})  # scraped twice
    calls = {"Requests by service and code", "Half of the calls are faster (p50)", "99 of 100 are faster (p99)", "Mean time by peer"}
    calls |= {
        "Refusals by rule",
        "Refusals and failures by fault",
        "Certificates: days left",
        "Versions in force",
        "Downstream connections",
    }
    missing = calls
    for _ in range(TRIES):  # a scrape that a busy machine lets run late leaves a hole of its own length
        empty = {title for title, query in _dashboard_queries() if not await peer.value(query)}
        missing = empty & calls
        if not missing:
            return
        await asyncio.sleep(STEP_S)
    raise AssertionError(f"nothing to show for {missing}")


async def _rules(peer: Prometheus) -> None:
    """Every rule is evaluated without an error, and what is well raises no alert."""
    found: list[dict[str, Any]] = []
    for _ in range(TRIES):
        found = [rule for group in (await peer.get("rules"))["groups"] for rule in group["rules"]]
        if all(rule["health"] != "unknown" for rule in found):
            break
        await asyncio.sleep(STEP_S)
    assert found
    assert [(rule["name"], rule["lastError"]) for rule in found if rule["health"] != "ok"] == []
    active = {each["labels"]["alertname"] for each in (await peer.get("alerts"))["alerts"]}
    assert "FluiCertificateExpires" in active, "a leaf of these tests lasts a day at most"
    assert not active & {"FluiSidecarDown", "FluiErrorBudgetBurnsFast", "FluiErrorBudgetBurnsSlowly", "FluiSlow", "FluiReloadRefused"}

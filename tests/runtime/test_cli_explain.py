"""`flui explain`: everything that a decision carries, in words and as JSON, without sending anything."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flui.model.decision import Forward
from flui.model.resilience import Concurrency, HealthCheck, Injection, Outlier, Rate, RateBy, Retry
from flui.model.topology import Cluster, HashKey, KeySource
from flui.runtime.cli import _words, main

ROOT = Path(__file__).parents[2]

SIDECAR = """
service: web
app:
  url: http://127.0.0.1:8000
  concurrency: {least: 8, most: 200, start: 16}
  rate: {rate: 50/s, burst: 100, per: principal}
  routes:
    - {name: reports, match: {path: /export/*, principals: [spiffe://shop/reports/*]}, timeout: 5m, priority: low, retry: off}
certs: certs
policy: policy
services:
  stock:
    endpoints: [{name: a, address: "10.0.0.7:15006"}, {name: b, address: "10.0.0.8:15006"}]
    balance: {policy: ring, key: header:x-customer}
    retry_budget: {share: 10%, least: 1}
    breaker: {requests: 2000}
    outlier: {slowness: off, eject: 2s}
    health: {path: /is/well, interval: 2s, statuses: 200}
  stock-next:
    endpoints: [10.0.0.9:15006]
    identity: spiffe://shop/stock
    outlier: off
  shadow: {endpoints: ["10.0.0.10:15006"]}
routes:
  - name: canary
    match: {hosts: [stock], path: /items/*, methods: [GET], headers: {x-canary: yes}}
    to: stock-next
  - name: split
    match: {hosts: [stock]}
    to: [{service: stock, weight: 99}, {service: stock-next}]
    timeout: 2s
    retry: {attempts: 3, per_try: 400ms, statuses: [500, 503], hedge_after: 250ms}
    priority: high
    panic: fail
    rate: [500/s, {rate: 100000/h, burst: 5000}]
    mirror: {service: shadow, share: 0.5%}
    inject: {delay: 100ms, delay_share: 10%, abort: 503, abort_share: 1%}
    key: path:2
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FLUI_CERTS", raising=False)
    shutil.copytree(ROOT / "policy", tmp_path / "policy", ignore=shutil.ignore_patterns("*.csv", "cases"))
    (tmp_path / "policy" / "rules.csv").write_text(
        "p, spiffe://shop/reports/daily, web, GET, /export/*\np, spiffe://shop/me, web, GET, /*\n"
    )
    (tmp_path / "sidecar.yaml").write_text(SIDECAR)
    return tmp_path / "sidecar.yaml"


def explain(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments, "-c", str(file)])


def lines(file: Path, *arguments: str) -> list[tuple[str, str]]:
    result = explain(file, *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return [
        (name.rstrip(), value) for name, _, value in (line.partition("  ") for line in result.stdout.replace("\n  ", "\n~ ").splitlines())
    ]


def said(file: Path, *arguments: str) -> dict[str, str]:
    return {name: value.strip() for name, value in lines(file, *arguments)}


def shown(file: Path, *arguments: str) -> dict[str, object]:
    result = explain(file, *arguments, "--json")
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_a_split_is_told_with_both_clusters_whole(file: Path) -> None:
    stdout = explain(file, "GET", "http://stock/items/7", "--as", "spiffe://shop/web").stdout
    told = said(file, "GET", "http://stock/items/7", "--as", "spiffe://shop/web")
    assert told["route"] == "split"
    assert told["matches"] == "hosts stock"
    assert told["split"] == "stock 99 %, stock-next 1 %"
    first, second = stdout.split("\ncluster ")[1:]
    assert first.split("\n")[0].strip() == "stock"
    assert "spiffe://shop/stock\n" in first
    assert "ring, key 7" in first
    assert "2000 requests in flight" in first
    assert "10 % of the requests in flight, 1 always" in first
    assert "GET /is/well every 2 s, 200 within 1 s is well; out after 3, back after 2" in first
    assert "5 failures in a row or 50 % failed of 10 or more; judged every 1 s; out for 2 s to 12 s" in first
    assert second.split("\n")[0].strip() == "stock-next"
    assert "10.0.0.9:15006 at 10.0.0.9:15006" in second
    assert "65536 requests in flight" in second
    assert "outlier" in second
    assert "off" in second.split("outlier", 1)[1].split("\n")[0]


def test_what_a_route_does_with_its_requests_is_told_in_words(file: Path) -> None:
    told = said(file, "GET", "http://stock/items/7", "--as", "spiffe://shop/web")
    assert told["retry"].startswith(
        "3 tries (idempotent); a second one beside the first after 250 ms; each at most 400 ms; after 500 or 503 or no answer; "
        "pause up to 25 ms, doubled up to 250 ms"
    )
    assert told["rate"] == "500/s, burst 500, for all together; 27.7778/s, burst 5000, for all together"
    assert told["mirror"] == "0.5 % of the requests, to shadow"
    assert told["inject"] == "503 is answered to 1 % of the requests; 10 % of the others wait 100 ms"
    assert told["in a panic"] == "answered 503"
    assert told["priority"] == "high"
    assert told["timeout"] == "2 s"
    assert told["key"] == "path part 2"


def test_a_post_is_tried_again_only_with_a_key(file: Path) -> None:
    assert "only with an idempotency-key" in said(file, "POST", "http://stock/items/7", "--as", "spiffe://shop/web")["retry"]


def test_a_canary_by_header_is_told_with_what_it_asked_for(file: Path) -> None:
    told = said(file, "GET", "http://stock/items/7", "--as", "spiffe://shop/web", "-H", "x-canary: yes")
    assert told["route"] == "canary"
    assert told["matches"] == "hosts stock; path /items/*; methods GET; headers x-canary: yes"
    assert told["cluster"] == "stock-next"
    assert "split" not in told
    assert (told["mirror"], told["inject"], told["rate"]) == ("off", "off", "off")
    assert said(file, "POST", "http://stock/items/7", "--as", "spiffe://shop/web", "-H", "x-canary: yes")["route"] == "split"


def test_a_canary_by_principal_is_told_with_who_asked(file: Path) -> None:
    told = said(file, "GET", "http://web/export/all", "--as", "spiffe://shop/reports/daily")
    assert told["route"] == "reports"
    assert told["matches"] == "path /export/*; principals spiffe://shop/reports/*"
    assert (told["timeout"], told["priority"], told["retry"]) == ("300 s", "low", "off")
    assert told["adds"].startswith("flui-principal: spiffe://shop/reports/daily")
    other = said(file, "GET", "http://web/export/all", "--as", "spiffe://shop/me")
    assert other["route"] == "app"
    assert other["matches"] == "every request"
    assert other["~ concurrency"].startswith("adaptive, 8 to 200 in flight, begins with 16")
    assert other["~ rate"] == "50/s, burst 100, for each principal"


def test_a_service_called_by_its_name_says_so(file: Path) -> None:
    assert said(file, "GET", "http://shadow/", "--as", "spiffe://shop/web")["matches"] == "the name of shadow"
    assert shown(file, "GET", "http://shadow/", "--as", "spiffe://shop/web")["match"] is None


def test_json_has_every_field_of_the_decision_and_of_its_clusters(file: Path) -> None:
    """What is added to a decision later must be seen here, or said why not."""
    told = shown(file, "GET", "http://stock/items/7", "--as", "spiffe://shop/web")
    assert {field.name for field in dataclasses.fields(Forward)} - {"special"} <= told.keys()
    assert [cluster["cluster"] for cluster in told["clusters"]] == ["stock", "stock-next"]
    for cluster in told["clusters"]:
        assert {field.name for field in dataclasses.fields(Cluster)} - {"name", "local"} <= cluster.keys()
    assert told["targets"] == [{"cluster": "stock", "weight": 99}, {"cluster": "stock-next", "weight": 1}]
    assert told["retry"]["attempts"] == 3
    assert told["retry"]["hedge_s"] == 0.25
    assert told["mirror"] == {"cluster": "shadow", "share_bp": 50}
    assert told["inject"] == {"delay_s": 0.1, "delay_bp": 1000, "abort_status": 503, "abort_bp": 100}
    assert [rate["per_s"] for rate in told["rates"]] == [500, pytest.approx(27.78, abs=0.01)]
    assert told["clusters"][0]["health"]["path"] == "/is/well"
    assert told["clusters"][0]["key"] == "7"
    assert told["clusters"][1]["outlier"] is None
    assert told["match"]["hosts"] == ["stock"]


def test_a_refusal_names_the_nearest_rule_and_what_to_change(file: Path) -> None:
    told = shown(file, "DELETE", "http://web/export/all", "--as", "spiffe://shop/me")
    assert (told["action"], told["status"], told["fault"]) == ("reply", 403, "denied")
    assert told["nearest rule that would allow"].startswith("rules.csv:2")
    assert "DELETE" in told["differs in"]
    words = explain(file, "DELETE", "http://web/export/all", "--as", "spiffe://shop/me").stdout
    assert words.splitlines()[0].split() == ["action", "reply"]


def test_what_no_sidecar_would_pass_on_is_told_as_malformed(file: Path) -> None:
    told = shown(file, "GET", "http://stock/a%2fb", "--as", "spiffe://shop/web")
    assert told == {"action": "reply", "status": 400, "fault": "malformed", "why": "malformed"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("GET", "http://web/"), "say who asks"),
        (("GET", "http://stock/", "--as", "spiffe://UPPER/web"), "--as"),
        (("GET", "http://stock/", "-H", "nonsense"), "NAME: VALUE"),
    ],
)
def test_wrong_use_ends_with_2_and_says_what_to_write(file: Path, arguments: tuple[str, ...], said: str) -> None:
    result = explain(file, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_without_a_sidecar_it_is_used_wrongly() -> None:
    result = CliRunner().invoke(main, ["explain", "GET", "/"])
    assert result.exit_code == 2


def test_a_mistake_in_the_file_is_told_with_its_line(file: Path) -> None:
    file.write_text("service: web\nservcies: {}\n")
    result = explain(file, "GET", "http://stock/")
    assert result.exit_code == 1
    assert "sidecar.yaml:2: servcies:" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_words.retry(Retry(attempts=1), repeatable=True), "off"),
        (_words.rates(()), "off"),
        (_words.rates((Rate(0.5, 1, RateBy.PRINCIPAL),)), "0.5/s, burst 1, for each principal"),
        (_words.injection(Injection(delay_s=0.001, delay_bp=1)), "0.01 % of the requests wait 1 ms"),
        (_words.injection(Injection(abort_status=418, abort_bp=10_000)), "418 is answered to 100 % of the requests"),
        (_words.concurrency(Concurrency()), "adaptive, 4 to 1000 in flight, begins with 32, latency up to 1.5 times is fine"),
        (
            _words.outlier(Outlier()),
            (
                "5 failures in a row, 50 % failed of 10 or more or 5 times as slow as the others (and 10 ms); judged every 1 s; "
                "out for 4 s to 12 s, at most 50 % at a time; back over 8 s"
            ),
        ),
        (
            _words.health(HealthCheck()),
            "GET /healthz every 5 s, 200-399 within 1 s is well; out after 3, back after 2",
        ),
        (_words.key_source(HashKey(KeySource.HEADER, b"x-a")), "header x-a"),
        (_words.key_source(HashKey(KeySource.PRINCIPAL)), "principal"),
        (_words.listed(()), ""),
    ],
)
def test_each_part_has_words(text: str, words: str) -> None:
    assert text == words


def test_a_grpc_call_is_asked_for_as_call_and_told_in_grpcs_words(file: Path) -> None:
    with (file.parent / "policy" / "rules.csv").open("a") as rules:
        rules.write("p, spiffe://shop/reports/daily, web, CALL, /shop.Web/*\n")
    said = dict(lines(file, "CALL", "http://web/shop.Web/Show", "--as", "spiffe://shop/reports/daily"))
    assert said["action"].strip() == "forward"
    result = explain(file, "CALL", "http://web/shop.Web/Show", "--as", "spiffe://shop/other", "--json")
    said = json.loads(result.output)
    assert (said["action"], said["grpc status"]) == ("reply", "PERMISSION_DENIED")
    result = explain(file, "POST", "http://web/nothing", "--as", "spiffe://shop/me", "-H", "content-type: application/grpc", "--json")
    said = json.loads(result.output)
    assert (said["grpc status"], said["rule"]) == ("UNIMPLEMENTED", "no gRPC method")

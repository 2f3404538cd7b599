"""`flui explain`: everything that a decision carries, in words and as JSON, without sending anything."""

import asyncio
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
from support.mesh import Mesh, until
from support.reflected import Reflected, stock

ROOT = Path(__file__).parents[2]
JSON = ("-H", "content-type: application/json")
ASKS = ("--as", "spiffe://shop/web")

COUNTER = f"""
service: counter
app: {{url: "h2c://127.0.0.1:8000", api: {{descriptors: "{ROOT}/examples/proto/shop.binpb"}}}}
certs: certs
policy: policy
"""

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


@pytest.fixture
def counter(file: Path) -> Path:
    """A gRPC module whose shape is known from a file."""
    file.write_text(COUNTER)
    (file.parent / "policy" / "rules.csv").write_text("p, spiffe://shop/web, counter, CALL, /shop.Stock/*\n")
    return file


@pytest.mark.parametrize(
    ("asked", "dialect", "request_", "answer"),
    [
        (("POST", "/v1/stock/plum:reserve", *JSON), "rest", "one JSON document, without what the path says", "one JSON document"),
        (("POST", "/shop.Stock/Reserve", *JSON), "rest", "one JSON document", "one JSON document"),
        (
            ("POST", "/shop.Stock/Reserve", *JSON, "-H", "connect-protocol-version: 1"),
            "connect",
            "one message, JSON",
            "one message, JSON; trailers are `trailer-` fields",
        ),
        (
            ("POST", "/shop.Stock/Reserve", "-H", "content-type: application/proto"),
            "connect",
            "one message, protobuf",
            "one message, protobuf; trailers are `trailer-` fields",
        ),
        (
            ("POST", "/shop.Stock/Reserve", "-H", "content-type: application/grpc-web+proto"),
            "grpc-web",
            "protobuf in gRPC's frames",
            "protobuf in gRPC's frames; the trailers are the last one",
        ),
        (
            ("POST", "/shop.Stock/Reserve", "-H", "content-type: application/grpc-web-text"),
            "grpc-web-text",
            "protobuf in gRPC's frames, base64",
            "protobuf in gRPC's frames, base64; the trailers are the last one",
        ),
        (("CALL", "/shop.Stock/Reserve"), "grpc", "protobuf, as it comes", "protobuf, as it comes"),
    ],
)
def test_a_request_in_every_dialect_is_told_with_its_method_and_judged_by_one_rule(counter, asked, dialect, request_, answer):
    told = shown(counter, *asked, *ASKS)
    assert (told["action"], told["rule"]) == ("forward", "rules.csv:1")
    assert (told["dialect"], told["request"], told["answer"]) == (dialect, request_, answer)
    assert told["method"] == "/shop.Stock/Reserve (one message each way), shop.ReserveRequest -> shop.Level"
    assert told["schema"].startswith("shop.binpb, version ")
    other = shown(counter, *asked, "--as", "spiffe://shop/other")
    assert (other["action"], other["fault"], other["dialect"]) == ("reply", "denied", dialect)
    assert other["nearest rule that would allow"] == "rules.csv:1: p, spiffe://shop/web, counter, CALL, /shop.Stock/*"


def test_a_refusal_is_told_as_its_caller_gets_it(counter: Path) -> None:
    nobody = ("--as", "spiffe://shop/other")
    rest = shown(counter, "POST", "/v1/stock/plum:reserve", *nobody)
    assert (rest["status"], rest["grpc status"]) == (403, "PERMISSION_DENIED")
    unary = shown(counter, "POST", "/shop.Stock/Reserve", "-H", "content-type: application/proto", *nobody)
    assert (unary["status"], unary["connect code"]) == (403, "permission_denied")
    stream = shown(counter, "POST", "/shop.Stock/Watch", "-H", "content-type: application/connect+json", *nobody)
    assert (stream["status"], stream["connect code"]) == (200, "permission_denied")
    web = shown(counter, "POST", "/shop.Stock/Reserve", "-H", "content-type: application/grpc-web", *nobody)
    assert (web.get("status"), web["grpc status"]) == (None, "PERMISSION_DENIED")


def test_a_rest_request_is_told_with_its_route_and_what_its_path_says(counter: Path) -> None:
    told = said(counter, "POST", "/v1/stock/sugar%20plum:reserve", *ASKS, *JSON)
    assert (told["REST route"], told["variables"]) == ("POST /v1/stock/{item}:reserve", "item = sugar plum")
    assert shown(counter, "POST", "/v1/stock/plum:reserve", *ASKS)["variables"] == {"item": "plum"}
    told = said(counter, "POST", "/shop.Stock/Reserve", *ASKS, *JSON)
    assert told["REST route"] == "POST /shop.Stock/Reserve (the default one)"
    assert "variables" not in told


@pytest.mark.parametrize(
    ("asked", "request_", "answer"),
    [
        (("GET", "/v1/stock/plum:watch?most=1"), "no body; the fields are in the query", "a JSON message a line (NDJSON)"),
        (
            ("GET", "/v1/stock/plum:watch", "-H", "accept: text/event-stream"),
            "no body; the fields are in the query",
            "a JSON message an event (SSE)",
        ),
        (
            ("POST", "/v1/stock:restock", "-H", "content-type: application/x-ndjson"),
            "a JSON message a line (NDJSON)",
            "one JSON document",
        ),
        (
            ("POST", "/shop.Stock/Watch", "-H", "content-type: application/connect+json"),
            "JSON in envelopes",
            "JSON in envelopes; the status is in the last one",
        ),
    ],
)
def test_streams_are_told_with_their_framing(counter, asked, request_, answer):
    told = shown(counter, *asked, *ASKS)
    assert (told["action"], told["request"], told["answer"]) == ("forward", request_, answer)


@pytest.mark.parametrize(
    ("asked", "status", "fault", "why"),
    [
        (("GET", "/v1/stock/plum:reserve"), {"status": 405, "allow": "POST"}, "method_not_allowed", "the path is there for other methods"),
        (
            ("POST", "/v1/stock/plum:reserve", "-H", "content-type: text/xml"),
            {"status": 415},
            "unsupported_type",
            "content-type must be application/json",
        ),
        (("POST", "/shop.Stock/Nothing", *JSON), {"status": 404}, "no_route", "there is no such method"),
        (
            ("POST", "/shop.Stock/Reserve", "-H", "content-type: application/proto", "-H", "connect-protocol-version: 2"),
            {"status": 400, "connect code": "invalid_argument"},
            "malformed",
            'connect-protocol-version must be "1"',
        ),
    ],
)
def test_what_is_let_in_but_cannot_be_carried_out_is_told_with_its_reason(counter, asked, status, fault, why):
    told = shown(counter, *asked, *ASKS)
    assert (told["action"], told["rule"], told["fault"], told["cannot be carried out"]) == ("reply", "rules.csv:1", fault, why)
    assert {name: told[name] for name in status} == status
    assert "clusters" not in told


def test_what_is_no_call_of_a_grpc_module_is_http(counter: Path) -> None:
    told = shown(counter, "GET", "/v1/elsewhere", *ASKS)
    assert (told["dialect"], told["action"], told["status"]) == ("http, which names no method of the module", "reply", 403)
    assert "dialect" not in shown(counter, "GET", "http://stock/", *ASKS), "nothing is translated on the way out"


def test_a_call_is_told_with_the_rest_routes_of_its_method(counter: Path) -> None:
    told = shown(counter, "CALL", "/shop.Stock/Watch", *ASKS)
    assert told["reached also by"] == ["GET /v1/stock/{item}:watch", "POST /shop.Stock/Watch"]
    assert "which the module does not have" in shown(counter, "CALL", "/shop.Stock/Nothing", *ASKS)["method"]


def test_a_call_to_a_rest_module_is_told_with_the_route_that_it_is_asked_by(counter: Path) -> None:
    counter.write_text(COUNTER.replace("h2c://", "http://"))
    for how in (
        ("CALL",),
        ("POST", "-H", "content-type: application/grpc-web+proto"),
        ("POST", *JSON, "-H", "connect-protocol-version: 1"),
    ):
        told = shown(counter, how[0], "/shop.Stock/Reserve", *how[1:], *ASKS)
        assert (told["action"], told["module is asked"]) == ("forward", ["POST /v1/stock/{item}:reserve"]), how
        assert "reached also by" not in told
    assert shown(counter, "CALL", "/shop.Stock/Nothing", *ASKS)["grpc status"] == "UNIMPLEMENTED"
    assert shown(counter, "GET", "/v1/stock/plum:watch", *ASKS)["dialect"].startswith("http"), "that is what it speaks itself"


def test_a_descriptor_set_that_cannot_be_used_is_told(counter: Path) -> None:
    counter.write_text(COUNTER.replace("shop.binpb", "shop.proto"))
    assert explain(counter, "CALL", "/shop.Stock/Watch", *ASKS).exit_code == 1
    counter.write_text(COUNTER.replace("shop.binpb", "nothing.binpb"))
    result = explain(counter, "CALL", "/shop.Stock/Watch", *ASKS)
    assert (result.exit_code, "nothing.binpb" in result.stderr) == (1, True)


def test_by_reflection_it_hangs_on_what_the_module_tells(counter: Path) -> None:
    """Nobody is there to be asked: that is said, and the rest is decided as if nothing were known."""
    counter.write_text(f"service: counter\napp: h2c://127.0.0.1:8000\nadmin: {counter.parent}/nobody.sock\ncerts: certs\npolicy: policy\n")
    told = shown(counter, "POST", "/v1/stock/plum:reserve", *ASKS)
    assert told["dialect"].startswith("http")
    assert "by reflection" in told["schema"]
    assert "nobody.sock" in told["schema"]
    web = shown(counter, "POST", "/shop.Stock/Reserve", *ASKS, "-H", "content-type: application/grpc-web+proto")
    assert (web["dialect"], web["action"], web["method"]) == ("grpc-web", "forward", "/shop.Stock/Reserve")
    counter.write_text(COUNTER.replace(f'{{descriptors: "{ROOT}/examples/proto/shop.binpb"}}', "off"))
    assert "off" in shown(counter, "POST", "/v1/stock/plum:reserve", *ASKS)["schema"]


def test_a_sidecar_that_runs_tells_what_its_module_told_it(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    found: list[Result] = []
    asks = ("--as", "spiffe://test/web")

    async def story(module: Reflected) -> None:
        file = mesh.prepare("stock", app=f"h2c://{module.address}")
        file.write_text(file.read_text().replace("admin: off", f"admin: {tmp_path}/s.sock"))
        side = await mesh.start(file)
        await until(lambda: side.said("api taken up"), "it was asked")
        for line in (("GET", "/v1/reserve/plum", *asks), ("GET", "/v1/elsewhere", *asks)):
            found.append(await asyncio.to_thread(explain, file, *line, "--json"))
        file.write_text(file.read_text().replace("service: stock", "service: other"))
        found.append(await asyncio.to_thread(explain, file, "GET", "/v1/reserve/plum", *asks, "--json"))

    with Reflected(stock("Reserve", annotated=True)) as module:
        mesh.run(story(module))
    route, nothing, other = (json.loads(result.stdout) for result in found)
    assert (route["dialect"], route["REST route"], route["variables"]) == ("rest", "GET /v1/reserve/{item}", {"item": "plum"})
    assert route["schema"].startswith("reflection, version ")
    assert nothing["dialect"].startswith("http")
    assert "is not the sidecar of other" in other["schema"]

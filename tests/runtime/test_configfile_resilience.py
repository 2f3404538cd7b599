"""Resilience and telemetry in the configuration file: every key read, every default told, every mistake named with its line and fix."""

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.model import resilience
from flui.model.config import AccessLogging, ConfigError, Limits, Listener, Problem, Sidecar, Timeouts, Tracing
from flui.model.resilience import (
    HIGH,
    LOW,
    NO_RETRY,
    Breaker,
    Budget,
    Concurrency,
    HealthCheck,
    Injection,
    Mirror,
    Outlier,
    Overload,
    Panic,
    Rate,
    RateBy,
    Retry,
)
from flui.model.topology import APP, APP_ROUTE, Address, Cluster, Endpoint, Match, Route, Target
from flui.runtime import _limits, _resilience, _routes, _schema, _telemetry, _yaml
from flui.runtime._schema import Reader, Wrong
from flui.runtime.configfile import Flags, from_flags, interpret, read

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"

FULL = """\
service: orders
app:
  url: http://127.0.0.1:8000
  timeout: 5s
  retry: {attempts: 2, per_try: 1s}
  retry_budget: {share: 0.5%, least: 0}
  priority: high
  panic: fail
  rate: [50/s, {rate: 20/s, burst: 30, per: principal}]
  breaker: {connections: 10, pending: 11, requests: 12}
  concurrency: adaptive
  health: {}
  inject: {delay: 100ms}
  routes:
    - name: export
      match: {path: /export/*, methods: [GET], headers: {x-a: b}, principals: [spiffe://shop/web, spiffe://shop/team/*, spiffe://shop/*]}
      timeout: 5m
      priority: low
      rate: 1/m
      inject: off
    - {name: login, match: {path: /login}, retry: off, idle_timeout: 1s, panic: all}
inbound: {address: 127.0.0.1:1, timeout: 30s, server_timing: [spiffe://shop/web, "*"]}
outbound: {address: 127.0.0.1:2, timeout: 40s, server_timing: true}
certs: certs
services:
  stock:
    endpoints: [10.0.0.7:15006]
    retry_budget: {share: 12.25%}
    breaker: {requests: 1000}
    concurrency: {least: 1, most: 200, start: 20, tolerance: 2.5}
    outlier:
      {consecutive: 3, share: 25%, volume: 5, slowness: 3.5, slow: 5ms, interval: 2s, eject: 1s, eject_max: 1m, most: 40%, slow_start: 0}
    health: {path: /up%20now, interval: 500ms, timeout: 250ms, unhealthy: 1, healthy: 4, statuses: 204}
    rate: {rate: 0.5/s}
  stock-v2:
    endpoints: [10.0.0.8:15006]
    outlier: {consecutive: off, share: off, slowness: 2}
    concurrency: off
    health: off
    rate: off
  legacy: {endpoints: [10.0.0.9:15006], outlier: off}
routes:
  - name: search
    match: {path: /search}
    to: stock
    timeout: 2s
    retry: {attempts: 4, per_try: 500ms, statuses: [429, 500], backoff: 0, backoff_max: 1s, retry_after: 0, body: 0, hedge_after: 100ms}
    priority: low
    panic: fail
    rate: {rate: 100/s, burst: 200, per: principal}
    mirror: {service: stock-v2, share: 1%}
    inject: {delay: 1s, delay_share: 10%, abort: 503, abort_share: 0.01%}
  - {name: copied, match: {path: /copied}, to: stock, mirror: stock-v2, retry: off, rate: off, inject: off}
  - {name: rest, to: legacy, mirror: off}
limits: {connections_per_source: 12, handshakes: 13, body_rate: 2KiB/s}
overload: {lag: 250ms}
access_log: {file: a.jsonl, successes: 10%, rotate: 100MiB, keep: 7, redact: ["/users/:id/*", /cards/*]}
tracing: {endpoint: "http://Collector:4318/v1/traces", share: 0.25%, rate: 30/m}
"""

MODULE = """\
service: orders
certs: certs
app:
  url: http://127.0.0.1:8000
"""

SERVICE = """\
service: orders
certs: certs
services:
  other: {endpoints: [10.0.0.8:15006]}
  stock:
    endpoints: [10.0.0.7:15006]
"""

ROUTE = (
    SERVICE
    + """\
routes:
  - name: search
    to: stock
"""
)

TOP = """\
service: orders
certs: certs
"""


def configured(text: str) -> Sidecar:
    """Read as the file `f` would be."""
    tree, problems = _yaml.parse(text.encode(), "f")
    return interpret(tree, Reader(problems))


def outcome_of(text: str) -> tuple[Problem, ...]:
    """What is wrong with it; empty when nothing is. Nothing but a ConfigError may come out."""
    try:
        configured(text)
    except ConfigError as error:
        return error.problems
    return ()


# -- what a right one says ---------------------------------------------------------------------------------------------


def test_every_key_of_a_service_is_read() -> None:
    clusters = {cluster.name: cluster for cluster in configured(FULL).clusters}
    stock = clusters["stock"]
    assert stock.budget == Budget(1225, 3)
    assert stock.breaker == Breaker(requests=1000)
    assert stock.concurrency == Concurrency(1, 200, 20, 2.5)
    assert stock.outlier == Outlier(3, 2500, 5, 3.5, 0.005, 2.0, 1.0, 60.0, 4000, 0.0)
    assert stock.health == HealthCheck(b"/up%20now", 0.5, 0.25, 1, 4, (204, 204))
    assert stock.rates == (Rate(0.5, 1),)
    other = clusters["stock-v2"]
    assert other.outlier == Outlier(consecutive=0, share_bp=0, slowness=2.0)
    assert (other.concurrency, other.health, other.rates) == (None, None, ())
    assert clusters["legacy"].outlier is None


def test_every_key_of_a_route_is_read() -> None:
    search, copied, rest = configured(FULL).routes
    assert search == Route(
        "search",
        Match(path="/search"),
        (Target("stock"),),
        timeout_s=2.0,
        retry=Retry(4, (429, 500), 0.5, 0.0, 1.0, 0.0, 0, 0.1),
        priority=LOW,
        panic=Panic.FAIL,
        rates=(Rate(100.0, 200, RateBy.PRINCIPAL),),
        mirror=Mirror("stock-v2", 100),
        inject=Injection(1.0, 1000, 503, 1),
    )
    assert (copied.mirror, copied.retry, copied.rates, copied.inject) == (Mirror("stock-v2"), NO_RETRY, (), None)
    assert rest == Route("rest", Match(), (Target("legacy"),))


def test_every_key_of_the_module_is_read() -> None:
    config = configured(FULL)
    assert config.clusters[0] == Cluster(
        APP,
        (Endpoint("app", Address("127.0.0.1", 8000)),),
        local=True,
        budget=Budget(50, 0),
        breaker=Breaker(10, 11, 12),
        concurrency=Concurrency(),
        outlier=None,
        health=HealthCheck(),
        rates=(Rate(50.0, 50), Rate(20.0, 30, RateBy.PRINCIPAL)),
    )
    assert config.app_route == dataclasses.replace(
        APP_ROUTE, timeout_s=5.0, retry=Retry(per_try_s=1.0), priority=HIGH, panic=Panic.FAIL, inject=Injection(0.1)
    )


def test_a_route_of_the_module_begins_with_what_the_module_says() -> None:
    config = configured(FULL)
    export, login = config.app_routes
    assert export.match.principals == ("spiffe://shop/web", "spiffe://shop/team/*", "spiffe://shop/*")
    assert (export.match.path, export.match.methods, export.match.headers[0].name) == ("/export/*", ("GET",), b"x-a")
    assert export == dataclasses.replace(
        config.app_route, name="export", match=export.match, timeout_s=300.0, priority=LOW, rates=(Rate(1 / 60, 1),), inject=None
    )
    assert login == dataclasses.replace(
        config.app_route, name="login", match=Match(path="/login"), retry=NO_RETRY, idle_timeout_s=1.0, panic=Panic.ALL
    )
    assert all(route.to == (Target(APP),) for route in config.app_routes)


def test_every_key_around_them_is_read(tmp_path: Path) -> None:
    config = configured(FULL)
    assert config.listeners == (
        Listener("inbound", Address("127.0.0.1", 1), True, True, (), 30.0, ("spiffe://shop/web", "*")),
        Listener("outbound", Address("127.0.0.1", 2), False, False, (), 40.0, ("*",)),
    )
    assert config.limits == Limits(connections_per_source=12, handshakes=13, body_rate=2048)
    assert config.overload == Overload(0.25)
    assert config.access_log == AccessLogging("a.jsonl", 1000, 100 * 1024 * 1024, 7, ("/users/:id/*", "/cards/*"))
    assert config.tracing == Tracing("http://collector:4318/v1/traces", 25, 0.5)
    file = tmp_path / "sidecar.yaml"
    file.write_text(FULL, "utf-8")
    assert read(str(file)).access_log.file == f"{tmp_path}/a.jsonl"


def test_what_is_not_said_is_what_the_model_says() -> None:
    """Threats H1-H4: retries bounded, the sick taken out, nothing counted or injected that nobody asked for."""
    config = configured(SERVICE + "app: http://127.0.0.1:8000\n")
    assert config.clusters[0] == Cluster(APP_ROUTE.to[0].cluster, (Endpoint("app", Address("127.0.0.1", 8000)),), local=True, outlier=None)
    stock = config.clusters[2]
    assert stock == Cluster("stock", stock.endpoints, identity=stock.identity)
    assert (config.app_route, config.app_routes) == (APP_ROUTE, ())
    assert (config.overload, config.access_log, config.tracing) == (Overload(), AccessLogging(), None)
    assert configured(ROUTE).routes == (Route("search", Match(), (Target("stock"),)),)
    assert from_flags(Flags(service="a", app="http://127.0.0.1:8000", certs="c")).app_route == APP_ROUTE


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("overload: off", Sidecar("", None, (), None, None, None, overload=Overload(0.0))),
        ("tracing: off", Sidecar("", None, (), None, None, None)),
        ("access_log: off", Sidecar("", None, (), None, None, None, access_log=AccessLogging("off"))),
        ("access_log: {file: off}", Sidecar("", None, (), None, None, None, access_log=AccessLogging("off"))),
        ("access_log: stdout", Sidecar("", None, (), None, None, None)),
        ("access_log: {successes: 0%}", Sidecar("", None, (), None, None, None, access_log=AccessLogging(successes_bp=0))),
        ("access_log: {file: b, rotate: off}", Sidecar("", None, (), None, None, None, access_log=AccessLogging("b"))),
        ("limits: {body_rate: 0}", Sidecar("", None, (), None, None, None, limits=Limits(body_rate=0))),
    ],
)
def test_what_can_be_turned_off_is_turned_off(text: str, found: Sidecar) -> None:
    config = configured(TOP + text + "\n")
    for field in ("overload", "tracing", "access_log", "limits"):
        assert getattr(config, field) == getattr(found, field)


@pytest.mark.parametrize(
    ("text", "basis_points"), [("0%", 0), ("0.01%", 1), ("0.5%", 50), ("1%", 100), ("12.25%", 1225), ("1.500%", 150), ("100%", 10_000)]
)
def test_a_share_is_exact_to_the_basis_point(text: str, basis_points: int) -> None:
    assert _schema.share(text) == basis_points


@given(st.integers(0, 10_000))
def test_every_basis_point_can_be_written(basis_points: int) -> None:
    assert _schema.share(f"{basis_points // 100}.{basis_points % 100:02}%") == basis_points


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("0.01", "`1%`"),
        ("1", "`1%`"),
        ("20", "`20%`"),
        ("0.5", "`50%`"),
        ("1.0", "`100%`"),
        ("1,5%", "`1%`"),
        ("0.001%", "two decimals"),
        ("12.345%", "two decimals"),
        ("100.01%", "0% to 100%"),
        ("-1%", "percent"),
    ],
)
def test_a_share_that_is_not_in_percent_is_refused_with_what_was_meant(text: str, fix: str) -> None:
    with pytest.raises(Wrong) as raised:
        _schema.share(text)
    assert fix in raised.value.fix


def test_the_folder_of_the_log_must_be_there_when_it_is_about_to_run(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("service: orders\naccess_log:\n  file: log/a.jsonl\n", "utf-8")
    with pytest.raises(ConfigError) as raised:
        read(str(file), on_disk=True)
    assert [(problem.line, problem.key) for problem in raised.value.problems] == [(3, "access_log.file")]
    (tmp_path / "log").mkdir()
    assert read(str(file), on_disk=True).access_log.file == f"{tmp_path}/log/a.jsonl"


# -- what a wrong one is told: test_configfile_mistakes.py ------------------------------------------------------------

VALUES = ("", "~", "[]", "{}", "[[]]", "{a: b}", "[{}]", "-1", "0", "0%", "0/s", "off", "99999999999999999999", "x", '"\\0"', "1e9%", "é")


@given(st.integers(0, FULL.count("\n") - 1), st.sampled_from(VALUES), st.booleans())
@settings(max_examples=150)
@pytest.mark.slow
def test_any_value_anywhere_ends_in_a_configuration_or_in_plain_words(at: int, value: str, last: bool) -> None:
    """The first or the last value on one line of a full file becomes another."""
    lines = FULL.splitlines()
    before, colon, after = lines[at].rpartition(": ") if last else lines[at].partition(": ")
    end = after[len(after.rstrip("}]")) :] if last else ""
    lines[at] = (before + colon if colon else lines[at].rstrip(":") + ": ") + value + end
    assert all(problem.what and problem.fix and problem.line for problem in outcome_of("\n".join(lines)))


# -- what the documentation says ---------------------------------------------------------------------------------------

SECTIONS = {
    "timeouts": (_limits.TIMEOUTS, TOP + "timeouts: {%s}\n", lambda config: config.timeouts, Timeouts()),
    "limits": (_limits.LIMITS, TOP + "limits: {%s}\n", lambda config: config.limits, Limits()),
    "retry": (_resilience.RETRY_KEYS, ROUTE + "    retry: {%s}\n", lambda config: config.routes[0].retry, Retry()),
    "retry_budget": (_resilience.BUDGET, SERVICE + "    retry_budget: {%s}\n", lambda config: config.clusters[1].budget, Budget()),
    "breaker": (_resilience.BREAKER, SERVICE + "    breaker: {%s}\n", lambda config: config.clusters[1].breaker, Breaker()),
    "concurrency": (
        _resilience.CONCURRENCY,
        SERVICE + "    concurrency: {%s}\n",
        lambda config: config.clusters[1].concurrency,
        Concurrency(),
    ),
    "outlier": (_resilience.OUTLIER, SERVICE + "    outlier: {%s}\n", lambda config: config.clusters[1].outlier, Outlier()),
    "health": (_resilience.HEALTH, SERVICE + "    health: {%s}\n", lambda config: config.clusters[1].health, HealthCheck()),
    "rate": (_resilience.RATE, SERVICE + "    rate: {rate: 7/s, %s}\n", lambda config: config.clusters[1].rates[0], Rate(7.0, 7)),
    "mirror": (_routes.MIRROR_KEYS, ROUTE + "    mirror: {service: other, %s}\n", lambda config: config.routes[0].mirror, Mirror("other")),
    "inject": (
        _resilience.INJECT,
        ROUTE + "    inject: {delay: 1s, abort: 503, %s}\n",
        lambda config: config.routes[0].inject,
        Injection(1.0, abort_status=503),
    ),
    "overload": (_resilience.OVERLOAD, TOP + "overload: {%s}\n", lambda config: config.overload, Overload()),
    "access_log": (
        _telemetry.ACCESS_LOG_KEYS,
        TOP + "access_log: {%s}\n",
        lambda config: dataclasses.replace(config.access_log, keep=AccessLogging().keep),
        AccessLogging(),
    ),
    "tracing": (
        _telemetry.TRACING,
        TOP + "tracing: {endpoint: 'http://a:1/v1/traces', %s}\n",
        lambda config: config.tracing,
        Tracing("http://a:1/v1/traces"),
    ),
}
"""By heading of the document: keys, a file that says them, what came of it, what the model says."""


def rows(heading: str) -> dict[str, tuple[str, str]]:
    """Key → default and reason, of the first table below a heading."""
    section = re.search(rf"^## `{heading}`$(.*?)^(?:## |\Z)", DOCS.read_text("utf-8") + "\n## ", re.MULTILINE | re.DOTALL)
    assert section, heading
    return {key: (default, why) for key, default, why in re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section[1], re.MULTILINE)}


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_documentation_has_a_row_for_each_key_with_the_default_in_force(heading: str) -> None:
    keys, file, value_of, default = SECTIONS[heading]
    told = rows(heading)
    assert set(told) == set(keys)
    assert all(why for _, why in told.values())
    # what needs another key to mean anything has no default to write
    said = {key: text.strip("`") for key, (text, _) in told.items() if text.startswith("`") and (heading, key) != ("access_log", "keep")}
    assert value_of(configured(file % ", ".join(f"{key}: {text}" for key, text in said.items()))) == default
    if heading == "access_log":
        assert int(told["keep"][0].strip("`")) == AccessLogging().keep


def test_the_documented_defaults_of_services_routes_and_listeners_are_those_in_force() -> None:
    route, service, listener = rows("routes"), rows("services"), dict(rows_of("## `inbound` and `outbound`"))
    said = {key: route[key][0].strip("`") for key in ("timeout", "idle_timeout", "priority", "panic", "rate", "mirror", "inject")}
    found = configured(ROUTE + "".join(f"    {key}: {text}\n" for key, text in said.items())).routes[0]
    assert found == Route("search", Match(), (Target("stock"),))
    said = {key: service[key][0].strip("`") for key in ("plaintext", "balance", "concurrency", "health", "rate")}
    cluster = configured(SERVICE + "".join(f"    {key}: {text}\n" for key, text in said.items())).clusters[1]
    assert cluster == Cluster("stock", cluster.endpoints, identity=cluster.identity)
    text = f"outbound: {{timeout: {listener['timeout']}, authorize: {listener['authorize']}}}\n"
    assert configured(TOP + text).listeners == (Listener("outbound", Address("127.0.0.1", 15001), False, False),)


def rows_of(heading: str) -> list[tuple[str, str]]:
    section = DOCS.read_text("utf-8").partition(heading)[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| `?(.+?)`? \|", section, re.MULTILINE)


def test_every_field_of_the_model_has_a_key() -> None:
    """What the model can say, a file can say."""
    tables = {
        Retry: [*(field for field, _ in _resilience.RETRY.values()), "statuses", "grpc_statuses", "repeats_calls"],
        Budget: [field for field, _ in _resilience.BUDGET.values()],
        Breaker: [field for field, _ in _resilience.BREAKER.values()],
        Concurrency: [field for field, _ in _resilience.CONCURRENCY.values()],
        Outlier: [field for field, _ in _resilience.OUTLIER.values()],
        HealthCheck: [field for field, _ in _resilience.HEALTH.values()],
        Rate: [field for field, _ in _resilience.RATE.values()],
        Injection: [field for field, _ in _resilience.INJECT.values()],
        Overload: [field for field, _ in _resilience.OVERLOAD.values()],
        Mirror: ["cluster", "share_bp"],
        Limits: [field for field, _ in _limits.LIMITS.values()],
        Timeouts: [field for field, _ in _limits.TIMEOUTS.values()],
        AccessLogging: ["file", "redact", *(field for field, _ in _telemetry.ACCESS_LOG.values())],
        Tracing: [field for field, _ in _telemetry.TRACING.values()],
    }
    for kind, fields in tables.items():
        assert sorted(fields) == sorted(field.name for field in dataclasses.fields(kind)), kind
    asked = {kind for kind in vars(resilience).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
    assert asked <= set(tables)

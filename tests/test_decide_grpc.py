"""A gRPC call is decided on as `CALL` and the path of its method; what names no method never reaches a rule."""

from dataclasses import replace

import pytest

from flui.codecs.validate import validate
from flui.decide import SELF_HOST, Snapshot, decide
from flui.model.config import Listener, Sidecar
from flui.model.decision import Forward, Reply
from flui.model.events import UNKNOWN, RequestHead
from flui.model.fault import Fault
from flui.model.fields import classified
from flui.model.resilience import Retry
from flui.model.topology import APP, SELF, Address, Cluster, Endpoint, Match, Route, Target
from flui.policy.base import Rule
from flui.policy.index import Index

WEB = "spiffe://shop/web"
HERE = Address("127.0.0.1", 1)
CONFIG = Sidecar(
    service="stock",
    app=HERE,
    listeners=(Listener("inbound", HERE, tls=True, authorize=True), Listener("outbound", HERE, tls=False, authorize=False)),
    admin=None,
    certs=None,
    policy=None,
    clusters=(Cluster(APP, (Endpoint("app", HERE),), local=True), Cluster("prices", (Endpoint("p", HERE),))),
)


def shot(*rules, config=CONFIG):
    rows = tuple(Rule("rules.csv", at + 1, *row[:4], row[4:] != ("deny",)) for at, row in enumerate(rules))
    return Snapshot(config, Index(rows, (), "v1"), "spiffe://shop/stock", 1)


def decided(snapshot, path=b"/shop.Stock/Get", listener="inbound", host=b"stock", query=b"", kind=b"application/grpc"):
    head = RequestHead(1, b"POST", b"http", host, path, query, [classified(b"content-type", kind)], UNKNOWN)
    assert validate(head) is None
    return decide(snapshot.facts(listener, WEB, head), snapshot, 0.0)


def test_a_call_needs_a_rule_for_call_and_a_post_one_for_post():
    calls = shot((WEB, "stock", "CALL", "/shop.Stock/Get"))
    posts = shot((WEB, "stock", "POST", "/shop.Stock/Get"))
    assert isinstance(decided(calls).action, Forward)
    assert decided(posts).action == Reply(Fault.DENIED)
    assert decided(calls, kind=b"application/json").action == Reply(Fault.DENIED)
    assert isinstance(decided(posts, kind=b"application/json").action, Forward)
    assert decided(calls, b"/shop.Stock/Put").action == Reply(Fault.DENIED)


def test_a_deny_of_one_method_wins_over_its_whole_service():
    snapshot = shot((WEB, "stock", "CALL", "/shop.Stock/*"), (WEB, "stock", "CALL", "/shop.Stock/Drop", "deny"))
    assert isinstance(decided(snapshot).action, Forward)
    assert decided(snapshot, b"/shop.Stock/Drop").action == Reply(Fault.DENIED)
    assert decided(snapshot, b"/shop.Stock/Drop").why.rule == "rules.csv:2"


@pytest.mark.parametrize(
    ("path", "query"), [(b"/", b""), (b"/shop.Stock", b""), (b"/shop.Stock/", b""), (b"/a/b/c", b""), (b"/shop.Stock/Get", b"?x=1")]
)
def test_what_names_no_method_is_unimplemented_before_any_rule_is_asked(path, query):
    """threats B3"""
    decision = decided(shot((WEB, "stock", "*", "/*", "deny")), path, query=query)
    assert decision.action == Reply(Fault.NO_ROUTE)
    assert decision.why.rule == "no gRPC method"


def test_no_service_of_that_name_is_unimplemented_too():
    assert decided(shot(), listener="outbound", host=b"nobody").action == Reply(Fault.NO_ROUTE)


def test_routes_match_calls_by_that_name():
    routes = (
        Route("posts", Match(("prices",), methods=("POST",)), (Target("prices"),)),
        Route("calls", Match(("prices",), methods=("CALL",)), (Target("prices"),), timeout_s=2.0),
    )
    decision = decided(shot(config=replace(CONFIG, routes=routes)), listener="outbound", host=b"prices")
    assert decision.why.route == "calls"
    assert isinstance(decision.action, Forward)
    assert decision.action.deadline is not None
    assert (decision.action.deadline.name, decision.action.deadline.value) == (b"grpc-timeout", b"2000m")


def test_a_call_may_be_repeated_only_where_the_route_says_so():
    for retry, may in ((Retry(), False), (Retry(repeats_calls=True), True)):
        routes = (Route("all", Match(), (Target("prices"),), retry=retry),)
        action = decided(shot(config=replace(CONFIG, routes=routes)), listener="outbound", host=b"prices").action
        assert isinstance(action, Forward)
        assert action.repeatable is may
        plain = decided(shot(config=replace(CONFIG, routes=routes)), listener="outbound", host=b"prices", kind=b"text/plain").action
        assert isinstance(plain, Forward)
        assert not plain.repeatable


CHECK = b"/grpc.health.v1.Health/Check"


def test_the_sidecars_own_health_has_a_name_of_its_own_and_asks_the_policy():
    allowed = shot((WEB, "stock", "CALL", CHECK.decode()))
    own = decided(allowed, CHECK, host=SELF_HOST)
    assert isinstance(own.action, Forward)
    assert own.action.targets == (Target(SELF),)
    module = decided(allowed, CHECK)
    assert isinstance(module.action, Forward)
    assert module.action.targets == (Target(APP),)
    assert decided(shot(), CHECK, host=SELF_HOST).action == Reply(Fault.DENIED)


def test_under_that_name_there_is_nothing_else():
    snapshot = shot((WEB, "stock", "*", "/*"))
    assert decided(snapshot, b"/grpc.health.v1.Health/Watch", host=SELF_HOST).action == Reply(Fault.NO_ROUTE)
    assert decided(snapshot, CHECK, host=SELF_HOST, listener="outbound").action == Reply(Fault.NO_ROUTE)
    plain = decided(snapshot, b"/x", host=SELF_HOST, kind=b"text/plain").action
    assert isinstance(plain, Forward)
    assert plain.targets == (Target(APP),)

"""Deciding: equal facts, equal decision; nothing is allowed that no rule allows; fast enough to be asked each time."""

import json
import time
from dataclasses import replace
from random import Random

import pytest

from flui.codecs.validate import validate
from flui.decide import Snapshot, decide
from flui.model.config import Limits, Listener, Sidecar
from flui.model.decision import Forward, Reply
from flui.model.events import RequestHead
from flui.model.fault import Fault
from flui.model.fields import field
from flui.model.topology import APP, Address, Cluster, Endpoint, HashKey, HeaderMatch, KeySource, Match, Route, Target
from flui.policy.base import Grant, Rule, Verdict
from flui.policy.index import DenyAll, Index

WEB = "spiffe://shop/web"
HERE = Address("127.0.0.1", 1)


def rule(subject, service, action, obj, *, allow=True, line=1):
    return Rule("rules.csv", line, subject, service, action, obj, allow)


def cluster(name):
    return Cluster(name, (Endpoint(name, HERE),), identity=f"spiffe://shop/{name}")


CONFIG = Sidecar(
    service="orders",
    app=HERE,
    listeners=(
        Listener("inbound", HERE, tls=True, authorize=True, trusted_hops=("spiffe://shop/edge",)),
        Listener("outbound", HERE, tls=False, authorize=False),
    ),
    admin=None,
    certs=None,
    policy=None,
    clusters=(Cluster(APP, (Endpoint("app", HERE),), local=True), cluster("stock"), cluster("stock-v2")),
    app_route=Route("app", Match(), (Target(APP),), timeout_s=7.0, idle_timeout_s=3.0),
)


def snapshot(*rules, grants=(), config=CONFIG):
    return Snapshot(config, Index(rules, grants, "v1"), "spiffe://shop/orders", 1)


def head(method=b"GET", path=b"/items", host=b"stock", fields=()):
    made = RequestHead(1, method, b"http", host, path, b"", [field(n, v) for n, v in fields], 0)
    assert validate(made) is None
    return made


def decided(shot, listener="inbound", principal=WEB, **request):
    return decide(shot.facts(listener, principal, head(**request)), shot, 0.0)


# --- who may come in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "request_", "fault"),
    [
        ((), {}, Fault.DENIED),
        ((rule(WEB, "orders", "GET", "/items"),), {}, None),
        ((rule(WEB, "orders", "GET", "/items"),), {"method": b"POST"}, Fault.DENIED),
        ((rule(WEB, "orders", "GET", "/items"),), {"method": b"get"}, Fault.DENIED),
        ((rule(WEB, "orders", "GET", "/items"),), {"path": b"/items/1"}, Fault.DENIED),
        ((rule(WEB, "stock", "GET", "/items"),), {}, Fault.DENIED),
        ((rule(WEB, "orders", "GET", "/*"), rule(WEB, "orders", "GET", "/items", allow=False)), {}, Fault.DENIED),
        ((rule("spiffe://shop/orders", "orders", "GET", "/*"),), {}, Fault.DENIED),
    ],
)
def test_what_no_rule_allows_is_denied(rules, request_, fault):
    decision = decided(snapshot(*rules), **request_)
    if fault is None:
        assert isinstance(decision.action, Forward)
        assert decision.why.rule == "rules.csv:1"
    else:
        assert decision.action == Reply(fault)


def test_without_a_policy_everything_is_refused_as_a_fault_of_ours():
    shot = Snapshot(CONFIG, DenyAll("no policy is configured"), "spiffe://shop/orders", 1)
    decision = decided(shot)
    assert decision.action == Reply(Fault.POLICY_UNAVAILABLE)
    assert decision.why.rule == "no policy is configured"


class Raises:
    version = "v1"

    def decide(self, subject, service, action, obj):
        raise RuntimeError("secret detail")

    def roles(self, subject):
        return ()

    def callers(self):
        return ()


def test_an_exception_while_deciding_denies_and_says_so():
    """Threats D5: fail closed."""
    decision = decided(Snapshot(CONFIG, Raises(), "spiffe://shop/orders", 1))
    assert decision.action == Reply(Fault.POLICY_UNAVAILABLE)
    assert "RuntimeError" in decision.why.rule
    assert "secret" not in decision.why.rule


class Unhelpful(Raises):
    def decide(self, subject, service, action, obj):
        return Verdict(allowed=True, rule="x")

    def roles(self, subject):
        raise KeyError(subject)


def test_an_exception_after_the_verdict_denies_as_well():
    assert decided(Snapshot(CONFIG, Unhelpful(), "spiffe://shop/orders", 1)).action == Reply(Fault.POLICY_UNAVAILABLE)


def test_an_unknown_listener_needs_a_rule():
    shot = snapshot()
    assert shot.authorizes("side-door")
    assert decided(shot, "side-door").action == Reply(Fault.DENIED)


def test_the_module_is_told_who_calls_and_every_role_of_theirs():
    grants = (Grant("rules.csv", 2, WEB, "role:clerk"), Grant("rules.csv", 3, "role:clerk", "role:reader"))
    decision = decided(snapshot(rule("role:reader", "orders", "GET", "/items"), grants=grants))
    assert isinstance(decision.action, Forward)
    assert [(f.name, f.value) for f in decision.action.add] == [
        (b"flui-principal", WEB.encode()),
        (b"flui-roles", b"role:clerk,role:reader"),
    ]
    assert decision.action.add[0].wire == b"flui-principal: " + WEB.encode() + b"\r\n"


def test_what_comes_in_goes_to_the_module_whatever_its_host_says():
    action = decided(snapshot(rule(WEB, "orders", "GET", "/items")), host=b"stock").action
    assert isinstance(action, Forward)
    assert action.targets == (Target(APP),)
    assert (action.timeout_s, action.idle_timeout_s) == (7.0, 3.0)
    assert action.deadline is not None
    assert action.deadline.value == b"7000"


def test_a_sidecar_without_a_module_has_nowhere_to_send_it():
    config = replace(CONFIG, clusters=CONFIG.clusters[1:], app=None)
    assert decided(snapshot(rule(WEB, "orders", "GET", "/items"), config=config)).action == Reply(Fault.NO_ROUTE)


def test_only_an_allow_listed_hop_keeps_its_forwarded_fields():
    """Threats E1."""
    shot = snapshot(rule(WEB, "orders", "GET", "/*"), rule("spiffe://shop/edge", "orders", "GET", "/*"))
    assert decided(shot).action.keep_forwarded is False
    assert decided(shot, principal="spiffe://shop/edge").action.keep_forwarded is True
    assert decided(shot, "outbound", principal="spiffe://shop/edge").action.keep_forwarded is False


# --- where it goes out ------------------------------------------------------------------------------------------------------

V2 = Route("v2", Match(path="/v2/*"), (Target("stock", 9), Target("stock-v2", 1)), timeout_s=0.0)
GOLD = Route("gold", Match(headers=(HeaderMatch(b"x-tier", b"gold"),)), (Target("stock-v2"),), key=HashKey(KeySource.PRINCIPAL))
ROUTED = replace(CONFIG, routes=(V2, GOLD))


def test_a_services_name_is_a_route_to_it():
    for host in (b"stock", b"STOCK:80", b"stock.flui"):
        decision = decided(snapshot(), "outbound", host=host)
        assert decision.action.targets == (Target("stock"),)
        assert (decision.why.service, decision.why.route) == ("stock", "stock")


@pytest.mark.parametrize("host", [b"nowhere", b"@app", b"stock.flui.flui", b"app"])
def test_no_route_is_a_refusal(host):
    made = RequestHead(1, b"GET", b"http", host, b"/", b"", [], 0)
    made.host = host
    shot = snapshot()
    decision = decide(shot.facts("outbound", WEB, made), shot, 0.0)
    assert decision.action == Reply(Fault.NO_ROUTE)
    assert decision.labels == ("outbound", "-", "-", "other", "no route"), "no label comes from the peer (threats C13)"


def test_weighted_targets_are_all_in_the_decision_and_counted_under_their_route():
    decision = decided(snapshot(config=ROUTED), "outbound", path=b"/v2/x")
    assert decision.action.targets == (Target("stock", 9), Target("stock-v2", 1))
    assert decision.labels[:3] == ("outbound", "v2", "v2")
    assert decision.action.deadline is None, "the route has no timeout, so none is invented"


def test_a_header_route_wants_every_value():
    """Threats B5: deny wins among repeated values."""
    shot = snapshot(config=ROUTED)

    def route(*values):
        return decided(shot, "outbound", fields=[(b"x-tier", value) for value in values]).why.route

    assert route(b"gold") == "gold"
    assert route(b"gold", b"gold") == "gold"
    for values in ((), (b"gold", b"iron"), (b"iron", b"gold"), (b"gold,gold",)):
        assert route(*values) == "stock"


def test_an_outbound_listener_that_authorises_asks_for_each_target():
    outbound = Listener("outbound", HERE, tls=False, authorize=True)
    config = replace(ROUTED, listeners=(CONFIG.listeners[0], outbound))
    one = snapshot(rule(WEB, "stock", "GET", "/*"), config=config)
    both = snapshot(rule(WEB, "stock", "GET", "/*"), rule(WEB, "stock-v2", "GET", "/*"), config=config)
    assert isinstance(decided(one, "outbound").action, Forward)
    assert decided(one, "outbound", path=b"/v2/x").action == Reply(Fault.DENIED)
    assert isinstance(decided(both, "outbound", path=b"/v2/x").action, Forward)


def test_the_routes_key_goes_before_the_clusters():
    assert decided(snapshot(config=ROUTED), "outbound", fields=[(b"x-tier", b"gold")]).action.key == HashKey(KeySource.PRINCIPAL)
    assert decided(snapshot(config=ROUTED), "outbound").action.key is None


# --- facts and the flow table -----------------------------------------------------------------------------------------------


def test_facts_hold_exactly_what_rules_read():
    """What nobody reads does not split flows; what somebody reads does."""
    plain, routed = snapshot(), snapshot(config=ROUTED)
    same = {"fields": [(b"x-other", b"1")]}
    assert plain.facts("inbound", WEB, head()) == plain.facts("inbound", WEB, head(host=b"else", **same))
    assert plain.facts("outbound", WEB, head()) == plain.facts("outbound", WEB, head(fields=[(b"x-tier", b"gold")]))
    assert routed.facts("outbound", WEB, head()) == routed.facts("outbound", WEB, head(**same))
    gold = routed.facts("outbound", WEB, head(fields=[(b"x-tier", b"gold")]))
    assert gold != routed.facts("outbound", WEB, head())
    assert routed.facts("inbound", WEB, head(fields=[(b"x-tier", b"gold")])) == routed.facts("inbound", WEB, head())
    distinct = {
        plain.facts(listener, principal, head(method, path, host))
        for listener in ("inbound", "outbound")
        for principal in (WEB, "spiffe://shop/b")
        for method in (b"GET", b"PUT")
        for path in (b"/a", b"/b")
        for host in (b"stock", b"stock-v2")
    }
    assert len(distinct) == 8 + 16


def test_facts_keep_the_borders_between_values():
    """Threats D7: joined keys collide."""
    shot = snapshot(config=replace(CONFIG, routes=(GOLD, Route("b", Match(headers=(HeaderMatch(b"x-b"),)), (Target("stock"),)))))

    def facts(*fields):
        return shot.facts("outbound", WEB, head(fields=fields))

    assert len({facts((b"x-b", b"ab")), facts((b"x-b", b"a"), (b"x-b", b"b")), facts((b"x-tier", b"ab")), facts((b"x-b", b"a,b"))}) == 4


def test_equal_facts_give_an_equal_decision_from_the_same_snapshot():
    shot = snapshot(rule(WEB, "orders", "GET", "/items"))
    assert repr(decided(shot)) == repr(decided(shot))


def test_the_flow_table_belongs_to_its_snapshot_and_is_bounded():
    shot = snapshot(rule(WEB, "orders", "GET", "/*"), config=replace(CONFIG, limits=Limits(flows=10)))
    for number in range(25):
        request = head(path=b"/%d" % number)
        facts = shot.facts("inbound", WEB, request)
        shot.remember(facts, decide(facts, shot, 0.0))
        assert len(shot.flows) <= 10
    assert shot.flows[facts].why.rule == "rules.csv:1"
    assert not snapshot().flows


def test_the_ready_text_of_a_decision_is_json_whatever_stands_in_it():
    service = 'or"ders\n'
    shot = Snapshot(replace(CONFIG, service=service), Index((), (), "v1"), "spiffe://shop/x", 1)
    text = decided(shot).log_text
    assert text.endswith(b",")
    assert b"\n" not in text
    assert json.loads(b"{" + text[:-1] + b"}") == {
        "listener": "inbound",
        "service": service,
        "route": "app",
        "rule": "no rule",
        "principal": WEB,
    }


# --- time -------------------------------------------------------------------------------------------------------------------

RULES = 10_000


@pytest.mark.slow
def test_a_hit_costs_3_us_and_a_miss_at_10_000_rules_200_us_at_p99(record_property):
    """The best of several runs for the hit, and CPU time: others share this machine."""
    chance = Random(3)
    rules = [
        rule(
            f"role:r{number % 500}",
            f"svc{number % 20}" if number % 3 else "orders",
            ("GET", "POST", "*")[number % 3],
            f"/a{number}/:id/x{number % 7}",
            line=number,
        )
        for number in range(RULES)
    ]
    grants = [Grant("g.csv", number, f"spiffe://shop/s{number}", f"role:r{chance.randrange(500)}") for number in range(2000)]
    shot = snapshot(*rules, grants=tuple(grants))
    times = []
    for number in range(5000):
        subject = f"spiffe://shop/s{chance.randrange(2000)}"
        request = head(path=b"/a%d/%d/x%d" % (chance.randrange(RULES), number, chance.randrange(7)))
        began = time.thread_time()  # our own CPU: what others do on this machine is not our cost
        facts = shot.facts("inbound", subject, request)
        decision = shot.flows.get(facts) or decide(facts, shot, 0.0)
        shot.remember(facts, decision)
        times.append(time.thread_time() - began)
    times.sort()
    p50, p99 = times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6

    def hits():
        began = time.thread_time()
        for _ in range(2000):
            found = shot.flows.get(shot.facts("inbound", subject, request))
            assert found is not None
        return (time.thread_time() - began) / 2000 * 1e6

    hit = min(hits() for _ in range(20))
    record_property("hit_us", round(hit, 2))
    record_property("miss_p99_us", round(p99, 1))
    print(f"decide at {RULES} rules: hit {hit:.2f} us, miss p50 {p50:.1f} us, p99 {p99:.1f} us")
    assert hit <= 3
    assert p99 <= 200

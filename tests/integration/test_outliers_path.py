"""Endpoints that fail, hang, are slow, ill or all gone, through real sidecars: who is asked, and what is said of it.

The minutes with real processes and usual rules stand in tests/acceptance/test_outliers.py; here everything goes ten times as fast.
"""

import asyncio
import contextlib
import json
import time

import pytest

from flui.runtime import views
from flui.runtime.admin import Query
from flui.telemetry.exposition import page
from support.mesh import Caller, Mesh, answers, until
from support.replicas import Ground, Pace, Replicas, metrics_of

GET = b"GET /items HTTP/1.1\r\nhost: stock\r\n\r\n"
FAST = "outlier: {interval: 100ms, eject: 400ms, eject_max: 1200ms, slow_start: 600ms}"
PER_S = 300.0


@contextlib.asynccontextmanager
async def stage(mesh, count, *, rules=FAST, balance="least_loaded", route="", app=""):
    """A sidecar and the endpoints of the service that it calls."""
    with contextlib.closing(Ground()) as ground:
        replicas = await Replicas.start(ground, "stock", count, usual_s=(0.003, 0.2))
        try:
            web = await mesh.sidecar("web", services=service(replicas, rules, balance), more=routes(route) + app)
            yield replicas, web
        finally:
            await replicas.stop()


def service(replicas, rules=FAST, balance="least_loaded"):
    return f"  stock: {{endpoints: {replicas.endpoints()}, plaintext: true, balance: {balance}, {rules}}}\n"


def routes(route):
    return f"routes:\n  - {{name: all, match: {{hosts: [stock]}}, to: stock{route}}}\n"


def metric(side, family):
    return metrics_of(page(side.running.meters).encode(), family)


def told(side, name="stock"):
    body = json.loads(views.routes(side.running)["/clusters"](Query("/clusters", {})).body)
    return next(cluster for cluster in body if cluster["cluster"] == name)


async def ask(side, octets=GET):
    caller = await Caller.to(side.outbound)
    try:
        return await caller.ask(octets)
    finally:
        caller.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "count", "balance"),
    [
        ("500", 5, "least_loaded"),
        ("slow", 5, "round_robin"),
        ("hang", 5, "{policy: ring}"),
        ("refuse", 2, "round_robin"),
        ("slow", 2, "{policy: ring}"),
    ],
)
def test_a_bad_endpoint_is_out_at_once_and_back_when_it_has_recovered(tmp_path, fault, count, balance):
    mesh = Mesh(tmp_path)

    async def story():
        async with stage(mesh, count, balance=balance, route=", retry: off, timeout: 1s") as (replicas, web):
            pace = Pace(web.outbound, "stock", PER_S, keys=500 if "ring" in balance else 0)
            pace.start()
            bad = replicas[0]
            await until(lambda: bad.count() > 50, "it is used")
            if fault == "refuse":
                await bad.refuse()
            else:
                bad.does = fault
            pool = web.running.relay.pools.by_name["stock"]
            member = next(member for endpoint, member in pool.members.items() if endpoint.name == bad.name)
            took_s = await until(
                lambda: member.out, "it is out", 8
            )  # a ring with bounded loads gives hardly anything to who hangs, and learns slowly
            asked = member.total
            all_asked = sum(each.total for each in pool.members.values())
            await until(lambda: sum(each.total for each in pool.members.values()) - all_asked > PER_S * 1.2, "it goes on without it")
            share = (member.total - asked) / (sum(each.total for each in pool.members.values()) - all_asked)
            print(f"{count} endpoints, {balance}, {fault}: out after {took_s:.2f} s, then {100 * share:.2f} %")
            assert share < 0.02 if fault != "hang" else share < 0.03
            (line, *_) = web.said("endpoint taken out")
            assert line["endpoint"] == bad.name
            assert line["why"] in {"slow": {"slow"}, "hang": {"slow", "consecutive"}}.get(fault, {"consecutive"})
            assert sum(metric(web, "flui_endpoint_ejections_total").values()) == len(web.said("endpoint taken out"))
            if fault == "refuse":
                await bad.listen()
            else:
                bad.does = "well"
            await until(lambda: not member.out and member.share == 1.0, "it is well again", 6)
            before = [replica.count() for replica in replicas]
            await until(lambda: sum(replica.count() for replica in replicas) - sum(before) > 400, "a while passes")
            after = [replica.count() for replica in replicas]
            share = (after[0] - before[0]) / (sum(after) - sum(before))
            assert share > 0.65 / count, "it has its share"
            await pace.stop()
            failed = {status: n for status, n in pace.statuses().items() if status != 200}
            assert sum(failed.values()) < PER_S, failed

    mesh.run(story(), 30)


@pytest.mark.parametrize(("panic", "status"), [("all", 500), ("fail", 503)])
def test_when_all_fail_all_are_used_or_none_as_the_route_says(tmp_path, panic, status):
    """Threats H4."""
    mesh = Mesh(tmp_path)

    async def story():
        rules = FAST.replace("}", ", most: 100%}").replace("400ms", "20s").replace("1200ms", "20s")
        async with stage(mesh, 4, rules=rules, balance="round_robin", route=f", retry: off, panic: {panic}") as (replicas, web):
            for replica in replicas:
                replica.does = "500"
            caller = await Caller.to(web.outbound)
            for _ in range(20):
                assert (await caller.ask(GET)).status in {500, status}
            pool = web.running.relay.pools.by_name["stock"]
            assert pool.fitness.panics
            assert metric(web, "flui_cluster_panic")["stock",] == 1
            assert sum(metric(web, "flui_endpoint_available").values()) <= 1
            assert told(web)["panic"] is True
            assert [line["well"] for line in web.said("cluster panics")] == [1]
            before = [replica.count() for replica in replicas]
            for _ in range(40):
                answer = await caller.ask(GET)
                assert answer.status == status
            after = [replica.count() for replica in replicas]
            if panic == "all":
                assert [b - a for a, b in zip(before, after, strict=True)] == [10, 10, 10, 10]
            else:
                assert after == before
                assert web.faults()["no_endpoint"] >= 40
                assert answer.get(b"retry-after") is not None
            caller.close()

    mesh.run(story())


def test_with_the_usual_rules_half_stay_in_service_when_all_fail(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        async with stage(mesh, 4, rules="retry_budget: {least: 3}", balance="round_robin", route=", retry: off") as (replicas, web):
            for replica in replicas:
                replica.does = "500"
            caller = await Caller.to(web.outbound)
            for _ in range(60):
                assert (await caller.ask(GET)).status == 500
            assert sum(endpoint["available"] for endpoint in told(web)["endpoints"]) == 2
            assert not told(web)["panic"]
            caller.close()

    mesh.run(story())


def test_what_is_said_of_an_endpoint_is_what_is_so(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        async with stage(mesh, 3, balance="round_robin", route=", retry: off") as (replicas, web):
            replicas[1].does = "500"
            caller = await Caller.to(web.outbound)
            for _ in range(30):
                await caller.ask(GET)
            page_ = told(web)["endpoints"]
            assert [e["available"] for e in page_] == [True, False, True]
            assert [e["why"] for e in page_] == ["", "consecutive", ""]
            assert [e["share"] for e in page_][1] == 0.0
            available = metric(web, "flui_endpoint_available")
            assert [available["stock", replica.name] for replica in replicas] == [1, 0, 1]
            assert metric(web, "flui_endpoint_share")["stock", "stock-1"] == 0
            tries = metric(web, "flui_endpoint_requests_total")
            assert [int(tries["stock", replica.name]) for replica in replicas] == [replica.count() for replica in replicas]
            await until(lambda: told(web)["endpoints"][1]["available"], "it comes back")
            back = told(web)["endpoints"][1]
            assert 0 < back["share"] < 0.5
            assert back["why"] == "consecutive"
            assert len(web.said("endpoint comes back")) == 1
            caller.close()

    mesh.run(story())


# --- health checks ------------------------------------------------------------------------------------------------------------

CHECKED = "health: {interval: 200ms, timeout: 100ms, unhealthy: 2, healthy: 2}, outlier: off"


@pytest.mark.slow
@pytest.mark.parametrize("health", [503, 0])
def test_an_endpoint_that_says_it_is_ill_gets_nothing_soon_and_returns_by_degrees(tmp_path, health):
    """Within `interval` (a tenth longer at most) times `unhealthy` and one `timeout`."""
    mesh = Mesh(tmp_path)

    async def story():
        rules = CHECKED.replace("outlier: off", FAST.replace("600ms", "1s"))
        async with stage(mesh, 3, rules=rules) as (replicas, web):
            await until(lambda: not any(e["why"] for e in told(web)["endpoints"]), "all are known to be well")
            pace = Pace(web.outbound, "stock", PER_S)
            pace.start()
            await until(lambda: replicas[0].count() > 50, "it is used")
            replicas[0].health = health
            ill_at = time.monotonic()
            bound_s = 0.2 * 1.1 * 2 + 0.1
            await until(lambda: not told(web)["endpoints"][0]["available"], "it is out", 2)
            took_s = time.monotonic() - ill_at
            assert took_s <= bound_s + 0.15, "what the machine adds is small"
            assert told(web)["endpoints"][0]["why"] == "unhealthy"
            out_at = time.monotonic()
            await until(lambda: replicas[1].count(out_at + 0.05) > 100, "the others go on")
            assert replicas[0].count(out_at + 0.02) == 0, "not one"
            replicas[0].health = 200
            await until(lambda: told(web)["endpoints"][0]["available"], "it is back", 3)
            share = told(web)["endpoints"][0]["share"]
            assert share < 0.3, "by degrees"
            await until(lambda: told(web)["endpoints"][0]["share"] == 1.0, "and whole", 5)
            checks = metric(web, "flui_health_checks_total")
            assert checks["stock", "stock-0", "ill"] >= 2
            assert checks["stock", "stock-1", "well"] == pytest.approx(len(replicas[1].checks), abs=1)
            await pace.stop()
            assert pace.statuses().keys() == {200}

    mesh.run(story())


def test_checks_cross_the_mesh_as_any_request_and_the_neighbours_policy_must_allow_them(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        paths = []

        async def app(backend, request, reader, writer):
            if request is not None:
                paths.append((request.target, request.get(b"flui-principal")))
            return await answers(backend, request, reader, writer)

        backend = await mesh.backend(app)
        rules = "p, spiffe://shop/web, orders, GET, /items\n"
        folder = mesh.prepare("orders", app=backend, rules=rules + "p, spiffe://shop/web, orders, GET, /healthz\n").parent
        allowed = await mesh.start(folder.rename(tmp_path / "orders-1") / "sidecar.yaml")
        denied = await mesh.sidecar("orders", app=backend, rules=rules)
        endpoints = f"[{{name: allowed, address: '{allowed.inbound}'}}, {{name: denied, address: '{denied.inbound}'}}]"
        web = await mesh.sidecar("web", services=f"  orders: {{endpoints: {endpoints}, {CHECKED.replace('100ms', '200ms')}}}\n")
        await until(lambda: {e["why"] for e in told(web, "orders")["endpoints"]} == {"", "unhealthy"}, "both are known", 8)
        assert (b"/healthz", b"spiffe://shop/web") in paths
        ill = {e["name"]: e["why"] for e in told(web, "orders")["endpoints"]}
        assert ill == {"allowed": "", "denied": "unhealthy"}, "who may not ask does not know"
        assert denied.faults()["denied"] >= 1

    mesh.run(story())


@pytest.mark.slow
def test_a_reload_adds_an_endpoint_that_gets_nothing_before_its_first_check_and_takes_checks_away(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        async with stage(mesh, 3, rules=CHECKED) as (replicas, web):
            newcomer = replicas.pop()
            newcomer.health = 0
            web.file.write_text(web.file.read_text().replace(f", {{name: {newcomer.name}, address: '{newcomer.address}'}}", ""))
            await web.running.reload()
            await until(lambda: not any(e["why"] for e in told(web)["endpoints"]), "all are known to be well")
            pace = Pace(web.outbound, "stock", PER_S)
            pace.start()
            replicas.append(newcomer)
            text = web.file.read_text()
            at = text.index("]", text.index("stock: {endpoints"))
            web.file.write_text(f"{text[:at]}, {{name: {newcomer.name}, address: '{newcomer.address}'}}{text[at:]}")
            await web.running.reload()
            assert len(told(web)["endpoints"]) == 3
            asked = pace.sent
            await until(lambda: newcomer.checks and pace.sent > asked + 150, "it has been asked how it is")
            assert newcomer.count() == 0
            assert told(web)["endpoints"][2]["why"] in {"unchecked", "unhealthy"}
            newcomer.health = 200
            await until(lambda: newcomer.count() > 20, "it works")
            health = web.running._health
            assert len(health) == 3
            running = len(web.running.relay.tasks)
            web.file.write_text(web.file.read_text().replace(CHECKED, "outlier: off"))
            await web.running.reload()
            await until(lambda: len(health) == 0 and len(web.running.relay.tasks) <= running - 3, "no check is left")
            checks = len(newcomer.checks)
            asked = pace.sent
            await until(lambda: pace.sent > asked + 150, "half a second passes")
            assert len(newcomer.checks) == checks
            await pace.stop()
            assert pace.statuses().keys() == {200}

    mesh.run(story())


# --- restarts -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_endpoints_that_are_restarted_in_turn_fail_nobody(tmp_path, count):
    """Connections are cut and nobody listens for a while: what was under way goes elsewhere, if the budget of retries is as large as that.

    With four tries: where this machine stands still for long, one request may be on its way to each of those that are cut in turn.
    """
    mesh = Mesh(tmp_path)

    async def story():
        async with stage(mesh, count, rules=f"{FAST}, retry_budget: {{least: 64}}", route=", retry: {attempts: 4}") as (replicas, web):
            pace = Pace(web.outbound, "stock", PER_S)
            pace.start()
            await until(lambda: min(replica.count() for replica in replicas) > 30, "all are used")
            cut = 0
            for replica in replicas:
                cut += sum(not connection.idle for connection in replica.connections)
                await replica.refuse()
                sent = pace.sent
                await until(lambda sent=sent: pace.sent > sent + 90, "the others serve for a third of a second")
                await replica.listen()
                seen = replica.count()
                await until(lambda replica=replica, seen=seen: replica.count() > seen + 20, "it serves again", 10)
            await pace.stop()
            retries = metric(web, "flui_retries_total")
            print(f"{count} endpoints: {pace.statuses()}, {cut} under way when cut; {retries}")
            assert pace.statuses().keys() == {200}
            assert retries["stock", "sent"] >= cut
            assert not retries.get(("stock", "over_budget"), 0)

    mesh.run(story(), 40)


@pytest.mark.slow
def test_a_request_is_answered_even_when_every_endpoint_is_thought_to_be_out(tmp_path):
    """Both restart at the same moment: with nobody listening it is 502, and the first that listens is found at once."""
    mesh = Mesh(tmp_path)

    async def story():
        async with stage(mesh, 2, rules="outlier: {eject: 20s, eject_max: 20s}") as (replicas, web):
            for replica in replicas:
                await replica.refuse()
            for _ in range(12):
                assert (await ask(web)).status == 502
            await replicas[0].listen()
            assert [(await ask(web)).status for _ in range(10)] == [200] * 10
            await replicas[1].listen()
            await replicas[0].refuse()
            assert [(await ask(web)).status for _ in range(10)] == [200] * 10

    mesh.run(story())


def test_asyncio_is_left_without_tasks(tmp_path):
    """What judged and checked ends with the sidecar."""
    mesh = Mesh(tmp_path)

    async def story():
        before = len(asyncio.all_tasks())
        async with stage(mesh, 3, rules=CHECKED) as (_, web):
            await until(lambda: metric(web, "flui_health_checks_total"), "it checks")
            await web.stop()
            await until(lambda: len(asyncio.all_tasks()) <= before, "nothing is left")

    mesh.run(story())

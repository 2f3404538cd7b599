"""What the admin API shows of a running sidecar, and what it does not."""

from __future__ import annotations

import asyncio
import json
import os

from flui.runtime import views
from flui.runtime.admin import Query, Stream
from support.mesh import Mesh, until
from support.pki import replace

GET = b"GET %b HTTP/1.1\r\nhost: orders\r\n\r\n"


def shown(side, path, uid=None, **values):
    """A page as JSON, and its status."""
    reply = views.routes(side.running)[path](Query(path, values, uid))
    assert not isinstance(reply, Stream)
    return reply.status, json.loads(reply.body)


async def pair(mesh, **more):
    backend = await mesh.backend()
    orders = await mesh.sidecar("orders", app=backend, outbound="off", **more)
    services = f"  orders: {{endpoints: [{{name: orders-1, address: '{orders.inbound}', weight: 3}}], balance: {{policy: ring, key: header:x-who}}}}"
    return orders, await mesh.sidecar("web", services=services)


def test_a_sidecar_is_ready_while_it_serves_and_says_why_when_it_does_not(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders, _ = await pair(mesh)
        assert shown(orders, "/live") == (200, {"live": True})
        assert shown(orders, "/ready") == (200, {"ready": True, "why": []})
        orders.running.ready = False
        assert shown(orders, "/ready") == (503, {"ready": False, "why": ["starting"]})
        await orders.stop()
        assert shown(orders, "/ready") == (503, {"ready": False, "why": ["draining"]})

    mesh.run(story())


def test_flows_are_the_decisions_that_are_remembered(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders, web = await pair(mesh)
        await mesh.call(web, GET % b"/items/7", None)
        await mesh.call(web, GET % b"/items/7", None)
        await mesh.call(orders, GET % b"/items/8", "nobody")
        _, (only,) = shown(web, "/flows")
        assert only == {
            "listener": "outbound", "principal": "spiffe://shop/web", "method": "GET", "host": "orders", "path": "/items/7", "action": "forward",
            "fault": "", "to": "orders", "service": "orders", "route": "orders", "rule": "decided by the receiver",
        }  # fmt: skip
        _, flows = shown(orders, "/flows")
        assert [(flow["principal"], flow["action"], flow["fault"], flow["rule"]) for flow in flows] == [
            ("spiffe://shop/web", "forward", "", "rules.csv:1"),
            ("spiffe://shop/nobody", "reply", "denied", "no rule"),
        ]
        assert len(shown(orders, "/flows", principal="spiffe://shop/nobody")[1]) == 1
        assert shown(orders, "/flows", principal="spiffe://shop/") == (200, [])

    mesh.run(story())


def test_flows_hide_what_the_access_log_hides(tmp_path):
    """Threats G7: who may read the page need not be allowed to tap."""
    mesh = Mesh(tmp_path)

    async def story():
        orders, _ = await pair(mesh, access_log="{file: access.log, redact: [/users/:id]}")
        for name in (b"jane", b"john"):
            await mesh.call(orders, GET % (b"/users/" + name))
        _, flows = shown(orders, "/flows")
        assert [flow["path"] for flow in flows] == ["/users/-", "/users/-"]
        orders.file.write_text(orders.file.read_text().replace("redact: [/users/:id]", "successes: 50%"))
        await orders.running.reload()
        await mesh.call(orders, GET % b"/users/jane")
        assert [flow["path"] for flow in shown(orders, "/flows")[1]] == ["/users/jane"]

    mesh.run(story())


def test_clusters_show_their_endpoints_and_how_they_do(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders, web = await pair(mesh)
        assert (await mesh.call(web, GET % b"/items/7", None)).status == 200
        await until(lambda: shown(web, "/clusters")[1][0]["active"] == 0, "it is over")
        _, (cluster,) = shown(web, "/clusters")
        (endpoint,) = cluster.pop("endpoints")
        assert cluster == {
            "cluster": "orders", "identity": "spiffe://shop/orders", "balance": "ring", "key": "x-who", "idle": 1, "open": 1, "active": 0,
            "pending": 0, "panic": False, "retries": {"used": 0, "allowed": 3}, "concurrency_limit": None,
        }  # fmt: skip
        assert endpoint == {
            "name": "orders-1",
            "address": str(orders.inbound),
            "weight": 3,
            "active": 0,
            "available": True,
            "share": 1.0,
            "why": "",
        }
        _, (app,) = shown(orders, "/clusters")
        assert (app["cluster"], app["identity"], app["key"]) == ("@app", "", "flui-key")

    mesh.run(story())


def test_connections_show_who_is_connected(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders, _ = await pair(mesh)
        caller = await mesh.caller(orders)
        assert (await caller.ask(GET % b"/items/7")).status == 200
        port = caller.socket.getsockname()[1]
        wanted = [{"listener": "inbound", "peer": f"127.0.0.1:{port}", "principal": "spiffe://shop/web", "exchanges": 0}]
        assert shown(orders, "/connections") == (200, wanted)
        caller.close()
        await until(lambda: shown(orders, "/connections") == (200, []), "it is gone")

    mesh.run(story())


def test_a_policy_that_is_not_in_force_is_told_with_its_mistake(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders, _ = await pair(mesh)
        _, before = shown(orders, "/policy")
        assert (before["rules"], before["grants"], before["not in force"]) == (1, 0, [])
        assert before["folder"] == str(orders.folder / "policy")
        replace(orders.folder / "policy" / "rules.csv", b"p, nonsense\n")
        await orders.running.reload()
        _, after = shown(orders, "/policy")
        assert after["version"] == before["version"]
        assert after["snapshot"] == before["snapshot"]
        (problem,) = after["not in force"]
        assert "rules.csv:1" in problem

    mesh.run(story())


def test_certificates_are_shown_without_their_keys(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders, _ = await pair(mesh)
        _, certs = shown(orders, "/certs")
        assert certs["identity"] == "spiffe://shop/orders"
        assert certs["trust domain"] == "shop"
        assert certs["generation"] == 1
        text = json.dumps([shown(orders, path)[1] for path in ("/certs", "/config", "/policy")])
        assert "PRIVATE KEY" not in text
        key = (orders.folder / "certs" / "orders.key").read_text().splitlines()[1]
        assert key not in text
        file = mesh.prepare("plain", services="  orders: {endpoints: ['127.0.0.1:9'], plaintext: true}")
        file.write_text(file.read_text().replace("certs: certs\n", ""))
        plain = await mesh.start(file)
        assert shown(plain, "/certs") == (200, {"identity": "spiffe://local/plain", "tls": False})

    mesh.run(story())


def test_the_configuration_in_force_has_its_defaults(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders, _ = await pair(mesh)
        _, config = shown(orders, "/config")
        assert config["service"] == "orders"
        assert config["timeouts"]["connect_s"] == 2.0
        assert [listener["name"] for listener in config["listeners"]] == ["inbound"]

    mesh.run(story())


def test_a_tap_is_only_for_whom_the_policy_names(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders, _ = await pair(mesh, rules=f"p, spiffe://shop/web, {{name}}, *, /*\np, uid:{os.getuid()}, {{name}}, TAP, /*\n")
        tap = views.routes(orders.running)["/tap"]
        assert isinstance(tap(Query("/tap", {}, os.getuid())), Stream)
        for uid in (os.getuid() + 1, None):
            assert shown(orders, "/tap", uid=uid)[0] == 403
        await asyncio.sleep(0)

    mesh.run(story())


def test_the_page_of_metrics_is_what_prometheus_reads(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders, _ = await pair(mesh)
        reply = views.routes(orders.running)["/metrics"](Query("/metrics", {}))
        assert not isinstance(reply, Stream)
        assert reply.content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert reply.body.startswith(b"# HELP ")

    mesh.run(story())

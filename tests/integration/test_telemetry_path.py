"""What is told of an exchange is what happened: traces, access log and metrics against what caller and backend counted."""

import asyncio
import json
import re

from flui.telemetry.exposition import page
from support.mesh import TRACE, Mesh, answers, until

GET = b"GET /items?id=7 HTTP/1.1\r\nhost: orders\r\n"
TRACEPARENT = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


async def pair(mesh, does=answers):
    backend = await mesh.backend(does)
    orders = await mesh.sidecar("orders", app=backend)
    web = await mesh.sidecar("web", services=f"  orders: {{endpoints: ['{orders.inbound}']}}")
    return backend, orders, web


def test_a_traceparent_is_carried_unchanged_with_its_state(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend, orders, web = await pair(mesh)
        await mesh.call(web, GET + b"traceparent: " + TRACE + b"\r\ntracestate: a=1\r\n\r\n", None)
        (request,) = backend.requests
        assert [v for n, v in request.fields if n == b"traceparent"] == [TRACE]
        assert request.get(b"tracestate") == b"a=1"
        await until(orders.log, "recorded")
        assert web.log()[0]["trace"] == orders.log()[0]["trace"] == TRACE[3:35].decode()

    mesh.run(story())


def test_a_traceparent_is_minted_once_for_both_hops(tmp_path):
    """Also in place of one that is not well-formed; refusals carry its id."""
    mesh = Mesh(tmp_path)

    async def story():
        backend, orders, web = await pair(mesh)
        for extra in (b"", b"traceparent: 00-nonsense\r\n", b"traceparent: " + TRACE.upper() + b"\r\n"):
            await mesh.call(web, GET + extra + b"\r\n", None)
        seen = [[v for n, v in request.fields if n == b"traceparent"] for request in backend.requests]
        assert all(len(values) == 1 and TRACEPARENT.fullmatch(values[0]) for values in seen)
        ids = [values[0][3:35].decode() for values in seen]
        assert len(set(ids)) == 3
        await until(lambda: len(orders.log()) == 3, "recorded")
        assert [record["trace"] for record in web.log()] == [record["trace"] for record in orders.log()] == ids
        denied = await mesh.call(orders, b"GET / HTTP/1.1\r\nhost: o\r\n\r\n", "nobody")
        assert denied.status == 403
        assert denied.problem()["trace"] == orders.log()[-1]["trace"]

    mesh.run(story())


def test_the_access_log_says_what_caller_and_backend_counted(tmp_path):
    mesh = Mesh(tmp_path)

    async def slow(backend, request, reader, writer):
        if request is not None:
            await asyncio.sleep(0.05)
        return await answers(backend, request, reader, writer)

    async def story():
        backend, orders, web = await pair(mesh, slow)
        caller = await mesh.caller(web, None)
        post = b"POST /items?secret=1 HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\n\r\n"
        for _ in range(2):
            answer = await caller.ask(post)
        caller.close()
        await until(lambda: len(orders.log()) == 2, "recorded")
        assert "secret" not in (orders.folder / "access.log").read_text()
        first, second = web.log()
        for record in web.log():
            assert record["listener"] == "outbound"
            assert (record["service"], record["route"]) == ("orders", "orders")
            assert record["principal"] == "spiffe://shop/web"
            assert record["upstream"] == str(orders.inbound)
        for record in orders.log():
            assert (record["listener"], record["service"], record["route"]) == ("inbound", "orders", "app")
            assert record["principal"] == "spiffe://shop/web"
            assert record["rule"] == "rules.csv:1"
            assert record["upstream"] == "app"
        for record in web.log() + orders.log():
            assert (record["method"], record["authority"], record["path"]) == ("POST", "orders", "/items")
            assert (record["status"], record["fault"]) == (200, "")
            assert record["request_octets"] == len(backend.requests[0].body) == 8
            assert record["response_octets"] == len(answer.body) == 3
            assert 50 <= record["upstream_ms"] <= record["total_ms"]
        assert first["queue_ms"] > 0, "it had to dial"
        assert first["decide_ms"] > 0
        assert second["queue_ms"] < 5
        assert second["decide_ms"] == 0
        inner = orders.log()
        assert inner[0]["tls_ms"] > 0
        assert inner[1]["tls_ms"] == 0, "one handshake, told once"
        assert inner[0]["total_ms"] <= first["total_ms"]

    mesh.run(story())


def test_metrics_count_every_request_once(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend, orders, web = await pair(mesh)
        caller = await mesh.caller(web, None)
        denied = await mesh.caller(orders, "nobody")
        for number in range(7):
            assert (await caller.ask(GET + b"content-length: 4\r\n\r\nbody")).status == 200
            if number < 3:
                assert (await denied.ask(GET + b"\r\n")).status == 403
        await mesh.call(web, b"GET / HTTP/1.1\r\nhost: nowhere\r\n\r\n", None)
        caller.close()
        denied.close()
        await until(lambda: orders.statuses() == {"200": 7, "403": 3}, "all are counted")
        text = page(orders.running.meters)
        for line in (
            'flui_requests_total{listener="inbound",service="orders",route="app",code="200"} 7',
            'flui_requests_total{listener="inbound",service="orders",route="app",code="403"} 3',
            'flui_request_octets_total{listener="inbound",service="orders",route="app"} 28',
            'flui_request_duration_seconds_count{listener="inbound",service="orders",route="app"} 10',
            'flui_faults_total{listener="inbound",fault="denied"} 3',
            'flui_connections_accepted_total{listener="inbound"} 2',
            'flui_flow_lookups_total{result="hit"} 8',
            'flui_flow_lookups_total{result="miss"} 2',
            'flui_upstream_connects_total{cluster="@app",outcome="connected"} 1',
        ):
            assert line in text, line
        assert len(backend.requests) == 7
        assert web.statuses() == {"200": 7, "404": 1}
        await until(lambda: not orders.connections or orders.connections == 1, "only the pooled connection is left")
        assert 'flui_connections_open{listener="inbound"} 1' in page(orders.running.meters)
        refused = sum(len(side.log()) for side in (orders, web))
        assert refused == 10 + 8

    mesh.run(story())


def test_nothing_that_a_peer_says_becomes_a_label_or_breaks_a_line(tmp_path):
    """Threats C13 and G7."""
    mesh = Mesh(tmp_path)

    async def story():
        _, orders, _ = await pair(mesh)
        for number in range(20):
            octets = b"G%d /%%22%d HTTP/1.1\r\nhost: h%d\r\n\r\n" % (number, number, number)
            assert (await mesh.call(orders, octets)).status == 200
        assert orders.running.access_log.flush(2)
        lines = (orders.folder / "access.log").read_bytes().splitlines()
        assert len(lines) == 20
        assert [json.loads(line)["path"] for line in lines] == [f"/%22{n}" for n in range(20)]
        text = page(orders.running.meters)
        assert text.count("flui_requests_total{") == 1
        assert "h19" not in text

    mesh.run(story())


def test_identity_headers_are_minted_by_the_sidecar_alone(tmp_path):
    """Threats E1, E3: what a caller says about itself never arrives."""
    mesh = Mesh(tmp_path)

    async def story():
        backend, _, web = await pair(mesh)
        lies = (
            b"flui-principal: spiffe://shop/root\r\nflui-roles: role:root\r\nFlui_Principal: x\r\nflui.roles: y\r\n"
            b"forwarded: for=1.2.3.4\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-client-cert: z\r\nx-real-ip: 9\r\n"
        )
        await mesh.call(web, GET + lies + b"\r\n", None)
        (request,) = backend.requests
        ours = [(n, v) for n, v in request.fields if b"flui" in n and n != b"flui-deadline"]
        assert ours == [(b"flui-principal", b"spiffe://shop/web")], "and no roles, as it has none"
        assert [v for n, v in request.fields if n == b"forwarded"] == [b"for=127.0.0.1;proto=https"]
        assert not [n for n, _ in request.fields if n.startswith(b"x-")]

    mesh.run(story())

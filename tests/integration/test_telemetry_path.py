"""What is told of an exchange is what happened: traces, access log and metrics against what caller and backend counted."""

import asyncio
import json
import re

import pytest

from flui.telemetry import families as of
from flui.telemetry.exposition import page
from support.mesh import TRACE, Mesh, answers, until
from support.mixed import Mixed, compare_log, compare_page
from support.witness import Observed

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


@pytest.mark.slow
def test_a_mixed_load_is_told_as_callers_and_modules_saw_it(tmp_path):
    """The short form of acceptance/test_truth.py: 26 kinds of requests, every counter and every member of both logs, which rotate."""
    mesh = Mesh(tmp_path)

    async def story():
        async with Observed(mesh) as observed:
            mixed = Mixed(mesh, observed)
            await mixed.start(rotate="16KiB")
            await mixed.load(500)
            await mixed.misbehave()
            await mixed.settle()
            await mixed.spans()
            pages = {side: side.page() for side in (mixed.web, mixed.orders)}
            await mixed.observers()
            for side, said in pages.items():
                expected = mixed.expected[side.name]
                lines = await side.logged(len(expected) + (len(mixed.malformed) if side is mixed.web else 0))
                compare_log(expected, lines, mixed.offset)
                compare_page(mixed, side, said)
                assert len(side.log_files()) > 1, "it was rotated"

    mesh.run(story(), timeout_s=50)


def test_a_sample_leaves_out_successes_alone_and_both_hops_keep_the_same(tmp_path):
    mesh = Mesh(tmp_path)

    async def some(backend, request, reader, writer):
        if request is not None and b"/missing" in request.target:
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return True
        return await answers(backend, request, reader, writer)

    async def story():
        backend = await mesh.backend(some)
        log = "{file: access.log, successes: 20%}"
        orders = await mesh.sidecar("orders", app=backend, access_log=log)
        web = await mesh.sidecar("web", services=f"  orders: {{endpoints: ['{orders.inbound}']}}", access_log=log)
        caller = await mesh.caller(web, None)
        for number in range(400):
            await caller.ask(b"GET /%b HTTP/1.1\r\nhost: orders\r\n\r\n" % (b"missing" if number % 10 == 0 else b"items"))
        caller.close()
        for side in (web, orders):
            left_out = side.running.relay.recorder.sampled
            lines = side.log()
            assert len(lines) + left_out == 400
            assert sum(line["status"] == 404 for line in lines) == 40
            shown = len(lines) - 40
            assert abs(shown - 0.2 * 360) <= 4.5 * (360 * 0.2 * 0.8) ** 0.5
            assert f"{of.LOG_LINES_SAMPLED.name} {left_out}" in page(side.running.meters)
        assert {line["trace"] for line in web.log()} == {line["trace"] for line in orders.log()}

    mesh.run(story())


def test_rotation_under_load_loses_no_line(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        orders = await mesh.sidecar("orders", app=backend, access_log="{file: access.log, rotate: 8KiB, keep: 1000}")
        many = 600

        async def keep_asking(first):
            caller = await mesh.caller(orders)
            for number in range(first, many, 6):
                assert (await caller.ask(b"GET /items/%d HTTP/1.1\r\nhost: orders\r\n\r\n" % number)).status == 200
            caller.close()

        await asyncio.gather(*(keep_asking(first) for first in range(6)))
        writer = orders.running.access_log
        assert writer.flush(2.0)
        files = [*orders.folder.glob("access.log.*"), orders.folder / "access.log"]
        assert len(files) > 1
        assert writer.rotations == len(files) - 1
        lines = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
        assert sorted(int(line["path"].split("/")[2]) for line in lines) == list(range(many))
        assert writer.dropped == 0

    mesh.run(story())

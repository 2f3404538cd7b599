"""What a page reads of a running sidecar: what is there now, from the start, and after a reload."""

from __future__ import annotations

import asyncio

import pytest

from flui.runtime import configfile
from flui.telemetry import families as of
from flui.telemetry.exposition import page
from support.mesh import Mesh, answers, read_body, until
from support.witness import Page

HEAD = b"GET /items/7 HTTP/1.1\r\nhost: stock\r\n\r\n"


def read(side):
    return Page(page(side.running.meters))


async def holds(backend, request, reader, writer):
    """Answers when it is told to."""
    if request is not None:
        await read_body(request, reader)
        await backend.go.wait()
        return await answers(backend, None, reader, writer) and writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") is None
    return True


def services(*backends, more=""):
    each = ", ".join(f"{{name: stock-{n}, address: '{backend.address}'}}" for n, backend in enumerate(backends, 1))
    return f"  stock: {{endpoints: [{each}], plaintext: true{more}}}"


def test_what_comes_rarely_is_there_from_the_start(tmp_path):
    """Else the first retry would have no rate: a counter that appears with 1 never grew."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        side = await mesh.sidecar("web", app=backend, services=services(backend))
        told = read(side)
        for cluster in ("stock", "@app"):
            assert {told.of(of.RETRIES)[cluster, outcome] for outcome in ("sent", "over_budget")} == {0}
            assert {told.of(of.BREAKER_REFUSED)[cluster, what] for what in ("connections", "pending", "requests")} == {0}
        assert set(told.of(of.SHED)) == {
            (listener, name, "overload") for listener in ("inbound", "outbound") for name in ("high", "normal", "low")
        }
        assert set(told.of(of.SHED).values()) == {0}

    mesh.run(story())


def test_every_family_that_is_read_has_a_sample_in_a_sidecar_at_rest(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        more = "tracing: {endpoint: 'http://127.0.0.1:9/v1/traces'}\n"
        side = await mesh.sidecar("web", app=backend, services=services(backend, more=", concurrency: adaptive"), more=more)
        told = read(side)
        for family in (
            of.FLOW_LOOKUPS, of.LOG_LINES_DROPPED, of.CONNECTIONS_OPEN, of.UPSTREAM_CONNECTIONS, of.FLOWS, of.CERTIFICATE_EXPIRY, of.POLICY_INFO,
            of.BUILD_INFO, of.UPTIME, of.SPANS, of.ENDPOINT_AVAILABLE, of.ENDPOINT_SHARE, of.ENDPOINT_REQUESTS, of.ENDPOINT_ACTIVE,
            of.CLUSTER_PANIC, of.BREAKER_USED, of.BREAKER_LIMIT, of.RETRIES_ACTIVE, of.RETRIES_ALLOWED, of.CONCURRENCY_LIMIT, of.LOOP_LAG,
            of.OVERLOAD_LEVEL, of.BUFFERED, of.LOG_LINES_SAMPLED,
        ):  # fmt: skip
            assert told.of(family), family.name
        assert told.of(of.ENDPOINT_AVAILABLE) == {("stock", "stock-1"): 1, ("@app", "app"): 1}
        assert set(told.of(of.CONCURRENCY_LIMIT)) == {("stock",)}, "only what has a limit"
        assert set(told.of(of.SPANS)) == {("sent",), ("failed",), ("dropped",), ("over_rate",)}
        assert told.one(of.BUILD_INFO, *next(iter(told.of(of.BUILD_INFO)))) == 1
        assert 0 <= told.one(of.UPTIME) < 30

    mesh.run(story())


def test_what_is_under_way_is_read_as_it_is_and_is_gone_when_it_is_over(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(holds)
        side = await mesh.sidecar("web", services=services(backend, more=", breaker: {connections: 3}"))
        put = b"PUT /items/7 HTTP/1.1\r\nhost: stock\r\ncontent-length: 500\r\n\r\n" + bytes(500)
        callers = [await mesh.caller(side, None) for _ in range(5)]
        for caller in callers:
            await caller.send(put)
        await until(lambda: len(backend.requests) == 3 and read(side).one(of.BREAKER_USED, "stock", "requests") == 5, "all are there")
        told = read(side)
        assert {what: told.one(of.BREAKER_USED, "stock", what) for what in ("connections", "pending", "requests")} == {
            "connections": 3,
            "pending": 2,
            "requests": 5,
        }
        assert told.one(of.BREAKER_LIMIT, "stock", "connections") == 3
        assert told.of(of.UPSTREAM_CONNECTIONS) == {("stock", "idle"): 0, ("stock", "busy"): 3}
        assert told.one(of.CONNECTIONS_OPEN, "outbound") == 5
        assert told.one(of.BUFFERED, "replay") == 5 * 500, "three are kept for a second try, two for their first"
        assert told.one(of.ENDPOINT_ACTIVE, "stock", "stock-1") == 5
        backend.go.set()
        for caller in callers:
            assert (await caller.answer()).status == 200
            caller.close()
        await until(lambda: read(side).one(of.CONNECTIONS_OPEN, "outbound") == 0, "all are gone")
        told = read(side)
        assert set(told.of(of.ENDPOINT_ACTIVE).values()) == {0}
        assert told.of(of.UPSTREAM_CONNECTIONS) == {("stock", "idle"): 3, ("stock", "busy"): 0}
        assert {told.one(of.BUFFERED, where) for where in ("downstream", "upstream", "replay")} == {0}
        assert told.one(of.ENDPOINT_REQUESTS, "stock", "stock-1") == 5
        assert told.of(of.FLOW_LOOKUPS) == {("hit",): 4, ("miss",): 1}
        assert told.one(of.FLOWS) == 1

    mesh.run(story())


def test_a_reload_brings_new_clusters_and_lets_old_ones_go(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        side = await mesh.sidecar("web", services=services(backend))
        assert (await mesh.call(side, HEAD, None)).status == 200
        side.file.write_text(side.file.read_text().replace("stock", "shelf"))
        await side.running.reload()
        told = read(side)
        assert set(told.of(of.ENDPOINT_REQUESTS)) == {("shelf", "shelf-1")}
        assert told.of(of.RETRIES)["shelf", "sent"] == 0, "from the start, for it too"
        assert told.one(of.FLOWS) == 0, "a new snapshot has decided nothing yet"
        assert told.one(of.RELOADS, "configuration", "active") == 1

    mesh.run(story())


def test_spans_are_told_while_something_is_traced_and_what_was_over_the_rate_stays(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        tracing = "tracing: {endpoint: 'http://127.0.0.1:9/v1/traces', share: 100%, rate: 1/s}\n"
        side = await mesh.sidecar("web", services=services(backend), more=tracing)
        for _ in range(3):
            assert (await mesh.call(side, HEAD, None)).status == 200
        assert read(side).one(of.SPANS, "over_rate") in {1, 2}
        over = read(side).one(of.SPANS, "over_rate")
        side.file.write_text(side.file.read_text().replace(tracing, "tracing: off\n"))
        await side.running.reload()
        assert read(side).of(of.SPANS) == {("over_rate",): over}

    mesh.run(story())


@pytest.mark.parametrize("text", ["off", "access.log"])
def test_lost_lines_are_told_where_there_is_a_log(tmp_path, text):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        side = await mesh.sidecar("web", services=services(backend), access_log=text)
        assert read(side).of(of.LOG_LINES_DROPPED) == ({} if text == "off" else {("access",): 0})

    mesh.run(story())


def test_a_sidecar_without_certificates_has_none_that_ends(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        file = mesh.prepare("web", services=services(backend))
        file.write_text(file.read_text().replace("certs: certs\n", ""))
        assert configfile.read(str(file), on_disk=True).certs is None
        side = await mesh.start(file)
        assert not read(side).of(of.CERTIFICATE_EXPIRY)
        await asyncio.sleep(0)

    mesh.run(story())

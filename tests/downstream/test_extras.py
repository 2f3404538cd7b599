"""Faults made on purpose, rates of a route: answered in the caller's dialect, in the share that was asked for, and nothing is left."""

import asyncio
import time

import pytest

from flui.telemetry.families import INJECTED, RATE_LIMITED
from support.mesh import Mesh, until
from support.resets import borrowed, reset, rested

TICK_S = 0.002
"""The loop counts in milliseconds, and may be early by one."""
GET = b"GET /items HTTP/1.1\r\nhost: stock\r\n\r\n"
POST = b"POST /items HTTP/1.1\r\nhost: stock\r\ncontent-length: 5\r\n\r\nhello"


async def injected(mesh, inject, *, route="", more=""):
    backend = await mesh.backend()
    web = await mesh.sidecar(
        "web",
        services=f"  stock: {{endpoints: ['{backend.address}'], plaintext: true}}",
        more=f"routes: [{{name: drill, to: stock{', inject: ' + inject if inject else ''}{route}}}]\n{more}",
    )
    return backend, web


def counts(web, family):
    return {labels[-1]: int(n) for labels, n in web.running.meters.samples(family).items() if n}


# --- abort ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "title"), [(503, "Service Unavailable"), (429, "Too Many Requests"), (418, "I'm a Teapot"), (200, "OK")]
)
def test_an_abort_is_answered_as_a_fault_is(tmp_path, status, title):
    """RFC 9457, and once: what was made on purpose is not repaired by a second try of ours."""
    mesh = Mesh(tmp_path)

    async def story():
        backend, web = await injected(mesh, f"{{abort: {status}}}", route=", retry: {attempts: 3, statuses: [429, 503]}")
        caller = await mesh.caller(web, None)
        for number in range(1, 4):
            answer = await caller.ask(POST if number == 2 else GET)
            assert answer.status == status
            problem = answer.problem()
            assert (problem["status"], problem["title"], problem["code"]) == (status, title, "injected")
        assert not backend.connections
        assert counts(web, INJECTED) == {"abort": 3}
        assert web.faults() == {"injected": 3}
        assert {(record["fault"], record["status"]) for record in web.log()} == {("injected", status)}
        caller.close()
        await rested(web)

    mesh.run(story())


@pytest.mark.parametrize("status", [204, 205, 304])
def test_an_abort_without_content_leaves_the_connection_in_step(tmp_path, status):
    mesh = Mesh(tmp_path)

    async def story():
        _, web = await injected(mesh, f"{{abort: {status}}}")
        caller = await mesh.caller(web, None)
        await caller.send(GET + GET)
        for _ in range(2):
            head = await caller.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert b"content-length: 1" not in head
        caller.close()
        await rested(web)

    mesh.run(story())


def test_an_abort_of_a_head_request_has_no_body(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        _, web = await injected(mesh, "{abort: 503}")
        caller = await mesh.caller(web, None)
        for _ in range(2):
            assert (await caller.ask(GET.replace(b"GET", b"HEAD"))).status == 503
        caller.close()
        await rested(web)

    mesh.run(story())


# --- delay ------------------------------------------------------------------------------------------------------------------


def test_a_delayed_request_is_served_later_and_whole(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend, web = await injected(mesh, "{delay: 80ms}")
        caller = await mesh.caller(web, None)
        for octets in (GET, POST, GET):
            began = time.monotonic()
            assert (await caller.ask(octets)).status == 200
            assert 0.08 - TICK_S <= time.monotonic() - began < 0.6
        assert [request.body for request in backend.requests] == [b"", b"hello", b""]
        assert counts(web, INJECTED) == {"delay": 3}
        caller.close()
        await rested(web)

    mesh.run(story())


def test_the_delay_is_taken_off_the_deadline(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend, web = await injected(mesh, "{delay: 100ms}", route=", timeout: 2s")
        assert (await mesh.call(web, GET, None)).status == 200
        assert 1000 < int(backend.requests[0].get(b"flui-deadline")) <= 1900
        await rested(web)

    mesh.run(story())


@pytest.mark.parametrize("delay", ["100ms", "150ms", "10s"])
def test_a_delay_that_uses_up_the_time_sends_nothing(tmp_path, delay):
    """Work whose deadline has passed is not started: also where both end at the same moment."""
    mesh = Mesh(tmp_path)

    async def story():
        backend, web = await injected(mesh, f"{{delay: {delay}}}")
        began = time.monotonic()
        answer = await mesh.call(web, GET.replace(b"\r\n\r\n", b"\r\nflui-deadline: 100\r\n\r\n"), None)
        assert (answer.status, answer.problem()["code"]) == (504, "deadline_passed")
        assert 0.1 <= time.monotonic() - began < 0.4
        await rested(web)
        assert not backend.connections

    mesh.run(story())


@pytest.mark.slow
def test_a_caller_that_goes_while_it_is_delayed_leaves_nothing(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend, web = await injected(mesh, "{delay: 500ms}")
        caller = await mesh.caller(web, None)
        await caller.send(GET)
        await until(lambda: borrowed(web), "it waits")
        began = time.monotonic()
        reset(caller.writer)
        await rested(web)
        assert time.monotonic() - began < 0.4, "nobody waits for the end of the delay"
        await until(lambda: time.monotonic() - began > 0.6, "the delay would be over")
        assert not backend.connections
        assert web.log()[0]["fault"] == "caller_gone"
        await rested(web)

    mesh.run(story())


def test_a_sidecar_that_ends_lets_the_delayed_ones_end(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        _, web = await injected(mesh, "{delay: 100ms}")
        caller = await mesh.caller(web, None)
        await caller.send(GET)
        await until(lambda: borrowed(web), "it waits")
        stopping = asyncio.ensure_future(web.stop())
        assert (await caller.answer()).status == 200
        await stopping
        assert borrowed(web) == {}
        caller.close()

    mesh.run(story())


def test_the_tries_of_a_delayed_request_have_their_time_from_then_on(tmp_path):
    mesh = Mesh(tmp_path)

    async def hangs(backend, request, reader, writer):
        if request is not None:
            await reader.read()
        return request is None

    async def story():
        backend, web = await injected(mesh, "{delay: 150ms}", route=", retry: {attempts: 2, per_try: 60ms, backoff: 1ms}")
        backend.does = hangs
        began = time.monotonic()
        assert (await mesh.call(web, GET, None)).status == 504
        assert 0.27 <= time.monotonic() - began < 0.8
        assert len(backend.requests) == 2
        await rested(web)

    mesh.run(story())


# --- shares -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shares_are_what_was_asked_for(tmp_path):
    """2,000 requests, 4 sigma; the long form counts 100,000 against 3."""
    mesh = Mesh(tmp_path)
    count = 2_000

    async def story():
        backend, web = await injected(mesh, "{abort: 503, abort_share: 20%, delay: 1ms, delay_share: 10%}")
        statuses = []

        caller = await mesh.caller(web, None)
        while len(statuses) < count:
            statuses.append((await caller.ask(GET)).status)
        caller.close()
        aborted = counts(web, INJECTED)["abort"]
        delayed = counts(web, INJECTED)["delay"]
        assert statuses.count(503) == aborted == count - len(backend.requests)
        assert abs(aborted - 0.2 * count) <= 4 * (count * 0.2 * 0.8) ** 0.5
        left = count - aborted
        assert abs(delayed - 0.1 * left) <= 4 * (left * 0.1 * 0.9) ** 0.5
        await rested(web)

    mesh.run(story())


def test_what_is_not_injected_goes_on_as_ever(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        web = await mesh.sidecar(
            "web",
            services=f"  stock: {{endpoints: ['{backend.address}'], plaintext: true}}",
            more="routes: [{name: drill, match: {headers: {x-drill: yes}}, to: stock, inject: {abort: 500}}]",
        )
        caller = await mesh.caller(web, None)
        assert (await caller.ask(GET)).status == 200
        assert (await caller.ask(GET.replace(b"\r\n\r\n", b"\r\nx-drill: yes\r\n\r\n"))).status == 500
        assert (await caller.ask(GET)).status == 200
        caller.close()
        await rested(web)

    mesh.run(story())


# --- rates of a route -------------------------------------------------------------------------------------------------------


def test_a_rate_of_a_route_is_refused_before_anything_else_happens(tmp_path):
    """No copy, no injected fault, nothing sent; and it says so, so that no other sidecar tries again."""
    mesh = Mesh(tmp_path)

    async def story():
        backend, web = await injected(mesh, "{abort: 500}", route=", rate: {rate: 1/h, burst: 2}")
        caller = await mesh.caller(web, None)
        assert [(await caller.ask(GET)).status for _ in range(2)] == [500, 500]
        answer = await caller.ask(GET)
        assert answer.status == 429
        assert answer.get(b"flui-fault") == b"rate_limited"
        assert 3000 <= int(answer.get(b"retry-after")) <= 3600
        assert counts(web, RATE_LIMITED) == {"drill": 1}
        assert not backend.connections
        caller.close()
        await rested(web)

    mesh.run(story())


def test_a_reload_that_leaves_a_rate_as_it_is_leaves_what_was_used_up(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        _, web = await injected(mesh, "", route=", rate: {rate: 1/h, burst: 1}, timeout: 3s")
        caller = await mesh.caller(web, None)
        assert [(await caller.ask(GET)).status for _ in range(2)] == [200, 429]
        web.file.write_text(web.file.read_text().replace("timeout: 3s", "timeout: 4s"))
        await web.running.reload()
        assert (await caller.ask(GET)).status == 429
        web.file.write_text(web.file.read_text().replace("burst: 1", "burst: 2"))
        await web.running.reload()
        assert (await caller.ask(GET)).status == 200, "another rate is another bucket"
        web.file.write_text(web.file.read_text().replace("name: drill", "name: other"))
        await web.running.reload()
        assert {key[1] for key in web.running.relay.extras._rates} == set(), "what no route needs is forgotten"
        assert [(await caller.ask(GET)).status for _ in range(3)] == [200, 200, 429]
        caller.close()
        await rested(web)

    mesh.run(story())

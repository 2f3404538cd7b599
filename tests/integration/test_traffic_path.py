"""Traffic that is split, copied, delayed and refused on purpose, through real sidecars: counted by those who were asked.

A hundred thousand requests, and what a mirror costs its caller, stand in tests/acceptance/test_traffic.py.
"""

import asyncio
import contextlib
import math
import time
from collections import Counter

import pytest

from flui.telemetry.exposition import page
from support.mesh import Mesh, answers, until
from support.replicas import Ground, Replicas, Wire, metrics_of

REQUESTS = 4_000
CALLERS = 16
SIGMAS = 4.5
"""Beyond it once in 150,000 times."""


def near(count, of, part):
    return abs(count - of * part) <= SIGMAS * math.sqrt(of * part * (1 - part))


@contextlib.asynccontextmanager
async def stage(mesh, routes, *names):
    """A sidecar and services of one endpoint each, which keep what they were asked."""
    with contextlib.closing(Ground()) as ground:
        services = {}
        for name in names:
            services[name] = (await Replicas.start(ground, name, 1, usual_s=(0.0, 0.0)))[0]
            services[name].heads = []
        text = "".join(f"  {name}: {{endpoints: ['{replica.address}'], plaintext: true}}\n" for name, replica in services.items())
        try:
            yield services, await mesh.sidecar("web", services=text, more="routes:\n" + routes, access_log="off")
        finally:
            for replica in services.values():
                await replica.refuse()


async def storm(web, count, *, head=b"POST /items HTTP/1.1\r\nhost: mixed\r\ncontent-length: 5\r\n", body=b"hello"):
    """Status of each of the requests, by its number; and how long it took."""
    wires = [await Wire.to(web.outbound) for _ in range(CALLERS)]
    numbers = iter(range(count))
    found = {}

    async def ask(wire):
        for number in numbers:
            began = time.monotonic()
            status = await wire.asked(b"%bx-number: %d\r\n\r\n%b" % (head, number, body))
            found[number] = (status, time.monotonic() - began)

    await asyncio.gather(*(ask(wire) for wire in wires))
    for wire in wires:
        wire.close()
    return found


def numbers(replica):
    return Counter(int(head.partition(b"x-number: ")[2].partition(b"\r\n")[0]) for head in replica.heads)


def metric(side, family):
    return metrics_of(page(side.running.meters).encode(), family)


@pytest.mark.slow
def test_one_in_a_hundred_is_one_in_a_hundred(tmp_path):
    mesh = Mesh(tmp_path)
    route = "  - {name: split, match: {hosts: [mixed]}, to: [{service: stable, weight: 99}, {service: canary}]}\n"

    async def story():
        async with stage(mesh, route, "stable", "canary") as (services, web):
            await storm(web, REQUESTS, head=b"GET / HTTP/1.1\r\nhost: mixed\r\n", body=b"")
            assert services["stable"].count() + services["canary"].count() == REQUESTS
            assert near(services["canary"].count(), REQUESTS, 0.01)

    mesh.run(story())


def test_a_canary_is_for_those_who_ask_with_its_header(tmp_path):
    mesh = Mesh(tmp_path)
    route = "  - {name: canary, match: {hosts: [stable], headers: {x-canary: yes}}, to: canary}\n"

    async def story():
        async with stage(mesh, route, "stable", "canary") as (services, web):
            for extra, name in (
                (b"x-canary: yes\r\n", "canary"),
                (b"X-Canary: yes\r\n", "canary"),
                (b"x-canary: no\r\n", "stable"),
                (b"", "stable"),
                (b"x-canary: yes\r\nx-canary: no\r\n", "stable"),
            ):
                before = services[name].count()
                assert (await mesh.call(web, b"GET / HTTP/1.1\r\nhost: stable\r\n" + extra + b"\r\n", None)).status == 200
                assert services[name].count() == before + 1, extra

    mesh.run(story())


def test_a_route_for_some_principals_treats_only_them_in_its_own_way(tmp_path):
    """Where requests come in the caller is known: a group of callers is tried out, slowed down or refused apart from the others."""
    mesh = Mesh(tmp_path)
    rules = "".join(f"p, spiffe://shop/{who}, orders, *, /*\n" for who in ("web", "reports/daily", "reports"))
    app = "app:\n  url: %s\n  routes:\n    - {name: drill, match: {principals: [spiffe://shop/reports/*]}, inject: {abort: 503}}\n"

    async def story():
        backend = await mesh.backend(answers)
        file = mesh.prepare("orders", app=backend, rules=rules)
        file.write_text(file.read_text().replace(f"app: {backend.url}\n", app % backend.url))
        orders = await mesh.start(file)
        octets = b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n"
        assert (await mesh.call(orders, octets, "web")).status == 200
        assert (await mesh.call(orders, octets, "reports/daily")).status == 503
        assert (await mesh.call(orders, octets, "reports")).status == 200, "`/*` is who is below"
        assert len(backend.requests) == 2
        assert orders.faults() == {"injected": 1}

    mesh.run(story())


@pytest.mark.slow
@pytest.mark.parametrize("does", ["hang", "refuse", "slow", "reset", "500"])
def test_whatever_a_mirrors_target_does_the_caller_is_answered_as_without_it(tmp_path, does):
    mesh = Mesh(tmp_path)
    routes = "  - {name: mirrored, match: {hosts: [mixed]}, to: stable, mirror: shadow}\n"

    async def story():
        async with stage(mesh, routes, "stable", "shadow") as (services, web):
            shadow = services["shadow"]
            if does == "refuse":
                await shadow.refuse()
            else:
                shadow.does = does
            found = await storm(web, 300)
            assert {status for status, _ in found.values()} == {200}
            assert max(took for _, took in found.values()) < 1.0
            assert numbers(services["stable"]) == Counter(range(300))
            mirrored = metric(web, "flui_mirrored_total")
            sent = mirrored.get(("shadow", "sent"), 0)
            assert sent + mirrored.get(("shadow", "dropped"), 0) <= 300
            if does == "hang":
                await until(lambda: len(shadow.heads) == 64, "no more than 64 are under way")
                assert mirrored["shadow", "dropped"] == 300 - 64
            web.running.stop()
            async with asyncio.timeout(5):
                await web.ended

    mesh.run(story())

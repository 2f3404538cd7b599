"""One trace from the caller to the last module, over three hops, at a real OTLP endpoint; and a collector that fails costs nobody anything.

caller ─▶ web(out) ══▶ orders(in) ─▶ orders' module ─▶ orders(out) ══▶ stock(in) ─▶ stock's module
"""

import asyncio
import os
import subprocess
import sys
import time

import pytest

from flui.runtime import configfile
from flui.telemetry import families as of
from flui.telemetry.otlp import BATCH, QUEUE
from support.collector import Answer, Collector
from support.mesh import Caller, Mesh, address_of, answers, process, ready, until
from support.mixed import head
from support.pki import wall_clock

CLIENT, SERVER = 3, 2
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ERROR = 2
WAITED_NS = 50_000_000


def get(path="/items/7", host="orders", **fields):
    return head("GET", path, host, {name.replace("_", "-"): value for name, value in fields.items()}, b"")


def tracing(collector, share="100%", rate="100000/s"):
    return f"tracing: {{endpoint: '{collector.endpoint}', share: {share}, rate: {rate}}}\n"


class Hops:
    """Three sidecars and two modules, of which the first calls the second with the traceparent that it got."""

    def __init__(self, mesh, more):
        self.mesh = mesh
        self.more = more

    async def start(self):
        mesh, more = self.mesh, self.more
        self.stock_module = await mesh.backend()
        self.stock = await mesh.sidecar(
            "stock", app=self.stock_module, rules="p, spiffe://shop/orders, stock, *, /*\n", more=more, outbound="off"
        )
        self.orders_module = await mesh.backend(self.calls_on)
        services = f"  stock: {{endpoints: [{{name: stock-1, address: '{self.stock.inbound}'}}]}}"
        self.orders = await mesh.sidecar("orders", app=self.orders_module, services=services, more=more)
        services = f"  orders: {{endpoints: [{{name: orders-1, address: '{self.orders.inbound}'}}]}}"
        self.web = await mesh.sidecar("web", services=services, more=more)
        self.sides = (self.web, self.orders, self.stock)
        return self

    async def calls_on(self, backend, request, reader, writer):
        if request is not None:
            traceparent = request.get(b"traceparent").decode()
            more = {"tracestate": state.decode()} if (state := request.get(b"tracestate")) else {}
            assert (await self.mesh.call(self.orders, get("/shelf/1", "stock", traceparent=traceparent, **more), None)).status == 200
        return await answers(backend, request, reader, writer)

    async def ask(self, **fields):
        return await self.mesh.call(self.web, get(**fields), None)

    def seen(self):
        """The traceparents that both modules got."""
        return [module.requests[-1].get(b"traceparent").decode() for module in (self.orders_module, self.stock_module)]

    def spans(self):
        found = {}
        for side in self.sides:
            for (outcome,), number in side.running.meters.samples(of.SPANS).items():
                found[outcome] = found.get(outcome, 0) + int(number)
        return found


def run(tmp_path, story, more="", timeout_s=30.0):
    mesh = Mesh(tmp_path)

    async def whole():
        await story(await Hops(mesh, more).start())

    mesh.run(whole(), timeout_s)


def chain(spans, trace_id):
    """The spans of a trace, each the child of the one before it."""
    found = [span for span in spans if span.trace_id == trace_id]
    by_parent = {span.parent_id: span for span in found}
    assert len(by_parent) == len(found), "two spans have one parent"
    ids = {span.span_id for span in found}
    (first,) = [span for span in found if span.parent_id not in ids]
    ordered = [first]
    while ordered[-1].span_id in by_parent:
        ordered.append(by_parent[ordered[-1].span_id])
    assert len(ordered) == len(found)
    return ordered


async def arrived(collector, spans):
    await until(lambda: len(collector.spans) >= spans, f"{spans} spans", 10.0)
    return collector.spans


def test_one_trace_goes_from_the_caller_to_the_last_module(tmp_path):
    with Collector() as collector:

        async def story(hops):
            began = wall_clock()
            assert (await hops.ask()).status == 200
            at_orders, at_stock = hops.seen()
            trace = at_orders[3:35]
            assert at_stock[3:35] == trace
            assert at_orders[-2:] == at_stock[-2:] == "01"
            spans = chain(await arrived(collector, 4), trace)
            assert [(span.service, span.kind, span.name) for span in spans] == [
                ("web", CLIENT, "GET orders"),
                ("orders", SERVER, "GET app"),
                ("orders", CLIENT, "GET stock"),
                ("stock", SERVER, "GET app"),
            ]
            assert spans[0].parent_id == "", "nobody began before us"
            assert spans[1].span_id == at_orders[36:52], "the module was told its own sidecar's span"
            assert spans[3].span_id == at_stock[36:52]
            for outer, inner in zip(spans, spans[1:], strict=False):
                # the wall clock is read when a span is recorded: as much later as the machine let us wait
                assert began * 1e9 - WAITED_NS <= outer.start_ns <= inner.start_ns + WAITED_NS
                assert inner.end_ns - WAITED_NS <= outer.end_ns <= wall_clock() * 1e9
            assert [span.attributes["flui.upstream"] for span in spans] == ["orders-1", "app", "stock-1", "app"]
            assert [span.attributes["flui.principal"].rpartition("/")[2] for span in spans] == ["web", "web", "orders", "orders"]
            assert {span.attributes["http.response.status_code"] for span in spans} == {200}
            for side, own in zip(hops.sides, (1, 2, 1), strict=True):
                lines = side.log()
                assert [line["trace"] for line in lines] == [trace] * own
            await until(lambda: hops.spans()["sent"] == 4, "what the collector has, its sender knows of")
            assert hops.spans() == {"sent": 4, "failed": 0, "dropped": 0, "over_rate": 0}
            assert set(collector.paths) == {"/v1/traces"}

        run(tmp_path, story, tracing(collector))


def test_a_callers_own_sampled_trace_goes_on(tmp_path):
    """Whatever our own share: the parent decides (W3C Trace Context 3.2.2.5.1)."""
    with Collector() as collector:

        async def story(hops):
            assert (await hops.ask(traceparent=SAMPLED, tracestate="vendor=1")).status == 200
            spans = chain(await arrived(collector, 4), SAMPLED[3:35])
            assert spans[0].parent_id == SAMPLED[36:52]
            assert len(spans) == 4
            assert {module.requests[-1].get(b"tracestate") for module in (hops.orders_module, hops.stock_module)} == {b"vendor=1"}
            assert all(traceparent[3:35] == SAMPLED[3:35] for traceparent in hops.seen())

        run(tmp_path, story, tracing(collector, share="0%"))


def test_a_callers_unsampled_trace_is_passed_on_as_it_is(tmp_path):
    with Collector() as collector:

        async def story(hops):
            said = SAMPLED[:-1] + "0"
            assert (await hops.ask(traceparent=said)).status == 200
            assert hops.seen() == [said, said]
            assert (await hops.ask(traceparent=SAMPLED)).status == 200, "one that is, so that there is something to wait for"
            spans = await arrived(collector, 4)
            assert len(spans) == 4
            await until(lambda: hops.spans()["sent"] == 4, "what the collector has, its sender knows of")
            assert hops.spans() == {"sent": 4, "failed": 0, "dropped": 0, "over_rate": 0}

        run(tmp_path, story, tracing(collector))


def test_a_share_is_decided_once_for_the_whole_trace(tmp_path):
    """Every trace is whole: four spans or none."""
    with Collector() as collector:

        async def story(hops):
            for _ in range(120):
                assert (await hops.ask()).status == 200
            traces = [request.get(b"traceparent") for request in hops.stock_module.requests]
            kept = {traceparent[3:35].decode() for traceparent in traces if traceparent.endswith(b"01")}
            assert abs(len(kept) - 30) <= 3 * (120 * 0.25 * 0.75) ** 0.5
            spans = await arrived(collector, 4 * len(kept))
            assert {span.trace_id for span in spans} == kept
            for trace in kept:
                assert len(chain(spans, trace)) == 4

        run(tmp_path, story, tracing(collector, share="25%"))


def test_past_the_rate_no_span_is_made_and_the_chain_of_parents_holds(tmp_path):
    with Collector() as collector:

        async def story(hops):
            began = time.monotonic()
            for _ in range(60):
                assert (await hops.ask()).status == 200
            took = time.monotonic() - began
            sampled = [
                request.get(b"traceparent")[3:35].decode()
                for request in hops.orders_module.requests
                if request.get(b"traceparent").endswith(b"01")
            ]
            assert 5 <= len(sampled) <= 5 + 5 * took + 1, "a second's worth at once, and the rate after it"
            counted = hops.web.running.meters.samples(of.SPANS)
            assert counted["over_rate",] == 60 - len(sampled)
            # orders has two spans in each trace, and the same rate: of some traces it leaves out its own
            await until(lambda: sum(hops.spans().values()) == 60 + 3 * len(sampled), "every one is accounted for", 10.0)
            made = await arrived(collector, hops.spans()["sent"])
            ids = {span.span_id for span in made}
            for trace in sampled:
                spans = [span for span in made if span.trace_id == trace]
                assert sum(span.parent_id == "" for span in spans) == 1
                assert all(span.parent_id in ids for span in spans if span.parent_id), "no parent that never was"

        run(tmp_path, story, tracing(collector, rate="5/s"))


def test_a_fault_is_an_error_of_the_hop_that_saw_it(tmp_path):
    with Collector() as collector:

        async def story(hops):
            answer = await hops.mesh.call(hops.orders, get(traceparent=SAMPLED), "nobody")
            assert answer.status == 403
            assert (await hops.mesh.call(hops.web, get(host="nowhere", traceparent=SAMPLED), None)).status == 404
            spans = {span.service: span for span in await arrived(collector, 2)}
            assert [spans[name].status for name in ("orders", "web")] == [ERROR, ERROR]
            assert spans["orders"].attributes["error.type"] == "denied"
            assert spans["web"].attributes["error.type"] == "no_route"
            assert spans["web"].name == "GET"
            assert "flui.upstream" not in spans["web"].attributes

        run(tmp_path, story, tracing(collector))


# --- collectors that fail ---------------------------------------------------------------------------------------------------


def test_a_collector_that_is_down_costs_spans_and_no_request(tmp_path):
    with Collector() as collector:
        more = tracing(collector)
        collector.kill()

        async def story(hops):
            for _ in range(20):
                assert (await hops.ask()).status == 200
            await until(lambda: hops.spans()["failed"] == 80, "given up after three tries", 15.0)
            assert hops.spans() == {"sent": 0, "failed": 80, "dropped": 0, "over_rate": 0}

        run(tmp_path, story, more)


def test_a_collector_that_answers_500_costs_spans_and_no_request(tmp_path):
    with Collector() as collector:

        async def story(hops):
            collector.answers.extend([Answer(500)] * 100)
            for _ in range(20):
                assert (await hops.ask()).status == 200
            await until(lambda: hops.spans()["failed"] == 80, "500 is not asked again", 10.0)
            collector.answers.clear()
            assert (await hops.ask()).status == 200
            await arrived(collector, 4)
            await until(lambda: hops.spans()["sent"] == 4, "it is well again")

        run(tmp_path, story, tracing(collector))


@pytest.mark.slow
def test_a_collector_that_hangs_has_so_many_spans_waiting_and_no_more(tmp_path):
    """Past a queue and a batch spans are dropped and counted: memory has a bound."""
    many = QUEUE + 2 * BATCH + 400
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        web = await mesh.sidecar("web", services=f"  stock: {{endpoints: ['{backend.address}'], plaintext: true}}", more=tracing(collector))

        async def keep_asking(share):
            caller = await mesh.caller(web, None)
            for _ in range(share):
                assert (await caller.ask(get(host="stock"))).status == 200
            caller.close()

        with collector.hanging():
            began = time.monotonic()
            await asyncio.gather(*(keep_asking(many // 8) for _ in range(8)))
            assert len(backend.requests) == many // 8 * 8
            told = web.running.meters.samples(of.SPANS)
            assert told["dropped",] > 0
            waiting = len(backend.requests) - sum(told.values())
            assert waiting <= QUEUE + BATCH
            assert len(collector.posts) <= 1 + (time.monotonic() - began) / 2.0, "one at a time, each given up after two seconds"
            began = time.monotonic()
            await web.stop()
            assert time.monotonic() - began < 5.0, "two seconds for what waits, and no more"
        # the last POST is given up at the same moment as the wait for it
        await until(lambda: sum(web.running.meters.samples(of.SPANS).values()) == len(backend.requests), "every span is accounted for")

    with Collector() as collector:
        mesh.run(story(), 50.0)


def test_a_drain_sends_what_waits(tmp_path):
    with Collector() as collector:

        async def story(hops):
            assert (await hops.ask()).status == 200
            for side in hops.sides:
                await side.stop()
            assert len(chain(collector.spans, hops.seen()[0][3:35])) == 4
            await until(lambda: hops.spans()["sent"] == 4, "what the collector has, its sender knows of")

        run(tmp_path, story, tracing(collector))


def test_a_drain_ends_in_time_whatever_the_collector_does(tmp_path):
    with Collector() as collector:

        async def story(hops):
            with collector.hanging():
                assert (await hops.ask()).status == 200
                began = time.monotonic()
                await asyncio.gather(*(side.stop() for side in hops.sides))
                assert time.monotonic() - began < 5.0

        run(tmp_path, story, tracing(collector))


# --- reloads ----------------------------------------------------------------------------------------------------------------


def test_a_reload_turns_tracing_on_and_off(tmp_path):
    with Collector() as collector:

        async def story(hops):
            async def now(text):
                for side in hops.sides:
                    kept = [line for line in side.file.read_text().splitlines() if not line.startswith("tracing:")]
                    side.file.write_text("\n".join([*kept, text]) + "\n")
                    await side.running.reload()

            assert (await hops.ask()).status == 200
            assert hops.spans() == {"over_rate": 0}
            await now(tracing(collector))
            assert (await hops.ask()).status == 200
            on = hops.seen()[0][3:35]
            assert len(chain(await arrived(collector, 4), on)) == 4
            await now("tracing: off")
            assert (await hops.ask()).status == 200
            assert all(traceparent.endswith("00") for traceparent in hops.seen())
            await now(tracing(collector, share="0%"))
            assert (await hops.ask(traceparent=SAMPLED)).status == 200
            spans = await arrived(collector, 8)
            assert {span.trace_id for span in spans} == {on, SAMPLED[3:35]}

        run(tmp_path, story)


def test_what_waits_when_tracing_is_turned_off_is_still_sent(tmp_path):
    with Collector() as collector:

        async def story(hops):
            assert (await hops.ask()).status == 200
            for side in hops.sides:
                side.file.write_text(
                    "\n".join(line for line in side.file.read_text().splitlines() if not line.startswith("tracing:")) + "\n"
                )
                await side.running.reload()
            assert len(await arrived(collector, 4)) == 4

        run(tmp_path, story, tracing(collector))


# --- without OpenTelemetry --------------------------------------------------------------------------------------------------

HOOK = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            print("opentelemetry was looked for", file=sys.stderr)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
"""


@pytest.fixture
def bare(tmp_path):
    """The environment of a Python in which OpenTelemetry is not installed."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    paths = [str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.slow
def test_tracing_without_its_packages_is_refused_with_what_to_install(tmp_path, bare):
    mesh = Mesh(tmp_path / "mesh")
    file = mesh.prepare(
        "web",
        services="  stock: {endpoints: ['127.0.0.1:9'], plaintext: true}",
        more="tracing: {endpoint: 'http://127.0.0.1:9/v1/traces'}\n",
    )
    done = subprocess.run(
        [sys.executable, "-m", "flui", "run", "-c", str(file)], env=bare, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "install flui-mesh[otel]" in done.stderr
    assert "opentelemetry" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_without_tracing_its_packages_are_never_looked_for(tmp_path, bare):
    """Who does not ask for spans needs none of them, and does not pay for importing them."""
    mesh = Mesh(tmp_path / "mesh")

    async def story():
        stock = await mesh.backend()
        file = mesh.prepare("web", services=f"  stock: {{endpoints: ['{stock.address}'], plaintext: true}}")
        with process("-m", "flui", "run", "-c", file, env=bare) as started:
            outbound = address_of((await asyncio.to_thread(ready, started))["outbound"])
            caller = await Caller.to(outbound)
            answer = await caller.ask(get("/items/7", "stock", traceparent=SAMPLED))
            caller.close()
            assert (answer.status, stock.requests[0].get(b"traceparent")) == (200, SAMPLED.encode())
            started.terminate()
            _, said = await asyncio.to_thread(started.communicate, timeout=10)
        assert started.returncode == 0
        assert b"opentelemetry" not in said

    mesh.run(story())


def test_an_endpoint_on_another_machine_is_refused(tmp_path):
    """Spans are sent in plain text."""
    mesh = Mesh(tmp_path)
    file = mesh.prepare(
        "web",
        services="  stock: {endpoints: ['127.0.0.1:9'], plaintext: true}",
        more="tracing: {endpoint: 'http://192.0.2.1:4318/v1/traces'}\n",
    )
    with pytest.raises(configfile.ConfigError, match="another machine"):
        configfile.read(str(file), on_disk=True)

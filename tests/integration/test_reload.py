"""A reload builds a whole new snapshot and swaps one reference: under load nobody notices, and what is wrong never comes into force."""

import asyncio
import os
import time

import pytest

from flui.runtime import configfile
from support.mesh import Mesh, answers, until
from support.pki import replace

GET = b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n"
WEB = "p, spiffe://shop/web, orders, GET, /items\n"


def rewrite(path, text):
    replace(path, text.encode())


async def under_load(mesh, side, name, octets, work):
    """Runs `work` while callers call; says how many requests were answered. Each must be answered 200."""
    done = asyncio.Event()
    count = 0

    async def load():
        nonlocal count
        caller = await mesh.caller(side, name)
        while not done.is_set():
            assert (await caller.ask(octets)).status == 200
            count += 1
        caller.close()

    loads = [asyncio.ensure_future(load()) for _ in range(6)]
    await work()
    done.set()
    await asyncio.gather(*loads)
    return count


@pytest.mark.slow
def test_100_reloads_of_configuration_and_policy_under_load_fail_no_request(tmp_path, record_property):
    """Policy, endpoints, timeouts, routes and whole clusters change; the requests in flight end as they began."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        others = [await mesh.backend() for _ in range(2)]
        orders = await mesh.sidecar("orders", app=backend, rules=WEB)
        endpoints = [str(other.address) for other in others]
        web = await mesh.sidecar("web", services=f"  stock: {{endpoints: {endpoints}, plaintext: true}}")
        plain = web.file.read_text()

        async def reload():
            for turn in range(50):
                rewrite(orders.folder / "policy" / "rules.csv", WEB + f"p, spiffe://shop/s{turn}, orders, GET, /s{turn}\n")
                await orders.running.reload()
                kept = endpoints if turn % 3 else endpoints[:1]
                more = f"  extra{turn % 4}: {{endpoints: ['127.0.0.1:9'], plaintext: true}}\ntimeouts: {{connect: {100 + turn}ms}}"
                rewrite(web.file, plain.replace(str(endpoints), str(kept)) + more + "\n")
                await web.running.reload()

        count = await asyncio.gather(
            under_load(mesh, orders, "web", GET, reload),
            under_load(
                mesh, web, None, GET.replace(b"orders", b"stock"), lambda: until(lambda: web.running.relay.snapshot.version > 50, "50", 100)
            ),
        )
        assert orders.running.relay.snapshot.version >= 51
        assert web.running.relay.snapshot.version >= 51
        assert not orders.said("reload refused") + web.said("reload refused")
        assert orders.faults() == web.faults() == {}
        assert web.running.relay.pools.by_name["stock"]._timeouts.connect_s == pytest.approx(0.149), "pools take up the new numbers"
        record_property("requests", sum(count))
        print(f"100 reloads under {sum(count)} requests: 0 failed")

    mesh.run(story(), 50)


def test_a_new_rule_is_enforced_within_a_second(tmp_path, record_property):
    """From the file's replacement, without any signal; allowed and denied alike, also for flows that were decided before."""
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend(), rules=WEB)
        caller = await mesh.caller(orders)
        late = 0.0
        for rules, wanted in ((WEB + WEB.replace("/items", "/items, deny"), 403), (WEB, 200), ("", 403)):
            rewrite(orders.folder / "policy" / "rules.csv", rules)
            began = time.monotonic()
            while (await caller.ask(GET)).status != wanted:
                assert time.monotonic() - began < 1.0
                await asyncio.sleep(0.01)
            late = max(late, time.monotonic() - began)
        record_property("enforced_after_s", round(late, 2))
        print(f"a new rule is enforced after at most {late:.2f} s")
        caller.close()

    mesh.run(story())


def test_a_bad_policy_file_never_becomes_active(tmp_path):
    """The journal names file and line once; the old policy decides; a good file ends it."""
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend(), rules=WEB)
        rules = orders.folder / "policy" / "rules.csv"
        caller = await mesh.caller(orders)
        version = orders.running.policy.version
        for bad in ("p, spiffe://shop/web, orders\n", "q, x\n", "p, spiffe://shop/web, orders, GET, /a/*/b\n", '"\n'):
            before = len(orders.said("reload refused"))
            rewrite(rules, WEB + bad)
            await until(lambda: len(orders.said("reload refused")) > before, bad)  # noqa: B023  awaited here
            line = orders.said("reload refused")[-1]
            assert line["what"] == "policy"
            assert (line["file"].rsplit("/", 1)[-1], line["line"]) == ("rules.csv", 2)
            assert orders.running.policy.version == version
            assert (await caller.ask(GET)).status == 200
        told = len(orders.said("reload refused"))
        await orders.running.reload()
        assert len(orders.said("reload refused")) == told, "the same problems are told once"
        (orders.folder / "policy" / "model.conf").unlink()
        await until(lambda: len(orders.said("reload refused")) > told, "a missing model")
        assert (await caller.ask(GET)).status == 200
        caller.close()

    mesh.run(story())


def test_a_bad_configuration_never_becomes_active(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend(), rules=WEB)
        good = orders.file.read_text()
        for bad, line in (("nonsense: 1\n", 9), ("limits: {body: lots}\n", 9), (good.splitlines()[0] + "\n", 9)):
            before = len(orders.said("reload refused"))
            rewrite(orders.file, good + bad)
            await until(lambda: len(orders.said("reload refused")) > before, bad)  # noqa: B023  awaited here
            assert orders.said("reload refused")[-1]["line"] == line
            assert (await mesh.call(orders, GET)).status == 200
        before = len(orders.said("reload refused"))
        rewrite(orders.file, good.replace("outbound: {address: 127.0.0.1:0}", "outbound: {address: 127.0.0.2:0}"))
        await until(lambda: len(orders.said("reload refused")) > before, "listeners cannot change")
        assert "restart" in orders.said("reload refused")[-1]["problem"]
        assert (await mesh.call(orders, GET)).status == 200

    mesh.run(story())


def test_a_removed_endpoint_stops_being_used(tmp_path):
    """The exchange under way there completes; its connection is not used again."""
    mesh = Mesh(tmp_path)

    async def held(backend, request, reader, writer):
        if request is not None and request.target == b"/hold":
            await backend.go.wait()
        return await answers(backend, request, reader, writer)

    async def story():
        one, two = await mesh.backend(held), await mesh.backend(held)
        endpoints = f"['{one.address}', '{two.address}']"
        web = await mesh.sidecar("web", services=f"  orders: {{endpoints: {endpoints}, plaintext: true, balance: round_robin}}")
        callers = [await mesh.caller(web, None) for _ in range(2)]
        for caller in callers:
            await caller.send(GET.replace(b"/items", b"/hold"))
        await until(lambda: one.requests and two.requests, "both are used")
        rewrite(web.file, web.file.read_text().replace(endpoints, f"['{two.address}']"))
        await until(lambda: web.said("reloaded"), "it is taken up")
        one.go.set()
        two.go.set()
        assert [(await caller.answer()).status for caller in callers] == [200, 200]
        await until(lambda: not one.open, "the connection to it is closed")
        for _ in range(10):
            assert (await callers[0].ask(GET)).status == 200
        assert len(one.requests) == 1
        for caller in callers:
            caller.close()

    mesh.run(story())


def test_a_removed_service_ends_with_its_last_exchange(tmp_path):
    mesh = Mesh(tmp_path)

    async def held(backend, request, reader, writer):
        if request is not None:
            await backend.go.wait()
        return await answers(backend, request, reader, writer)

    async def story():
        backend = await mesh.backend(held)
        services = (
            f"  orders: {{endpoints: ['{backend.address}'], plaintext: true}}\n  other: {{endpoints: ['127.0.0.1:9'], plaintext: true}}"
        )
        web = await mesh.sidecar("web", services=services)
        caller = await mesh.caller(web, None)
        await caller.send(GET)
        await until(lambda: backend.requests, "it is under way")
        rewrite(web.file, "\n".join(line for line in web.file.read_text().splitlines() if "  orders:" not in line) + "\n")
        await until(lambda: web.said("reloaded"), "it is taken up")
        backend.go.set()
        assert (await caller.answer()).status == 200
        assert (await caller.ask(GET)).status == 404
        await until(lambda: not backend.open, "its connections are closed")
        caller.close()

    mesh.run(story())


def test_a_replaced_folder_is_still_watched(tmp_path):
    """Whoever deploys by moving folders tells inotify nothing."""
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend(), rules=WEB)
        folder = orders.folder / "policy"
        model = (folder / "model.conf").read_text()
        for rules, wanted in (("", 403), (WEB, 200)):
            folder.rename(orders.folder / f"old-{wanted}")
            folder.mkdir()
            (folder / "model.conf").write_text(model)
            (folder / "rules.csv").write_text(rules)
            began = time.monotonic()
            while (await mesh.call(orders, GET)).status != wanted:
                assert time.monotonic() - began < 5.0
                await asyncio.sleep(0.05)

    mesh.run(story())


def test_a_log_in_the_folder_of_the_configuration_reloads_nothing(tmp_path):
    mesh = Mesh(tmp_path)
    loads = 0

    async def story():
        nonlocal loads
        file = mesh.prepare("orders", app=await mesh.backend(), rules=WEB)
        orders = await mesh.start(file)
        read = orders.running._load

        def counted():
            nonlocal loads
            loads += 1
            return read()

        orders.running._load = counted
        for _ in range(5):
            assert (await mesh.call(orders, GET)).status == 200
            lines = len(orders.log())
        assert lines == 5, "they stand beside the configuration"
        os.utime(file)
        await until(lambda: loads, "touching the configuration does reload")
        assert loads == 1

    mesh.run(story())


def test_two_reloads_at_once_leave_the_newest_files_in_force(tmp_path):
    """A slow reading of old files must not replace what a later reading has found."""
    mesh = Mesh(tmp_path)

    async def story():
        import threading

        orders = await mesh.sidecar("orders", app=await mesh.backend(), rules=WEB)
        orders.running.relay.tasks  # noqa: B018  it runs
        slow, entered = threading.Event(), threading.Event()
        calls = 0

        def load():
            nonlocal calls
            calls += 1
            config = configfile.read(str(orders.file), on_disk=True)
            if calls == 1:
                entered.set()
                slow.wait(5)
            return config

        orders.running._load = load
        first = asyncio.ensure_future(orders.running.reload())
        await asyncio.to_thread(entered.wait, 5)
        good = orders.file.read_text()
        rewrite(orders.file, good + "timeouts: {connect: 7s}\n")
        second = asyncio.ensure_future(orders.running.reload())
        for _ in range(20):
            await asyncio.sleep(0)
        slow.set()
        await asyncio.gather(first, second)
        assert orders.running.config.timeouts.connect_s == 7

    mesh.run(story())

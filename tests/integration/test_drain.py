"""A sidecar that ends lets nobody down: what was let in is finished, and nobody is reset."""

import asyncio
import json
import signal
import time

import pytest

from support.mesh import Caller, Mesh, address_of, answers, process, ready, until

GET = b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n"


async def held(backend, request, reader, writer):
    """Answers when told to."""
    if request is not None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ")
        await backend.go.wait()
        writer.write(b"done\n")
    return True


@pytest.mark.parametrize("name", ["web", None])
def test_the_exchange_in_progress_completes_and_idle_connections_close(tmp_path, name):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(held)
        services = f"  stock: {{endpoints: ['{backend.address}'], plaintext: true}}"
        orders = await mesh.sidecar("orders", app=backend, services=services, more="timeouts: {drain: 900ms}")
        busy, idle = await mesh.caller(orders, name), await mesh.caller(orders, name)
        await busy.send(GET if name else GET.replace(b"orders", b"stock"))
        await until(lambda: backend.requests, "the request arrives")
        began = time.monotonic()
        ending = asyncio.ensure_future(orders.stop())
        assert await idle.closed(1.0) == b""
        assert time.monotonic() - began >= 0.29, "a request on its way to an idle connection has a moment to arrive"
        with pytest.raises(ConnectionError):
            await mesh.caller(orders, name)
        assert not ending.done()
        backend.go.set()
        answer = await busy.answer()
        assert (answer.body, answer.complete) == (b"half done\n", True)
        await ending
        (record,) = orders.log()
        assert (record["status"], record["fault"], record["response_octets"]) == (200, "", 10)
        assert orders.said("stopped")[0]["exchanges_cut"] == 0
        busy.close()
        idle.close()

    mesh.run(story())


def test_a_request_on_an_idle_connection_is_the_last_there(tmp_path):
    """HTTP/1.1 has no GOAWAY: the response says `connection: close`."""
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend(), more="timeouts: {drain: 900ms}")
        caller = await mesh.caller(orders)
        assert (await caller.ask(GET)).get(b"connection") is None
        await until(lambda: time.monotonic() - began > 0.4, "idle for longer than a drain lingers")
        ending = asyncio.ensure_future(orders.stop())
        await until(lambda: orders.running.relay.draining, "it drains")
        answer = await caller.ask(GET)
        assert (answer.status, answer.get(b"connection")) == (200, b"close")
        assert await caller.closed() == b""
        await ending
        caller.close()

    began = time.monotonic()
    mesh.run(story())


def test_a_request_that_follows_a_response_already_begun_is_still_served(tmp_path):
    """The head of that response could not say `connection: close` any more, so its reader cannot know."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(held)
        orders = await mesh.sidecar("orders", app=backend, more="timeouts: {drain: 3s}")
        caller = await mesh.caller(orders)
        await caller.send(GET)
        first = await caller.reader.readuntil(b"half ")
        assert b"connection: close" not in first
        ending = asyncio.ensure_future(orders.stop())
        await until(lambda: orders.running.relay.draining, "it drains")
        backend.go.set()
        assert await caller.reader.readexactly(5) == b"done\n"
        answer = await caller.ask(GET)
        assert (answer.status, answer.get(b"connection")) == (200, b"close")
        await ending
        assert orders.said("stopped")[0]["seconds"] < 2.5
        caller.close()

    mesh.run(story())


def test_a_connection_that_asks_no_more_after_such_a_response_does_not_hold_the_drain_up(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(held)
        orders = await mesh.sidecar("orders", app=backend, more="timeouts: {drain: 900ms}")
        caller = await mesh.caller(orders)
        await caller.send(GET)
        await caller.reader.readuntil(b"half ")
        ending = asyncio.ensure_future(orders.stop())
        await until(lambda: orders.running.relay.draining, "it drains")
        backend.go.set()
        assert await caller.closed() == b"done\n"
        await ending
        assert orders.said("stopped")[0]["seconds"] < 0.85, "it goes after it has lingered, not at the end of the drain"
        caller.close()

    mesh.run(story())


def test_who_is_in_the_queue_when_the_drain_begins_is_still_served(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend(), more="timeouts: {drain: 3s}")
        outbound = await mesh.sidecar("web", services=f"  orders: {{endpoints: ['{orders.inbound}']}}", more="timeouts: {drain: 3s}")
        import socket

        waiting = [socket.create_connection((outbound.outbound.host, outbound.outbound.port)) for _ in range(20)]
        for sock in waiting:
            sock.send(GET)
            sock.setblocking(False)
        # nothing of this has been accepted: the loop has not turned since
        ending = asyncio.ensure_future(outbound.stop())
        loop = asyncio.get_running_loop()
        for sock in waiting:
            assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 200")
            sock.close()
        await ending

    mesh.run(story())


def test_an_exchange_that_does_not_end_is_cut_when_the_time_is_up_and_recorded(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend(held), more="timeouts: {drain: 300ms}")
        caller = await mesh.caller(orders)
        await caller.send(GET)
        await until(lambda: orders.running.gates[0].connections and next(iter(orders.running.gates[0].connections)).busy, "busy")
        began = time.monotonic()
        await orders.stop()
        assert 0.3 <= time.monotonic() - began < 1.5
        assert orders.said("stopped")[0]["exchanges_cut"] == 1
        (record,) = orders.log()
        assert record["fault"]
        caller.close()

    mesh.run(story())


@pytest.mark.slow
def test_10_drains_under_load_fail_no_request(tmp_path, record_property):
    """Two replicas behind a second sidecar; each is ended and started again in turn while callers go on."""
    mesh = Mesh(tmp_path)

    async def story():
        backends = [await mesh.backend() for _ in range(2)]
        files = []
        replicas = []
        for number, backend in enumerate(backends):
            file = mesh.prepare("orders", app=backend, more="timeouts: {drain: 900ms}")
            folder = file.parent.rename(tmp_path / f"orders-{number}")
            replicas.append(await mesh.start(folder / "sidecar.yaml"))
            files.append(folder / "sidecar.yaml")
            address = replicas[-1].inbound
            files[-1].write_text(files[-1].read_text().replace("inbound: 127.0.0.1:0", f"inbound: {address}"))
        endpoints = [str(replica.inbound) for replica in replicas]
        # kept in: who is away for a moment would else be left out for seconds, ten times
        web = await mesh.sidecar("web", services=f"  orders: {{endpoints: {endpoints}, outlier: off}}")
        done = asyncio.Event()
        statuses: dict[int, int] = {}
        served: set[int] = set()

        async def load(pause):
            caller = await mesh.caller(web, None)
            while not done.is_set():
                answer = await caller.ask(GET)
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
                # callers of every rhythm: pauses let connections idle while a drain begins
                await asyncio.sleep(pause)
            caller.close()

        loads = [asyncio.ensure_future(load(pause)) for pause in (0, 0, 0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4)]
        for drain in range(10):
            at = drain % 2
            before = len(backends[at].requests)
            await until(lambda: len(backends[at].requests) > before + 100, "the replica is used", 30)  # noqa: B023  awaited here
            served.add(at)
            await replicas[at].stop()
            replicas[at] = await mesh.start(files[at])
        done.set()
        await asyncio.gather(*loads)
        print(f"10 drains under load: {statuses}, {web.faults()}")
        record_property("requests", sum(statuses.values()))
        assert served == {0, 1}
        assert statuses.keys() == {200}
        assert sum(len(backend.requests) for backend in backends) == sum(statuses.values()), "none was sent twice"

    mesh.run(story(), 50)


@pytest.mark.slow
def test_sigterm_under_load_ends_a_real_process_with_0_and_a_whole_access_log(tmp_path):
    mesh = Mesh(tmp_path)
    file = mesh.prepare("web", services="  orders: {endpoints: ['127.0.0.1:9'], plaintext: true}", more="timeouts: {drain: 3s}")

    async def story():
        backend = await mesh.backend(answers)
        file.write_text(file.read_text().replace("127.0.0.1:9", str(backend.address)))
        with process("-m", "flui", "run", "-c", file) as sidecar:
            at = address_of((await asyncio.to_thread(ready, sidecar))["outbound"])
            finished = 0

            async def load():
                nonlocal finished
                caller = await Caller.to(at)
                while True:
                    answer = await caller.ask(GET)
                    assert answer.status == 200
                    finished += 1
                    if answer.get(b"connection") == b"close":
                        assert await caller.closed() == b""
                        caller.close()
                        return

            loads = [asyncio.ensure_future(load()) for _ in range(8)]
            await until(lambda: finished > 200, "it is under load")
            began = time.monotonic()
            sidecar.send_signal(signal.SIGTERM)
            await asyncio.gather(*loads)
            assert await asyncio.to_thread(sidecar.wait, 5) == 0
            assert time.monotonic() - began < 3
        records = [json.loads(line) for line in (file.parent / "access.log").read_text().splitlines()]
        assert len(records) == finished == len(backend.requests)
        assert {record["status"] for record in records} == {200}

    mesh.run(story())


@pytest.mark.slow
def test_a_sidecar_that_is_taken_over_fails_no_request_and_resets_nobody(tmp_path):
    """`flui run --take-over`: callers that come anew each time, and callers that stay until they are told to come again."""
    mesh = Mesh(tmp_path)
    file = mesh.prepare("web", services="  orders: {endpoints: ['127.0.0.1:9'], plaintext: true}")

    async def story():
        backend = await mesh.backend(answers)
        file.write_text(file.read_text().replace("127.0.0.1:9", str(backend.address)))
        with process("-m", "flui", "run", "-c", file) as first:
            at = address_of((await asyncio.to_thread(ready, first))["outbound"])
            finished = 0
            over = False

            async def load(stays):
                nonlocal finished
                caller = await Caller.to(at)
                while not over:
                    answer = await caller.ask(GET)
                    assert answer.status == 200
                    finished += 1
                    if not stays or answer.get(b"connection") == b"close":
                        caller.close()
                        caller = await Caller.to(at)
                caller.close()

            loads = [asyncio.ensure_future(load(number % 2)) for number in range(8)]
            await until(lambda: finished > 200, "it is under load")
            with process("-m", "flui", "run", "-c", file, "--outbound", str(at), "--take-over") as second:
                await asyncio.to_thread(ready, second)
                first.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(first.wait, 10) == 0
                before = finished
                await until(lambda: finished > before + 200, "the load goes on")
                over = True
                await asyncio.gather(*loads)

    mesh.run(story())


@pytest.mark.slow
def test_an_address_in_use_says_how_it_is_taken_over(tmp_path):
    mesh = Mesh(tmp_path)
    file = mesh.prepare("web")
    with process("-m", "flui", "run", "-c", file) as first:
        at = address_of(ready(first)["outbound"])
        with process("-m", "flui", "run", "-c", file, "--outbound", str(at)) as second:
            _, said = second.communicate(timeout=20)
            assert second.returncode == 1
            assert b"--take-over" in said

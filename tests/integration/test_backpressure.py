"""Nobody is read who cannot be passed on: every buffer between two peers has a number."""

import asyncio
import sys

import pytest

from support.mesh import OK, Mesh, address_of, answers, process, ready, until
from support.pki import Authority, write

KIB = 1024
MIB = 1024 * KIB
GET = b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n"
POST = b"POST /items HTTP/1.1\r\nhost: orders\r\n"
KERNEL = 24 * MIB
"""What four socket buffers on loopback may take besides us."""


async def fill(writer, total, piece=b"x" * 65536):
    """Writes until nobody takes more for half a second; says how much went out."""
    writer.transport.set_write_buffer_limits(16 * KIB)
    sent = 0
    while sent < total:
        writer.write(piece)
        try:
            async with asyncio.timeout(0.5):
                await writer.drain()
        except TimeoutError:
            return sent
        sent += len(piece)
    return sent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["web", None])
def test_a_server_that_never_reads_stops_its_client(tmp_path, name):
    mesh = Mesh(tmp_path)

    async def deaf(backend, request, reader, writer):
        if request is not None:
            reader._transport.pause_reading()
            await backend.go.wait()
        return request is None

    async def story():
        backend = await mesh.backend(deaf)
        orders = await mesh.sidecar("orders", app=backend, services=f"  stock: {{endpoints: ['{backend.address}'], plaintext: true}}")
        caller = await mesh.caller(orders, name)
        host = b"orders" if name else b"stock"
        await caller.send(b"POST /items HTTP/1.1\r\nhost: " + host + b"\r\ncontent-length: 900000000\r\n\r\n")
        sent = await fill(caller.writer, 100 * MIB)
        assert sent < KERNEL, f"{sent / MIB:.1f} MiB accepted"
        (gate,) = [gate for gate in orders.running.gates if gate.connections]
        (connection,) = gate.connections
        await until(lambda: not connection.codec.reading, "the caller is not read any more")
        caller.abort()
        backend.go.set()

    mesh.run(story())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["web", None])
def test_a_client_that_never_reads_stops_its_server(tmp_path, name):
    mesh = Mesh(tmp_path)
    sent = []

    async def pours(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 900000000\r\n\r\n")
            sent.append(await fill(writer, 100 * MIB))
            backend.go.set()
        return request is None

    async def story():
        backend = await mesh.backend(pours)
        orders = await mesh.sidecar("orders", app=backend, services=f"  stock: {{endpoints: ['{backend.address}'], plaintext: true}}")
        caller = await mesh.caller(orders, name)
        caller.writer.transport.pause_reading()
        await caller.send(b"GET /items HTTP/1.1\r\nhost: " + (b"orders" if name else b"stock") + b"\r\n\r\n")
        await backend.go.wait()
        assert sent[0] < KERNEL, f"{sent[0] / MIB:.1f} MiB poured"
        (gate,) = [gate for gate in orders.running.gates if gate.connections]
        (connection,) = gate.connections
        assert connection.transport.get_write_buffer_size() <= 256 * KIB, "threats C7: at most 256 KiB per stream"
        caller.abort()

    mesh.run(story())


def test_a_peer_that_reads_again_gets_every_octet(tmp_path):
    """A stall is no loss: a body that was stopped in the middle arrives whole, both ways."""
    mesh = Mesh(tmp_path)
    body = bytes(range(256)) * 4 * KIB * 6

    async def echo(backend, request, reader, writer):
        if request is not None:
            await backend.go.wait()
            request.body = await reader.readexactly(len(body))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + request.body)
        return True

    async def story():
        backend = await mesh.backend(echo)
        orders = await mesh.sidecar("orders", app=backend)
        web = await mesh.sidecar("web", services=f"  orders: {{endpoints: ['{orders.inbound}']}}")
        caller = await mesh.caller(web, None)
        sending = asyncio.ensure_future(caller.send(POST + b"content-length: %d\r\n\r\n" % len(body) + body))
        await until(lambda: backend.requests, "the head arrives")
        assert not sending.done()
        backend.go.set()
        answer = await caller.answer()
        await sending
        assert answer.complete
        assert answer.body == body
        (record,) = web.log()
        assert (record["request_octets"], record["response_octets"]) == (len(body), len(body))
        caller.close()

    mesh.run(story())


# --- conversations that are not simply one after the other -----------------------------------------------------------------


async def pair(mesh, does):
    backend = await mesh.backend(does)
    orders = await mesh.sidecar("orders", app=backend)
    web = await mesh.sidecar("web", services=f"  orders: {{endpoints: ['{orders.inbound}']}}")
    return backend, orders, web


def test_an_early_response_reaches_the_caller_and_ends_both_connections(tmp_path):
    """Threats A9: what is left of the request is not waited for, and the connection that is out of step is not used again."""
    mesh = Mesh(tmp_path)

    async def early(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno\n")
        return True

    async def story():
        backend, orders, web = await pair(mesh, early)
        caller = await mesh.caller(web, None)
        await caller.send(POST + b"content-length: 5000000\r\n\r\n" + b"x" * 1000)
        answer = await caller.answer()
        assert (answer.status, answer.body) == (403, b"no\n")
        assert answer.get(b"connection") == b"close", "or the caller would send its next request to nobody"
        assert await caller.closed() == b""
        caller.close()
        await until(lambda: not backend.open, "the connection to the module is dropped")
        await until(
            lambda: not any(c.busy for gate in orders.running.gates for c in gate.connections), "the stream between the two is over"
        )
        assert (await mesh.call(web, GET, None)).status == 403

    mesh.run(story())


@pytest.mark.parametrize("framing", [b"content-length: 5", b"transfer-encoding: chunked"])
def test_100_continue_travels_through_a_pair_before_the_body(tmp_path, framing):
    mesh = Mesh(tmp_path)

    async def continues(backend, request, reader, writer):
        if request is not None:
            assert request.get(b"expect") == b"100-continue"
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await answers(backend, request, reader, writer)

    async def story():
        backend, _, web = await pair(mesh, continues)
        caller = await mesh.caller(web, None)
        await caller.send(POST + framing + b"\r\nexpect: 100-continue\r\n\r\n")
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(b"5\r\nhello\r\n0\r\n\r\n" if b"chunked" in framing else b"hello")
        assert (await caller.answer()).status == 200
        assert backend.requests[0].body == b"hello"
        assert (await caller.ask(GET.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))).status == 200
        caller.close()

    mesh.run(story())


def test_a_refused_expectation_is_answered_without_the_body(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app="http://127.0.0.1:9", rules="p, spiffe://shop/b, orders, GET, /x\n")
        caller = await mesh.caller(orders)
        answer = await caller.ask(POST + b"content-length: 5\r\nexpect: 100-continue\r\n\r\n")
        assert answer.status == 403
        assert await caller.closed() == b""
        caller.close()

    mesh.run(story())


def test_a_caller_that_half_closes_still_gets_its_answer(tmp_path):
    mesh = Mesh(tmp_path)

    async def waits(backend, request, reader, writer):
        if request is not None:
            await backend.go.wait()
        return await answers(backend, request, reader, writer)

    async def story():
        backend, _, web = await pair(mesh, waits)
        caller = await mesh.caller(web, None)
        await caller.send(POST + b"content-length: 5\r\n\r\nhello")
        caller.writer.write_eof()
        await until(lambda: backend.requests, "the request arrives")
        backend.go.set()
        assert (await caller.answer()).status == 200
        assert await caller.closed() == b""
        caller.close()

    mesh.run(story())


def test_a_half_closed_upload_that_is_not_complete_is_given_up(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend, _, web = await pair(mesh, answers)
        caller = await mesh.caller(web, None)
        await caller.send(POST + b"content-length: 5\r\n\r\nhe")
        await until(lambda: backend.requests, "the head arrives")
        caller.writer.write_eof()
        await caller.closed()
        await until(web.log, "a record")
        assert web.log()[0]["fault"] == "caller_gone"
        await until(lambda: not backend.open, "the upload upstream is cut, not completed")
        assert backend.requests[0].body == b""
        caller.close()

    mesh.run(story())


def test_trailers_and_chunks_travel_through_a_pair(tmp_path):
    mesh = Mesh(tmp_path)

    async def trailed(backend, request, reader, writer):
        if request is not None:
            await answers_nothing(request, reader)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-sum: 7\r\n\r\n")
        return True

    async def answers_nothing(request, reader):
        while size := int(await reader.readuntil(b"\r\n"), 16):
            request.body += await reader.readexactly(size)
            await reader.readexactly(2)
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            request.fields.append((b"trailer", line))

    async def story():
        backend, _, web = await pair(mesh, trailed)
        caller = await mesh.caller(web, None)
        answer = await caller.ask(POST + b"transfer-encoding: chunked\r\n\r\n4\r\nwork\r\n0\r\nx-count: 1\r\nauthorization: no\r\n\r\n")
        assert (answer.body, answer.trailers) == (b"abcde", b"x-sum: 7\r\n")
        (request,) = backend.requests
        assert request.body == b"work"
        assert [v for n, v in request.fields if n == b"trailer"] == [b"x-count: 1\r\n"]
        caller.close()

    mesh.run(story())


def test_head_and_bodiless_answers_leave_the_connection_in_step(tmp_path):
    mesh = Mesh(tmp_path)
    statuses = {b"/204": b"HTTP/1.1 204 No Content\r\n\r\n", b"/304": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n"}

    async def bodiless(backend, request, reader, writer):
        if request is not None:
            writer.write(statuses.get(request.target, OK if request.method == b"GET" else OK[:-3]))
        return True

    async def story():
        backend, _, web = await pair(mesh, bodiless)
        caller = await mesh.caller(web, None)
        for _ in range(3):
            assert (await caller.ask(GET.replace(b"GET", b"HEAD"))).get(b"content-length") == b"3"
            assert (await caller.ask(GET.replace(b"/items", b"/204"))).status == 204
            assert (await caller.ask(GET.replace(b"/items", b"/304"))).status == 304
            assert (await caller.ask(GET)).body == b"ok\n"
        assert backend.connections == 1
        caller.close()

    mesh.run(story())


def test_pipelined_requests_are_answered_in_order(tmp_path):
    mesh = Mesh(tmp_path)

    async def named(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(request.target) + request.target)
        return True

    async def story():
        _, _, web = await pair(mesh, named)
        caller = await mesh.caller(web, None)
        await caller.send(b"".join(GET.replace(b"/items", b"/%d" % n) for n in range(50)))
        assert [(await caller.answer()).body for _ in range(50)] == [b"/%d" % n for n in range(50)]
        caller.close()

    mesh.run(story())


# --- the whole process ------------------------------------------------------------------------------------------------------

READERS = 500

POURS = """
import asyncio, re, ssl, sys, socket
import uvloop

BODY = 100 << 20

async def pour(reader, writer):
    piece = b"x" * 65536
    try:
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % BODY)
        for _ in range(BODY // len(piece)):
            writer.write(piece)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()

def memory(pid, key):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(key + r":\\s+(\\d+) kB", status.read())[1]) * 1024

async def main():
    server = await asyncio.start_server(pour, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    line = await loop.run_in_executor(None, sys.stdin.readline)
    port, pid, count, certificate = line.split()
    context = None
    if certificate != "-":
        context = ssl.create_default_context(cafile=certificate.rpartition("/")[0] + "/ca.pem")
        context.check_hostname = False
        context.load_cert_chain(certificate + ".pem", certificate + ".key")
        context.set_alpn_protocols(["http/1.1"])
    before = memory(pid, "VmRSS")
    got = [0] * int(count)

    async def slow(number):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", int(port)))
        more = {"ssl": context, "server_hostname": "x"} if context else {}
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096, **more)
        writer.write(b"GET /items HTTP/1.1\\r\\nhost: orders\\r\\n\\r\\n")
        while True:
            octets = await reader.read(4096)
            assert octets, "the sidecar gave up"
            got[number] += len(octets)
            await asyncio.sleep(0.1)

    readers = [asyncio.ensure_future(slow(number)) for number in range(int(count))]
    # all are stalled once each has read a little, and what the sidecar holds does not grow any more
    held, still = 0, 0
    while still < 8:
        await asyncio.sleep(0.25)
        for reader in readers:
            if reader.done():
                reader.result()
        now = memory(pid, "VmRSS")
        still = still + 1 if min(got) > 8192 and now - held < 1 << 20 else 0
        held = max(held, now)
    print(before, memory(pid, "VmHWM"), sum(got), flush=True)
    for reader in readers:
        reader.cancel()

uvloop.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "mTLS"])
def test_500_slow_readers_of_100_mb_cost_less_than_192_mib(tmp_path, tls, record_property):
    """Peak RSS of a real sidecar process; the backend and the readers live in another one."""
    import subprocess

    shop = Authority("shop")
    mesh = Mesh(tmp_path)
    mesh.ca = shop
    script = tmp_path / "pours.py"
    script.write_text(POURS)
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as peers:
        try:
            port = int(peers.stdout.readline())
            service = f"  orders: {{endpoints: ['127.0.0.1:{port}'], plaintext: true}}"
            routes = "routes:\n  - {name: slow, to: orders, timeout: 0s}"
            file = mesh.prepare(
                "bench", app=f"{{url: 'http://127.0.0.1:{port}', timeout: 0s}}", services=service, access_log="off", more=routes
            )
            write(tmp_path / "caller", "web", shop.leaf("spiffe://shop/web"), shop)
            with process("-m", "flui", "run", "-c", file) as sidecar:
                at = address_of(ready(sidecar)["inbound" if tls else "outbound"])
                line = f"{at.port} {sidecar.pid} {READERS} {tmp_path / 'caller' / 'web' if tls else '-'}\n"
                told, complaint = peers.communicate(line.encode(), timeout=40)
                assert told, complaint.decode()
                before, peak, got = map(int, told.split())
        finally:
            peers.kill()
    record_property("peak_mib", round(peak / MIB))
    print(f"{READERS} slow readers: {before / MIB:.0f} MiB before, {peak / MIB:.0f} MiB at most, {got / MIB:.0f} MiB read")
    assert peak - before < 192 * MIB

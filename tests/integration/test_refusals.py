"""How bad input ends: each refusal has its status, its record in the access log, its count, and says nothing of the inside."""

import asyncio
import ssl

import pytest

from flui.answer import REFUSAL
from support.mesh import Caller, Mesh, answers, until
from support.pki import Authority, raw_context

GET = b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n"
OUT = b"GET /items HTTP/1.1\r\nhost: stock\r\n\r\n"


def client(leaf, *authorities, newest=ssl.TLSVersion.TLSv1_3, alpn=("http/1.1",)):
    return raw_context(ssl.PROTOCOL_TLS_CLIENT, leaf, authorities, newest=newest, alpn=alpn)


async def recorded(side, status, fault, count=1):
    """The one record of a refusal, whose fault is counted too."""
    await until(lambda: len(side.log()) >= count, "an access-log record")
    log = side.log()
    assert len(log) == count
    assert (log[-1]["status"], log[-1]["fault"]) == (status, fault)
    assert side.faults()[fault] == 1
    assert side.statuses()[str(status)] == 1
    return log[-1]


def says_nothing_of_the_inside(mesh, side, answer):
    told = answer.body + b"\r\n".join(n + b": " + v for n, v in answer.fields if n != REFUSAL)
    inside = [str(mesh.folder), "rules.csv", "spiffe://", "casbin", "Traceback", "flui", "Errno", "127.0.0.1"]
    inside += [str(address.port) for address in side.running.addresses.values()]
    assert not [word for word in inside if word.encode() in told]
    assert answer.get(b"server") is None


# --- before a request: the connection itself ------------------------------------------------------------------------------

REFUSED = {
    "no certificate": ("no_certificate", lambda ca: client(None, ca)),
    "TLS 1.2": ("version", lambda ca: client(ca.leaf("spiffe://shop/web"), ca, newest=ssl.TLSVersion.TLSv1_2)),
    "an unknown CA": ("untrusted", lambda ca: client(Authority("shop").leaf("spiffe://shop/web"), ca)),
    "a wrong trust domain": ("trust_domain", lambda ca: client(ca.leaf("spiffe://bank/web"), ca)),
    "two URI SANs": ("not_one_uri", lambda ca: client(ca.leaf(uris=("spiffe://shop/web", "spiffe://shop/b")), ca)),
    "no URI SAN": ("not_one_uri", lambda ca: client(ca.leaf(uris=(), dns=("web",)), ca)),
    "an expired certificate": ("untrusted", lambda ca: client(ca.leaf("spiffe://shop/web", begins=-90.0, lasts=-30.0), ca)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_caller_that_proves_no_identity_is_refused_and_counted(tmp_path, case):
    """Its request, sent together with the end of its handshake, is neither answered nor forwarded nor recorded."""
    reason, make = REFUSED[case]
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        # our own module may: nobody may be taken for it
        rules = "".join(f"p, {who}, orders, *, /*\n" for who in ("spiffe://shop/web", "spiffe://shop/orders", "spiffe://bank/web"))
        orders = await mesh.sidecar("orders", app=backend, rules=rules)
        try:
            caller = await Caller.to(orders.inbound, make(mesh.ca))
            caller.writer.write(GET)
            assert await caller.closed() == b""
            caller.close()
        except (ssl.SSLError, ConnectionError):
            pass  # TLS 1.3 lets the client know only when it reads
        await until(orders.refused, "the refusal is counted")
        assert orders.refused() == {reason: 1}
        (line,) = orders.said("handshake refused")
        assert line["reason"] == reason
        await until(lambda: not orders.connections, "the connection is gone")
        assert not backend.requests
        assert not orders.log()
        assert not orders.running.meters.requests()

    mesh.run(story())


@pytest.mark.parametrize("alpn", [(), ("ftp",), ("http/1.1",)])
def test_whatever_alpn_a_caller_offers_only_http_1_1_is_spoken(tmp_path, alpn):
    """docs/decisions/0008: another protocol's octets end as 400, so that they cannot be meant for somebody else (ALPACA)."""
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend())
        context = client(mesh.ca.leaf("spiffe://shop/web"), mesh.ca, alpn=alpn)
        caller = await Caller.to(orders.inbound, context)
        assert (await caller.ask(GET)).status == 200
        caller.close()
        caller = await Caller.to(orders.inbound, context)
        assert (await caller.ask(b"USER anonymous\r\nPASS x\r\n")).status == 400
        assert await caller.closed() == b""
        caller.close()

    mesh.run(story())


@pytest.mark.parametrize("octets", [GET, b"\x00" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_plaintext_on_the_tls_port_is_closed_within_a_second_without_a_body(tmp_path, octets):
    """Threats E8."""
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app="http://127.0.0.1:9")
        caller = await Caller.to(orders.inbound)
        await caller.send(octets)
        told = await caller.closed(1.0)
        assert b"HTTP" not in told
        assert len(told) <= 7, "at most a TLS alert"
        caller.close()
        await until(orders.refused, "it is counted")
        assert orders.refused() == {"plaintext": 1}

    mesh.run(story())


def test_refused_handshakes_stand_in_the_metrics_page(tmp_path):
    from flui.telemetry.exposition import page

    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app="http://127.0.0.1:9")
        caller = await Caller.to(orders.inbound)
        await caller.send(GET)
        await caller.closed()
        caller.close()
        await until(orders.refused, "it is counted")
        text = page(orders.running.meters)
        assert 'flui_handshakes_refused_total{listener="inbound",reason="plaintext"} 1' in text

    mesh.run(story())


# --- what is decided --------------------------------------------------------------------------------------------------------


def test_denied_is_403_and_names_the_request_only(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        orders = await mesh.sidecar("orders", app=backend, rules="p, spiffe://shop/web, orders, GET, /items\n")
        caller = await mesh.caller(orders)
        answer = await caller.ask(b"DELETE /items HTTP/1.1\r\nhost: orders\r\n\r\n")
        assert answer.status == 403
        problem = answer.problem()
        assert (problem["title"], problem["status"], problem["instance"]) == ("Forbidden", 403, "/items")
        says_nothing_of_the_inside(mesh, orders, answer)
        record = await recorded(orders, 403, "denied")
        assert record["rule"] == "no rule"
        assert record["principal"] == "spiffe://shop/web"
        assert record["trace"] == problem["trace"]
        assert record["response_octets"] == len(answer.body)
        assert not backend.requests
        assert (await caller.ask(GET)).status == 200, "the connection goes on"
        caller.close()

    mesh.run(story())


def test_no_route_is_404(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders")
        answer = await mesh.call(orders, b"GET /x HTTP/1.1\r\nhost: nowhere\r\n\r\n", None)
        assert answer.status == 404
        assert answer.problem()["code"] == "no_route"
        says_nothing_of_the_inside(mesh, orders, answer)
        await recorded(orders, 404, "no_route")

    mesh.run(story())


def test_a_sidecar_without_policy_denies_as_a_fault_of_its_own(tmp_path):
    """Threats D5: 503, not 403, as nobody was asked."""
    mesh = Mesh(tmp_path)

    async def story():
        file = mesh.prepare("orders", app="http://127.0.0.1:9")
        file.write_text(file.read_text().replace("policy: policy\n", ""))
        orders = await mesh.start(file)
        answer = await mesh.call(orders, GET)
        assert answer.status == 503
        await recorded(orders, 503, "policy_unavailable")

    mesh.run(story())


# --- where it goes ----------------------------------------------------------------------------------------------------------


def free_port():
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_a_module_that_is_not_up_yet_is_503_and_recovered_without_restart(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        port = free_port()
        orders = await mesh.sidecar("orders", app=f"http://127.0.0.1:{port}")
        caller = await mesh.caller(orders)
        answer = await caller.ask(GET)
        assert answer.status == 503
        assert answer.get(b"retry-after") == b"1"
        assert answer.get(REFUSAL) == b"app_unavailable", "a peer may try again elsewhere"
        says_nothing_of_the_inside(mesh, orders, answer)
        assert str(port).encode() not in answer.body
        await recorded(orders, 503, "app_unavailable")
        await mesh.backend(port=port)
        assert (await caller.ask(GET)).status == 200
        caller.close()

    mesh.run(story())


def test_an_upstream_that_refuses_is_502(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        web = await mesh.sidecar("web", services=f"  stock: {{endpoints: ['127.0.0.1:{free_port()}']}}")
        answer = await mesh.call(web, OUT, None)
        assert answer.status == 502
        says_nothing_of_the_inside(mesh, web, answer)
        await recorded(web, 502, "upstream_refused")
        assert web.connects() == {"upstream_refused": 1}

    mesh.run(story())


async def reset_at_once(backend, request, reader, writer):
    if request is not None:
        writer.transport.abort()
    return request is None


async def garbage(backend, request, reader, writer):
    if request is not None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx")
    return True


@pytest.mark.parametrize(("behaviour", "fault"), [(reset_at_once, "upstream_reset"), (garbage, "upstream_malformed")])
def test_an_upstream_that_fails_before_its_response_head_is_502(tmp_path, behaviour, fault):
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app=await mesh.backend(behaviour))
        caller = await mesh.caller(orders)
        answer = await caller.ask(GET)
        assert answer.status == 502
        says_nothing_of_the_inside(mesh, orders, answer)
        await recorded(orders, 502, fault)
        caller.close()

    mesh.run(story())


@pytest.mark.parametrize("head", [b"content-length: 100", b"transfer-encoding: chunked"])
def test_an_upstream_that_fails_after_its_response_head_cuts_the_response(tmp_path, head):
    """The caller can tell: the body does not end as its head said."""
    mesh = Mesh(tmp_path)

    async def cut(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + (b"5\r\nhello\r\n" if b"chunked" in head else b"hello"))
            await writer.drain()
            await backend.go.wait()
            writer.transport.abort()
        return request is None

    async def story():
        backend = await mesh.backend(cut)
        orders = await mesh.sidecar("orders", app=backend)
        caller = await mesh.caller(orders)
        await caller.send(GET)
        reading = asyncio.ensure_future(caller.answer())
        await until(lambda: backend.requests, "the request arrives")
        backend.go.set()
        answer = await reading
        assert answer.status == 200
        assert not answer.complete
        assert answer.body in {b"hello", b""}
        caller.close()
        await until(orders.log, "a record")
        (record,) = orders.log()
        assert (record["status"], record["fault"]) == (200, "upstream_reset")
        assert orders.faults() == {"upstream_reset": 1}

    mesh.run(story())


# --- what is malformed or too big -------------------------------------------------------------------------------------------

MALFORMED = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed"),
    "two lengths": (b"POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx", 400, "malformed"),
    "length and chunked": (
        b"POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed",
    ),
    "a dot segment": (b"GET /a/../b HTTP/1.1\r\nhost: o\r\n\r\n", 400, "malformed"),
    "not HTTP": (b"hello\r\n\r\n", 400, "malformed"),
    "a long target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: o\r\n\r\n", 414, "target_too_long"),
    "many fields": (b"GET / HTTP/1.1\r\nhost: o\r\n" + b"x: y\r\n" * 101 + b"\r\n", 431, "head_too_large"),
    "long fields": (b"GET / HTTP/1.1\r\nhost: o\r\n" + (b"x: " + b"y" * 7000 + b"\r\n") * 9 + b"\r\n", 431, "head_too_large"),
    "a declared body": (b"POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 1001\r\n\r\n", 413, "body_too_large"),
    "an unknown coding": (b"POST / HTTP/1.1\r\nhost: o\r\ntransfer-encoding: gzip\r\n\r\n", 501, "unsupported_coding"),
    "an unknown version": (b"GET / HTTP/2.0\r\nhost: o\r\n\r\n", 505, "unsupported_version"),
    "an upgrade": (b"GET / HTTP/1.1\r\nhost: o\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 501, "upgrade_refused"),
    "a tunnel": (b"CONNECT o:443 HTTP/1.1\r\nhost: o:443\r\n\r\n", 501, "method_refused"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_malformed_or_too_big_is_answered_and_the_connection_closed(tmp_path, case):
    octets, status, fault = MALFORMED[case]
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        orders = await mesh.sidecar("orders", app=backend, more="limits: {body: 1000B}")
        caller = await mesh.caller(orders)
        answer = await caller.ask(octets + GET)
        assert answer.status == status
        assert answer.problem()["code"] == fault
        assert answer.get(b"connection") == b"close"
        says_nothing_of_the_inside(mesh, orders, answer)
        assert await caller.closed() == b"", "what is pipelined behind it is not answered"
        caller.close()
        record = await recorded(orders, status, fault)
        assert record["principal"] == "spiffe://shop/web"
        assert not backend.requests

    mesh.run(story())


def test_a_chunked_body_that_grows_too_big_is_413(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        orders = await mesh.sidecar("orders", app=backend, more="limits: {body: 1000B}")
        caller = await mesh.caller(orders)
        head = b"POST /items HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n"
        answer = await caller.ask(head + (b"64\r\n" + b"x" * 100 + b"\r\n") * 11)
        assert answer.status == 413
        await caller.closed()
        caller.close()
        await recorded(orders, 413, "body_too_large")

    mesh.run(story())


def test_a_caller_that_still_sends_gets_to_read_its_refusal(tmp_path):
    """RFC 9112 9.6: closing at once would reset the connection and lose the answer."""
    mesh = Mesh(tmp_path)

    async def story():
        orders = await mesh.sidecar("orders", app="http://127.0.0.1:9", more="limits: {body: 1000B}")
        for name in ("web", None):
            caller = await mesh.caller(orders, name)
            await caller.send(b"POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 9000000\r\n\r\n")
            for _ in range(20):
                await caller.send(b"x" * 10_000)
            assert (await caller.answer()).status == 413
            caller.close()

    mesh.run(story())


# --- what is too slow -------------------------------------------------------------------------------------------------------


def test_an_upstream_that_does_not_answer_in_time_is_504(tmp_path):
    mesh = Mesh(tmp_path)

    async def stalls(backend, request, reader, writer):
        if request is not None:
            await reader.read()
        return True

    async def story():
        backend = await mesh.backend(stalls)
        file = mesh.prepare("orders", app=backend)
        file.write_text(file.read_text().replace(f"app: {backend.url}", f"app: {{url: {backend.url}, timeout: 150ms}}"))
        orders = await mesh.start(file)
        answer = await mesh.call(orders, GET)
        assert answer.status == 504
        says_nothing_of_the_inside(mesh, orders, answer)
        record = await recorded(orders, 504, "upstream_timeout")
        assert 150 <= record["total_ms"] < 600
        await until(lambda: not backend.open, "the upstream connection is dropped")

    mesh.run(story())


def test_a_caller_that_ends_its_connection_ends_its_request(tmp_path):
    """Threats A9: the upstream connection is dropped on abort."""
    mesh = Mesh(tmp_path)

    async def stalls(backend, request, reader, writer):
        if request is not None:
            backend.go.set()
            await reader.read()
        return request is None

    async def story():
        backend = await mesh.backend(stalls)
        orders = await mesh.sidecar("orders", app=backend)
        caller = await mesh.caller(orders)
        await caller.send(GET)
        await backend.go.wait()
        caller.abort()
        await recorded(orders, 499, "caller_gone")
        await until(lambda: not backend.open, "the upstream connection is dropped")

    mesh.run(story())


def test_the_polite_backend_is_reached_when_nothing_is_wrong(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(answers)
        orders = await mesh.sidecar("orders", app=backend)
        assert (await mesh.call(orders, GET)).body == b"ok\n"
        assert backend.requests[0].get(b"flui-principal") == b"spiffe://shop/web"
        assert orders.faults() == {}

    mesh.run(story())

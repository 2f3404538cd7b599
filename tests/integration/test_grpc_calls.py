"""gRPC calls through real sidecars to a grpcio module over h2c; the caller writes HTTP/1.1, so that all that is looked at is seen."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from flui.codecs import grpc_health
from flui.telemetry.families import GRPC_CALLS
from support.mesh import Mesh, until

WAIT_S = 5.0
RULES = "p, spiffe://shop/web, {name}, CALL, /t.T/*\np, spiffe://shop/web, {name}, CALL, /t.T/Secret, deny\n"
HEALTH = "p, spiffe://shop/web, {name}, CALL, /grpc.health.v1.Health/Check\n"


def framed(payload):
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def ask(path, body=b"hi", host="stock", more="", kind="application/grpc"):
    octets = framed(body)
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\n{more}content-length: {len(octets)}\r\n\r\n"
    return head.encode() + octets


class Module(grpc.GenericRpcHandler):
    """A service that says what it was told."""

    def __init__(self):
        self.calls = []
        self.down = 0

    def service(self, details):
        kinds = {"/t.T/Echo": self.echo, "/t.T/Left": self.left, "/t.T/Slow": self.slow, "/t.T/Down": self.failing, "/t.T/Big": self.big}
        handler = kinds.get(details.method)
        if not details.method.startswith("/grpc.reflection."):  # the sidecar's own question, which is no call
            self.calls.append(details.method)
        return grpc.unary_unary_rpc_method_handler(handler) if handler else None

    def echo(self, request, context):
        context.set_trailing_metadata((("x-seen", "yes"),))
        return request

    def left(self, request, context):
        return json.dumps([context.time_remaining(), dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts")]).encode()

    def slow(self, request, context):
        ended = []
        context.add_callback(lambda: ended.append(1))
        until_s = time.monotonic() + WAIT_S
        while not ended and time.monotonic() < until_s:
            time.sleep(0.005)
        self.calls.append("slow ended" if ended else "slow went on")
        return b""

    def failing(self, request, context):
        if self.down:
            self.down -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return b"up"

    def big(self, request, context):
        return b"x" * 2048


@pytest.fixture
def served():
    with ThreadPoolExecutor(4) as pool:
        module = Module()
        server = grpc.server(pool, handlers=(module,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield module, f"127.0.0.1:{port}"
        server.stop(None).wait(WAIT_S)


def status(answer):
    said = answer.get(b"grpc-status")
    if said is None:
        said = next(line.partition(b": ")[2] for line in answer.trailers.split(b"\r\n") if line.startswith(b"grpc-status"))
    return int(said)


def test_calls_are_allowed_denied_and_unimplemented_by_their_method(tmp_path, served):
    module, address = served
    mesh = Mesh(tmp_path)

    async def story():
        stock = await mesh.sidecar("stock", app=f"h2c://{address}", rules=RULES)
        answer = await mesh.call(stock, ask("/t.T/Echo"))
        assert (answer.status, answer.body, status(answer)) == (200, framed(b"hi"), 0)
        assert b"x-seen: yes" in answer.trailers
        answer = await mesh.call(stock, ask("/t.T/Secret"))
        assert (answer.status, status(answer), answer.body) == (200, 7, b"")
        assert answer.get(b"content-type") == b"application/grpc"
        assert status(await mesh.call(stock, ask("/nothing"))) == 12
        assert status(await mesh.call(stock, ask("/t.T/Nowhere"))) == 12
        assert (await mesh.call(stock, ask("/t.T/Echo", kind="application/json"))).status == 403
        assert module.calls == ["/t.T/Echo", "/t.T/Nowhere"]
        counted = sorted((said, int(n)) for (*_, said), n in stock.running.meters.samples(GRPC_CALLS).items())
        assert counted == [("OK", 1), ("PERMISSION_DENIED", 1), ("UNIMPLEMENTED", 1), ("UNIMPLEMENTED", 1)]
        log = stock.folder / "access.log"
        await until(lambda: log.read_text().count("\n") == 5, "five lines")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line.get("grpc_status") for line in lines] == ["OK", "PERMISSION_DENIED", "UNIMPLEMENTED", "UNIMPLEMENTED", None]
        assert lines[1]["rule"].endswith(":2")

    mesh.run(story())


def test_a_deadline_goes_on_and_expires_here_and_there(tmp_path, served):
    module, address = served
    mesh = Mesh(tmp_path)

    async def story():
        stock = await mesh.sidecar("stock", app=f"h2c://{address}", rules=RULES)
        answer = await mesh.call(stock, ask("/t.T/Left", more="grpc-timeout: 2S\r\ngrpc-previous-rpc-attempts: 3\r\n"))
        left, attempts = json.loads(answer.body[5:])
        assert 0 < left < 2
        assert attempts == "3"
        began = time.monotonic()
        answer = await mesh.call(stock, ask("/t.T/Slow", more="grpc-timeout: 100m\r\n"))
        assert status(answer) == 4
        assert time.monotonic() - began < 2
        await until(lambda: "slow ended" in module.calls, "the module hears that nobody waits")
        assert status(await mesh.call(stock, ask("/t.T/Echo", more="grpc-timeout: soon\r\n"))) == 13

    mesh.run(story())


def test_a_module_that_is_down_is_unavailable_and_no_route_unimplemented(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        stock = await mesh.sidecar("stock", app="h2c://127.0.0.1:1", rules=RULES)
        answer = await mesh.call(stock, ask("/t.T/Echo"))
        assert (status(answer), answer.get(b"grpc-retry-pushback-ms")) == (14, b"1000")
        web = await mesh.sidecar("web")
        assert status(await mesh.call(web, ask("/t.T/Echo", host="nobody"), None)) == 12

    mesh.run(story())


def test_limits_of_rate_and_of_messages_are_resource_exhausted(tmp_path, served):
    _, address = served
    mesh = Mesh(tmp_path)

    async def story():
        more = "limits: {grpc_message: 1KiB}"
        app = f"{{url: h2c://{address}, routes: [{{name: one, match: {{path: /t.T/Left, methods: [CALL]}}, rate: 1/h}}]}}"
        stock = await mesh.sidecar("stock", app=app, rules=RULES, more=more)
        assert status(await mesh.call(stock, ask("/t.T/Echo", b"x" * 1024))) == 0
        assert status(await mesh.call(stock, ask("/t.T/Echo", b"x" * 1025))) == 8
        answer = await mesh.call(stock, ask("/t.T/Big"))
        assert not answer.complete, "over HTTP/1.1 an answer that has begun can only be cut"
        assert status(await mesh.call(stock, ask("/t.T/Left"))) == 0
        answer = await mesh.call(stock, ask("/t.T/Left"))
        assert status(answer) == 8
        assert int(answer.get(b"grpc-retry-pushback-ms")) > 1000

    mesh.run(story())


def test_unavailable_is_tried_again_where_the_route_says_so(tmp_path, served):
    module, address = served
    mesh = Mesh(tmp_path)

    async def story():
        services = f"  stock: {{endpoints: ['{address}'], plaintext: true, protocol: http2}}\n"
        web = await mesh.sidecar("web", services=services)
        module.down = 1
        assert status(await mesh.call(web, ask("/t.T/Down"), None)) == 14, "nothing in a call says that it may be repeated"
        module.down = 1
        keyed = ask("/t.T/Down", more="idempotency-key: 7\r\n")
        assert status(await mesh.call(web, keyed, None)) == 0
        routes = "routes: [{name: again, match: {hosts: [stock]}, to: stock, retry: {attempts: 3, backoff: 0, grpc: [unavailable]}}]"
        other = await mesh.sidecar("other", services=services, more=routes)
        module.down = 2
        assert status(await mesh.call(other, ask("/t.T/Down"), None)) == 0
        assert module.down == 0

    mesh.run(story())


def test_an_endpoint_that_speaks_no_grpc_is_told_as_a_status(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        async def html(backend, request, reader, writer):
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>")
            return True

        backend = await mesh.backend(html)
        stock = await mesh.sidecar("stock", app=backend, rules=RULES)
        answer = await mesh.call(stock, ask("/t.T/Echo"))
        assert (answer.status, status(answer), answer.body) == (200, 14, b"")
        assert b"503" in answer.get(b"grpc-message")

    mesh.run(story())


def test_the_sidecars_own_health_stands_beside_the_modules(tmp_path, served):
    module, address = served
    mesh = Mesh(tmp_path)

    async def story():
        stock = await mesh.sidecar("stock", app=f"h2c://{address}", rules=RULES + HEALTH)
        path = grpc_health.CHECK.decode()
        for name in (b"", b"stock"):
            answer = await mesh.call(stock, ask(path, grpc_health.question(name), host="flui-health"))
            assert (status(answer), answer.body) == (0, framed(grpc_health.answer(grpc_health.SERVING)))
        assert status(await mesh.call(stock, ask(path, grpc_health.question(b"other"), host="flui-health"))) == 5
        assert status(await mesh.call(stock, ask(path, b"\xff", host="flui-health"))) == 3
        assert module.calls == []
        assert status(await mesh.call(stock, ask(path, b""))) == 12, "the module has no such service, and answers so itself"
        assert module.calls == [path]
        closed = await mesh.sidecar("closed", app=f"h2c://{address}", rules=RULES)
        assert status(await mesh.call(closed, ask(path, b"", host="flui-health"))) == 7

    mesh.run(story())

"""gRPC-Web and Connect callers of a grpcio module, through a real sidecar; the caller writes HTTP/1.1, so that all that is looked at is seen."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from support.mesh import Mesh, until

WAIT_S = 5.0
RULES = "p, spiffe://shop/web, {name}, CALL, /t.T/*\np, spiffe://shop/web, {name}, CALL, /t.T/Secret, deny\n"


def framed(payload, flag=0):
    return bytes((flag,)) + len(payload).to_bytes(4, "big") + payload


def frames(octets):
    """(flag, payload) of each frame of a body, which must be whole."""
    found = []
    while octets:
        size = int.from_bytes(octets[1:5], "big")
        assert len(octets) >= 5 + size
        found.append((octets[0], octets[5 : 5 + size]))
        octets = octets[5 + size :]
    return found


def ask(path, kind, body=b"", more="", host="stock"):
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Module(grpc.GenericRpcHandler):
    """A service that says what it was told."""

    def __init__(self):
        self.calls = []
        self.metadata = {}

    def service(self, details):
        if details.method.startswith("/grpc."):
            return None
        self.calls.append(details.method)
        self.metadata = dict(details.invocation_metadata)
        unary = {"/t.T/Echo": self.echo, "/t.T/Bad": self.bad, "/t.T/Left": self.left}
        if details.method in unary:
            return grpc.unary_unary_rpc_method_handler(unary[details.method])
        if details.method == "/t.T/Count":
            return grpc.unary_stream_rpc_method_handler(self.count)
        if details.method == "/t.T/Chat":
            return grpc.stream_stream_rpc_method_handler(self.chat)
        return None

    def echo(self, request, context):
        context.send_initial_metadata((("x-early", "1"), ("x-early-bin", b"\1\2")))
        context.set_trailing_metadata((("x-late", "2"), ("x-late-bin", b"\3\4")))
        return request

    def bad(self, request, context):
        status = status_pb2.Status(code=9, message="nö")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="EMPTY"))
        context.set_trailing_metadata((("x-late", "2"), ("grpc-status-details-bin", status.SerializeToString())))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nö")

    def left(self, request, context):
        return json.dumps(context.time_remaining()).encode()

    def count(self, request, context):
        yield from (b"%d" % n for n in range(int(request)))
        if request == b"3":
            context.abort(grpc.StatusCode.ABORTED, "three")

    def chat(self, requests, context):
        yield from (request.upper() for request in requests)


@pytest.fixture
def served():
    with ThreadPoolExecutor(4) as pool:
        module = Module()
        server = grpc.server(pool, handlers=(module,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield module, f"127.0.0.1:{port}"
        server.stop(None).wait(WAIT_S)


def test_a_grpc_web_caller_is_answered_in_grpc_web(tmp_path, served):
    module, address = served
    mesh = Mesh(tmp_path)

    async def story():
        stock = await mesh.sidecar("stock", app=f"h2c://{address}", rules=RULES)
        more = "x-grpc-web: 1\r\nx-user-agent: test\r\nx-mine: me\r\nx-mine-bin: AQI\r\n"
        answer = await mesh.call(stock, ask("/t.T/Echo", "application/grpc-web+proto", framed(b"hi"), more))
        assert (answer.status, answer.get(b"content-type")) == (200, b"application/grpc-web+proto")
        assert (answer.get(b"x-early"), answer.get(b"x-early-bin")) == (b"1", b"AQI")
        (flag, message), (last, trailers) = frames(answer.body)
        assert (flag, message, last) == (0, b"hi", 0x80)
        assert set(trailers.split(b"\r\n")) >= {b"grpc-status: 0", b"x-late: 2", b"x-late-bin: AwQ"}
        assert module.metadata["x-mine"] == "me"
        assert module.metadata["x-mine-bin"] == b"\1\2"
        assert module.metadata["flui-principal"] == "spiffe://shop/web"
        assert "x-grpc-web" not in module.metadata
        answer = await mesh.call(stock, ask("/t.T/Secret", "application/grpc-web", framed(b"hi")))
        assert (answer.status, answer.get(b"content-type")) == (200, b"application/grpc-web")
        ((last, trailers),) = frames(answer.body)
        assert last == 0x80
        assert b"grpc-status: 7\r\n" in trailers
        answer = await mesh.call(stock, ask("/t.T/Count", "application/grpc-web", framed(b"3")))
        assert [payload for flag, payload in frames(answer.body) if not flag] == [b"0", b"1", b"2"]
        assert b"grpc-status: 10\r\n" in frames(answer.body)[-1][1]
        assert module.calls == ["/t.T/Echo", "/t.T/Count"]
        log = stock.folder / "access.log"
        await until(lambda: log.read_text().count("\n") == 3, "three lines")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(line["grpc_status"], line["dialect"]) for line in lines] == [
            ("OK", "grpc-web"),
            ("PERMISSION_DENIED", "grpc-web"),
            ("ABORTED", "grpc-web"),
        ]

    mesh.run(story())


def test_grpc_web_as_text_is_base64_both_ways_wherever_it_is_padded(tmp_path, served):
    _, address = served
    mesh = Mesh(tmp_path)

    async def story():
        stock = await mesh.sidecar("stock", app=f"h2c://{address}", rules=RULES)
        octets = framed(b"hello")
        body = base64.b64encode(octets[:4]) + base64.b64encode(octets[4:])
        answer = await mesh.call(stock, ask("/t.T/Echo", "application/grpc-web-text+proto", body))
        assert (answer.status, answer.get(b"content-type")) == (200, b"application/grpc-web-text+proto")
        text = answer.body
        decoded = b"".join(base64.b64decode(part + b"=" * (-len(part) % 4)) for part in text.replace(b"==", b"=").split(b"="))
        (_, message), (last, _) = frames(decoded)
        assert (message, last) == (b"hello", 0x80)
        answer = await mesh.call(stock, ask("/t.T/Echo", "application/grpc-web-text", b"@@@@"))
        assert b"grpc-status: 3\r\n" in base64.b64decode(answer.body)

    mesh.run(story())


def test_a_connect_caller_of_one_message_is_answered_in_connect(tmp_path, served):
    module, address = served
    mesh = Mesh(tmp_path)

    async def story():
        stock = await mesh.sidecar("stock", app=f"h2c://{address}", rules=RULES)
        answer = await mesh.call(stock, ask("/t.T/Echo", "application/proto", b"hi", "connect-protocol-version: 1\r\nx-mine: me\r\n"))
        assert (answer.status, answer.get(b"content-type"), answer.body) == (200, b"application/proto", b"hi")
        assert (answer.get(b"x-early"), answer.get(b"trailer-x-late"), answer.get(b"trailer-x-late-bin")) == (b"1", b"2", b"AwQ")
        assert module.metadata["x-mine"] == "me"
        assert "connect-protocol-version" not in module.metadata
        answer = await mesh.call(stock, ask("/t.T/Bad", "application/proto", b"hi"))
        assert (answer.status, answer.get(b"content-type"), answer.get(b"trailer-x-late")) == (400, b"application/json", b"2")
        detail = error_details_pb2.ErrorInfo(reason="EMPTY").SerializeToString()
        assert json.loads(answer.body) == {
            "code": "failed_precondition",
            "message": "nö",
            "details": [{"type": "google.rpc.ErrorInfo", "value": base64.b64encode(detail).decode().rstrip("=")}],
        }
        answer = await mesh.call(stock, ask("/t.T/Secret", "application/proto", b"hi"))
        assert (answer.status, json.loads(answer.body)["code"]) == (403, "permission_denied")
        answer = await mesh.call(stock, ask("/t.T/Nowhere", "application/proto", b"hi"))
        assert (answer.status, json.loads(answer.body)["code"]) == (501, "unimplemented")
        answer = await mesh.call(stock, ask("/t.T/Left", "application/proto", b"", "connect-timeout-ms: 5000\r\n"))
        assert 4 < float(answer.body) <= 5
        answer = await mesh.call(stock, ask("/t.T/Echo", "application/proto", b"hi", "connect-protocol-version: 2\r\n"))
        assert (answer.status, json.loads(answer.body)["code"]) == (400, "invalid_argument")
        # a length that nobody knows
        chunked = b"POST /t.T/Echo HTTP/1.1\r\nhost: stock\r\ncontent-type: application/proto\r\ntransfer-encoding: chunked\r\n\r\n"
        answer = await mesh.call(stock, chunked + b"2\r\nhi\r\n3\r\n ho\r\n0\r\n\r\n")
        assert (answer.status, answer.body) == (200, b"hi ho")

    mesh.run(story())


def test_a_connect_caller_of_streams_gets_envelopes_and_the_end_in_the_last(tmp_path, served):
    _, address = served
    mesh = Mesh(tmp_path)

    async def story():
        stock = await mesh.sidecar("stock", app=f"h2c://{address}", rules=RULES)
        answer = await mesh.call(stock, ask("/t.T/Count", "application/connect+proto", framed(b"2")))
        assert (answer.status, answer.get(b"content-type")) == (200, b"application/connect+proto")
        assert frames(answer.body) == [(0, b"0"), (0, b"1"), (2, b"{}")]
        answer = await mesh.call(stock, ask("/t.T/Count", "application/connect+proto", framed(b"3")))
        assert json.loads(frames(answer.body)[-1][1]) == {"error": {"code": "aborted", "message": "three"}}
        answer = await mesh.call(stock, ask("/t.T/Chat", "application/connect+proto", framed(b"a") + framed(b"b")))
        assert frames(answer.body) == [(0, b"A"), (0, b"B"), (2, b"{}")]
        answer = await mesh.call(stock, ask("/t.T/Secret", "application/connect+proto", framed(b"a")))
        ((flag, said),) = frames(answer.body)
        assert (answer.status, flag, json.loads(said)["error"]["code"]) == (200, 2, "permission_denied")

    mesh.run(story())


def test_json_of_a_module_of_which_nothing_is_known_is_unimplemented(tmp_path, served):
    module, address = served
    mesh = Mesh(tmp_path)

    async def story():
        stock = await mesh.sidecar("stock", app=f"h2c://{address}", rules=RULES)
        answer = await mesh.call(stock, ask("/t.T/Echo", "application/json", b"{}", "connect-protocol-version: 1\r\n"))
        assert (answer.status, json.loads(answer.body)["code"]) == (501, "unimplemented")
        answer = await mesh.call(stock, ask("/t.T/Secret", "application/json", b"{}", "connect-protocol-version: 1\r\n"))
        assert answer.status == 403  # who may not call learns nothing
        assert module.calls == []

    mesh.run(story())


@pytest.mark.parametrize("kind", ["application/grpc-web", "application/proto", "application/connect+proto"])
def test_a_modules_refusal_is_logged_by_its_own_status_in_every_dialect(tmp_path, served, kind):
    """What is logged is also what an endpoint is judged by: UNKNOWN would count against a module that is well."""
    _, address = served
    mesh = Mesh(tmp_path)

    async def story():
        stock = await mesh.sidecar("stock", app=f"h2c://{address}", rules=RULES)
        await mesh.call(stock, ask("/t.T/Bad", kind, b"hi" if kind == "application/proto" else framed(b"hi")))
        log = stock.folder / "access.log"
        await until(lambda: log.read_text().count("\n") == 1, "a line")
        assert json.loads(log.read_text())["grpc_status"] == "FAILED_PRECONDITION"

    mesh.run(story())


def test_a_page_is_told_what_it_may_send_and_reads_what_it_was_answered(tmp_path, served):
    module, address = served
    mesh = Mesh(tmp_path)
    api = f"{{url: 'h2c://{address}', api: {{descriptors: 'off', cors: {{origins: ['http://page.example'], max_age: 5m}}}}}}"

    async def story():
        stock = await mesh.sidecar("stock", app=api, rules=RULES)
        asked = "access-control-request-method: POST\r\naccess-control-request-headers: content-type,x-grpc-web\r\n"

        async def beforehand(origin):
            head = f"OPTIONS /t.T/Echo HTTP/1.1\r\nhost: stock\r\norigin: {origin}\r\n{asked}\r\n"
            return await mesh.call(stock, head.encode())

        answer = await beforehand("http://page.example")
        assert (answer.status, answer.get(b"access-control-allow-origin")) == (204, b"http://page.example")
        assert answer.get(b"access-control-allow-headers") == b"content-type,x-grpc-web"
        assert answer.get(b"access-control-max-age") == b"300"
        assert b"POST" in answer.get(b"access-control-allow-methods")
        assert (await beforehand("http://other.example")).status == 403
        for kind in ("application/grpc-web+proto", "application/proto"):
            for path, origin, reads in (
                ("/t.T/Echo", "http://page.example", b"http://page.example"),
                ("/t.T/Secret", "http://page.example", b"http://page.example"),
                ("/t.T/Echo", "http://other.example", None),
            ):
                answer = await mesh.call(stock, ask(path, kind, framed(b"hi"), f"origin: {origin}\r\n"))
                assert (answer.get(b"access-control-allow-origin"), kind) == (reads, kind)
                if reads:
                    assert (answer.get(b"access-control-expose-headers"), answer.get(b"vary")) == (b"*", b"origin")
        assert module.calls == ["/t.T/Echo"] * 4
        log = stock.folder / "access.log"
        await until(lambda: log.read_text().count("\n") == 8, "eight lines")
        assert json.loads(log.read_text().split("\n")[0])["rule"] == "asked beforehand (CORS)"

    mesh.run(story())

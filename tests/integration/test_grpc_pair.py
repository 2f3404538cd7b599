"""A grpcio client, two sidecars over mTLS, a grpcio module: every kind of call, and every bad end by gRPC's own name for it."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest

from support.mesh import Mesh, until

WAIT_S = 5.0
RULES = "p, spiffe://shop/web, {name}, CALL, /t.T/*\np, spiffe://shop/web, {name}, CALL, /t.T/Secret, deny\n"


class Module(grpc.GenericRpcHandler):
    """Every kind of call."""

    def __init__(self):
        self.ended = []

    def service(self, details):
        return {
            "/t.T/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/t.T/Count": grpc.unary_stream_rpc_method_handler(lambda request, context: (b"%d" % n for n in range(int(request)))),
            "/t.T/Join": grpc.stream_unary_rpc_method_handler(lambda requests, context: b"".join(requests)),
            "/t.T/Echo": grpc.stream_stream_rpc_method_handler(lambda requests, context: requests),
            "/t.T/Wait": grpc.unary_stream_rpc_method_handler(self.wait),
            "/t.T/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/t.T/Big": grpc.unary_unary_rpc_method_handler(lambda request, context: b"x" * int(request)),
        }.get(details.method)

    def unary(self, request, context):
        context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last-bin", b"\0\1"),))
        return request

    def fail(self, request, context):
        context.abort(next(s for s in grpc.StatusCode if s.value[0] == int(request)), "50% ☺")

    def wait(self, request, context):
        yield b"first"
        until_s = time.monotonic() + WAIT_S
        while context.is_active() and time.monotonic() < until_s:
            time.sleep(0.005)
        self.ended.append(time.monotonic())


@pytest.fixture
def served():
    with ThreadPoolExecutor(4) as pool:
        module = Module()
        server = grpc.server(pool, handlers=(module,), options=(("grpc.max_receive_message_length", -1),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield module, f"127.0.0.1:{port}"
        server.stop(None).wait(WAIT_S)


async def pair(mesh, address, more=""):
    """web's sidecar before stock's, and a channel that believes to speak to `stock`."""
    stock = await mesh.sidecar("stock", app=f"h2c://{address}", rules=RULES)
    web = await mesh.sidecar("web", services=f"  stock: {{endpoints: ['{stock.inbound}']}}\n", more=more)
    options = (("grpc.default_authority", "stock"), ("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1))
    return stock, web, grpc.aio.insecure_channel(str(web.outbound), options=options)


async def failure(call):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(call, WAIT_S)
    return raised.value


def test_all_four_kinds_of_calls_pass_with_their_metadata(tmp_path, served):
    _, address = served
    mesh = Mesh(tmp_path)

    async def story():
        _, _, channel = await pair(mesh, address)
        async with channel:
            call = channel.unary_unary("/t.T/Unary")(b"hello", metadata=(("x-bin", b"\xff\0"),))
            assert await call == b"hello"
            assert ("x-first", "1") in tuple(await call.initial_metadata())
            assert ("x-last-bin", b"\0\1") in tuple(await call.trailing_metadata())
            assert [m async for m in channel.unary_stream("/t.T/Count")(b"50")] == [b"%d" % n for n in range(50)]
            assert await channel.stream_unary("/t.T/Join")(iter([b"a", b"", b"b" * 100_000])) == b"a" + b"b" * 100_000
            call = channel.stream_stream("/t.T/Echo")()
            for n in range(20):
                await call.write(b"%d" % n)
                assert await call.read() == b"%d" % n
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await channel.unary_unary("/t.T/Unary")(b"y" * 3_000_000) == b"y" * 3_000_000

    mesh.run(story())


def test_every_status_of_the_module_arrives_with_its_text(tmp_path, served):
    _, address = served
    mesh = Mesh(tmp_path)

    async def story():
        _, _, channel = await pair(mesh, address)
        async with channel:
            for status in grpc.StatusCode:
                if status is not grpc.StatusCode.OK:
                    error = await failure(channel.unary_unary("/t.T/Fail")(b"%d" % status.value[0]))
                    assert (error.code(), error.details()) == (status, "50% ☺")

    mesh.run(story())


def test_every_bad_end_has_grpcs_own_name(tmp_path, served):
    _, address = served
    mesh = Mesh(tmp_path)

    async def story():
        stock, web, channel = await pair(mesh, address, "routes: [{name: few, match: {path: /t.T/Count}, to: stock, rate: 1/h}]")
        async with channel:
            codes = grpc.StatusCode
            assert (await failure(channel.unary_unary("/t.T/Secret")(b""))).code() is codes.PERMISSION_DENIED
            assert (await failure(channel.unary_unary("/t.T/Nowhere")(b""))).code() is codes.UNIMPLEMENTED
            assert (await failure(channel.unary_unary("/nowhere")(b""))).code() is codes.UNIMPLEMENTED
            assert (await failure(channel.unary_unary("/t.T/Unary")(b"x" * 5_000_000))).code() is codes.RESOURCE_EXHAUSTED
            assert (await failure(channel.unary_unary("/t.T/Big")(b"5000000"))).code() is codes.RESOURCE_EXHAUSTED
            assert await channel.unary_unary("/t.T/Big")(b"4000000")
            assert [m async for m in channel.unary_stream("/t.T/Count")(b"1")] == [b"0"]
            assert (await failure(channel.unary_unary("/t.T/Count")(b"1"))).code() is codes.RESOURCE_EXHAUSTED
            began = time.monotonic()
            error = await failure(_drained(channel.unary_stream("/t.T/Wait")(b"", timeout=0.2)))
            assert error.code() is codes.DEADLINE_EXCEEDED
            assert time.monotonic() - began < 1.5
        other = grpc.aio.insecure_channel(str(web.outbound), options=(("grpc.default_authority", "nobody"),))
        async with other:
            assert (await failure(other.unary_unary("/t.T/Unary")(b""))).code() is codes.UNIMPLEMENTED
        assert stock.running

    mesh.run(story())


async def _drained(call):
    return [message async for message in call]


def test_a_module_that_is_down_is_unavailable(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        _, _, channel = await pair(mesh, "127.0.0.1:1")
        async with channel:
            assert (await failure(channel.unary_unary("/t.T/Unary")(b""))).code() is grpc.StatusCode.UNAVAILABLE

    mesh.run(story())


def test_a_cancelled_call_ends_at_the_module_within_a_tenth_of_a_second(tmp_path, served):
    module, address = served
    mesh = Mesh(tmp_path)

    async def story():
        _, _, channel = await pair(mesh, address)
        async with channel:
            call = channel.unary_stream("/t.T/Wait")(b"")
            assert await call.read() == b"first"
            cancelled_at = time.monotonic()
            call.cancel()
            await until(lambda: module.ended, "the module hears of it")
            assert module.ended[0] - cancelled_at < 0.1

    mesh.run(story())


def test_a_deadline_ends_a_stream_of_whole_messages_with_its_name_and_not_a_reset(tmp_path, served):
    module, address = served
    mesh = Mesh(tmp_path)

    async def story():
        _, _, channel = await pair(mesh, address, "routes: [{name: short, match: {hosts: [stock]}, to: stock, timeout: 200ms}]")
        async with channel:
            call = channel.unary_stream("/t.T/Wait")(b"")
            assert await call.read() == b"first"
            error = await failure(call.read())
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "upstream_timeout" in error.details() or "deadline_passed" in error.details()
            await until(lambda: module.ended, "the module hears of it")

    mesh.run(story())

"""grpcio calls grpcio through two real sidecars: all four kinds, every way a call can fail, cancellation, deadlines."""

from __future__ import annotations

import re
import statistics
import time

import grpc
import pytest

from support.grpc_shop import Shop, level, method, parsed, reserve_request, word
from support.pair import EVERYTHING, Pair, wait
from support.raw_h2 import RawCaller, Silent, request_block

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]
RULES = """\
p, spiffe://shop/web, orders, CALL, /shop.Stock/*
p, spiffe://shop/web, orders, CALL, /shop.Stock/Secret, deny
p, spiffe://shop/web, orders, CALL, /shop.Nothing/*
"""
ROUTES = """\
routes:
  - {name: rated, match: {path: '/shop.Stock/Reserve', headers: {x-rated: 'yes'}}, to: orders, rate: {rate: 1/h, burst: 3}}
  - {name: short, match: {path: '/shop.Stock/Reserve', headers: {x-short: 'yes'}}, to: orders, timeout: 300ms}
  - {name: all, match: {path: '/*'}, to: orders}
"""
CANCEL_S = 0.1


@pytest.fixture(scope="module")
def shop():
    with Shop() as module:
        yield module


@pytest.fixture(scope="module")
def pair(shop, tmp_path_factory):
    with Pair(tmp_path_factory.mktemp("grpc"), f"h2c://{shop.address}", rules=RULES, web=ROUTES) as both:
        yield both
        both.check()


@pytest.fixture
def channel(pair):
    with grpc.insecure_channel(str(pair.outbound)) as made:
        yield made


def status(call, *arguments, **more):
    """How a call failed: its status and what was said."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=10, **more)
    return caught.value.code(), caught.value.details()


def test_all_four_kinds_of_call_work(channel):
    answer = parsed(method(channel, "Reserve")(reserve_request("pear", 3), timeout=10))
    assert answer == {1: b"pear", 2: 97, 4: b"spiffe://shop/web"}
    assert [parsed(m)[2] for m in method(channel, "Watch")(reserve_request("pear", 9), timeout=10)] == list(range(9, 0, -1))
    assert parsed(method(channel, "Restock")((reserve_request("pear", n) for n in range(50)), timeout=10)) == {1: 50, 2: sum(range(50))}
    words = [word(f"word {n}") for n in range(200)]
    assert list(method(channel, "Chat")(iter(words), timeout=10)) == words


def test_streams_without_a_message_end(channel):
    assert list(method(channel, "Chat")(iter(()), timeout=10)) == []
    assert method(channel, "Restock")(iter(()), timeout=10) == b""


def test_large_messages_pass_both_ways(channel):
    large = "x" * (3 << 20)
    assert parsed(method(channel, "Reserve")(reserve_request(f"big:{3 << 20}"), timeout=20))[1] == large.encode()
    words = [word(large[: 1 << 20])] * 4
    assert list(method(channel, "Chat")(iter(words), timeout=20)) == words


def test_a_message_that_is_too_long_is_resource_exhausted(pair):
    with grpc.insecure_channel(str(pair.outbound), options=[("grpc.max_send_message_length", -1)]) as made:
        code, _ = status(method(made, "Reserve"), reserve_request("x" * (5 << 20)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_unknown_service_or_method_is_unimplemented(channel):
    call = channel.unary_unary("/shop.Nothing/Get")
    assert status(call, b"")[0] is grpc.StatusCode.UNIMPLEMENTED
    assert status(method(channel, "Forget"), b"")[0] is grpc.StatusCode.UNIMPLEMENTED


def test_what_the_module_says_of_a_failure_arrives(channel):
    assert status(method(channel, "Reserve"), reserve_request("pear", 500)) == (grpc.StatusCode.FAILED_PRECONDITION, "only 100 left")


def test_denied_is_permission_denied_and_never_reaches_the_module(channel, shop):
    before = len(shop.metadata)
    code, details = status(method(channel, "Secret"), b"")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "rules.csv" not in details
    assert len(shop.metadata) == before


def test_over_the_rate_is_resource_exhausted(channel):
    call = method(channel, "Reserve")
    ended = []
    for _ in range(5):
        try:
            call(reserve_request("pear"), timeout=10, metadata=(("x-rated", "yes"),))
            ended.append(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            ended.append(error.code())
    assert ended == [grpc.StatusCode.OK] * 3 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2


def test_too_slow_is_deadline_exceeded_by_the_route_and_by_the_caller(channel, shop):
    call = method(channel, "Reserve")
    began = time.monotonic()
    assert status(call, reserve_request("sleep:5"), metadata=(("x-short", "yes"),))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.25 < time.monotonic() - began < 3
    shop.cancelled.clear()
    with pytest.raises(grpc.RpcError) as caught:
        call(reserve_request("stall"), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert shop.cancelled.wait(3), "and the module need not go on"


def test_a_module_that_is_down_is_unavailable(tmp_path):
    with Shop() as module:
        nobody = module.address
    with Pair(tmp_path, f"h2c://{nobody}") as both, grpc.insecure_channel(str(both.outbound)) as made:
        assert status(method(made, "Reserve"), reserve_request("pear"))[0] is grpc.StatusCode.UNAVAILABLE
        with Shop(nobody):  # and when it is there again, it is used again

            def answered():
                try:
                    return method(made, "Reserve")(reserve_request("pear"), timeout=5)
                except grpc.RpcError:
                    return b""

            wait(answered, "calls go through once the module is back", 10)
        both.check()


def test_a_sidecar_that_is_down_is_unavailable(tmp_path):
    with Shop() as module, Pair(tmp_path, f"h2c://{module.address}") as both, grpc.insecure_channel(str(both.outbound)) as made:
        method(made, "Reserve")(reserve_request("pear"), timeout=10)
        both.orders.kill()
        assert status(method(made, "Reserve"), reserve_request("pear"))[0] is grpc.StatusCode.UNAVAILABLE
        both.orders.start()
        wait(lambda: method(made, "Reserve").with_call(reserve_request("pear"), timeout=5, wait_for_ready=True), "it is back", 10)


def test_cancellation_reaches_the_far_end_within_100_ms(channel, shop):
    """Unary calls and streams, a dozen of each; the middle one counts, for the machine has other things to do."""
    for kind, messages in (("Reserve", reserve_request("stall")), ("Watch", reserve_request("pear", 0))):
        took = []
        for _ in range(12):
            shop.begun.clear()
            shop.cancelled.clear()
            call = method(channel, kind)
            future = call.future(messages) if kind == "Reserve" else call(messages)
            if kind == "Watch":
                assert parsed(next(future))[2] == 100
            assert shop.begun.wait(5)
            at = time.monotonic()
            future.cancel()
            assert shop.cancelled.wait(5)
            took.append(shop.cancelled_at - at)
        print(f"{kind}: cancelled at the far end after {statistics.median(took) * 1e3:.1f} ms, at most {max(took) * 1e3:.1f} ms")
        assert statistics.median(took) < CANCEL_S, took


def test_the_deadline_is_less_at_each_hop(tmp_path):
    """The caller says 5 s; what the module is told is below it by at least a millisecond a hop, and by no more than time went by."""
    with Silent() as module, Pair(tmp_path, f"h2c://{module.address}", web=EVERYTHING) as both:
        fields = ((b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"5S"))
        with RawCaller.plain(both.outbound) as caller:
            began = time.monotonic()
            caller.ask(1, request_block(b"POST", b"/shop.Stock/Reserve", b"orders", *fields))
            calls = lambda: [head for head in module.heads if head[":path"] == "/shop.Stock/Reserve"]  # noqa: E731 - the sidecar asks, too
            wait(calls, "the module is asked", 5)
            spent_ms = (time.monotonic() - began) * 1e3
        (head,) = calls()
        told = re.fullmatch(r"(\d+)([a-zA-Z])", head["grpc-timeout"])
        assert told is not None
        unit_ms = {"H": 3.6e6, "M": 6e4, "S": 1e3, "m": 1, "u": 1e-3, "n": 1e-6}[told[2]]
        left_ms = int(told[1]) * unit_ms
        print(f"of 5000 ms the module is told {left_ms:g}, after {spent_ms:.1f} ms")
        assert 5000 - spent_ms - 4 <= left_ms <= 5000 - 2
        assert "flui-deadline" not in head
        wait(lambda: module.resets, "a caller that goes is told to the module", 5)


def test_the_module_reads_the_level_of_the_item(channel):
    assert method(channel, "Reserve")(reserve_request("pear"), timeout=10) == level("pear", 99, "spiffe://shop/web")

"""The gRPC modules of the shop by themselves: called by grpcio, the one calling the other as it would call its sidecar."""

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVICES = EXAMPLES / "services"
sys.path.insert(0, str(EXAMPLES / "proto"))

import shop_pb2 as shop  # noqa: E402  it lies beside the proto, in no package

COUNTER = [pytest.param("node", marks=[pytest.mark.peers]), "twin"]
PATIENCE_S = 20
pytestmark = pytest.mark.slow


class Module:
    """One that runs, and what it says on standard error."""

    def __init__(self, process):
        self.process = process
        self.first = process.stderr.readline()
        found = re.search(r"http://([\d.]+:\d+)", self.first)
        assert found, self.first
        self.address = found[1]

    def says(self):
        return self.process.stderr.readline()


@contextlib.contextmanager
def running(command, folder, **environment):
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "HOST": "127.0.0.1", "PORT": "0", **environment}, stderr=subprocess.PIPE, text=True
    )
    try:
        yield Module(process)
    finally:
        process.terminate()
        process.stderr.read()
        process.stderr.close()
        assert process.wait(10) == 0, "SIGTERM ends it with status 0"


class Client:
    """The stubs of shop.Stock at an address."""

    def __init__(self, channel):
        self.channel = channel
        self.reserve = channel.unary_unary("/shop.Stock/Reserve", shop.ReserveRequest.SerializeToString, shop.Level.FromString)
        self.watch = channel.unary_stream("/shop.Stock/Watch", shop.WatchRequest.SerializeToString, shop.Level.FromString)
        self.restock = channel.stream_unary("/shop.Stock/Restock", shop.Delivery.SerializeToString, shop.RestockSummary.FromString)
        self.chat = channel.stream_stream("/shop.Stock/Chat", shop.Word.SerializeToString, shop.Word.FromString)
        self.health = channel.unary_unary("/grpc.health.v1.Health/Check")


@contextlib.contextmanager
def calling(module):
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(module.address, options=options) as channel:
        yield Client(channel)


@contextlib.contextmanager
def warehouse(**environment):
    with running([sys.executable, "main.py"], SERVICES / "warehouse", **environment) as module:
        yield module


@contextlib.contextmanager
def counter(form, outbound):
    if form == "node":
        assert shutil.which("node"), "make test-peers needs Node"
    command = [sys.executable, "twin.py"] if form == "twin" else ["node", "server.js"]
    with running(command, SERVICES / "counter", OUTBOUND=f"http://{outbound}") as module:
        yield module


def status_of(call, *told, **how):
    with pytest.raises(grpc.RpcError) as caught:
        answer = call(*told, timeout=PATIENCE_S, **how)
        list(answer)
    return caught.value.code()


def test_the_warehouse_answers_all_four_kinds_of_calls():
    with warehouse(REPLICA="warehouse-2") as module, calling(module) as client:
        whom = [("flui-principal", "spiffe://shop/counter")]
        told = {"item": "apple", "replica": "warehouse-2", "principal": "spiffe://shop/counter"}
        level = client.reserve(shop.ReserveRequest(item="apple", quantity=2), timeout=PATIENCE_S, metadata=whom)
        assert level == shop.Level(left=999_998, **told)
        watched = client.watch(shop.WatchRequest(item="apple", most=2), timeout=PATIENCE_S, metadata=whom)
        assert next(watched) == level
        brought = [shop.Delivery(item="apple", quantity=1), shop.Delivery(item="pear", quantity=3)]
        assert client.restock(iter(brought), timeout=PATIENCE_S) == shop.RestockSummary(deliveries=2, quantity=4, replica="warehouse-2")
        assert list(watched) == [shop.Level(left=999_999, **told)]
        words = client.chat(iter([shop.Word(text="good"), shop.Word(text="day")]), timeout=PATIENCE_S)
        assert [word.text for word in words] == ["warehouse-2: good", "warehouse-2: day"]
        assert client.health(b"", timeout=PATIENCE_S) == b"\x08\x01"


def test_the_warehouse_tells_its_shape_to_whoever_asks():
    """Its sidecar does: this is all that REST, gRPC-Web and Connect in front of it need."""
    with warehouse() as module, calling(module) as client:
        known = ProtoReflectionDescriptorDatabase(client.channel)
        assert "shop.Stock" in known.get_services()
        file = known.FindFileContainingSymbol("shop.Stock")
        assert [method.name for method in file.service[0].method] == ["Reserve", "Watch", "Restock", "Chat"]


def test_the_warehouse_says_what_is_wrong_by_its_status():
    with warehouse() as module, calling(module) as client:
        assert status_of(client.reserve, shop.ReserveRequest(item="apple")) is grpc.StatusCode.INVALID_ARGUMENT
        assert status_of(client.reserve, shop.ReserveRequest(item="apple", quantity=2**30)) is grpc.StatusCode.FAILED_PRECONDITION
        assert status_of(client.restock, iter([shop.Delivery(item="apple")])) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("form", COUNTER)
def test_the_counter_hands_on_what_the_warehouse_says(form):
    with warehouse() as behind, counter(form, behind.address) as module, calling(module) as client:
        level = client.reserve(shop.ReserveRequest(item="pear", quantity=5), timeout=PATIENCE_S)
        assert (level.item, level.left, level.replica) == ("pear", 999_995, "warehouse")
        watched = client.watch(shop.WatchRequest(item="pear", most=2), timeout=PATIENCE_S)
        assert next(watched).left == 999_995
        client.reserve(shop.ReserveRequest(item="pear", quantity=1), timeout=PATIENCE_S)
        assert [level.left for level in watched] == [999_994]
        for _ in range(1000):
            client.reserve(shop.ReserveRequest(item="plum", quantity=1000), timeout=PATIENCE_S)
        assert status_of(client.reserve, shop.ReserveRequest(item="plum", quantity=1)) is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("form", COUNTER)
def test_the_counter_answers_what_it_knows_itself(form):
    """Nobody listens behind it."""
    with counter(form, "127.0.0.1:9") as module, calling(module) as client:
        words = client.chat((shop.Word(text=f"word {number} " + "x" * 300) for number in range(200)), timeout=PATIENCE_S)
        assert [word.text for word in words] == [f"counter: word {number} " + "x" * 300 for number in range(200)]
        assert client.health(b"", timeout=PATIENCE_S) == b"\x08\x01"
        assert status_of(client.reserve, shop.ReserveRequest(item="pear", quantity=1001)) is grpc.StatusCode.INVALID_ARGUMENT
        assert status_of(client.reserve, shop.ReserveRequest()) is grpc.StatusCode.INVALID_ARGUMENT
        assert status_of(client.restock, iter([])) is grpc.StatusCode.UNIMPLEMENTED
        assert status_of(client.reserve, shop.ReserveRequest(item="pear", quantity=1)) is grpc.StatusCode.UNAVAILABLE
        assert status_of(client.watch, shop.WatchRequest(item="pear")) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("form", COUNTER)
def test_a_deadline_reaches_the_warehouse_and_ends_there(form):
    with warehouse() as behind, counter(form, behind.address) as module, calling(module) as client:
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            client.reserve(shop.ReserveRequest(item="slow-plum", quantity=1), timeout=2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        told = re.fullmatch(r"warehouse: looking for slow-plum; there are (\S+) s to find it\n", behind.says())
        assert told
        assert float(told[1]) <= 2, "it was told what was left of the caller's time"
        assert behind.says().startswith("warehouse: nobody waits for slow-plum any more, after ")
        assert time.monotonic() - begun < 5, "it did not look for the item to the end"


@pytest.mark.parametrize("form", COUNTER)
def test_a_caller_that_goes_away_is_heard_of_in_the_warehouse(form):
    with warehouse() as behind, counter(form, behind.address) as module, calling(module) as client:
        call = client.reserve.future(shop.ReserveRequest(item="slow-pear", quantity=1), timeout=PATIENCE_S)
        assert behind.says().startswith("warehouse: looking for slow-pear")
        call.cancel()
        assert behind.says().startswith("warehouse: nobody waits for slow-pear any more, after ")


@pytest.mark.parametrize(("service", "file"), [("warehouse", "main.py"), ("counter", "twin.py")])
def test_without_grpcio_it_says_so_and_hangs_up_on_everybody(tmp_path, service, file):
    """`flui up` runs the shop with the Python that runs it, which may have no grpcio; the rest of the shop does without."""
    (tmp_path / "grpc.py").write_text("raise ImportError('No module named grpc')\n")
    with running([sys.executable, file], SERVICES / service, PYTHONPATH=str(tmp_path)) as module:
        assert f"{service}: left out: No module named grpc (pip install " in module.first
        host, _, port = module.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as customer:
            assert customer.recv(1) == b""


@pytest.mark.peers
def test_the_nodes_counter_speaks_grpc_only():
    with counter("node", "127.0.0.1:9") as module:
        host, _, port = module.address.rpartition(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)) as client:
            client.request("GET", "/")
            with pytest.raises((http.client.HTTPException, OSError)):
                client.getresponse()

"""Health asked by gRPC's own protocol: grpcio answers, in every way that it can."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from test_upstream_health import FAST, Rig

from flui.codecs import grpc_health
from flui.model.topology import Address, Cluster, Endpoint, Protocol

WAIT_S = 5.0


class Service(grpc.GenericRpcHandler):
    """`grpc.health.v1.Health`, whose answers are told it."""

    def __init__(self):
        self.status = {b"": grpc_health.SERVING}
        self.asked = []

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.check) if details.method == grpc_health.CHECK.decode() else None

    def check(self, request, context):
        name = grpc_health.asked(request)
        self.asked.append(name)
        if name not in self.status:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return grpc_health.answer(self.status[name])


@pytest.fixture
def served():
    with ThreadPoolExecutor(2) as pool:
        service = Service()
        server = grpc.server(pool, handlers=(service,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield service, Address("127.0.0.1", port)
        server.stop(None).wait(WAIT_S)


def cluster(address, name=b"", protocol=Protocol.HTTP2):
    rules = type(FAST)(interval_s=0.05, timeout_s=1.0, unhealthy=2, healthy=2, grpc=name)
    return Cluster("stock", (Endpoint("a", address),), health=rules, protocol=protocol)


def test_serving_means_well_and_anything_else_does_not(served):
    service, address = served

    async def story():
        rig = Rig()
        rig.put(cluster(address))
        await rig.until(lambda: rig.counts().get("well", 0) >= 2, "it is well")
        for status in (grpc_health.NOT_SERVING, grpc_health.UNKNOWN, grpc_health.SERVICE_UNKNOWN):
            service.status[b""] = status
            ill = rig.counts().get("ill", 0)
            await rig.until(lambda ill=ill: rig.counts().get("ill", 0) >= ill + 2 and rig.member().vitals.out, f"{status} is ill")
            service.status[b""] = grpc_health.SERVING
            await rig.until(lambda: not rig.member().vitals.out, "it is back")
        await rig.close()

    asyncio.run(story())


def test_the_service_is_named_and_one_that_is_not_known_is_ill(served):
    service, address = served
    service.status[b"shop.Stock"] = grpc_health.SERVING

    async def story():
        rig = Rig()
        rig.put(cluster(address, b"shop.Stock"))
        await rig.until(lambda: rig.counts().get("well", 0), "the service is well")
        rig.put(cluster(address, b"shop.Other"))
        await rig.until(lambda: rig.counts().get("ill", 0), "the other is not")
        await rig.close()

    asyncio.run(story())
    assert set(service.asked) == {b"shop.Stock", b"shop.Other"}


def test_one_that_is_spoken_to_in_http1_is_ill_and_one_that_is_gone_too(served):
    _, address = served

    async def story():
        rig = Rig()
        rig.put(cluster(address, protocol=Protocol.AUTO))
        await rig.until(lambda: rig.counts().get("ill", 0), "HTTP/1.1 in plain text")
        await rig.close()
        rig = Rig()
        rig.put(cluster(Address("127.0.0.1", 1)))
        await rig.until(lambda: rig.counts().get("ill", 0), "nobody is there")
        await rig.close()

    asyncio.run(story())

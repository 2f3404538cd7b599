"""What a module serves, asked by reflection: grpcio answers under either name, and others that answer badly."""

import asyncio
import gc
import threading
import time

import pytest
from grpc_reflection.v1alpha import reflection_pb2

from flui.model.config import Limits
from flui.model.topology import Address, Cluster, Endpoint, Protocol
from flui.routing.pick import Member
from flui.upstream import reflection
from flui.upstream.dial import connect
from flui.upstream.reflection import ReflectionError, ask
from support.reflected import V1, V1ALPHA, File, Reflected, file, stock

Response = reflection_pb2.ServerReflectionResponse


class Keeper:
    def forget(self, connection):
        """Nothing is kept."""


async def dialled(address):
    cluster = Cluster("@app", (Endpoint("app", address),), local=True, protocol=Protocol.HTTP2)
    return await connect(Keeper(), Member(cluster.endpoints[0]), cluster, None, Limits(), 2.0)


def asked(address, timeout_s=5.0):
    async def story():
        connection = await dialled(address)
        try:
            return await ask(connection, b"stock", timeout_s)
        finally:
            assert connection.busy == 0, "its lane came back, whatever happened"
            connection.close()

    return asyncio.run(story())


def names(shape):
    return [File.FromString(each).name for each in shape.files]


@pytest.mark.parametrize("served", [(V1, V1ALPHA), (V1,), (V1ALPHA,)])
def test_a_module_tells_its_shape_under_either_name(served):
    with Reflected(stock("Reserve", annotated=True), names=served) as module:
        shape = asked(module.address)
        assert shape.services == ("shop.Stock",)
        wanted = ["google/api/annotations.proto", "google/api/http.proto", "google/protobuf/descriptor.proto", "items/item.proto"]
        assert names(shape) == [*wanted, "shop/stock.proto"]
        assert [File.FromString(each).SerializeToString() for each in shape.files] == shape.files
        assert module.asked == [f"/{served[0]}/ServerReflectionInfo"]
        assert module.ended.acquire(timeout=5.0), "the stream was ended"


def test_a_file_is_asked_for_once_though_many_services_and_imports_name_it():
    shared = file("items/item.proto", "items", "Item", "name")
    both = File(name="shop/all.proto", package="shop", syntax="proto3", dependency=["items/item.proto"])
    for name in ("Stock", "Orders"):
        both.service.add(name=name).method.add(name="Get", input_type=".items.Item", output_type=".items.Item")
    other = File(name="other.proto", syntax="proto3", dependency=["items/item.proto"])
    other.service.add(name="Bare").method.add(name="Get", input_type=".items.Item", output_type=".items.Item")
    with Reflected([shared, both, other]) as module:
        shape = asked(module.address)
        assert shape.services == ("Bare", "shop.Orders", "shop.Stock")
        assert names(shape) == ["items/item.proto", "other.proto", "shop/all.proto"]
        said = [(each.WhichOneof("message_request"), getattr(each, each.WhichOneof("message_request"))) for each in module.questions]
        assert len(said) == len(set(said))
        assert [what for what, _ in said].count("file_containing_symbol") == 2


def test_imports_that_do_not_come_along_are_asked_for():
    files = {each.name: each for each in stock("Reserve", annotated=True)}

    def one_by_one(requests):
        for request in requests:
            if request.HasField("list_services"):
                yield listing("shop.Stock")
            else:
                yield filed(files[request.file_by_filename or "shop/stock.proto"])

    with Reflected(stock("Reserve"), answers=one_by_one) as module:
        assert names(asked(module.address)) == sorted(files)
        assert len(module.questions) == 1 + len(files)


def test_a_module_without_reflection_says_so():
    with Reflected(stock("Reserve"), names=()) as module, pytest.raises(ReflectionError, match="has no server reflection") as caught:
        asked(module.address)
    assert caught.value.absent


def test_one_that_never_answers_is_given_up_in_time():
    go = threading.Event()

    def silent(requests):
        go.wait(20.0)
        yield Response()

    with Reflected(stock("Reserve"), answers=silent) as module:
        began = time.monotonic()
        try:
            with pytest.raises(ReflectionError, match=r"did not tell its shape within 0\.3 s") as caught:
                asked(module.address, 0.3)
        finally:
            go.set()
        assert 0.3 <= time.monotonic() - began < 2.0
        assert not caught.value.absent


def listing(*services):
    answer = Response()
    for each in services:
        answer.list_services_response.service.add(name=each)
    return answer


def filed(*files):
    answer = Response()
    answer.file_descriptor_response.file_descriptor_proto.extend(
        each if isinstance(each, bytes) else each.SerializeToString() for each in files
    )
    return answer


def failed(code):
    answer = Response()
    answer.error_response.error_code = code
    return answer


def chain(number, size=0):
    """A file that imports the next one, without end."""
    return File(name=f"{number}.proto", package="a" * size, dependency=[f"{number + 1}.proto"])


def endless(requests, size=0):
    at = 0
    for request in requests:
        if request.HasField("list_services"):
            yield listing("shop.Stock")
        else:
            yield filed(chain(at, size))
            at += 1


def scripted(*answers):
    def play(requests):
        for answer in answers:
            next(requests)
            yield answer

    return play


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (endless, "more than 50 files"),
        (lambda requests: endless(requests, 3 << 20), "more than 10 MiB of itself"),
        (scripted(listing("a.B"), filed(chain(0, 4 << 20))), "a file of more than 4 MiB"),
        (scripted(listing(*(f"a.B{n}" for n in range(2_001)))), "more than 2000 services"),
        (scripted(listing("a.B"), failed(5)), "lists a.B, and does not tell it (it answers NOT_FOUND)"),
        (scripted(listing("a.B"), filed()), "lists a.B, and does not tell it (it answers OK)"),
        (scripted(listing("a.B"), filed(b"\xff\xff")), "a file that is no descriptor"),
        (scripted(failed(7)), "does not list its services (it answers PERMISSION_DENIED)"),
        (scripted(listing("a.B")), "ended the stream before it had told its shape"),
        (scripted(), "ended the stream before it had told its shape"),
    ],
)
def test_what_is_too_much_or_wrong_is_refused_in_plain_words(answers, says, monkeypatch):
    monkeypatch.setattr(reflection, "FILES", 50)
    with Reflected(stock("Reserve"), answers=answers) as module, pytest.raises(ReflectionError) as caught:
        asked(module.address, 10.0)
    assert says in str(caught.value)
    assert not caught.value.absent


def test_a_question_that_failed_is_gone_at_once():
    """No ring of an error, its frames and what they hold is left to the collector."""

    async def story(address):
        connection = await dialled(address)
        try:
            with pytest.raises(ReflectionError):
                await ask(connection, b"stock", 5.0)
        finally:
            connection.close()
        return [each for each in gc.get_objects() if type(each) is reflection._Talk]

    gc.collect()
    gc.disable()
    try:
        with Reflected(stock("Reserve"), answers=scripted(listing("a.B"))) as module:
            assert asyncio.run(story(module.address)) == []
    finally:
        gc.enable()


def test_an_import_that_the_module_does_not_have_is_left_out():
    lonely = File(name="shop/stock.proto", package="shop", dependency=["gone.proto"])
    lonely.service.add(name="Stock")
    with Reflected([], answers=scripted(listing("shop.Stock", V1, "grpc.health.v1.Health"), filed(lonely), failed(5))) as module:
        shape = asked(module.address)
    assert (shape.services, names(shape)) == (("shop.Stock",), ["shop/stock.proto"])


def test_one_that_speaks_http1_told_nothing():
    async def story():
        async def answer(reader, writer):
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        connection = await dialled(Address("127.0.0.1", server.sockets[0].getsockname()[1]))
        with pytest.raises(ReflectionError, match="broke off") as caught:
            await ask(connection, b"stock", 5.0)
        assert not caught.value.absent
        connection.close()
        server.close()
        await server.wait_closed()

    asyncio.run(story())


def test_cancelled_it_leaves_nothing_behind():
    go = threading.Event()

    def silent(requests):
        go.wait(20.0)
        yield Response()

    async def story(module):
        connection = await dialled(module.address)
        task = asyncio.get_running_loop().create_task(ask(connection, b"stock", 10.0))
        while not connection.lanes:  # noqa: ASYNC110 - the stream begins in the turn after
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (connection.busy, connection.lanes) == (0, {})
        connection.close()

    with Reflected(stock("Reserve"), answers=silent) as module:
        try:
            asyncio.run(story(module))
        finally:
            go.set()

"""gRPC modules that tell their shape: grpcio's reflection over descriptors that are made here, under either of its names.

    with Reflected(stock("Reserve")) as module:             shop.Stock with one method, on a port of its own
        module.address
    with Reflected(stock("Reserve", "Release"), at=module.address):       replaced by another version

Every method answers with what it was asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from flui.model.topology import Address

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
WAIT_S = 5.0

File = descriptor_pb2.FileDescriptorProto
_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_ONE = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL


def imported() -> list[File]:
    """`google/api/annotations.proto` and what it needs."""
    found = []
    for module in (descriptor_pb2, http_pb2, annotations_pb2):
        file = File()
        module.DESCRIPTOR.CopyToProto(file)
        found.append(file)
    return found


def file(name: str, package: str, message: str, *fields: str, imports: Sequence[str] = ()) -> File:
    """A file with one message, whose fields are texts."""
    made = File(name=name, package=package, syntax="proto3", dependency=imports)
    told = made.message_type.add(name=message)
    for number, each in enumerate(fields, 1):
        told.field.add(name=each, number=number, type=_STRING, label=_ONE)
    return made


def stock(*methods: str, fields: Sequence[str] = ("item",), annotated: bool = False) -> list[File]:
    """`shop.Stock`: its methods take and tell an `items.Item` of another file; annotated, `GET /v1/METHOD/{item}` leads to each."""
    item = file("items/item.proto", "items", "Item", *fields)
    made = File(name="shop/stock.proto", package="shop", syntax="proto3", dependency=["items/item.proto"])
    service = made.service.add(name="Stock")
    for name in methods:
        method = service.method.add(name=name, input_type=".items.Item", output_type=".items.Item")
        if annotated:
            method.options.Extensions[annotations_pb2.http].get = f"/v1/{name.lower()}/{{item}}"
    if annotated:
        made.dependency.append("google/api/annotations.proto")
    return [*(imported() if annotated else ()), item, made]


def unreadable(*methods: str) -> bytes:
    """A set like `stock`'s, but a `json_name` in it is no UTF-8."""
    files = stock(*methods)
    files[0].message_type[0].field[0].json_name = "UNREADABLE"
    return descriptor_set(files).replace(b"UNREADABLE", b"UNREADABL\xff")


def descriptor_set(files: Sequence[File]) -> bytes:
    """As `protoc --include_imports --descriptor_set_out` writes it."""
    return descriptor_pb2.FileDescriptorSet(file=files).SerializeToString()


class Reflected(grpc.GenericRpcHandler):
    """A server."""

    def __init__(
        self,
        files: Sequence[File],
        *,
        names: Sequence[str] = (V1, V1ALPHA),
        at: Address | None = None,
        answers: Callable[[Any], Iterator[Any]] | None = None,
        shared: bool = False,
    ) -> None:
        """Not listening yet.

        Args:
            files: What it tells of itself; all their services are its own.
            names: Under which reflection is served; none: it has no reflection.
            at: Where it listens; None: a port of its own.
            answers: Answers reflection in place of grpcio.
            shared: Others may listen there as well, as a version and the one that replaces it do.
        """
        self._shared = shared
        self._answers = answers
        self._names = names
        self.becomes(files)
        self._at = at or Address("127.0.0.1", 0)
        self.asked: list[str] = []
        """Paths of reflection, one for each stream."""
        self.questions: list[Any] = []
        self.ended = threading.Semaphore(0)
        """Released when a stream of reflection ends."""
        self.address: Address

    def becomes(self, files: Sequence[File]) -> None:
        """Serves something else from now on, on the connections that there are."""
        self.pool = pool = descriptor_pool.DescriptorPool()
        for each in files:
            pool.Add(each)
        self.services = [f"{each.package}.{service.name}".removeprefix(".") for each in files for service in each.service]
        self._servicer = reflection.ReflectionServicer([*self.services, *self._names], pool=pool)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        name = details.method[1:].partition("/")[0]
        if name in self._names:
            self.asked.append(details.method)
            return grpc.stream_stream_rpc_method_handler(
                self._reflect,
                request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        if name in self.services:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        return None

    def _reflect(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        def noted() -> Iterator[Any]:
            for request in requests:
                self.questions.append(request)
                yield request

        try:
            yield from self._answers(noted()) if self._answers else self._servicer.ServerReflectionInfo(noted(), context)
        finally:
            self.ended.release()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(4)
        self.server = grpc.server(self._pool, handlers=(self,), options=(("grpc.so_reuseport", int(self._shared)),))
        port = self.server.add_insecure_port(f"{self._at.host}:{self._at.port}")
        self.address = Address("127.0.0.1", port)
        self.server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(None)

    def stop(self, grace_s: float | None) -> None:
        """Ends it, as often as you like."""
        assert self.server.stop(grace_s).wait(WAIT_S + (grace_s or 0.0))
        self._pool.shutdown(wait=True)

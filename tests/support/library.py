"""A gRPC module of which REST callers can ask everything: `library.proto`, by grpcio, with reflection.

with Library() as library:
    library.address            h2c
    library.calls              what it was asked, as methods and messages in JSON
    library.messages           the library's classes of its messages, by their short names
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2

from support import schemas
from support.reflected import Reflected

BOOKS = 3
WAIT_S = 5.0


class Library(Reflected):
    """One replica."""

    def __init__(self, **more: Any) -> None:
        files = descriptor_pb2.FileDescriptorSet.FromString(schemas.descriptor_set("library.proto")).file
        super().__init__(list(files), **more)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.heard: list[bytes] = []
        """Messages of `Echo`."""
        self.metadata: dict[str, Any] = {}
        self.ended_early = threading.Semaphore(0)
        """Released for each call that its caller gave up."""
        pool = self.pool
        self._service = pool.FindServiceByName("lib.Library")
        named = {name: pool.FindMessageTypeByName(f"lib.{name}") for name in ("Book", "Books", "Summary")}
        self.messages = {name: message_factory.GetMessageClass(told) for name, told in named.items()}
        self.messages["All"] = message_factory.GetMessageClass(pool.FindMessageTypeByName("flui.tests.All"))

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """What serves a method."""
        service, _, name = details.method[1:].partition("/")
        if service != "lib.Library":
            return super().service(details)
        told = self._service.methods_by_name.get(name)
        if told is None:
            return None
        asks = message_factory.GetMessageClass(told.input_type)
        tells = message_factory.GetMessageClass(told.output_type)
        self.metadata = dict(details.invocation_metadata)
        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        kind = kinds[told.client_streaming, told.server_streaming]
        does = getattr(self, name)

        def noted(request: Any) -> Any:
            self.calls.append((name, json_format.MessageToDict(request, descriptor_pool=self.pool)))
            return request

        def served(request: Any, context: grpc.ServicerContext) -> Any:
            told_of = noted(request) if not hasattr(request, "__next__") else (noted(each) for each in request)
            return does(told_of, context)

        return kind(served, request_deserializer=asks.FromString, response_serializer=tells.SerializeToString)

    def _book(self, **fields: Any) -> Any:
        return self.messages["Book"](**fields)

    def GetBook(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Any book is there, but for one."""
        context.send_initial_metadata((("x-early", "1"),))
        context.set_trailing_metadata((("x-late", "2"),))
        if request.name.endswith("/none"):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such book")
        return self._book(name=request.name, title="T", pages=2**53 + 1)

    def CreateBook(self, request: Any, context: grpc.ServicerContext) -> Any:
        """With the name that it gets."""
        return self._book(name=f"{request.parent}/books/{request.id}", title=request.book.title)

    def UpdateBook(self, request: Any, context: grpc.ServicerContext) -> Any:
        """As it was sent."""
        return request.book

    def ListBooks(self, request: Any, context: grpc.ServicerContext) -> Any:
        """As many as are asked for."""
        return self.messages["Books"](books=[self._book(name=f"{n}") for n in range(request.most)], next="n")

    def WatchBooks(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """As many as are asked for, each when the one before was taken; negative: for ever."""
        if request.fail and not request.most:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")
        context.add_callback(lambda: None if context.code() is not None else self.ended_early.release())
        n = 0
        while n != request.most and context.is_active():
            yield self._book(name=f"{n}", title="x" * (1000 if request.most < 0 else 0))
            n += 1
        if request.fail:
            context.abort(grpc.StatusCode.ABORTED, "after all")

    def ImportBooks(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        """Counts them."""
        books = pages = 0
        for each in requests:
            books += 1
            pages += each.pages
        return self.messages["Summary"](books=books, pages=pages)

    def Chat(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Each comes back at once."""
        yield from requests

    def Echo(self, request: Any, context: grpc.ServicerContext) -> Any:
        """As it was sent."""
        self.heard.append(request.SerializeToString())
        return request

    def Fail(self, request: Any, context: grpc.ServicerContext) -> Any:
        """With details, one of which nobody knows."""
        status = status_pb2.Status(code=9, message="nö")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="EMPTY", metadata={"a": "b"}))
        status.details.add(type_url="type.googleapis.com/un.Known", value=b"\1\2")
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nö")

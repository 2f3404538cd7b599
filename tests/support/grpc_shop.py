"""`shop.Stock` by grpcio, and messages of it as octets: what a gRPC module in Python is, without generated code.

    with Shop() as shop:                                    listens on a port of its own
        channel = grpc.insecure_channel(str(shop.address))
        reserve(channel, "pear", 2)                         Level

Items do what their names say: `sleep:0.5` answers after so many seconds, `stall` never, `big:N` with N octets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc

from flui.model.topology import Address

STOCK = 100
SERVICE = "shop.Stock"


def varint(number: int) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def message(**fields: tuple[int, str | bytes | int]) -> bytes:
    """A message of protobuf: name=(number, value)."""
    octets = b""
    for number, value in fields.values():
        if isinstance(value, int):
            octets += varint(number << 3) + varint(value) if value else b""
        elif value:
            raw = value.encode() if isinstance(value, str) else value
            octets += varint(number << 3 | 2) + varint(len(raw)) + raw
    return octets


def parsed(octets: bytes) -> dict[int, bytes | int]:
    """Fields of a message by number: octets and integers."""
    found: dict[int, bytes | int] = {}
    at = 0

    def take() -> int:
        nonlocal at
        number = shift = 0
        while True:
            octet = octets[at]
            at += 1
            number |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                return number

    while at < len(octets):
        key = take()
        if key & 7 == 2:
            size = take()
            found[key >> 3] = octets[at : at + size]
            at += size
        else:
            found[key >> 3] = take()
    return found


def reserve_request(item: str, quantity: int = 1) -> bytes:
    return message(item=(1, item), quantity=(2, quantity))


def level(item: str, left: int, principal: str = "", replica: str = "") -> bytes:
    return message(item=(1, item), left=(2, left), replica=(3, replica), principal=(4, principal))


def word(text: str) -> bytes:
    return message(text=(1, text))


def method(channel: grpc.Channel, name: str) -> Any:
    """A call of `shop.Stock`, octets in and out."""
    kinds: dict[str, Callable[..., Any]] = {
        "Reserve": channel.unary_unary,
        "Watch": channel.unary_stream,
        "Restock": channel.stream_unary,
        "Chat": channel.stream_stream,
    }
    return kinds.get(name, channel.unary_unary)(f"/{SERVICE}/{name}")


class Shop(grpc.GenericRpcHandler):
    """The service, in threads of this process."""

    def __init__(self, at: Address | None = None, name: str = "") -> None:
        """Not listening yet.

        Args:
            at: Where to; None: a port of its own.
            name: Of the replica.
        """
        self._at = at or Address("127.0.0.1", 0)
        self._name = name
        self.metadata: list[dict[str, str]] = []
        """Of each call."""
        self.cancelled = threading.Event()
        """Some call was ended by its caller before it was answered."""
        self.cancelled_at = 0.0
        """When it was over; monotonic seconds."""
        self.begun = threading.Event()
        """Some call has begun."""
        self.address: Address
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(64)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.address = Address(self._at.host, self._server.add_insecure_port(f"{self._at.host}:{self._at.port}"))
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._server.stop(0).wait(5)
        self._pool.shutdown()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Called by grpcio for each call."""
        handlers = {
            f"/{SERVICE}/Reserve": grpc.unary_unary_rpc_method_handler(self._reserve),
            f"/{SERVICE}/Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            f"/{SERVICE}/Restock": grpc.stream_unary_rpc_method_handler(self._restock),
            f"/{SERVICE}/Chat": grpc.stream_stream_rpc_method_handler(self._chat),
        }
        return handlers.get(handler_call_details.method)

    def _enter(self, context: grpc.ServicerContext) -> dict[str, str]:
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        remaining = context.time_remaining()
        if remaining is not None and remaining < 1e6:
            metadata["left"] = f"{remaining:.3f}"
        self.metadata.append(metadata)
        self.begun.set()
        return metadata

    def _ending(self, context: grpc.ServicerContext) -> threading.Event:
        """Set when the call is over, whoever ended it."""
        over = threading.Event()

        def ended() -> None:
            self.cancelled_at = time.monotonic()
            over.set()

        if not context.add_callback(ended):
            ended()  # it was over before it had well begun
        return over

    def _wait(self, over: threading.Event, seconds: float | None) -> None:
        until = None if seconds is None else time.monotonic() + seconds
        while not self._stopping.is_set():
            left = 1.0 if until is None else until - time.monotonic()
            if left <= 0:
                return
            if over.wait(min(left, 1.0)):
                self.cancelled.set()
                return

    def _reserve(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = self._enter(context)
        fields = parsed(request)
        item = bytes(fields.get(1, b"")).decode()  # type: ignore[arg-type]  # a length-delimited field
        quantity = int(fields.get(2, 0))
        if item.startswith("sleep:"):
            self._wait(self._ending(context), float(item.partition(":")[2]))
        elif item == "stall":
            self._wait(self._ending(context), None)
        elif item.startswith("big:"):
            item = "x" * int(item.partition(":")[2])
        if quantity > STOCK:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"only {STOCK} left")
        return level(item, STOCK - quantity, metadata.get("flui-principal", ""), self._name)

    def _watch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._enter(context)
        fields = parsed(request)
        item = bytes(fields.get(1, b"")).decode()  # type: ignore[arg-type]  # as above
        most = int(fields.get(2, 0))
        if not most:
            over = self._ending(context)
            try:
                yield level(item, STOCK)
                self._wait(over, None)
            except GeneratorExit:  # grpcio lets go of a call that is cancelled while it sends
                self._wait(over, None)
                raise
        for left in range(most, 0, -1):
            yield level(item, left)

    def _restock(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._enter(context)
        count = quantity = 0
        for request in requests:
            count += 1
            quantity += int(parsed(request).get(2, 0))
        return message(deliveries=(1, count), quantity=(2, quantity), replica=(3, self._name))

    def _chat(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._enter(context)
        yield from requests

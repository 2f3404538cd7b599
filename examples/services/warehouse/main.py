"""The warehouse of the shop, by gRPC: all four kinds of calls of ../../proto/shop.proto. Needs requirements.txt, nothing else.

It tells its shape by server reflection, so its sidecar serves it to callers of REST, gRPC-Web and Connect as well, without a
line here about any of them.

What a caller may find out with it: an item called `slow-…` is looked for a long time, so that deadlines are seen to expire.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PORT = int(os.environ.get("PORT", "8000"))
HOST = os.environ.get("HOST", "127.0.0.1")
REPLICA = os.environ.get("REPLICA", "warehouse")
FULL = 1_000_000  # what every item starts with
SLOW_S = 5.0
CALLS_AT_ONCE = 64


def say(text):
    print(f"{REPLICA}: {text}", file=sys.stderr, flush=True)


try:
    import grpc
    from grpc_reflection.v1alpha import reflection

    sys.path.insert(0, str(Path(__file__).parents[2] / "proto"))
    import shop_pb2 as shop
except ImportError as error:
    # The rest of the shop does without: we listen, as we are expected to, and hang up on everybody.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # an exception may be lost in a callback that ignores it
    with socket.create_server((HOST, PORT)) as listener:
        say(f"left out: {error} (pip install -r requirements.txt); http://{HOST}:{listener.getsockname()[1]} hangs up")
        while True:
            listener.accept()[0].close()


class Stock:
    """What is left of each item, and those who watch."""

    def __init__(self):
        self.taken = {}
        self.changed = threading.Condition()

    def reserve(self, request, context):
        fields = dict(context.invocation_metadata())
        if not request.item or request.quantity < 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an item, and a quantity of at least 1")
        if request.item.startswith("slow-"):
            self.look_for(request.item, context)
        with self.changed:
            left = self.left(request.item)
            if request.quantity > left:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{left} left of {request.item}")
            self.move(request.item, -request.quantity)
            return self.level(request.item, fields)

    def watch(self, request, context):
        fields = dict(context.invocation_metadata())
        context.add_callback(self.wake)
        said = None
        for _ in range(request.most or sys.maxsize):
            with self.changed:
                self.changed.wait_for(lambda before=said: not context.is_active() or self.left(request.item) != before)
                if not context.is_active():
                    return
                level = self.level(request.item, fields)
            said = level.left
            yield level

    def restock(self, requests, context):
        deliveries = quantity = 0
        for delivery in requests:
            if not delivery.item or delivery.quantity < 1:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an item, and a quantity of at least 1")
            with self.changed:
                self.move(delivery.item, delivery.quantity)
            deliveries, quantity = deliveries + 1, quantity + delivery.quantity
        return shop.RestockSummary(deliveries=deliveries, quantity=quantity, replica=REPLICA)

    def chat(self, words, _):
        for word in words:
            yield shop.Word(text=f"{REPLICA}: {word.text}")

    def look_for(self, item, context):
        begun, left_s, over = time.monotonic(), context.time_remaining(), threading.Event()
        say(f"looking for {item}" + ("" if left_s is None else f"; there are {left_s:.3f} s to find it"))
        if not context.add_callback(over.set) or over.wait(SLOW_S):
            say(f"nobody waits for {item} any more, after {time.monotonic() - begun:.2f} s")

    def left(self, item):
        return FULL - self.taken.get(item, 0)

    def move(self, item, quantity):
        if len(self.taken) > 100_000:
            self.taken.clear()  # a demo forgets rather than grows
        self.taken[item] = self.taken.get(item, 0) - quantity
        self.changed.notify_all()

    def wake(self):
        with self.changed:
            self.changed.notify_all()

    def level(self, item, fields):
        return shop.Level(item=item, left=self.left(item), replica=REPLICA, principal=fields.get("flui-principal", ""))


def handlers(stock):
    def message(handler, request, answer, run):
        return handler(run, request_deserializer=request.FromString, response_serializer=answer.SerializeToString)

    calls = {
        "Reserve": message(grpc.unary_unary_rpc_method_handler, shop.ReserveRequest, shop.Level, stock.reserve),
        "Watch": message(grpc.unary_stream_rpc_method_handler, shop.WatchRequest, shop.Level, stock.watch),
        "Restock": message(grpc.stream_unary_rpc_method_handler, shop.Delivery, shop.RestockSummary, stock.restock),
        "Chat": message(grpc.stream_stream_rpc_method_handler, shop.Word, shop.Word, stock.chat),
    }
    health = {"Check": grpc.unary_unary_rpc_method_handler(lambda *_: b"\x08\x01")}  # SERVING, of grpc.health.v1
    return [
        grpc.method_handlers_generic_handler("shop.Stock", calls),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    ]


def main():
    server = grpc.server(ThreadPoolExecutor(CALLS_AT_ONCE), handlers=handlers(Stock()), options=[("grpc.so_reuseport", 0)])
    reflection.enable_server_reflection(["shop.Stock", "grpc.health.v1.Health", reflection.SERVICE_NAME], server)
    port = server.add_insecure_port(f"{HOST}:{PORT}")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server.start()
    say(f"http://{HOST}:{port}")
    with contextlib.suppress(KeyboardInterrupt):
        stop.wait()
    server.stop(None).wait()


if __name__ == "__main__":
    main()

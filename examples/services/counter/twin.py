"""The same counter as server.js, for machines without Node. Needs grpcio, protobuf and googleapis-common-protos."""

import contextlib
import os
import signal
import socket
import sys
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PORT = int(os.environ.get("PORT", "8000"))
HOST = os.environ.get("HOST", "127.0.0.1")
OUTBOUND = urllib.parse.urlsplit(os.environ.get("OUTBOUND", "http://127.0.0.1:15001"))
CALLS_AT_ONCE = 64


def say(text):
    print(f"counter: {text}", file=sys.stderr, flush=True)


try:
    import grpc

    sys.path.insert(0, str(Path(__file__).parents[2] / "proto"))
    import shop_pb2 as shop
except ImportError as error:
    # The rest of the shop does without: we listen, as we are expected to, and hang up on everybody.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # an exception may be lost in a callback that ignores it
    with socket.create_server((HOST, PORT)) as listener:
        say(f"left out: {error} (pip install -r ../warehouse/requirements.txt); http://{HOST}:{listener.getsockname()[1]} hangs up (twin)")
        while True:
            listener.accept()[0].close()


class Counter:
    """The sidecar is where we connect; :authority says whom we want, flui-key which of its replicas."""

    def __init__(self):
        self.sidecar = grpc.insecure_channel(
            OUTBOUND.netloc, options=[("grpc.default_authority", "warehouse"), ("grpc.enable_http_proxy", 0)]
        )
        self.reserve_there = self.sidecar.unary_unary("/shop.Stock/Reserve", shop.ReserveRequest.SerializeToString, shop.Level.FromString)
        self.watch_there = self.sidecar.unary_stream("/shop.Stock/Watch", shop.WatchRequest.SerializeToString, shop.Level.FromString)

    def reserve(self, request, context):
        if not request.item or not 1 <= request.quantity <= 1000:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an item, and a quantity of 1 to 1000")
        call = self.reserve_there.future(request, timeout=context.time_remaining(), metadata=handed_on(request, context))
        context.add_callback(call.cancel)
        with told_on(context):
            return call.result()

    def watch(self, request, context):
        if not request.item:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an item, and a quantity of 1 to 1000")
        call = self.watch_there(request, timeout=context.time_remaining(), metadata=handed_on(request, context))
        context.add_callback(call.cancel)
        with told_on(context):
            yield from call

    def chat(self, words, _):
        for word in words:
            yield shop.Word(text=f"counter: {word.text}")


def handed_on(request, context):
    trace = [(name, value) for name, value in context.invocation_metadata() if name == "traceparent"]
    return (("flui-key", request.item), *trace)


@contextlib.contextmanager
def told_on(context):
    """What the warehouse says goes to our caller as it is."""
    try:
        yield
    except grpc.FutureCancelledError:
        context.abort(grpc.StatusCode.CANCELLED, "the caller went away")
    except grpc.RpcError as error:
        context.abort(error.code(), error.details())


def handlers(counter):
    def message(handler, request, answer, run):
        return handler(run, request_deserializer=request.FromString, response_serializer=answer.SerializeToString)

    calls = {
        "Reserve": message(grpc.unary_unary_rpc_method_handler, shop.ReserveRequest, shop.Level, counter.reserve),
        "Watch": message(grpc.unary_stream_rpc_method_handler, shop.WatchRequest, shop.Level, counter.watch),
        "Chat": message(grpc.stream_stream_rpc_method_handler, shop.Word, shop.Word, counter.chat),
    }
    health = {"Check": grpc.unary_unary_rpc_method_handler(lambda *_: b"\x08\x01")}  # SERVING, of grpc.health.v1
    return [
        grpc.method_handlers_generic_handler("shop.Stock", calls),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    ]


def main():
    server = grpc.server(ThreadPoolExecutor(CALLS_AT_ONCE), handlers=handlers(Counter()), options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port(f"{HOST}:{PORT}")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server.start()
    say(f"http://{HOST}:{port} (twin)")
    with contextlib.suppress(KeyboardInterrupt):
        stop.wait()
    server.stop(None).wait()


if __name__ == "__main__":
    main()

"""The gRPC part of the tour: what tour.py shows of HTTP/1.1, and what only gRPC has. Needs grpcio and protobuf."""

import contextlib
import os
import queue
import re
import sys
import time
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent / "proto"))

import shop_pb2 as shop
from tour import CERTS, PATIENCE_S, POLICY, RUN, ask, flui, got, insist, mutual, step

SHORT_S = 1.0
CLOCKS_S = 0.05


class Stock:
    """The calls of shop.Stock at a service, through the outbound listener of a module, as that module would make them."""

    def __init__(self, outbound, service):
        options = [("grpc.default_authority", service), ("grpc.enable_http_proxy", 0)]
        self.channel = grpc.insecure_channel(os.environ[f"FLUI_{outbound.upper()}_OUTBOUND"], options=options)
        self.reserve = self.channel.unary_unary("/shop.Stock/Reserve", shop.ReserveRequest.SerializeToString, shop.Level.FromString)
        self.chat = self.channel.stream_stream("/shop.Stock/Chat", shop.Word.SerializeToString, shop.Word.FromString)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()


def outcome_of(call, request, timeout):
    """The answer in one line, or the status."""
    try:
        answer = call(request, timeout=timeout)
        return "OK", str(answer).strip().replace("\n", "  "), answer
    except grpc.RpcError as error:
        return error.code().name, error.details(), None


def allowed():
    step(9, "gRPC, allowed: web asks the counter (Node), the counter asks the warehouse (Python)")
    ask("shop.Stock/Reserve at counter  by grpcio, at the outbound listener of web")
    with Stock("web", "counter") as stock:
        status, said, level = outcome_of(stock.reserve, shop.ReserveRequest(item="plum", quantity=2), PATIENCE_S)
    got(f"{status}  {said}")
    insist(status == "OK", "through three sidecars, that of the counter twice, with HTTP/2 over mTLS between them", said)
    insist(level.replica == "warehouse", "the warehouse counted", said)
    insist(level.principal == "spiffe://shop/counter", "and was told who asked: spiffe://shop/counter", said)


def denied():
    step(10, "gRPC, denied: the rule that is missing is named, and the status is gRPC's own")
    ask("shop.Stock/Reserve at warehouse  as web, which is to ask the counter")
    with Stock("web", "warehouse") as stock:
        status, said, _ = outcome_of(stock.reserve, shop.ReserveRequest(item="plum", quantity=2), PATIENCE_S)
    got(f"{status}  {said}")
    insist(status == "PERMISSION_DENIED", "PERMISSION_DENIED", said)
    insist("role:" not in said and ".csv" not in said, "the refusal tells nothing of the inside", said)
    words = ["policy", "explain", "--policy", str(POLICY), "--as", "spiffe://shop/web", "warehouse", "CALL", "/shop.Stock/Reserve"]
    ask("flui " + " ".join(word if word != str(POLICY) else "policy" for word in words))
    _, said = flui(*words)
    got(said)
    insist("denied" in said and "nearest" in said, "the operator is told the rule, and the nearest one that would allow", said)


def late():
    step(11, "A deadline expires: at every hop, and where the work is done")
    ask(f"shop.Stock/Reserve of `slow-plum` at counter  as web, within {SHORT_S:g} s; the warehouse would look for it for five")
    begun = time.monotonic()
    with Stock("web", "counter") as stock:
        status, said, _ = outcome_of(stock.reserve, shop.ReserveRequest(item="slow-plum", quantity=1), SHORT_S)
    took = time.monotonic() - begun
    got(f"{status}  {said}  after {took:.2f} s")
    insist(status == "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", said)
    insist(took < SHORT_S + 1, "in time", f"{took:.2f} s")
    ask(f"what the warehouse wrote: {RUN / 'warehouse.log'}")
    found = written("warehouse.log", r"looking for slow-plum; there are (\S+) s to find it\n.*nobody waits for slow-plum any more[^\n]*")
    insist(found is not None, "it was asked, and it heard that nobody waits any more", (RUN / "warehouse.log").read_text())
    got(found[0])
    # grpcio says the time left by the wall clock, which is set while the machine runs: some milliseconds either way
    insist(float(found[1]) < SHORT_S + CLOCKS_S, f"it was told what the way there had left of the second: {found[1]} s", found[0])
    ask("how the call ended in the access logs")
    for sidecar in ("web", "counter", "warehouse"):
        found = written(f"{sidecar}-sidecar.access.log", r'"listener":"(\w+)"[^\n]*"grpc_status":"(DEADLINE_EXCEEDED|CANCELLED)"')
        insist(found is not None, f"the sidecar of {sidecar}: {found and found[2]} ({found and found[1]})")


def written(log, pattern):
    """The first match in a log of the run, for which it waits a little."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := re.search(pattern, (RUN / log).read_text(), re.DOTALL)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def talked():
    step(12, "A stream survives the rotation of a certificate")
    with contextlib.closing(mutual("counter")) as connection:
        old = connection.serial
    ask(f"shop.Stock/Chat at counter  as web: a stream that stays open; then flui certs issue counter (its serial number is {old})")
    words, count = queue.SimpleQueue(), 0
    with Stock("web", "counter") as stock:
        answers = stock.chat(iter(words.get, None), timeout=3 * PATIENCE_S)

        def talk():
            words.put(shop.Word(text=f"word {count}"))
            return next(answers).text == f"counter: word {count}"

        try:
            while count < 20 and talk():
                count += 1
            before, new, begun = count, old, time.monotonic()
            status, said = flui("certs", "issue", "--dir", str(CERTS), "counter")
            insist(status == 0, "a new leaf and key lie in the folder of certificates", said)
            while new == old and time.monotonic() < begun + PATIENCE_S and talk():
                count += 1
                with contextlib.closing(mutual("counter")) as connection:
                    new = connection.serial
                time.sleep(0.05)
            changed = count
            while count < changed + 20 and talk():
                count += 1
            words.put(None)
            left = list(answers)
        except grpc.RpcError as error:
            insist(False, "the stream goes on", f"after {count} words: {error.code().name} {error.details()}")
    got(f"{before} words, a new certificate (serial number {new}), {count - before} words, an end that both sides wished")
    insist(new != old, "new connections see the new certificate", new)
    insist(count >= before + 20 and not left, f"{count} words, each answered, in order, on one stream", (count, left))


def main():
    allowed()
    denied()
    late()
    talked()

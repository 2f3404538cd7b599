"""A rolling restart of both sidecars under gRPC load, with real processes: no unary call fails, streams end as they should.

The callers are grpcio channels, as a module has them. A sidecar that is told to end stops listening, says GOAWAY and ends what it has.

Taken over (`flui run --take-over`), its address is never without a listener, and one replica is enough. Without that the new process
listens as soon as the old one is gone, and in between nobody does: `web` sends what comes meanwhile to the other replica of
`orders`; where `web` itself is away, a caller that asks then waits for its channel to connect (`wait_for_ready`), which is
what gRPC offers for it. A call that was under way is not begun again by anybody.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import grpc
import pytest

from support.grpc_shop import Shop, method, reserve_request, word
from support.pair import EVERYTHING, Pair, wait

DRAIN_S = 3.0
CALLERS = 8
STREAMS = 8
QUICK = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
WEB = f"{EVERYTHING[:-3]}, timeout: 0, idle_timeout: 1h}}]\ntimeouts: {{drain: {DRAIN_S:g}s}}\n"


@dataclass
class Load:
    """Calls that never pause, each on a channel that several share."""

    channel: grpc.Channel
    stop: threading.Event = field(default_factory=threading.Event)
    calls: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    streams: list[tuple[float, str, str]] = field(default_factory=list)
    """Ends of streams: when, status, details."""
    open: int = 0

    def unary(self) -> None:
        call = method(self.channel, "Reserve")
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                call(reserve_request("pear"), timeout=30, wait_for_ready=True)
                self.calls["OK"] += 1
            except grpc.RpcError as error:
                self.calls[f"{error.code().name}: {error.details()}"] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def stream(self) -> None:
        """A chat that goes on until it is ended, then another one."""
        while not self.stop.is_set():
            over = threading.Event()

            def words(over=over):
                while not self.stop.is_set() and not over.is_set():
                    yield word("hello")
                    over.wait(0.05)

            call = method(self.channel, "Chat")(words(), wait_for_ready=True)
            self.open += 1
            try:
                for _ in call:
                    pass
            except grpc.RpcError as error:
                self.streams.append((time.monotonic(), error.code().name, error.details()))
            finally:
                over.set()
                self.open -= 1


def replaced(side):
    """A new process at the same address, SIGTERM, the end; when the last two were."""
    return *side.replace(), time.monotonic()


def restarted(side):
    """SIGTERM, the end, and a new process at the same address; when each was."""
    told = time.monotonic()
    side.term()
    assert side.ended() == 0
    gone = time.monotonic()
    side.start()
    return told, gone, time.monotonic()


@pytest.mark.parametrize(("replicas", "anew"), [(1, replaced), (2, restarted)])
def test_no_unary_call_fails_and_streams_end_unavailable_after_the_drain(tmp_path, replicas, anew):
    with Shop() as shop:
        app = f"{{url: 'h2c://{shop.address}', timeout: 0, idle_timeout: 1h}}"
        orders = f"timeouts: {{drain: {DRAIN_S:g}s}}\n"
        with Pair(tmp_path, app, replicas=replicas, web=WEB, orders=orders) as pair:
            rolling(pair, anew)


def rolling(pair, anew):
    channels = [grpc.insecure_channel(str(pair.outbound), options=[*QUICK, ("grpc.channel_id", n)]) for n in range(2)]
    unary, streams = (Load(channel) for channel in channels)
    threads = [threading.Thread(target=unary.unary) for _ in range(CALLERS)]
    threads += [threading.Thread(target=streams.stream) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    try:
        for side in (*pair.replicas, pair.web):
            wait(lambda: streams.open == STREAMS, "all streams are open")
            before = unary.calls["OK"]
            wait(lambda before=before: unary.calls["OK"] > before + 200, "calls go through")
            ended = len(streams.streams)
            told, gone, ready = anew(side)
            wait(lambda ended=ended: len(streams.streams) > ended and streams.open == STREAMS, "streams ended, and began anew")
            ends = streams.streams[ended:]
            print(
                f"{side.name}: gone {gone - told:.2f} s after SIGTERM, back {ready - gone:.2f} s later; unary {dict(unary.calls)}, "
                f"slowest {unary.slowest_s:.2f} s; streams ended {min(at for at, _, _ in ends) - told:.2f} to {max(at for at, _, _ in ends) - told:.2f} s after it: "
                f"{Counter((status, details) for _, status, details in ends)}"
            )
            assert {status for _, status, _ in ends} == {"UNAVAILABLE"}
            assert min(at for at, _, _ in ends) - told >= DRAIN_S - 0.1
        before = unary.calls["OK"]
        wait(lambda: unary.calls["OK"] > before + 200, "calls go through")
    finally:
        unary.stop.set()
        streams.stop.set()
        for thread in threads:
            thread.join(30)
        for channel in channels:
            channel.close()
    print(f"in all: {dict(unary.calls)}, slowest {unary.slowest_s:.2f} s")
    assert set(unary.calls) == {"OK"}

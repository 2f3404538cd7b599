"""What each part of a sidecar adds to the CPU time of a request: `python -m load.parts`.

One outbound request and its answer, 8 fields and 1 KiB, through the whole data path of a sidecar in this process, without
sockets: what the kernel, TLS and the network cost is not in it. Each row is the same path with one thing more (or less)
than the first row, measured in turns, so that a machine that drifts drifts for all.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import click

from flui import compiled
from flui.decide import Snapshot
from flui.downstream.connection import Downstream
from flui.downstream.relay import Gate, Relay
from flui.model.config import AccessLogging, Listener, Sidecar, Tracing
from flui.model.resilience import NO_RETRY, Concurrency, Mirror, Rate, RateBy, Retry
from flui.model.topology import Address, Cluster, Endpoint, Match, Route, Target
from flui.policy.base import Verdict
from flui.telemetry.journal import Journal
from flui.telemetry.logwriter import LogWriter, open_log
from flui.telemetry.meters import Meters
from flui.telemetry.recorder import Recorder
from flui.telemetry.spans import SpanRecord
from flui.telemetry.tap import Taps
from flui.upstream.pool import ClusterPool
from flui.upstream.pools import Pools
from flui.upstream.single import Single

REQUEST: Final = (
    b"GET /items/7 HTTP/1.1\r\nhost: backend\r\nuser-agent: parts/1\r\naccept: application/json\r\naccept-encoding: gzip, deflate\r\n"
    b"authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789\r\ncookie: session=abcdef0123456789\r\nflui-key: 42\r\n"
    b"x-request-id: 0af7651916cd43dd8448eb211c80319c\r\n"
)
TRACE: Final = b"traceparent: 00-0af7651916cd43dd8448eb211c80%04x-b7ad6b7169203331-%02x\r\n"
ANSWER: Final = b"HTTP/1.1 200 OK\r\nserver: b\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n" + b"x" * 1024
_REQUESTS: Final = 400


class _Allow:
    version = "parts"

    def decide(self, subject: str, service: str, action: str, obj: str) -> Verdict:
        del subject, service, action, obj
        return Verdict(allowed=True, rule="parts.csv:1")

    def roles(self, subject: str) -> tuple[str, ...]:
        del subject
        return ()

    def callers(self) -> tuple[str, ...]:
        return ()


class _Wire:
    """A transport that goes nowhere."""

    def write(self, octets: bytes) -> None:
        """Taken."""

    def set_write_buffer_limits(self, high: int) -> None:
        """As it likes."""

    def get_extra_info(self, name: str) -> None:
        """Nothing."""

    def resume_reading(self) -> None:
        """It never stops."""

    pause_reading = close = abort = resume_reading


class _Spans:
    def offer(self, span: SpanRecord) -> None:
        """Taken."""


@dataclass(frozen=True, slots=True)
class Part:
    """A row."""

    name: str
    config: Sidecar
    log: bool = True
    fresh: bool = False
    """Each request has another trace id."""
    sampled: bool = False
    tracing: Tracing | None = None


def _parts() -> list[Part]:
    cluster = Cluster("backend", (Endpoint("one", Address("192.0.2.1", 1)),))
    route = Route("all", Match(), (Target("backend"),))
    here = Listener("outbound", Address("127.0.0.1", 1), tls=False, authorize=True)
    base = Sidecar("parts", None, (here,), None, None, None, clusters=(cluster,), routes=(route,))
    rate = Rate(1e9, 1_000_000, RateBy.PRINCIPAL)

    def routed(**changes: object) -> Sidecar:
        return replace(base, routes=(replace(route, **changes),))  # type: ignore[arg-type]  # names of fields, checked at run time

    def clustered(**changes: object) -> Sidecar:
        return replace(base, clusters=(replace(cluster, **changes),))  # type: ignore[arg-type]  # names of fields, checked at run time

    everything = replace(
        base,
        clusters=(replace(cluster, rates=(rate,), concurrency=Concurrency(1000, 2000, 1000)),),
        routes=(replace(route, rates=(rate,), retry=Retry(per_try_s=5.0)),),
        access_log=AccessLogging(redact=("/items/:id",)),
    )
    tracing = Tracing("http://127.0.0.1:1/v1/traces", 100, 1e9)
    return [
        Part("as it comes: retries, outliers, breaker, metrics, access log", base),
        Part("without the access log", base, log=False),
        Part("without retries (`retry: off`)", routed(retry=NO_RETRY)),
        Part("without outlier ejection (`outlier: off`)", clustered(outlier=None)),
        Part("with a rate limit per principal", routed(rates=(rate,))),
        Part("with an adaptive concurrency limit", clustered(concurrency=Concurrency(1000, 2000, 1000))),
        Part("with a timeout per try", routed(retry=Retry(per_try_s=5.0))),
        Part("with 1 % of the traffic mirrored, to nobody", routed(mirror=Mirror("nobody", 100))),
        Part("with paths redacted", replace(base, access_log=AccessLogging(redact=("/items/:id",)))),
        Part("with 1 % of the successes logged", replace(base, access_log=AccessLogging(successes_bp=100))),
        Part("with `server-timing`", replace(base, listeners=(replace(here, server_timing=("*",)),))),
        Part("with tracing, not sampled", base, tracing=tracing),
        Part("with tracing, every request sampled", base, sampled=True, tracing=tracing),
        Part("with rates, limit, timeout per try, redaction and tracing (not sampled) together", everything, tracing=tracing),
        Part("a new trace id in every request", base, fresh=True),
    ]


class _Path:
    """The data path of one part."""

    def __init__(self, part: Part, log: LogWriter, loop: asyncio.AbstractEventLoop) -> None:
        meters = Meters()
        journal = Journal(log, time.time)  # noqa: TID251 - the edge
        config = part.config
        snapshot = Snapshot(config, _Allow(), "spiffe://parts/parts", 1)
        pools = Pools(lambda cluster: ClusterPool(cluster, None, config.limits, config.timeouts, meters, Random(1)))
        recorder = Recorder(meters, log if part.log else None, config.access_log, Taps("parts", lambda: snapshot.policy, journal))
        relay = Relay(snapshot, pools, recorder, None, journal, loop)
        pools.update(config.clusters, config.limits, config.timeouts)
        if part.tracing is not None:
            relay.sampler.replace(part.tracing)
            relay.traces = True
            recorder.spans = _Spans()
        self._down = Downstream(Gate(relay, config.listeners[0]), loop.time())
        self._down.connection_made(_Wire())  # type: ignore[arg-type]  # as much of a transport as is needed
        pool = pools.by_name["backend"]
        member = pool.pick(b"", ())
        assert member is not None
        self._up = Single(pool, member, config.limits)
        self._up.connection_made(_Wire())  # type: ignore[arg-type]  # as much of a transport as is needed
        pool.release(self._up, 0.0)
        flags = 1 if part.sampled else 0
        numbers = range(_REQUESTS) if part.fresh else [0] * _REQUESTS
        self._requests = [REQUEST + TRACE % (number, flags) + b"\r\n" for number in numbers]

    def run(self) -> float:
        """CPU µs per request."""
        down, up, answer = self._down, self._up, ANSWER
        begun = time.process_time()
        for request in self._requests:
            down.received(request)
            up.received(answer)
        return (time.process_time() - begun) / len(self._requests) * 1e6

    def stop(self) -> None:
        """Ends it."""
        self._down.connection_lost(None)


async def _measure(rounds: int) -> list[tuple[Part, float]]:
    loop = asyncio.get_running_loop()
    log = open_log(os.devnull)
    assert log is not None
    paths = [(part, _Path(part, log, loop)) for part in _parts()]
    best = [float("inf")] * len(paths)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    for _ in range(rounds):
        for at, (_, path) in enumerate(paths):
            best[at] = min(best[at], path.run())
        await asyncio.sleep(0)
    for _, path in paths:
        path.stop()
    log.close(1.0)
    return [(part, best[at]) for at, (part, _) in enumerate(paths)]


@click.command(epilog="Example: .venv/bin/python -m load.parts --rounds 100; PYTHONPATH=build/native .venv/bin/python -m load.parts")
@click.option("--rounds", type=click.IntRange(1, 10_000), default=60, show_default=True, help="Turns of each row; the best one counts.")
def main(rounds: int) -> None:
    """Prints CPU time per request of the data path, and what each part adds."""
    rows = asyncio.run(_measure(rounds))
    base = rows[0][1]
    click.echo(
        f"{'compiled' if compiled() else 'interpreted'} form, data path without sockets, best of {rounds} turns of {_REQUESTS} requests"
    )
    for part, micros in rows:
        click.echo(f"{micros:7.2f} µs  {micros - base:+6.2f}  {part.name}")


if __name__ == "__main__":
    main()

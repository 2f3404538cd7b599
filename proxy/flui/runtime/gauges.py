"""What `/metrics` reads of a running sidecar at the moment it is asked."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flui import __version__, compiled
from flui.model.resilience import PRIORITY_NAMES
from flui.telemetry import resources
from flui.telemetry.families import (
    API_METHODS,
    BREAKER_LIMIT,
    BREAKER_REFUSED,
    BREAKER_USED,
    BUFFERED,
    BUILD_INFO,
    CERTIFICATE_EXPIRY,
    CLUSTER_PANIC,
    CONCURRENCY_LIMIT,
    CONNECTIONS_OPEN,
    ENDPOINT_ACTIVE,
    ENDPOINT_AVAILABLE,
    ENDPOINT_REQUESTS,
    ENDPOINT_SHARE,
    FLOW_LOOKUPS,
    FLOWS,
    HTTP2_BOUNDS,
    LOG_LINES_DROPPED,
    LOG_LINES_SAMPLED,
    LOOP_LAG,
    OVERLOAD_LEVEL,
    POLICY_INFO,
    RETRIES,
    RETRIES_ACTIVE,
    RETRIES_ALLOWED,
    SHED,
    SPANS,
    UPSTREAM_CONNECTIONS,
    UPTIME,
)
from flui.telemetry.meters import Samples
from flui.upstream.pool import ClusterPool

if TYPE_CHECKING:
    from flui.runtime.sidecar import Running


def register(running: Running) -> None:
    """Has the page of a sidecar's meters ask for everything that is not counted but read."""
    relay = running.relay
    meters = running.meters
    read = meters.read
    read(BUILD_INFO, lambda: [((__version__, platform.python_version(), "compiled" if compiled() else "pure"), 1)])
    read(UPTIME, lambda: [((), time.monotonic() - running.started_at)])
    read(API_METHODS, lambda: [] if running.api.is_off else [((), len(running.api.schema.methods))])
    read(FLOWS, lambda: [((), len(relay.snapshot.flows))])
    read(FLOW_LOOKUPS, lambda: [(("hit",), relay.hits), (("miss",), relay.misses)])
    read(POLICY_INFO, lambda: [((running.policy.version,), 1)])
    read(CONNECTIONS_OPEN, lambda: [((gate.listener.name,), len(gate.connections)) for gate in running.gates])
    read(UPSTREAM_CONNECTIONS, lambda: _connections(running))
    read(LOOP_LAG, lambda: [((), relay.pressure.lag_s)])
    read(OVERLOAD_LEVEL, lambda: [((), relay.pressure.level)])
    read(BUFFERED, lambda: _buffered(running))
    read(LOG_LINES_SAMPLED, lambda: [((), relay.recorder.sampled)])
    read(HTTP2_BOUNDS, lambda: [((gate.listener.name, what), n) for gate in running.gates for what, n in gate.bounds_met().items()])
    read(SPANS, lambda: [*relay.sampler.samples(), *(running.exporter.samples() if running.exporter is not None else ())])
    read(CLUSTER_PANIC, lambda: [((name,), int(pool.fitness.panics)) for name, pool in _pools(running)])
    read(BREAKER_USED, lambda: _breakers(running, used=True))
    read(BREAKER_LIMIT, lambda: _breakers(running, used=False))
    read(RETRIES_ACTIVE, lambda: [((name,), pool.guard.budget.used) for name, pool in _pools(running)])
    read(RETRIES_ALLOWED, lambda: [((name,), pool.guard.budget.allowed(pool.active)) for name, pool in _pools(running)])
    read(CONCURRENCY_LIMIT, lambda: [((n,), pool.guard.limiter.limit) for n, pool in _pools(running) if pool.guard.limiter is not None])
    read(ENDPOINT_AVAILABLE, lambda: [((n, e.name), int(not m.out)) for n, pool in _pools(running) for e, m in pool.members.items()])
    read(ENDPOINT_SHARE, lambda: [((n, e.name), 0.0 if m.out else m.share) for n, p in _pools(running) for e, m in p.members.items()])
    read(ENDPOINT_REQUESTS, lambda: [((n, e.name), m.total) for n, pool in _pools(running) for e, m in pool.members.items()])
    read(ENDPOINT_ACTIVE, lambda: [((n, e.name), m.active) for n, pool in _pools(running) for e, m in pool.members.items()])
    access_log = running.access_log
    if access_log is not None:
        read(LOG_LINES_DROPPED, lambda: [(("access",), access_log.dropped)])
    credentials = running.credentials
    if credentials is not None:
        read(CERTIFICATE_EXPIRY, lambda: [(("leaf",), credentials.expires_at)])
    resources.register(meters, running.config.app, running.config.access_log.file)
    # A rate begins with the second value of its counter: what may come rarely is there from the start, with 0.
    read(RETRIES, lambda: [((name, outcome), 0) for name, _ in _pools(running) for outcome in ("sent", "over_budget")])
    read(BREAKER_REFUSED, lambda: [((name, what), 0) for name, _ in _pools(running) for what in ("connections", "pending", "requests")])
    read(SHED, lambda: [((gate.listener.name, name.decode(), "overload"), 0) for gate in running.gates for name in PRIORITY_NAMES])


def _pools(running: Running) -> Iterator[tuple[str, ClusterPool]]:
    yield from running.relay.pools.by_name.items()


def _connections(running: Running) -> Samples:
    for name, pool in _pools(running):
        idle = pool.idle_count()
        yield (name, "idle"), idle
        yield (name, "busy"), pool.open_count() - idle


def _breakers(running: Running, *, used: bool) -> Samples:
    for name, pool in _pools(running):
        breaker = pool.cluster.breaker
        yield (name, "connections"), pool.open_count() if used else breaker.connections
        yield (name, "pending"), pool.pending if used else breaker.pending
        yield (name, "requests"), pool.active if used else breaker.requests


def _buffered(running: Running) -> Samples:
    connections = [connection for gate in running.gates for connection in gate.connections]
    yield ("downstream",), sum(connection.transport.get_write_buffer_size() for connection in connections)
    yield ("upstream",), running.relay.pools.buffered_octets()
    yield ("replay",), sum(exchange.splice.kept_octets for connection in connections for exchange in connection.exchanges())

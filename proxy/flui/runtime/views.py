"""What the admin API shows of a running sidecar, and the gauges that `/metrics` reads."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flui import __version__, compiled
from flui.model.topology import KeySource
from flui.runtime.admin import Query, Reply, as_json, as_text
from flui.telemetry.exposition import CONTENT_TYPE, page
from flui.telemetry.families import (
    BUILD_INFO,
    CERTIFICATE_EXPIRY,
    CONNECTIONS_OPEN,
    FLOW_LOOKUPS,
    FLOWS,
    LOG_LINES_DROPPED,
    POLICY_INFO,
    UPSTREAM_CONNECTIONS,
    UPTIME,
)
from flui.telemetry.meters import Samples

if TYPE_CHECKING:
    from flui.runtime.sidecar import Running

_FLOWS_SHOWN = 1_000


def routes(running: Running) -> dict[str, Callable[[Query], Reply]]:
    """Path → page."""
    return {
        "/live": lambda _: as_json({"live": True}),
        "/ready": lambda _: _ready(running),
        "/metrics": lambda _: as_text(page(running.meters), CONTENT_TYPE),
        "/config": lambda _: as_json(running.relay.snapshot.config),
        "/flows": lambda query: _flows(running, query),
        "/clusters": lambda _: _clusters(running),
        "/connections": lambda _: as_json(
            [{"listener": gate.listener.name, **connection.describe()} for gate in running.gates for connection in gate.connections]
        ),
        "/policy": lambda _: _policy(running),
        "/certs": lambda _: _certs(running),
    }


def _ready(running: Running) -> Reply:
    why = [] if running.ready else ["draining" if hasattr(running, "relay") and running.relay.draining else "starting"]
    return as_json({"ready": running.ready, "why": why}, 200 if running.ready else 503)


def _flows(running: Running, query: Query) -> Reply:
    wanted = query.values.get("principal", "")
    shown: list[dict[str, object]] = []
    for (listener, principal, method, host, path, _), decision in running.relay.snapshot.flows.items():
        if wanted and wanted != principal:
            continue
        action = decision.action
        shown.append(
            {
                "listener": listener,
                "principal": principal,
                "method": method,
                "host": host,
                "path": path,
                "action": type(action).__name__.lower(),
                "fault": getattr(getattr(action, "fault", None), "value", ""),
                "to": ",".join(target.cluster for target in getattr(action, "targets", ())),
                "service": decision.why.service,
                "route": decision.why.route,
                "rule": decision.why.rule,
            }
        )
        if len(shown) >= _FLOWS_SHOWN:
            break
    return as_json(shown)


def _clusters(running: Running) -> Reply:
    shown = []
    for name, pool in running.relay.pools.by_name.items():
        balance = pool.cluster.balance
        shown.append(
            {
                "cluster": name,
                "identity": pool.cluster.identity or "",
                "balance": balance.policy.value,
                "key": balance.key.source.value if balance.key.source is not KeySource.HEADER else balance.key.name.decode(),
                "idle": pool.idle_count(),
                "open": pool.open_count(),
                "endpoints": [
                    {"name": e.name, "address": str(e.address), "weight": e.weight, "active": m.active, "available": m.available}
                    for e, m in pool.members.items()
                ],
            }
        )
    return as_json(shown)


def _policy(running: Running) -> Reply:
    policy = running.policy
    return as_json(
        {
            "version": policy.version,
            "folder": running.config.policy or "",
            "rules": len(getattr(policy, "rules", ())),
            "grants": len(getattr(policy, "grants", ())),
            "snapshot": running.relay.snapshot.version,
            "not in force": [str(problem) for problem in running.policy_problems],
        }
    )


def _certs(running: Running) -> Reply:
    credentials = running.credentials
    if credentials is None:
        return as_json({"identity": running.relay.snapshot.identity, "tls": False})
    return as_json(
        {
            "identity": credentials.principal.name,
            "trust domain": credentials.trust_domain,
            "serial": credentials.principal.serial,
            "expires": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(credentials.expires_at)),
            "generation": credentials.generation,
            "folder": str(credentials.folder),
            "not in force": [str(problem) for problem in credentials.problems],
        }
    )


def register(running: Running) -> None:
    """Gauges and counters that are read when `/metrics` is."""
    relay = running.relay
    read = running.meters.read
    read(BUILD_INFO, lambda: [((__version__, platform.python_version(), "compiled" if compiled() else "pure"), 1)])
    read(UPTIME, lambda: [((), time.monotonic() - running.started_at)])
    read(FLOWS, lambda: [((), len(relay.snapshot.flows))])
    read(FLOW_LOOKUPS, lambda: [(("hit",), relay.hits), (("miss",), relay.misses)])
    read(POLICY_INFO, lambda: [((running.policy.version,), 1)])
    read(CONNECTIONS_OPEN, lambda: [((gate.listener.name,), len(gate.connections)) for gate in running.gates])
    read(UPSTREAM_CONNECTIONS, lambda: _upstreams(running))
    access_log = running.access_log
    if access_log is not None:
        read(LOG_LINES_DROPPED, lambda: [(("access",), access_log.dropped)])
    credentials = running.credentials
    if credentials is not None:
        read(CERTIFICATE_EXPIRY, lambda: [(("leaf",), credentials.expires_at)])


def _upstreams(running: Running) -> Samples:
    for name, pool in running.relay.pools.by_name.items():
        idle = pool.idle_count()
        yield (name, "idle"), idle
        yield (name, "busy"), pool.open_count() - idle

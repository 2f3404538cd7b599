"""What the admin API shows of a running sidecar, and the gauges that `/metrics` reads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flui.model.topology import KeySource
from flui.runtime import apiviews
from flui.runtime.admin import Handler, Query, Reply, as_json, as_text, tap_page
from flui.telemetry.exposition import CONTENT_TYPE, page
from flui.telemetry.redact import redactor

if TYPE_CHECKING:
    from flui.runtime.sidecar import Running

_FLOWS_SHOWN = 1_000


def routes(running: Running) -> dict[str, Handler]:
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
        "/tap": tap_page(running.taps),
        "/policy": lambda _: _policy(running),
        "/api": lambda _: apiviews.api(running),
        "/openapi.json": lambda _: apiviews.openapi(running),
        "/descriptors": lambda _: apiviews.descriptors(running),
        "/certs": lambda _: _certs(running),
    }


def _ready(running: Running) -> Reply:
    why = [] if running.ready else ["draining" if hasattr(running, "relay") and running.relay.draining else "starting"]
    if running.ready and running.api.lacking:
        why.append(running.api.lacking)
    api = {} if running.api.is_off else {"api": running.api.told()}
    return as_json({"ready": not why, "why": why, **api}, 503 if why else 200)


def _flows(running: Running, query: Query) -> Reply:
    """Paths are shown as the access log shows them: who may read this page need not be allowed to tap."""
    hides = redactor(running.relay.snapshot.config.access_log.redact)
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
                "path": path if hides is None else hides.path(path),
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
                "active": pool.active,
                "pending": pool.pending,
                "panic": pool.fitness.panics,
                "retries": {"used": pool.guard.budget.used, "allowed": pool.guard.budget.allowed(pool.active)},
                "concurrency_limit": pool.guard.limiter.limit if pool.guard.limiter is not None else None,
                "endpoints": [
                    {
                        "name": e.name,
                        "address": str(e.address),
                        "weight": e.weight,
                        "active": m.active,
                        "available": m.available,
                        "share": round(m.share, 4),
                        "why": m.vitals.why,
                    }
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

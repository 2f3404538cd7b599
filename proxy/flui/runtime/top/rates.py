"""Two samples of a sidecar in, what is shown of it out. Pure: nothing here asks, waits or draws.

Metrics that a page does not have leave their rows or columns empty.
"""

from __future__ import annotations

from typing import Final

from flui.runtime.top.growth import Growth, quantile
from flui.runtime.top.sample import EndpointState, Sample
from flui.runtime.top.view import ClusterRow, EndpointRow, Gate, Head, PeerRow, RefusalRow, RouteRow, View
from flui.telemetry import families as of
from flui.telemetry.families import Family

PROCESS_CPU: Final = "flui_process_cpu_seconds_total"
PROCESS_RESIDENT: Final = "flui_process_resident_octets"
MODULE_CPU: Final = "flui_module_cpu_seconds_total"
MODULE_RESIDENT: Final = "flui_module_resident_octets"
ENDPOINT_REQUESTS: Final = "flui_endpoint_requests_total"
"""Tries sent to an endpoint: `cluster`, `endpoint`."""

_ROUTE: Final = ("listener", "service", "route")
_ENDPOINT: Final = ("cluster", "endpoint")
_REFUSED: Final[tuple[tuple[str, Family, tuple[str, ...], tuple[str, ...]], ...]] = (
    ("fault", of.FAULTS, ("fault",), ("listener",)),
    ("rate limit", of.RATE_LIMITED, ("route",), ("listener",)),
    ("shed", of.SHED, ("priority", "why"), ("listener",)),
    ("breaker", of.BREAKER_REFUSED, ("what",), ("cluster",)),
    ("handshake", of.HANDSHAKES_REFUSED, ("reason",), ("listener",)),
    ("connection", of.CONNECTIONS_REFUSED, ("why",), ("listener",)),
)
"""Kind, metric, labels that say what, labels that say where."""

_FORBIDDEN: Final = "403"
_FULL: Final = 0.995
"""A share that is shown as 100 %."""


def view(before: Sample | None, now: Sample, long_before: Sample | None = None) -> View:
    """What a sidecar did.

    Args:
        before: an earlier sample; None: there is none, so the view is of its whole life.
        now: the later one.
        long_before: one earlier still, for CPU, which a sidecar does not read anew for every page; None: `before`.
    """
    grown = Growth(before, now)
    routes = _routes(grown)
    return View(
        _head(now, grown, Growth(long_before or before, now)),
        grown.over_s,
        grown.since_start,
        routes,
        _endpoints(now, grown),
        _clusters(grown),
        _refusals(grown),
        _peers(grown),
    )


def _buckets(growth: Growth, by: tuple[str, ...]) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """Buckets of the durations, by some of their labels."""
    buckets: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for key, number in growth.grown(f"{of.DURATION.name}_bucket", (*by, "le")).items():
        buckets.setdefault(key[:-1], []).append((float(key[-1] or "inf"), number))
    return buckets


def _is_error(code: str) -> bool:
    return len(code) == 3 and code >= "500"


def _head(now: Sample, growth: Growth, longer: Growth) -> Head:
    metrics = now.metrics
    build = next((dict(labels) for labels in metrics.get(of.BUILD_INFO.name, {})), {})
    policy = next((dict(labels).get("version", "") for labels in metrics.get(of.POLICY_INFO.name, {})), "")
    codes = growth.rates(of.REQUESTS.name, ("code",))
    buckets = _buckets(growth, ()).get((), [])
    return Head(
        sidecar=now.who.name,
        identity=now.who.identity,
        ready=now.ready,
        why=now.why,
        up_s=growth.gauge(of.UPTIME.name),
        policy=policy,
        version=build.get("version", ""),
        form=build.get("form", ""),
        lag_s=growth.gauge(of.LOOP_LAG.name),
        overload=int(growth.gauge(of.OVERLOAD_LEVEL.name) or 0),
        cpu=longer.rates(PROCESS_CPU, ()).get(()),
        memory_octets=_whole(growth.gauge(PROCESS_RESIDENT)),
        module_cpu=longer.rates(MODULE_CPU, ()).get(()),
        module_memory_octets=_whole(growth.gauge(MODULE_RESIDENT)),
        connections=int(growth.gauge(of.CONNECTIONS_OPEN.name) or 0),
        requests_per_s=sum(codes.values()),
        errors_per_s=sum(rate for (code,), rate in codes.items() if _is_error(code)),
        p50_s=quantile(buckets, 0.5),
        p99_s=quantile(buckets, 0.99),
    )


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _routes(growth: Growth) -> tuple[RouteRow, ...]:
    rates = growth.rates(of.REQUESTS.name, _ROUTE)
    totals = growth.totals(of.REQUESTS.name, _ROUTE)
    buckets = _buckets(growth, _ROUTE)
    spent = growth.rates(f"{of.DURATION.name}_sum", _ROUTE)
    errors: dict[tuple[str, ...], float] = {}
    for (*route, code), rate in growth.rates(of.REQUESTS.name, (*_ROUTE, "code")).items():
        if _is_error(code):
            errors[tuple(route)] = errors.get(tuple(route), 0.0) + rate
    rows = [
        RouteRow(
            listener=key[0],
            service=key[1],
            route=key[2],
            requests_per_s=rate,
            errors_per_s=errors.get(key, 0.0),
            error_share=errors.get(key, 0.0) / rate if rate else 0.0,
            p50_s=quantile(buckets.get(key, ()), 0.5),
            p99_s=quantile(buckets.get(key, ()), 0.99),
            in_flight=spent.get(key, 0.0),
            requests=int(totals[key]),
        )
        for key, rate in rates.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.requests_per_s, -row.requests, row.listener, row.service, row.route)))


def _endpoints(now: Sample, growth: Growth) -> tuple[EndpointRow, ...]:
    shown = {(each.cluster, each.name): each for each in now.endpoints}
    available, shares, active = (
        growth.totals(family.name, _ENDPOINT) for family in (of.ENDPOINT_AVAILABLE, of.ENDPOINT_SHARE, of.ENDPOINT_ACTIVE)
    )
    rates = growth.rates(ENDPOINT_REQUESTS, _ENDPOINT)
    ejections = growth.totals(of.EJECTIONS.name, _ENDPOINT)
    rows: list[EndpointRow] = []
    for key in dict.fromkeys((*shown, *available, *shares, *active)):
        each = shown.get((key[0], key[1])) or EndpointState(key[0], key[1], available=available.get(key, 1.0) > 0)
        share = shares.get(key, each.share)
        health = "out" if not each.available else "warming" if share < _FULL else "ok"
        rows.append(
            EndpointRow(
                cluster=each.cluster,
                endpoint=each.name,
                address=each.address,
                health=health,
                why=each.why or _reasons(growth, key) if health == "out" else "",
                share=share,
                active=int(active.get(key, each.active)),
                requests_per_s=rates.get(key),
                ejections=int(ejections.get(key, 0)),
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.health == "ok", -(row.requests_per_s or 0.0), -row.active, row.cluster, row.endpoint)))


def _reasons(growth: Growth, key: tuple[str, ...]) -> str:
    """Why an endpoint was taken out so far, for a sidecar that does not say why it is out now."""
    counted = growth.totals(of.EJECTIONS.name, (*_ENDPOINT, "why"))
    return ", ".join(sorted(why for (*endpoint, why), number in counted.items() if tuple(endpoint) == key and number))


def _clusters(growth: Growth) -> tuple[ClusterRow, ...]:
    retries = growth.rates(of.RETRIES.name, ("cluster", "outcome"))
    hedges = growth.rates(of.HEDGES.name, ("cluster", "outcome"))
    used = growth.totals(of.BREAKER_USED.name, ("cluster", "what"))
    limits = growth.totals(of.BREAKER_LIMIT.name, ("cluster", "what"))
    held = growth.totals(of.UPSTREAM_CONNECTIONS.name, ("cluster", "state"))
    allowed = growth.totals(of.RETRIES_ALLOWED.name, ("cluster",))
    adaptive = growth.totals(of.CONCURRENCY_LIMIT.name, ("cluster",))
    names = dict.fromkeys(key[0] for table in (held, limits, allowed, retries) for key in table)
    rows = [
        ClusterRow(
            cluster=name,
            retries_per_s=retries.get((name, "sent"), 0.0),
            over_budget_per_s=retries.get((name, "over_budget"), 0.0),
            hedges_per_s=hedges.get((name, "sent"), 0.0),
            retries_active=int(growth.gauge(of.RETRIES_ACTIVE.name, cluster=name) or 0),
            retries_allowed=int(allowed[name,]) if (name,) in allowed else None,
            breaker=tuple(Gate(key[1], int(used.get(key, 0)), int(limit)) for key, limit in limits.items() if key[0] == name),
            concurrency_limit=int(adaptive[name,]) if (name,) in adaptive else None,
            panic=bool(growth.gauge(of.CLUSTER_PANIC.name, cluster=name)),
            idle=int(held.get((name, "idle"), 0)),
            busy=int(held.get((name, "busy"), 0)),
        )
        for name in names
    ]
    return tuple(sorted(rows, key=lambda row: (-row.retries_per_s - row.over_budget_per_s, -row.busy, row.cluster)))


def _refusals(growth: Growth) -> tuple[RefusalRow, ...]:
    rows: list[RefusalRow] = []
    for kind, family, what, where in _REFUSED:
        rates = growth.rates(family.name, (*what, *where))
        for key, total in growth.totals(family.name, (*what, *where)).items():
            if total:  # some are at 0 only to be seen
                rows.append(RefusalRow(kind, ": ".join(key[: len(what)]), " ".join(key[len(what) :]), rates[key], int(total)))
    by_rule = growth.rates(of.RULE_REQUESTS.name, ("rule", "listener", "code"))
    for key, total in growth.totals(of.RULE_REQUESTS.name, ("rule", "listener", "code")).items():
        if key[2] == _FORBIDDEN and total:
            rows.append(RefusalRow("rule", key[0], key[1], by_rule[key], int(total)))
    return tuple(sorted(rows, key=lambda row: (-row.per_s, -row.total, row.kind, row.what, row.where)))


def _peers(growth: Growth) -> tuple[PeerRow, ...]:
    by = ("listener", "peer")
    totals = growth.totals(of.PEER_REQUESTS.name, by)
    spent = growth.grown(f"{of.PEER_SECONDS.name}_sum", by)
    ended = growth.grown(f"{of.PEER_SECONDS.name}_count", by)
    errors: dict[tuple[str, ...], float] = {}
    for (*peer, code), rate in growth.rates(of.PEER_REQUESTS.name, (*by, "code")).items():
        if _is_error(code):
            errors[tuple(peer)] = errors.get(tuple(peer), 0.0) + rate
    rows = [
        PeerRow(
            listener=key[0],
            peer=key[1],
            requests_per_s=rate,
            error_share=errors.get(key, 0.0) / rate if rate else 0.0,
            mean_s=spent.get(key, 0.0) / ended[key] if ended.get(key) else None,
            requests=int(totals[key]),
        )
        for key, rate in growth.rates(of.PEER_REQUESTS.name, by).items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.requests_per_s, -row.requests, row.listener, row.peer)))

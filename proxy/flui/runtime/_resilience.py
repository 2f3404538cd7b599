"""What services, routes and the module ask for when a neighbour is slow, wrong, overloaded or gone: their keys and sections.

`guarded` reads what belongs to a service or the module, `following` what belongs to a route. Each section is a table of
keys, then the checks across them. What has no default but `off` can be written as `off` too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Final

from flui.codecs.validate import canonical_path
from flui.model.config import Limits
from flui.model.grpc import NAMED
from flui.model.resilience import (
    NO_RETRY,
    PRIORITIES,
    Breaker,
    Budget,
    Concurrency,
    HealthCheck,
    Injection,
    Outlier,
    Overload,
    Panic,
    Rate,
    RateBy,
    Retry,
)
from flui.model.topology import Cluster, Protocol, Route
from flui.model.units import KIB
from flui.runtime import _schema as schema
from flui.runtime._schema import Knobs, Reader, Wrong, is_off
from flui.runtime._yaml import Items, Node, Section, Text

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
_MANY: Final = 1_000_000

_wait: Final = partial(schema.duration, low=0.001, high=_DAY)
_some: Final = partial(schema.share, low_bp=1)
_count: Final = partial(schema.number, low=1, high=_MANY)

RETRY: Final[Knobs] = {
    "attempts": ("attempts", partial(schema.number, low=1, high=10)),
    "per_try": ("per_try_s", partial(schema.off_or, parse=_wait, off=0.0)),
    "backoff": ("backoff_s", partial(schema.duration, low=0.0, high=_MINUTE)),
    "backoff_max": ("backoff_max_s", partial(schema.duration, low=0.0, high=_MINUTE)),
    "retry_after": ("after_s", partial(schema.duration, low=0.0, high=_HOUR)),
    "body": ("body_octets", partial(schema.size, low=1, high=256 * KIB, zero="none")),  # threats C7: per stream
    "hedge_after": ("hedge_s", partial(schema.off_or, parse=_wait, off=0.0)),
}
BUDGET: Final[Knobs] = {
    "share": ("share_bp", schema.share),
    "least": ("least", partial(schema.number, low=0, high=1000)),
}
BREAKER: Final[Knobs] = {
    "connections": ("connections", _count),
    "pending": ("pending", _count),
    "requests": ("requests", _count),
}
CONCURRENCY: Final[Knobs] = {
    "least": ("least", _count),
    "most": ("most", _count),
    "start": ("start", _count),
    "tolerance": ("tolerance", partial(schema.fraction, low=1.05, high=10.0)),
}
OUTLIER: Final[Knobs] = {
    "consecutive": ("consecutive", partial(schema.off_or, parse=partial(schema.number, low=1, high=1000), off=0)),
    "share": ("share_bp", partial(schema.off_or, parse=_some, off=0)),
    "volume": ("volume", _count),
    "slowness": ("slowness", partial(schema.off_or, parse=partial(schema.fraction, low=1.1, high=1000.0), off=0.0)),
    "slow": ("slow_s", partial(schema.duration, low=0.0, high=_HOUR)),
    "interval": ("interval_s", partial(schema.duration, low=0.1, high=_HOUR)),
    "eject": ("eject_s", partial(schema.duration, low=0.1, high=_DAY)),
    "eject_max": ("eject_max_s", partial(schema.duration, low=0.1, high=_DAY)),
    "most": ("most_bp", partial(schema.share, low_bp=0)),
    "slow_start": ("slow_start_s", partial(schema.duration, low=0.0, high=_HOUR)),
}
OVERLOAD: Final[Knobs] = {
    "lag": ("lag_s", partial(schema.duration, low=0.01, high=_MINUTE)),
}

SERVICE_GUARDS: Final = ("retry_budget", "breaker", "concurrency", "outlier", "health", "rate")
"""Keys of a service that `guarded` reads."""
APP_GUARDS: Final = ("retry_budget", "breaker", "concurrency", "health", "rate")
"""Those of the module: it is one endpoint, and nobody could take its place if it were taken out."""
FOLLOWING: Final = ("timeout", "idle_timeout", "retry", "priority", "panic", "rate", "inject")
"""Keys of a route that `following` reads."""


def guarded(reader: Reader, cluster: Cluster, fields: Mapping[str, Node]) -> Cluster:
    """The cluster with what its section says under `SERVICE_GUARDS`."""
    return dataclasses.replace(
        cluster,
        budget=_budget(reader, fields.get("retry_budget")),
        breaker=Breaker(**reader.knobs(reader.fields(fields.get("breaker"), BREAKER, "breaker: {requests: 1000}"), BREAKER)),
        concurrency=_concurrency(reader, fields.get("concurrency")),
        outlier=_outlier(reader, fields.get("outlier")),
        health=_health(reader, fields.get("health")),
        rates=_rates(reader, fields.get("rate")),
    )


def following(reader: Reader, route: Route, fields: Mapping[str, Node], limits: Limits) -> Route:
    """The route with what its section says under `FOLLOWING`; what it does not say stays.

    Args:
        reader: Keeps the mistakes.
        route: To begin with.
        fields: Of its section.
        limits: In force, as a body that cannot come in cannot be kept.
    """
    mistakes = len(reader.problems)
    route = dataclasses.replace(
        route,
        retry=_retry(reader, fields["retry"], limits) if "retry" in fields else route.retry,
        rates=_rates(reader, fields["rate"]) if "rate" in fields else route.rates,
        inject=_injection(reader, fields["inject"]) if "inject" in fields else route.inject,
        **reader.knobs(fields, ROUTE),
    )
    if len(reader.problems) == mistakes:  # what stands in for a mistake is not worth comparing
        _check_times(reader, route, fields)
    return route


def overload(reader: Reader, node: Node | None) -> Overload:
    """What stands under `overload:`."""
    if is_off(node):
        return Overload(lag_s=0.0)
    return Overload(**reader.knobs(reader.fields_or_word(node, "`off`", OVERLOAD, "overload: {lag: 1s}"), OVERLOAD))


# -- of a route --------------------------------------------------------------------------------------------------------


def _priority(text: str) -> int:
    return PRIORITIES[schema.one_of(text, PRIORITIES, "priority", "")]


def _panic(text: str) -> Panic:
    return Panic(schema.one_of(text, [panic.value for panic in Panic], "`panic`", ""))


ROUTE: Final[Knobs] = {
    "timeout": ("timeout_s", partial(schema.duration, low=0.0, high=_DAY)),
    "idle_timeout": ("idle_timeout_s", partial(schema.duration, low=0.1, high=_DAY)),
    "priority": ("priority", _priority),
    "panic": ("panic", _panic),
}

RETRY_KEYS: Final = (*RETRY, "statuses", "grpc")


def _retry(reader: Reader, node: Node, limits: Limits) -> Retry:
    if is_off(node):
        return NO_RETRY
    mistakes = len(reader.problems)
    fields = reader.fields_or_word(node, "`off`", RETRY_KEYS, "retry: {attempts: 3}")
    retry = Retry(**reader.knobs(fields, RETRY))
    if "statuses" in fields:
        retry = dataclasses.replace(retry, statuses=_statuses(reader, fields["statuses"]))
    if "grpc" in fields:
        ends = _grpc_statuses(reader, fields["grpc"])
        retry = dataclasses.replace(retry, grpc_statuses=ends, repeats_calls=bool(ends))
    if len(reader.problems) > mistakes:
        return retry
    if retry.attempts == 1:
        for key, entry in fields.items():
            if key not in {"attempts", "per_try"}:
                reader.wrong(entry.place, "there is only one attempt, so this does nothing", "write 2 or more `attempts`, or remove it")
    elif retry.backoff_s > retry.backoff_max_s:
        place = (fields.get("backoff") or fields["backoff_max"]).place
        fix = "write a shorter `backoff` or a longer `backoff_max`"
        reader.wrong(place, "`backoff` is longer than `backoff_max`, up to which it doubles", fix)
    elif "body" in fields and 0 < limits.body_octets < retry.body_octets:
        what = f"no body has so many octets: `limits.body` is {schema.as_size(limits.body_octets)}"
        reader.wrong(fields["body"].place, what, "write no more than that, or a larger `limits.body`")
    return retry


def _statuses(reader: Reader, node: Node) -> tuple[int, ...]:
    statuses: list[int] = []
    for item in reader.items(node, "[502, 503]") or ():
        status = reader.value(item, partial(schema.number, low=400, high=599))
        if status in statuses:
            reader.wrong(item.place, f"{status} is in the list already", "write it once")
        elif status is not None:
            statuses.append(status)
    return tuple(statuses)


def _grpc_status(text: str) -> int:
    known = {name.lower(): status.value for name, status in NAMED.items() if status.value}
    return known[schema.one_of(text, known, "gRPC status", "")]


def _grpc_statuses(reader: Reader, node: Node) -> tuple[int, ...]:
    statuses: list[int] = []
    for item in reader.items(node, "[unavailable]") or ():
        status = reader.value(item, _grpc_status)
        if status in statuses:
            reader.wrong(item.place, "it is in the list already", "write it once")
        elif status is not None:
            statuses.append(status)
    return tuple(statuses)


def _check_times(reader: Reader, route: Route, fields: Mapping[str, Node]) -> None:
    """Times of one route that cannot all hold."""
    node = fields.get("retry")
    times = node.entries if isinstance(node, Section) else {}
    timeout, per_try, hedge = route.timeout_s, route.retry.per_try_s, route.retry.hedge_s
    if timeout and "timeout" in fields and node is None and (per_try > timeout or hedge >= timeout):
        what = f"`retry`, which it has from `app`, waits {schema.as_duration(max(per_try, hedge))} for one try"
        reader.wrong(fields["timeout"].place, what, "write a longer timeout, or a `retry` of its own")
    if "per_try" in times and timeout and per_try > timeout:
        fix = f"write no more than {schema.as_duration(timeout)}, or a longer `timeout`"
        reader.wrong(times["per_try"].place, "one try would last longer than the route's `timeout`", fix)
    elif "hedge_after" in times and hedge:
        for ends, least in (("`timeout`", timeout), ("`per_try`", per_try)):
            if least and hedge >= least:
                fix = f"write less than {schema.as_duration(least)}, or a longer {ends}"
                reader.wrong(times["hedge_after"].place, f"the second try would begin when {ends} has ended the first", fix)
                return


INJECT: Final[Knobs] = {
    "delay": ("delay_s", partial(schema.duration, low=0.001, high=_HOUR)),
    "delay_share": ("delay_bp", _some),
    "abort": ("abort_status", partial(schema.number, low=200, high=599)),
    "abort_share": ("abort_bp", _some),
}


def _injection(reader: Reader, node: Node) -> Injection | None:
    if is_off(node):
        return None
    mistakes = len(reader.problems)
    fields = reader.fields_or_word(node, "`off`", INJECT, "inject: {delay: 100ms, delay_share: 10%}")
    found = reader.knobs(fields, INJECT)
    for key in ("delay", "abort"):
        if f"{key}_share" in fields and key not in fields:
            place = fields[f"{key}_share"].place
            reader.wrong(place, f"it is the share of a `{key}`, and there is none", f"add `{key}`, or remove this key")
    if len(reader.problems) == mistakes and not fields:
        reader.wrong(node.place, "it injects nothing", "add `delay: 100ms` or `abort: 503`, or remove this key")
    return Injection(**found)


# -- of a service ------------------------------------------------------------------------------------------------------


def _budget(reader: Reader, node: Node | None) -> Budget:
    fields = reader.fields(node, BUDGET, "retry_budget: {share: 20%, least: 3}")
    budget = Budget(**reader.knobs(fields, BUDGET))
    if node is not None and not budget.share_bp and not budget.least:
        reader.wrong(node.place, "it never allows a retry", "write `retry: off` in the routes, or a larger budget")
    return budget


def _concurrency(reader: Reader, node: Node | None) -> Concurrency | None:
    if node is None or is_off(node):
        return None
    if isinstance(node, Text) and node.text == "adaptive":
        return Concurrency()
    mistakes = len(reader.problems)
    fields = reader.fields_or_word(node, "`adaptive` or `off`", CONCURRENCY, "concurrency: {most: 200}")
    found = Concurrency(**reader.knobs(fields, CONCURRENCY))
    if len(reader.problems) == mistakes and not found.least <= found.start <= found.most:
        what = f"`least` {found.least}, `start` {found.start} and `most` {found.most} do not follow one another"
        reader.wrong(node.place, what, "write them so that each is no smaller than the one before")
    return found


def _outlier(reader: Reader, node: Node | None) -> Outlier | None:
    if is_off(node):
        return None
    mistakes = len(reader.problems)
    fields = reader.fields_or_word(node, "`off`", OUTLIER, "outlier: {consecutive: 5}")
    outlier = Outlier(**reader.knobs(fields, OUTLIER))
    if node is None or len(reader.problems) > mistakes:
        return outlier
    if not (outlier.consecutive or outlier.share_bp or outlier.slowness):
        reader.wrong(node.place, "it looks at nothing", "turn on `consecutive`, `share` or `slowness`, or write `outlier: off`")
        return outlier
    if not outlier.most_bp:
        reader.wrong(fields["most"].place, "nobody could ever be taken out", "write 1% to 100%, or `outlier: off`")
    if not (outlier.share_bp or outlier.slowness) and "volume" in fields:
        reader.wrong(fields["volume"].place, "`share` and `slowness` are off, so nobody looks at it", "remove it")
    if not outlier.slowness and "slow" in fields:
        reader.wrong(fields["slow"].place, "`slowness` is off, so nobody looks at it", "remove it")
    if outlier.eject_s > outlier.eject_max_s:
        place = (fields.get("eject") or fields["eject_max"]).place
        reader.wrong(place, "`eject` is longer than `eject_max`, up to which it grows", "write a shorter `eject` or a longer `eject_max`")
    return outlier


def _health_path(text: str) -> bytes:
    octets = text.encode()
    found = canonical_path(octets)
    if found is None:
        raise Wrong(f"{text!r} is not a path", "write it as in `/healthz`: no query, no `//`, no dot segments")
    if found != octets:
        raise Wrong(f"{text!r} is not written as paths are sent", f"write `{found.decode('ascii')}`")
    return found


def _grpc_service(text: str) -> bytes:
    if len(text) > 255 or not text.isascii() or text.translate(_NO_NAME):
        raise Wrong(f"{text!r} is not the name of a gRPC service", 'write it as in `shop.Stock`, or `""` for the whole server')
    return text.encode()


_NO_NAME: Final = {ord(sign): None for sign in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"}


HEALTH: Final[Knobs] = {
    "path": ("path", _health_path),
    "interval": ("interval_s", partial(schema.duration, low=0.1, high=_HOUR)),
    "timeout": ("timeout_s", partial(schema.duration, low=0.01, high=_MINUTE)),
    "unhealthy": ("unhealthy", partial(schema.number, low=1, high=100)),
    "healthy": ("healthy", partial(schema.number, low=1, high=100)),
    "statuses": ("statuses", partial(schema.status_range, low=200, high=599)),
    "grpc": ("grpc", _grpc_service),
}


def _health(reader: Reader, node: Node | None) -> HealthCheck | None:
    if node is None or is_off(node):
        return None
    mistakes = len(reader.problems)
    fields = reader.fields_or_word(node, "`off`", HEALTH, "health: {path: /healthz}")
    check = HealthCheck(**reader.knobs(fields, HEALTH))
    if len(reader.problems) == mistakes and check.timeout_s > check.interval_s:
        place = (fields.get("timeout") or fields["interval"]).place
        fix = "write a shorter `timeout` or a longer `interval`"
        reader.wrong(place, "`timeout` is longer than `interval`, so checks would overlap", fix)
    if check.grpc is not None:
        for key in ("path", "statuses"):
            if key in fields:
                reader.wrong(fields[key].place, "a check by gRPC has neither path nor status codes", "remove it, or remove `grpc`")
    return check


def check_protocol(reader: Reader, cluster: Cluster, fields: Mapping[str, Node], fix: str) -> None:
    """A check by gRPC goes over HTTP/2: whoever is spoken to in HTTP/1.1 cannot be asked.

    Args:
        reader: Keeps the mistakes.
        cluster: With its health check.
        fields: Of its section.
        fix: How HTTP/2 is written there.
    """
    plain = cluster.identity is None and cluster.protocol is Protocol.AUTO
    if cluster.health is not None and cluster.health.grpc is not None and (plain or cluster.protocol is Protocol.HTTP1):
        what = "gRPC needs HTTP/2, and HTTP/1.1 is what is spoken here"
        node = fields["health"]
        place = node.entries["grpc"].place if isinstance(node, Section) else node.place
        reader.wrong(place, what, fix)


# -- of both -----------------------------------------------------------------------------------------------------------


def _rate_by(text: str) -> RateBy:
    return RateBy(schema.one_of(text, [by.value for by in RateBy], "`per`", ""))


RATE: Final[Knobs] = {
    "rate": ("per_s", partial(schema.rate, high=_MANY)),
    "burst": ("burst", partial(schema.number, low=1, high=10 * _MANY)),
    "per": ("by", _rate_by),
}


def _rates(reader: Reader, node: Node | None) -> tuple[Rate, ...]:
    if node is None or is_off(node):
        return ()
    items = node.items if isinstance(node, Items) else (node,)
    if not items:
        reader.wrong(node.place, "the list is empty", "write a rate, such as `100/s`, or remove the key")
    rates = [(rate, item) for item in items if (rate := _rate(reader, item)) is not None]
    for at, (rate, item) in enumerate(rates):
        for other_at, (other, _) in enumerate(rates):
            wider = other.by is rate.by or other.by is RateBy.ALL
            if wider and other.per_s <= rate.per_s and other.burst <= rate.burst and (other_at < at or other != rate):
                reader.wrong(item.place, "another rate of the list is always reached before this one", "remove it")
                break
    return tuple(rate for rate, _ in rates)


def _rate(reader: Reader, node: Node) -> Rate | None:
    fields = {"rate": node} if isinstance(node, Text) else reader.fields(node, RATE, "rate: {rate: 100/s, burst: 200, per: principal}")
    if "rate" not in fields and isinstance(node, Section):
        reader.missing(node.place, "rate", "write how much, such as `rate: 100/s`")
    found = reader.knobs(fields, RATE)
    per_s = found.get("per_s")
    if per_s is None:
        return None
    # what comes within one second at once is no more than was allowed
    return Rate(per_s, found.get("burst", max(1, math.ceil(per_s))), found.get("by", RateBy.ALL))

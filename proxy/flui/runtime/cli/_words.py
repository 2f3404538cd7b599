"""What a decision carries, in words for people. `flui explain` prints it; docs/configuration.md says what each number is for."""

from __future__ import annotations

from collections.abc import Iterable

from flui.model.decision import Forward
from flui.model.grpc import STATUSES
from flui.model.resilience import (
    PRIORITY_NAMES,
    WHOLE_BP,
    Budget,
    Concurrency,
    HealthCheck,
    Injection,
    Mirror,
    Outlier,
    Rate,
    RateBy,
    Retry,
)
from flui.model.topology import Cluster, HashKey, KeySource, Match, Target

Line = tuple[str, str]
"""A name and what is said of it."""


def matched(match: Match) -> str:
    """What a route asked of the request."""
    asked = (
        ("hosts", ", ".join(match.hosts)),
        ("path", match.path if match.path != "/*" else ""),
        ("methods", ", ".join(match.methods)),
        ("headers", ", ".join(h.name.decode() + (f": {h.value.decode()}" if h.value is not None else "") for h in match.headers)),
        ("principals", ", ".join(match.principals)),
    )
    return "; ".join(f"{name} {text}" for name, text in asked if text) or "every request"


def split(targets: tuple[Target, ...]) -> str:
    """Who gets which part."""
    total = sum(target.weight for target in targets)
    return ", ".join(f"{target.cluster} {share(target.weight * WHOLE_BP / total)}" for target in targets)


def forward(action: Forward) -> list[Line]:
    """What becomes of the request on its way, whichever cluster it goes to."""
    lines = [
        ("adds", ", ".join(f"{field.name.decode()}: {field.value.decode()}" for field in action.add) or "nothing"),
        ("timeout", seconds(action.timeout_s) if action.timeout_s else "none"),
        ("idle timeout", seconds(action.idle_timeout_s) if action.idle_timeout_s else "none"),
        ("retry", retry(action.retry, repeatable=action.repeatable)),
        ("priority", PRIORITY_NAMES[action.priority].decode()),
        ("in a panic", "answered 503" if action.fails_in_panic else "all endpoints are used"),
        ("rate", rates(action.rates)),
        ("mirror", mirror(action.mirror) if action.mirror is not None else "off"),
        ("inject", injection(action.inject) if action.inject is not None else "off"),
    ]
    if action.key is not None:
        lines.append(("key", key_source(action.key)))
    lines.append(("forwarded", "that of the caller is kept" if action.keep_forwarded else "that of the caller is removed"))
    lines.append(("server timing", "the caller is told" if action.server_timing else "off"))
    return lines


def cluster(one: Cluster) -> list[Line]:
    """What a cluster bears, and how its endpoints are judged."""
    breaker = one.breaker
    return [
        ("rate", rates(one.rates)),
        ("breaker", f"{breaker.connections} connections, {breaker.pending} waiting, {breaker.requests} requests in flight"),
        ("concurrency", concurrency(one.concurrency) if one.concurrency is not None else "off"),
        ("retry budget", budget(one.budget)),
        ("outlier", outlier(one.outlier) if one.outlier is not None else "off"),
        ("health", health(one.health) if one.health is not None else "off"),
    ]


def retry(rules: Retry, *, repeatable: bool) -> str:
    """When a request is sent again."""
    if rules.attempts <= 1:
        return "off"
    who = "idempotent" if repeatable else "only with an idempotency-key"
    said = [
        f"{rules.attempts} tries ({who})",
        f"after {listed(map(str, rules.statuses))} or no answer" if rules.statuses else "after no answer",
        f"pause up to {seconds(rules.backoff_s)}, doubled up to {seconds(rules.backoff_max_s)}",
        f"retry-after up to {seconds(rules.after_s)}",
        f"body up to {rules.body_octets} octets",
    ]
    if rules.per_try_s:
        said.insert(1, f"each at most {seconds(rules.per_try_s)}")
    if rules.hedge_s:
        said.insert(1, f"a second one beside the first after {seconds(rules.hedge_s)}")
    if rules.repeats_calls:
        said.append(f"gRPC calls after {listed(STATUSES[number].name for number in rules.grpc_statuses)}")
    return "; ".join(said)


def budget(rules: Budget) -> str:
    """What retries may add."""
    return f"{share(rules.share_bp)} of the requests in flight, {rules.least} always"


def rates(buckets: tuple[Rate, ...]) -> str:
    """Requests in a time."""
    said = (f"{bucket.per_s:g}/s, burst {bucket.burst}, {_BY[bucket.by]}" for bucket in buckets)
    return "; ".join(said) or "off"


_BY = {RateBy.ALL: "for all together", RateBy.PRINCIPAL: "for each principal"}


def mirror(rules: Mirror) -> str:
    """Who gets copies."""
    return f"{share(rules.share_bp)} of the requests, to {rules.cluster}"


def injection(rules: Injection) -> str:
    """Faults made on purpose."""
    said = []
    if rules.abort_status:
        said.append(f"{rules.abort_status} is answered to {share(rules.abort_bp)} of the requests")
    if rules.delay_s:
        rest = "the others" if said else "the requests"
        said.append(f"{share(rules.delay_bp)} of {rest} wait {seconds(rules.delay_s)}")
    return "; ".join(said)


def concurrency(rules: Concurrency) -> str:
    """A limit that finds itself."""
    return f"adaptive, {rules.least} to {rules.most} in flight, begins with {rules.start}, latency up to {rules.tolerance:g} times is fine"


def outlier(rules: Outlier) -> str:
    """When an endpoint is taken out."""
    reasons = []
    if rules.consecutive:
        reasons.append(f"{rules.consecutive} failures in a row")
    if rules.share_bp:
        reasons.append(f"{share(rules.share_bp)} failed of {rules.volume} or more")
    if rules.slowness:
        reasons.append(f"{rules.slowness:g} times as slow as the others (and {seconds(rules.slow_s)})")
    out = f"out for {seconds(rules.eject_s)} to {seconds(rules.eject_max_s)}, at most {share(rules.most_bp)} at a time"
    back = f"back over {seconds(rules.slow_start_s)}"
    return "; ".join((listed(reasons) or "nothing is looked at", f"judged every {seconds(rules.interval_s)}", out, back))


def health(rules: HealthCheck) -> str:
    """What endpoints are asked."""
    often = f"every {seconds(rules.interval_s)}"
    count = f"out after {rules.unhealthy}, back after {rules.healthy}"
    if rules.grpc is not None:
        of = f" of {rules.grpc.decode()}" if rules.grpc else ""
        return f"grpc.health.v1 Check{of} {often}, SERVING within {seconds(rules.timeout_s)} is well; {count}"
    first, last = rules.statuses
    well = f"{first}-{last}" if first != last else str(first)
    return f"GET {rules.path.decode()} {often}, {well} within {seconds(rules.timeout_s)} is well; {count}"


def key_source(key: HashKey) -> str:
    """Where a request's key is."""
    if key.source is KeySource.HEADER:
        return f"header {key.name.decode()}"
    return f"path part {key.part}" if key.source is KeySource.PATH_PART else key.source.value


def share(basis_points: float) -> str:
    """In percent."""
    return f"{basis_points / 100:.4g} %"


def seconds(value: float) -> str:
    """With the unit that reads best."""
    return f"{value * 1000:g} ms" if 0 < value < 1 else f"{value:g} s"


def listed(words: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *some, last = [*words] or [""]
    return f"{', '.join(some)} or {last}" if some else last

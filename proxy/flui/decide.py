"""One decision for every request with the same facts: a pure function from facts and a snapshot to a frozen value.

    facts ──▶ route ──▶ may they? ──▶ Forward | Reply

A `Snapshot` is everything decisions depend on, compiled: configuration, routes, policy. A change of any of them is a new
snapshot, built whole and swapped by one reference, with an empty flow table (Open vSwitch's idea: decide once per
distinct flow, remember). Endpoints are not part of it: they are picked for each request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Final

from flui.codecs.grpc import method_of, timeout_text
from flui.model.config import Sidecar
from flui.model.decision import Decision, Forward, Reply, Why
from flui.model.events import RequestHead
from flui.model.fault import Fault
from flui.model.fields import Field, field
from flui.model.grpc import CALL
from flui.model.resilience import IDEMPOTENT, NORMAL, PRIORITY_NAMES, Panic
from flui.model.topology import APP, SELF_ROUTE, Cluster, Protocol, Route
from flui.policy.base import Policy, Verdict
from flui.policy.index import NO_RULE
from flui.routing.table import Table
from flui.translate.cors import Pages
from flui.translate.schema import NO_SCHEMA

if TYPE_CHECKING:
    from flui.translate.dialects import Dialects
    from flui.translate.rest import RestRoutes

INBOUND: Final = "inbound"
SELF_HOST: Final = b"flui-health"
"""Host under which the sidecar answers gRPC's health protocol for itself; the module's own stays where it was (decision 0014)."""
_SELF_PATHS: Final = frozenset((b"/grpc.health.v1.Health/Check",))

Facts = tuple[str, str, bytes, bytes, bytes, tuple[tuple[bytes, ...], ...]]
"""Listener, principal, method (of a gRPC call: `CALL`), host, path, and the values of each field that some route reads: what rules look at,
and no more. What no rule of the listener reads stays empty, so that it does not split flows. A tuple of tuples keeps its borders
(threats D7: joined keys collide)."""

_KEPT_PATH: Final = 256
"""Octets of a path whose decision is remembered."""

_OTHER: Final = "other"
"""The peer of everyone whom nobody has named."""

_EPOCHS: Final = count(1)
_NO_VALUES: Final[tuple[tuple[bytes, ...], ...]] = ()


class Snapshot:
    """Everything decisions depend on, compiled. Never changed; its flow table remembers decisions made from it."""

    __slots__ = (
        "_limit",
        "_listeners",
        "_methods",
        "_speaks_grpc",
        "app_table",
        "clusters",
        "config",
        "dialects",
        "epoch",
        "flows",
        "identity",
        "pages",
        "peers",
        "policy",
        "schema",
        "table",
        "version",
    )

    def __init__(self, config: Sidecar, policy: Policy, identity: str, version: int, routes: RestRoutes | None = None) -> None:
        """Compiles a snapshot.

        Args:
            config: With every cluster's identity filled in.
            policy: Compiled policy; one that denies everything when there is none.
            identity: SPIFFE ID of this sidecar: the principal of what its module sends.
            version: Number of this snapshot, for logs.
            routes: What the module serves, and the ways of REST to it; None: nothing is known of it.
        """
        self.config = config
        self.policy = policy
        self.identity = identity
        self.version = version
        self.clusters: dict[str, Cluster] = {cluster.name: cluster for cluster in config.clusters}
        self.table = Table(config.routes, self.clusters)
        self.app_table = Table(config.app_routes, {})
        """Routes of what may come in."""
        self.peers: frozenset[str] = frozenset(
            (identity, *policy.callers(), *(c.identity for c in config.clusters if c.identity is not None))
        )
        """Who may stand in a label: everyone whom configuration or policy names (threats C13)."""
        self.flows: dict[Facts, Decision] = {}
        self.epoch = next(_EPOCHS)
        """Tells its decisions from those of other snapshots."""
        self.schema = routes.schema if routes is not None else NO_SCHEMA
        app = self.clusters.get(APP)
        self._speaks_grpc = app is not None and app.protocol is Protocol.HTTP2
        self._methods = self.schema.methods
        speaks = self._speaks_grpc or bool(self._methods)
        self.dialects: Dialects | None = None
        """What may be said to a module that speaks gRPC, or of whose methods there are annotations; None: nothing but what it speaks."""
        if speaks:
            from flui.translate.dialects import Dialects  # noqa: PLC0415 - loaded only in front of a module that has something to translate

            self.dialects = Dialects(routes, config.limits, self.epoch, grpc=self._speaks_grpc)
        self.pages = Pages(config.api.cors) if config.api.cors is not None else None
        """Which pages may call the module from a browser; None: none of another site."""
        self._limit = config.limits.flows
        self._listeners = {listener.name: listener for listener in config.listeners}

    def facts(self, listener: str, principal: str, head: RequestHead) -> Facts:
        """The facts of a validated request."""
        if head.grpc:
            return self._call_facts(listener, principal, head)
        if listener == INBOUND:
            reads = self.app_table.reads
            return (listener, principal, head.method, b"", head.path, _values(head, reads) if reads else _NO_VALUES)
        reads = self.table.reads
        return (listener, principal, head.method, head.host, head.path, _values(head, reads) if reads else _NO_VALUES)

    def _call_facts(self, listener: str, principal: str, head: RequestHead) -> Facts:
        """Those of a gRPC call, whose path is all there is: with a query it names no method."""
        inbound = listener == INBOUND
        reads = (self.app_table if inbound else self.table).reads
        host = b"" if inbound and head.host != SELF_HOST else head.host
        path = head.path + head.query if head.query else head.path
        return (listener, principal, CALL, host, path, _values(head, reads) if reads else _NO_VALUES)

    def remember(self, facts: Facts, decision: Decision) -> None:
        """Adds a decision to the flow table, which is cleared when it is full. Long paths are not kept: it is bounded in octets too."""
        if len(facts[4]) > _KEPT_PATH:
            return
        if len(self.flows) >= self._limit:
            self.flows.clear()
        self.flows[facts] = decision

    def lacks(self, method: bytes, path: bytes) -> bool:
        """Whether the module is known not to have what an allowed request asks for."""
        if method == CALL:
            asked = self.config.api.refuses_unknown or not self._speaks_grpc
            return asked and bool(self._methods) and path not in self._methods
        return self.config.api.refuses_unknown and self._speaks_grpc and bool(self._methods)

    def beforehand(self, listener: str, principal: str) -> Decision:
        """What was decided for a browser that asks what it may send: it is told by the sidecar, and policy is not asked."""
        return _decision(self, Reply(Fault.NO_ROUTE), Why(listener, self.config.service, "-", "asked beforehand (CORS)", principal))

    def keeps_forwarded(self, listener: str, principal: str) -> bool:
        """Whether the caller is an allow-listed hop (threats E1)."""
        known = self._listeners.get(listener)
        return known is not None and principal in known.trusted_hops

    def longest(self, listener: str) -> float:
        """Seconds that any exchange of this listener may take; 0: no bound of its own."""
        known = self._listeners.get(listener)
        return known.timeout_s if known is not None else 0.0

    def times(self, listener: str, principal: str) -> bool:
        """Whether this caller is told where the time went."""
        known = self._listeners.get(listener)
        return known is not None and bool(known.server_timing) and ("*" in known.server_timing or principal in known.server_timing)

    def authorizes(self, listener: str) -> bool:
        """Whether requests of this listener need a rule; an unknown listener does (fail closed)."""
        known = self._listeners.get(listener)
        return known is None or known.authorize


def _values(head: RequestHead, reads: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], ...]:
    return tuple(tuple(f.value for f in head.fields if f.name == name) for name in reads)


def decide(facts: Facts, snapshot: Snapshot, now: float) -> Decision:
    """Decides what becomes of every request with these facts.

    Pure: no await, clock, log or I/O. An exception while deciding denies (threats D5).

    Args:
        facts: From `Snapshot.facts`, of a request that passed the validator.
        snapshot: What is in force.
        now: Monotonic seconds.
    """
    del now  # nothing in a decision lapses yet; JWTs and schedules will
    listener, principal, method, host, path, values = facts
    try:
        if method == CALL and (method_of(path) is None or b"?" in path):
            # threats B3: before policy, for its rules are about methods
            return _decision(snapshot, Reply(Fault.NO_ROUTE), Why(listener, "-", "-", "no gRPC method", principal))
        if listener == INBOUND:
            return _inbound(snapshot, listener, principal, method, host, path, values)
        return _outbound(snapshot, listener, principal, method, host, path, values)
    except Exception as error:  # noqa: BLE001 - law: a failure of the decider denies and says so, whatever it was
        why = Why(listener, "-", "-", f"error while deciding: {type(error).__name__}", principal)
        return _decision(snapshot, Reply(Fault.POLICY_UNAVAILABLE), why)


def _inbound(
    snapshot: Snapshot,
    listener: str,
    principal: str,
    method: bytes,
    host: bytes,
    path: bytes,
    values: tuple[tuple[bytes, ...], ...],
) -> Decision:
    service = snapshot.config.service
    found = SELF_ROUTE if host else snapshot.app_table.match(principal, method, "", path, _found(snapshot.app_table, values))
    route = found or snapshot.config.app_route
    rule = "not required"
    if snapshot.authorizes(listener):
        verdict = snapshot.policy.decide(principal, service, method.decode(), path.decode())
        if verdict.allowed and snapshot.dialects is not None and method != CALL and method_of(path) is not None:
            # A module may take for a call what nobody here does: what rules deny as a call is denied as any request.
            called = snapshot.policy.decide(principal, service, CALL.decode(), path.decode())
            verdict = verdict if called.allowed or called.rule == NO_RULE else called
        rule = verdict.rule
        if not verdict.allowed:
            return _decision(snapshot, Reply(_refusal(verdict)), Why(listener, service, route.name, rule, principal))
    why = Why(listener, service, route.name, rule, principal)
    if host:
        if path not in _SELF_PATHS:
            return _decision(snapshot, Reply(Fault.NO_ROUTE), why)
        return _decision(snapshot, _forward(snapshot, why, route, method, ()), why)
    if APP not in snapshot.clusters:
        return _decision(snapshot, Reply(Fault.NO_ROUTE), why)
    if snapshot.lacks(method, path):
        return _decision(snapshot, Reply(Fault.NO_ROUTE), why)
    add = [field(b"flui-principal", principal.encode())]
    roles = snapshot.policy.roles(principal)
    if roles:
        add.append(field(b"flui-roles", ",".join(roles).encode()))
    return _decision(snapshot, _forward(snapshot, why, route, method, tuple(add)), why)


def _outbound(
    snapshot: Snapshot,
    listener: str,
    principal: str,
    method: bytes,
    host: bytes,
    path: bytes,
    values: tuple[tuple[bytes, ...], ...],
) -> Decision:
    route = snapshot.table.match(principal, method, host.decode(), path, _found(snapshot.table, values))
    if route is None:
        return _decision(snapshot, Reply(Fault.NO_ROUTE), Why(listener, "-", "-", "no route", principal))
    service = route.to[0].cluster if len(route.to) == 1 else route.name
    rule = "decided by the receiver"
    if snapshot.authorizes(listener):
        for target in route.to:
            verdict = snapshot.policy.decide(principal, target.cluster, method.decode(), path.decode())
            rule = verdict.rule
            if not verdict.allowed:
                return _decision(snapshot, Reply(_refusal(verdict)), Why(listener, service, route.name, rule, principal))
    why = Why(listener, service, route.name, rule, principal)
    return _decision(snapshot, _forward(snapshot, why, route, method, ()), why)


def _found(table: Table, values: tuple[tuple[bytes, ...], ...]) -> Mapping[bytes, tuple[bytes, ...]]:
    return {table.reads[at]: values[at] for at in range(len(values)) if values[at]}


def _refusal(verdict: Verdict) -> Fault:
    return Fault.POLICY_UNAVAILABLE if verdict.failed else Fault.DENIED


def _forward(snapshot: Snapshot, why: Why, route: Route, method: bytes, add: tuple[Field, ...]) -> Forward:
    timeout_s = route.timeout_s
    longest = snapshot.longest(why.listener)
    if longest and (not timeout_s or longest < timeout_s):
        timeout_s = longest
    retry = route.retry
    if route.priority != NORMAL:
        add += (field(b"flui-priority", PRIORITY_NAMES[route.priority]),)
    return Forward(
        targets=route.to,
        timeout_s=timeout_s,
        idle_timeout_s=route.idle_timeout_s,
        key=route.key,
        add=add,
        deadline=_deadline(int(timeout_s * 1000), method) if timeout_s else None,
        keep_forwarded=snapshot.keeps_forwarded(why.listener, why.principal),
        retry=retry,
        repeatable=method in IDEMPOTENT or (retry.repeats_calls and method == CALL),
        priority=route.priority,
        fails_in_panic=route.panic is Panic.FAIL,
        rates=route.rates,
        mirror=route.mirror,
        inject=route.inject,
        server_timing=snapshot.times(why.listener, why.principal),
        special=bool(route.rates or route.mirror or route.inject or retry.hedge_s or retry.per_try_s),
    )


def _deadline(ms: int, method: bytes) -> Field:
    return field(b"grpc-timeout", timeout_text(ms)) if method == CALL else field(b"flui-deadline", b"%d" % ms)


def _decision(snapshot: Snapshot, action: Forward | Reply, why: Why) -> Decision:
    members = {
        "listener": why.listener,
        "service": why.service,
        "route": why.route,
        "rule": why.rule,
        "principal": why.principal,
    }
    peer = why.principal if why.principal in snapshot.peers else _OTHER
    return Decision(
        action=action,
        why=why,
        expires_at=float("inf"),
        labels=(why.listener, why.service, why.route, peer, why.rule),
        epoch=snapshot.epoch,
        log_text=json.dumps(members, separators=(",", ":"))[1:-1].encode() + b",",
    )

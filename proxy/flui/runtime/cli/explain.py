"""`flui explain`: the decision for a request, without sending it."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, fields
from urllib.parse import urlsplit

import click

from flui.codecs.grpc import CONTENT_TYPE_GRPC
from flui.codecs.validate import validate
from flui.decide import INBOUND, Snapshot, decide
from flui.identity.spiffe import SpiffeId
from flui.model.config import ConfigError
from flui.model.decision import Decision, Forward, Reply
from flui.model.events import RequestHead
from flui.model.fault import DIALECTS
from flui.model.fields import classified
from flui.model.grpc import CALL
from flui.model.resilience import WHOLE_BP
from flui.model.spoken import Dialect
from flui.model.topology import SELF, Cluster, Match, Policy, Target
from flui.policy.base import Request
from flui.policy.explain import explain as explain_policy
from flui.policy.index import Index
from flui.routing.key import hash_key
from flui.routing.pick import Member, picker
from flui.runtime.admin import plain
from flui.runtime.adminclient import clean
from flui.runtime.cli import _dialect, _words
from flui.runtime.cli.run import fail, load, sidecar_flags
from flui.runtime.configfile import resolve
from flui.runtime.sources import policy_of


@click.command(
    epilog="Example: flui explain GET http://orders/orders/7 --as spiffe://shop/web -c orders.yaml",
)
@click.argument("method")
@click.argument("url")
@click.option("--as", "principal", metavar="SUBJECT", help="Who asks: spiffe://… ; on the outbound side our own module.")
@click.option("--listener", type=click.Choice(["inbound", "outbound"]), help="Where it arrives; inbound if the URL names us.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A request header; may be given again.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as JSON.")
@sidecar_flags
def explain(
    method: str,
    url: str,
    principal: str | None,
    listener: str | None,
    headers: tuple[str, ...],
    as_json: bool,
    config: str | None,
    **flags: str | None,
) -> None:
    r"""Say what would be decided for a request, and why: listener, route, policy rule, cluster, pick, limits.

    Everything that the decision carries is said: how the traffic is split, what is tried again, copied, delayed or refused on purpose,
    and what the cluster bears. A gRPC call is `CALL` and the path of its method: flui explain CALL http://stock/shop.Stock/Reserve.

    \b
    A request to a gRPC module in another dialect is shown with the call that it means, by its method, path and content-type:
      flui explain POST http://stock/v1/stock/apple:reserve -H 'content-type: application/json' --as …
    """
    if config is None and flags["service"] is None:
        raise click.UsageError("name a configuration file (-c FILE) or a service (--service NAME)")
    try:
        sidecar = load(config, flags, on_disk=False)
        policy = policy_of(sidecar)
    except ConfigError as error:
        fail(error)
        return
    where = urlsplit(url if "//" in url else f"http://{sidecar.service}{url}")
    if listener is None:
        listener = INBOUND if (where.hostname or "").removesuffix(".flui") == sidecar.service else "outbound"
    domain = _domain(principal)
    own = f"spiffe://{domain}/{sidecar.service}"
    known: _dialect.Known | None = None
    if listener == INBOUND and _dialect.is_translated(sidecar):
        try:
            known = _dialect.known_of(sidecar)
        except ConfigError as error:
            fail(error)
            return
    snapshot = Snapshot(resolve(sidecar, domain), policy, own, 0, known.routes if known is not None else None)
    asking = principal or own
    if listener == INBOUND and principal is None:
        raise click.UsageError("say who asks: --as spiffe://TRUST-DOMAIN/NAME")
    head = _head(method, where.netloc, where.path or "/", where.query, headers)
    fault = validate(head)
    told: list[_words.Line]
    shown: dict[str, object]
    if fault is not None:
        shown = {"action": "reply", "status": DIALECTS[fault].http, "fault": fault.value, "why": "malformed"}
        told = [(name, str(value)) for name, value in shown.items()]
    else:
        meant = _dialect.meant(head, snapshot, known)
        head = meant.head
        facts = snapshot.facts(listener, asking, head)
        decision = decide(facts, snapshot, 0.0)
        action = decision.action
        shown = _why(decision, meant.dialect) | meant.shown
        if isinstance(action, Forward):
            shown |= meant.refused
        told = [(name, _said(value)) for name, value in shown.items()]
        if isinstance(action, Forward) and not meant.refused:
            match = _match(snapshot, decision)
            ways = [
                _way(target, snapshot.clusters[target.cluster], action, head, asking) for target in action.targets if target.cluster != SELF
            ]
            shown["match"] = plain(match)
            shown |= {name.name: plain(getattr(action, name.name), name.name) for name in fields(action) if name.name != "special"}
            shown["largest_body_octets"] = snapshot.config.limits.body_octets
            shown["clusters"] = [way.shown() for way in ways]
            told += [("matches", _words.matched(match) if match is not None else f"the name of {decision.why.service}")]
            told += [("split", _words.split(action.targets))] if len(action.targets) > 1 else []
            told += _words.forward(action)
            told += [("largest body", f"{snapshot.config.limits.body_octets} octets" if snapshot.config.limits.body_octets else "no limit")]
            for way in ways:
                told += way.told()
        elif isinstance(action, Reply) and isinstance(policy, Index):
            request = Request(asking, decision.why.service, facts[2].decode(), head.path.decode())
            nearest = explain_policy(policy, request).nearest
            if nearest is not None:
                changes = "; ".join(difference.change for difference in nearest.differences)
                near = {
                    "nearest rule that would allow": f"{nearest.rule.place}: {nearest.rule}",
                    "differs in": changes or "nothing: a deny rule stands against it",
                }
                shown |= near
                told += near.items()
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    width = max(len(name) for name, _ in told)
    for name, value in told:
        colour = {"forward": "green", "reply": "red"}.get(value) if name == "action" else None
        click.echo(f"{name:<{width}}  {click.style(value, fg=colour) if colour else value}")


def _domain(principal: str | None) -> str:
    if principal is None or not principal.startswith("spiffe://"):
        return "local"
    try:
        return SpiffeId.parse(principal).trust_domain
    except ValueError as error:
        raise click.UsageError(f"--as {principal}: {error}") from error


def _head(method: str, authority: str, path: str, query: str, headers: tuple[str, ...]) -> RequestHead:
    fields = []
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise click.UsageError(f"-H {header!r}: write 'NAME: VALUE'")
        fields.append(classified(name.strip().lower().encode(), value.strip().encode()))
    if method == CALL.decode():
        method = "POST"
        fields.append(CONTENT_TYPE_GRPC)
    question = f"?{query}".encode() if query else b""
    return RequestHead(1, method.encode(), b"http", authority.encode(), path.encode(), question, fields, 0)


def _said(value: object) -> str:
    """A value in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} = {clean(str(each))}" for name, each in value.items())
    return ", ".join(str(each) for each in value) if isinstance(value, list) else str(value)


def _why(decision: Decision, dialect: Dialect | None) -> dict[str, object]:
    why = decision.why
    action = decision.action
    shown: dict[str, object] = {
        "action": "forward" if isinstance(action, Forward) else "reply",
        "listener": why.listener,
        "principal": why.principal,
        "service": why.service,
        "route": why.route,
        "rule": why.rule,
    }
    if isinstance(action, Reply):
        shown |= {"status": DIALECTS[action.fault].http} if dialect is None else _dialect.told_as(dialect, action.fault)
        shown["fault"] = action.fault.value
    return shown


def _match(snapshot: Snapshot, decision: Decision) -> Match | None:
    """What the route asked for; None: it is the service's name that leads there."""
    config = snapshot.config
    routes = (*config.app_routes, config.app_route) if decision.why.listener == INBOUND else config.routes
    return next((route.match for route in routes if route.name == decision.why.route), None)


@dataclass(frozen=True, slots=True)
class _Way:
    """One cluster that the request may go to."""

    target: Target
    cluster: Cluster
    key: str
    pick: str

    def shown(self) -> dict[str, object]:
        """As JSON says it."""
        cluster = {
            name.name: plain(getattr(self.cluster, name.name)) for name in fields(self.cluster) if name.name not in {"name", "local"}
        }
        return {"cluster": self.target.cluster, "weight": self.target.weight, "key": self.key, "pick": self.pick, **cluster}

    def _balance(self) -> str:
        balance = self.cluster.balance
        if balance.policy is not Policy.RING:
            return str(balance.policy.value)
        bound = f"at most {_words.share(WHOLE_BP + balance.excess_bp)} of the mean load"
        return f"ring, key {self.key or 'none: the less loaded of two'}, {bound}"

    def told(self) -> list[_words.Line]:
        """As people read it."""
        lines = [
            ("identity", self.cluster.identity or "none (plain text)"),
            ("balance", self._balance()),
            ("pick", self.pick),
            *_words.cluster(self.cluster),
        ]
        return [("cluster", self.target.cluster), *((f"  {name}", value) for name, value in lines)]


def _way(target: Target, cluster: Cluster, action: Forward, head: RequestHead, asking: str) -> _Way:
    ring = cluster.balance.policy is Policy.RING
    key = hash_key(action.key or cluster.balance.key, head, asking) if ring else b""
    members = [Member(endpoint) for endpoint in cluster.endpoints]
    picked = picker(cluster, members, random.Random(0)).pick(key, ()) if members else None  # noqa: S311 - shows one possible pick
    pick = "no endpoint"
    if picked is not None:
        pick = f"{picked.endpoint.name} at {picked.endpoint.address}" if key or len(members) == 1 else f"one of {len(members)}"
    return _Way(target, cluster, key.decode("ascii", "backslashreplace"), pick)

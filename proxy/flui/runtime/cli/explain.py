"""`flui explain`: the decision for a request, without sending it."""

from __future__ import annotations

import json
import random
from urllib.parse import urlsplit

import click

from flui.codecs.validate import validate
from flui.decide import INBOUND, Snapshot, decide
from flui.downstream.exchange import hash_key
from flui.identity.spiffe import SpiffeId
from flui.model.config import ConfigError
from flui.model.decision import Decision, Forward, Reply
from flui.model.events import RequestHead
from flui.model.fault import DIALECTS
from flui.model.fields import classified
from flui.model.topology import Cluster
from flui.policy.base import Request
from flui.policy.explain import explain as explain_policy
from flui.policy.index import Index
from flui.routing.pick import Member, picker
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
    """Say what would be decided for a request, and why: listener, route, policy rule, cluster, pick, limits."""
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
    snapshot = Snapshot(resolve(sidecar, domain), policy, own, 0)
    asking = principal or own
    if listener == INBOUND and principal is None:
        raise click.UsageError("say who asks: --as spiffe://TRUST-DOMAIN/NAME")
    head = _head(method, where.netloc, where.path or "/", where.query, headers)
    fault = validate(head)
    if fault is not None:
        told: dict[str, object] = {"action": "reply", "status": DIALECTS[fault].http, "fault": fault.value, "why": "malformed"}
    else:
        decision = decide(snapshot.facts(listener, asking, head), snapshot, 0.0)
        told = _told(decision, snapshot, head, asking)
        if isinstance(decision.action, Reply) and isinstance(policy, Index):
            request = Request(asking, decision.why.service, method, head.path.decode())
            nearest = explain_policy(policy, request).nearest
            if nearest is not None:
                told["nearest rule that would allow"] = f"{nearest.rule.place}: {nearest.rule}"
                changes = "; ".join(difference.change for difference in nearest.differences)
                told["differs in"] = changes or "nothing: a deny rule stands against it"
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    width = max(len(name) for name in told)
    for name, value in told.items():
        colour = {"forward": "green", "reply": "red"}.get(str(value)) if name == "action" else None
        click.echo(f"{name:<{width}}  {click.style(str(value), fg=colour) if colour else value}")


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
    question = f"?{query}".encode() if query else b""
    return RequestHead(1, method.encode(), b"http", authority.encode(), path.encode(), question, fields, 0)


def _told(decision: Decision, snapshot: Snapshot, head: RequestHead, asking: str) -> dict[str, object]:
    why = decision.why
    action = decision.action
    told: dict[str, object] = {
        "action": "forward" if isinstance(action, Forward) else "reply",
        "listener": why.listener,
        "principal": why.principal,
        "service": why.service,
        "route": why.route,
        "rule": why.rule,
    }
    if isinstance(action, Reply):
        return told | {"status": DIALECTS[action.fault].http, "fault": action.fault.value}
    for target in action.targets:
        cluster = snapshot.clusters.get(target.cluster)
        share = f" ({target.weight} of {sum(each.weight for each in action.targets)})" if len(action.targets) > 1 else ""
        told[f"cluster{share}"] = target.cluster
        if cluster is not None:
            told |= _pick(cluster, action, head, asking)
    told["adds"] = ", ".join(f"{field.name.decode()}: {field.value.decode()}" for field in action.add) or "nothing"
    told["timeout"] = f"{action.timeout_s:g} s" if action.timeout_s else "none"
    told["idle timeout"] = f"{action.idle_timeout_s:g} s" if action.idle_timeout_s else "none"
    told["largest body"] = f"{snapshot.config.limits.body_octets} octets" if snapshot.config.limits.body_octets else "no limit"
    return told


def _pick(cluster: Cluster, action: Forward, head: RequestHead, asking: str) -> dict[str, object]:
    key = hash_key(action.key or cluster.balance.key, head, asking)
    members = [Member(endpoint) for endpoint in cluster.endpoints]
    picked = picker(cluster, members, random.Random(0)).pick(key, ()) if members else None  # noqa: S311 - shows one possible pick
    keyed = cluster.balance.policy.value == "ring" and bool(key)
    return {
        "identity": cluster.identity or "none (plain text)",
        "balance": f"{cluster.balance.policy.value}, key {key.decode('ascii', 'backslashreplace') or 'none'}",
        "pick": (f"{picked.endpoint.name} at {picked.endpoint.address}" if keyed or len(members) == 1 else f"one of {len(members)}")
        if picked is not None
        else "no endpoint",
    }

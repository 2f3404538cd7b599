"""`routes:` of a configuration file, outbound and under `app:`: what a request must be like, and what follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from flui.identity.spiffe import SpiffeId
from flui.model.config import Limits
from flui.model.resilience import Mirror
from flui.model.topology import APP_ROUTE, Cluster, HeaderMatch, Match, Policy, Route, Target
from flui.routing.pattern import complaint
from flui.runtime import _schema as schema
from flui.runtime._resilience import FOLLOWING, following
from flui.runtime._schema import Knobs, Reader, Wrong, is_off
from flui.runtime._services import field_name, hash_key, weight
from flui.runtime._yaml import Items, Node, Section, Text

ROUTE_KEYS: Final = ("name", "match", "to", "key", *FOLLOWING, "mirror")
APP_ROUTE_KEYS: Final = ("name", "match", *FOLLOWING)
MATCH_KEYS: Final = ("hosts", "path", "methods", "headers")
APP_MATCH_KEYS: Final = ("path", "methods", "headers", "principals")
TARGET_KEYS: Final = ("service", "weight")
MIRROR_KEYS: Final = ("service", "share")

_NOT_OUTBOUND: Final = {
    "principals": (
        "these routes are for calls of our own module, so everyone who asks is the same",
        "write it in a route under `app.routes`, or remove it",
    )
}
_NOT_INBOUND: Final = {
    "hosts": ("whatever host a request names, it is for our own module", "remove it"),
    "to": ("all routes of `app` lead to the module", "remove it, or write the route under `routes`, for calls of the module"),
    "mirror": ("only what the module calls can be copied", "remove it, or write it in a route of the caller"),
}


class Routes:
    """Reads both lists."""

    def __init__(self, reader: Reader, limits: Limits, clusters: Iterable[Cluster]) -> None:
        """Begin.

        Args:
            reader: Keeps the mistakes.
            limits: In force.
            clusters: Where outbound routes can lead.
        """
        self._reader = reader
        self._limits = limits
        self._clusters = {cluster.name: cluster for cluster in clusters}

    def outbound(self, node: Node | None) -> tuple[Route, ...]:
        """What stands under `routes:`."""
        return self._list(node, "[{name: v2, match: {path: /v2/*}, to: stock}]", self._outbound)

    def inbound(self, node: Node | None, base: Route) -> tuple[Route, ...]:
        """What stands under `app.routes:`.

        Args:
            node: The list.
            base: What `app:` itself says; each route begins with it, and changes what it says itself.
        """
        return self._list(node, "[{name: export, match: {path: /export}, timeout: 5m}]", partial(self._inbound, base=base))

    def _list(self, node: Node | None, example: str, read: Callable[[Node], Route]) -> tuple[Route, ...]:
        reader = self._reader
        routes: list[Route] = []
        for item in reader.items(node, example) or ():
            mistakes = len(reader.problems)
            route = read(item)
            if len(reader.problems) > mistakes:
                continue  # what stands in for a mistake is not worth comparing
            for other in routes:
                if other.name == route.name:
                    reader.wrong(item.place, f"another route is called {route.name!r} already", "give each a name of its own")
                elif other.match == route.match:
                    reader.wrong(item.place, f"it is never reached: {other.name!r} before it matches the same", "remove one of the two")
            routes.append(route)
        return tuple(routes)

    def _outbound(self, node: Node) -> Route:
        reader = self._reader
        fields = reader.fields(node, ROUTE_KEYS, "{name: v2, match: {path: /v2/*}, to: stock}")
        name = self._name(node, fields)
        if "to" not in fields and isinstance(node, Section):
            reader.missing(node.place, "to", "write the service that it leads to")
        targets = self._targets(fields.get("to"))
        key = reader.value(fields.get("key"), hash_key)
        known = [self._clusters[target.cluster] for target in targets]
        if key is not None and known and not any(cluster.balance.policy is Policy.RING for cluster in known):
            reader.wrong(fields["key"].place, "no service of this route hashes", "add `balance: ring` to the service, or remove this key")
        match = self._match(fields.get("match"), MATCH_KEYS)
        route = Route(name, match, targets, key=key, mirror=self._mirror(fields.get("mirror"), targets))
        return following(reader, route, fields, self._limits)

    def _inbound(self, node: Node, base: Route) -> Route:
        reader = self._reader
        fields = reader.fields(node, APP_ROUTE_KEYS, "{name: export, match: {path: /export}, timeout: 5m}", _NOT_INBOUND)
        name = self._name(node, fields)
        if name == APP_ROUTE.name:
            reader.wrong(fields["name"].place, f"{name!r} is what all other requests are counted under", "give it another name")
        mistakes = len(reader.problems)
        match = self._match(fields.get("match"), APP_MATCH_KEYS)
        if match == Match() and len(reader.problems) == mistakes:
            what = "it matches every request, so what stands under `app` itself would never hold"
            reader.wrong(node.place, what, "say under `match` which requests it is for, or move its keys there")
        return following(reader, dataclasses.replace(base, name=name, match=match), fields, self._limits)

    def _name(self, node: Node, fields: dict[str, Node]) -> str:
        if "name" not in fields and isinstance(node, Section):
            self._reader.missing(node.place, "name", "write a name for logs and metrics, such as `name: v2`")
        return self._reader.value(fields.get("name"), schema.name) or ""

    # -- where it leads ------------------------------------------------------------------------------------------------

    def _service(self, text: str) -> str:
        return schema.one_of(text, self._clusters, what="service", empty="add it under `services:`")

    def _targets(self, node: Node | None) -> tuple[Target, ...]:
        reader = self._reader
        if node is None:
            return ()
        if isinstance(node, Text):
            service = reader.value(node, self._service)
            return () if service is None else (Target(service),)
        items = reader.items(node, "[{service: stock, weight: 9}, {service: stock-v2, weight: 1}]")
        targets: list[Target] = []
        for item in items or ():
            fields = {"service": item} if isinstance(item, Text) else reader.fields(item, TARGET_KEYS, "{service: stock, weight: 9}")
            if "service" not in fields and isinstance(item, Section):
                reader.missing(item.place, "service", "write the service's name")
            service = reader.value(fields.get("service"), self._service)
            share = reader.value(fields.get("weight"), weight)
            if service is not None:
                if any(target.cluster == service for target in targets):
                    reader.wrong(item.place, f"{service!r} is in the list already", "write it once, with the sum of the weights")
                targets.append(Target(service, 1 if share is None else share))
        if items is not None and not items:
            reader.wrong(node.place, "the list is empty", "write the service that the route leads to")
        elif targets and not any(target.weight for target in targets):
            reader.wrong(node.place, "the weights sum to 0, so the route leads nowhere", "give at least one service a weight of 1 or more")
        return tuple(targets)

    def _mirror(self, node: Node | None, targets: tuple[Target, ...]) -> Mirror | None:
        reader = self._reader
        if node is None or is_off(node):
            return None
        knobs: Knobs = {"service": ("cluster", self._service), "share": ("share_bp", partial(schema.share, low_bp=1))}
        fields = {"service": node} if isinstance(node, Text) else reader.fields(node, MIRROR_KEYS, "mirror: {service: stock-v2, share: 1%}")
        if "service" not in fields and isinstance(node, Section):
            reader.missing(node.place, "service", "write the service that gets the copies")
        found = reader.knobs(fields, knobs)
        if "cluster" not in found:
            return None
        if any(target.cluster == found["cluster"] for target in targets):
            what = f"{found['cluster']!r} is where the route leads, so it would get these requests twice"
            reader.wrong(fields["service"].place, what, "name another service")
        return Mirror(**found)

    # -- what a request must be like -----------------------------------------------------------------------------------

    def _match(self, node: Node | None, keys: tuple[str, ...]) -> Match:
        reader = self._reader
        fields = reader.fields(node, keys, "match: {path: /items/*}", _NOT_OUTBOUND if "principals" not in keys else _NOT_INBOUND)
        hosts = reader.items(fields.get("hosts"), "[orders, shop.example]") or ()
        methods = reader.items(fields.get("methods"), "[GET, HEAD]") or ()
        headers = reader.entries(fields.get("headers"), "headers: {x-tier: gold}")
        principals = fields.get("principals")
        callers = reader.items(principals, "[spiffe://shop/web, spiffe://shop/team/*]") or ()
        if isinstance(principals, Items) and not callers:
            reader.wrong(principals.place, "the list is empty, which would be anyone", "write who, or remove the key for anyone")
        conditions: list[HeaderMatch] = []
        for name, value in headers.items():
            field = reader.value(Text(value.place, name), field_name)
            wanted = None if isinstance(value, Text) and value.is_nothing else reader.value(value, _field_value)
            if field is not None:
                conditions.append(HeaderMatch(field, wanted))
        return Match(
            hosts=tuple(found for host in hosts if (found := reader.value(host, _host)) is not None),
            path=reader.value(fields.get("path"), _path) or "/*",
            methods=tuple(found for method in methods if (found := reader.value(method, _method)) is not None),
            headers=tuple(conditions),
            principals=tuple(found for caller in callers if (found := reader.value(caller, _principal)) is not None),
        )


def _field_value(text: str) -> bytes:
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise Wrong(f"{text!r} is not a header's value", "write visible ASCII without blanks at its ends")
    return text.encode()


def _method(text: str) -> str:
    method = schema.token(text, "a method")
    if method != method.upper():
        raise Wrong(f"{text!r} is in lower case, and methods are case-sensitive", f"write {method.upper()}")
    return method


def _host(text: str) -> str:
    if "*" in text:
        raise Wrong(f"{text!r} has a `*`", "write each host out, or leave `hosts` away for any")
    if text != text.lower():
        raise Wrong(f"{text!r} has upper-case letters", f"write {text.lower()}: hosts are compared in lower case")
    if ":" in text.rpartition("]")[2]:
        raise Wrong(f"{text!r} has a port", f"write {text.rpartition(':')[0]}: the port is not compared")
    return schema.host(text)


def _path(text: str) -> str:
    found = complaint(text)
    if found is not None:
        raise Wrong(*found)
    return text


def _principal(text: str) -> str:
    """A SPIFFE ID, or everyone below it with a final `/*`; a trust domain may stand there too."""
    below = text.removesuffix("/*")
    if below == text:
        return schema.spiffe_id(text)
    try:
        SpiffeId.parse(below)
    except ValueError as error:
        raise Wrong(str(error), "write `spiffe://TRUST-DOMAIN/NAME`, or `spiffe://TRUST-DOMAIN/*` for everyone below") from None
    return text

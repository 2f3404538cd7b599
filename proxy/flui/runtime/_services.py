"""`services:` and `routes:` of a configuration file: clusters, endpoints, balancing, and what leads to them."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Final

from flui.model.fields import HOST, OURS, kind_of
from flui.model.topology import (
    Address,
    Balance,
    Cluster,
    Endpoint,
    HashKey,
    HeaderMatch,
    KeySource,
    Match,
    Policy,
    Route,
    Target,
)
from flui.routing.pattern import complaint
from flui.runtime import _schema as schema
from flui.runtime._schema import Reader, Wrong
from flui.runtime._yaml import Node, Section, Text

OWN_DOMAIN: Final = "spiffe://<own>/"
"""Begins the identity of a service that was told none: the sidecar's own trust domain, which only its certificate knows.
No certificate can carry it, so a cluster whose identity was never filled in is never spoken to."""

SERVICE_KEYS: Final = ("endpoints", "identity", "plaintext", "balance")
ENDPOINT_KEYS: Final = ("name", "address", "weight")
BALANCE_KEYS: Final = ("policy", "key", "excess")
ROUTE_KEYS: Final = ("name", "match", "to", "timeout", "idle_timeout", "key")
MATCH_KEYS: Final = ("hosts", "path", "methods", "headers")
TARGET_KEYS: Final = ("service", "weight")

_DAY: Final = 86_400.0
_MAX_WEIGHT: Final = 1000

_timeout: Final = partial(schema.duration, low=0.0, high=_DAY)
_idle: Final = partial(schema.duration, low=0.1, high=_DAY)
_weight: Final = partial(schema.number, low=0, high=_MAX_WEIGHT)


class Services:
    """Reads both keys; the routes after the services that they lead to."""

    def __init__(self, reader: Reader, outbound: Address | None) -> None:
        """Begin.

        Args:
            reader: Keeps the mistakes.
            outbound: Our own outbound listener: an endpoint there would call us in a circle.
        """
        self._reader = reader
        self._outbound = outbound
        self._clusters: dict[str, Cluster] = {}

    def clusters(self, node: Node | None) -> tuple[Cluster, ...]:
        """What stands under `services:`."""
        services = self._reader.entries(node, "services: {stock: {endpoints: [10.0.0.7:15006]}}")
        self._clusters = {name: self._cluster(name, entry) for name, entry in services.items()}
        return tuple(self._clusters.values())

    def _cluster(self, name: str, node: Node) -> Cluster:
        reader = self._reader
        reader.value(Text(node.place, name), schema.name)
        fields = reader.fields(node, SERVICE_KEYS, f"{name}: {{endpoints: [10.0.0.7:15006]}}")
        plaintext = reader.value(fields.get("plaintext"), schema.flag) or False
        identity = reader.value(fields.get("identity"), schema.spiffe_id)
        if plaintext and "identity" in fields:
            what = "a service that is called in plain text cannot prove an identity"
            reader.wrong(fields["identity"].place, what, "remove one of the two keys")
        return Cluster(
            name=name,
            endpoints=self._endpoints(name, node, fields),
            balance=self._balance(fields.get("balance")),
            identity=None if plaintext else identity or OWN_DOMAIN + name,
        )

    def _endpoints(self, service: str, node: Node, fields: dict[str, Node]) -> tuple[Endpoint, ...]:
        reader = self._reader
        if "endpoints" not in fields:
            if isinstance(node, Section) or (isinstance(node, Text) and node.is_nothing):
                reader.missing(node.place, "endpoints", f"write where {service} is, such as `endpoints: [10.0.0.7:15006]`")
            return ()
        items = reader.items(fields["endpoints"], "[10.0.0.7:15006]")
        if items is None:
            return ()
        endpoints: list[Endpoint] = []
        for item in items:
            endpoint = self._endpoint(item)
            if endpoint is None:
                continue
            for other in endpoints:
                if other.name == endpoint.name:
                    reader.wrong(item.place, f"another endpoint is called {endpoint.name!r} already", "give each a name of its own")
                elif other.address == endpoint.address:
                    reader.wrong(item.place, f"{endpoint.address} is the address of {other.name!r} already", "remove one of the two")
            endpoints.append(endpoint)
        if not items:
            reader.wrong(fields["endpoints"].place, "the list is empty", f"write where {service} is, or remove the service")
        elif endpoints and not any(endpoint.weight for endpoint in endpoints):
            reader.wrong(
                fields["endpoints"].place, "the weights sum to 0, so nobody would serve", "give at least one endpoint a weight of 1 or more"
            )
        return tuple(endpoints)

    def _endpoint(self, node: Node) -> Endpoint | None:
        reader = self._reader
        fields = {"address": node}
        if isinstance(node, Section):
            fields = reader.fields(node, ENDPOINT_KEYS, "{name: stock-1, address: 10.0.0.7:15006}")
            if "address" not in fields:
                reader.missing(node.place, "address", "write it as in `address: 10.0.0.7:15006`")
        address = reader.value(fields.get("address"), schema.endpoint)
        weight = reader.value(fields.get("weight"), _weight)
        name = reader.value(fields.get("name"), _endpoint_name)
        if address is not None and self._outbound is not None and schema.overlap(address, self._outbound):
            reader.wrong(
                fields["address"].place,
                f"{address} is our own outbound listener, so calls would go round",
                "write the service's own address",
            )
        if address is None:
            return None
        return Endpoint(name or str(address), address, 1 if weight is None else weight)

    def _balance(self, node: Node | None) -> Balance:
        reader = self._reader
        if node is None:
            return Balance()
        fields = {"policy": node}
        if isinstance(node, Section):
            fields = reader.fields(node, BALANCE_KEYS, "balance: {policy: ring, key: header:x-customer}")
        policy = reader.value(fields.get("policy"), _policy)
        key = reader.value(fields.get("key"), hash_key)
        excess_bp = reader.value(fields.get("excess"), _excess)
        if policy is not Policy.RING and not (policy is None and "policy" in fields):
            for name in ("key", "excess"):
                if name in fields:
                    reader.wrong(fields[name].place, "only a ring has it", "add `policy: ring`, or remove this key")
        default = Balance()
        return Balance(policy or default.policy, key or default.key, default.excess_bp if excess_bp is None else excess_bp)

    def routes(self, node: Node | None) -> tuple[Route, ...]:
        """What stands under `routes:`."""
        reader = self._reader
        routes: list[Route] = []
        for item in reader.items(node, "[{name: v2, match: {path: /v2/*}, to: stock}]") or ():
            mistakes = len(reader.problems)
            route = self._route(item)
            if len(reader.problems) > mistakes:
                continue  # what stands in for a mistake is not worth comparing
            for other in routes:
                if other.name == route.name:
                    reader.wrong(item.place, f"another route is called {route.name!r} already", "give each a name of its own")
                elif other.match == route.match:
                    reader.wrong(item.place, f"it is never reached: {other.name!r} before it matches the same", "remove one of the two")
            routes.append(route)
        return tuple(routes)

    def _route(self, node: Node) -> Route:
        reader = self._reader
        fields = reader.fields(node, ROUTE_KEYS, "{name: v2, match: {path: /v2/*}, to: stock}")
        if isinstance(node, Section):
            if "name" not in fields:
                reader.missing(node.place, "name", "write a name for logs and metrics, such as `name: v2`")
            if "to" not in fields:
                reader.missing(node.place, "to", "write the service that it leads to")
        name = reader.value(fields.get("name"), schema.name)
        targets = self._targets(fields.get("to"))
        key = reader.value(fields.get("key"), hash_key)
        known = [self._clusters[target.cluster] for target in targets]
        if key is not None and known and not any(cluster.balance.policy is Policy.RING for cluster in known):
            reader.wrong(fields["key"].place, "no service of this route hashes", "add `balance: ring` to the service, or remove this key")
        return timed(reader, Route(name or "", self._match(fields.get("match")), targets, key=key), fields)

    def _targets(self, node: Node | None) -> tuple[Target, ...]:
        reader = self._reader
        if node is None:
            return ()
        one_service = partial(schema.one_of, known=self._clusters, what="service", empty="add it under `services:`")
        if isinstance(node, Text):
            service = reader.value(node, one_service)
            return () if service is None else (Target(service),)
        items = reader.items(node, "[{service: stock, weight: 9}, {service: stock-v2, weight: 1}]")
        targets: list[Target] = []
        for item in items or ():
            fields = {"service": item} if isinstance(item, Text) else reader.fields(item, TARGET_KEYS, "{service: stock, weight: 9}")
            if "service" not in fields and isinstance(item, Section):
                reader.missing(item.place, "service", "write the service's name")
            service = reader.value(fields.get("service"), one_service)
            weight = reader.value(fields.get("weight"), _weight)
            if service is not None:
                if any(target.cluster == service for target in targets):
                    reader.wrong(item.place, f"{service!r} is in the list already", "write it once, with the sum of the weights")
                targets.append(Target(service, 1 if weight is None else weight))
        if items is not None and not items:
            reader.wrong(node.place, "the list is empty", "write the service that the route leads to")
        elif targets and not any(target.weight for target in targets):
            reader.wrong(node.place, "the weights sum to 0, so the route leads nowhere", "give at least one service a weight of 1 or more")
        return tuple(targets)

    def _match(self, node: Node | None) -> Match:
        reader = self._reader
        fields = reader.fields(node, MATCH_KEYS, "match: {path: /items/*}")
        hosts = reader.items(fields.get("hosts"), "[orders, shop.example]") or ()
        methods = reader.items(fields.get("methods"), "[GET, HEAD]") or ()
        headers = reader.entries(fields.get("headers"), "headers: {x-tier: gold}")
        conditions: list[HeaderMatch] = []
        for name, value in headers.items():
            field = reader.value(Text(value.place, name), _field_name)
            wanted = None if isinstance(value, Text) and value.is_nothing else reader.value(value, _field_value)
            if field is not None:
                conditions.append(HeaderMatch(field, wanted))
        return Match(
            hosts=tuple(found for host in hosts if (found := reader.value(host, _route_host)) is not None),
            path=reader.value(fields.get("path"), _route_path) or "/*",
            methods=tuple(found for method in methods if (found := reader.value(method, _method)) is not None),
            headers=tuple(conditions),
        )


def timed(reader: Reader, route: Route, fields: dict[str, Node]) -> Route:
    """The route with `timeout` and `idle_timeout` where they are given."""
    timeout = reader.value(fields.get("timeout"), _timeout)
    idle = reader.value(fields.get("idle_timeout"), _idle)
    return dataclasses.replace(
        route,
        timeout_s=route.timeout_s if timeout is None else timeout,
        idle_timeout_s=route.idle_timeout_s if idle is None else idle,
    )


def _endpoint_name(text: str) -> str:
    if not text or len(text) > 255 or not text.isprintable() or not text.isascii() or " " in text:
        raise Wrong(f"{text!r} is not a name", "write 1 to 255 letters, digits and signs without blanks")
    return text


def _policy(text: str) -> Policy:
    return Policy(schema.one_of(text, [policy.value for policy in Policy], "policy", ""))


def _excess(text: str) -> int:
    return round(10_000 * schema.fraction(text, 0.01, 10.0))


def hash_key(text: str) -> HashKey:
    """Where the key of a request is."""
    source, colon, rest = text.partition(":")
    if text == KeySource.FLUI_KEY.value:
        return HashKey()
    if text == KeySource.PRINCIPAL.value:
        return HashKey(KeySource.PRINCIPAL)
    if source == "header" and colon:
        return HashKey(KeySource.HEADER, name=_field_name(rest))
    if source == "path" and colon:
        return HashKey(KeySource.PATH_PART, part=schema.number(rest, 1, 32))
    raise Wrong(f"{text!r} is not a place of a key", "write `flui-key`, `header:NAME`, `path:N` or `principal`")


def _field_name(text: str) -> bytes:
    name = schema.token(text, "a header's name").lower().encode()
    kind = kind_of(name)
    if kind == HOST:
        raise Wrong("the host is not among the headers", "write it under `hosts`")
    if kind == OURS:
        raise Wrong(f"{text} is removed from every request, as only a sidecar may say it", "name another header")
    return name


def _field_value(text: str) -> bytes:
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise Wrong(f"{text!r} is not a header's value", "write visible ASCII without blanks at its ends")
    return text.encode()


def _method(text: str) -> str:
    method = schema.token(text, "a method")
    if method != method.upper():
        raise Wrong(f"{text!r} is in lower case, and methods are case-sensitive", f"write {method.upper()}")
    return method


def _route_host(text: str) -> str:
    if "*" in text:
        raise Wrong(f"{text!r} has a `*`", "write each host out, or leave `hosts` away for any")
    if text != text.lower():
        raise Wrong(f"{text!r} has upper-case letters", f"write {text.lower()}: hosts are compared in lower case")
    if ":" in text.rpartition("]")[2]:
        raise Wrong(f"{text!r} has a port", f"write {text.rpartition(':')[0]}: the port is not compared")
    return schema.host(text)


def _route_path(text: str) -> str:
    found = complaint(text)
    if found is not None:
        raise Wrong(*found)
    return text

"""`services:` of a configuration file: clusters, their endpoints, how one is picked, and what guards them."""

from __future__ import annotations

from functools import partial
from typing import Final

from flui.decide import SELF_HOST
from flui.model.fields import HOST, OURS, kind_of
from flui.model.topology import Address, Balance, Cluster, Endpoint, HashKey, KeySource, Policy, Protocol
from flui.runtime import _schema as schema
from flui.runtime._resilience import SERVICE_GUARDS, check_protocol, guarded
from flui.runtime._schema import Reader, Wrong
from flui.runtime._yaml import Node, Section, Text

OWN_DOMAIN: Final = "spiffe://<own>/"
"""Begins the identity of a service that was told none: the sidecar's own trust domain, which only its certificate knows.
No certificate can carry it, so a cluster whose identity was never filled in is never spoken to."""

SERVICE_KEYS: Final = ("endpoints", "identity", "plaintext", "protocol", "balance", *SERVICE_GUARDS)
ENDPOINT_KEYS: Final = ("name", "address", "weight")
BALANCE_KEYS: Final = ("policy", "key", "excess")

weight: Final = partial(schema.number, low=0, high=1000)
"""A share relative to the others."""


class Services:
    """Reads them."""

    def __init__(self, reader: Reader, outbound: Address | None) -> None:
        """Begin.

        Args:
            reader: Keeps the mistakes.
            outbound: Our own outbound listener: an endpoint there would call us in a circle.
        """
        self._reader = reader
        self._outbound = outbound

    def clusters(self, node: Node | None) -> tuple[Cluster, ...]:
        """What stands under `services:`."""
        services = self._reader.entries(node, "services: {stock: {endpoints: [10.0.0.7:15006]}}")
        return tuple(self._cluster(name, entry) for name, entry in services.items())

    def _cluster(self, name: str, node: Node) -> Cluster:
        reader = self._reader
        reader.value(Text(node.place, name), schema.name)
        if name.encode() == SELF_HOST:
            reader.wrong(node.place, "under this name a sidecar answers for its own health", "give the service another one")
        fields = reader.fields(node, SERVICE_KEYS, f"{name}: {{endpoints: [10.0.0.7:15006]}}")
        plaintext = reader.value(fields.get("plaintext"), schema.flag) or False
        identity = reader.value(fields.get("identity"), schema.spiffe_id)
        if plaintext and "identity" in fields:
            what = "a service that is called in plain text cannot prove an identity"
            reader.wrong(fields["identity"].place, what, "remove one of the two keys")
        cluster = Cluster(
            name=name,
            endpoints=self._endpoints(name, node, fields),
            balance=self._balance(fields.get("balance")),
            identity=None if plaintext else identity or OWN_DOMAIN + name,
            protocol=reader.value(fields.get("protocol"), _protocol) or Protocol.AUTO,
        )
        cluster = guarded(reader, cluster, fields)
        check_protocol(reader, cluster, fields, "write `protocol: http2`")
        return cluster

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
        share = reader.value(fields.get("weight"), weight)
        name = reader.value(fields.get("name"), _endpoint_name)
        if address is not None and self._outbound is not None and schema.overlap(address, self._outbound):
            reader.wrong(
                fields["address"].place,
                f"{address} is our own outbound listener, so calls would go round",
                "write the service's own address",
            )
        if address is None:
            return None
        return Endpoint(name or str(address), address, 1 if share is None else share)

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


def _protocol(text: str) -> Protocol:
    return Protocol(schema.one_of(text, [protocol.value for protocol in Protocol], "protocol", ""))


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
        return HashKey(KeySource.HEADER, name=field_name(rest))
    if source == "path" and colon:
        return HashKey(KeySource.PATH_PART, part=schema.number(rest, 1, 32))
    raise Wrong(f"{text!r} is not a place of a key", "write `flui-key`, `header:NAME`, `path:N` or `principal`")


def field_name(text: str) -> bytes:
    """A header that a caller can send, in lower case."""
    name = schema.token(text, "a header's name").lower().encode()
    kind = kind_of(name)
    if kind == HOST:
        raise Wrong("the host is not among the headers", "write it under `hosts`")
    if kind == OURS:
        raise Wrong(f"{text} is removed from every request, as only a sidecar may say it", "name another header")
    return name

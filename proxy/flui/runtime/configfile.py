"""The configuration of one sidecar, from a YAML file, from flags, or from a file with flags over it.

Everything is read once into `model.config.Sidecar`; nothing below reads files or the environment. Every mistake is found
in one pass and named with file, line, key and what to write instead. What is not said is safe: TLS with a required client
certificate towards us and towards every service, everything denied without a policy, plain text only on loopback.

`docs/configuration.md` tells every key.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Final

from flui.model.api import NO_API, Api
from flui.model.config import ConfigError, Limits, Listener, Sidecar
from flui.model.topology import APP, APP_ROUTE, Address, Cluster, Endpoint, Protocol, Route
from flui.runtime import _api, _limits, _resilience, _telemetry
from flui.runtime import _schema as schema
from flui.runtime._resilience import APP_GUARDS, FOLLOWING, check_protocol, following, guarded
from flui.runtime._routes import Routes
from flui.runtime._schema import Reader, Wrong
from flui.runtime._services import OWN_DOMAIN, Services
from flui.runtime._yaml import Node, Place, Section, Text, load

INBOUND: Final = Address("0.0.0.0", 15006)  # noqa: S104 - mTLS towards everyone is what the inbound listener is for
OUTBOUND: Final = Address("127.0.0.1", 15001)

KEYS: Final = (
    "service",
    "app",
    "inbound",
    "outbound",
    "admin",
    "certs",
    "policy",
    "services",
    "routes",
    "timeouts",
    "limits",
    "overload",
    "access_log",
    "tracing",
)
"""Keys of the file."""

APP_KEYS: Final = ("url", *dict.fromkeys((*FOLLOWING, *APP_GUARDS)), "routes", "api")
_NOT_OF_APP: Final = {
    "outlier": ("the module is one endpoint, and nobody could take its place", "remove it; `health` and `panic: fail` turn requests away"),
    "mirror": ("only what the module calls can be copied", "remove it, or write it in a route of the caller"),
}
INBOUND_KEYS: Final = ("address", "trusted_hops", "timeout", "server_timing")
OUTBOUND_KEYS: Final = ("address", "authorize", "timeout", "server_timing")


@dataclasses.dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says; each stands above the same key of the file. Texts as they were typed."""

    service: str | None = None
    app: str | None = None
    inbound: str | None = None
    outbound: str | None = None
    admin: str | None = None
    certs: str | None = None
    policy: str | None = None


NO_FLAGS: Final = Flags()


def read(path: str, flags: Flags = NO_FLAGS, *, on_disk: bool = False) -> Sidecar:
    """The configuration in a file, with flags over it.

    Args:
        path: The file. Relative paths in it are relative to its folder; in flags, to the current one.
        flags: From the command line.
        on_disk: Whether the folders and files that it names must be there.

    Raises:
        ConfigError: With every mistake, in the order of the file.
    """
    tree, problems = load(path)
    return _build(tree, flags, Reader(problems), source=path, on_disk=on_disk)


def from_flags(flags: Flags, *, on_disk: bool = False) -> Sidecar:
    """The configuration that flags alone make.

    Raises:
        ConfigError: With every mistake.
    """
    return _build(Section(Place(_COMMAND_LINE, 0, ""), {}), flags, Reader(), source="", on_disk=on_disk)


def interpret(tree: Node, reader: Reader, source: str = "") -> Sidecar:
    """The configuration that a tree says, without looking at the disk.

    Raises:
        ConfigError: With every mistake, those that the reader already holds included.
    """
    return _build(tree, NO_FLAGS, reader, source=source, on_disk=False)


def resolve(config: Sidecar, trust_domain: str) -> Sidecar:
    """Fills in the identities that were left to the trust domain of the sidecar's own certificate."""

    def named(cluster: Cluster) -> Cluster:
        if cluster.identity is None or not cluster.identity.startswith(OWN_DOMAIN):
            return cluster
        return dataclasses.replace(cluster, identity=f"spiffe://{trust_domain}/{cluster.identity.removeprefix(OWN_DOMAIN)}")

    return dataclasses.replace(config, clusters=tuple(named(cluster) for cluster in config.clusters))


_COMMAND_LINE: Final = "command line"


def _build(tree: Node, flags: Flags, reader: Reader, *, source: str, on_disk: bool) -> Sidecar:
    config = _Build(_merged(tree, flags), reader, source, on_disk).sidecar()
    if reader.problems:
        # stable: what has no line (flags) first, then as in the file
        raise ConfigError(tuple(sorted(reader.problems, key=lambda problem: problem.line)))
    return config


def _merged(tree: Node, flags: Flags) -> Node:
    """The tree with what the flags say in place of what the file says."""
    if isinstance(tree, Text) and tree.is_nothing:
        tree = Section(tree.place, {})
    if not isinstance(tree, Section):
        return tree
    entries = dict(tree.entries)
    for flag in dataclasses.fields(flags):
        text = getattr(flags, flag.name)
        if text is None:
            continue
        node = Text(Place(_COMMAND_LINE, 0, f"--{flag.name}"), text, plain=False)
        before = entries.get(flag.name)
        inner = "url" if flag.name == "app" else "address"
        # the other keys of the section stay as the file has them
        entries[flag.name] = Section(before.place, {**before.entries, inner: node}) if isinstance(before, Section) else node
    return Section(tree.place, entries)


class _Build:
    """Reads one tree into a `Sidecar`. After a mistake a stand-in goes on, so that all are found."""

    def __init__(self, tree: Node, reader: Reader, source: str, on_disk: bool) -> None:
        self._reader = reader
        self._top = tree.place
        self._is_section = isinstance(tree, Section)
        self._source = source
        self._folder = Path(source).parent
        self._on_disk = on_disk
        self._keys = reader.fields(tree, KEYS, "service: orders")
        self._addresses: dict[str, tuple[Address, Place]] = {}
        """Of the listeners, the admin API and the module, for comparing."""

    def sidecar(self) -> Sidecar:
        reader = self._reader
        keys = self._keys
        service = reader.value(keys.get("service"), schema.name)
        if "service" not in keys and self._is_section:
            fix = f"name the service beside it, such as {self._said('service', 'orders')}"
            reader.wrong(self._absent("service"), "it is missing", fix)
        limits = _limits.limits(reader, keys.get("limits"))
        app = self._app(limits)
        listeners = self._listeners(app)
        admin = self._admin(service or "sidecar")
        certs = self._folder_of("certs", ("ca.pem", f"{service}.pem", f"{service}.key") if service else ())
        policy = self._folder_of("policy", ("model.conf",))
        services = Services(reader, next((listener.address for listener in listeners if listener.name == "outbound"), None))
        clusters = services.clusters(keys.get("services"))
        routes = Routes(reader, limits, clusters).outbound(keys.get("routes"))
        self._check_certs(certs, clusters)
        self._check_addresses()
        if app.cluster is not None:
            clusters = (app.cluster, *clusters)
        return Sidecar(
            service=service or "",
            app=app.address,
            listeners=listeners,
            admin=admin,
            certs=certs,
            policy=policy,
            clusters=clusters,
            routes=routes,
            app_route=app.route,
            app_routes=app.routes,
            api=app.api,
            limits=limits,
            timeouts=_limits.timeouts(reader, keys.get("timeouts")),
            overload=_resilience.overload(reader, keys.get("overload")),
            access_log=_telemetry.access_log(reader, keys.get("access_log"), self._path, on_disk=self._on_disk),
            tracing=_telemetry.tracing(reader, keys.get("tracing")),
            source=self._source,
        )

    def _said(self, key: str, value: str) -> str:
        """How a key is given: in the file, or as a flag where there is none."""
        return f"`{key}: {value}`" if self._top.line else f"`--{key} {value}`"

    def _absent(self, key: str) -> Place:
        """Where a key that nobody wrote should stand."""
        return Place(self._top.file, self._top.line, key if self._top.line else f"--{key}")

    # -- the module and the listeners ----------------------------------------------------------------------------------

    def _app(self, limits: Limits) -> _App:
        reader = self._reader
        node = self._keys.get("app")
        fields: dict[str, Node] = {}
        if isinstance(node, Section):
            fields = reader.fields(node, APP_KEYS, "app: {url: http://127.0.0.1:8000}", _NOT_OF_APP)
            if "url" not in fields:
                reader.missing(node.place, "url", "write where the module listens, such as `url: http://127.0.0.1:8000`")
            node = fields.get("url")
        # a rate here is the module's, whatever route a request takes, as it is the service's under `services`
        route = following(reader, APP_ROUTE, {key: entry for key, entry in fields.items() if key != "rate"}, limits)
        routes = Routes(reader, limits, ()).inbound(fields.get("routes"), route)
        url = reader.value(node, _app_url)
        # nobody could take the place of its one endpoint, so that is never taken out
        cluster = dataclasses.replace(guarded(reader, Cluster(APP, (), local=True), fields), outlier=None)
        api = _api.api(reader, fields.get("api"), None if url is None else url[1], self._path)
        if url is None or node is None:
            return _App(None, None, route, routes, NO_API)
        address, protocol = url
        self._addresses["app"] = (address, node.place)
        cluster = dataclasses.replace(cluster, endpoints=(Endpoint("app", address),), protocol=protocol)
        check_protocol(reader, cluster, fields, f"write `url: h2c://{address}`")
        return _App(address, cluster, route, routes, api)

    def _listeners(self, app: _App) -> tuple[Listener, ...]:
        reader = self._reader
        listeners: list[Listener] = []
        node, fields = self._section("inbound", INBOUND_KEYS)
        address = self._listening("inbound", fields, INBOUND, wanted="app" in self._keys)
        if address is not None:
            if app.address is None and "app" not in self._keys and node is not None:
                fix = f"add {self._said('app', 'http://127.0.0.1:8000')}, or leave this out"
                reader.wrong(node.place, "there is no module that requests could go to", fix)
            hops = reader.items(fields.get("trusted_hops"), "[spiffe://shop/edge]") or ()
            trusted = tuple(found for hop in hops if (found := reader.value(hop, schema.spiffe_id)) is not None)
            readers = reader.items(fields.get("server_timing"), '[spiffe://shop/web]` or `["*"]') or ()
            told = tuple(found for each in readers if (found := reader.value(each, _told)) is not None)
            listeners.append(Listener("inbound", address, True, True, trusted, reader.value(fields.get("timeout"), _timeout) or 0.0, told))
        node, fields = self._section("outbound", OUTBOUND_KEYS)
        address = self._listening("outbound", fields, OUTBOUND, wanted=True)
        if address is not None:
            place = self._addresses["outbound"][1]
            if not schema.is_loopback(address.host):
                what = f"{address.host} is not loopback, and this listener speaks plain text"
                reader.wrong(place, what, f"write 127.0.0.1:{address.port}")
            authorize = reader.value(fields.get("authorize"), schema.flag) or False
            told = ("*",) if reader.value(fields.get("server_timing"), schema.flag) else ()
            listeners.append(
                Listener("outbound", address, False, authorize, (), reader.value(fields.get("timeout"), _timeout) or 0.0, told)
            )
        return tuple(listeners)

    def _section(self, key: str, known: tuple[str, ...]) -> tuple[Node | None, dict[str, Node]]:
        """A key that is an address, or a section with one in it."""
        node = self._keys.get(key)
        if isinstance(node, Section):
            return node, self._reader.fields(node, known, f"{key}: {{address: 127.0.0.1:15001}}")
        return node, {} if node is None else {"address": node}

    def _listening(self, key: str, fields: dict[str, Node], default: Address, *, wanted: bool) -> Address | None:
        """The address of a listener, which is noted; None when it is off, or wrong."""
        node = fields.get("address")
        address: Address | None
        if node is None:
            address = default if wanted or fields else None
        elif isinstance(node, Text) and node.text == "off":
            return None
        else:
            address = self._reader.value(node, schema.listener)
        if address is not None:
            place = node.place if node is not None else self._absent(key)
            self._addresses[key] = (address, place)
        return address

    def _admin(self, service: str) -> Address | None:
        node = self._keys.get("admin")
        if node is None:
            return Address(f"/tmp/flui-{service}.sock")  # noqa: S108 - a socket that only its owner may open, at a place that can be guessed
        if isinstance(node, Text) and node.text == "off":
            return None
        if isinstance(node, Text) and "/" in node.text and "://" not in node.text:
            path = self._path(node)
            return self._reader.value(Text(node.place, path if "/" in path else f"./{path}"), schema.socket_path)
        address = self._reader.value(node, schema.listener)
        if address is not None:
            self._addresses["admin"] = (address, node.place)
            if not schema.is_loopback(address.host):
                what = f"{address.host} is not loopback, and the admin API is for this machine only"
                self._reader.wrong(node.place, what, f"write 127.0.0.1:{address.port} or the path of a Unix socket")
        return address

    def _check_addresses(self) -> None:
        noted = list(self._addresses.items())
        for at, (key, (address, place)) in enumerate(noted):
            for other, (taken, _) in noted[:at]:
                if not schema.overlap(address, taken):
                    continue
                if other == "app":
                    what = f"{address} is where the module is, so the sidecar would call itself"
                    self._reader.wrong(place, what, "give the sidecar another port, such as 15006 inbound and 15001 outbound")
                else:
                    self._reader.wrong(place, f"{address} is the address of `{other}` too", f"give `{key}` another port")

    # -- folders and files ---------------------------------------------------------------------------------------------

    def _path(self, node: Text) -> str:
        """A path as this process can open it."""
        return str(self._folder / node.text) if node.place.line else node.text

    def _folder_of(self, key: str, files: tuple[str, ...]) -> str | None:
        node = self._keys.get(key)
        if node is None:
            return None
        if not isinstance(node, Text) or not node.text:
            self._reader.wrong(node.place, "this is not the name of a folder", f"write one, such as `{key}: {key}`")
            return None
        path = self._path(node)
        if self._on_disk and not Path(path).is_dir():
            make = "make it with `flui certs init` and `flui certs issue`" if key == "certs" else "make it, with model.conf and *.csv in it"
            self._reader.wrong(node.place, f"there is no folder {path}", f"{make}, or correct the path")
        elif self._on_disk:
            for name in files:
                if not Path(path, name).is_file():
                    fix = "put it there; the leaf and key are named after `service`" if key == "certs" else "put it there"
                    self._reader.wrong(node.place, f"there is no {name} in {path}", fix)
        return path

    def _check_certs(self, certs: str | None, clusters: tuple[Cluster, ...]) -> None:
        if certs is not None or "certs" in self._keys:
            return
        reader = self._reader
        if "inbound" in self._addresses:
            fix = f"add {self._said('certs', 'FOLDER')} (`flui certs init` makes one)"
            reader.wrong(self._absent("certs"), "the inbound listener speaks only mTLS and has no certificate", fix)
            return  # which is the same for every service
        for cluster in clusters:
            if cluster.identity is not None:
                node = reader.entries(self._keys.get("services"), "").get(cluster.name)
                assert node is not None
                fix = "write `certs: FOLDER` at the top, or `plaintext: true` here for a service outside the mesh"
                reader.wrong(node.place, "it is called over mTLS, and there is no certificate", fix)


@dataclasses.dataclass(frozen=True, slots=True)
class _App:
    """What stands under `app:`."""

    address: Address | None
    cluster: Cluster | None
    route: Route
    routes: tuple[Route, ...]
    api: Api


_timeout: Final = partial(schema.duration, low=0.0, high=86_400.0)


def _told(text: str) -> str:
    """Who is told where the time went: a SPIFFE ID, or everyone."""
    return text if text == "*" else schema.spiffe_id(text)


def _app_url(text: str) -> tuple[Address, Protocol]:
    scheme, found, rest = text.partition("://")
    if not found:
        raise Wrong(f"{text!r} does not say how to speak to the module", f"write `http://{text}`, or `h2c://{text}` for gRPC")
    if scheme == "grpc":
        raise Wrong("'grpc' is HTTP/2 in plain text here", f"write `h2c://{rest}`")
    if scheme not in _SCHEMES:
        raise Wrong(f"{scheme!r} is not how a module beside us is spoken to", f"write `http://{rest}`: TLS ends in the sidecar")
    if "/" in rest.rstrip("/") or "?" in rest:
        raise Wrong(f"{text!r} holds a path", f"write only `{scheme}://HOST:PORT`: paths are forwarded as they are")
    return schema.endpoint(rest.rstrip("/")), _SCHEMES[scheme]


_SCHEMES: Final = {"http": Protocol.AUTO, "h2c": Protocol.HTTP2}
"""How the module is spoken to: over plain text nothing is negotiated, so HTTP/2 has to be said."""

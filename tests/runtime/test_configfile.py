"""The configuration file: safe when empty, complete, and every mistake named with file, line, key and a fix."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flui.model.config import AccessLogging, ConfigError, Limits, Listener, Problem, Timeouts
from flui.model.topology import (
    APP,
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
from flui.runtime import _yaml, configfile
from flui.runtime._limits import LIMITS, TIMEOUTS
from flui.runtime._routes import MATCH_KEYS, ROUTE_KEYS, TARGET_KEYS
from flui.runtime._schema import Reader
from flui.runtime._services import BALANCE_KEYS, ENDPOINT_KEYS, OWN_DOMAIN, SERVICE_KEYS
from flui.runtime.configfile import Flags, from_flags, interpret, read, resolve

ROOT = Path(__file__).parents[2]

GOOD = """\
service: orders
app: http://127.0.0.1:8000
certs: certs
services:
  stock:
    endpoints: [10.0.0.7:15006]
"""

FULL = """\
service: orders
app: {url: "http://localhost:8000", timeout: 1m, idle_timeout: 5s}
inbound: {address: 10.0.0.1:16006, trusted_hops: [spiffe://shop/edge]}
outbound: {address: 127.0.0.1:16001, authorize: true}
admin: run/orders.sock
certs: certs
policy: ../policy
services:
  stock:
    endpoints:
      - 10.0.0.7:15006
      - {name: stock-2, address: "[fd00::7]:15006", weight: 3}
    identity: spiffe://other/stock
    balance: {policy: ring, key: header:X-Customer, excess: 0.1}
  legacy:
    endpoints: [Legacy.Internal:80]
    plaintext: true
    balance: round_robin
  no: {endpoints: [192.0.2.1:1]}
routes:
  - name: canary
    match:
      hosts: [stock, shop.example]
      path: /v2/:id/*
      methods: [GET, PURGE]
      headers: {X-Tier: gold, x-debug: }
    to: [{service: stock, weight: 9}, legacy]
    timeout: 0
    idle_timeout: 250ms
    key: path:2
  - {name: rest, to: no}
timeouts: {handshake: 1s, header: 2s, connect: 250ms, body_idle: 4s, keepalive: 1h, drain: 0}
limits: {fields: 50, head: 32KiB, target: 4KiB, body: 0, window: 128KiB, stream_window: 32KiB, interim_responses: 0, connections: 7,
         connections_per_source: 6, handshakes: 5, body_rate: 1KiB/s, flows: 9, grpc_message: 8MiB}
access_log: log/access.jsonl
"""


def written(folder: Path, text: str) -> str:
    file = folder / "sidecar.yaml"
    file.write_text(text, "utf-8")
    return str(file)


def problems_of(path: str, flags: Flags = configfile.NO_FLAGS, on_disk: bool = False) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as raised:
        read(path, flags, on_disk=on_disk)
    return raised.value.problems


# -- what a right one says ---------------------------------------------------------------------------------------------


def test_every_key_is_read(tmp_path: Path) -> None:
    config = read(written(tmp_path, FULL))
    assert config.service == "orders"
    assert config.app == Address("localhost", 8000)
    assert (config.app_route.timeout_s, config.app_route.idle_timeout_s) == (60.0, 5.0)
    assert config.listeners == (
        Listener("inbound", Address("10.0.0.1", 16006), tls=True, authorize=True, trusted_hops=("spiffe://shop/edge",)),
        Listener("outbound", Address("127.0.0.1", 16001), tls=False, authorize=True),
    )
    assert config.admin == Address(f"{tmp_path}/run/orders.sock")
    assert config.certs == f"{tmp_path}/certs"
    assert config.policy == f"{tmp_path}/../policy"
    assert config.clusters == (
        Cluster(APP, (Endpoint("app", Address("localhost", 8000)),), local=True, outlier=None),
        Cluster(
            "stock",
            (Endpoint("10.0.0.7:15006", Address("10.0.0.7", 15006)), Endpoint("stock-2", Address("fd00::7", 15006), 3)),
            Balance(Policy.RING, HashKey(KeySource.HEADER, b"x-customer"), 1000),
            "spiffe://other/stock",
        ),
        Cluster("legacy", (Endpoint("legacy.internal:80", Address("legacy.internal", 80)),), Balance(Policy.ROUND_ROBIN), None),
        Cluster("no", (Endpoint("192.0.2.1:1", Address("192.0.2.1", 1)),), Balance(), OWN_DOMAIN + "no"),
    )
    assert config.routes == (
        Route(
            "canary",
            Match(
                ("stock", "shop.example"), "/v2/:id/*", ("GET", "PURGE"), (HeaderMatch(b"x-tier", b"gold"), HeaderMatch(b"x-debug", None))
            ),
            (Target("stock", 9), Target("legacy")),
            timeout_s=0.0,
            idle_timeout_s=0.25,
            key=HashKey(KeySource.PATH_PART, part=2),
        ),
        Route("rest", Match(), (Target("no"),)),
    )
    assert config.timeouts == Timeouts(1.0, 2.0, 0.25, 4.0, 3600.0, 0.0)
    assert config.limits == Limits(50, 32 * 1024, 4096, 0, 128 * 1024, 32 * 1024, 0, 7, 6, 5, 1024, 9, 8 * 1024 * 1024)
    assert config.access_log == AccessLogging(f"{tmp_path}/log/access.jsonl")
    assert config.source == f"{tmp_path}/sidecar.yaml"


def test_what_is_not_said_is_safe() -> None:
    """mTLS in, every request needs a rule, plain text on loopback only, mTLS to every service."""
    config = from_flags(Flags(service="orders", app="http://127.0.0.1:8000", certs="certs"))
    assert config.listeners == (
        Listener("inbound", Address("0.0.0.0", 15006), tls=True, authorize=True),
        Listener("outbound", Address("127.0.0.1", 15001), tls=False, authorize=False),
    )
    assert config.admin == Address("/tmp/flui-orders.sock")
    assert config.policy is None
    assert (config.limits, config.timeouts, config.access_log) == (Limits(), Timeouts(), AccessLogging())


def test_a_sidecar_without_a_module_only_calls_out() -> None:
    config = from_flags(Flags(service="batch"))
    assert config.app is None
    assert [listener.name for listener in config.listeners] == ["outbound"]
    assert config.clusters == ()


def test_a_listener_and_the_admin_api_can_be_off(tmp_path: Path) -> None:
    config = read(written(tmp_path, GOOD + "inbound: off\noutbound: off\nadmin: off\n"))
    assert config.listeners == ()
    assert config.admin is None


def test_the_default_identity_is_in_the_own_trust_domain_and_unusable_until_then(tmp_path: Path) -> None:
    config = read(written(tmp_path, FULL))
    resolved = resolve(config, "shop")
    assert {cluster.name: cluster.identity for cluster in resolved.clusters} == {
        APP: None,
        "stock": "spiffe://other/stock",
        "legacy": None,
        "no": "spiffe://shop/no",
    }
    assert resolve(resolved, "else") == resolved
    from flui.identity.spiffe import SpiffeId

    with pytest.raises(ValueError):
        SpiffeId.parse(OWN_DOMAIN + "no")


def test_flags_stand_above_the_file_and_leave_the_rest_of_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    file = written(tmp_path / "conf", FULL)
    flags = Flags("web", "http://127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", "here", "there")
    config = read(file, flags)
    assert (config.service, config.app) == ("web", Address("127.0.0.1", 1))
    assert [listener.address.port for listener in config.listeners] == [2, 3]
    assert config.admin == Address("127.0.0.1", 4)
    assert config.listeners[0].trusted_hops == ("spiffe://shop/edge",)
    assert config.listeners[1].authorize
    assert config.app_route.timeout_s == 60.0
    # relative to where the command was given, not to the file
    assert (config.certs, config.policy) == ("here", "there")


def test_the_environment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, FULL)
    before = read(file)
    for name in ("SERVICE", "APP", "INBOUND", "OUTBOUND", "ADMIN", "CERTS", "POLICY"):
        monkeypatch.setenv(f"FLUI_{name}", "other")
        monkeypatch.setenv(name, "other")
    assert read(file) == before


def test_yaml_does_not_guess_types(tmp_path: Path) -> None:
    """In YAML 1.1 `no` is false, `22:22` is 1342 and `010` is 8."""
    text = GOOD.replace("orders", "no").replace("stock", "on") + "routes: [{name: yes, match: {headers: {x-a: 010, x-b: 22:22}}, to: on}]\n"
    config = read(written(tmp_path, text))
    assert config.service == "no"
    assert config.routes[0].name == "yes"
    assert [header.value for header in config.routes[0].match.headers] == [b"010", b"22:22"]


def test_json_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    assert read(written(tmp_path, '\ufeff{"service": "orders", "access_log": "-", "limits": null}')).access_log.file == "-"


def test_port_0_lets_the_system_choose() -> None:
    config = from_flags(Flags(service="a", app="http://127.0.0.1:1", certs="c", inbound="127.0.0.1:0", outbound="127.0.0.1:0"))
    assert [listener.address for listener in config.listeners] == [Address("127.0.0.1", 0)] * 2


def test_the_hello_example_is_right_and_fits_in_fifteen_lines() -> None:
    file = ROOT / "examples" / "hello" / "sidecar.yaml"
    assert len(file.read_text().splitlines()) <= 15
    config = read(str(file))
    assert config.app == Address("127.0.0.1", 8000)


# -- what a wrong one is told ------------------------------------------------------------------------------------------

# text, line, key, words of the message. GOOD begins most of them; it has six lines.
SERVICES = "service: orders\ncerts: certs\nservices:\n"
RING = SERVICES + "  stock: {endpoints: [10.0.0.7:15006], balance: "
ROUTE = GOOD + "routes:\n  - "
MISTAKES = {
    "nothing at all": ("", 1, "service", "missing"),
    "no service": ("admin: off\n", 1, "service", "missing"),
    "not a mapping": ("- service: orders\n", 1, "", "a list"),
    "a text": ("orders\n", 1, "", "the text 'orders'"),
    "service in upper case": ("service: Orders\n", 1, "service", "not a name"),
    "service that ends with a dash": ("service: orders-\n", 1, "service", "not a name"),
    "service that is a list": ("service: [orders]\n", 1, "service", "a list"),
    "unknown key": (GOOD + "inbuond: 127.0.0.1:1\n", 7, "inbuond", "no key 'inbuond' here; did you mean `inbound`"),
    "unknown key, nothing like it": (GOOD + "zzz: 1\n", 7, "zzz", "write one of access_log"),
    "key twice": (GOOD + "certs: other\n", 7, "certs", "stands on line 3 already"),
    "service twice": (GOOD + "  stock: {endpoints: [10.0.0.8:15006]}\n", 7, "services.stock", "stands on line 5 already"),
    "tab": (GOOD + "\tadmin: off\n", 7, "", "not YAML"),
    "bracket left open": (GOOD + "routes: [\n", 8, "", "not YAML"),
    "quote left open": (GOOD + "admin: 'x\n", 7, "", "close the quotes"),
    "dash without quotes": (GOOD + "access_log: -\n", 7, "", 'in quotes: "-"'),
    "alias": (GOOD.replace("certs: certs", "certs: &a certs") + "policy: *a\n", 7, "policy", "alias"),
    "tag": (GOOD + "admin: !!str off\n", 7, "admin", "tag"),
    "second document": (GOOD + "---\nadmin: off\n", 7, "", "second document"),
    "list as a key": (GOOD + "? [a]\n: b\n", 7, "", "not a plain word"),
    "app without scheme": ("service: a\ncerts: c\napp: 127.0.0.1:8000\n", 3, "app", "write `http://127.0.0.1:8000`"),
    "service with the sidecar's own name": (
        GOOD + "  flui-health: {endpoints: [10.0.0.9:1]}\n",
        7,
        "services.flui-health",
        "its own health",
    ),
    "app grpc": ("service: a\ncerts: c\napp: grpc://127.0.0.1:8000\n", 3, "app", "write `h2c://127.0.0.1:8000`"),
    "app h2c with a path": ("service: a\ncerts: c\napp: h2c://127.0.0.1:8000/x\n", 3, "app", "write only `h2c://HOST:PORT`"),
    "protocol unknown": (GOOD + "    protocol: h2\n", 7, "services.stock.protocol", "no protocol 'h2'"),
    "health by grpc over http/1.1": (
        "service: a\ncerts: c\napp:\n  url: http://127.0.0.1:8000\n  health: {grpc: ''}\n",
        5,
        "app.health.grpc",
        "gRPC needs HTTP/2",
    ),
    "health by grpc to http1": (
        GOOD + "    protocol: http1\n    health: {grpc: a.B}\n",
        8,
        "services.stock.health.grpc",
        "write `protocol: http2`",
    ),
    "health by grpc with a path": (GOOD + "    health: {grpc: '', path: /x}\n", 7, "services.stock.health.path", "neither path nor"),
    "health by grpc of no service": (
        GOOD + "    health: {grpc: 'a b'}\n",
        7,
        "services.stock.health.grpc",
        "not the name of a gRPC service",
    ),
    "grpc message too large": (GOOD + "limits: {grpc_message: 2GiB}\n", 7, "limits.grpc_message", "or 0 for no limit"),
    "retry by grpc's OK": (
        GOOD + "routes: [{name: x, to: stock, retry: {grpc: [ok]}}]\n",
        7,
        "routes[0].retry.grpc[0]",
        "no gRPC status 'ok'",
    ),
    "app https": ("service: a\ncerts: c\napp: https://127.0.0.1:8000\n", 3, "app", "TLS ends in the sidecar"),
    "app with a path": ("service: a\ncerts: c\napp: http://127.0.0.1:8000/x\n", 3, "app", "holds a path"),
    "app without port": ("service: a\ncerts: c\napp: http://localhost\n", 3, "app", "not HOST:PORT"),
    "app section without url": ("service: a\ncerts: c\napp: {timeout: 1s}\n", 3, "app.url", "missing"),
    "app is the inbound listener": (
        "service: a\ncerts: c\napp: http://127.0.0.1:8000\ninbound: 0.0.0.0:8000\n",
        4,
        "inbound",
        "would call itself",
    ),
    "app is the outbound listener": ("service: a\ncerts: c\napp: http://localhost:15001\n", 1, "outbound", "would call itself"),
    "inbound without certs": ("service: a\napp: http://127.0.0.1:8000\n", 1, "certs", "has no certificate"),
    "inbound without app": ("service: a\ncerts: c\ninbound: 0.0.0.0:1\n", 3, "inbound", "no module"),
    "inbound is a host name": (GOOD + "inbound: orders:15006\n", 7, "inbound", "host name"),
    "inbound without port": (GOOD + "inbound: 0.0.0.0\n", 7, "inbound", "not HOST:PORT"),
    "inbound port too large": (GOOD + "inbound: 0.0.0.0:65536\n", 7, "inbound", "not a port"),
    "inbound port with a zero": (GOOD + "inbound: 0.0.0.0:08000\n", 7, "inbound", "not a port"),
    "inbound not an address": (GOOD + "inbound: 127.0.0.256:1\n", 7, "inbound", "not an IPv4 address"),
    "inbound octal address": (GOOD + "inbound: 127.0.0.010:1\n", 7, "inbound", "not an IPv4 address"),
    "inbound IPv6 without brackets": (GOOD + "inbound: ::1:15006\n", 7, "inbound", "in brackets"),
    "inbound broken IPv6": (GOOD + 'inbound: "[::1::]:15006"\n', 7, "inbound", "not an IPv6 address"),
    "inbound that cannot skip policy": (GOOD + "inbound: {authorize: false}\n", 7, "inbound.authorize", "no key 'authorize'"),
    "trusted hop is no SPIFFE ID": (GOOD + "inbound:\n  trusted_hops:\n    - shop/edge\n", 9, "inbound.trusted_hops[0]", "spiffe://"),
    "trusted hop is a trust domain": (
        GOOD + "inbound: {trusted_hops: ['spiffe://shop']}\n",
        7,
        "inbound.trusted_hops[0]",
        "not a workload",
    ),
    "trusted hops is no list": (GOOD + "inbound: {trusted_hops: spiffe://shop/x}\n", 7, "inbound.trusted_hops", "write a list"),
    "outbound is public": (GOOD + "outbound: 0.0.0.0:15001\n", 7, "outbound", "not loopback"),
    "outbound authorize is yes": (GOOD + "outbound: {authorize: yes}\n", 7, "outbound.authorize", "write `true` or `false`"),
    "admin is public": (GOOD + "admin: 10.0.0.1:9000\n", 7, "admin", "not loopback"),
    "admin is a URL": (GOOD + "admin: http://127.0.0.1:9000\n", 7, "admin", "is a URL"),
    "admin socket is too long": (GOOD + f"admin: /tmp/{'x' * 120}\n", 7, "admin", "107 octets"),
    "admin on the outbound port": (GOOD + "admin: 127.0.0.1:15001\n", 7, "admin", "address of `outbound` too"),
    "inbound on the outbound port": (GOOD + "inbound: 0.0.0.0:15001\n", 1, "outbound", "address of `inbound` too"),
    "certs is a list": (GOOD.replace("certs: certs", "certs: [a]"), 3, "certs", "name of a folder"),
    "services is a list": ("service: a\nservices: [stock]\n", 2, "services", "write a section"),
    "service name in upper case": (SERVICES + "  Stock: {endpoints: [10.0.0.7:1]}\n", 4, "services.Stock", "not a name"),
    "service without endpoints": (SERVICES + "  stock: {plaintext: true}\n", 4, "services.stock.endpoints", "missing"),
    "service that is a text": (SERVICES + "  stock: 10.0.0.7:1\n", 4, "services.stock", "write a section"),
    "no endpoint": (SERVICES + "  stock:\n    endpoints: []\n", 5, "services.stock.endpoints", "list is empty"),
    "endpoints is a text": (SERVICES + "  stock: {endpoints: 10.0.0.7:1}\n", 4, "services.stock.endpoints", "write a list"),
    "endpoint without port": (
        SERVICES + "  stock:\n    endpoints:\n      - 10.0.0.7:1\n      - 10.0.0.8\n",
        7,
        "services.stock.endpoints[1]",
        "not HOST:PORT",
    ),
    "endpoint port 0": (SERVICES + "  stock: {endpoints: [10.0.0.7:0]}\n", 4, "services.stock.endpoints[0]", "write 1 to 65535"),
    "endpoint is a URL": (SERVICES + "  stock: {endpoints: ['http://a:1']}\n", 4, "services.stock.endpoints[0]", "is a URL"),
    "endpoint without address": (
        SERVICES + "  stock: {endpoints: [{name: a}]}\n",
        4,
        "services.stock.endpoints[0].address",
        "missing",
    ),
    "endpoint host with a blank": (SERVICES + "  stock: {endpoints: ['a b:1']}\n", 4, "services.stock.endpoints[0]", "host name"),
    "endpoint twice": (SERVICES + "  stock: {endpoints: [a:1, a:1]}\n", 4, "services.stock.endpoints[1]", "called 'a:1' already"),
    "endpoint address twice": (
        SERVICES + "  stock: {endpoints: [a:1, {name: b, address: 'a:1'}]}\n",
        4,
        "services.stock.endpoints[1]",
        "the address of 'a:1' already",
    ),
    "endpoint is our own outbound listener": (
        SERVICES + "  stock: {endpoints: [127.0.0.1:15001]}\n",
        4,
        "services.stock.endpoints[0]",
        "our own outbound listener",
    ),
    "endpoint weight below 0": (
        SERVICES + "  stock: {endpoints: [{address: 'a:1', weight: -1}]}\n",
        4,
        "services.stock.endpoints[0].weight",
        "whole number",
    ),
    "endpoint weights sum to 0": (
        SERVICES + "  stock: {endpoints: [{address: 'a:1', weight: 0}]}\n",
        4,
        "services.stock.endpoints",
        "weights sum to 0",
    ),
    "identity of another kind": (
        SERVICES + "  stock: {endpoints: [a:1], identity: stock}\n",
        4,
        "services.stock.identity",
        "write `spiffe://",
    ),
    "identity in plain text": (
        SERVICES + "  stock: {endpoints: [a:1], identity: spiffe://shop/stock, plaintext: true}\n",
        4,
        "services.stock.identity",
        "plain text",
    ),
    "mTLS service without certs": (
        "service: a\nservices:\n  stock: {endpoints: [a:1]}\n",
        3,
        "services.stock",
        "there is no certificate",
    ),
    "balance of another kind": (RING + "rnig}\n", 4, "services.stock.balance", "did you mean `ring`"),
    "key without ring": (RING + "{key: principal}}\n", 4, "services.stock.balance.key", "only a ring has it"),
    "excess without ring": (RING + "{policy: round_robin, excess: 0.5}}\n", 4, "services.stock.balance.excess", "only a ring"),
    "excess of 0": (RING + "{policy: ring, excess: 0}}\n", 4, "services.stock.balance.excess", "write 0.01 to 10"),
    "key of another kind": (RING + "{policy: ring, key: cookie:x}}\n", 4, "services.stock.balance.key", "write `flui-key`"),
    "key is path part 0": (RING + "{policy: ring, key: 'path:0'}}\n", 4, "services.stock.balance.key", "write 1 to 32"),
    "key is a header of ours": (
        RING + "{policy: ring, key: 'header:flui-principal'}}\n",
        4,
        "services.stock.balance.key",
        "removed from every request",
    ),
    "key is no header": (RING + "{policy: ring, key: 'header:a b'}}\n", 4, "services.stock.balance.key", "not a header's name"),
    "routes is a mapping": (GOOD + "routes: {name: a, to: stock}\n", 7, "routes", "write a list"),
    "route without name": (ROUTE + "to: stock\n", 8, "routes[0].name", "missing"),
    "route without to": (ROUTE + "name: a\n", 8, "routes[0].to", "missing"),
    "route to an unknown service": (ROUTE + "{name: a, to: stok}\n", 8, "routes[0].to", "did you mean `stock`"),
    "route to nobody": (ROUTE + "{name: a, to: []}\n", 8, "routes[0].to", "list is empty"),
    "route to a service twice": (ROUTE + "{name: a, to: [stock, stock]}\n", 8, "routes[0].to[1]", "in the list already"),
    "route weights sum to 0": (ROUTE + "{name: a, to: [{service: stock, weight: 0}]}\n", 8, "routes[0].to", "weights sum to 0"),
    "route weight too large": (ROUTE + "{name: a, to: [{service: stock, weight: 1001}]}\n", 8, "routes[0].to[0].weight", "0 to 1000"),
    "route target without service": (ROUTE + "{name: a, to: [{weight: 1}]}\n", 8, "routes[0].to[0].service", "missing"),
    "route twice": (ROUTE + "{name: a, to: stock, match: {path: /a}}\n  - {name: a, to: stock}\n", 9, "routes[1]", "called 'a' already"),
    "route never reached": (ROUTE + "{name: a, to: stock}\n  - {name: b, to: stock}\n", 9, "routes[1]", "never reached"),
    "route key without ring": (ROUTE + "{name: a, to: stock, key: principal}\n", 8, "routes[0].key", "no service of this route hashes"),
    "route path": (ROUTE + "{name: a, to: stock, match: {path: items}}\n", 8, "routes[0].match.path", "write '/items'"),
    "route path with a star inside": (ROUTE + "{name: a, to: stock, match: {path: /*/a}}\n", 8, "routes[0].match.path", "final `/*`"),
    "route host with a port": (ROUTE + "{name: a, to: stock, match: {hosts: ['a:80']}}\n", 8, "routes[0].match.hosts[0]", "has a port"),
    "route host with a star": (ROUTE + "{name: a, to: stock, match: {hosts: ['*.a']}}\n", 8, "routes[0].match.hosts[0]", "has a `*`"),
    "route host in upper case": (ROUTE + "{name: a, to: stock, match: {hosts: [A]}}\n", 8, "routes[0].match.hosts[0]", "write a"),
    "route method in lower case": (ROUTE + "{name: a, to: stock, match: {methods: [get]}}\n", 8, "routes[0].match.methods[0]", "write GET"),
    "route on the host header": (
        ROUTE + "{name: a, to: stock, match: {headers: {Host: a}}}\n",
        8,
        "routes[0].match.headers.Host",
        "`hosts`",
    ),
    "route timeout without unit": (ROUTE + "{name: a, to: stock, timeout: 15}\n", 8, "routes[0].timeout", "`15s`"),
    "route idle timeout 0": (ROUTE + "{name: a, to: stock, idle_timeout: 0s}\n", 8, "routes[0].idle_timeout", "write 100ms to 24h"),
    "timeout unknown": (GOOD + "timeouts:\n  conect: 1s\n", 8, "timeouts.conect", "did you mean `connect`"),
    "timeout of another unit": (GOOD + "timeouts:\n  connect: 1sec\n", 8, "timeouts.connect", "write ms, s, m or h"),
    "timeout out of range": (GOOD + "timeouts:\n  connect: 2h\n", 8, "timeouts.connect", "write 10ms to 1h"),
    "timeout is no duration": (GOOD + "timeouts:\n  connect: soon\n", 8, "timeouts.connect", "not a duration"),
    "limit without unit": (GOOD + "limits:\n  head: 60000\n", 8, "limits.head", "no unit"),
    "limit in MB": (GOOD + "limits: {body: 1MB}\n", 7, "limits.body", "`1MiB`"),
    "limit out of range": (GOOD + "limits: {window: 1GiB}\n", 7, "limits.window", "write 4KiB to 256KiB"),
    "limit of fields": (GOOD + "limits: {fields: 5000}\n", 7, "limits.fields", "write 8 to 1000"),
    "limit that is no number": (GOOD + "limits: {fields: many}\n", 7, "limits.fields", "not a whole number"),
    "target larger than head": (GOOD + "limits: {head: 4KiB}\n", 7, "limits.head", "larger than `head`"),
    "access log is a list": (GOOD + "access_log: [a]\n", 7, "access_log", "write `stdout`"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_line_its_key_and_the_fix(mistake: str, tmp_path: Path) -> None:
    text, line, key, words = MISTAKES[mistake]
    file = written(tmp_path, text)
    problems = problems_of(file)
    told = [problem for problem in problems if (problem.line, problem.key) == (line, key)]
    assert told, f"nothing about {key} on line {line}: {[str(problem) for problem in problems]}"
    assert any(words in str(problem) for problem in told), str(told[0])
    for problem in problems:
        assert problem.file == file
        assert problem.line >= 1
        assert problem.what
        assert problem.fix
        assert str(problem).startswith(f"{file}:{problem.line}: ")
        assert not re.search(r"pydantic|Traceback|NoneType|input_value|\bdict\b|\bstr\b", str(problem))


def test_one_mistake_is_one_problem(tmp_path: Path) -> None:
    """What stands in for a wrong value must not raise questions of its own."""
    for mistake, (text, _, _, _) in MISTAKES.items():
        problems = problems_of(written(tmp_path, text))
        assert len(problems) == 1, (mistake, [str(problem) for problem in problems])


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        "service: Orders\napp: grpc://127.0.0.1:8000\ninbuond: 1\nservices:\n  stock: {}\n"
        "routes:\n  - {to: stok}\ntimeouts: {connect: 15}\nlimits: {body: 1MB}\nservice: again\n"
    )
    problems = problems_of(written(tmp_path, text))
    lines = [problem.line for problem in problems]
    assert lines == sorted(lines)
    assert set(lines) == {1, 2, 3, 5, 7, 8, 9, 10}


def test_mistakes_in_flags_name_the_flag() -> None:
    with pytest.raises(ConfigError) as raised:
        from_flags(Flags(app="127.0.0.1:80", outbound="0.0.0.0:1"))
    assert [(problem.file, problem.line, problem.key) for problem in raised.value.problems] == [
        ("command line", 0, "--service"),
        ("command line", 0, "--app"),
        ("command line", 0, "--outbound"),
        ("command line", 0, "--certs"),
    ]
    assert "such as `--service orders`" in str(raised.value)


def test_a_missing_file_a_folder_and_other_encodings_are_told(tmp_path: Path) -> None:
    assert "there is no such file" in problems_of(str(tmp_path / "none.yaml"))[0].what
    assert "folder" in problems_of(str(tmp_path))[0].what
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"service: orders\ncerts: caf\xe9\n")
    assert (problems_of(str(file))[0].line, problems_of(str(file))[0].fix) == (2, "save it as UTF-8")


def test_files_that_it_names_must_be_there_when_it_is_about_to_run(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD + "policy: policy\naccess_log: log/a.jsonl\n")
    assert [problem.key for problem in problems_of(file, on_disk=True)] == ["certs", "policy", "access_log"]
    for folder in ("certs", "policy", "log"):
        (tmp_path / folder).mkdir()
    assert [problem.what.split(" in ")[0] for problem in problems_of(file, on_disk=True)] == [
        "there is no ca.pem",
        "there is no orders.pem",
        "there is no orders.key",
        "there is no model.conf",
    ]
    for name in ("certs/ca.pem", "certs/orders.pem", "certs/orders.key", "policy/model.conf"):
        (tmp_path / name).touch()
    assert read(file, on_disk=True).service == "orders"


def test_depth_and_size_are_bounded() -> None:
    """Threats C12."""
    for octets in (b"[" * 100_000, b"a: " + b"{a: " * 1000, b"# " + b"x" * _yaml.MAX_OCTETS):
        with pytest.raises(ConfigError):
            _yaml.parse(octets, "f")


def test_aliases_cannot_multiply_a_file() -> None:
    text = "a: &a [x, x]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True))
    tree, problems = _yaml.parse(text.encode(), "f")
    assert isinstance(tree, _yaml.Section)
    assert len(problems) == 16


def outcome_of(octets: bytes) -> tuple[Problem, ...]:
    """What is wrong with it; empty when nothing is. Nothing but a ConfigError may come out."""
    try:
        tree, problems = _yaml.parse(octets, "f")
        interpret(tree, Reader(problems))
    except ConfigError as error:
        return error.problems
    return ()


SIGNS = st.text("abc:{}[]-,\n \"'&*!|>#?%@`0~\t", max_size=60)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | SIGNS.map(str.encode))
@example(b"\x00")
@example(b"a: \xc2\x85b")
@example(b"%YAML 9.9\n--- a")
@example(b"? \n: ")
@example(b"&a *a : b")
@settings(max_examples=200)
@pytest.mark.slow
def test_any_octets_end_in_plain_words(octets: bytes) -> None:
    problems = outcome_of(octets)
    assert problems or b"service" in octets  # a name alone is a configuration
    assert all(problem.what and problem.fix and problem.line for problem in problems)


VALUES = ("", "~", "[]", "{}", "[[]]", "{a: b}", "-1", "0", "99999999999999999999", "x", '"\\0"', "'/'", ":", "::1:1")


@given(st.integers(0, FULL.count("\n") - 1), st.sampled_from(VALUES))
@settings(max_examples=150)
@pytest.mark.slow
def test_any_value_anywhere_ends_in_a_configuration_or_in_plain_words(at: int, value: str) -> None:
    """One line of a full file gets another value."""
    lines = FULL.splitlines()
    lines[at] = lines[at].partition(": ")[0].rstrip(":") + ": " + value
    assert all(problem.what and problem.fix and problem.line for problem in outcome_of("\n".join(lines).encode()))


# -- what the documentation says ---------------------------------------------------------------------------------------


def test_the_documentation_names_every_key_and_its_example_is_right() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    keys = {*configfile.KEYS, *configfile.INBOUND_KEYS, *configfile.OUTBOUND_KEYS, *configfile.APP_KEYS, *TIMEOUTS, *LIMITS}
    for key in keys | {*SERVICE_KEYS, *ENDPOINT_KEYS, *BALANCE_KEYS, *ROUTE_KEYS, *MATCH_KEYS, *TARGET_KEYS}:
        assert f"`{key}`" in text, key
    for example_text in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        tree, problems = _yaml.parse(example_text.encode(), "docs")
        assert interpret(tree, Reader(problems)).service

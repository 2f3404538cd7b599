"""The load of the HTTP/2 cases: `calls.c`, a closed loop over a few connections with several streams each, and what it says."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Final

from load.peers import dialects
from load.peers.certificates import Identities
from load.peers.processes import pinned
from load.peers.wrk import FIELDS, LoadError, Outcome

GET: Final = "get"
UNARY: Final = "unary"
BIDI: Final = "bidi"
SEND: Final = "send"

VARIES: Final = "flui-key"
"""The field that has another value in each request."""
_GRPC_FIELDS: Final = (
    "content-type: application/grpc",
    "te: trailers",
    "user-agent: grpc-python/1.80.0 grpc-c/51.0.0 (linux; chttp2)",
    "grpc-accept-encoding: identity, deflate, gzip",
    "authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    f"{VARIES}: *",
)
_SENDS: Final[dict[str, tuple[str, ...]]] = {
    dialects.GRPC_WEB: ("content-type: application/grpc-web+proto", "x-grpc-web: 1"),
    dialects.CONNECT: ("content-type: application/proto", "connect-protocol-version: 1"),
    dialects.JSON: ("content-type: application/json", "accept: application/json"),
}
_GRACE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Calls:
    """What is asked by HTTP/2, and how."""

    port: int
    """On 127.0.0.1."""
    kind: str
    """GET: requests for 1 KiB. UNARY: gRPC calls with one small message each way. BIDI: messages on streams that stay open. SEND: an
    order in another dialect, and its answer."""
    connections: int
    streams: int
    """On each connection, at any time."""
    client: str | None
    """Name of the identity that the connections present; None: plain text, prior knowledge."""
    dialect: str = ""
    """Of a SEND."""
    shop: dialects.Shop | None = None
    """Files of what is sent, for a SEND; an UNARY call carries its order, too, if there are any."""


def fields(kind: str, dialect: str = "") -> tuple[str, ...]:
    """The fields of a request, eight with its `:authority`; `*` stands for a number that changes."""
    if kind == SEND:
        agent = "user-agent: connect-es/2.1.0"
        return (*_SENDS[dialect], agent, "x-shop: north", *_GRPC_FIELDS[4:])
    if kind == GET:
        return tuple(f"{VARIES}: *" if field.startswith(f"{VARIES}:") else _lowered(field) for field in FIELDS)
    return _GRPC_FIELDS


def told(load: Calls) -> tuple[str, ...]:
    """What the program is told in fields that no one is sent."""
    shop = load.shop
    if shop is None:
        return ()
    if load.kind == UNARY:
        return (f"@send: {shop.framed}",)
    if load.dialect == dialects.JSON:
        return ("@path: /v1/orders", f"@send: {shop.text}", f"@expect: {shop.text}")
    if load.dialect == dialects.CONNECT:
        return (f"@send: {shop.bare}", f"@expect: {shop.bare}")
    return (f"@send: {shop.framed}", f"@expect: {shop.framed}", "@trailers: 1")


def run(program: str, load: Calls, identities: Identities, secs: int, core: int) -> Outcome:
    """Runs `calls` on one core for `secs` seconds.

    Args:
        program: The built `calls.c`.
        load: What to ask.
        identities: Where the client's certificate is.
        secs: At least 1; it then waits for what is under way.
        core: The CPU it is pinned to.

    Raises:
        LoadError: It failed, hung, or wrote something that we do not understand.
    """
    shown = ("-", "-") if load.client is None else (str(identities.certificate(load.client)), str(identities.key(load.client)))
    numbers = (str(load.connections), str(load.streams), str(secs))
    try:
        with pinned(core):
            done = subprocess.run(
                [program, str(load.port), load.kind, *numbers, *shown, *fields(load.kind, load.dialect), *told(load)],
                capture_output=True,
                text=True,
                timeout=secs + _GRACE_S,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"calls did not end within {secs + _GRACE_S:.0f} s") from error
    if done.returncode:
        raise LoadError(f"calls ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-400:]}")
    return parse(done.stdout)


def parse(text: str) -> Outcome:
    """Reads the line that `calls` writes.

    Raises:
        LoadError: A figure that must be there is not.
    """
    try:
        said = json.loads(text)
        return Outcome(int(said["requests"]), float(said["secs"]), float(said["p50_ms"]), float(said["p99_ms"]), int(said["errors"]))
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"not what calls says: {text.strip()[-400:]!r}") from error


def _lowered(field: str) -> str:
    name, colon, value = field.partition(":")
    return f"{name.lower()}{colon}{value}"  # RFC 9113 8.2: uppercase names are malformed

"""The admin server: what is in force, to be read by people and probes on this machine.

It only reads: GET, and nothing else. It listens on a Unix socket of mode 0600 or on a loopback address, where a browser
may be led to it by a foreign page (threats G4): a Host that is not this machine and a request that another site
caused are refused, and no answer may be read across origins. Secrets never appear: everything that is shown as JSON goes
through `plain`, which leaves them out.

    connection made --5 s--> head --> handler --> reply --30 s--> closed
                                             └-> stream --> until the feed is over or the client goes

On the Unix socket the kernel says who asks (`Query.uid`); on a loopback address nobody does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import ipaddress
import json
import math
import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, Protocol, cast
from urllib.parse import parse_qsl

from flui.codecs.http1 import Http1Server
from flui.downstream.listener import bind
from flui.model.config import ConfigError, Limits, Problem
from flui.model.events import UNKNOWN, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fault import DIALECTS
from flui.model.fields import Field, field
from flui.model.topology import Address
from flui.model.units import KIB
from flui.telemetry.journal import REDACTED, is_secret
from flui.telemetry.tap import Refusal, Sink, Taps

REQUEST_S: Final = 5.0
"""From the connection to the end of the request's head."""
REPLY_S: Final = 30.0
"""From the reply to its last octet being read."""
CONNECTIONS: Final = 64
"""Open at once; one more is closed unread."""
STREAM_OCTETS: Final = 64 * KIB
"""Octets of a stream that wait for a client; with more, the feed is told to wait."""

_LIMITS: Final = Limits(fields=64, head_octets=8 * KIB, target_octets=2 * KIB, body_octets=1, window_octets=1 * KIB)
_SITES: Final = (b"none", b"same-origin")
_GUARDS: Final = (
    field(b"cache-control", b"no-store"),
    field(b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    field(b"cross-origin-resource-policy", b"same-origin"),
    field(b"x-content-type-options", b"nosniff"),
)

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """What was asked."""

    path: str
    values: Mapping[str, str]
    """Query parameters; of one that is given twice, the last."""
    uid: int | None = None
    """User who asks; None when the system does not say."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What is answered."""

    status: int
    content_type: str
    body: bytes


class Feed(Protocol):
    """What a stream is made of, as it comes."""

    def start(self, sink: Sink) -> None:
        """The client waits: octets may be written from now on."""
        ...

    def resume(self) -> None:
        """The client reads again, after `sink.writable` was false."""
        ...

    def stop(self) -> None:
        """The client is gone, or has been told that there is no more. Nothing may be written."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """What is answered without end."""

    content_type: str
    feed: Feed


Handler = Callable[[Query], Reply | Stream]


def as_json(value: object, status: int = 200) -> Reply:
    """A reply that shows `value` as indented JSON, without its secrets. See `plain` for what it may be made of."""
    return Reply(status, "application/json", _dumps(plain(value)))


def as_text(text: str, content_type: str = "text/plain; charset=utf-8", status: int = 200) -> Reply:
    """A reply of ready text."""
    return Reply(status, content_type, text.encode("utf-8", "backslashreplace"))


def problem(status: int, title: str, detail: str = "", **more: object) -> Reply:
    """A refusal as problem+json (RFC 9457)."""
    members = {"title": title, "status": status, **({"detail": detail} if detail else {}), **more}
    return Reply(status, "application/problem+json", _dumps(plain(members)))


def tap_page(taps: Taps) -> Handler:
    """The page `/tap`: exchanges as they end, one JSON object a line, to whom the policy allows it."""

    def page(query: Query) -> Reply | Stream:
        tap = taps.attach(query.uid, query.values)
        if isinstance(tap, Refusal):
            more = {"row": tap.row} if tap.row else {}
            return problem(tap.status, tap.title, tap.detail, **more)
        return Stream("application/x-ndjson", tap)

    return page


def plain(value: object, name: str = "") -> Json:
    """`value` as JSON can say it.

    Dataclasses and mappings become objects; lists, tuples and sets lists (sets sorted); enums their value; octets text;
    infinite numbers null; anything else its `str`. What is a secret by its name or by its look becomes `[redacted]`.

    Args:
        value: anything.
        name: the name it stands under.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if is_secret(name, value):
        return REDACTED
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Field):
        return {"name": plain(value.name), "value": plain(value.value, plain_name(value.name))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name), each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {plain_name(key): plain(item, plain_name(key)) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return [plain(item) for item in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return plain(str(value))


def plain_name(key: object) -> str:
    """The name of a member."""
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)


def _dumps(value: Json) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"


class Admin:
    """The server.

    Args:
        routes: paths and what answers them. A handler must not block; what it raises is answered with 500.
        failed: told the path and the exception of a handler that raised.
    """

    def __init__(self, routes: Mapping[str, Handler], failed: Callable[[str, Exception], None]) -> None:
        self._routes = dict(routes)
        self._failed = failed
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._socket: tuple[str, tuple[int, int]] | None = None
        self.address: Address | None = None
        """Where it listens; the port is the one in use when 0 was asked for."""

    async def start(self, address: Address, *, take_over: bool = False) -> None:
        """Listens.

        A socket file that nobody answers on is replaced, and with `take_over` any. Cancelled, nothing is left listening.

        Raises:
            ConfigError: the address is not a loopback one, is taken, or cannot be used.
        """
        assert self._server is None, "started twice"
        loop = asyncio.get_running_loop()
        try:
            if not address.port and "/" in address.host:
                listening = _unix_socket(address.host, take_over=take_over)
                self._socket = (address.host, _identity(address.host))
                self._server = await loop.create_unix_server(lambda: _Connection(self, guarded=False), sock=listening)
                self.address = address
            else:
                host = "127.0.0.1" if address.host == "localhost" else address.host
                if not _is_loopback(host):
                    raise _wrong(address, "is not a loopback address", "give a Unix socket path or 127.0.0.1:PORT")
                listening = bind(Address(host, address.port), take_over=take_over)
                self._server = await loop.create_server(lambda: _Connection(self, guarded=True), sock=listening)
                self.address = Address(host, self._server.sockets[0].getsockname()[1])
        except OSError as error:
            raise _wrong(address, error.strerror or str(error), "give a free Unix socket path or loopback port") from error

    async def stop(self) -> None:
        """Stops listening, ends open connections and removes the socket file, if it is still ours."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in tuple(self._connections):
            connection.abort()
        await server.wait_closed()
        if self._socket is not None:
            path, identity = self._socket
            self._socket = None
            try:
                if _identity(path) == identity:
                    os.unlink(path)  # noqa: PTH108 -- paths are str throughout; pathlib adds nothing
            except FileNotFoundError:
                pass

    def reply(self, head: RequestHead, *, guarded: bool, uid: int | None = None) -> Reply | Stream:
        """The answer to a request.

        Args:
            head: as the codec gave it.
            guarded: it came over TCP, so perhaps from a browser.
            uid: user who asks; None when the system does not say.
        """
        if guarded and not _is_here(head.authority):
            return problem(403, "Forbidden", "this Host is not this machine; use localhost")
        if any(each.name == b"sec-fetch-site" and each.value.lower() not in _SITES for each in head.fields):
            return problem(403, "Forbidden", "another site may not read this")
        if head.method != b"GET":
            return problem(405, "Method Not Allowed", "everything here is read with GET")
        path = head.path.decode("ascii", "backslashreplace")
        handler = self._routes.get(path)
        if handler is None:
            return problem(404, "Not Found", f"there is no {path}", paths=sorted(self._routes))
        try:
            values = dict(
                parse_qsl(head.query[1:].decode("ascii"), keep_blank_values=True, strict_parsing=bool(head.query[1:]), max_num_fields=16)
            )
        except ValueError:
            return problem(400, "Bad Request", "the query is not name=value&…, of 16 parameters at most")
        try:
            return handler(Query(path, values, uid))
        except Exception as error:  # noqa: BLE001 -- the edge of the connection: a page that fails must not fail the sidecar
            self._failed(path, error)
            return problem(500, "Internal Server Error", "the journal says more")

    def enter(self, connection: _Connection) -> bool:
        """Admits a connection, unless there are too many."""
        if len(self._connections) >= CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def leave(self, connection: _Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)


class _Connection(asyncio.Protocol):
    """One connection: one request, one reply or stream, end."""

    def __init__(self, admin: Admin, *, guarded: bool) -> None:
        self._admin = admin
        self._guarded = guarded
        self._codec = Http1Server(_LIMITS, b"http")
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answered = False
        self._uid: int | None = None
        self._feed: Feed | None = None
        self._stream = 0
        self.writable = True
        """The client reads what it is sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio.Transport in all but name
        self._transport = cast("asyncio.Transport", transport)
        self._codec.last()
        if not self._admin.enter(self):
            self.abort()
            return
        if not self._guarded:
            self._uid = _peer_uid(self._transport)
        self._timer = asyncio.get_running_loop().call_later(REQUEST_S, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        self._codec.receive(data)
        self._hear()

    def eof_received(self) -> bool:
        if not self._answered:
            self._codec.receive_eof()
            self._hear()
        # true: what is still to be written is written; `_say` closes after it. Who listens to a stream and hangs up is gone.
        return self._answered and self._feed is None

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._timer is not None:
            self._timer.cancel()
        self._admin.leave(self)
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.stop()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._feed is not None:
            self._feed.resume()

    def abort(self) -> None:
        """Ends it now."""
        if self._transport is not None:
            self._transport.abort()

    def _hear(self) -> None:
        for event in self._codec.events():
            if isinstance(event, RequestHead):
                answer = self._admin.reply(event, guarded=self._guarded, uid=self._uid)
                if isinstance(answer, Stream):
                    self._feed_from(event.stream, answer)
                else:
                    self._say(event.stream, answer)
            elif isinstance(event, Reset):
                dialect = DIALECTS[event.fault]
                self._say(event.stream, problem(dialect.http, dialect.title))

    def _say(self, stream: int, reply: Reply) -> None:
        if self._answered:
            return
        self._answered = True
        assert self._transport is not None
        codec = self._codec
        fields = [
            field(b"content-type", reply.content_type.encode()),
            field(b"content-length", b"%d" % len(reply.body)),
            *_GUARDS,
        ]
        if reply.status == 405:
            fields.append(field(b"allow", b"GET"))
        codec.send(ResponseHead(stream, reply.status, fields, len(reply.body)))
        if reply.body:
            codec.send(Data(stream, reply.body))
        codec.send(End(stream))
        self._transport.write(codec.take())
        self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        # a client that asks and never reads
        self._timer = asyncio.get_running_loop().call_later(REPLY_S, self.abort)

    # A stream.

    def _feed_from(self, stream: int, answer: Stream) -> None:
        assert self._transport is not None
        self._answered = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.set_write_buffer_limits(STREAM_OCTETS)
        self._stream = stream
        self._feed = answer.feed
        fields = [field(b"content-type", answer.content_type.encode()), *_GUARDS]
        self._codec.send(ResponseHead(stream, 200, fields, UNKNOWN))
        self._transport.write(self._codec.take())
        answer.feed.start(self)

    def write(self, octets: bytes) -> None:
        """Sends a piece of the stream."""
        assert self._transport is not None
        self._codec.send(Data(self._stream, octets))
        self._codec.events()  # credit: `writable` says the same
        self._transport.write(self._codec.take())

    def finish(self) -> None:
        """Ends the stream; what is still to be read of it has 30 s."""
        assert self._transport is not None
        self._codec.send(End(self._stream))
        self._transport.write(self._codec.take())
        self._transport.close()
        self._timer = asyncio.get_running_loop().call_later(REPLY_S, self.abort)


def _peer_uid(transport: asyncio.Transport) -> int | None:
    """The user at the other end of a Unix socket, when it was connected (unix(7), SO_PEERCRED); None where the system does not say."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    form = struct.Struct("iII")
    try:
        octets = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, option, form.size)
    except OSError:
        return None
    return cast("int", form.unpack(octets)[1])


def _is_here(authority: bytes) -> bool:
    """True for this machine's own names. A foreign page can make its name resolve to us, but not its name to ours."""
    host, separator, port = authority.rpartition(b":")
    if not separator or not port.isdigit():
        host = authority
    text = host.decode("ascii", "replace").lower()
    if text[:1] == "[" and text[-1:] == "]":
        return _is_loopback(text[1:-1])
    return text == "localhost" or (":" not in text and _is_loopback(text))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _unix_socket(path: str, *, take_over: bool) -> socket.socket:
    """A listening socket file that only its owner can use. A stale one is replaced, anything else is left alone."""
    _remove_stale(path, take_over=take_over)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the mode of the socket: it is never open to others, not even for a moment
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(path)
        os.chmod(path, 0o600)  # noqa: PTH101 -- as above
        listening.listen(CONNECTIONS)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: str, *, take_over: bool) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is not a socket")
    if take_over:
        os.unlink(path)  # noqa: PTH108 -- as above
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # noqa: PTH108 -- as above
            return
    raise OSError(errno.EADDRINUSE, "another sidecar answers there")


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _wrong(address: Address, what: str, fix: str) -> ConfigError:
    return ConfigError((Problem("admin", 0, str(address), what, fix),))

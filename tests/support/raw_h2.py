"""HTTP/2 frame by frame: a caller that says anything, and an endpoint that never answers. No stream is tracked, so there may be many.

with Silent() as app, RawCaller.plain(address) as caller:
    caller.ask(1, ("x-a", "b"))                         HEADERS with END_STREAM
    caller.until(lambda f: f.kind == frames.GOAWAY)     reads on, answering SETTINGS and PING
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

import hpack

from flui.codecs.http2 import frames
from flui.model.topology import Address

WINDOW = (1 << 31) - 1


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == frames.GOAWAY else self.payload[:4], "big")


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return frames.header(len(payload), kind, flags, stream) + payload


def literal(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    """A field of HPACK that no table is needed for, shorter than 127 octets each."""
    return (b"\x40" if indexed else b"\0") + bytes((len(name),)) + name + bytes((len(value),)) + value


def request_block(method: bytes = b"GET", path: bytes = b"/", authority: bytes = b"orders", *fields: tuple[bytes, bytes]) -> bytes:
    return b"".join(
        literal(*line) for line in ((b":method", method), (b":scheme", b"http"), (b":authority", authority), (b":path", path), *fields)
    )


GET = request_block()


class RawCaller:
    """One connection, blocking."""

    def __init__(self, sock: socket.socket, settings: list[tuple[int, int]] | None = None) -> None:
        self.socket = sock
        self._in = b""
        self._decoder = hpack.Decoder()
        self.reads = True
        sock.sendall(frames.PREFACE + frames.settings(settings or []))

    @classmethod
    def plain(cls, address: Address, settings: list[tuple[int, int]] | None = None) -> RawCaller:
        return cls(socket.create_connection((address.host, address.port), timeout=10), settings)

    @classmethod
    def tls(cls, address: Address, context: ssl.SSLContext, settings: list[tuple[int, int]] | None = None) -> RawCaller:  # noqa: TID251  a peer that is not ours
        context.set_alpn_protocols(["h2"])
        sock = context.wrap_socket(
            socket.create_connection((address.host, address.port), timeout=10), server_hostname="any.invalid", suppress_ragged_eofs=True
        )
        assert sock.selected_alpn_protocol() == "h2"
        return cls(sock, settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def send(self, octets: bytes) -> bool:
        """Says anything; False: the connection is over."""
        try:
            self.socket.sendall(octets)
        except OSError:
            return False
        return True

    def ask(self, stream: int, block: bytes = GET, *, end: bool = True) -> bool:
        return self.send(frame(frames.HEADERS, frames.END_HEADERS | (frames.END_STREAM if end else 0), stream, block))

    def frames(self) -> Iterator[Frame]:
        """What the peer says, until the connection ends or nothing comes within the socket's timeout; SETTINGS are acknowledged."""
        while True:
            while len(self._in) >= 9:
                size = int.from_bytes(self._in[:3], "big")
                if len(self._in) < 9 + size:
                    break
                found = Frame(self._in[3], self._in[4], int.from_bytes(self._in[5:9], "big"), self._in[9 : 9 + size])
                self._in = self._in[9 + size :]
                if found.kind == frames.SETTINGS and not found.flags & frames.ACK:
                    self.send(frames.SETTINGS_ACK)
                elif found.kind == frames.PING and not found.flags & frames.ACK:
                    self.send(frame(frames.PING, frames.ACK, 0, found.payload))
                yield found
            try:
                more = self.socket.recv(1 << 16)
            except (ConnectionError, ssl.SSLError):
                return
            if not more:
                return
            self._in += more

    def until(self, wanted: Callable[[Frame], object]) -> Frame:
        """The first frame that is wanted; fails when the connection ends before."""
        for found in self.frames():
            if wanted(found):
                return found
        raise AssertionError("the connection ended before")

    def answer(self, stream: int) -> tuple[int, bytes]:
        """Status and body of one exchange; fails when it is reset."""
        status, body = 0, b""
        for found in self.frames():
            if found.kind == frames.HEADERS:
                fields = dict(self._decoder.decode(found.payload, raw=True))
                if found.stream == stream:
                    status = int(fields.get(b":status", b"0")) or status
            elif found.stream == stream and found.kind == frames.RST_STREAM:
                raise AssertionError(f"stream {stream} was reset with {found.code}")
            elif found.kind == frames.GOAWAY and found.code:
                raise AssertionError(f"GOAWAY {found.code}")
            elif found.kind == frames.DATA:
                if found.stream == stream:
                    body += found.payload
                if found.payload:
                    self.send(frames.window_update(0, len(found.payload)))
            if found.stream == stream and found.kind in {frames.HEADERS, frames.DATA} and found.flags & frames.END_STREAM:
                return status, body
        raise AssertionError(f"the connection ended before the answer on {stream}")

    def goaway(self) -> int:
        """Reads until the connection ends; the code of its last GOAWAY, -1 without one."""
        code = -1
        for found in self.frames():
            if found.kind == frames.GOAWAY:
                code = found.code
        return code


class Silent:
    """Listens on a port of its own, in a thread, and answers no request; SETTINGS and PING it does."""

    def __init__(self, *, streams: int = 1 << 30, records: bool = True) -> None:
        """Not open yet.

        Args:
            streams: Exchanges at a time on one connection that it says it takes.
            records: Heads are decoded and kept.
        """
        self._streams = streams
        self.records = records
        self.heads: list[dict[str, str]] = []
        """Of requests, as they came."""
        self.begun = 0
        """HEADERS frames."""
        self.resets: list[tuple[float, int]] = []
        """RST_STREAM: when, and with what."""
        self.octets = 0
        """Octets of DATA that came."""
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server
        self.open: set[asyncio.BaseTransport] = set()
        self.address: Address

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)
        return self

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(lambda: _SilentConnection(self), "127.0.0.1", 0, backlog=2048)
        self.address = Address(*self._server.sockets[0].getsockname())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        for transport in list(self.open):
            with contextlib.suppress(OSError):
                transport.abort()  # type: ignore[attr-defined]  # a socket's transport
        await asyncio.sleep(0)

    def greeting(self) -> bytes:
        return frames.settings([(frames.MAX_CONCURRENT_STREAMS, self._streams)])


class _SilentConnection(asyncio.Protocol):
    def __init__(self, silent: Silent) -> None:
        self._silent = silent
        self._in = b""
        self._greeted = False
        self._decoder = hpack.Decoder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._silent.connections += 1
        self._silent.open.add(transport)
        transport.write(self._silent.greeting())  # type: ignore[attr-defined]  # as above

    def connection_lost(self, exc: Exception | None) -> None:
        self._silent.open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        silent = self._silent
        data = self._in + data
        at = 0
        if not self._greeted:
            if len(data) < len(frames.PREFACE):
                self._in = data
                return
            self._greeted = True
            at = len(frames.PREFACE)
        while len(data) - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            end = at + 9 + size
            if end > len(data):
                break
            kind, flags = data[at + 3], data[at + 4]
            payload = data[at + 9 : end]
            at = end
            if kind == frames.HEADERS:
                silent.begun += 1
                if silent.records:
                    silent.heads.append(dict(self._decoder.decode(payload)))
            elif kind == frames.DATA:
                silent.octets += size
            elif kind == frames.RST_STREAM:
                silent.resets.append((time.monotonic(), int.from_bytes(payload, "big")))
            elif kind == frames.SETTINGS and not flags & frames.ACK:
                self._transport.write(frames.SETTINGS_ACK)  # type: ignore[attr-defined]  # as above
            elif kind == frames.PING and not flags & frames.ACK:
                self._transport.write(frame(frames.PING, frames.ACK, 0, payload))  # type: ignore[attr-defined]  # as above
        self._in = data[at:]

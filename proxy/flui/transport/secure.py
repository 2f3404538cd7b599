"""TLS between a socket and whoever speaks above it: OpenSSL does the work, this file moves octets in and out of it.

    socket ─ records ─▶ incoming ─ SSLObject.read ─▶ received(octets)
    socket ◀─ records ─ outgoing ◀ SSLObject.write ─ write(octets)

It takes the place of the event loop's own TLS, which asks OpenSSL for more after every read until that raises
`SSLWantReadError`: an exception per request and side, and as dear as decrypting it. Here what is left is looked up first.
It also has fixed bounds: what waits to be decrypted is one read of the socket, what waits to be sent is what the
socket's own limits say. An end without close_notify is an error, not an end (RFC 8446 6.1).

A caller costs next to nothing until it has said a whole first record: OpenSSL, and its 40 KiB, come in only then, so that
connections that say nothing, or half a ClientHello, are cheap to keep for as long as they may (threats C8, C9). What is over
lets go of whoever speaks above and of its own failure: those rings would stay in memory until a full collection, which is rare.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from flui.transport.inbox import INBOX
from flui.transport.leaving import AT_ONCE
from flui.transport.tls import Context

_READ: Final = len(INBOX)
_NEW: Final = 0
_GREETING: Final = 1
_SHAKING: Final = 2
_OPEN: Final = 3
_OVER: Final = 4

_RECORD: Final = 16 * 1024
"""Octets of one TLS record at most (RFC 8446 5.1), and so of one SSL_read."""
_PIECE: Final = 4 * _RECORD
"""Octets encrypted at a stretch: OpenSSL keeps a buffer of that size for as long as the connection lives."""
_HEADER: Final = 5
"""Octets before a record's content: type, version, length (RFC 8446 5.1)."""
_HANDSHAKE: Final = 22
"""The type of a record that begins a handshake."""
_UNREAD_MS: Final = 30_000
"""How long a peer may leave unread what was sent before `close`; without it the kernel keeps that, megabytes, for many minutes."""


class Above(Protocol):
    """Who speaks over a `Secure`: an asyncio protocol that is handed octets by `received`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done; `transport` is the `Secure`."""

    def received(self, data: bytes) -> None:
        """Octets of the peer, decrypted."""

    def eof_received(self) -> bool | None:
        """The peer said close_notify."""

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over; `exc` says why when it was not the peer's or our own wish."""

    def pause_writing(self) -> None:
        """The socket takes no more for now."""

    def resume_writing(self) -> None:
        """The socket takes octets again."""


class _Nobody:
    """Stands above a connection that is over."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Too late."""

    def received(self, data: bytes) -> None:
        """Too late."""

    def eof_received(self) -> bool | None:
        """Too late."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Told already."""

    def pause_writing(self) -> None:
        """Too late."""

    def resume_writing(self) -> None:
        """Too late."""


_NOBODY: Final = _Nobody()


class Secure(asyncio.BufferedProtocol):
    """One TLS connection: the socket's protocol, and the transport of who speaks above."""

    __slots__ = (
        "_above",
        "_closing",
        "_context",
        "_done",
        "_failure",
        "_first",
        "_handshake_s",
        "_incoming",
        "_loop",
        "_outgoing",
        "_paused",
        "_server",
        "_ssl",
        "_state",
        "_tcp",
        "_timer",
    )

    def __init__(self, above: Above, context: Context, loop: asyncio.AbstractEventLoop, handshake_s: float, *, server: bool) -> None:
        """TLS for a connection about to be made.

        Args:
            above: Told of the connection once the handshake is done, and never if it fails.
            context: From `transport.tls`.
            loop: The running one.
            handshake_s: Seconds that the handshake may take.
            server: We were called; False: we call.
        """
        self._above = above
        self._loop = loop
        self._context = context
        self._server = server
        self._incoming: ssl.MemoryBIO
        self._outgoing: ssl.MemoryBIO
        self._ssl: ssl.SSLObject
        self._first = b""
        """What a caller has said of its first record."""
        self._done: asyncio.Future[None] = loop.create_future()
        self._failure: BaseException | None = None
        self._handshake_s = handshake_s
        self._timer: asyncio.TimerHandle
        self._state = _NEW
        self._tcp: asyncio.Transport
        self._paused = False
        self._closing = False

    async def established(self) -> None:
        """Waits for the end of the handshake; asked once. Cancelled, the connection is left as it is.

        Raises:
            ssl.SSLError: it failed.
            TimeoutError: it took too long.
            ConnectionError: the peer went away meanwhile, or `abort` gave it up.
        """
        await self._done
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # or the error would hold this frame, and this frame the error

    def succeed(self, above: Above) -> None:
        """Whoever spoke above until now has `above` speak in its place; it must have been told of the connection."""
        if self._state == _OPEN:
            self._above = above

    # The socket's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self._tcp = cast("asyncio.Transport", transport)
        self._timer = self._loop.call_later(self._handshake_s, self._late)
        if self._closing:
            self._fail(ConnectionAbortedError("given up before it began"))
        elif self._server:
            self._state = _GREETING
        else:
            self._engage()
            self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where records go."""
        del sizehint
        return INBOX

    def buffer_updated(self, nbytes: int) -> None:
        """Records, cut anywhere."""
        if self._state == _GREETING:
            if not self._greeted(bytes(INBOX[:nbytes])):
                return
        elif self._state == _OVER:
            return
        else:
            self._incoming.write(INBOX[:nbytes])
        if self._state == _OPEN or self._shake():
            self._decrypt()

    def eof_received(self) -> bool:
        """The socket ended without close_notify, or after it."""
        if self._state < _OPEN:
            self._fail(ConnectionResetError("the peer ended the connection during the handshake"))
        elif self._state == _OPEN and not self._closing:
            self._incoming.write_eof()
            self._decrypt()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._state < _OPEN:
            self._fail(exc or ConnectionResetError("the connection was lost during the handshake"))
        elif self._state == _OPEN:
            self._over(None if self._closing else exc)

    def _over(self, exc: Exception | None) -> None:
        """Tells whoever speaks above, and knows them no more."""
        self._state = _OVER
        self._closing = True
        above = self._above
        self._above = _NOBODY
        above.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket's write buffer is above its mark."""
        if self._state == _OPEN:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """The socket's write buffer has drained."""
        if self._state == _OPEN:
            self._above.resume_writing()

    # The handshake.

    def _greeted(self, octets: bytes) -> bool:
        """Whether a caller has said a first record, or what cannot become one; OpenSSL has it then."""
        first = self._first + octets
        size = len(first)
        if first[0] == _HANDSHAKE and (size < _HEADER or size < _HEADER + int.from_bytes(first[3:_HEADER]) <= _HEADER + _RECORD):
            self._first = first
            return False
        self._first = b""
        self._engage()
        self._incoming.write(first)
        return True

    def _engage(self) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = self._context.wrap_bio(self._incoming, self._outgoing, server_side=self._server)
        self._state = _SHAKING

    def _shake(self) -> bool:
        """Goes on with the handshake; True when it is done."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        except ssl.SSLError as error:
            self._send()  # the alert that tells the peer why
            self._fail(error)
            return False
        self._send()
        self._timer.cancel()
        self._state = _OPEN
        if not self._done.done():
            self._done.set_result(None)
        self._above.connection_made(cast("asyncio.BaseTransport", self))
        return not self._closing

    def _late(self) -> None:
        self._fail(TimeoutError("the TLS handshake takes too long"))

    def _fail(self, error: BaseException) -> None:
        """The handshake failed: whoever waits for it is told, the socket is closed."""
        self._timer.cancel()
        self._state = _OVER
        self._closing = True
        self._above = _NOBODY
        if not self._done.done():
            self._failure = error
            self._done.set_result(None)
        self._tcp.close()

    # Octets.

    def _decrypt(self) -> None:
        """Hands on what can be decrypted, up to one read's worth at a time."""
        incoming = self._incoming
        tls = self._ssl
        while not self._paused and not self._closing:
            try:
                chunk = tls.read(_RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                self._broken(error)
                return
            if not chunk:
                self._above.eof_received()
                self.close()
                return
            # Asking OpenSSL once more than it has octets would raise, and the exception costs more than the record.
            more = incoming.pending or tls.pending()
            self._above.received(self._gathered(chunk) if more else chunk)
            if not more:
                break
        if self._outgoing.pending:
            self._send()  # a key update

    def _gathered(self, first: bytes) -> bytes:
        """`first` and the records behind it, up to one read of the socket: one hand-over for them all."""
        chunks = [first]
        size = len(first)
        with suppress(ssl.SSLError):  # what it is shows again at the next read
            while size <= _READ - _RECORD and (self._incoming.pending or self._ssl.pending()):
                chunk = self._ssl.read(_RECORD)
                if not chunk:
                    break
                chunks.append(chunk)
                size += len(chunk)
        return b"".join(chunks)

    def _broken(self, error: ssl.SSLError) -> None:
        """A record that is not the peer's, or an end without close_notify: nothing after it can be trusted."""
        if not isinstance(error, ssl.SSLEOFError):
            self._send()  # the alert that tells the peer what was wrong; one that is gone needs none
        self._over(ConnectionResetError(f"TLS: {error.reason or error}"))
        self._tcp.abort()

    def _send(self) -> None:
        octets = self._outgoing.read()
        if octets:
            self._tcp.write(octets)

    # The transport of who speaks above.

    def write(self, data: bytes) -> None:
        """Encrypts and sends. After `close` or `abort` octets are dropped."""
        if self._closing:
            return
        if len(data) <= _PIECE:
            self._ssl.write(data)
            self._tcp.write(self._outgoing.read())
            return
        view = memoryview(data)
        pieces = []
        for at in range(0, len(data), _PIECE):
            self._ssl.write(view[at : at + _PIECE])
            pieces.append(self._outgoing.read())
        self._tcp.writelines(pieces)

    def pause_reading(self) -> None:
        """Hands nothing on until `resume_reading`; at most one read of the socket waits meanwhile."""
        if not self._paused:
            self._paused = True
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Hands on again, first what waits."""
        if self._paused:
            self._paused = False
            if not self._closing:
                self._tcp.resume_reading()
                self._loop.call_soon(self._decrypt_later)

    def _decrypt_later(self) -> None:
        if not self._closing and not self._paused and (self._incoming.pending or self._ssl.pending()):
            self._decrypt()

    def close(self) -> None:
        """Says close_notify, then closes the socket once everything is written."""
        if self._closing:
            return
        self._closing = True
        with suppress(ssl.SSLError):  # it waits for the peer's close_notify; we do not (RFC 8446 6.1)
            self._ssl.unwrap()
        self._send()
        if sys.platform == "linux":
            self._option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        self._tcp.close()

    def abort(self) -> None:
        """Closes the socket now; what is not written is lost, and the peer can tell.

        It is reset: the kernel would else keep what a peer does not read, and the connection, for minutes after we forgot it.
        """
        self._closing = True
        if self._state == _NEW:
            return
        if self._state < _OPEN:
            self._fail(ConnectionAbortedError("given up before the handshake was done"))
        self._option(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self._tcp.abort()

    def _option(self, level: int, name: int, value: int | bytes) -> None:
        with suppress(OSError, ValueError):  # the socket is closed already, or is no TCP
            self._tcp.get_extra_info("socket").setsockopt(level, name, value)

    def is_closing(self) -> bool:
        """Whether it was closed from this side, or is broken."""
        return self._closing or self._tcp.is_closing()

    def can_write_eof(self) -> bool:
        """TLS connections end in both directions at once here."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Of the socket."""
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Of the socket."""
        return self._tcp.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`, or what the socket knows."""
        if name == "ssl_object":
            return self._ssl
        return self._tcp.get_extra_info(name, default)

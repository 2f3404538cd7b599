"""TLS between a socket and whoever speaks above it: OpenSSL does the work, this file moves octets in and out of it.

    socket ─ records ─▶ incoming ─ SSLObject.read ─▶ received(octets)
    socket ◀─ records ─ outgoing ◀ SSLObject.write ─ write(octets)

It takes the place of the event loop's own TLS, which asks OpenSSL for more after every read until that raises
`SSLWantReadError`: an exception per request and side, and as dear as decrypting it. Here what is left is looked up first.
It also has fixed bounds: what waits to be decrypted is one read of the socket, what waits to be sent is what the
socket's own limits say. An end without close_notify is an error, not an end (RFC 8446 6.1).
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from flui.transport.inbox import INBOX
from flui.transport.tls import Context

_READ: Final = len(INBOX)
_SHAKING: Final = 0
_OPEN: Final = 1
_OVER: Final = 2

_RECORD: Final = 16 * 1024
"""Octets of one TLS record at most (RFC 8446 5.1), and so of one SSL_read."""


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


class Secure(asyncio.BufferedProtocol):
    """One TLS connection: the socket's protocol, and the transport of who speaks above."""

    __slots__ = (
        "_above",
        "_closing",
        "_done",
        "_handshake_s",
        "_incoming",
        "_loop",
        "_outgoing",
        "_paused",
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
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._done: asyncio.Future[None] = loop.create_future()
        self._handshake_s = handshake_s
        self._timer: asyncio.TimerHandle
        self._state = _SHAKING
        self._tcp: asyncio.Transport
        self._paused = False
        self._closing = False

    async def established(self) -> None:
        """Waits for the end of the handshake. Cancelled, the connection is left as it is.

        Raises:
            ssl.SSLError: it failed.
            TimeoutError: it took too long.
            ConnectionError: the peer went away meanwhile.
        """
        await asyncio.shield(self._done)

    # The socket's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self._tcp = cast("asyncio.Transport", transport)
        self._timer = self._loop.call_later(self._handshake_s, self._late)
        self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where records go."""
        del sizehint
        return INBOX

    def buffer_updated(self, nbytes: int) -> None:
        """Records, cut anywhere."""
        self._incoming.write(INBOX[:nbytes])
        if self._state == _OPEN or (self._state == _SHAKING and self._shake()):
            self._decrypt()

    def eof_received(self) -> bool:
        """The socket ended without close_notify, or after it."""
        self._incoming.write_eof()
        if self._state == _SHAKING:
            self._fail(ConnectionResetError("the peer ended the connection during the handshake"))
        elif self._state == _OPEN and not self._closing:
            self._decrypt()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._state == _SHAKING:
            self._fail(exc or ConnectionResetError("the connection was lost during the handshake"))
        elif self._state == _OPEN:
            self._state = _OVER
            self._above.connection_lost(None if self._closing else exc)

    def pause_writing(self) -> None:
        """The socket's write buffer is above its mark."""
        if self._state == _OPEN:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """The socket's write buffer has drained."""
        if self._state == _OPEN:
            self._above.resume_writing()

    # The handshake.

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
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # it may be that nobody waits for it
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
        self._closing = True
        self._state = _OVER
        self._above.connection_lost(ConnectionResetError(f"TLS: {error.reason or error}"))
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
        size = len(data)
        written = self._ssl.write(data)
        if written < size:
            view = memoryview(data)
            while written < size:
                written += self._ssl.write(view[written:])
        self._tcp.write(self._outgoing.read())

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
        self._tcp.close()

    def abort(self) -> None:
        """Closes the socket now; what is not written is lost, and the peer can tell."""
        self._closing = True
        self._tcp.abort()

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

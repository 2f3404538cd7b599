"""Opens a connection to an endpoint, and proves who is there before anything is sent."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import replace
from typing import Final, cast

from flui.codecs.http2 import Bounds
from flui.codecs.http2.bounds import MESH
from flui.identity.svid import SvidError
from flui.model.config import Limits
from flui.model.fault import Fault
from flui.model.topology import Cluster, Protocol
from flui.routing.pick import Member
from flui.transport.credentials import Credentials
from flui.transport.secure import Secure
from flui.transport.tls import HTTP1, HTTP2, OFFERED, agreed, expect, peer
from flui.upstream.connection import Connection
from flui.upstream.owner import Keeper
from flui.upstream.shared import Shared
from flui.upstream.single import Single

LANES: Final = 100
"""Exchanges at a time on one connection, if its endpoint takes so many; one more has a connection of its own."""
_PASSES: Final = 8
"""Turns of the event loop in which a dial whose time is up may still turn out to be done: each of its steps takes one."""
_BEFORE_S: Final = 30.0
"""So long before a certificate of it lapses a shared connection takes no new exchange, or in the last tenth of its time."""
_OFFERS: Final[dict[Protocol, tuple[str, ...]]] = {Protocol.AUTO: OFFERED, Protocol.HTTP1: (HTTP1,), Protocol.HTTP2: (HTTP2,)}


class DialError(Exception):
    """No connection: why, in our words. Nothing of the request was sent."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class _Greeter:
    """Stands above a new TLS connection until it is known who is there and what they speak; nothing is read or sent before."""

    __slots__ = ("_cluster", "_credentials", "_keeper", "_limits", "_member", "connection", "error", "wire")

    def __init__(self, keeper: Keeper, member: Member, cluster: Cluster, credentials: Credentials, limits: Limits) -> None:
        self._keeper = keeper
        self._member = member
        self._cluster = cluster
        self._credentials = credentials
        self._limits = limits
        self.wire: Secure
        self.connection: Connection | None = None
        self.error: DialError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        cluster = self._cluster
        identity = cluster.identity
        address = self._member.endpoint.address
        assert identity is not None
        ssl_object = transport.get_extra_info("ssl_object")
        try:
            spoken = agreed(ssl_object, OFFERED)
            found = peer(ssl_object, self._credentials)
            expect(found.principal, identity)
        except SvidError as error:
            self.error = DialError(Fault.UPSTREAM_IDENTITY, f"{address}: {error}")
            cast("asyncio.Transport", transport).abort()
            return
        if spoken not in _OFFERS[cluster.protocol]:
            self.error = DialError(
                Fault.UPSTREAM_REFUSED,
                f"{address}: it speaks {spoken}, and {cluster.name} is to be spoken to in HTTP/2 (`protocol: http2`)",
            )
            cast("asyncio.Transport", transport).abort()
            return
        connection = _made(self._keeper, self._member, self._limits, spoken == HTTP2, MESH)
        connection.peer = found
        if isinstance(connection, Shared):
            now = time.time()  # noqa: TID251 - certificates are dated in wall-clock time
            until = min(found.principal.expires_at, self._credentials.expires_at)
            connection.leaves_at = until - min(_BEFORE_S, (until - now) / 10)
        self.connection = connection
        self.wire.succeed(connection)
        connection.connection_made(transport)

    def received(self, data: bytes) -> None:
        """Nobody is there who could hear it."""

    def eof_received(self) -> bool | None:
        """See `connection_lost`."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever dialled knows why."""

    def pause_writing(self) -> None:
        """Nothing is written."""

    def resume_writing(self) -> None:
        """Nothing is written."""


def _made(keeper: Keeper, member: Member, limits: Limits, many: bool, bounds: Bounds) -> Connection:
    if not many:
        return Single(keeper, member, limits)
    # All lanes may be held back by their callers at once, each to its window, and still stop no other one.
    held = LANES * limits.stream_window_octets + bounds.window_octets
    return Shared(keeper, member, limits, replace(bounds, streams=LANES, held_octets=max(bounds.held_octets, held)))


class _Patience:
    """Ends a dial when its time is up; but what the kernel has done by then is heard first, however long the loop was held up."""

    __slots__ = ("_handle", "_left", "_limit", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: asyncio.Timeout, seconds: float) -> None:
        self._loop = loop
        self._limit = limit
        self._left = _PASSES
        self._handle: asyncio.Handle = loop.call_later(seconds, self._over)

    def _over(self) -> None:
        if self._left:
            self._left -= 1
            self._handle = self._loop.call_soon(self._over)
        else:
            self._limit.reschedule(self._loop.time())

    def stop(self) -> None:
        """The dial is over."""
        self._handle.cancel()


async def connect(
    keeper: Keeper, member: Member, cluster: Cluster, credentials: Credentials | None, limits: Limits, connect_s: float
) -> Connection:
    """A connection to `member` that is ready to be asked. Cancelled, it leaves no socket behind.

    Args:
        keeper: Who keeps it while it is idle.
        member: Where to.
        cluster: Says who must be there.
        credentials: Ours; None where only plain text is spoken.
        limits: What an endpoint may make us hold.
        connect_s: Seconds for TCP and TLS together.

    Raises:
        DialError: refused, timed out, TLS failed, someone else is there, it does not speak what it must, or it hung up before it was
            asked.
    """
    loop = asyncio.get_running_loop()
    address = member.endpoint.address
    connection: Connection | None = None
    greeter: _Greeter | None = None
    secure: Secure | None = None
    if cluster.identity is None:
        connection = _made(keeper, member, limits, cluster.protocol is Protocol.HTTP2, Bounds())
    elif credentials is None:
        raise DialError(Fault.UPSTREAM_IDENTITY, "no credentials to speak TLS with")
    else:
        greeter = _Greeter(keeper, member, cluster, credentials, limits)
    patience: _Patience | None = None
    try:
        async with asyncio.timeout(None) as limit:
            patience = _Patience(loop, limit, connect_s)
            if greeter is None:
                plain = connection
                await loop.create_connection(lambda: cast("asyncio.BufferedProtocol", plain), address.host, address.port)
            else:
                assert credentials is not None
                context = credentials.client_context(_OFFERS[cluster.protocol])
                wire = greeter.wire = Secure(greeter, context, loop, connect_s, server=False)
                await loop.create_connection(lambda: wire, address.host, address.port)
                secure = wire
                await wire.established()
    except TimeoutError:
        if secure is not None:
            secure.abort()
        raise DialError(Fault.CONNECT_TIMEOUT, f"{address}: no connection within {connect_s:g} s") from None
    except asyncio.CancelledError:
        if secure is not None:
            secure.abort()
        raise
    except (ssl.SSLError, ConnectionResetError) as error:
        raise DialError(Fault.UPSTREAM_REFUSED, f"{address}: {error}") from error
    except OSError as error:
        fault = Fault.APP_UNAVAILABLE if cluster.local else Fault.UPSTREAM_REFUSED
        raise DialError(fault, f"{address}: {error.strerror or error}") from error
    finally:
        if patience is not None:
            patience.stop()
    if greeter is not None:
        if greeter.error is not None:
            raise greeter.error
        connection = greeter.connection
    assert connection is not None
    if connection.lost or not connection.codec.reusable:
        # It hung up, or spoke, before it was asked: nothing was sent, so the next endpoint may have the request.
        connection.close()
        raise DialError(Fault.UPSTREAM_REFUSED, f"{address}: closed as soon as it was open")
    return connection

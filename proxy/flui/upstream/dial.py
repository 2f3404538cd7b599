"""Opens a connection to an endpoint, and proves who is there before anything is sent."""

from __future__ import annotations

import asyncio
import ssl

from flui.identity.svid import SvidError
from flui.model.config import Limits
from flui.model.fault import Fault
from flui.model.topology import Cluster
from flui.routing.pick import Member
from flui.transport.credentials import Credentials
from flui.transport.secure import Secure
from flui.transport.tls import Context, agreed, expect, peer
from flui.upstream.connection import Keeper, Upstream


class DialError(Exception):
    """No connection: why, in our words. Nothing of the request was sent."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


async def connect(
    keeper: Keeper, member: Member, cluster: Cluster, credentials: Credentials | None, limits: Limits, connect_s: float
) -> Upstream:
    """A connection to `member` that is ready to be asked. Cancelled, it leaves no socket behind.

    Args:
        keeper: Who keeps it while it is idle.
        member: Where to.
        cluster: Says who must be there.
        credentials: Ours; None where only plain text is spoken.
        limits: What an endpoint may make us hold.
        connect_s: Seconds for TCP and TLS together.

    Raises:
        DialError: refused, timed out, TLS failed, someone else is there, or it hung up before it was asked.
    """
    loop = asyncio.get_running_loop()
    address = member.endpoint.address
    context: Context | None = None
    if cluster.identity is not None:
        if credentials is None:
            raise DialError(Fault.UPSTREAM_IDENTITY, "no credentials to speak TLS with")
        context = credentials.client_context()
    connection = Upstream(keeper, member, limits)
    secure: Secure | None = None
    try:
        async with asyncio.timeout(connect_s):
            if context is None:
                await loop.create_connection(lambda: connection, address.host, address.port)
            else:
                wire = Secure(connection, context, loop, connect_s, server=False)
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
    if cluster.identity is not None:
        assert credentials is not None
        try:
            ssl_object = connection.transport.get_extra_info("ssl_object")
            agreed(ssl_object, credentials.alpn)
            connection.peer = peer(ssl_object, credentials)
            expect(connection.peer.principal, cluster.identity)
        except SvidError as error:
            connection.transport.abort()
            raise DialError(Fault.UPSTREAM_IDENTITY, f"{address}: {error}") from error
    if connection.lost or not connection.codec.reusable:
        # It hung up, or spoke, before it was asked: nothing was sent, so the next endpoint may have the request.
        connection.close()
        raise DialError(Fault.UPSTREAM_REFUSED, f"{address}: closed as soon as it was open")
    return connection

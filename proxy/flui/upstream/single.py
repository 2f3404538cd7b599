"""A connection that speaks HTTP/1.1: a socket and a client codec. It belongs to a pool while it is idle, to one exchange while it works."""

from __future__ import annotations

import asyncio
import time
from typing import cast

from flui.codecs.http1 import Http1Client
from flui.model.config import Limits
from flui.routing.pick import Member
from flui.transport.inbox import INBOX, WRITE_HIGH_OCTETS
from flui.transport.leaving import cut
from flui.transport.tls import Peer
from flui.upstream.owner import Keeper, Owner


class Single(asyncio.BufferedProtocol):
    """One connection to one endpoint, for one exchange at a time: it is its own only lane."""

    __slots__ = ("_keeper", "codec", "idle_since", "is_reading", "lost", "member", "owner", "peer", "transport")

    def __init__(self, keeper: Keeper, member: Member, limits: Limits) -> None:
        self._keeper = keeper
        self.member = member
        self.codec = Http1Client(limits)
        self.owner: Owner | None = None
        self.peer: Peer | None = None
        """Who proved to be at the other end; None on plain text."""
        self.transport: asyncio.Transport
        self.idle_since = 0.0
        self.lost = False
        self.is_reading = True
        """Octets of the endpoint are taken in; False while there is no credit for them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket, and TLS where there is any, is ready. Identity is checked by whoever dialled, before anything is sent."""
        transport = cast("asyncio.Transport", transport)  # uvloop's transports are not registered as asyncio's
        self.transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH_OCTETS)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where octets from the endpoint go."""
        del sizehint
        return INBOX

    def buffer_updated(self, nbytes: int) -> None:
        """Octets from the endpoint, over plain TCP."""
        self.received(bytes(INBOX[:nbytes]))

    def received(self, data: bytes) -> None:
        """Octets from the endpoint."""
        codec = self.codec
        codec.receive(data)
        owner = self.owner
        if owner is not None:
            now = time.monotonic()
            pumps = owner.upstream_spoke(now)
            if pumps is not None:
                pumps.pump(now)
        elif codec.closing:
            self.close()

    def eof_received(self) -> bool:
        """The endpoint will send no more."""
        self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone; with an error, whatever was under way is cut short, also a body that would end with the connection."""
        self.lost = True
        if exc is not None:
            self.codec.receive_reset()
        self._ended()

    def _ended(self) -> None:
        self.codec.receive_eof()
        if self.owner is not None:
            self._tell(self.owner)
        else:
            self._keeper.forget(self)

    def _tell(self, owner: Owner) -> None:
        now = time.monotonic()
        pumps = owner.upstream_spoke(now)
        if pumps is not None:
            pumps.pump(now)

    def pause_writing(self) -> None:
        """The write buffer is above its mark."""
        self.codec.stall(True)

    def resume_writing(self) -> None:
        """The write buffer has drained."""
        self.codec.stall(False)
        if self.owner is not None:
            self._tell(self.owner)

    def unanswered(self, now: float) -> None:
        """Tells the endpoint's vitals of a request that waits for its answer."""
        if self.owner is not None:
            self.member.vitals.unanswered(self.owner.waits_since, now)

    def lane(self) -> Single:
        """Itself."""
        return self

    def flush(self) -> bool:
        """Writes what the codec has ready, and reads on only while there is credit.

        Returns:
            Whether the caller may send more of its body: that Credit is among the codec's events.
        """
        codec = self.codec
        octets = codec.take()
        if octets:
            self.transport.write(octets)
        if codec.reading != self.is_reading:
            self.is_reading = codec.reading
            if self.is_reading:
                self.transport.resume_reading()
            elif not self.lost:
                self.transport.pause_reading()
        return codec.owed > 0 and codec.repay()

    def close(self) -> None:
        """Ends the connection; octets not yet written are lost, which is right for a request nobody waits for."""
        self._keeper.forget(self)
        if self.owner is not None:
            self.codec.receive_reset()
        if self.lost:
            return
        if self.codec.truncated:
            cut(self.transport)
        else:
            self.transport.abort()

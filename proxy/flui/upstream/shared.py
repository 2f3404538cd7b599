"""A connection that speaks HTTP/2: one socket, one client codec, and a lane for each exchange on it.

    octets ──▶ codec ──events──▶ lanes ──▶ each owner told once ──▶ each caller's connection pumped once ──▶ one write

What many exchanges say in one turn of the loop leaves in one write at its end: `flush` only notes that there is something.
The socket is read whatever becomes of a lane: a caller that does not take its answer holds back its own stream, by its
window, and no other. A connection that leaves (drained, or the peer said GOAWAY) takes no new lane and ends with its last one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import Final, cast

from flui.codecs.http2 import Bounds, Http2Client
from flui.model.config import Limits
from flui.model.events import Event, Reset
from flui.model.fault import Fault
from flui.routing.pick import Member
from flui.transport.inbox import INBOX, WRITE_HIGH_OCTETS
from flui.transport.tls import Peer
from flui.upstream.owner import Keeper, Owner, Pumps

_SILENT_S: Final = 1.0
"""A connection from which nothing came for so long while a request waited in vain is not trusted with another one."""
_LEAVE_S: Final = 5.0
"""How long the peer may take to read our last octets before the socket is closed over them."""


class Lane:
    """One exchange's part of a connection; as a codec it says and hears what is said on its own stream alone."""

    __slots__ = ("_codec", "heard", "member", "number", "opened_at", "owner", "shared", "touched")

    def __init__(self, shared: Shared) -> None:
        """A lane that has been given out; made by `Shared.lane`."""
        self.shared = shared
        self.member = shared.member
        self.owner: Owner | None = None
        self.number = 0
        """Of its stream; 0 before the exchange has begun."""
        self.opened_at = 0.0
        self.heard: list[Event] = []
        self.touched = False
        """It stands among those whose owner is to be told."""
        self._codec = shared.codec

    # What an exchange holds.

    @property
    def codec(self) -> Lane:
        """The side that faces the splice."""
        return self

    @property
    def peer(self) -> Peer | None:
        """Who proved to be at the other end; None on plain text."""
        return self.shared.peer

    @property
    def lost(self) -> bool:
        """The socket is gone."""
        return self.shared.lost

    @property
    def is_reading(self) -> bool:
        """Always: a stream is held back by its window."""
        return True

    def flush(self) -> bool:
        """What was said goes out at the end of this turn of the loop, with what all other lanes have said; Credit comes as it goes."""
        shared = self.shared
        if not shared.due:
            shared.flush()
        return False

    def close(self) -> None:
        """Ends this exchange's part, and nothing else."""
        self.shared.leave(self, time.monotonic())

    # What a codec does.

    @property
    def reusable(self) -> bool:
        """No exchange is under way here, and one may begin."""
        codec = self._codec
        return codec.reusable and not (self.number and codec.carries(self.number))

    def open(self) -> int:
        """Number of the exchange."""
        self.number = number = self._codec.open()
        self.opened_at = time.monotonic()
        self.shared.lanes[number] = self
        return number

    def send(self, event: Event) -> None:
        """Says `event` to the endpoint."""
        self._codec.send(event)
        if type(event) is Reset:
            self.flush()  # the exchange is over: nobody else asks for it

    def events(self) -> list[Event]:
        """What the endpoint has said on this stream since the last call."""
        pending = self._codec.events()
        if pending:
            self.shared.hand_out(pending)
        heard = self.heard
        if heard:
            self.heard = []
        return heard


class Shared(asyncio.BufferedProtocol):
    """One connection to one endpoint, for many exchanges at a time."""

    __slots__ = (
        "_ending",
        "_keeper",
        "_leaving",
        "_loop",
        "_most",
        "_touched",
        "busy",
        "codec",
        "due",
        "heard_at",
        "idle_since",
        "lanes",
        "leaves_at",
        "lost",
        "member",
        "peer",
        "transport",
    )

    def __init__(self, keeper: Keeper, member: Member, limits: Limits, bounds: Bounds) -> None:
        """A connection about to be made.

        Args:
            keeper: Who keeps it.
            member: Where it leads.
            limits: What the endpoint may make us hold.
            bounds: The same of HTTP/2; `streams` is how many lanes there are at most, whatever the endpoint takes.
        """
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._most = bounds.streams
        self._touched: deque[Lane] = deque()
        self._ending: asyncio.TimerHandle | None = None
        self._leaving = False
        self.member = member
        self.codec = Http2Client(limits, bounds)
        self.peer: Peer | None = None
        """Who proved to be at the other end; None on plain text."""
        self.transport: asyncio.Transport
        self.lanes: dict[int, Lane] = {}
        """Those whose exchange has begun, by the number of their stream."""
        self.busy = 0
        """Lanes given out."""
        self.idle_since = 0.0
        """When the last lane came back."""
        self.heard_at = 0.0
        """When octets came last."""
        self.leaves_at = math.inf
        """When it takes no new lane any more, so that none is cut when a certificate of either side lapses; Unix seconds."""
        self.lost = False
        self.due = False
        """Whoever was spoken to is told, and what was said is written, before this turn of the loop is over."""

    # Lanes.

    @property
    def has_room(self) -> bool:
        """One more exchange may begin."""
        codec = self.codec
        busy = self.busy
        return busy < self._most and not self._leaving and codec.room + codec.streams > busy

    def lane(self) -> Lane:
        """A lane for one more exchange; it counts until `leave`. Only with `has_room`."""
        self.busy += 1
        return Lane(self)

    def leave(self, lane: Lane, now: float) -> None:
        """The exchange on `lane` is over, on whatever side: if not on both, the endpoint is told to stop."""
        if lane.shared is not self or lane.number < 0:
            return
        number = lane.number
        lane.number = -1
        lane.owner = None
        self.busy -= 1
        if number:
            self.lanes.pop(number, None)
            if self.codec.carries(number):
                if self.heard_at < lane.opened_at < now - _SILENT_S:
                    self._leaving = True
                self.codec.send(Reset(number, Fault.CALLER_GONE))
            self.flush()  # it may have been reset before, and nobody else would write that
        if not self.busy:
            self.idle_since = now
            if self._leaving:
                self.drain()

    def unanswered(self, now: float) -> None:
        """Tells the endpoint's vitals of each request that waits for its answer."""
        vitals = self.member.vitals
        for lane in self.lanes.values():
            if lane.owner is not None:
                vitals.unanswered(lane.owner.waits_since, now)

    def hand_out(self, events: list[Event]) -> None:
        """Gives each lane its events; their owners are told before this turn of the loop is over."""
        lanes = self.lanes
        touched = self._touched
        for event in events:
            lane = lanes.get(event.stream)
            if lane is not None:
                lane.heard.append(event)
                if not lane.touched:
                    lane.touched = True
                    touched.append(lane)
        if not self.due:
            self.flush()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready, and who is there has been settled where that is asked for."""
        transport = cast("asyncio.Transport", transport)  # uvloop's transports are not registered as asyncio's
        self.transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH_OCTETS)
        self.idle_since = time.monotonic()
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where octets from the endpoint go."""
        del sizehint
        return INBOX

    def buffer_updated(self, nbytes: int) -> None:
        """Octets from the endpoint, over plain TCP."""
        self.received(bytes(INBOX[:nbytes]))

    def received(self, data: bytes) -> None:
        """Octets from the endpoint."""
        now = time.monotonic()
        self.heard_at = now
        codec = self.codec
        codec.tick(now)
        codec.receive(data)
        self._carry_on(now)

    def eof_received(self) -> bool:
        """The endpoint will send no more: no exchange ends well that is under way."""
        self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        del exc
        self.lost = True
        if self._ending is not None:
            self._ending.cancel()
        self._ended()

    def _ended(self) -> None:
        self.codec.receive_eof()
        self._keeper.forget(self)
        self._carry_on(time.monotonic())

    def pause_writing(self) -> None:
        """The write buffer is above its mark: nobody gets credit meanwhile."""
        self.codec.stall(True)

    def resume_writing(self) -> None:
        """The write buffer has drained."""
        self.codec.stall(False)
        if not self.due:
            self._carry_on(time.monotonic())

    # The work.

    def flush(self) -> None:
        """Has everything that is said by then written at the end of this turn of the loop."""
        if not self.due:
            self.due = True
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._carry_on(time.monotonic())

    def _carry_on(self, now: float) -> None:
        self.due = True
        try:
            self._speak(now)
        except BaseException:
            self.close()
            self._loop.call_soon(self._catch_up)  # who else was to be told is told that it is over
            raise
        finally:
            self.due = False
        if self.codec.closing and not self.lost and self._ending is None:
            self._end()

    def _speak(self, now: float) -> None:
        """Tells every owner that is concerned, then pumps every caller's connection that they name, then writes; until all is said."""
        codec = self.codec
        while True:
            events = codec.events()
            if events:
                self.hand_out(events)
            if self._touched:
                self._tell(now)
            octets = codec.take()
            if octets and not self.lost:
                self.transport.write(octets)
            elif not self._touched and not events:
                break

    def _tell(self, now: float) -> None:
        touched = self._touched
        first: Pumps | None = None
        others: dict[int, Pumps] = {}
        while touched:
            lane = touched.popleft()
            lane.touched = False
            owner = lane.owner
            if owner is None or not lane.heard:
                continue
            pumps = owner.upstream_spoke(now)
            if pumps is None or pumps is first:
                continue
            if first is None:
                first = pumps
            else:
                others[id(pumps)] = pumps
        if first is not None:
            first.pump(now)
            for pumps in others.values():
                pumps.pump(now)

    # The end.

    def drain(self) -> None:
        """Takes no new lane; the connection ends with its last exchange.

        The endpoint is told only then: some do not answer any more what is under way when they hear GOAWAY.
        """
        self._leaving = True
        if not self.busy:
            self.codec.drain()
            self.flush()

    def _end(self) -> None:
        """Everything is said, and written as far as the endpoint reads."""
        self._keeper.forget(self)
        self._ending = self._loop.call_later(_LEAVE_S, self._abort)
        self.transport.close()

    def _abort(self) -> None:
        if not self.lost:
            self.transport.abort()

    def close(self) -> None:
        """Ends the connection and all exchanges on it, at once."""
        self._keeper.forget(self)
        self.codec.receive_reset()
        if not self.lost:
            self.transport.abort()

"""One connection of a caller: a socket, a server codec, and the exchanges on it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from flui.answer import answer, answer_call
from flui.codecs.grpc import is_call
from flui.codecs.http1 import Http1Server
from flui.codecs.http2 import PREFACE, Http2Server
from flui.codecs.validate import validate
from flui.decide import decide
from flui.downstream import translated
from flui.downstream.exchange import Exchange
from flui.identity.svid import SvidError
from flui.model.decision import Reply
from flui.model.events import RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import EXPECT, Field, field
from flui.model.identity import ANONYMOUS
from flui.transport.alarm import Alarm
from flui.transport.inbox import INBOX, WRITE_HIGH_OCTETS
from flui.transport.tls import HTTP2, Peer

if TYPE_CHECKING:
    from flui.downstream.relay import Gate
    from flui.translate.base import Mapped

_NEVER = float("inf")
_OPEN = 0
_LINGERING = 1
_CLOSING = 2

_LINGER_S = 1.0
"""How long a connection that ends in a fault is read and ignored, so that the answer is not lost to a reset (RFC 9112 9.6)."""


class Downstream(asyncio.BufferedProtocol):
    """One connection of a caller."""

    __slots__ = (
        "_alarm",
        "_ending",
        "_exchanges",
        "_first",
        "_gate",
        "_head_since",
        "_idle_since",
        "_lost",
        "_moved",
        "_origin",
        "_reading",
        "_source",
        "_tls_s",
        "_used",
        "_watched",
        "codec",
        "http2",
        "peer",
        "principal",
        "relay",
        "transport",
    )

    def __init__(self, gate: Gate, accepted_at: float, source: str = "") -> None:
        """A connection that was accepted.

        Args:
            gate: The listener it came to, at work.
            accepted_at: Monotonic seconds; its first head must be complete `header_s` after the handshake.
            source: Address that it is counted under; empty: it is not.
        """
        self._source = source
        self._gate = gate
        self.relay = gate.relay
        self.codec: Http1Server | Http2Server = Http1Server(gate.relay.limits, b"https" if gate.listener.tls else b"http")
        self.http2: Http2Server | None = None
        """The codec, where it is one for many exchanges at a time."""
        self._first: bytes | None = None if gate.listener.tls else b""
        """Octets that may become the preface of HTTP/2 (RFC 9113 3.4); None once it is known what is spoken."""
        self.principal = ANONYMOUS.name if gate.listener.tls else gate.relay.snapshot.identity
        """Whom policy is asked about: the certificate's SPIFFE ID, or our own module on a plain listener."""
        self.peer: Peer | None = None
        self.transport: asyncio.Transport
        self._exchanges: dict[int, Exchange] = {}
        self._moved: list[Exchange] = []
        """Exchanges whose upstream may have something to be written."""
        self._alarm = Alarm(gate.relay.loop, self._rang)
        self._head_since = accepted_at
        self._idle_since = accepted_at
        self._tls_s = 0.0
        self._origin: Field | None = None
        self._reading = True
        self._ending = _OPEN
        self._lost = False
        self._watched = -1
        """What `Leavers` know us by, while we are not read."""
        self._used = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there, and TLS where the listener speaks it: who calls is settled before an octet is read."""
        transport = cast("asyncio.Transport", transport)  # uvloop's transports are not registered as asyncio's
        self.transport = transport
        gate = self._gate
        transport.set_write_buffer_limits(WRITE_HIGH_OCTETS)
        now = time.monotonic()
        if gate.listener.tls:
            self._tls_s = now - self._head_since
            try:
                self.peer, protocol = gate.authenticate(transport)
            except SvidError as error:
                gate.refused(error)
                self._ending = _CLOSING  # what came with the end of the handshake is not read
                transport.abort()
                return
            self.principal = self.peer.principal.name
            if self._source:
                gate.sources.prove(self._source)
            name = transport.get_extra_info("peername")
            if name:
                host = f'"[{name[0]}]"' if ":" in name[0] else name[0]
                self._origin = field(b"forwarded", b"for=%b;proto=https" % host.encode())
            if protocol == HTTP2:
                self._speak_http2(b"https")
        gate.connections.add(self)
        self._head_since = self._idle_since = now
        self._alarm.by(now + self._patience(), now)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where octets from the caller go."""
        del sizehint
        return INBOX

    def buffer_updated(self, nbytes: int) -> None:
        """Octets from the caller, over plain TCP."""
        self.received(bytes(INBOX[:nbytes]))

    def received(self, data: bytes) -> None:
        """Octets from the caller."""
        if self._ending:
            return
        now = time.monotonic()
        if self._first is not None:
            data = self._first + data
            if PREFACE.startswith(data[: len(PREFACE)]) and len(data) < len(PREFACE):
                self._first = data  # its beginning could still be that of a request in HTTP/1.1
                return
            self._first = None
            if data.startswith(PREFACE):
                self._speak_http2(b"http")
            elif _is_no_http(data):
                self._gate.recorder.refused(self._gate.listener.name, self.principal, Fault.MALFORMED, None, 0, 0.0)
                self._close(now)
                return
        if self.http2 is not None:
            self.http2.tick(now)
        self.codec.receive(data)
        self.pump(now)

    def _speak_http2(self, scheme: bytes) -> None:
        self.codec = self.http2 = Http2Server(self.relay.limits, scheme, self._gate.bounds)
        self.transport.write(self.codec.take())

    def eof_received(self) -> bool:
        """The caller will send no more; what it asked for is still answered where the transport can (plain TCP)."""
        if self._first:
            self.codec.receive(self._first)
        self._first = None
        self.codec.receive_eof()
        self.pump(time.monotonic())
        return bool(self._exchanges) and self.peer is None

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone: everything it asked for stops."""
        del exc
        self._lost = True
        self._alarm.stop()
        self._gate.connections.discard(self)
        self.relay.leavers.forget(self._watched, self.transport)
        if self._source:
            self._gate.sources.leave(self._source, proven=self.peer is not None)
        if self.http2 is not None:
            self._gate.count_bounds(self.http2.counts)
        now = time.monotonic()
        for exchange in list(self._exchanges.values()):
            exchange.splice.reset(Fault.CALLER_GONE)
            self.settle(exchange, now)

    def pause_writing(self) -> None:
        """The write buffer is above its mark: no credit to the upstream."""
        self.codec.stall(True)

    def resume_writing(self) -> None:
        """The write buffer has drained: credit flows again."""
        self.codec.stall(False)
        self.pump(time.monotonic())

    # The work.

    def pump(self, now: float) -> None:
        """Carries out what the caller has said, until it has said no more; then writes once to every socket touched.

        Credit for what a socket took is due only then, and may let the other side say more.
        """
        codec = self.codec
        exchanges = self._exchanges
        while True:
            while events := codec.events():
                spoken: Exchange | None = None
                for event in events:
                    if type(event) is RequestHead:
                        exchange = self._begin(event, now)
                    else:
                        exchange = exchanges.get(event.stream)
                        if exchange is not None:
                            exchange.active_at = now
                            exchange.splice.from_down(event)
                        elif type(event) is Reset and not codec.closing and (self.http2 is None or event.fault is not Fault.CALLER_GONE):
                            self._refuse(event.stream, event.fault, None)
                    if exchange is not spoken:
                        if spoken is not None:
                            self.settle(spoken, now)
                        spoken = exchange
                if spoken is not None:
                    self.settle(spoken, now)
            self._flush(now)
            if codec.owed and codec.repay():
                continue
            if not self._moved:
                return
            # After all is said: credit that came back meanwhile keeps a socket reading that would have stopped for nothing.
            moved = self._moved
            self._moved = []
            more = False
            for exchange in moved:
                if exchange.up is not None and exchange.up.flush():
                    self.settle(exchange, now)
                    more = True
            if not more:
                return

    def settle(self, exchange: Exchange, now: float) -> None:
        """Carries out what the upstream of `exchange` has said; when that ends the exchange, it is over and recorded.

        Its upstream is written to when the connection is pumped next.
        """
        up = exchange.up
        splice = exchange.splice
        if up is not None:
            events = up.codec.events()
            if events:
                splice.from_up(events, now)
        if not splice.deaf:
            self._moved.append(exchange)
            return
        if not splice.done:
            exchange.repeat(now)
            self._moved.append(exchange)
        elif self._exchanges.pop(splice.stream, None) is not None:
            exchange.finish(now)
            self._gate.recorder.exchange(splice, now, self._tls_s)
            splice.release()
            self._tls_s = 0.0
            self._idle_since = now

    def _begin(self, head: RequestHead, now: float) -> Exchange | None:
        """A head is complete: it is validated, decided on, and sent on its way or answered."""
        fault = None if head.vetted else validate(head)
        if fault is None and head.protocol:
            fault = Fault.UPGRADE_REFUSED
        if fault is not None:
            if self.http2 is None:
                self.codec.last()
            self._refuse(head.stream, fault, head)
            return None
        self._used = True
        relay = self.relay
        snapshot = relay.snapshot
        spoken: Mapped | None = None
        shown: list[Field] | None = None
        if self._gate.translates and not head.grpc:
            spoken = translated.spoken(head, snapshot)
            pages = snapshot.pages
            if pages is not None:
                told = pages.beforehand(head)
                if told is not None:
                    splice = translated.told(self.codec, head, told, snapshot.beforehand(self._gate.listener.name, self.principal), now)
                    self._gate.recorder.exchange(splice, now, self._tls_s)
                    self._tls_s = 0.0
                    return None
                shown = pages.shown(head)
        expects = False
        length = head.length
        if spoken is not None:
            for line in head.special:
                if line.kind == EXPECT:
                    expects = True
            head = translated.call_head(spoken.head, head.stream)
        decide_s = 0.0
        decision = head.decided
        if decision is None or decision.epoch != snapshot.epoch:
            facts = snapshot.facts(self._gate.listener.name, self.principal, head)
            decision = snapshot.flows.get(facts)
        if decision is None or decision.expires_at <= now:
            relay.misses += 1
            begun = time.perf_counter()
            facts = snapshot.facts(self._gate.listener.name, self.principal, head)
            decision = decide(facts, snapshot, now)
            snapshot.remember(facts, decision)
            decide_s = time.perf_counter() - begun
        else:
            relay.hits += 1
        head.decided = decision
        trace = relay.traced(head.trace, now) if relay.traces or not head.trace else b""
        dialects = snapshot.dialects
        behind = translated.behind(head, dialects, decision) if head.grpc and self._gate.translates else None
        splice = translated.splice_of(
            self.codec, head, decision, spoken, shown, length, now, trace, self._origin, relay.limits, behind, dialects
        )
        splice.decide_s = decide_s
        exchange = Exchange(self, splice, now)
        self._exchanges[head.stream] = exchange
        if relay.draining:
            self.codec.last()
        action = decision.action
        if isinstance(action, Reply):
            splice.fail(action.fault)
        elif dialects is not None and spoken is not None and spoken.refused is not None:
            dialects.turn_away(splice, spoken.refused)
        else:
            if expects:
                self.codec.send(ResponseHead(head.stream, 100, [], 0))  # it is asked of us here: gRPC has no such thing
            look_at = exchange.start(action, now)
            if look_at < self._alarm.rings_at:
                self._alarm.by(look_at, now)
        return exchange

    def _refuse(self, stream: int, fault: Fault, head: RequestHead | None) -> None:
        """Answers what cannot even be decided on, which ends a connection that has one exchange at a time."""
        octets = 0
        if fault is not Fault.CALLER_GONE:
            if head is not None and is_call(head):
                answer_call(self.codec, stream, head, fault)
            else:
                octets = answer(self.codec, stream, fault, b"", b"")
        else:
            self.codec.send(Reset(stream, fault))
        self._gate.recorder.refused(self._gate.listener.name, self.principal, fault, head, octets, self._tls_s)
        self._tls_s = 0.0

    def _flush(self, now: float) -> None:
        codec = self.codec
        octets = codec.take()
        if self._lost:
            return
        if octets:
            self.transport.write(octets)
        if codec.closing:
            self._end(now)
        elif codec.reading != self._reading:
            self._reading = codec.reading
            if self._reading:
                self.transport.resume_reading()
                self.relay.leavers.forget(self._watched, self.transport)
            else:
                self.transport.pause_reading()
                self._watched = self.relay.leavers.watch(self.transport, half=self.peer is not None)
                for exchange in self._exchanges.values():
                    exchange.held = True
        if not self._exchanges and codec.started:
            self._rest(now)

    def _rest(self, now: float) -> None:
        """Between exchanges: a head that has begun must be completed, an idle connection ends some time."""
        if self._ending:
            return
        if self.codec.started:
            if self._head_since <= self._idle_since and self._used:
                self._head_since = now
            self._alarm.by(self._head_since + self.relay.timeouts.header_s, now)
        else:
            self._alarm.by(self._idle_since + self._patience(), now)

    def _patience(self) -> float:
        """Seconds that an idle connection is kept."""
        if self.relay.draining:
            return self.relay.linger_s
        return self.relay.timeouts.keepalive_s if self._used else self.relay.timeouts.header_s

    def _end(self, now: float) -> None:
        """Closes: gently after an answer, so that a caller still sending gets to read it; hard where only that tells the truth."""
        if self._ending:
            return
        if self.codec.truncated:
            self.transport.abort()
        elif self.codec.lingers:
            self._ending = _LINGERING
            if not self._reading:
                self._reading = True
                self.transport.resume_reading()
                self.relay.leavers.forget(self._watched, self.transport)
            if self.peer is None:
                self.transport.write_eof()
            self._alarm.by(now + _LINGER_S, now)
        else:
            self._close(now)

    def _close(self, now: float) -> None:
        """Closes once everything is written, which a caller that does not read cannot put off for ever."""
        self._ending = _CLOSING
        self.transport.close()
        self._alarm.by(now + self.relay.timeouts.body_idle_s, now)

    # Time.

    def _rang(self, due: float) -> None:
        now = max(due, time.monotonic())
        if self._lost:
            return
        if self._ending == _LINGERING:
            self._close(now)
        elif self._ending == _CLOSING:
            self.transport.abort()
        elif self._exchanges:
            look = _NEVER
            for exchange in list(self._exchanges.values()):
                look = min(look, exchange.due(now))
                self.settle(exchange, now)
            self.pump(now)
            if self._exchanges:
                self._alarm.by(min(look, now + self.relay.linger_s) if self.relay.draining else look, now)
            else:
                self._rest(now)
        elif self.codec.started:
            if now >= self._head_since + self.relay.timeouts.header_s:
                self.codec.fail(Fault.REQUEST_TIMEOUT)
                self.pump(now)
            else:
                self._rest(now)
        elif now >= self._idle_since + self._patience():
            if self.http2 is None:
                self._close(now)
            else:
                self.http2.drain()
                self._flush(now)
        else:
            self._rest(now)

    def drain(self, now: float) -> None:
        """The sidecar ends: the next response says that it is the last one; an idle connection goes after a moment.

        A response whose head is out cannot say so any more: a request may follow it, which then is the last (`_begin`).
        """
        if self.http2 is not None or any(not exchange.splice.status for exchange in self._exchanges.values()):
            self.codec.last()
            self._flush(now)
        self._idle_since = max(self._idle_since, now)  # a request may be on its way, however long none came
        self._alarm.by(now + self.relay.linger_s, now)

    def cut(self) -> None:
        """Ends the connection at once: the credential behind it is void."""
        self.transport.abort()

    def exchanges(self) -> list[Exchange]:
        """Those in progress."""
        return list(self._exchanges.values())

    @property
    def busy(self) -> bool:
        """Whether an exchange is in progress."""
        return bool(self._exchanges)

    def describe(self) -> dict[str, object]:
        """For `/connections`."""
        peername = self.transport.get_extra_info("peername")
        return {
            "peer": f"{peername[0]}:{peername[1]}" if isinstance(peername, tuple) and len(peername) >= 2 else "",
            "principal": self.principal,
            "exchanges": len(self._exchanges),
        }


def _is_no_http(data: bytes) -> bool:
    """Whether a connection begins with a line that no HTTP can begin with: an answer in HTTP would not be understood (RFC 9113 3.4)."""
    line, end, _ = data.lstrip(b"\r\n").partition(b"\r\n")
    return bool(end) and b"/" not in line

"""Codecs in memory: playbooks, every way to cut octets, and a whole sidecar without a socket.

    talk = Playbook(Http1Server(Limits(), b"http"))
    talk >> b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"       octets (or an event, or EOF) in
    talk << [("request", ...), ("end", ())]             what the codec says, in plain tuples
    talk << b"HTTP/1.1 200 OK\r\n..."                   what it would write

`Wire` joins a server codec, the validator, a splice and client codecs as the runtime does; what goes out to each upstream
connection is kept, so that an oracle (`support.oracles`) can say how someone else reads it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pprint import pformat

from flui.answer import answer
from flui.codecs.base import Codec
from flui.codecs.http1 import Http1Client, Http1Server
from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.decision import Decision, Forward, Why
from flui.model.events import UNKNOWN, Credit, Data, End, Event, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import HOST, Field
from flui.model.topology import Target
from flui.splice import Splice

EOF = object()
"""Said to a playbook: the peer will send no more."""

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
DECISION = Decision(
    Forward((Target("up"),), timeout_s=0.0, idle_timeout_s=0.0, key=None, add=(), deadline=None, keep_forwarded=False),
    Why("outbound", "up", "all", "test", "spiffe://shop/web"),
    float("inf"),
    ("outbound", "up", "all", "spiffe://shop/web", "test"),
    b"",
)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def pairs(fields: Iterable[Field]) -> tuple[tuple[bytes, bytes], ...]:
    """Names and values; Host is told as the authority."""
    return tuple((f.name, f.value) for f in fields if f.kind != HOST)


def plain(events: Iterable[Event]) -> list[tuple]:
    """Events as tuples that can be compared and shown; neighbouring Data is joined, because its borders mean nothing."""
    told: list[tuple] = []
    for e in events:
        if isinstance(e, RequestHead):
            told.append(("request", e.stream, e.method, e.authority, e.path + e.query, pairs([*e.fields, *(e.extra or ())]), e.length))
        elif isinstance(e, ResponseHead):
            told.append(("response", e.stream, e.status, pairs(e.fields), e.length))
        elif isinstance(e, Data):
            assert e.chunk, "Data is never empty"
            if told and told[-1][:2] == ("data", e.stream):
                told[-1] = ("data", e.stream, told[-1][2] + e.chunk)
            else:
                told.append(("data", e.stream, bytes(e.chunk)))
        elif isinstance(e, End):
            told.append(("end", e.stream, pairs(e.trailers or ())))
        elif isinstance(e, Reset):
            told.append(("reset", e.stream, e.fault))
        else:
            told.append(("credit", e.stream, e.octets))
    return told


class Playbook:
    """A conversation with one codec. A mismatch shows both sides; `done` fails if something was said that nobody expected."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._told: list[tuple] = []
        self._octets = b""

    def __rshift__(self, said: object) -> Playbook:
        """Octets, an event, several of either, or EOF go in."""
        if said is EOF:
            self.codec.receive_eof()
        elif isinstance(said, bytes):
            self.codec.receive(said)
        elif isinstance(said, list):
            for one in said:
                self >> one
        else:
            self.codec.send(said)
        return self

    def __lshift__(self, expected: object) -> Playbook:
        """Octets: all that `take` has. A list of tuples: all that `events` has, Credit left out unless it is expected."""
        if isinstance(expected, bytes):
            got: object = self.codec.take()
        else:
            got = plain(self.codec.events())
            if not any(e[0] == "credit" for e in expected):
                got = [e for e in got if e[0] != "credit"]
        if got != expected:
            lines = difflib.ndiff(_lines(expected), _lines(got))
            raise AssertionError("expected (-) and what came (+):\n" + "\n".join(lines))
        return self

    def done(self) -> None:
        """Nothing is left unsaid."""
        self << b"" << []


def _lines(value: object) -> list[str]:
    return [repr(line) for line in value.splitlines(keepends=True)] if isinstance(value, bytes) else pformat(value, width=120).splitlines()


def request(
    stream: int,
    method: bytes = b"GET",
    target: bytes = b"/",
    fields: Sequence[tuple[bytes, bytes]] = (),
    length: int = 0,
    authority: bytes = b"a",
) -> tuple:
    """A request head, as `plain` tells it."""
    return ("request", stream, method, authority, target, tuple(fields), length)


def response(stream: int, status: int = 200, fields: Sequence[tuple[bytes, bytes]] = (), length: int = 0) -> tuple:
    """A response head, as `plain` tells it."""
    return ("response", stream, status, tuple(fields), length)


def data(stream: int, chunk: bytes) -> tuple:
    return ("data", stream, chunk)


def end(stream: int, *trailers: tuple[bytes, bytes]) -> tuple:
    return ("end", stream, trailers)


def reset(stream: int, fault: Fault) -> tuple:
    return ("reset", stream, fault)


def hear(codec: Codec, pieces: Iterable[bytes], *, eof: bool = False) -> list[tuple]:
    """All that `codec` says about octets that come in pieces, with credit for whatever it hands on."""
    told: list[Event] = []

    def listen() -> None:
        while events := codec.events():
            told.extend(events)
            for e in events:
                if isinstance(e, Data):
                    codec.send(Credit(e.stream, len(e.chunk)))

    for piece in pieces:
        codec.receive(piece)
        listen()
    if eof:
        codec.receive_eof()
        listen()
    return plain(e for e in told if not isinstance(e, Credit))


def cuts(octets: bytes) -> Iterator[list[bytes]]:
    """The octets whole, one by one, and cut in two at every place."""
    yield [octets]
    yield [octets[at : at + 1] for at in range(len(octets))]
    for at in range(1, len(octets)):
        yield [octets[:at], octets[at:]]


@dataclass
class Told:
    """One request as it was authorised, and as it was sent on."""

    method: bytes
    target: bytes
    host: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    length: int
    body: bytearray = field(default_factory=bytearray)
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    whole: bool = False


class Wire:
    """A sidecar without sockets. Upstream answers each whole request with `respond`'s octets; empty: it says nothing."""

    def __init__(
        self,
        limits: Limits | None = None,
        respond: Callable[[Told], bytes] = lambda _: OK,
        *,
        eof_after: bool = False,
        scheme: bytes = b"http",
    ) -> None:
        self.limits = limits or Limits()
        self.down = Http1Server(self.limits, scheme)
        self.ups: list[Http1Client] = []
        self.sent: list[bytearray] = []
        """What each upstream connection was sent."""
        self.told: list[list[Told]] = []
        """What was authorised, for each upstream connection."""
        self.back = bytearray()
        """What the caller was sent."""
        self.heads = 0
        """Requests whose head was read."""
        self.refused: list[Fault] = []
        self.splice: Splice | None = None
        self._respond = respond
        self._eof_after = eof_after
        self._answered = False

    def receive(self, octets: bytes) -> None:
        """The caller says something."""
        if not self.down.closing:
            self.down.receive(octets)
            self.pump()

    def receive_eof(self) -> None:
        """The caller will say no more."""
        self.down.receive_eof()
        self.pump()

    def upstream_says(self, octets: bytes, *, eof: bool = False) -> None:
        """The endpoint at work says something."""
        self.ups[-1].receive(octets)
        if eof:
            self.ups[-1].receive_eof()
        self.pump()

    def pump(self) -> None:
        """Carries everything to where it belongs."""
        moved = True
        while moved:
            moved = False
            for e in self.down.events():
                moved = True
                self._from_down(e)
            splice = self.splice
            if splice is not None:
                up = self.ups[-1]
                for e in up.events():
                    moved = True
                    splice.from_up([e], 0.0)
                self.sent[-1] += up.take()
                moved |= up.repay()
                if splice.request_ended and not splice.done and not self._answered:
                    octets = self._respond(self.told[-1][-1])
                    if octets:
                        self._answered = moved = True
                        up.receive(octets)
                        if self._eof_after:
                            up.receive_eof()
                if splice.done:
                    self.splice = None
                    moved = True
            self.back += self.down.take()
            moved |= self.down.repay()

    def _from_down(self, e: Event) -> None:
        if isinstance(e, RequestHead):
            assert self.splice is None, "one exchange at a time"
            self.heads += 1
            fault = validate(e)
            if fault is not None:
                self.refused.append(fault)
                self.down.last()
                answer(self.down, e.stream, fault, b"", b"")
            else:
                self._begin(e)
            return
        if self.splice is None:
            if isinstance(e, Reset):
                self.refused.append(e.fault)
                if e.fault is Fault.CALLER_GONE:
                    self.down.send(e)
                else:
                    answer(self.down, e.stream, e.fault, b"", b"")
            return
        told = self.told[-1][-1]
        if isinstance(e, Data):
            told.body += e.chunk
        elif isinstance(e, End):
            told.whole = True
            told.trailers = pairs(e.trailers or ())
        elif isinstance(e, Reset):
            self.refused.append(e.fault)
        self.splice.from_down(e)

    def _begin(self, head: RequestHead) -> None:
        if not self.ups or not self.ups[-1].reusable:
            self.ups.append(Http1Client(self.limits))
            self.sent.append(bytearray())
            self.told.append([])
        self._answered = False
        splice = self.splice = Splice(self.down, head, DECISION, 0.0, TRACE, None)
        splice.attach(self.ups[-1], 0.0)
        fields = pairs([*head.fields, *(head.extra or ())])
        self.told[-1].append(Told(head.method, head.path + head.query, head.authority, fields, head.length))

    def held(self) -> int:
        """Octets that codecs and splice hold."""
        held = len(self.down._in) + sum(len(o) for o in self.down._out)
        for up in self.ups:
            held += len(up._in) + sum(len(o) for o in up._out)
        if self.splice is not None:
            held += sum(len(e.chunk) for e in self.splice._kept or () if isinstance(e, Data))
        return held


def head(method: bytes = b"GET", path: bytes = b"/", length: int = 0, fields: Sequence[Field] = (), authority: bytes = b"a") -> RequestHead:
    """A request head as the validator leaves it, to be sent."""
    made = RequestHead(1, method, b"http", authority, path, b"", list(fields), length)
    made.host = authority
    made.trace = made.key = b""
    made.deadline = made.priority = -1
    made.attempt = 1
    made.repeatable = False
    made.forwarded = None
    return made


__all__ = [
    "DECISION",
    "EOF",
    "OK",
    "TRACE",
    "UNKNOWN",
    "Playbook",
    "Told",
    "Wire",
    "cuts",
    "data",
    "end",
    "head",
    "hear",
    "pairs",
    "plain",
    "request",
    "reset",
    "response",
]

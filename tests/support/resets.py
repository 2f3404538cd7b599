"""A service that breaks off at every stage of an exchange, callers that notice every octet, and a ledger of what was seen.

    ledger = Ledger(seed, share=0.5)             half of what arrives breaks off somewhere
    backend = await mesh.backend(ledger.serve)   one of its endpoints
    tally = await storm(web.outbound, count=10_000, callers=64)

Each request carries a number of its own (`x-number`), a body made from that number, and gets an answer made from that number
and from how often it was seen by then: an answer, or a request, put together from two tries cannot go unnoticed.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from itertools import count as counting

from flui.model.topology import Address
from flui.upstream.connection import Shared
from support.mesh import Backend, Caller, Request, Side, until

STAGES = ("unread", "head", "body", "request", "answer head", "answer body", "stale")
"""Where it breaks off. `unread`: the connection, before anything of a request is read. `stale`: the answer is fine, and the
connection ends when the next request comes on it."""
KINDS = ("GET", "PUT", "DELETE", "POST", "POST with key")
IDEMPOTENT = frozenset(("GET", "PUT", "DELETE", "POST with key"))
SIZES = (0, 1_000, 1_024, 64 << 10, 200 << 10)
CAP = 64 << 10
"""Octets of body that are kept for sending again, by default."""


def reset(writer: asyncio.StreamWriter) -> None:
    """RST, whatever is in flight."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def pattern(what: bytes, size: int) -> bytes:
    """`size` octets, every 16 of which tell whose they are, and every 1024 where they belong."""
    unit = b"%-15b|" % what
    return b"".join(b"%-9b.%05x|" % (what, at) + unit * 63 for at in range(size // 1024 + 1))[:size]


@dataclass
class Ask:
    """One request as its caller makes it."""

    number: int
    kind: str
    size: int
    chunked: bool

    @property
    def body(self) -> bytes:
        return pattern(b"q%d" % self.number, self.size)

    def octets(self, host: bytes) -> bytes:
        method = self.kind.split()[0].encode()
        head = b"%b /items/%d HTTP/1.1\r\nhost: %b\r\nx-number: %d\r\nx-size: %d\r\n" % (
            method,
            self.number % 50,
            host,
            self.number,
            self.size,
        )
        if self.kind == "POST with key":
            head += b"idempotency-key: k%d\r\n" % self.number
        body = self.body
        if self.chunked:
            head += b"transfer-encoding: chunked\r\n"
            pieces = [body[at : at + 10_007] for at in range(0, len(body), 10_007)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif method != b"GET":
            head += b"content-length: %d\r\n" % len(body)
        return head + b"\r\n" + body


def ask(number: int) -> Ask:
    """The request of a number: every kind with every size and framing, equally often."""
    kind = KINDS[number % len(KINDS)]
    number_of_kind = number // len(KINDS)
    size = 0 if kind == "GET" else SIZES[number_of_kind % len(SIZES)]
    chunked = kind != "GET" and number_of_kind // len(SIZES) % 2 == 1
    return Ask(number, kind, size, chunked)


@dataclass
class Ledger:
    """What the endpoints of one service saw, and how they treated it."""

    seed: int
    share: float
    """Part of what arrives that breaks off."""
    stages: tuple[str, ...] = STAGES
    service_s: float = 0.0
    seen: Counter[int] = field(default_factory=Counter)
    """How often each number's head was read, whatever became of it."""
    broken: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    """Requests seen that say of themselves that they are a second try or a later one."""
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @property
    def tries(self) -> int:
        """All that was sent here: what was seen, and what met a connection that broke off before it was read."""
        return sum(self.seen.values()) + sum(count for end, count in self.broken.items() if end.startswith(("unread", "stale")))

    def _fate(self) -> str:
        return self._random.choice(self.stages) if self._random.random() < self.share else "fine"

    def _break(self, writer: asyncio.StreamWriter, stage: str) -> bool:
        hard = self._random.random() < 0.5
        self.broken[f"{stage}, {'RST' if hard else 'FIN'}"] += 1
        if hard:
            reset(writer)
        else:
            writer.close()
        return False

    async def _unread(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stage: str) -> bool:
        if await reader.read(1):
            return self._break(writer, stage)
        return False

    async def serve(self, backend: Backend, request: Request | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """See `support.mesh.Behaviour`."""
        if request is None:
            # Few connections are opened where few break: this stage is drawn once for each of them.
            if "unread" in self.stages and self._random.random() < self.share / len(self.stages):
                if self._random.random() < 0.5:
                    return self._break(writer, "accepted")
                return await self._unread(reader, writer, "unread")
            return True
        backend.requests.clear()
        number = int(request.get(b"x-number") or b"")
        self.seen[number] += 1
        again = int(request.get(b"flui-attempt") or b"1") > 1
        self.retries += again
        goes_on = await self._answer(number, self.seen[number], request, reader, writer)
        return await self._unread(reader, writer, "stale") if goes_on is None else goes_on

    async def _answer(
        self, number: int, hit: int, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool | None:
        """Whether the connection goes on; None: until the next request."""
        fate = self._fate()
        size = int(request.get(b"x-size") or b"")
        if fate == "unread":
            fate = "head"
        if fate == "head":
            return self._break(writer, fate)
        if fate == "body" and size:
            await reader.readexactly(min(size // 2, 40_000))
            return self._break(writer, fate)
        body = await self._body(request, reader)
        if body != pattern(b"q%d" % number, size):
            self.wrong.append(f"request {number}: {len(body)} octets, not its own {size}")
        if self.service_s:
            await asyncio.sleep(self.service_s)
        if fate in {"request", "body"}:
            return self._break(writer, "request")
        size = (0, 40, 5_000, 150_000)[number % 4]
        head = b"HTTP/1.1 200 OK\r\nx-number: %d\r\nx-hit: %d\r\n" % (number, hit)
        body = pattern(b"a%d.%d" % (number, hit), size)
        chunked = number % 3 == 0
        head += b"transfer-encoding: chunked\r\n\r\n" if chunked else b"content-length: %d\r\n\r\n" % size
        if chunked:
            body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[at : at + 9_973] for at in range(0, size, 9_973))) + b"0\r\n\r\n"
        if fate == "answer head":
            writer.write(head[: len(head) // 2])
            return self._break(writer, fate)
        if fate == "answer body" and size:
            writer.write(head + body[: len(body) // 2])
            await writer.drain()
            return self._break(writer, fate)
        writer.write(head + body)
        if fate == "stale":
            await writer.drain()
            return None
        return True

    @staticmethod
    async def _body(request: Request, reader: asyncio.StreamReader) -> bytes:
        if not request.get(b"transfer-encoding"):
            return await reader.readexactly(int(request.get(b"content-length") or b"0"))
        body = bytearray()
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return bytes(body)


@dataclass
class Tally:
    """What the callers got."""

    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})
    """By kind: `200`, `cut` (200, and then broken off), or another status."""
    failed: list[Ask] = field(default_factory=list)
    """Those that ended in a status other than 200."""
    wrong: list[str] = field(default_factory=list)

    def total(self, outcome: str) -> int:
        return sum(outcomes[outcome] for outcomes in self.outcomes.values())


def _check(asked: Ask, status: int, hit: bytes | None, number: bytes | None, body: bytes, complete: bool, tally: Tally) -> None:
    if status != 200:
        return
    size = (0, 40, 5_000, 150_000)[asked.number % 4]
    whole = pattern(b"a%d.%d" % (asked.number, int(hit or b"0")), size)
    if number != b"%d" % asked.number or (body != whole if complete else not whole.startswith(body) or (size and body == whole)):
        tally.wrong.append(f"answer to {asked.number} ({asked.kind}): hit {hit!r}, number {number!r}, {len(body)} octets, {complete=}")


async def storm(to: Address, *, count: int, callers: int, host: bytes = b"stock") -> Tally:
    """`count` requests over `callers` connections, each of which asks as soon as it was answered."""
    tally = Tally()
    numbers = counting()

    async def one() -> None:
        caller = await Caller.to(to)
        while (number := next(numbers)) < count:
            asked = ask(number)
            caller.writer.write(asked.octets(host))  # an answer may come before all of it is sent: no drain
            answer = await caller.answer()
            _check(asked, answer.status, answer.get(b"x-hit"), answer.get(b"x-number"), answer.body, answer.complete, tally)
            outcome = str(answer.status) if answer.complete or answer.status != 200 else "cut"
            tally.outcomes[asked.kind][outcome] += 1
            if answer.status != 200:
                tally.failed.append(asked)
            # Who is answered before all of its body was taken cannot tell whether the connection goes on.
            if not answer.complete or answer.get(b"connection") == b"close" or (answer.status != 200 and asked.size):
                caller.abort()
                caller = await Caller.to(to)
        caller.close()

    await asyncio.gather(*(one() for _ in range(callers)))
    return tally


def borrowed(side: Side) -> dict[str, object]:
    """What the sidecar's exchanges still hold of its pools; empty when everything was given back."""
    held: dict[str, object] = {}
    for name, pool in side.running.relay.pools.by_name.items():
        found = {
            "budget": pool.guard.budget.used,
            "active": pool.active,
            "members": sum(abs(member.active) for member in pool.members.values()),
            "pending": pool.pending,
            "busy": sum(c.busy if isinstance(c, Shared) else c.owner is not None for c in pool._all),
        }
        if any(found.values()):
            held[name] = found
    exchanges = sum(len(connection.exchanges()) for gate in side.running.gates for connection in gate.connections)
    copies = len(side.running.relay.extras.mirrors)
    if exchanges or copies:
        held["exchanges"] = exchanges
        held["copies"] = copies
    return held


async def rested(side: Side, timeout_s: float = 5.0) -> None:
    """Waits until nothing is borrowed any more; fails with what is, and with what was said that nobody expects."""
    try:
        await until(lambda: not borrowed(side), "all is given back", timeout_s)
    except AssertionError:
        raise AssertionError(f"still borrowed: {borrowed(side)}") from None
    for event in ("unexpected error", "task failed", "chore failed"):
        assert not side.said(event), side.said(event)

"""Three services in a row, each a module behind its own sidecar, that note when they begin and what time they were given.

    caller ─▶ web ─▶ orders ─▶ module ─▶ orders ─▶ stock ─▶ module ─▶ stock ─▶ depot ─▶ module
              out    in        works      out       in       works     out      in       works

A module hands on what is left of the `flui-deadline` it was given. It works to the end of its work whatever happens to its caller,
and calls on even when nothing is left: what is not begun then was stopped by a sidecar.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from support.mesh import Backend, Caller, Mesh, Request, Side

NAMES = ("orders", "stock", "depot")


@dataclass(frozen=True)
class Start:
    """A module has begun to work on a request."""

    number: int
    at: float
    """Monotonic seconds."""
    left_ms: int
    """Its flui-deadline; -1: it was given none."""


@dataclass
class Hop:
    """One of the services."""

    name: str
    works_s: Callable[[int], float]
    """How long it works on a request before it calls on, by the request's number."""
    starts: list[Start] = field(default_factory=list)
    refused: int = 0
    """Calls of its own that were answered 504 at once, as nothing was left."""
    outbound: Callable[[], Side] | None = None
    host: str = ""

    async def serve(self, backend: Backend, request: Request | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """See `support.mesh.Behaviour`."""
        if request is None:
            return True
        began = time.monotonic()
        number = int(request.get(b"x-number") or b"")
        left_ms = int(request.get(b"flui-deadline") or b"-1")
        self.starts.append(Start(number, began, left_ms))
        await asyncio.sleep(self.works_s(number))
        status = 200
        if self.outbound is not None:
            left_ms = max(0, left_ms - int((time.monotonic() - began) * 1000))
            caller = await Caller.to(self.outbound().outbound)
            try:
                answer = await caller.ask(asked(number, self.host, left_ms))
            finally:
                caller.close()
            status = answer.status
            self.refused += not left_ms
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)
        return True


def asked(number: int, host: str, left_ms: int) -> bytes:
    return b"GET /items HTTP/1.1\r\nhost: %b\r\nx-number: %d\r\nflui-deadline: %d\r\n\r\n" % (host.encode(), number, left_ms)


@dataclass(frozen=True)
class Ask:
    """What a caller asked, and got."""

    number: int
    sent_at: float
    took_s: float
    status: int


class Chain:
    """The three services, and the sidecar of their caller."""

    def __init__(self, mesh: Mesh, hops: list[Hop], sides: dict[str, Side]) -> None:
        self._mesh = mesh
        self.hops = hops
        self.sides = sides

    @classmethod
    async def start(cls, mesh: Mesh, works_s: tuple[Callable[[int], float], ...]) -> Chain:
        sides: dict[str, Side] = {}
        hops = [Hop(name, works) for name, works in zip(NAMES, works_s, strict=True)]
        callers = ("web", *NAMES)
        following: str | None = None
        for at in (2, 1, 0):
            hop = hops[at]
            services = ""
            if following is not None:
                hop.host = following
                hop.outbound = lambda name=hop.name: sides[name]
                services = f"  {following}: {{endpoints: ['{sides[following].inbound}']}}"
            rules = f"p, spiffe://shop/{callers[at]}, {{name}}, *, /*\n"
            sides[hop.name] = await mesh.sidecar(hop.name, app=await mesh.backend(hop.serve), rules=rules, services=services)
            following = hop.name
        sides["web"] = await mesh.sidecar("web", services=f"  orders: {{endpoints: ['{sides['orders'].inbound}']}}")
        return cls(mesh, hops, sides)

    async def ask(self, number: int, left_ms: int) -> Ask:
        """One request on a connection of its own; timed from its first octet to the last of the answer."""
        caller = await self._mesh.caller(self.sides["web"], None)
        try:
            sent_at = time.monotonic()
            answer = await caller.ask(asked(number, "orders", left_ms))
            return Ask(number, sent_at, time.monotonic() - sent_at, answer.status)
        finally:
            caller.close()

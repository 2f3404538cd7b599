"""Callers that keep asking a fleet, each on a connection that it keeps alive, and remember how every request ended.

Every request has an id of its own, is sent by its caller exactly once, whatever becomes of it, and its answer must name
that id, the octets of its body and a replica: an answer that belongs to another request, or is cut short, is no success.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from flui.model.topology import Address
from support.mesh import Answer, Caller

PATIENCE_S: Final = 10.0
LOST: Final = "lost"
"""The connection ended without an answer."""
CUT: Final = "cut"
"""The answer began, and its end did not come: the caller can tell."""
WRONG: Final = "wrong"
"""A whole answer that is not that of this request. There must never be one."""
LATE: Final = "late"
OK: Final = "ok"

IDEMPOTENT: Final = frozenset(("GET", "PUT", "KEYED"))
"""What may be sent again: by method, or by an idempotency-key."""
KINDS: Final = ("GET",) * 45 + ("PUT",) * 25 + ("KEYED",) * 5 + ("POST",) * 20 + ("PARTS",) * 5
"""PARTS: a GET whose answer takes its time to come. Once its head is passed on nobody can repeat it, so it only must never
be taken for a whole one when it is not."""
SIZES: Final = (0, 100, 1_000, 1_000, 20_000, 60_000)


@dataclass(slots=True)
class Asked:
    """One request and how it ended."""

    id: bytes
    kind: str
    began: float
    ended: float = 0.0
    outcome: str = ""
    """OK, one of the words above, or the status that was answered."""
    replica: str = ""

    @property
    def counts(self) -> bool:
        return self.kind != "PARTS"


class Traffic:
    """Callers at work."""

    def __init__(self, address: Address, *, callers: int = 24, wait_ms: int = 40, seed: int = 1) -> None:
        """Nobody asks yet.

        Args:
            address: Outbound listener.
            callers: Connections, each with one request at a time.
            wait_ms: The module works for 0 to so long at each request.
            seed: Of all chance.
        """
        self.address = address
        self.asked: list[Asked] = []
        self.refused = 0
        """Times that there was no connection to the sidecar, and nothing was sent."""
        self._callers = callers
        self._wait_ms = wait_ms
        self._seed = seed
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep_asking(number)) for number in range(self._callers)]

    async def stop(self) -> None:
        """Lets every request under way end."""
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _keep_asking(self, number: int) -> None:
        random = Random(self._seed * 1_000 + number)
        connection: Caller | None = None
        count = 0
        while not self._stop:
            if connection is None:
                connection = await self._connect(number)
                continue
            count += 1
            asked = Asked(b"%d-%d" % (number, count), random.choice(KINDS), time.monotonic())
            try:
                async with asyncio.timeout(PATIENCE_S):
                    answer = await self._ask(connection, asked, random)
            except TimeoutError:
                asked.outcome = LATE
            except (OSError, asyncio.IncompleteReadError):
                asked.outcome = LOST
            else:
                if answer.complete and answer.get(b"connection") != b"close":
                    self._note(asked)
                    continue
            self._note(asked)
            connection.abort()
            connection = None
        if connection is not None:
            connection.close()

    def _note(self, asked: Asked) -> None:
        asked.ended = time.monotonic()
        self.asked.append(asked)

    async def _connect(self, number: int) -> Caller | None:
        try:
            return await Caller.to(self.address)
        except OSError:
            self.refused += 1
            await asyncio.sleep(0.05 + 0.002 * number)  # a caller's own pause between two connects
            return None

    async def _ask(self, connection: Caller, asked: Asked, random: Random) -> Answer:
        method = b"POST" if asked.kind in {"POST", "KEYED"} else b"PUT" if asked.kind == "PUT" else b"GET"
        lines = [b"%b /items/%d HTTP/1.1" % (method, random.randrange(50)), b"host: orders", b"x-id: " + asked.id]
        lines.append(b"x-wait: %d" % random.randrange(self._wait_ms + 1))
        if asked.kind == "PARTS":
            lines.append(b"x-parts: 3")
        if asked.kind == "KEYED":
            lines.append(b"idempotency-key: " + asked.id)
        body = b"x" * random.choice(SIZES) if method != b"GET" else b""
        chunked = method != b"GET" and random.random() < 0.3
        if chunked:
            lines.append(b"transfer-encoding: chunked")
            wire = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        else:
            if method != b"GET":
                lines.append(b"content-length: %d" % len(body))
            wire = body
        octets = b"\r\n".join(lines) + b"\r\n\r\n" + wire
        cut = len(octets)
        if wire and random.random() < 0.3:
            cut -= random.randrange(len(wire)) + 1  # the rest of the body comes a little later
        await connection.send(octets[:cut])
        if cut < len(octets):
            await asyncio.sleep(0.01 * random.random())
            if not connection.writer.is_closing():  # if it is, an answer may have come before
                with contextlib.suppress(ConnectionError):
                    await connection.send(octets[cut:])
        answer = await connection.answer()
        if not answer.complete:
            asked.outcome = CUT
        elif answer.status != 200:
            asked.outcome = str(answer.status)
        else:
            said, octets_in, replica = answer.body.splitlines()[0].decode().split(" ")
            asked.replica = replica
            parts = 3 if asked.kind == "PARTS" else 1
            right = (said.encode(), int(octets_in), answer.body.count(b"\n")) == (asked.id, len(body), parts)
            asked.outcome = OK if right else WRONG
        return answer


def outcomes(asked: Iterable[Asked]) -> Counter[str]:
    return Counter(one.outcome for one in asked)

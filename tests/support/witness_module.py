"""A module that does what each request tells it to, and keeps count: for tests that compare what sidecars say with what happened.

    python witness_module.py NAME NOTES      prints its port; at the end of standard input writes what it saw, and ends

A request's own fields say what becomes of it:
    x-id      its name in the notes
    x-plan    one word for each try of that id, the last one for all that follow: `ok`, `reset` (the connection is reset before
              an answer), `cut` (reset in the middle of the body), `hold` (the answer waits until `release`)
    x-wait    milliseconds before the answer's head
    x-status  of the answer, if it is not 200; for the first tries only, as many as are listed: `503,200`
    x-size    octets of its body
    x-burn    milliseconds of processor time
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

CRLF = b"\r\n"


class Note:
    """One request as a module saw it, all times monotonic seconds: the clock that all processes of a machine share."""

    __slots__ = ("began", "connection", "ended", "fields", "id", "method", "name", "octets_in", "octets_out", "plan", "status", "target")

    def __init__(self, **members: Any) -> None:
        for name in self.__slots__:
            setattr(self, name, members.get(name))

    def members(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def trace(self) -> str:
        """Trace id of its traceparent."""
        return str(self.fields.get("traceparent", ""))[3:35]

    @property
    def inner_s(self) -> float:
        """From the head read to the last octet of the answer handed to the kernel: nobody before us can have been faster."""
        return float(self.ended - self.began)


class Witness:
    """A server of this kind. Several may share `tries`, so that a plan goes on at another one."""

    def __init__(self, name: str, tries: Counter[str] | None = None, *, plan: str = "ok", status: int = 200) -> None:
        """Nobody listens yet.

        Args:
            name: In the notes.
            tries: How often each id was seen; None: nobody else counts them.
            plan: Of requests that have none.
            status: The same.
        """
        self.name = name
        self._plan = plan
        self._status = str(status)
        self.notes: list[Note] = []
        self.accepted = 0
        """Connections."""
        self.held = 0
        """Requests whose answer waits for `release`."""
        self.open: set[asyncio.StreamWriter] = set()
        self._tries = Counter() if tries is None else tries
        self._gate = asyncio.Event()
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[Any]] = set()

    async def listen(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=1 << 17, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def release(self) -> None:
        """What is held is answered; what comes from now on is held anew."""
        gate, self._gate = self._gate, asyncio.Event()
        gate.set()

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        for writer in list(self.open):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        self.open.add(writer)
        number = self.accepted
        try:
            while await self._exchange(number, reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def _exchange(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        start, *lines = (await reader.readuntil(CRLF + CRLF))[:-4].decode("latin-1").split("\r\n")
        began = time.monotonic()
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        method, target, _ = start.split(" ")
        said = fields.get("x-id", "")
        attempt = self._tries[said]
        self._tries[said] += 1
        plan = _at(fields.get("x-plan", self._plan), attempt)
        note = Note(
            id=said, method=method, target=target, fields=fields, began=began, name=self.name, connection=number, plan=plan,
            octets_in=0, octets_out=0, status=0, ended=began,
        )  # fmt: skip
        self.notes.append(note)
        note.octets_in = await _body(fields, reader)
        _burn(int(fields.get("x-burn", "0")) / 1000)
        wait_s = int(fields.get("x-wait", "0")) / 1000
        if wait_s:
            await asyncio.sleep(wait_s)  # what the request asks for
        if plan == "hold":
            self.held += 1
            await self._gate.wait()
            self.held -= 1
        if plan == "reset":
            note.ended = time.monotonic()
            reset(writer)
            return False
        status = int(_at(fields.get("x-status", self._status), attempt))
        size = int(fields.get("x-size", "3"))
        body = bytes(size if plan != "cut" else size // 2)
        bodiless = status in {204, 304}
        head = f"HTTP/1.1 {status} Said\r\n" + ("" if bodiless else f"content-length: {size}\r\n") + "\r\n"
        note.status = status
        note.octets_out = 0 if bodiless or method == "HEAD" else len(body)
        note.ended = time.monotonic()
        writer.write(head.encode() + (body if note.octets_out else b""))
        await writer.drain()
        if plan == "cut":
            reset(writer)
            return False
        return fields.get("connection") != "close"


def _at(words: str, number: int) -> str:
    each = words.split(",")
    return each[min(number, len(each) - 1)]


async def _body(fields: dict[str, str], reader: asyncio.StreamReader) -> int:
    if "transfer-encoding" not in fields:
        return len(await reader.readexactly(int(fields.get("content-length", "0"))))
    octets = 0
    while size := int(await reader.readuntil(CRLF), 16):
        octets += len(await reader.readexactly(size))
        await reader.readexactly(2)
    while await reader.readuntil(CRLF) != CRLF:
        pass
    return octets


def _burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def reset(writer: asyncio.StreamWriter) -> None:
    """What is written already arrives first, if anything is; then the connection is reset, which no one takes for an end."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()


async def main(name: str, file: str) -> None:
    witness = Witness(name)
    print(await witness.listen(), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, ended.set)
    await ended.wait()
    told = {"accepted": witness.accepted, "notes": [note.members() for note in witness.notes]}
    Path(file).write_text(json.dumps(told))  # noqa: ASYNC240 - it is the last thing that is done
    await witness.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

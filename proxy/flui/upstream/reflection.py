"""Asks a module by gRPC's server reflection what it serves: over a connection of ours, and with no library.

    list_services ──▶ the file of each service that no file has told yet ──▶ each import that did not come along ──▶ Shape

`v1` is asked first, and `v1alpha` where that is UNIMPLEMENTED. One stream at a time, one question at a time, and when all is
known the stream is ended: a module that stops gracefully waits for nobody here. Everything is bounded: files, octets, services
and the time for all of it. What an import refers to and the module does not have stays out: whoever reads the files says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Final, NamedTuple

from flui.codecs import grpc_reflection
from flui.codecs.grpc import CONTENT_TYPE_GRPC
from flui.codecs.grpc_reflection import APART, PATHS, Outline, Told
from flui.framing.base import MessageLimits
from flui.framing.grpc import GrpcReader
from flui.model.events import UNKNOWN, Credit, Data, End, RequestHead, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import field
from flui.model.grpc import Status, call_status
from flui.model.units import MIB
from flui.upstream.connection import Upstream
from flui.upstream.shared import Shared

FILES: Final = 2_000
"""Files of one module."""
SERVICES: Final = 2_000
"""Services of one module."""
OCTETS: Final = 10 * MIB
"""Of all answers together."""
MESSAGE_OCTETS: Final = 4 * MIB
"""Of one answer."""
_END_S: Final = 0.5
"""How long the module may take to end the stream when we have."""
_AGENT: Final = field(b"user-agent", b"flui-reflection")


class Shape(NamedTuple):
    """What a module told of itself."""

    files: list[bytes]
    """Each a FileDescriptorProto, none twice, in the order of their names."""
    services: tuple[str, ...]
    """Full names, sorted; without those of gRPC's own libraries (reflection, health)."""
    octets: int
    """That all answers had together."""


class ReflectionError(Exception):
    """The module told nothing, or nothing that could be used. Its text is a plain sentence."""

    def __init__(self, text: str, *, absent: bool = False) -> None:
        super().__init__(text)
        self.absent = absent
        """It has no reflection, and says so: asking again is of no use before it is replaced."""


class _AbsentError(Exception):
    """This version of the service is UNIMPLEMENTED."""


async def ask(connection: Shared, host: bytes, timeout_s: float) -> Shape:
    """What the module at the other end serves. Cancelled, it leaves the connection as it was.

    Args:
        connection: Open, with room for one more exchange.
        host: Authority of the questions.
        timeout_s: Seconds for all of it.

    Raises:
        ReflectionError: The module has no reflection, broke off, took too long, or told what cannot be used.
    """
    try:
        async with asyncio.timeout(timeout_s):
            for path in PATHS:
                if not connection.has_room:
                    raise ReflectionError("the module takes no more calls on this connection")
                talk = _Talk(connection.lane(), host, path)
                try:
                    shape = await talk.shape()
                    await talk.finish()
                except _AbsentError:
                    continue
                else:
                    return shape
                finally:
                    talk.close()
    except TimeoutError:
        raise ReflectionError(f"the module did not tell its shape within {timeout_s:g} s") from None
    raise ReflectionError("the module has no server reflection", absent=True)


class _Talk:
    """One stream of reflection."""

    __slots__ = ("_answers", "_head", "_host", "_lane", "_octets", "_over", "_path", "_reader", "_stream", "_told")

    def __init__(self, lane: Upstream, host: bytes, path: bytes) -> None:
        self._lane = lane
        self._host = host
        self._path = path
        self._stream = 0
        self._reader = GrpcReader(MessageLimits(message_octets=MESSAGE_OCTETS), coded=False, malformed=Fault.UPSTREAM_MALFORMED)
        self._head: ResponseHead | None = None
        self._answers: deque[bytes] = deque()
        self._octets = 0
        self._told = asyncio.Event()
        """There is an answer, or the end."""
        self._over: Exception | None = None
        """How the stream ended, once it has."""

    async def shape(self) -> Shape:
        """Asks for everything there is."""
        self._begin()
        listed = await self._ask(grpc_reflection.list_services())
        if listed.error:
            raise ReflectionError(f"the module does not list its services (it answers {_status(listed.error)})")
        services = sorted({name for name in listed.services if name not in APART})
        if len(services) > SERVICES:
            raise ReflectionError(f"the module lists more than {SERVICES} services")
        files: dict[str, tuple[bytes, Outline]] = {}
        known: set[str] = set()
        for service in services:
            if service not in known:
                answer = await self._ask(grpc_reflection.file_with(service))
                if answer.error or not answer.files:
                    raise ReflectionError(f"the module lists {service}, and does not tell it (it answers {_status(answer.error)})")
                self._keep(answer.files, files, known)
        looked: set[str] = set()
        left = list(files)
        while left:
            for name in files[left.pop()][1].imports:
                if name not in files and name not in looked:
                    looked.add(name)
                    answer = await self._ask(grpc_reflection.file_named(name))
                    left += self._keep(answer.files, files, known)
        return Shape([files[name][0] for name in sorted(files)], tuple(services), self._octets)

    def _keep(self, octets: list[bytes], files: dict[str, tuple[bytes, Outline]], known: set[str]) -> list[str]:
        """Names of those that are new."""
        new: list[str] = []
        for each in octets:
            outline = grpc_reflection.outline(each)
            if outline is None:
                raise ReflectionError("the module told a file that is no descriptor")
            if outline.name not in files:
                files[outline.name] = (each, outline)
                known.update(outline.services)
                new.append(outline.name)
        if len(files) > FILES:
            raise ReflectionError(f"the module has more than {FILES} files")
        return new

    def _begin(self) -> None:
        lane = self._lane
        lane.owner = self
        self._stream = lane.codec.open()
        head = RequestHead(self._stream, b"POST", b"http", self._host, self._path, b"", [CONTENT_TYPE_GRPC, _AGENT], UNKNOWN)
        head.grpc = True
        lane.codec.send(head)

    async def _ask(self, question: bytes) -> Told:
        """One question and its answer."""
        codec = self._lane.codec
        codec.send(Data(self._stream, b"\0" + len(question).to_bytes(4, "big") + question))
        self._lane.flush()
        while not self._answers:
            if self._over is not None:
                raise self._over
            self._told.clear()
            await self._told.wait()
        answer = grpc_reflection.told(self._answers.popleft())
        if answer is None:
            raise ReflectionError("the module answered with what is no message of reflection")
        return answer

    async def finish(self) -> None:
        """Ends the stream, and lets the module end it, too: all was told, so nothing is wrong when it does not."""
        self._lane.codec.send(End(self._stream))
        self._lane.flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                while self._over is None:
                    self._told.clear()
                    await self._told.wait()

    def close(self) -> None:
        """Whatever became of it: the module holds nothing of it any more."""
        self._lane.close()
        self._over = None  # raised, it holds the frames that hold this

    # What the connection says.

    @property
    def waits_since(self) -> float:
        """See `Owner`. There is a patience of its own."""
        return float("inf")

    def upstream_spoke(self, now: float) -> None:
        """See `Owner`."""
        del now
        codec = self._lane.codec
        for event in codec.events():
            if isinstance(event, ResponseHead) and event.status >= 200:
                self._head = event
            elif isinstance(event, Data):
                self._hear(event.chunk)
            elif isinstance(event, End):
                self._end(self._ending(event))
            elif isinstance(event, Reset):
                self._end(ReflectionError("the module broke off while it told its shape"))
        self._lane.flush()

    def _hear(self, chunk: bytes) -> None:
        if self._over is not None:
            return
        reader = self._reader
        self._octets += len(chunk)
        if self._octets > OCTETS:
            self._end(ReflectionError(f"the module tells more than {OCTETS // MIB} MiB of itself"))
            return
        reader.receive(chunk)
        while (message := reader.take()) is not None:
            self._answers.append(message.payload)
        if reader.fault is not None:
            too_long = reader.fault is Fault.BODY_TOO_LARGE
            what = f"told a file of more than {MESSAGE_OCTETS // MIB} MiB" if too_long else "answered with what is no message of gRPC"
            self._end(ReflectionError(f"the module {what}"))
            return
        self._told.set()
        credit = reader.credit()
        if credit:
            self._lane.codec.send(Credit(self._stream, credit))

    def _ending(self, end: End) -> Exception:
        head = self._head
        status = Status.UNKNOWN
        if head is not None:
            status = call_status(head.status, head.fields, end.trailers, bodyless=not self._octets)
        if status is Status.UNIMPLEMENTED:
            return _AbsentError()
        if status is Status.OK:
            return ReflectionError("the module ended the stream before it had told its shape")
        return ReflectionError(f"the module does not tell its shape (it answers {status.name})")

    def _end(self, how: Exception) -> None:
        if self._over is None:
            self._over = how
        self._told.set()


def _status(number: int) -> str:
    return Status(number).name if number in {status.value for status in Status} else str(number)

"""Server-sent events (HTML standard, 9.2): one message an event, the text of its `data` lines joined by line feeds.

Lines end with LF, CR or CR LF; an empty one ends the event. Comments and the fields `event`, `id` and `retry` carry no
message and are passed over; an event without data is none, and one that the end of the stream cuts short never was. A byte
order mark at the very beginning is no part of the first line.
"""

from __future__ import annotations

from flui.framing._parts import Incoming, Outgoing
from flui.framing.base import Message, MessageLimits
from flui.model.fault import Fault
from flui.model.fields import Field

_MARK = b"\xef\xbb\xbf"
_LF = 10
_CR = 13
_LINE_OCTETS = 64
"""Of a line, for its field name and what stands around its value."""


def _ends(held: bytes | bytearray, at: int) -> int:
    """Where the line that begins before `at` ends; -1: not in what there is."""
    feed = held.find(b"\n", at)
    carriage = held.find(b"\r", at, feed if feed >= 0 else len(held))
    return carriage if carriage >= 0 else feed


def event(data: bytes, name: bytes = b"") -> bytes:
    """An event, framed. Its data is one line, or has `data: ` before each further one."""
    return b"event: %b\ndata: %b\n\n" % (name, data) if name else b"data: %b\n\n" % data


class SseReader(Incoming):
    """Events of one direction."""

    __slots__ = ("_begun", "_data", "_octets", "_scanned", "_skips")

    def __init__(self, limits: MessageLimits, malformed: Fault) -> None:
        super().__init__(limits, malformed)
        self._data: list[bytes] = []
        """Lines of data of the event that has not ended."""
        self._octets = 0
        self._scanned = 0
        """Octets at the front of which none ends a line."""
        self._skips = False
        """The last line ended with CR, so a LF right behind it ends none."""
        self._begun = False
        """The place of a byte order mark is behind us."""

    def cut(self) -> bytes | None:
        """The data of the next event."""
        held = self.held
        if not self._begun:
            if len(held) < len(_MARK) and _MARK.startswith(bytes(held)) and not self.ended:
                return None
            self._begun = True
            if held.startswith(_MARK):
                self.drop(len(_MARK))
        while True:
            if self._skips and held:
                self._skips = False
                if held[0] == _LF:
                    self.drop(1)
            end = _ends(held, self._scanned)
            if end < 0:
                self._scanned = len(held)
                if self._octets + len(held) > self.limits.message_octets + _LINE_OCTETS:
                    self.fail(Fault.BODY_TOO_LARGE)
                return None
            self._skips = held[end] == _CR
            line = bytes(held[:end])
            self.drop(end + 1)
            self._scanned = 0
            if not line:
                if self._data:
                    data = b"\n".join(self._data)
                    self._data = []
                    self._octets = 0
                    return data
            elif not self._keeps(line):
                return None

    def _keeps(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._octets += len(value) + (1 if self._data else 0)
            if self._octets > self.limits.message_octets:
                self.fail(Fault.BODY_TOO_LARGE)
                return False
            self._data.append(value)
        return True


class SseWriter(Outgoing):
    """Events of one direction."""

    __slots__ = ()

    def send(self, message: Message) -> Fault | None:
        """Frames `message`, unless it is too long, one too many, or holds a CR, which would arrive as another line."""
        payload = message.payload
        if b"\r" in payload:
            return Fault.MALFORMED
        if not self.admits(message):
            return Fault.BODY_TOO_LARGE
        self.push(event(payload.replace(b"\n", b"\ndata: ")))
        return None


class SseInspector:
    """Counts and bounds the events of one direction as `SseReader` reads them, an event at a time in memory."""

    __slots__ = ("_reader", "at_rest", "fault", "messages")

    def __init__(self, limits: MessageLimits, malformed: Fault) -> None:
        self._reader = SseReader(limits, malformed)
        self.fault: Fault | None = None
        self.at_rest = True
        """Also within an event: one that is cut short never was."""
        self.messages = 0

    def inspect(self, chunk: bytes) -> int:
        """Number of events that end in `chunk`; before its end an event is nothing that anybody acts upon."""
        if self.fault is not None:
            return 0
        reader = self._reader
        reader.receive(chunk)
        before = self.messages
        while reader.take() is not None:
            self.messages += 1
        if reader.fault is not None:
            self.fault = reader.fault
            self.at_rest = False
        return self.messages - before

    def finish(self) -> Fault | None:
        """No octets follow."""
        return self.fault


class SseFraming:
    """Events under given limits."""

    __slots__ = ("limits",)

    def __init__(self, limits: MessageLimits) -> None:
        self.limits = limits

    def reader(self, fields: list[Field], malformed: Fault) -> SseReader:
        """For octets of a peer that are to be understood."""
        del fields
        return SseReader(self.limits, malformed)

    def writer(self, fields: list[Field]) -> SseWriter:
        """For messages that are to be sent."""
        del fields
        return SseWriter(self.limits)

    def inspector(self, fields: list[Field], malformed: Fault) -> SseInspector:
        """For octets of a peer that pass."""
        del fields
        return SseInspector(self.limits, malformed)

"""Streams of messages that have to be understood: each is read out of one framing, put into other words, and framed anew.

caller ── Reader ──▶ ask ──▶ gRPC's frame ──▶ splice        the next message is looked at only while less than a
caller ◀── frame ◀── tell ◀── GrpcReader ◀── splice         window waits for the far side, and credited only then
"""

from __future__ import annotations

from flui.codecs.base import Events
from flui.codecs.grpc import grpc_trailers
from flui.framing.base import Message, MessageLimits, Reader
from flui.framing.grpc import GrpcReader, coding_of, framed
from flui.model.events import Credit, Data, End, Event, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import Field
from flui.model.grpc import Status
from flui.translate.base import Translation
from flui.translate.coding import expand
from flui.translate.formats import Format, Unsayable
from flui.translate.schema import Unfit
from flui.translate.status import Ending, ending_of
from flui.translate.unary import leading_and_status


class Stream(Translation):
    """One call. How the caller frames messages, and how it is told of the end, says the dialect."""

    __slots__ = (
        "_asked", "_asking", "_busy", "_coding", "_ending", "_format", "_limits", "_reader", "_telling", "_tells_in", "_told", "_window",
    )  # fmt: skip

    def __init__(
        self,
        codec: Events,
        stream: int,
        extra: list[Field] | None,
        format_: Format,
        reader: Reader,
        coding: bytes,
        limits: MessageLimits,
        window: int,
    ) -> None:
        """A call that is about to begin.

        Args:
            codec: Of the caller.
            stream: Number of the exchange there.
            extra: What each answer carries besides its own fields.
            format_: Of its messages.
            reader: Of the caller's octets.
            coding: In which the caller's compressed messages are; empty: none is.
            limits: Of the messages of either side.
            window: Octets that may wait for the far side, per direction; at least as many as a codec waits for before it credits any.
        """
        super().__init__(codec, stream, extra)
        self._format = format_
        self._reader = reader
        self._coding = coding
        self._limits = limits
        self._window = window
        self._asked = 0
        """Octets that the service has not taken yet."""
        self._told = 0
        """Octets that the caller has not taken yet."""
        self._asking = True
        """The caller has not ended."""
        self._busy = False
        """Messages are being sent on."""
        self._telling: GrpcReader | None = None
        self._tells_in = b""
        """What the service's compressed messages are in."""
        self._ending: Ending | None = None
        """How the call ends, once what stands before that was told."""

    @property
    def passes(self) -> bool:
        """Each message is put into other words."""
        return False

    # The caller's side.

    def hear(self, event: Event) -> None:
        """Takes what the caller says after the head."""
        if isinstance(event, Data):
            self._reader.receive(event.chunk)
            self._ask()
        elif isinstance(event, End):
            self._asking = False
            self._reader.finish()
            self._ask()
        elif isinstance(event, Credit):
            self._told = max(0, self._told - event.octets)
            self._tell()
        else:
            self._splice.heard(event)

    def credit(self, credit: Credit) -> None:
        """The service takes more."""
        self._asked = max(0, self._asked - credit.octets)
        self._ask()

    def _ask(self) -> None:
        """Sends on what may be sent on. A service that takes it at once makes room meanwhile, which the loop below sees."""
        if self._busy:
            return
        self._busy = True
        self._ask_all()
        self._busy = False

    def _ask_all(self) -> None:
        reader = self._reader
        drained = False
        while self._asked < self._window and not self.over:
            message = reader.take()
            if message is None:
                drained = True
                break
            try:
                octets = framed(self._format.ask(self._plain(message, self._coding)))
            except Unfit as unfit:
                self._splice.give_up(Fault.MALFORMED, Status.INVALID_ARGUMENT, str(unfit))
                return
            self._asked += len(octets)
            self._splice.heard(Data(self.stream, octets))
        if self.over:
            return
        credit = reader.credit()
        if credit:
            self.codec.send(Credit(self.stream, credit))
        fault = reader.fault
        if fault is not None:
            large = fault is Fault.BODY_TOO_LARGE
            what = "a message is longer than the limit" if large else "the body is not made of messages"
            self._splice.give_up(fault, Status.RESOURCE_EXHAUSTED if large else Status.INVALID_ARGUMENT, what)
        elif drained and not self._asking:
            self._asking = True
            self._reader = _NOTHING
            self._splice.heard(End(self.stream))

    def _plain(self, message: Message, coding: bytes) -> bytes:
        if not message.coded:
            return message.payload
        expanded = expand(message.payload, coding, self._limits.message_octets)
        if expanded is None:
            raise Unfit("", "a message is not what its coding says, or expands to too much")
        return expanded

    # The side of the splice.

    def begin(self, head: ResponseHead) -> None:
        """The service answers."""
        if head.length:
            coding = coding_of(head.fields)
            self._tells_in = coding
            self._telling = GrpcReader(self._limits, bool(coding), Fault.UPSTREAM_MALFORMED)
            self.say_begin(head)
        else:
            self.refuse(head, ending_of(leading_and_status(head.fields)))

    def say_begin(self, head: ResponseHead) -> None:
        """Tells the caller that messages follow."""
        raise NotImplementedError

    def refuse(self, head: ResponseHead, ending: Ending) -> None:
        """Tells the caller of an ending before which there was nothing.

        Args:
            head: All that there was.
            ending: What it says.
        """
        raise NotImplementedError

    def frame(self, payload: bytes) -> bytes:
        """A message as the caller is sent it."""
        raise NotImplementedError

    def tell(self, data: Data) -> None:
        """Messages of the service."""
        assert self._telling is not None, "messages before a head"
        self._telling.receive(data.chunk)
        self._tell()

    def finish(self, end: End) -> None:
        """The answer is complete."""
        if not self.over:
            self._ending = ending_of(end.trailers or [])
            if self._telling is not None:
                self._telling.finish()
            self._tell()

    def _tell(self) -> None:
        """Tells what may be told."""
        reader = self._telling
        drained = reader is None
        # What came before the end is told with it: nobody asks for it later, and it is a window of the service at most.
        while reader is not None and (self._told < self._window or self._ending is not None) and not self.over:
            message = reader.take()
            if message is None:
                drained = True
                break
            try:
                octets = self.frame(self._format.tell(self._plain(message, self._tells_in)))
            except (Unsayable, Unfit) as error:
                self._fail(f"a message of the answer cannot be said so: {error}")
                return
            self._told += len(octets)
            self.say(octets)
        if self.over:
            return
        ending = self._ending
        if reader is not None and reader.fault is not None and (ending is None or ending.status is Status.OK):
            self._fail("the service's answer is not made of whole messages")
            return
        if ending is not None:
            if drained:
                self.end(ending)
        elif reader is not None:
            credit = reader.credit()
            if credit:
                self._splice.heard(Credit(self.stream, credit))

    def cut(self, reset: Reset) -> None:
        """Breaks off: what the caller was told are whole messages, so it can be told why."""
        if not self.over:
            self.end(ending_of(grpc_trailers(reset.fault)))

    def _fail(self, message: str) -> None:
        if self._ending is not None:  # the splice is done
            self.end(Ending(Status.INTERNAL, message))
        else:
            self._splice.give_up(Fault.UPSTREAM_MALFORMED, Status.INTERNAL, message)


class _Nothing:
    """Of a caller that has ended."""

    __slots__ = ("fault",)

    def __init__(self) -> None:
        self.fault: Fault | None = None

    def receive(self, chunk: bytes) -> None:
        """Nothing comes."""

    def finish(self) -> None:
        """Nothing comes."""

    def take(self) -> Message | None:
        """There is none."""
        return None

    def credit(self) -> int:
        """Nobody sends."""
        return 0


_NOTHING = _Nothing()

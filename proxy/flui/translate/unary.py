"""One message each way: a body that is the message, an answer whose status depends on how the call ends.

The caller's body is gathered, unless its length is known and nobody has to look at it: then it goes on as it comes. The
answer is gathered until the call has ended, for only then it is known which status stands in front of it. Both are bounded
by the limit of a message.
"""

from __future__ import annotations

from flui.codecs.base import Events
from flui.codecs.grpc import grpc_trailers
from flui.framing.base import MessageLimits
from flui.framing.grpc import PREFIX, GrpcReader, coding_of, framed
from flui.model.events import Credit, Data, End, Event, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import Field
from flui.model.grpc import Status
from flui.translate.base import Translation
from flui.translate.coding import expand
from flui.translate.formats import Format, Unsayable
from flui.translate.heads import leading, length_line, refusal
from flui.translate.schema import Unfit
from flui.translate.status import Ending, ending_of

_MOST = 0xFFFF_FFFF
_OWED = 2048
"""Octets, far fewer than any window, after which credit is given."""
_NOT_WHOLE = "the service's answer is not made of whole messages"


class Unary(Translation):
    """One call with a message each way."""

    __slots__ = (
        "_asked",
        "_coding",
        "_format",
        "_free",
        "_gathered",
        "_head",
        "_left",
        "_message",
        "_messages",
        "_most",
        "_octets",
        "_owed",
        "_preset",
        "_reader",
        "_said",
        "_taken",
    )

    def __init__(
        self, codec: Events, stream: int, extra: list[Field] | None, format_: Format, coding: bytes, length: int, most: int
    ) -> None:
        """A call that is about to begin.

        Args:
            codec: Of the caller.
            stream: Number of the exchange there.
            extra: What each answer carries besides its own fields.
            format_: Of its messages.
            coding: In which the body is compressed; empty: it is not.
            length: Octets of the body; `UNKNOWN` where they are not known.
            most: Octets of the longest message; 0: any.
        """
        super().__init__(codec, stream, extra)
        self._format = format_
        self._coding = coding
        self._most = most or _MOST
        self._left = length if format_.opaque and 0 < length <= self._most else -1
        """Octets of body still to come, where it goes on as it comes; -1: it is gathered."""
        self._asked = False
        """The caller has said everything: credit means nothing any more."""
        self._free = -1
        """Octets that were sent on and the caller did not send: what the service credits for them is nobody's. -1: nothing was sent yet."""
        self._gathered = bytearray()
        self._preset = False
        """The caller's message is not its body."""
        self._octets = 0
        self._owed = 0
        """Of them, those that the caller has no credit for yet."""
        self._head: ResponseHead | None = None
        self._said: Ending | None = None
        """The ending that a head says which is all there is."""
        self._reader: GrpcReader | None = None
        self._message = b""
        self._messages = 0
        self._taken = False
        """The message is compressed, as the head of the answer says."""

    @property
    def streams(self) -> bool:
        """A body has its pace."""
        return False

    @property
    def passes(self) -> bool:
        """A body is framed here."""
        return False

    def preset(self, body: bytes) -> None:
        """The caller's message, which is not its body: that means nothing, and is dropped."""
        self._gathered += body
        self._left = -1
        self._preset = True

    # The caller's side.

    def hear(self, event: Event) -> None:
        """Takes the body."""
        if isinstance(event, Data):
            if self._preset:
                self.codec.send(Credit(self.stream, len(event.chunk)))
                return
            if self._left >= 0:
                if self._free < 0:
                    self._free = PREFIX
                    event.chunk = (b"\1" if self._coding else b"\0") + self._left.to_bytes(4, "big") + event.chunk
                self._splice.heard(event)
                return
            self._octets += len(event.chunk)
            if self._octets > self._most:
                self._gathered = bytearray()
                self._splice.give_up(Fault.BODY_TOO_LARGE, Status.RESOURCE_EXHAUSTED, "the message is longer than the limit")
                return
            self._gathered += event.chunk
            self._owed += len(event.chunk)
            if self._owed >= _OWED:  # what is answered is paid for anyway
                self.codec.send(Credit(self.stream, self._owed))
                self._owed = 0
        elif isinstance(event, End):
            self._asked = True
            if self._left < 0:
                self._ask(bytes(self._gathered))
            if not self.over:
                self._splice.heard(event)
        elif not isinstance(event, Credit):
            self._splice.heard(event)

    def _ask(self, body: bytes) -> None:
        self._gathered = bytearray()
        payload = body
        coded = bool(self._coding) and bool(body)
        try:
            if not self._format.opaque:
                if coded:
                    expanded = expand(body, self._coding, self._most)
                    if expanded is None:
                        raise Unfit("", "it is not what its coding says, or expands to too much")
                    payload = expanded
                    coded = False
                payload = self._format.ask(payload)
        except Unfit as unfit:
            self._splice.give_up(Fault.MALFORMED, Status.INVALID_ARGUMENT, str(unfit))
            return
        self._splice.heard(Data(self.stream, framed(payload, coded=coded)))

    def credit(self, credit: Credit) -> None:
        """The service takes more; a body that was gathered is paid for already."""
        if self._left >= 0 and not self._asked:
            octets = credit.octets
            if self._free > 0:
                part = min(self._free, octets)
                self._free -= part
                octets -= part
            if octets:
                self.codec.send(Credit(self.stream, octets))

    # The side of the splice.

    def begin(self, head: ResponseHead) -> None:
        """The service answers: nothing is said before the call has ended."""
        self._head = head
        if not head.length:
            self._said = ending_of(leading_and_status(head.fields))

    def tell(self, data: Data) -> None:
        """The message of the service, or a part of it."""
        reader = self._reader
        if reader is None:
            chunk = data.chunk
            size = len(chunk) - PREFIX
            if not self._messages and size >= 0 and not chunk[0] and size == int.from_bytes(chunk[1:PREFIX], "big"):
                self._messages = 1  # whole, as by far the most are; credit for it is due if more comes, which nobody wants
                self._message = chunk[PREFIX:]
                return
            head = self._head
            assert head is not None, "a message before its head"
            reader = self._reader = GrpcReader(MessageLimits(self._most), bool(coding_of(head.fields)), Fault.UPSTREAM_MALFORMED)
        reader.receive(data.chunk)
        while True:
            message = reader.take()
            if message is None:
                break
            self._messages += 1
            self._message = message.payload
            self._taken = message.coded
        if reader.fault is not None:
            self._splice.give_up(reader.fault, Status.INTERNAL, _NOT_WHOLE)
        elif self._messages > 1:
            self._splice.give_up(Fault.UPSTREAM_MALFORMED, Status.UNIMPLEMENTED, "the service answered with more than one message")
        if self.over:
            return
        credit = reader.credit()
        if credit:
            self._splice.heard(Credit(self.stream, credit))

    def finish(self, end: End) -> None:
        """The call has ended."""
        if self.over:
            return
        ending = self._said if self._said is not None else ending_of(end.trailers or [])
        reader = self._reader
        if reader is not None:
            reader.finish()
            reader.take()  # what is left of a message becomes its fault
        if ending.status is not Status.OK:
            self.end(ending)
        elif reader is not None and reader.fault is not None:
            self._splice.give_up(reader.fault, Status.INTERNAL, _NOT_WHOLE)
        elif self._messages != 1:
            self._splice.ended = Status.UNIMPLEMENTED
            self.end(Ending(Status.UNIMPLEMENTED, "the service answered without a message", None, ending.metadata))
        else:
            head = self._head
            assert head is not None, "an end before its head"
            coding = coding_of(head.fields) if self._taken else b""
            message = self._message
            try:
                if not self._format.opaque:
                    if coding:
                        expanded = expand(message, coding, self._most)
                        if expanded is None:
                            raise Unsayable("it is compressed in a way that nobody here can read")
                        message = expanded
                        coding = b""
                    message = self._format.tell(message)
            except Unsayable as error:
                self._splice.give_up(Fault.UPSTREAM_MALFORMED, Status.INTERNAL, f"the answer cannot be said so: {error}")
                return
            self.answer(head, message, coding, ending)

    def answer(self, head: ResponseHead, body: bytes, coding: bytes, ending: Ending) -> None:
        """Tells the caller the message of a call that went well.

        Args:
            head: Of the service's answer.
            body: The message, as the caller gets it.
            coding: It is compressed in; empty: it is not.
            ending: With the trailing metadata.
        """
        raise NotImplementedError

    def say_whole(self, status: int, fields: list[Field], body: bytes, extra: list[Field] | None) -> None:
        """Sends an answer that is complete."""
        size = len(body)
        stream = self.stream
        head = ResponseHead(stream, status, fields, size)
        lines = [length_line(size)]
        if extra:
            lines += extra
        if self._extra is not None:
            lines += self._extra
        head.extra = lines
        splice = self._splice
        splice.status = status
        splice.octets_out = self.sent = size
        self.begun = self.over = True
        codec = self.codec
        codec.send(head)
        if size:
            codec.send(Data(stream, body))
        codec.send(End(stream))

    def cut(self, reset: Reset) -> None:
        """Nothing was said yet, so that it can still be said how the call ended."""
        if not self.over:
            self.end(ending_of(grpc_trailers(reset.fault)))

    def said_before(self) -> list[Field]:
        """Leading metadata of an answer that ended badly, and whatever tells other sidecars that it was a refusal."""
        head = self._head
        if head is None:
            return []
        return leading(head.fields) if head.length else refusal(head.fields)


def leading_and_status(fields: list[Field]) -> list[Field]:
    """Fields of a head that is all there is, as trailers would say them."""
    refused = {id(line) for line in refusal(fields)}
    kept = {id(line) for line in leading(fields)}
    return [line for line in fields if (id(line) in kept or line.name.startswith(b"grpc-")) and id(line) not in refused]

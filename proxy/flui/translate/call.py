"""The splice of a call whose caller speaks another dialect than its service."""

from __future__ import annotations

from flui.call import Call
from flui.codecs.grpc import grpc_trailers
from flui.model.decision import Decision
from flui.model.events import Data, End, Event, RequestHead, Reset
from flui.model.fault import Fault
from flui.model.fields import Field
from flui.model.grpc import Status
from flui.model.spoken import Dialect
from flui.splice import Splice
from flui.translate.base import HTTP_FAULTS, Refused, Translation
from flui.translate.status import Ending


class TranslatedCall(Call):
    """A call whose caller speaks another dialect: whatever the two say to one another goes through a translation."""

    __slots__ = ("_passes", "translation")

    def __init__(
        self,
        translation: Translation,
        dialect: Dialect,
        head: RequestHead,
        decision: Decision,
        now: float,
        trace: bytes,
        origin: Field | None,
        octets: int = 0,
    ) -> None:
        """A call that has been decided. See `Call`.

        Args:
            translation: Stands between the caller's codec and us.
            dialect: What the caller speaks.
            head: Of the call.
            decision: What becomes of it.
            now: When the head was complete; monotonic seconds.
            trace: traceparent to send on; empty: the caller's stays.
            origin: Ready Forwarded field; None to say nothing.
            octets: Of the longest message.
        """
        super().__init__(translation, head, decision, now, trace, origin, octets)
        self.translation = translation
        self._passes = translation.passes
        self.dialect = dialect
        translation.attach(self)

    def release(self) -> None:
        """See `Splice`."""
        super().release()
        self.translation.release()

    def from_down(self, event: Event) -> None:
        """Takes what the caller says after the head, in its dialect."""
        if self._passes:
            super().from_down(event)
        elif isinstance(event, Data):
            octets = self.octets_in + len(event.chunk)  # as they came
            self.translation.hear(event)
            self.octets_in = octets
        else:
            self.translation.hear(event)

    def heard(self, event: Event) -> None:
        """Takes what the caller says, as gRPC says it."""
        super().from_down(event)

    def _twin(self, now: float) -> Splice:
        return Call(self.down, self.head, self.decision, now, self.trace, self._origin)

    @property
    def may_pause(self) -> bool:
        """See `Splice`."""
        return self.translation.streams

    def give_up(self, fault: Fault, status: Status, message: str) -> None:
        """Ends the call for what the caller sent, or what cannot be said to it."""
        if self.done:
            return
        self.fault = fault
        self.done = self.deaf = True
        if self.up is not None:
            self.up.send(Reset(self.up_stream, fault))
        self.ended = status
        self.status = self.status or 200
        self.translation.end(Ending(status, message))

    def turn_away(self, refused: Refused) -> None:
        """Refuses a request that policy lets in, and that cannot be carried out."""
        fault = refused.fault
        if fault not in HTTP_FAULTS:
            self.give_up(fault, refused.status, refused.why)
            return
        self.fault = fault
        self.done = self.deaf = True
        self.ended = refused.status
        ending = Ending(refused.status, refused.why)
        self.translation.turn_away(ending, fault, refused.asked or self.head.path, self.trace, refused.allow)

    def _cut(self, fault: Fault) -> None:
        self.down.send(End(self.stream, grpc_trailers(fault)) if self._at_rest else Reset(self.stream, fault))

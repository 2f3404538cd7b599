"""How the sidecar itself is, by gRPC's health protocol: an endpoint that is no socket but stands right behind the splice.

`decide.SELF_HOST` leads here. The module's own health service stays where it was, under every other authority (decision 0014).
"""

from __future__ import annotations

from typing import Final

from flui.codecs import grpc_health
from flui.codecs.grpc import CONTENT_TYPE_GRPC, STATUS_LINES
from flui.framing.base import MessageLimits
from flui.framing.grpc import GrpcReader
from flui.model.events import UNKNOWN, Credit, Data, End, Event, Reset, ResponseHead
from flui.model.fault import Fault
from flui.model.fields import Field, field
from flui.model.grpc import Status
from flui.splice import Splice

NAME: Final = b"@flui"
_LIMITS: Final = MessageLimits(message_octets=1024, messages=1)
_NO_SUCH: Final = field(b"grpc-message", b"the sidecar knows itself and its own service only")
_UNREADABLE: Final = field(b"grpc-message", b"this is no HealthCheckRequest")


class SelfHealth:
    """Answers one `Check`, as an upstream codec would."""

    __slots__ = ("_reader", "_service", "_serving", "_splice")

    def __init__(self, splice: Splice, service: str, *, serving: bool) -> None:
        """For one call.

        Args:
            splice: Of the call; it hears the answer.
            service: Name of the service beside us, which may be asked for; the empty name may be too.
            serving: Calls are welcome: the sidecar is not on its way out.
        """
        self._splice = splice
        self._service = service.encode()
        self._serving = serving
        self._reader = GrpcReader(_LIMITS, coded=False, malformed=Fault.MALFORMED)
        splice.endpoint = NAME

    def open(self) -> int:
        """There is one exchange."""
        return 1

    def events(self) -> list[Event]:
        """Nothing waits: whatever is to be said is said to the splice at once."""
        return []

    def send(self, event: Event) -> None:
        """Hears the caller; at the end of its message it is answered."""
        if isinstance(event, Data):
            self._reader.receive(event.chunk)
            self._splice.from_up([Credit(1, len(event.chunk))], self._splice.attached_at)
        elif isinstance(event, End):
            self._reader.finish()
            self._answer()
        elif isinstance(event, Reset):
            return

    def _answer(self) -> None:
        message = self._reader.take()
        service = grpc_health.asked(message.payload) if message is not None else None
        if service is None:
            self._end(Status.INVALID_ARGUMENT, _UNREADABLE)
        elif service not in (b"", self._service):
            self._end(Status.NOT_FOUND, _NO_SUCH)
        else:
            payload = grpc_health.answer(grpc_health.SERVING if self._serving else grpc_health.NOT_SERVING)
            splice, now = self._splice, self._splice.attached_at
            told = Data(1, b"\0" + len(payload).to_bytes(4, "big") + payload)
            splice.from_up([ResponseHead(1, 200, [CONTENT_TYPE_GRPC], UNKNOWN), told, End(1, [STATUS_LINES[Status.OK]])], now)

    def _end(self, status: Status, said: Field) -> None:
        splice, now = self._splice, self._splice.attached_at
        lines = [CONTENT_TYPE_GRPC, STATUS_LINES[status], said]
        splice.from_up([ResponseHead(1, 200, lines, 0), End(1)], now)

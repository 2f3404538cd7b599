"""The five events that describe every exchange, in every protocol, in both directions.

    RequestHead | ResponseHead      once per direction (a ResponseHead with status 1xx may come before the final one)
    Data*                           never empty
    End                             this direction is complete; trailers, if any
    Reset                           this exchange is dead, at any time
    Credit*                         the sender of this event can take that many more octets of Data

Plain slotted classes: they are made several times per exchange, and a frozen dataclass costs three times as much to
make. They are never changed after they were handed on; the validator, which runs before anyone else sees a
`RequestHead`, is the one exception.
"""

from __future__ import annotations

from typing import Final, final

from flui.model.decision import Decision
from flui.model.fault import Fault
from flui.model.fields import TRACE, Field
from flui.model.spoken import Spoken

UNKNOWN: Final = -1
"""`length` of a body whose size is not known before its end."""


@final
class RequestHead:
    """A request has begun."""

    __slots__ = (
        "attempt",
        "authority",
        "deadline",
        "decided",
        "extra",
        "fields",
        "forwarded",
        "grpc",
        "host",
        "http1",
        "key",
        "length",
        "method",
        "path",
        "priority",
        "protocol",
        "query",
        "repeatable",
        "scheme",
        "special",
        "spoken",
        "stream",
        "trace",
        "vetted",
    )

    def __init__(
        self,
        stream: int,
        method: bytes,
        scheme: bytes,
        authority: bytes,
        path: bytes,
        query: bytes,
        fields: list[Field],
        length: int,
        special: list[Field] | None = None,
        protocol: bytes = b"",
    ) -> None:
        self.stream = stream
        """Number of the exchange on its connection."""
        self.method = method
        """As on the wire: case-sensitive (RFC 9110 9.1)."""
        self.scheme = scheme
        """`http` or `https`."""
        self.authority = authority
        """The one authority (Host or :authority) that routing, policy and the forwarded request use."""
        self.path = path
        """Path without query. Canonical once the validator has seen it."""
        self.query = query
        """Empty, or `?` and the query."""
        self.fields = fields
        """Header fields in order, without Host."""
        self.special = special if special is not None else [field for field in fields if field.kind]
        """Those of `fields` whose kind is not PLAIN."""
        self.length = length
        """Octets of body that will follow: 0 none, `UNKNOWN`, or the declared length."""
        self.protocol = protocol
        """The protocol an extended CONNECT or an Upgrade asks for; empty otherwise."""
        self.extra: list[Field] | None = None
        """What the relay adds behind `fields`; `fields` itself stays as it is, for a caller that sends the same head again."""
        self.http1 = b""
        """Octets of start line, host and `fields` in HTTP/1.1, once somebody has needed them."""
        self.vetted = False
        """The validator has seen it, and found nothing."""
        self.decided: Decision | None = None
        """What was decided when this very head was said before on its connection."""
        self.grpc = False
        """It is a gRPC call: a POST with gRPC's content-type. Set by the validator."""
        self.spoken: Spoken | None = None
        """The call that it means in another dialect, once somebody has found that out."""

    # Found by the validator in its one pass over the fields; not there before.
    host: bytes
    """Authority without its port."""
    trace: bytes
    """A well-formed traceparent, or empty."""
    key: bytes
    """flui-key, or empty."""
    deadline: int
    """Milliseconds that the caller leaves us; -1: not said."""
    attempt: int
    """Which try this is of whoever sends it; 1: the first, or not said."""
    priority: int
    """flui-priority, as in `model.resilience`; -1: not said."""
    repeatable: bool
    """It carries an idempotency key: sending it twice is doing it once."""
    forwarded: list[Field] | None
    """Forwarded fields of the caller; worth keeping only if the caller is an allow-listed hop."""

    def retrace(self, traceparent: bytes) -> None:
        """Another trace: its caller repeats itself in everything else. Only when its exchange is over.

        Args:
            traceparent: Well-formed. The validator has seen this head, which has one such field.
        """
        wire = b"traceparent: %b\r\n" % traceparent
        line = Field(b"traceparent", traceparent, wire, TRACE)
        fields = self.fields
        for at, old in enumerate(fields):
            if old.kind == TRACE:
                fields[at] = line
                break
        if self.http1:  # with the end of the line before it, which no value can hold
            self.http1 = self.http1.replace(b"\r\ntraceparent: %b\r\n" % self.trace, b"\r\n" + wire, 1)
        self.trace = traceparent
        if self.spoken is not None:
            self.spoken.head.retrace(traceparent)
        self.decided = None  # a route may ask for this field, too

    def __repr__(self) -> str:
        return f"RequestHead({self.stream}, {self.method!r}, {self.authority!r}, {self.path + self.query!r}, length={self.length})"


@final
class ResponseHead:
    """A response has begun, or an interim response (status 1xx) passes."""

    __slots__ = ("extra", "fields", "http1", "length", "local", "refusal", "status", "stream")

    def __init__(self, stream: int, status: int, fields: list[Field], length: int, local: bool = False) -> None:
        self.stream = stream
        self.status = status
        self.fields = fields
        self.length = length
        """Octets of body that will follow: 0 none, `UNKNOWN`, or the declared length."""
        self.local = local
        """Some fields are for this hop only, or may not be said by a peer: a relay takes them out."""
        self.http1 = b""
        """Octets of status line and `fields` in HTTP/1.1, once somebody has needed them."""
        self.extra: list[Field] | None = None
        """What the relay adds behind `fields`."""
        self.refusal = b""
        """The fault for which another sidecar refused; empty when it was the service itself that answered."""

    def __repr__(self) -> str:
        return f"ResponseHead({self.stream}, {self.status}, length={self.length})"


@final
class Data:
    """A piece of body. Its borders mean nothing."""

    __slots__ = ("chunk", "stream")

    def __init__(self, stream: int, chunk: bytes) -> None:
        self.stream = stream
        self.chunk = chunk

    def __repr__(self) -> str:
        return f"Data({self.stream}, {len(self.chunk)} octets)"


@final
class End:
    """This direction is complete."""

    __slots__ = ("stream", "trailers")

    def __init__(self, stream: int, trailers: list[Field] | None = None) -> None:
        self.stream = stream
        self.trailers = trailers

    def __repr__(self) -> str:
        return f"End({self.stream})"


@final
class Reset:
    """This exchange is dead. As an event from a codec it is the peer's doing; sent to a codec it is ours."""

    __slots__ = ("fault", "stream")

    def __init__(self, stream: int, fault: Fault) -> None:
        self.stream = stream
        self.fault = fault

    def __repr__(self) -> str:
        return f"Reset({self.stream}, {self.fault.name})"


@final
class Credit:
    """The sender of this event can take `octets` more octets of Data on this stream. After End it means nothing."""

    __slots__ = ("octets", "stream")

    def __init__(self, stream: int, octets: int) -> None:
        self.stream = stream
        self.octets = octets

    def __repr__(self) -> str:
        return f"Credit({self.stream}, {self.octets})"


Event = RequestHead | ResponseHead | Data | End | Reset | Credit

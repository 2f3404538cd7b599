"""Which splice a request gets: by what its caller speaks, and what its module does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flui.call import Behind, Call
from flui.codecs.base import Events
from flui.codecs.http2.fields import request_again
from flui.decide import Snapshot
from flui.model.config import Limits
from flui.model.decision import Decision, Forward
from flui.model.events import UNKNOWN, End, RequestHead, ResponseHead
from flui.model.fields import Field
from flui.model.topology import APP
from flui.splice import Splice

if TYPE_CHECKING:
    from flui.translate.base import Mapped
    from flui.translate.dialects import Dialects


def spoken(head: RequestHead, snapshot: Snapshot) -> Mapped | None:
    """The call that a request to a gRPC module means, in another dialect; None: it means none."""
    dialects = snapshot.dialects
    return None if dialects is None else dialects.spoken(head)


def behind(head: RequestHead, dialects: Dialects | None, decision: Decision) -> Behind | None:
    """How a call that was let in is said to our module; None: as it is."""
    action = decision.action
    if dialects is None or not isinstance(action, Forward) or action.targets[0].cluster != APP:
        return None
    return dialects.behind(head.path)


def call_head(first: RequestHead, stream: int) -> RequestHead:
    """The head of a call, for one exchange: the one that was mapped, and copies of it afterwards."""
    if first.stream:
        return request_again(first, stream, UNKNOWN)
    first.stream = stream
    return first


def splice_of(
    codec: Events,
    head: RequestHead,
    decision: Decision,
    mapped: Mapped | None,
    shown: list[Field] | None,
    length: int,
    now: float,
    trace: bytes,
    origin: Field | None,
    limits: Limits,
    behind: Behind | None,
    dialects: Dialects | None,
) -> Splice:
    """The splice of a request that has been decided.

    Args:
        codec: Of the caller.
        head: Of what is sent on: the call, where the request means one.
        decision: What becomes of it.
        mapped: How it is translated; None: it is not.
        shown: What each answer of a translation carries besides its own fields.
        length: Octets of body, as the caller says.
        now: When the head was complete; monotonic seconds.
        trace: traceparent to send on; empty: the caller's stays.
        origin: Ready Forwarded field; None to say nothing.
        limits: In force.
        behind: How the call is said to the module; None: as it is.
        dialects: Of the snapshot.
    """
    octets = limits.grpc_message_octets
    if mapped is not None:
        assert dialects is not None, "somebody has mapped it"
        return dialects.splice_of(mapped, codec, head, decision, shown, length, now, trace, origin, octets, behind)
    if head.grpc:
        plain = Call(codec, head, decision, now, trace, origin, octets)
        plain.behind = behind
        return plain
    return Splice(codec, head, decision, now, trace, origin)


def told(codec: Events, head: RequestHead, fields: list[Field], decision: Decision, now: float) -> Splice:
    """Answers a request with fields alone (204): its record."""
    splice = Splice(codec, head, decision, now, b"", None)
    splice.status = 204
    codec.send(ResponseHead(head.stream, 204, fields, 0))
    codec.send(End(head.stream))
    return splice

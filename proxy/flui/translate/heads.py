"""What of a caller's head its call carries, and what of the call's answer the caller is shown."""

from __future__ import annotations

from typing import Final

from flui.codecs.validate import is_call_sound
from flui.model.events import UNKNOWN, RequestHead, ResponseHead
from flui.model.fields import CONTENT_TYPE, EXPECT, GRPC_TIMEOUT, GRPC_TYPE, LENGTH, Field
from flui.model.resilience import IDEMPOTENT
from flui.splice import REFUSAL

_OF_BODY: Final = frozenset((
    b"accept", b"accept-encoding", b"content-encoding", b"x-grpc-web",
    b"connect-protocol-version", b"connect-timeout-ms", b"connect-content-encoding", b"connect-accept-encoding",
))  # fmt: skip
"""About the body as it comes, or the dialect: the call says them anew where it needs to."""
_KINDS: Final = frozenset((CONTENT_TYPE, LENGTH, EXPECT))
_FORGED: Final = b"grpc-"

_MAPPED: Final = 64

NO_METADATA: Final = "a field of the request is no metadata: a `-bin` that is not base64, or a grpc-timeout that is none"
"""What a caller is told of a request that `call_of` says so of."""


def value_of(head: RequestHead, name: bytes) -> bytes | None:
    """The one value that a request carries under a lower-case name; None when there is none. A list is what it is: its parts joined."""
    found = [line.value for line in head.fields if line.name == name]
    return b",".join(found) if found else None


def call_of(
    head: RequestHead, path: bytes, lines: list[Field], deadline_ms: int = -1, *, speaks_grpc: bool = False, repeatable: bool = False
) -> tuple[RequestHead, bool]:
    """The head of the call that a request means, and whether its fields are any metadata.

    Where they are not, the head carries none of them, and the call is to be refused: as a call, for what rules say of the
    path as a plain request is not meant for it.

    Args:
        head: Of the request, validated.
        path: Of the method.
        lines: What gRPC asks for in front: content-type, codings.
        deadline_ms: What the dialect's own field leaves; -1: it does not say.
        speaks_grpc: `grpc-timeout` and `grpc-accept-encoding` mean what they mean in gRPC; else nobody may say such names.
        repeatable: The method changes nothing, whatever the verb.
    """
    fields = list(lines)
    for line in head.fields:
        kind = line.kind
        if kind in _KINDS or line.name in _OF_BODY:
            continue
        if not speaks_grpc and line.name.startswith(_FORGED):
            continue
        fields.append(line)
    call = RequestHead(head.stream, b"POST", head.scheme, head.authority, path, b"", fields, UNKNOWN)
    call.grpc = True
    call.host = head.host
    call.trace = head.trace
    call.key = head.key
    call.deadline = head.deadline if deadline_ms < 0 or 0 <= head.deadline < deadline_ms else deadline_ms
    call.attempt = head.attempt
    call.priority = head.priority
    call.repeatable = head.repeatable or repeatable or head.method in IDEMPOTENT
    call.forwarded = head.forwarded
    call.vetted = True
    if is_call_sound(call):
        return call, True
    call.fields = list(lines)
    return call, False


class Shown:
    """Fields of answers as the caller of one dialect gets them. What was mapped once is known as long as the codec repeats itself."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[Field], list[Field]]] = {}

    def fields(self, head: ResponseHead, lines: list[Field]) -> list[Field]:
        """The leading metadata of an answer behind `lines`; the very same list for the very same fields.

        Args:
            head: Of the service's answer.
            lines: What the dialect asks for in front; always the same for one `Shown`.
        """
        fields = head.fields
        known = self._known.get(id(fields))
        if known is not None and known[0] is fields:
            return known[1]
        shown = [*lines, *leading(fields)]
        if len(self._known) >= _MAPPED:
            self._known.clear()
        self._known[id(fields)] = (fields, shown)
        return shown


def leading(fields: list[Field]) -> list[Field]:
    """Fields of an answer's head without those of gRPC and of its body."""
    return [
        line
        for line in fields
        if line.kind not in {GRPC_TYPE, CONTENT_TYPE, LENGTH, GRPC_TIMEOUT}
        and not line.name.startswith(_FORGED)
        and line.name != b"trailer"
    ]


def refusal(fields: list[Field]) -> list[Field]:
    """What tells another sidecar that we have refused, taken out of `fields`: it belongs in the head of whatever the caller gets."""
    return [line for line in fields if line.name == REFUSAL]

"""What of a caller's head its call carries, and what of the call's answer the caller is shown."""

from __future__ import annotations

from typing import Final

from flui.answer import REFUSAL
from flui.codecs.validate import is_call_sound
from flui.model.events import UNKNOWN, RequestHead, ResponseHead
from flui.model.fields import CONTENT_TYPE, GRPC_TIMEOUT, GRPC_TYPE, LENGTH, Field, classified
from flui.model.resilience import IDEMPOTENT

_METADATA: Final = 0
_ODD: Final = 1
"""More than metadata, or encoded."""
_FORGED: Final = 2
"""gRPC's: where nobody speaks gRPC, nobody says it."""
_ABOUT: Final = 3
"""About the body as it comes, or the dialect: the call says it anew where it needs to."""
_GONE: Final = 4
_ROLES: Final[dict[bytes, int]] = {
    b"content-type": _GONE, b"content-length": _GONE, b"expect": _GONE,
    b"accept": _ABOUT, b"accept-encoding": _ABOUT, b"content-encoding": _ABOUT, b"x-grpc-web": _ABOUT,
    b"connect-protocol-version": _ABOUT, b"connect-timeout-ms": _ABOUT,
    b"connect-content-encoding": _ABOUT, b"connect-accept-encoding": _ABOUT,
}  # fmt: skip
"""Of the fields of a request, by name; of those that were seen, too, as long as they are few."""
_ROLES_KNOWN: Final = 1024
_RESERVED: Final = b"grpc-"

_MAPPED: Final = 64

NO_METADATA: Final = "a field of the request is no metadata: a `-bin` that is not base64, or a grpc-timeout that is none"
"""What a caller is told of a request that `call_of` says so of."""


class Sifted:
    """What a request's fields say to a module, and what they say of the body and the dialect."""

    __slots__ = ("about", "fields", "odd", "special", "unsound")

    def __init__(self, head: RequestHead, *, speaks_grpc: bool = False) -> None:
        """In one pass.

        Args:
            head: Of the request, validated.
            speaks_grpc: Names of gRPC's mean what they mean there; else nobody may say them.
        """
        fields: list[Field] = []
        special: list[Field] = []
        about: dict[bytes, bytes] = {}
        odd = False
        for line in head.fields:
            name = line.name
            role = _ROLES.get(name)
            if role is None:
                role = _role(name)
            if role:
                if role == _ABOUT:
                    about[name] = about[name] + b"," + line.value if name in about else line.value
                    continue
                if role == _GONE or (role == _FORGED and not speaks_grpc):
                    continue
                odd = True
            fields.append(line)
            if line.kind:
                special.append(line)
        self.fields = fields
        self.special = special
        """Those of `fields` whose kind is not PLAIN."""
        self.about = about
        """Of `accept`, `content-encoding` and the like; a list is what it is: its parts joined."""
        self.odd = odd
        """Some of the fields are more than metadata, or encoded."""
        self.unsound = False
        """They are not what they say (`call_of`)."""


def _role(name: bytes) -> int:
    role = _METADATA
    if name.startswith(_RESERVED):
        role = _FORGED
    elif name.startswith(b"grpc") or name.endswith(b"-bin"):
        role = _ODD
    if len(_ROLES) < _ROLES_KNOWN:
        _ROLES[name] = role
    return role


def call_of(
    head: RequestHead, path: bytes, lines: list[Field], sifted: Sifted, deadline_ms: int = -1, *, repeatable: bool = False
) -> RequestHead:
    """The head of the call that a request means.

    Where its fields are no metadata (`sifted.unsound`), the head carries none of them, and the call is to be refused: as a call, for
    what rules say of the path as a plain request is not meant for it.

    Args:
        head: Of the request, validated.
        path: Of the method.
        lines: What gRPC asks for in front: content-type, then codings.
        sifted: Its fields.
        deadline_ms: What the dialect's own field leaves; -1: it does not say.
        repeatable: The method changes nothing, whatever the verb.
    """
    special = [lines[0], *sifted.special]
    call = RequestHead(0, b"POST", head.scheme, head.authority, path, b"", lines + sifted.fields, UNKNOWN, special)
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
    if sifted.odd and not is_call_sound(call):
        sifted.unsound = True
        call.fields = lines
    return call


_LENGTHS: Final[dict[int, Field]] = {}
_LENGTHS_KNOWN: Final = 1024


def length_line(octets: int) -> Field:
    """The content-length of so many octets."""
    line = _LENGTHS.get(octets)
    if line is None:
        if len(_LENGTHS) >= _LENGTHS_KNOWN:
            _LENGTHS.clear()
        line = _LENGTHS[octets] = classified(b"content-length", b"%d" % octets)
    return line


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
        and not line.name.startswith(_RESERVED)
        and line.name != b"trailer"
    ]


def refusal(fields: list[Field]) -> list[Field]:
    """What tells another sidecar that we have refused, taken out of `fields`: it belongs in the head of whatever the caller gets."""
    return [line for line in fields if line.name == REFUSAL]

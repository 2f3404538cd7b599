"""Object patterns on canonical paths: exact, `:name` for one segment, a final `/*` for everything below.

Nothing else is special, and there is no regular expression: a match costs at most one pass over the path, whatever
the pattern and the path (threats C14, D2). Paths are canonical ASCII octets, as the request validator leaves them;
patterns are compared with them octet by octet and case-sensitively.

    /items          /items alone
    /items/*        /items/, /items/1, /items/1/parts      not /items
    /items/:id      /items/1                               not /items/, not /items/1/parts
    /items/:id/*    /items/1/, /items/1/parts              not /items/1
    /*              every path, also the `*` of OPTIONS
"""

from __future__ import annotations

from typing import Final

_ANY: Final = 0
_EXACT: Final = 1
_BELOW: Final = 2
_SEGMENTS: Final = 3

_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# RFC 3986 3.3 pchar, without the `;` that the validator refuses inside a segment (threats D1).
_SEGMENT: Final = _UNRESERVED | frozenset("!$&'()*+,=:@")
_HEX: Final = frozenset("0123456789ABCDEF")


class Pattern:
    """A compiled pattern."""

    __slots__ = ("_kind", "_octets", "_open", "_segments", "first", "text")

    def __init__(self, text: str) -> None:
        """Compile it.

        Args:
            text: The pattern, ASCII. What `complaint` finds fault with compiles too, but may match nothing.
        """
        self.text = text
        octets = text.encode("ascii")
        self._open = octets.endswith(b"/*")
        """Everything below matches too."""
        self._octets = octets[:-1] if self._open else octets
        """The path itself, or what every path below begins with (then its last octet is `/`)."""
        segments = (octets[:-2] if self._open else octets).split(b"/")
        self._segments: tuple[bytes | None, ...] = tuple(
            None if len(segment) > 1 and segment.startswith(b":") else segment for segment in segments
        )
        """Between the slashes, from the empty one before the first; None is any one segment that is not empty."""
        self.first: bytes | None = self._segments[1] if len(self._segments) > 1 else None
        """The first segment of every path that matches; None when it can be more than one."""
        if octets == b"/*":
            self._kind = _ANY
        elif None in self._segments:
            self._kind = _SEGMENTS
        else:
            self._kind = _BELOW if self._open else _EXACT

    def matches(self, path: bytes) -> bool:
        """Whether a canonical path is one of those that the pattern names."""
        kind = self._kind
        if kind == _EXACT:
            return path == self._octets
        if kind == _BELOW:
            return path.startswith(self._octets)
        if kind == _ANY:
            return True
        wanted = self._segments
        count = len(wanted)
        segments = path.split(b"/", count)
        if len(segments) != (count + 1 if self._open else count):
            return False
        for want, segment in zip(wanted, segments, strict=False):
            if want is None:
                if not segment:
                    return False
            elif want != segment:
                return False
        return True

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def first_segment(path: bytes) -> bytes:
    """What stands between the first slash and the second: `items` of `/items/1`."""
    end = path.find(b"/", 1)
    return path[1:end] if end > 0 else path[1:]


def complaint(text: str) -> tuple[str, str] | None:
    """What is wrong with a pattern that an operator wrote.

    A pattern that no canonical path can ever match, or that is likely to be read as more than it says, is a mistake.

    Returns:
        What is wrong, and what to write instead; None when it is fine.
    """
    if not text.startswith("/"):
        return f"{text!r} does not begin with a slash", f"write {'/' + text.lstrip('/')!r}"
    if "?" in text or "#" in text:
        return f"{text!r} holds a query or a fragment", "write the path alone: routes do not look at the query"
    body = text.removesuffix("/*")
    if "*" in body:
        return f"{text!r} has a `*` that is not the final `/*`", "write `:name` for one segment, or a final `/*` for everything below"
    segments = body.split("/")[1:]
    if "" in segments[:-1] or (body != text and segments[-1:] == [""]):
        return f"{text!r} has an empty segment", "write one slash: `//` is refused in every request"
    if "." in segments or ".." in segments:
        return f"{text!r} has a dot segment", "write the path without `.` and `..`: they are refused in every request"
    if ":" in segments:
        return f"{text!r} has a `:` without a name", "write a name behind it, such as `:id`"
    return _octets_complaint(text)


def _octets_complaint(text: str) -> tuple[str, str] | None:
    at = 0
    while at < len(text):
        char = text[at]
        if char == "%":
            pair = text[at + 1 : at + 3]
            if len(pair) < 2 or not _HEX.issuperset(pair):
                return f"{text!r} has a `%` without two upper-case hexadecimal digits", "write it as in `%20`"
            if chr(int(pair, 16)) in _UNRESERVED:
                return f"{text!r} writes `{chr(int(pair, 16))}` as `%{pair}`", "write the character itself: paths are compared in that form"
            at += 3
        elif char == "/" or char in _SEGMENT:
            at += 1
        else:
            return f"{text!r} holds {char!r}, which no canonical path holds", "write it percent-encoded, as in `%20`"
    return None

"""Path templates of `google.api.http`: what they say, which paths fit them, and the path that variables make.

    Template = "/" [ Segments ] [ Verb ]         Segment  = "*" | "**" | LITERAL | Variable
    Verb     = ":" LITERAL                       Variable = "{" FieldPath [ "=" Segments ] "}"

Source: the comment of `google/api/http.proto`. Two things it leaves open are settled here:

- Of a variable of several segments everything is decoded but `%2F`, as the comment of `HttpRule` says: that of `Http` would
  leave every reserved character as it is, and then what a caller encodes would not be what the module reads.
- `/` alone is a template, that of the root.

Paths are canonical (`codecs.validate.canonical_path`), and only such paths are made: a value that would make another one
(`..`, a slash in a single segment) does not fit, for what is authorised must be what the far side reads (threats D1, F1).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from flui.codecs.validate import canonical_path

MAX_SEGMENTS: Final = 64

_LITERAL: Final = "!$&'()*+,=:@%"
"""What a literal may hold as it is, beside what is unreserved (RFC 3986 3.3, without `;`: threats D1)."""
_HEX: Final = "0123456789ABCDEFabcdef"
_OCTETS: Final[dict[bytes, bytes]] = {(high + low).encode(): bytes((int(high + low, 16),)) for high in _HEX for low in _HEX}


class RuleError(ValueError):
    """A rule cannot be served. Its text is a sentence for whoever wrote the proto file."""


class Segment:
    """What stands between two slashes of a template."""

    __slots__ = ("deep", "literal", "written")

    def __init__(self, literal: bytes | None, written: bytes, *, deep: bool = False) -> None:
        self.literal = literal
        """Its octets, percent-decoded; None: any."""
        self.written = written
        """A literal as a canonical path has it."""
        self.deep = deep
        """`**`: any number of segments, none included."""


ANY: Final = Segment(None, b"")
DEEP: Final = Segment(None, b"", deep=True)


class Variable:
    """A variable of a template: the segments from `first` up to `last`."""

    __slots__ = ("deep", "first", "last", "names", "several")

    def __init__(self, names: tuple[str, ...], first: int, last: int, *, deep: bool) -> None:
        self.names = names
        """Of the field, and of those it is in: `{book.name}`."""
        self.first = first
        self.last = last
        self.deep = deep
        """Ends in `**`: it goes on to the end of the path."""
        self.several = deep or last - first != 1
        """Its value has slashes of its own, which are not encoded."""


class Template:
    """A path template, read."""

    __slots__ = ("segments", "text", "variables", "verb")

    def __init__(self, text: str, segments: tuple[Segment, ...], variables: tuple[Variable, ...], verb: bytes) -> None:
        self.text = text
        self.segments = segments
        self.variables = variables
        """In the order of the path."""
        self.verb = verb
        """Without the colon; empty: none."""

    def match(self, path: bytes) -> tuple[bytes, ...] | None:
        """What a canonical path says for the variables, still encoded; None: it does not fit."""
        if self.verb:
            if not path.endswith(b":" + self.verb):
                return None
            path = path[: -1 - len(self.verb)]
        if not path.startswith(b"/"):
            return None
        parts = split(path, len(self.segments))
        return self.captures(parts) if _fits(self.segments, [decoded(part) or b"" for part in parts]) else None

    def captures(self, parts: list[bytes]) -> tuple[bytes, ...]:
        """What the segments of a path that fits say for the variables, still encoded."""
        found: list[bytes] = []
        for variable in self.variables:
            if not variable.several:
                found.append(parts[variable.first])
            else:
                found.append(b"/".join(parts[variable.first :] if variable.deep else parts[variable.first : variable.last]))
        return tuple(found)

    def expand(self, values: list[str]) -> bytes | None:
        """The path that has these values.

        Args:
            values: of each variable, in their order.

        Returns:
            A canonical path that gives the values back; None when there is none: a value does not fit its variable, no
            canonical path could hold it, or a `*` stands in no variable.
        """
        out: list[bytes] = []
        at = number = 0
        while at < len(self.segments):
            if number < len(self.variables) and self.variables[number].first == at:
                variable = self.variables[number]
                if not _write(self.segments[at : variable.last], values[number], several=variable.several, out=out):
                    return None
                at = variable.last
                number += 1
                continue
            segment = self.segments[at]
            if segment.literal is not None:
                out.append(segment.written)
            elif not segment.deep:
                return None
            at += 1
        path = b"/" + b"/".join(out)
        if self.verb:
            path += b":" + self.verb
        return path if canonical_path(path) == path else None

    def takes(self, number: int, value: str) -> bool:
        """Whether a variable, by its number, can have a value: a path that does not come about has one that cannot."""
        variable = self.variables[number]
        out: list[bytes] = []
        fits = _write(self.segments[variable.first : variable.last], value, several=variable.several, out=out)
        return fits and canonical_path(b"/" + b"/".join(out)) is not None


def split(path: bytes, most: int) -> list[bytes]:
    """The segments of a path, cut at most `most` times behind the first slash: none for the root."""
    return path[1:].split(b"/", most) if len(path) > 1 else []


def decoded(octets: bytes) -> bytes | None:
    """Percent-decoded; None: a `%` without two hexadecimal digits."""
    if b"%" not in octets:
        return octets
    parts = octets.split(b"%")
    out = [parts[0]]
    for at in range(1, len(parts)):
        part = parts[at]
        octet = _OCTETS.get(part[:2])
        if octet is None:
            return None
        out.append(octet)
        out.append(part[2:])
    return b"".join(out)


def value_of(capture: bytes, *, several: bool) -> str | None:
    """The text that a variable was given.

    Args:
        capture: from `match`.
        several: the variable has several segments: `%2F` stays as it is.

    Returns:
        The text; None: it is no UTF-8.
    """
    if b"%" in capture:
        if several and b"%2F" in capture.upper():
            # A slash that was encoded is none of the slashes between segments.
            capture = capture.replace(b"%2F", b"%252F").replace(b"%2f", b"%252f")
        plain = decoded(capture)
        if plain is None:
            return None
        capture = plain
    try:
        return capture.decode()
    except UnicodeDecodeError:
        return None


def _fits(segments: tuple[Segment, ...], parts: list[bytes]) -> bool:
    """Whether decoded parts are what the segments ask for; the last part may hold all that is left."""
    open_end = bool(segments) and segments[-1].deep
    fixed = len(segments) - 1 if open_end else len(segments)
    if len(parts) < fixed or (len(parts) > fixed and not open_end):
        return False
    for at in range(fixed):
        literal = segments[at].literal
        if not parts[at] if literal is None else parts[at] != literal:
            return False
    return True


def _write(segments: tuple[Segment, ...], value: str, *, several: bool, out: list[bytes]) -> bool:
    """Writes a value as the segments of its variable; False: it does not fit them."""
    texts = ([value] if not several else value.split("/", len(segments))) if value else []
    try:
        parts = [text.encode() for text in texts]
    except UnicodeEncodeError:
        return False
    if not _fits(segments, parts):
        return False
    for at, part in enumerate(parts):
        segment = segments[at] if at < len(segments) else DEEP
        if segment.literal is None:
            out.append(quote(part, safe="/" if several and segment.deep else "").encode())
        else:
            out.append(segment.written)
    return True


def read(text: str) -> Template:
    """Reads a template.

    Raises:
        RuleError: it is none, or one that no path can fit.
    """
    if not text.startswith("/"):
        raise RuleError(f"the path {text!r} does not begin with a slash; write {'/' + text!r}")
    segments: list[Segment] = []
    variables: list[Variable] = []
    verb = ""
    at = 1
    while len(text) > 1:
        if text.startswith("{", at):
            close = text.find("}", at)
            if close < 0:
                raise RuleError(f"the path {text!r} has a `{{` without its `}}`")
            variables.append(_variable(text, text[at + 1 : close], segments))
            at = close + 1
        else:
            end = text.find("/", at)
            part = text[at:] if end < 0 else text[at:end]
            at = len(text) if end < 0 else end
            if end < 0 and ":" in part:
                # The last colon begins the verb, unless it stands in a variable, which was read above.
                at -= len(part) - part.rindex(":")
                part = part[: part.rindex(":")]
            segments.append(_segment(text, part))
        if at == len(text):
            break
        if text[at] == ":" and "/" not in text[at:]:
            verb = text[at + 1 :]
            if not verb or ":" in verb:
                raise RuleError(f"the path {text!r} has a colon that begins no verb; write `:verb` once, at its end")
            break
        if text[at] != "/":
            raise RuleError(f"the path {text!r} goes on behind a variable; a variable is a whole segment, so write `/` there")
        at += 1
    if len(segments) > MAX_SEGMENTS:
        raise RuleError(f"the path {text!r} has more than {MAX_SEGMENTS} segments")
    for segment in segments[:-1]:
        if segment.deep:
            raise RuleError(f"the path {text!r} goes on behind `**`; only a verb may stand there")
    return Template(text, tuple(segments), tuple(variables), _literal(text, verb) if verb else b"")


def _variable(text: str, inner: str, segments: list[Segment]) -> Variable:
    name, equals, pattern = inner.partition("=")
    names = tuple(name.split("."))
    for part in names:
        if not part.isidentifier() or not part.isascii():
            raise RuleError(f"the path {text!r} has the variable {name!r}, which is no name of a field")
    first = len(segments)
    for part in pattern.split("/") if equals else ["*"]:
        if "{" in part:
            raise RuleError(f"the path {text!r} has a variable in the variable {name!r}; write them one behind the other")
        segments.append(_segment(text, part))
    return Variable(names, first, len(segments), deep=segments[-1].deep)


def _segment(text: str, part: str) -> Segment:
    if part == "*":
        return ANY
    if part == "**":
        return DEEP
    if not part:
        raise RuleError(f"the path {text!r} has an empty segment")
    written = _literal(text, part)
    return Segment(decoded(written), written)


def _literal(text: str, part: str) -> bytes:
    """A literal as canonical paths have it."""
    for char in part:
        if char in "{}*?#":
            raise RuleError(f"the path {text!r} has a {char!r} within {part!r}; `*`, `**` and variables are whole segments")
    written = canonical_path(b"/" + quote(part, safe=_LITERAL).encode())
    if written is None:
        raise RuleError(f"the path {text!r} holds {part!r}, which is in no path that is let in")
    return written[1:]

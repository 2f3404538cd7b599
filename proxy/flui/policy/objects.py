"""Object patterns: what they may look like and, in a few lines, what they mean.

`matches` is the definition. It is what `fluiMatch` is in a model, and what the index must equal. Casbin's own keyMatch2
to keyMatch5 and regexMatch are regular expressions with `.` left as it is and `$` before a newline, so none says it.

- `/items/7` is itself; nothing in it is special, `.` `+` `(` neither.
- a final `/*` is everything below: `/items/*` is `/items/1`, `/items/1/2` and `/items/`, not `/items`; `/*` is every path.
- a segment `:name` is any one segment that is not empty.
- in `topic:orders.*` a final `.*` is everything below, in the same way.
"""

from __future__ import annotations

import re
from typing import Final

TOPIC: Final = "topic:"

_PARAM: Final = re.compile(r":[A-Za-z_][A-Za-z0-9_-]*")
_TOPIC_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?")
_ESCAPE: Final = re.compile(r"%([0-9A-F]{2})?")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# RFC 3986 3.3 pchar, without the `;` that the request validator refuses (threats D1)
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._~!$&'()*+,=:@%-]")
_KEY_MATCH2_SPECIAL: Final = frozenset(".+()[]{}?^$|\\")


def separator_of(text: str) -> str:
    """What parts the segments of an object or a pattern."""
    return "." if text.startswith(TOPIC) else "/"


def is_param(segment: str, separator: str) -> bool:
    """Whether a pattern's segment stands for any one segment."""
    return separator == "/" and len(segment) > 1 and segment.startswith(":")


def matches(obj: str, pattern: str) -> bool:
    """Whether an object is what a pattern says. Time: linear in the two lengths."""
    separator = separator_of(pattern)
    below = pattern.endswith(separator + "*")
    want = (pattern[:-2] if below else pattern).split(separator)
    have = obj.split(separator)
    if len(have) <= len(want) if below else len(have) != len(want):
        return False
    return all(bool(there) if is_param(segment, separator) else there == segment for segment, there in zip(want, have, strict=False))


def is_pattern(text: str) -> bool:
    """Whether anything in a well-formed pattern is more than itself."""
    separator = separator_of(text)
    return text.endswith(separator + "*") or any(is_param(segment, separator) for segment in text.split(separator))


def fault_in(text: str) -> tuple[str, str] | None:
    """What is wrong with a pattern and what to write instead; None when it is well formed.

    A path that no canonical path can equal is a fault too: a deny rule with it would protect nothing.
    """
    if text.startswith(TOPIC):
        if _TOPIC_NAME.fullmatch(text[len(TOPIC) :]) is None:
            return f"`{text}` is not a topic", "write topic:NAME (letters, digits, `.`, `_`, `-`) or topic:NAME.* for all below"
        return None
    if not text.startswith("/"):
        return f"`{text}` is neither a path nor a topic", "begin it with `/` or `topic:`"
    segments = text[1:].split("/")
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        fault = _fault_in_segment(segment, last=last)
        if fault is not None:
            return fault
    return None


def _fault_in_segment(segment: str, *, last: bool) -> tuple[str, str] | None:
    if segment == "*":
        return None if last else ("`*` is only the last segment", "write :name for one segment in the middle")
    if "*" in segment:
        return f"`*` means nothing inside `{segment}`", "write a final `/*` for everything below, or :name for one segment"
    if segment.startswith(":") and _PARAM.fullmatch(segment) is None:
        return f"`{segment}` does not name a segment", "write `:` and a name (letters, digits, `_`, `-`) as the whole segment"
    if not segment and not last:
        return "`//` never stands in a request's path", "write one `/`"
    if segment in {".", ".."}:
        return f"`{segment}` never stands in a request's path", "write the path that it leads to"
    foreign = _FOREIGN.search(segment)
    if foreign is not None:
        return f"`{foreign.group(0)}` never stands in a canonical path", "leave out query and parameters; write the rest as in %20"
    for escape in _ESCAPE.finditer(segment):
        code = int(escape.group(1), 16) if escape.group(1) else -1
        if code < 0:
            return f"`%` in `{segment}` has not two upper-case digits behind it", "write it as in %2C, as canonical paths do"
        if code in _UNRESERVED:
            return f"`{escape.group(0)}` never stands in a canonical path", "write the character itself"
        if code < 0x20 or code in b"/\\\x7f":
            return f"`{escape.group(0)}` is refused in every request", "leave the rule out"
    return None


def key_match2_differs(text: str) -> str | None:
    """Why Casbin's keyMatch2 reads a well-formed pattern otherwise than `matches` does; None when it does not."""
    if text.startswith(TOPIC):
        return "keyMatch2 reads `:` as the start of a name"
    special = sorted(set(text) & _KEY_MATCH2_SPECIAL)
    if special:
        return f"keyMatch2 reads `{special[0]}` as a regular expression"
    for segment in text.split("/"):
        if ":" in segment[1:]:
            return "keyMatch2 reads `:` inside a segment as the start of a name"
    return None


def key_match_differs(text: str) -> str | None:
    """Why Casbin's keyMatch reads a well-formed pattern otherwise than `matches` does; None when it does not."""
    separator = separator_of(text)
    if any(is_param(segment, separator) for segment in text.split(separator)):
        return "keyMatch knows no `:name`"
    return None

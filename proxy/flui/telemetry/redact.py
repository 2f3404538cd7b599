"""Redaction: the parts of a path that tell who somebody is are left out before anybody sees it.

Which parts those are is said with object patterns (`policy/objects.py` defines them): what `:name` and a final `/*` match is
written as `-`. Of several patterns that match, each takes out its own parts, so that none ever shows what another one hides.

    /users/:id        /users/jane          /users/-          not /users/jane/orders, not /users/jane/
    /users/*          /users/jane/orders   /users/-
    /a/:x/c  /a/b/:y  /a/b/c               /a/-/-
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HIDDEN: Final = b"-"
"""Stands for what was left out."""

_KEPT: Final = 4_096
"""Paths remembered; all are forgotten when there are more."""
_KEPT_OCTETS: Final = 256
"""Octets of a path that is remembered."""


class _Form:
    """A compiled pattern."""

    __slots__ = ("below", "hidden", "segments")

    def __init__(self, text: str) -> None:
        self.below = text.endswith("/*")
        """Everything behind the segments is hidden."""
        segments = (text[:-2] if self.below else text).encode("utf-8", "backslashreplace").split(b"/")
        self.segments = tuple(None if len(segment) > 1 and segment.startswith(b":") else segment for segment in segments)
        """Between the slashes, from the empty one before the first; None is any one segment that is not empty."""
        self.hidden = tuple(at for at, segment in enumerate(self.segments) if segment is None)

    def matches(self, path: list[bytes]) -> bool:
        """Whether the segments of a path are what the pattern says."""
        count = len(self.segments)
        if len(path) <= count if self.below else len(path) != count:
            return False
        for want, there in zip(self.segments, path, strict=False):
            if want is None:
                if not there:
                    return False
            elif want != there:
                return False
        return True


class Redactor:
    """Takes out of paths what patterns name.

    Args:
        patterns: object patterns of paths. One that is not well formed matches nothing.
    """

    __slots__ = ("_anywhere", "_by_first", "_known")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._by_first: dict[bytes, tuple[_Form, ...]] = {}
        """By the first segment of the paths that match."""
        anywhere: list[_Form] = []
        by_first: dict[bytes, list[_Form]] = {}
        for text in patterns:
            form = _Form(text)
            first = form.segments[1] if len(form.segments) > 1 else None
            (anywhere if first is None else by_first.setdefault(first, [])).append(form)
        self._anywhere = tuple(anywhere)
        for first, forms in by_first.items():
            self._by_first[first] = (*forms, *anywhere)
        self._known: dict[bytes, bytes] = {}

    def path(self, path: bytes) -> bytes:
        """The path as it may be shown.

        Args:
            path: canonical, as the request validator leaves it. One that it has not seen may be spelt so that no pattern
                knows it: use `unseen`.
        """
        known = self._known
        shown = known.get(path)
        if shown is None:
            shown = self._shown(path)
            if len(path) <= _KEPT_OCTETS:
                if len(known) >= _KEPT:
                    known.clear()
                known[path] = shown
        return shown

    @staticmethod
    def unseen(path: bytes) -> bytes:
        """What is shown of a path that no validator has seen: nothing of it, only that there was one."""
        return HIDDEN if path else b""

    def _shown(self, path: bytes) -> bytes:
        segments = path.split(b"/")
        # `*` of OPTIONS and the like have no segments to hide
        forms = self._by_first.get(segments[1], self._anywhere) if len(segments) > 1 else ()
        hidden: set[int] = set()
        end = len(segments)
        for form in forms:
            if form.matches(segments):
                hidden.update(form.hidden)
                if form.below:
                    end = min(end, len(form.segments))
        if not hidden and end == len(segments):
            return path
        kept = [HIDDEN if at in hidden else segment for at, segment in enumerate(segments[:end])]
        if end < len(segments):
            kept.append(HIDDEN)
        return b"/".join(kept)


def redactor(patterns: tuple[str, ...]) -> Redactor | None:
    """The redactor of a configuration; None when there is nothing to redact, which then costs nothing."""
    return Redactor(patterns) if patterns else None

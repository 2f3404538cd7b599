"""Objects to rules: an exact table and a tree of segments, which give every rule that covers an object in one walk."""

from __future__ import annotations

from typing import Final

from flui.policy.base import ANY
from flui.policy.objects import TOPIC, is_param, is_pattern, separator_of

NONE: Final = 1 << 60
"""No rule; larger than any rule's number."""


class Leaf:
    """The rules that share service, action and object pattern: the number of the first one, by holder and effect."""

    __slots__ = ("allow", "deny")

    def __init__(self) -> None:
        self.allow: dict[str, int] = {}
        self.deny: dict[str, int] = {}


class Node:
    """A place in the tree: what the segments so far lead to."""

    __slots__ = ("below", "children", "here", "param")

    def __init__(self) -> None:
        self.children: dict[str, Node] = {}
        self.param: Node | None = None
        """Any one segment that is not empty."""
        self.here: Leaf | None = None
        """A pattern ends here."""
        self.below: Leaf | None = None
        """A pattern ends here in `/*` or `.*`."""


class ObjectTable:
    """The objects of the rules that share service and action."""

    __slots__ = ("_every", "_exact", "_root")

    def __init__(self) -> None:
        self._exact: dict[str, Leaf] = {}
        self._root: Node | None = None
        self._every: Leaf | None = None

    def leaf(self, pattern: str) -> tuple[Leaf, int]:
        """The leaf of a pattern, made if need be.

        Args:
            pattern: well formed, or `*`.

        Returns:
            The leaf, and how many separators of an object may matter to it: `parts_of` needs the largest of all.
        """
        if pattern == ANY:
            if self._every is None:
                self._every = Leaf()
            return self._every, 0
        if not is_pattern(pattern):
            exact = self._exact.get(pattern)
            if exact is None:
                exact = self._exact[pattern] = Leaf()
            return exact, 0
        separator = separator_of(pattern)
        segments = pattern.split(separator)
        below = segments[-1] == "*"
        if below:
            segments.pop()
        node = self._root = self._root or Node()
        for segment in segments:
            child = node.param if is_param(segment, separator) else node.children.get(segment)
            if child is None:
                child = Node()
                if is_param(segment, separator):
                    node.param = child
                else:
                    node.children[segment] = child
            node = child
        if below:
            leaf = node.below = node.below or Leaf()
        else:
            leaf = node.here = node.here or Leaf()
        return leaf, len(segments)

    def gather(self, obj: str, parts: list[str], leaves: list[Leaf]) -> None:
        """Append the leaf of every pattern that covers an object.

        Args:
            obj: the object.
            parts: `parts_of(obj, …)`.
            leaves: taken up where it ends.
        """
        if self._every is not None:
            leaves.append(self._every)
        exact = self._exact.get(obj)
        if exact is not None:
            leaves.append(exact)
        if self._root is None:
            return
        nodes = [self._root]
        for part in parts:
            reached: list[Node] = []
            for node in nodes:
                if node.below is not None:
                    leaves.append(node.below)
                child = node.children.get(part)
                if child is not None:
                    reached.append(child)
                if node.param is not None and part:
                    reached.append(node.param)
            if not reached:
                return
            nodes = reached
        leaves.extend(node.here for node in nodes if node.here is not None)


def parts_of(obj: str, depth: int) -> list[str]:
    """An object's segments, cut at most `depth` times, so that a caller's long path costs no more than the rules ask."""
    if obj.startswith("/"):
        return obj.split("/", depth)
    if obj.startswith(TOPIC):
        return obj.split(".", depth)
    return []

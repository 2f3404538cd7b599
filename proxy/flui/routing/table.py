"""The route table of one snapshot: which route a request takes.

Explicit routes come first, in the order in which they were written, and the first that matches wins. After them the
name of every service is a route to it: `orders` and `orders.flui`. Routes are indexed by host and by the first
segment of their path, so a request is compared with the few that can match and not with all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flui.model.topology import Cluster, HeaderMatch, Match, Route, Target
from flui.routing.pattern import Pattern, first_segment

SUFFIX: Final = ".flui"
"""A service may be called with it, so that its name looks like a host to libraries that ask for a dot."""


class _Rule:
    """One explicit route, compiled."""

    __slots__ = ("headers", "methods", "order", "pattern", "principals", "route")

    def __init__(self, order: int, route: Route) -> None:
        self.order = order
        self.route = route
        self.pattern = Pattern(route.match.path)
        self.methods: frozenset[bytes] = frozenset(method.encode("ascii") for method in route.match.methods)
        self.headers = route.match.headers
        self.principals = route.match.principals

    def holds(self, principal: str, method: bytes, path: bytes, values: Mapping[bytes, tuple[bytes, ...]]) -> bool:
        if self.methods and method not in self.methods:
            return False
        if not self.pattern.matches(path):
            return False
        if self.principals and not any(_is_called(principal, name) for name in self.principals):
            return False
        return all(_agrees(header, values) for header in self.headers)


def _is_called(principal: str, name: str) -> bool:
    """Whether a principal is the one of that name, or below it where the name ends in `/*`."""
    return principal == name or (name.endswith("/*") and principal.startswith(name[:-1]) and len(principal) >= len(name))


def _agrees(header: HeaderMatch, values: Mapping[bytes, tuple[bytes, ...]]) -> bool:
    """Whether the field is there and, where a value is asked for, every one of its values is that one (threats B5)."""
    found = values.get(header.name)
    if not found:
        return False
    return header.value is None or all(value == header.value for value in found)


class Table:
    """All routes of a snapshot, compiled once."""

    __slots__ = ("_by_name", "_rules", "reads")

    def __init__(self, routes: tuple[Route, ...], clusters: Mapping[str, Cluster]) -> None:
        """Compile and index the routes.

        Args:
            routes: Explicit routes, the first match wins.
            clusters: By name. Each but the module beside us (`local`) is also reachable by its name.
        """
        self._rules: dict[tuple[str, bytes | None], list[_Rule]] = {}
        """By host (empty: any) and first path segment (None: any); each list in the order of the routes."""
        names: set[bytes] = set()
        for order, route in enumerate(routes):
            rule = _Rule(order, route)
            names.update(header.name for header in route.match.headers)
            for host in dict.fromkeys(route.match.hosts or ("",)):
                self._rules.setdefault((host, rule.pattern.first), []).append(rule)
        self.reads: tuple[bytes, ...] = tuple(sorted(names))
        """Lower-case names of the header fields that some route asks about: what the facts must carry."""
        self._by_name: dict[str, Route] = {}
        for name, cluster in clusters.items():
            if not cluster.local:
                hosts = (name, name + SUFFIX)
                route = Route(name=name, match=Match(hosts=hosts), to=(Target(name),))
                for host in hosts:
                    self._by_name[host] = route

    def match(self, principal: str, method: bytes, host: str, path: bytes, values: Mapping[bytes, tuple[bytes, ...]]) -> Route | None:
        """The route of a request, or None: then there is nowhere to send it.

        Args:
            principal: Who asks.
            method: As on the wire.
            host: Authority in lower case, without port.
            path: Canonical, without query.
            values: Every value of each field named in `reads` that the request carries, in order.
        """
        best: _Rule | None = None
        rules = self._rules
        if rules:
            first = first_segment(path)
            for key in ((host, first), (host, None), ("", first), ("", None)):
                for rule in rules.get(key, ()):
                    if best is not None and best.order < rule.order:
                        break
                    if rule.holds(principal, method, path, values):
                        best = rule
                        break
        return best.route if best is not None else self._by_name.get(host)

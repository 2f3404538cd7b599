"""The pool of every cluster. They outlive snapshots, so that a reload keeps connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flui.model.config import Limits, Timeouts
from flui.model.topology import Cluster
from flui.upstream.pool import ClusterPool


class Pools:
    """The pool of every cluster; outlives snapshots, so that a reload keeps connections."""

    __slots__ = ("_make", "_retired", "by_name")

    def __init__(self, make: Callable[[Cluster], ClusterPool]) -> None:
        self._make = make
        self._retired: list[ClusterPool] = []
        self.by_name: dict[str, ClusterPool] = {}

    def update(self, clusters: Iterable[Cluster], limits: Limits, timeouts: Timeouts) -> None:
        """Makes the pools those of `clusters`.

        One whose identity, protocol or kind changed starts anew; exchanges under way end as they began.
        """
        wanted = {cluster.name: cluster for cluster in clusters}
        for name in list(self.by_name):
            if name not in wanted:
                self._retire(self.by_name.pop(name))
        for name, cluster in wanted.items():
            pool = self.by_name.get(name)
            if pool is None or _is_another(pool.cluster, cluster):
                if pool is not None:
                    self._retire(pool)
                self.by_name[name] = self._make(cluster)
            else:
                pool.tune(limits, timeouts)
                if pool.cluster != cluster:
                    pool.update(cluster)

    def _retire(self, pool: ClusterPool) -> None:
        pool.retire()
        self._retired = [retired for retired in (*self._retired, pool) if retired.open_count()]

    def _every(self) -> tuple[ClusterPool, ...]:
        return (*self.by_name.values(), *self._retired)

    def buffered_octets(self) -> int:
        """See `ClusterPool.buffered_octets`."""
        return sum(pool.buffered_octets() for pool in self._every())

    def close(self) -> None:
        """Closes every connection of every cluster."""
        for pool in self._every():
            pool.close()

    def tick(self, now: float) -> None:
        """See `ClusterPool.tick`."""
        for pool in self.by_name.values():
            pool.tick(now)

    def sweep(self, now: float, idle_s: float) -> None:
        """See `ClusterPool.sweep`."""
        for pool in self._every():
            pool.sweep(now, idle_s)

    def renew(self, unix_now: float) -> None:
        """See `ClusterPool.renew`."""
        for pool in self.by_name.values():
            pool.renew(unix_now)

    def lapsed(self, unix_now: float) -> bool:
        """See `ClusterPool.lapsed`."""
        return any(pool.lapsed(unix_now) for pool in self._every())

    def retrust(self) -> int:
        """See `ClusterPool.retrust`."""
        unix_now = time.time()  # noqa: TID251 - the edge: certificates are dated in wall-clock time
        return sum(pool.retrust(unix_now) for pool in self._every())


def _is_another(one: Cluster, other: Cluster) -> bool:
    """Whether connections of the one are of no use to the other."""
    return (one.identity, one.local, one.protocol) != (other.identity, other.local, other.protocol)

"""Which endpoints of a cluster get requests: what is judged of them, carried over to the members that pickers see."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flui.model.topology import Cluster
from flui.resilience.outlier import UNCHECKED, Judge, Vitals
from flui.routing.pick import Member
from flui.telemetry.families import EJECTIONS
from flui.telemetry.journal import Journal
from flui.telemetry.meters import Meters


class Fitness:
    """Judges the members of one cluster."""

    __slots__ = ("_by_vitals", "_changed", "_cluster", "_journal", "_judge", "_members", "_meters", "_told_panic", "interval_s", "panics")

    def __init__(self, cluster: Cluster, meters: Meters, journal: Journal | None, changed: Callable[[], None]) -> None:
        """Judges nobody yet.

        Args:
            cluster: Has the rules.
            meters: Where ejections are counted.
            journal: Where they are told.
            changed: Called after the standing of some member has changed.
        """
        self._cluster = cluster
        self._meters = meters
        self._journal = journal
        self._changed = changed
        self._judge = Judge(cluster.outlier)
        self._members: tuple[Member, ...] = ()
        self._by_vitals: dict[int, Member] = {}
        self._told_panic = False
        self.panics = False
        """Fewer than half of the members are well: all are used (or none, if the route says so)."""
        self.interval_s = _interval(cluster)
        """Seconds between two judgements."""

    def update(self, cluster: Cluster, members: Sequence[Member]) -> None:
        """Takes up another membership or other rules.

        Where health is checked, who is new gets no requests before its first check, and where it no longer is, nobody is
        held back for it.
        """
        if cluster.outlier != self._cluster.outlier:
            self._judge = Judge(cluster.outlier)
        self._cluster = cluster
        self.interval_s = _interval(cluster)
        known = self._by_vitals
        self._members = tuple(members)
        self._by_vitals = {id(member.vitals): member for member in members}
        judge = self._judge
        judge.update([member.vitals for member in members])
        now = time.monotonic()
        for vitals in (member.vitals for member in members):
            if cluster.health is None:
                judge.set_healthy(vitals, True, now)
            elif id(vitals) not in known:
                judge.await_check(vitals)
        self._settle([member.vitals for member in members])

    def tick(self, now: float) -> None:
        """Judges; call it every `interval_s`."""
        changed = self._judge.judge(now)
        if changed or self.panics != self._judge.panicking:
            self._settle(changed)

    def struck(self, member: Member, now: float) -> None:
        """`member` has failed too often in a row (`Vitals.strikes`): that is not put off until the next judgement."""
        if self._judge.struck(member.vitals, now):
            self._settle([member.vitals])

    def well(self, member: Member, healthy: bool, now: float) -> None:
        """An active health check has come to know something, or has changed its mind."""
        vitals = member.vitals
        if id(vitals) not in self._by_vitals:
            return
        was_unchecked = vitals.why == UNCHECKED
        self._judge.set_healthy(vitals, healthy, now)
        if was_unchecked and vitals.out:
            self._tell(member, vitals)
        self._settle([vitals])

    def _settle(self, changed: Sequence[Vitals]) -> None:
        self.panics = self._judge.panicking
        for vitals in changed:
            member = self._by_vitals.get(id(vitals))
            if member is None:
                continue
            if vitals.out != member.out:
                member.out = vitals.out
                self._tell(member, vitals)
        for member in self._members:
            member.available = self.panics or not member.out
            member.share = 1.0 if self.panics else member.vitals.share
        if self.panics != self._told_panic:
            self._tell_panic()
        self._changed()

    def _tell(self, member: Member, vitals: Vitals) -> None:
        if vitals.new if not vitals.out else vitals.why == UNCHECKED:
            return  # that an endpoint is new is no news of its health
        cluster = self._cluster.name
        name = member.endpoint.name
        if vitals.out:
            self._meters.count(EJECTIONS, cluster, name, vitals.why)
        if self._journal is not None:
            event = "endpoint taken out" if vitals.out else "endpoint comes back"
            self._journal.warn(event, cluster=cluster, endpoint=name, why=vitals.why)

    def _tell_panic(self) -> None:
        if any(member.vitals.why == UNCHECKED for member in self._members):
            return  # nothing is known yet
        self._told_panic = self.panics
        if self._journal is not None:
            event = "cluster panics" if self.panics else "cluster is well again"
            well = sum(1 for member in self._members if not member.out)
            self._journal.warn(event, cluster=self._cluster.name, well=well, endpoints=len(self._members))


def _interval(cluster: Cluster) -> float:
    return cluster.outlier.interval_s if cluster.outlier is not None else 1.0

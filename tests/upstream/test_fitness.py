"""What is judged of endpoints reaches those who pick, the metrics and the journal."""

import pytest

from flui.model.resilience import HealthCheck, Outlier
from flui.model.topology import Address, Cluster, Endpoint
from flui.resilience.outlier import UNCHECKED, UNHEALTHY, Standing
from flui.routing.pick import Member
from flui.telemetry.families import EJECTIONS
from flui.telemetry.journal import Journal
from flui.telemetry.meters import Meters
from flui.upstream.fitness import Fitness
from support.pki import wall_clock

CHECKED = HealthCheck()


class Lines:
    def __init__(self):
        self.lines = []

    def write(self, line):
        self.lines.append(line)

    def kick(self):
        pass


class Rig:
    """A fitness and what it has said."""

    def __init__(self, count, **more):
        self.meters = Meters()
        self.sink = Lines()
        self.changes = 0
        self.cluster = self.of(count, **more)
        self.members = [Member(endpoint) for endpoint in self.cluster.endpoints]
        self.fitness = Fitness(self.cluster, self.meters, Journal(self.sink, wall_clock, service="web"), self.changed)
        self.fitness.update(self.cluster, self.members)

    @staticmethod
    def of(count, **more):
        return Cluster("stock", tuple(Endpoint(f"stock-{n}", Address("127.0.0.1", 9_000 + n)) for n in range(count)), **more)

    def changed(self):
        self.changes += 1

    def fails(self, at, now, times=5):
        member = self.members[at]
        for _ in range(times):
            if member.vitals.failed_now() >= member.vitals.strikes:
                self.fitness.struck(member, now)

    def available(self):
        return [member.available for member in self.members]

    def said(self, event):
        return [line for line in self.sink.lines if f'"event":"{event}"'.encode() in line]


def test_an_endpoint_that_fails_in_a_row_is_out_at_once_counted_and_told():
    rig = Rig(3)
    rig.fails(0, 10.0)
    assert rig.available() == [False, True, True]
    assert rig.members[0].out
    assert rig.meters.samples(EJECTIONS) == {("stock", "stock-0", "consecutive"): 1}
    (line,) = rig.said("endpoint taken out")
    assert b'"endpoint":"stock-0"' in line
    assert b'"why":"consecutive"' in line


def test_it_comes_back_with_a_small_share_once_its_time_is_over_and_that_is_told():
    rig = Rig(3)
    rig.fails(0, 10.0)
    for now in (11.0, 12.0, 13.0):
        rig.fitness.tick(now)
        assert not rig.members[0].available
    rig.fitness.tick(14.0)
    assert rig.members[0].available
    assert 0 < rig.members[0].share <= 0.1
    assert len(rig.said("endpoint comes back")) == 1


def test_while_too_few_are_left_all_are_used_in_full_and_that_is_told_once():
    """Threats H4."""
    rig = Rig(3, outlier=Outlier(most_bp=10_000))
    rig.fails(0, 10.0)
    assert not rig.fitness.panics
    rig.fails(1, 10.0)
    assert rig.fitness.panics
    assert rig.available() == [True, True, True]
    assert [member.share for member in rig.members] == [1.0, 1.0, 1.0]
    assert [member.out for member in rig.members] == [True, True, False], "what is thought of them is still said"
    rig.fitness.tick(11.0)
    (line,) = rig.said("cluster panics")
    assert b'"well":1' in line
    assert b'"endpoints":3' in line
    rig.fitness.tick(14.5)
    assert not rig.fitness.panics
    assert len(rig.said("cluster is well again")) == 1


def test_who_is_new_gets_nothing_before_its_first_check_and_that_is_no_ejection():
    rig = Rig(3, health=CHECKED)
    assert rig.fitness.panics, "nothing is known about anybody: the route says whether all are used or none"
    assert all(member.vitals.why == UNCHECKED for member in rig.members)
    for member in rig.members:
        rig.fitness.well(member, healthy=True, now=1.0)
    assert rig.available() == [True, True, True]
    assert [member.share for member in rig.members] == [1.0, 1.0, 1.0], "nobody starts slowly who starts with all others"
    more = rig.of(4, health=CHECKED)
    newcomer = Member(more.endpoints[3])
    rig.fitness.update(more, [*rig.members, newcomer])
    assert not newcomer.available
    assert rig.available() == [True, True, True]
    rig.fitness.tick(2.0)
    assert not newcomer.available
    rig.fitness.well(newcomer, healthy=True, now=2.1)
    assert newcomer.available
    assert not rig.sink.lines
    assert not rig.meters.samples(EJECTIONS)


def test_a_newcomer_whose_first_check_fails_is_told_as_unhealthy():
    rig = Rig(3, health=CHECKED)
    for member in rig.members[:2]:
        rig.fitness.well(member, healthy=True, now=1.0)
    rig.fitness.well(rig.members[2], healthy=False, now=1.0)
    assert rig.members[2].vitals.why == UNHEALTHY
    assert rig.available() == [True, True, False]
    assert len(rig.said("endpoint taken out")) == 1
    assert rig.meters.samples(EJECTIONS) == {("stock", "stock-2", "unhealthy"): 1}
    rig.fitness.tick(2.0)
    assert rig.members[2].vitals.why == UNHEALTHY


def test_checks_that_begin_for_a_cluster_at_work_put_nobody_out_before_they_know():
    rig = Rig(3)
    checked = rig.of(3, health=CHECKED)
    rig.fitness.update(checked, rig.members)
    assert rig.available() == [True, True, True]
    assert not rig.fitness.panics
    rig.fitness.well(rig.members[0], healthy=False, now=1.0)
    assert rig.available() == [False, True, True]


def test_checks_that_end_hold_nobody_back():
    rig = Rig(3, health=CHECKED)
    for member in rig.members[1:]:
        rig.fitness.well(member, healthy=True, now=1.0)
    assert rig.available() == [False, True, True]
    rig.fitness.update(rig.of(3), rig.members)
    assert rig.available() == [True, True, True]
    assert all(not member.vitals.ill for member in rig.members)


@pytest.mark.parametrize("outlier", [Outlier(), None])
def test_who_is_ill_returns_when_its_check_says_so(outlier):
    rig = Rig(2, health=CHECKED, outlier=outlier)
    for member in rig.members:
        rig.fitness.well(member, healthy=True, now=1.0)
    rig.fitness.tick(1.5)
    rig.fitness.well(rig.members[0], healthy=False, now=2.0)
    assert rig.available() == [False, True]
    rig.fitness.well(rig.members[0], healthy=True, now=3.0)
    assert rig.available() == [True, True]
    assert (rig.members[0].share < 1.0) == (outlier is not None)


def test_a_member_that_has_left_changes_nothing_any_more():
    rig = Rig(3, health=CHECKED)
    gone = rig.members[2]
    rig.fitness.update(rig.of(2, health=CHECKED), rig.members[:2])
    changes = rig.changes
    rig.fitness.well(gone, healthy=True, now=1.0)
    assert rig.changes == changes


def test_one_that_fails_as_soon_as_it_is_new_returns_by_degrees_as_everyone_does():
    rig = Rig(3)
    rig.fails(0, 0.1)
    for now in (1.0, 2.0, 3.0, 4.0, 5.0):
        rig.fitness.tick(now)
    assert rig.members[0].vitals.standing is Standing.RETURNING
    assert rig.members[0].share < 0.1


def test_who_picks_is_told_of_every_change():
    rig = Rig(3)
    changes = rig.changes
    rig.fails(0, 1.0, times=4)
    assert rig.changes == changes
    rig.fails(0, 1.0, times=1)
    assert rig.changes == changes + 1

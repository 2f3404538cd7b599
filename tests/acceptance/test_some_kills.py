"""A few kills of real processes under load; a hundred of them are in `tests/acceptance/test_kills.py`."""

import asyncio
from random import Random

import pytest
import uvloop

from support.fleet import Fleet
from support.fleet_callers import OK, Traffic
from support.fleet_storm import Verdict, storm
from support.mesh import until

BUDGET = "retry_budget: {share: 100%, least: 64}"
ROUTE = "routes: [{name: orders, match: {hosts: [orders]}, to: orders, retry: {attempts: 4}}]"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_killed_module_or_sidecar_costs_no_idempotent_request_and_does_nothing_twice(tmp_path):
    async def story():
        random = Random(1)
        async with Fleet(tmp_path, service=BUDGET, more=ROUTE) as fleet:
            await fleet.start()
            traffic = Traffic(fleet.outbound, callers=16)
            traffic.start()
            await until(lambda: {one.replica for one in traffic.asked} >= set(fleet.names), "all replicas serve")
            for replica, down_s in (("orders-1", 0.0), ("orders-2", 0.0), ("orders-3", 1.0)):
                for part in ("module", "sidecar"):
                    await storm(fleet, [f"{replica}-{part}"], 1, random, down_s=(down_s, down_s), calm_s=(0.1, 0.2))
            await traffic.stop()
            verdict = Verdict(fleet, traffic)
            print("", *verdict.lines(), sep="\n")
            assert verdict.cut_off >= 6, "kills that hit nothing in progress show nothing"
            assert verdict.failures() == {}
            assert verdict.twice == []
            assert verdict.wrong == []
            assert max(verdict.recoveries()) <= 2.0
            assert max(verdict.outages()) <= 2.0
            assert fleet.trouble == []

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_caller_whose_own_sidecar_is_killed_connects_anew_and_is_served(tmp_path):
    async def story():
        async with Fleet(tmp_path, replicas=1) as fleet:
            await fleet.start()
            traffic = Traffic(fleet.outbound, callers=8)
            traffic.start()
            await until(lambda: len(traffic.asked) > 50, "requests are answered")
            kill = await fleet.kill("web-sidecar")
            await kill.back()
            await until(lambda: any(one.outcome == OK and one.began > kill.at for one in traffic.asked), "it is served", 2.0)
            await traffic.stop()
            verdict = Verdict(fleet, traffic)
            assert verdict.twice == []
            assert verdict.wrong == []
            assert {one.outcome for one in verdict.asked} <= {"ok", "lost", "cut"}
            assert fleet.trouble == []

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())

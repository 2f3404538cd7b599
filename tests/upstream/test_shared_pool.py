"""Lanes in a pool: as few connections as hold all, none that anybody waits for in vain, and the breaker's numbers."""

import asyncio

import pytest
from lanes import Asker, cluster, play, pool_of

from flui.model.config import Limits, Timeouts
from flui.model.fault import Fault
from flui.model.resilience import Breaker
from flui.model.topology import Protocol
from flui.telemetry.families import UPSTREAM_CONNECTS
from flui.telemetry.meters import Meters
from flui.upstream.dial import LANES, DialError
from flui.upstream.pools import Pools
from support.mesh import until


async def together(pool, count):
    """As many exchanges at once."""
    return await asyncio.gather(*(Asker(pool).ask() for _ in range(count)))


def test_requests_that_come_while_a_connection_is_dialled_share_it():
    async def story(stage):
        meters = Meters()
        module = await stage.module()
        pool = pool_of(cluster(module), meters=meters)
        dialling = [asyncio.ensure_future(Asker(pool).ask()) for _ in range(50)]
        await asyncio.sleep(0)
        assert pool.pending == 50
        askers = await asyncio.gather(*dialling)
        assert pool.pending == 0
        for asker in askers:
            assert (await asker.answered()).status == 200
            asker.release()
        assert len(module.connections) == 1
        assert meters.samples(UPSTREAM_CONNECTS) == {("stock", "connected"): 1}

    play(story)


def test_what_one_connection_does_not_hold_has_another():
    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        askers = await together(pool, LANES + 5)
        assert pool.open_count() == 2
        assert sorted(shared.busy for shared in pool._all) == [5, LANES]
        await until(lambda: sum(len(c.ended) for c in module.connections) == LANES + 5, "all are asked")
        askers[0].release()
        more = await Asker(pool).ask()
        assert more.up.shared is askers[0].up.shared, "a lane that came back is given out again"
        assert pool.open_count() == 2

    play(story)


def test_an_endpoint_that_takes_few_at_a_time_gets_few_on_each_connection():
    async def story(stage):
        module = await stage.module(answers=False, streams=2)
        pool = pool_of(cluster(module))
        first = await Asker(pool).ask()
        await until(lambda: first.up.shared.heard_at, "its settings are known")
        askers = await together(pool, 4)
        assert pool.open_count() == 3
        await until(lambda: sum(len(c.ended) for c in module.connections) == 5, "all are asked")
        assert max(len(c.ended) for c in module.connections) == 2
        assert not any(asker.heard for asker in askers)

    play(story)


def test_one_that_failed_to_connect_failed_for_all_who_waited_for_it():
    async def story(stage):
        module = await stage.module()
        module.stop()
        pool = pool_of(cluster(module))
        failed = await asyncio.gather(*(Asker(pool).connect() for _ in range(5)), return_exceptions=True)
        assert {type(error) for error in failed} == {DialError}
        assert {error.fault for error in failed} == {Fault.UPSTREAM_REFUSED}
        assert len({id(error) for error in failed}) == 5, "each has its own, for an error that is raised twice grows"
        assert pool.pending == 0

    play(story)


def test_who_dials_may_leave_and_those_who_waited_go_on():
    async def story(stage):
        module = await stage.module()
        pool = pool_of(cluster(module))
        dialler = asyncio.ensure_future(Asker(pool).connect())
        await asyncio.sleep(0)
        waiting = [asyncio.ensure_future(Asker(pool).ask()) for _ in range(3)]
        await asyncio.sleep(0)
        dialler.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialler
        for asker in await asyncio.gather(*waiting):
            assert (await asker.answered()).status == 200
        assert pool.open_count() == 1

    play(story)


def test_who_waits_may_leave_and_costs_no_lane():
    async def story(stage):
        module = await stage.module()
        pool = pool_of(cluster(module))
        dialler = asyncio.ensure_future(Asker(pool).ask())
        await asyncio.sleep(0)
        gone, abandons = Asker(pool), Asker(pool)
        cancelled = asyncio.ensure_future(gone.connect())
        abandoned = asyncio.ensure_future(abandons.connect())
        await asyncio.sleep(0)
        cancelled.cancel()
        pool.abandon(abandons)
        with pytest.raises(DialError) as left:
            await abandoned
        assert left.value.fault is Fault.CALLER_GONE
        asker = await dialler
        assert (asker.up.shared.busy, pool.pending) == (1, 0)

    play(story)


def test_who_is_cancelled_with_a_lane_already_in_hand_gives_it_back():
    async def story(stage):
        module = await stage.module()
        pool = pool_of(cluster(module))
        dialler = asyncio.ensure_future(Asker(pool).ask())
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(Asker(pool).connect())
        await until(dialler.done, "it is connected")
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait([waiting])
            assert dialler.result().up.shared.busy == 1

    play(story)


def test_where_the_breaker_allows_no_more_a_lane_that_comes_back_is_handed_over():
    async def story(stage):
        module = await stage.module(streams=2, answers=False)
        pool = pool_of(cluster(module, breaker=Breaker(connections=1)))
        one = await Asker(pool).ask()
        await until(lambda: one.up.shared.heard_at, "its settings are known")
        two = await Asker(pool).ask()
        waiting = asyncio.ensure_future(Asker(pool).ask())
        abandons = Asker(pool)
        abandoned = asyncio.ensure_future(abandons.connect())
        await until(lambda: pool.pending == 2, "they wait")
        pool.abandon(abandons)
        with pytest.raises(DialError):
            await abandoned
        one.release()
        three = await waiting
        assert three.up.shared is two.up.shared
        assert (pool.pending, pool.open_count(), three.up.shared.busy) == (0, 1, 2)

    play(story)


def test_where_the_breaker_allows_no_more_a_lane_at_another_member_does():
    async def story(stage):
        one, two = await stage.module(answers=False), await stage.module(answers=False)
        pool = pool_of(cluster(one, two, breaker=Breaker(connections=1)))
        first = await Asker(pool).ask()
        second = await Asker(pool).ask()
        assert second.up.shared is first.up.shared
        assert sorted(member.active for member in pool.members.values()) == [0, 2]
        assert len(one.connections) + len(two.connections) == 1

    play(story)


def test_too_many_who_wait_are_refused():
    async def story(stage):
        module = await stage.module()
        pool = pool_of(cluster(module, breaker=Breaker(pending=3)))
        found = await asyncio.gather(*(Asker(pool).connect() for _ in range(5)), return_exceptions=True)
        refused = [error for error in found if isinstance(error, DialError)]
        assert [error.fault for error in refused] == [Fault.CIRCUIT_OPEN] * 2
        assert pool.open_count() == 1

    play(story)


def test_a_shared_connection_idle_for_too_long_is_closed_gently():
    async def story(stage):
        module = await stage.module()
        pool = pool_of(cluster(module))
        asker = await (await Asker(pool).ask()).answered()
        pool.sweep(1e9, 50.0)
        assert pool.open_count() == 1, "it is in use"
        asker.release(10.0)
        pool.sweep(59.0, 50.0)
        assert pool.idle_count() == 1
        pool.sweep(61.0, 50.0)
        assert pool.ready(asker.up.member) is None, "no new exchange begins on it"
        await until(lambda: not pool.open_count(), "it ends")
        (there,) = module.connections
        await until(lambda: there.lost, "and its endpoint sees that")
        assert there.goaways == [0]

    play(story)


def test_a_member_that_went_keeps_what_is_under_way_and_gets_no_more():
    async def story(stage):
        module = await stage.module(answers=False)
        one = cluster(module)
        pool = pool_of(one)
        asker = await Asker(pool).ask()
        (there,) = module.connections
        await until(lambda: there.ended, "it is asked")
        pool.update(cluster())
        pool.update(one)
        again = await Asker(pool).ask()
        assert again.up.shared is not asker.up.shared
        there.respond(1, b"to the end")
        assert (await asker.answered()).body == b"to the end"
        asker.release()
        await until(lambda: there.lost and pool.open_count() == 1, "it ends with its last exchange")
        assert there.goaways == [0]

    play(story)


def test_a_cluster_that_changes_its_protocol_starts_anew():
    async def story(stage):
        module = await stage.module(answers=False)
        pools = Pools(pool_of)
        pools.update((cluster(module),), Limits(), Timeouts())
        pool = pools.by_name["stock"]
        asker = await Asker(pool).ask()
        await until(lambda: module.connections and module.connections[0].ended, "it is asked")
        pools.update((cluster(module, protocol=Protocol.AUTO),), Limits(), Timeouts())
        assert pools.by_name["stock"] is not pool
        module.connections[0].respond(1, b"to the end")
        assert (await asker.answered()).body == b"to the end"
        asker.release()
        await until(lambda: not pool.open_count(), "it ends")

    play(story)


def test_closing_reaches_every_lane():
    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        askers = await together(pool, 3)
        pool.close()
        for asker in askers:
            assert (await asker.answered()).fault is Fault.UPSTREAM_RESET
            asker.release()
        assert pool.open_count() == 0
        assert pool.active == 0

    play(story)


def test_each_lane_that_waits_is_told_to_its_endpoints_vitals():
    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        askers = await together(pool, 3)
        (member,) = pool.members.values()
        member.vitals.cap = 1.0
        for asker in askers[:2]:
            asker.waits_since = 10.0
        member.vitals.since = 0.0
        (shared,) = pool._all
        shared.unanswered(100.0)
        assert member.vitals.hanging == 2

    play(story)


def test_what_waits_to_be_sent_is_counted_once():
    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        await together(pool, 3)
        assert pool.buffered_octets() == sum(c.transport.get_write_buffer_size() for c in pool._all)
        assert len(pool._all) == 1

    play(story)

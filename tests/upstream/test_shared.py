"""One connection, many exchanges: each hears its own, none stops another, and what they say together leaves together (RFC 9113 5)."""

import asyncio

import pytest
from lanes import Asker, Down, cluster, play, pool_of

from flui.model.config import Limits
from flui.model.events import Credit, Data, End
from flui.model.fault import Fault
from flui.upstream.shared import Shared
from support.mesh import until


def wires(pool):
    """Counts the writes of each connection."""
    written = []
    for connection in pool._all:
        transport = connection.transport

        class Wire:
            def __init__(self, real):
                self.real = real

            def write(self, octets):
                written.append(octets)
                self.real.write(octets)

            def __getattr__(self, name):
                return getattr(self.real, name)

        connection.transport = Wire(transport)
    return written


async def asked(pool, count, **more):
    askers = [Asker(pool, **more) for _ in range(count)]
    for asker in askers:
        await asker.ask()
    return askers


def test_exchanges_interleave_on_one_connection_and_each_hears_its_own():
    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        askers = await asked(pool, 5)
        assert pool.open_count() == 1
        (there,) = module.connections
        await until(lambda: len(there.ended) == 5, "all are asked")
        for stream in (9, 1, 5, 3, 7):
            there.respond(stream, b"to %d " % stream, end=False)
        for stream in (1, 3, 5, 7, 9):
            there.more(stream, b"and so on", end=True)
        for asker, stream in zip(askers, (1, 3, 5, 7, 9), strict=True):
            await asker.answered()
            assert asker.body == b"to %d and so on" % stream
            assert {e.stream for e in asker.heard} == {stream}
        (member,) = pool.members.values()
        assert (member.active, pool.active, pool.idle_count()) == (5, 5, 0)
        for asker in askers:
            asker.release()
        assert (member.active, pool.active, pool.idle_count(), pool.open_count()) == (0, 0, 1, 1)
        assert not there.resets, "what has ended on both sides is not reset"

    play(story)


def test_the_next_exchange_comes_on_the_same_connection():
    async def story(stage):
        module = await stage.module()
        pool = pool_of(cluster(module))
        for _ in range(3):
            asker = await (await Asker(pool).ask()).answered()
            assert (asker.status, asker.body) == (200, b"ok\n")
            asker.release()
        assert len(module.connections) == 1
        assert module.connections[0].ended == [1, 3, 5]

    play(story)


def test_an_owner_is_told_once_and_a_caller_pumped_once_for_all_that_one_read_brought():
    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        one, two = Down(), Down()
        askers = await asked(pool, 4, down=one)
        more = await asked(pool, 2, down=two)
        (there,) = module.connections
        await until(lambda: len(there.ended) == 6, "all are asked")
        there.send = lambda: None
        for stream in there.ended:
            there.respond(stream, b"all at once")
        del there.send
        there.send()
        for asker in (*askers, *more):
            await asker.answered()
        assert [asker.told for asker in (*askers, *more)] == [1] * 6
        assert (one.pumped, two.pumped) == (1, 1)

    play(story)


def test_what_many_exchanges_say_in_one_turn_of_the_loop_is_one_write():
    async def story(stage):
        module = await stage.module()
        pool = pool_of(cluster(module))
        askers = [await Asker(pool).connect() for _ in range(10)]
        await until(lambda: module.connections and module.connections[0].reads, "the greeting is over")
        await asyncio.sleep(0)
        written = wires(pool)
        for asker in askers:
            asker.say()
            asker.up.flush()
        assert not written
        await asyncio.sleep(0)
        assert len(written) == 1
        for asker in askers:
            await asker.answered()

    play(story)


def test_a_flush_with_nothing_to_say_writes_nothing():
    async def story(stage):
        module = await stage.module()
        pool = pool_of(cluster(module))
        asker = await (await Asker(pool).ask()).answered()
        written = wires(pool)
        asker.up.flush()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not written

    play(story)


def test_a_stream_that_its_endpoint_resets_leaves_its_siblings_alone():
    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        one, two, three = await asked(pool, 3)
        (there,) = module.connections
        await until(lambda: len(there.ended) == 3, "all are asked")
        there.reset(1)
        there.reset(3, 7)
        there.respond(5, b"fine")
        assert (await one.answered()).fault is Fault.UPSTREAM_RESET
        assert (await two.answered()).fault is Fault.UPSTREAM_UNSENT, "REFUSED_STREAM: nobody has looked at it"
        assert (await three.answered()).body == b"fine"
        assert three.fault is None
        for asker in (one, two, three):
            asker.release()
        assert pool.idle_count() == 1

    play(story)


@pytest.mark.parametrize("begun", [False, True])
def test_an_exchange_given_up_half_way_is_reset_and_its_siblings_go_on(begun):
    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        one, two = await asked(pool, 2)
        (there,) = module.connections
        await until(lambda: len(there.ended) == 2, "both are asked")
        if begun:
            there.respond(1, b"some", end=False)
            await until(lambda: one.body, "its answer has begun")
        one.release()
        await until(lambda: there.resets, "it is told to stop")
        assert there.resets == [(1, 8)], "CANCEL"
        there.respond(3, b"fine")
        assert (await two.answered()).body == b"fine"
        assert not one.over
        assert pool.open_count() == 1

    play(story)


def test_a_caller_that_does_not_read_stops_no_other():
    """Issue 5, item 4: a stalled stream holds at most its window, and its siblings do not notice."""

    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        stalled = [await Asker(pool, takes=False).ask() for _ in range(20)]
        (there,) = module.connections
        await until(lambda: len(there.ended) == 20, "all are asked")
        for stream in list(there.ended):
            await until(
                lambda s=stream: there.h2.local_flow_control_window(s) >= Limits().stream_window_octets, "the connection's window is open"
            )
            there.respond(stream, bytes(1 << 20), end=False)
            await until(lambda s=stream: len(stalled[s // 2].body) == Limits().stream_window_octets, "its window is used up")
        for _ in range(5):
            asker = await Asker(pool).ask()
            await until(lambda: len(there.ended) > 20, "it is asked")
            there.respond(there.ended.pop(), b"x" * 60_000)
            assert len((await asker.answered()).body) == 60_000
            asker.release()
        assert {len(asker.body) for asker in stalled} == {Limits().stream_window_octets}
        assert len(module.connections) == 1
        for asker in stalled:
            asker.release()
        (shared,) = pool._all
        assert shared.codec.held_octets == 0
        asker = await Asker(pool).ask()
        await until(lambda: len(there.ended) > 20, "it is asked")
        there.respond(there.ended.pop(), b"x" * 60_000)
        assert len((await asker.answered()).body) == 60_000

    play(story)


def test_an_endpoint_that_does_not_take_one_request_is_sent_another():
    """No credit from the far side, no credit to the near side: for its own stream only."""

    async def story(stage):
        module = await stage.module(reads=False, window=10 << 20)
        pool = pool_of(cluster(module))
        upload = await Asker(pool).ask(b"", b"POST")
        (there,) = module.connections
        await until(lambda: there.heads, "it is asked")
        sent = credit = 0
        window = Limits().stream_window_octets
        while sent - credit < window:
            upload.up.codec.send(Data(upload.stream, bytes(8_192)))
            sent += 8_192
            upload.listen()
            credit = upload.credit
        await until(lambda: len(there.bodies[1]) >= 65_535, "its window is used up")
        assert credit <= 65_535 < sent <= 65_535 + window
        told = upload.told
        for _ in range(3):
            other = await Asker(pool).ask()
            assert (await other.answered()).status == 200
            other.release()
        assert len(there.bodies[1]) == 65_535
        there.h2.acknowledge_received_data(65_535, 1)
        there.send()
        await until(lambda: upload.credit > credit, "credit comes back with the window")
        assert upload.told > told
        upload.up.codec.send(End(upload.stream))
        upload.up.flush()
        await until(lambda: len(there.bodies[1]) == sent and upload.over, "and the rest goes")

    play(story)


def test_an_endpoint_that_goes_away_is_heard_of_by_every_exchange():
    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        askers = await asked(pool, 3)
        await until(lambda: module.connections and len(module.connections[0].ended) == 3, "all are asked")
        module.connections[0].transport.abort()
        for asker in askers:
            assert (await asker.answered()).fault is Fault.UPSTREAM_RESET
            asker.release()
        await until(lambda: not pool.open_count(), "it is forgotten")

    play(story)


def test_goaway_lets_those_below_end_gives_back_those_above_and_takes_no_new_ones():
    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        one, two = await asked(pool, 2)
        (there,) = module.connections
        await until(lambda: len(there.ended) == 2, "both are asked")
        there.leave(1)
        assert (await two.answered()).fault is Fault.UPSTREAM_UNSENT
        two.release()
        three = await Asker(pool).ask()
        assert three.up.shared is not one.up.shared
        assert pool.open_count() == 2
        there.respond(1, b"to the end")
        assert (await one.answered()).body == b"to the end"
        await until(lambda: there.lost, "the connection ends with its last exchange")
        one.release()
        await until(lambda: pool.open_count() == 1, "and is forgotten")

    play(story)


def test_goaway_to_nobody_ends_the_connection():
    async def story(stage):
        module = await stage.module()
        pool = pool_of(cluster(module))
        (await (await Asker(pool).ask()).answered()).release()
        module.connections[0].leave(1)
        await until(lambda: not pool.open_count(), "it is closed")
        assert (await (await Asker(pool).ask()).answered()).status == 200
        assert len(module.connections) == 2

    play(story)


def test_an_endpoint_that_speaks_no_http2_is_malformed_to_all():
    async def story(stage):
        module = await stage.module()
        server = await asyncio.get_running_loop().create_server(Old, "127.0.0.1", 0)
        module.address = type(module.address)("127.0.0.1", server.sockets[0].getsockname()[1])
        pool = pool_of(cluster(module))
        askers = await asked(pool, 2)
        for asker in askers:
            assert (await asker.answered()).fault is Fault.UPSTREAM_MALFORMED
            asker.release()
        await until(lambda: not pool.open_count(), "it is closed")
        server.close()

    class Old(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    play(story)


def test_a_connection_that_said_nothing_to_a_request_given_up_gets_no_more():
    """A peer that is gone without a word would else swallow one request after another."""

    async def story(stage):
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        slow = await Asker(pool).ask()
        (there,) = module.connections
        await until(lambda: there.ended, "it is asked")
        await until(lambda: slow.up.shared.heard_at, "it has said its greeting")
        quick = await Asker(pool).ask()
        shared = quick.up.shared
        quick.release(quick.up.opened_at + 0.5)
        assert shared.has_room, "a caller that leaves at once says nothing of the endpoint"
        late = await Asker(pool).ask()
        await until(lambda: len(there.ended) >= 2, "it is asked")
        shared.heard_at = late.up.opened_at - 0.01
        late.release(late.up.opened_at + 5.0)
        assert not shared.has_room
        there.respond(1, b"after all")
        assert (await slow.answered()).body == b"after all", "who is there stays"
        slow.release()
        await until(lambda: there.lost, "then it ends")

    play(story)


def test_a_mistake_in_one_exchange_ends_the_connection_and_the_others_hear_of_it():
    async def story(stage):
        loop = asyncio.get_running_loop()
        escaped = []
        loop.set_exception_handler(lambda _, context: escaped.append(context["exception"]))
        module = await stage.module(answers=False)
        pool = pool_of(cluster(module))
        bad, good = await asked(pool, 2)
        (there,) = module.connections
        await until(lambda: len(there.ended) == 2, "both are asked")

        def breaks(now):
            raise RuntimeError("a mistake")

        bad.upstream_spoke = breaks
        there.send = lambda: None
        there.respond(1, b"x")
        there.respond(3, b"y", end=False)
        del there.send
        there.send()
        await until(lambda: good.over, "the other one hears of it")
        assert good.fault is Fault.UPSTREAM_RESET
        assert any("a mistake" in str(e) for e in escaped)

    play(story)


def test_credit_that_comes_while_the_socket_is_full_comes_when_it_is_not():
    async def story(stage):
        module = await stage.module(window=10 << 20, stream_window=1 << 20)
        pool = pool_of(cluster(module))
        one = await Asker(pool).ask(b"", b"POST")
        await until(lambda: module.connections and module.connections[0].heads, "it is asked")
        shared = one.up.shared
        assert isinstance(shared, Shared)
        shared.pause_writing()
        one.up.codec.send(Data(one.stream, bytes(16_000)))
        one.up.codec.send(Data(one.stream, bytes(40_000)))
        one.up.flush()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not one.credit
        shared.resume_writing()
        assert one.credit == 56_000
        assert not any(isinstance(e, Credit) and e.stream != one.stream for e in one.heard)
        await until(lambda: len(module.connections[0].bodies[1]) == 56_000, "it is written")

    play(story)

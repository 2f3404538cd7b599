"""A second try beside a slow first one: the first answer is the only one that is heard, and whoever loses is told to stop."""

import asyncio
import time

import pytest

from flui.telemetry.families import HEDGES, RETRIES
from support.mesh import Mesh, answers, read_body, until
from support.resets import borrowed, pattern, reset, rested

GET = b"GET /items HTTP/1.1\r\nhost: stock\r\n\r\n"
AFTER_S = 0.06
BIG = 300_000


def answer(body, status=200, fields=b""):
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n" % (status, len(body), fields) + body


async def may_go(backend, reader):
    """Waits for `backend.go`; False when the caller has gone before."""
    going, leaving = asyncio.ensure_future(backend.go.wait()), asyncio.ensure_future(reader.read(1))
    await asyncio.wait((going, leaving), return_when=asyncio.FIRST_COMPLETED)
    gone = leaving.done()
    going.cancel()
    leaving.cancel()
    await asyncio.gather(going, leaving, return_exceptions=True)
    return not gone


def says(octets):
    """Answers so, once it may go on: `backend.go`."""

    async def does(backend, request, reader, writer):
        if request is not None:
            await read_body(request, reader)
            if not await may_go(backend, reader):
                return False
            writer.write(octets)
        return True

    return does


async def breaks(backend, request, reader, writer):
    """Resets, once it may go on."""
    if request is not None:
        await read_body(request, reader)
        if await may_go(backend, reader):
            reset(writer)
    return request is None


class Pair:
    """Two endpoints, of which the one asked first and the one asked second are known once they are asked."""

    def __init__(self, mesh, web, backends):
        self.mesh = mesh
        self.web = web
        self.backends = backends
        self.first = self.second = None

    async def asked(self):
        await until(lambda: any(b.requests for b in self.backends), "the first is asked")
        (self.first,) = [b for b in self.backends if b.requests]
        (self.second,) = [b for b in self.backends if not b.requests]
        return time.monotonic()

    async def hedged(self):
        await until(lambda: self.second.requests, "the second is asked")
        return time.monotonic()

    def counts(self):
        return {outcome: int(n) for (_, outcome), n in self.web.running.meters.samples(HEDGES).items() if n}

    @property
    def tries(self):
        return [len(b.requests) for b in (self.first, self.second)]


async def pair(mesh, one=answers, two=None, *, retry="", service="", count=2, route=""):
    """Both endpoints behave as `one`, or as `one` where they are asked first and `two` where they are asked second."""
    backends = []

    async def does(backend, request, reader, writer):
        if request is None:
            return True
        is_first = two is None or not any(b.requests for b in backends if b is not backend)
        return await (one if is_first else two)(backend, request, reader, writer)

    backends.extend([await mesh.backend(does) for _ in range(count)])
    addresses = [str(b.address) for b in backends]
    web = await mesh.sidecar(
        "web",
        services=f"  stock: {{endpoints: {addresses}, plaintext: true, balance: round_robin, outlier: off{service}}}",
        more=f"routes: [{{name: all, to: stock, retry: {{hedge_after: {AFTER_S * 1000:.0f}ms{retry}}}{route}}}]",
    )
    return Pair(mesh, web, backends)


def put(body):
    return b"PUT /items HTTP/1.1\r\nhost: stock\r\ncontent-length: %d\r\n\r\n" % len(body) + body


# --- who wins ---------------------------------------------------------------------------------------------------------------


def test_a_second_try_begins_when_the_first_is_slow_and_its_answer_is_the_one(tmp_path):
    mesh = Mesh(tmp_path)
    body = pattern(b"second", BIG)

    async def story():
        two = await pair(mesh, says(answer(pattern(b"first", BIG))), says(answer(body)))
        caller = await mesh.caller(two.web, None)
        sent = put(pattern(b"request", 50_000))
        await caller.send(sent)
        began = await two.asked()
        assert AFTER_S - 0.01 <= await two.hedged() - began < AFTER_S + 0.4
        assert not two.first.requests[0].get(b"flui-attempt")
        assert two.second.requests[0].get(b"flui-attempt") == b"2"
        two.second.go.set()
        got = await caller.answer()
        assert (got.status, got.body) == (200, body)
        assert [b.requests[0].body for b in two.backends] == [pattern(b"request", 50_000)] * 2
        await until(lambda: not two.first.open, "the loser's connection is closed")
        two.first.go.set()
        await until(two.web.log, "recorded")
        (record,) = two.web.log()
        assert (record["upstream"], record["attempts"]) == (str(two.second.address), 2)
        assert two.counts() == {"sent": 1, "won": 1}
        assert (await caller.ask(GET)).status == 200, "the caller's connection goes on"
        caller.close()
        await rested(two.web)

    mesh.run(story())


def test_a_first_try_that_answers_in_time_has_nobody_beside_it(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh)
        caller = await mesh.caller(two.web, None)
        for _ in range(20):
            assert (await caller.ask(GET)).status == 200
        await asyncio.sleep(2 * AFTER_S)
        assert sum(len(b.requests) for b in two.backends) == 20
        assert two.counts() == {}
        caller.close()
        await rested(two.web)

    mesh.run(story())


@pytest.mark.parametrize("status", [200, 404, 500])
def test_the_first_wins_with_its_head_and_the_second_is_cut_at_once(tmp_path, status):
    """Its body may still take long: the second is not kept until then. An answer that is no failed try is an answer."""
    mesh = Mesh(tmp_path)
    body = pattern(b"first", BIG)

    async def slowly(backend, request, reader, writer):
        if request is not None:
            if not await may_go(backend, reader):
                return False
            backend.go.clear()
            writer.write(answer(body, status)[:1000])
            await backend.go.wait()
            writer.write(answer(body, status)[1000:])
        return True

    async def story():
        two = await pair(mesh, slowly, says(answer(b"second")))
        caller = await mesh.caller(two.web, None)
        await caller.send(GET)
        await two.asked()
        await two.hedged()
        two.first.go.set()
        head = await caller.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        await until(lambda: not two.second.open, "the second is told to stop")
        pool = two.web.running.relay.pools.by_name["stock"]
        assert pool.guard.budget.used == 0
        assert pool.active == 1
        two.second.go.set()
        two.first.go.set()
        assert await caller.reader.readexactly(BIG) == body
        await until(two.web.log, "recorded")
        assert two.web.log()[0]["upstream"] == str(two.first.address)
        assert two.counts() == {"sent": 1}
        two.first.go.set()
        assert (await caller.ask(GET)).complete, "the caller's connection goes on"
        caller.close()
        await rested(two.web)

    mesh.run(story())


# --- failures ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["503", "500", "reset"])
def test_a_second_try_that_fails_leaves_the_first_alone(tmp_path, fails):
    mesh = Mesh(tmp_path)

    async def story():
        bad = breaks if fails == "reset" else says(answer(b"second", int(fails)))
        two = await pair(mesh, says(answer(b"first")), bad)
        caller = await mesh.caller(two.web, None)
        await caller.send(GET)
        await two.asked()
        await two.hedged()
        two.second.go.set()
        await until(lambda: not two.second.open, "it has failed, and is not used again")
        assert two.web.running.relay.pools.by_name["stock"].guard.budget.used == 0
        two.first.go.set()
        got = await caller.answer()
        assert (got.status, got.body) == (200, b"first")
        assert two.tries == [1, 1]
        caller.close()
        await rested(two.web)

    mesh.run(story())


@pytest.mark.parametrize("fails", ["503", "reset"])
def test_a_first_try_that_fails_leaves_the_second_alone(tmp_path, fails):
    mesh = Mesh(tmp_path)

    async def story():
        bad = breaks if fails == "reset" else says(answer(b"first", 503))
        two = await pair(mesh, bad, says(answer(b"second")))
        caller = await mesh.caller(two.web, None)
        await caller.send(GET)
        await two.asked()
        await two.hedged()
        two.first.go.set()
        if fails == "reset":
            await until(lambda: not two.first.open, "it has failed")
        await until(lambda: two.web.running.relay.pools.by_name["stock"].active == 1, "one is left")
        two.second.go.set()
        got = await caller.answer()
        assert (got.status, got.body) == (200, b"second")
        assert two.tries == [1, 1]
        caller.close()
        await rested(two.web)

    mesh.run(story())


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(("attempts", "status", "tries"), [(2, 502, 2), (3, 200, 3)])
def test_when_both_fail_it_is_as_after_any_failed_try(tmp_path, order, attempts, status, tries):
    """Two attempts: that was all. Three: one more, after the second failure and not before."""
    mesh = Mesh(tmp_path)
    seen = 0

    async def twice(backend, request, reader, writer):
        nonlocal seen
        if request is None:
            return True
        seen += 1
        return await (breaks if seen <= 2 else answers)(backend, request, reader, writer)

    async def story():
        two = await pair(mesh, twice, retry=f", attempts: {attempts}")
        caller = await mesh.caller(two.web, None)
        await caller.send(GET)
        await two.asked()
        await two.hedged()
        pool = two.web.running.relay.pools.by_name["stock"]
        one, other = (two.first, two.second) if order == "first" else (two.second, two.first)
        one.go.set()
        await until(lambda: pool.active == 1, "one is left")
        assert seen == 2
        other.go.set()
        got = await caller.answer()
        assert got.status == status
        assert seen == tries
        caller.close()
        await rested(two.web)

    mesh.run(story())


def test_the_last_answer_is_passed_on_when_nobody_else_is_left(tmp_path):
    """The first broke off, the second says 503: that is an answer, and better than none."""
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh, breaks, says(answer(b"second", 503, b"x-who: second\r\n")))
        caller = await mesh.caller(two.web, None)
        await caller.send(GET)
        await two.asked()
        await two.hedged()
        two.first.go.set()
        await until(lambda: two.web.running.relay.pools.by_name["stock"].active == 1, "one is left")
        two.second.go.set()
        got = await caller.answer()
        assert (got.status, got.body, got.get(b"x-who")) == (503, b"second", b"second")
        caller.close()
        await rested(two.web)

    mesh.run(story())


# --- dialling for it --------------------------------------------------------------------------------------------------------


def slow_dial(pool, held, *, from_number=2):
    """From its `from_number`-th on, every dial waits for `held`."""
    dial = type(pool).dial
    count = 0

    class Slow(type(pool)):
        __slots__ = ()

        async def dial(self, member, owner):
            nonlocal count
            count += 1
            if count >= from_number:
                await held.wait()
            return await dial(self, member, owner)

    pool.__class__ = Slow
    return lambda: count


@pytest.mark.parametrize("first", ["answers", "breaks"])
@pytest.mark.parametrize("second", ["connects", "is gone"])
def test_what_happens_while_the_second_is_dialled_for(tmp_path, first, second):
    """It counts as a try that is on: nobody begins a third beside it, and nothing is sent once the first has answered."""
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh, breaks if first == "breaks" else says(answer(b"first")), answers)
        pool = two.web.running.relay.pools.by_name["stock"]
        held = asyncio.Event()
        dials = slow_dial(pool, held)
        caller = await mesh.caller(two.web, None)
        await caller.send(GET)
        await two.asked()
        await until(lambda: dials() == 2, "the second is dialled for")
        if second == "is gone":
            await two.second.stop()
        two.first.go.set()
        if first == "answers":
            assert (await caller.answer()).body == b"first"
        else:
            await until(lambda: pool.active == 1, "one is left")
        held.set()
        if first == "breaks":
            got = await caller.answer()
            assert got.status == (200 if second == "connects" else 502)
            # Alone again, there is a try of the usual kind: at the first endpoint, which breaks off once more, or at the one that is gone.
            assert two.tries in ([[1, 1]] if second == "connects" else [[2, 0], [1, 0]])
        else:
            assert two.tries == [1, 0]
        await rested(two.web)
        if first == "answers" and second == "connects":
            assert pool.idle_count() == 2, "the connection that came too late waits for another request"
        caller.close()

    mesh.run(story())


def test_the_caller_may_go_while_both_are_on(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh, says(answer(b"x")))
        caller = await mesh.caller(two.web, None)
        await caller.send(GET)
        await two.asked()
        await two.hedged()
        assert borrowed(two.web)["stock"]["active"] == 2
        reset(caller.writer)
        await until(lambda: not two.first.open and not two.second.open, "both are left alone")
        await rested(two.web)
        assert two.web.log()[0]["fault"] == "caller_gone"

    mesh.run(story())


def test_the_caller_may_go_while_the_second_waits_for_a_connection(tmp_path):
    """The breaker allows one connection: the second try stands in the queue for it."""
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh, says(answer(b"x")), service=", breaker: {connections: 1}")
        pool = two.web.running.relay.pools.by_name["stock"]
        caller = await mesh.caller(two.web, None)
        await caller.send(GET)
        await two.asked()
        await until(lambda: pool.pending == 1, "the second waits")
        reset(caller.writer)
        await rested(two.web)
        assert two.tries == [1, 0]

    mesh.run(story())


def test_a_deadline_ends_both(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh, says(answer(b"x")), route=", timeout: 200ms")
        began = time.monotonic()
        got = await mesh.call(two.web, GET, None)
        assert got.status == 504
        assert 0.19 <= time.monotonic() - began < 0.7
        assert sorted(len(b.requests) for b in two.backends) == [1, 1]
        await until(lambda: not any(b.open for b in two.backends), "both are left alone")
        await rested(two.web)

    mesh.run(story())


def test_each_of_both_has_its_own_time(tmp_path):
    """per_try 120 ms: the first is given up at 120, the second, sent at 60, at 180; then there is nobody."""
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh, says(answer(b"x")), retry=", per_try: 120ms")
        began = time.monotonic()
        got = await mesh.call(two.web, GET, None)
        assert got.status in {502, 504}
        assert 0.17 <= time.monotonic() - began < 0.7
        assert sorted(len(b.requests) for b in two.backends) == [1, 1]
        await rested(two.web)

    mesh.run(story())


# --- when there is none -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_octets", "hedges"),
    [
        (GET, True),
        (put(b"x" * 65_536), True),
        (put(b"x" * 65_537), False),
        (GET.replace(b"GET", b"POST"), False),
        (put(b"hello").replace(b"PUT", b"POST"), False),
        (put(b"hello").replace(b"PUT", b"POST").replace(b"\r\n\r\n", b"\r\nidempotency-key: k\r\n\r\n"), True),
    ],
)
def test_only_what_may_be_repeated_and_is_still_held(tmp_path, request_octets, hedges):
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh, says(answer(b"x")))
        caller = await mesh.caller(two.web, None)
        await caller.send(request_octets)
        began = await two.asked()
        if hedges:
            await two.hedged()
        else:
            await until(lambda: time.monotonic() - began > 2 * AFTER_S, "twice the time has passed")
        assert two.tries == [1, int(hedges)]
        for backend in two.backends:
            backend.go.set()
        assert (await caller.answer()).status == 200
        caller.close()
        await rested(two.web)

    mesh.run(story())


def test_a_request_that_takes_long_to_arrive_gets_its_second_try_when_it_is_whole(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh, says(answer(b"x")))
        caller = await mesh.caller(two.web, None)
        octets = put(b"x" * 1000)
        await caller.send(octets[:-1])
        began = await two.asked()
        await until(lambda: time.monotonic() - began > 2 * AFTER_S, "twice the time has passed")
        assert two.tries == [1, 0]
        await caller.send(octets[-1:])
        await two.hedged()
        assert two.second.requests[0].get(b"content-length") == b"1000"
        for backend in two.backends:
            backend.go.set()
        assert (await caller.answer()).status == 200
        assert two.second.requests[0].body == b"x" * 1000
        caller.close()
        await rested(two.web)

    mesh.run(story())


def test_nobody_else_no_second_try(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh, says(answer(b"x")), count=1)
        caller = await mesh.caller(two.web, None)
        await caller.send(GET)
        await until(lambda: two.backends[0].requests, "it is asked")
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 2 * AFTER_S, "twice the time has passed")
        assert two.counts() == {}
        two.backends[0].go.set()
        assert (await caller.answer()).status == 200
        assert len(two.backends[0].requests) == 1
        caller.close()
        await rested(two.web)

    mesh.run(story())


@pytest.mark.slow
def test_second_tries_stay_within_the_budget(tmp_path):
    """Everything is slow, 20 at a time: three more at a time, by `least`, and not one for each."""
    mesh = Mesh(tmp_path)
    active = most = 0

    async def late(backend, request, reader, writer):
        nonlocal active, most
        if request is None:
            return True
        again = bool(request.get(b"flui-attempt"))
        active += again
        most = max(most, active)
        try:
            await asyncio.sleep(0.3)
        finally:
            active -= again
        writer.write(answer(b"x"))
        return True

    async def story():
        two = await pair(mesh, late, service=", retry_budget: {share: 0%, least: 3}")
        callers = [await mesh.caller(two.web, None) for _ in range(20)]
        for caller in callers:
            await caller.send(GET)
        for caller in callers:
            assert (await caller.answer()).status == 200
            caller.close()
        assert most == 3
        assert two.counts()["sent"] == 3
        assert two.web.running.meters.samples(RETRIES)["stock", "over_budget"] == 17
        await rested(two.web)

    mesh.run(story())


def test_a_loser_is_remembered_as_slow_or_failed_by_its_endpoint_only(tmp_path):
    """A second try that breaks off speaks against its endpoint, as any failed try."""
    mesh = Mesh(tmp_path)

    async def story():
        two = await pair(mesh, says(answer(b"first")), breaks)
        caller = await mesh.caller(two.web, None)
        await caller.send(GET)
        await two.asked()
        await two.hedged()
        two.second.go.set()
        await until(lambda: not two.second.open, "it has failed")
        two.first.go.set()
        assert (await caller.answer()).status == 200
        streaks = {m.endpoint.name: m.vitals.streak for m in two.web.running.relay.pools.by_name["stock"].members.values()}
        assert streaks == {str(two.first.address): 0, str(two.second.address): 1}
        caller.close()
        await rested(two.web)

    mesh.run(story())

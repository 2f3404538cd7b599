"""A request is sent again only if that cannot do its work twice, and helps; whatever becomes of it, everything is given back."""

import asyncio
import time
from email.utils import formatdate

import pytest

from flui.telemetry.families import RETRIES
from support.mesh import Caller, Mesh, answers, read_body, until
from support.pki import wall_clock
from support.resets import CAP, IDEMPOTENT, STAGES, Ledger, ask, borrowed, pattern, reset, rested, storm

GET = b"GET /items HTTP/1.1\r\nhost: stock\r\n\r\n"


def put(body, *, method=b"PUT", fields=b""):
    return b"%b /items HTTP/1.1\r\nhost: stock\r\ncontent-length: %d\r\n%b\r\n" % (method, len(body), fields) + body


def with_field(octets, line):
    return octets.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n", 1)


def gives(status, fields=b"", body=b"not now\n"):
    """A backend that always answers so."""
    answer = b"HTTP/1.1 %d No\r\ncontent-length: %d\r\n%b\r\n" % (status, len(body), fields) + body

    async def does(backend, request, reader, writer):
        if request is not None:
            await read_body(request, reader)
            writer.write(answer)
        return True

    return does


async def breaks(backend, request, reader, writer):
    """Takes the whole request and resets."""
    if request is not None:
        await read_body(request, reader)
        reset(writer)
    return request is None


async def hangs(backend, request, reader, writer):
    """Takes the request and never answers."""
    if request is not None:
        await reader.read()
    return request is None


def first(*does, then=answers):
    """The first requests of a backend go to `does`, one each, the others to `then`."""
    left = list(does)

    async def turn(backend, request, reader, writer):
        if request is None:
            return True
        return await (left.pop(0) if left else then)(backend, request, reader, writer)

    return turn


async def sidecar(mesh, *backends, retry="", service="", attempts=2, plain=True, more=""):
    addresses = [str(backend.address) for backend in backends]
    plaintext = ", plaintext: true" if plain else ""
    return await mesh.sidecar(
        "web",
        services=f"  stock: {{endpoints: {addresses}, balance: round_robin, outlier: off{plaintext}{service}}}",
        more=f"routes:\n  - {{name: all, to: stock, retry: {{attempts: {attempts}{retry}}}}}\n{more}",
    )


def pool_of(side, name="stock"):
    return side.running.relay.pools.by_name[name]


def retries(side):
    return {outcome: int(count) for (_, outcome), count in side.running.meters.samples(RETRIES).items() if count}


# --- all of it at once ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_done_twice_and_nothing_is_mixed_whatever_breaks(tmp_path):
    """The short form of `acceptance/test_retries_storm.py`."""
    mesh = Mesh(tmp_path)
    ledger = Ledger(3, 0.5, service_s=0.005)
    count = 800

    async def story():
        web = await sidecar(mesh, *[await mesh.backend(ledger.serve) for _ in range(2)])
        tally = await storm(web.outbound, count=count, callers=32)
        await rested(web)
        assert not ledger.wrong
        assert not tally.wrong
        assert {end.partition(",")[0] for end in ledger.broken} >= set(STAGES)
        assert max(ledger.seen.values()) == 2
        assert {ask(number).kind for number, seen in ledger.seen.items() if seen > 1} == IDEMPOTENT
        assert ledger.retries <= 0.25 * sum(ledger.seen.values())
        assert sum(sum(outcomes.values()) for outcomes in tally.outcomes.values()) == count

    mesh.run(story())


@pytest.mark.slow
def test_when_everything_fails_the_budget_bounds_what_is_added(tmp_path):
    """Threats H1. 40 at a time: a fifth of what is in flight, the retries among it, is a quarter of the first tries."""
    mesh = Mesh(tmp_path)

    async def slow(backend, request, reader, writer):
        if request is not None:
            await read_body(request, reader)
            await asyncio.sleep(0.03)
            writer.write(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
        return True

    async def story():
        backend = await mesh.backend(slow)
        web = await sidecar(mesh, backend, retry=", backoff: 1ms")

        async def load():
            caller = await mesh.caller(web, None)
            for _ in range(15):
                assert (await caller.ask(GET)).status == 503
            caller.close()

        await asyncio.gather(*(load() for _ in range(40)))
        again = sum(request.get(b"flui-attempt") is not None for request in backend.requests)
        assert len(backend.requests) == 600 + again
        assert 30 < again <= 150, f"{again} retries of 600 requests"
        assert retries(web)["sent"] == again
        await rested(web)

    mesh.run(story())


def test_without_a_budget_there_is_no_second_try(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gives(503))
        web = await sidecar(mesh, backend, service=", retry_budget: {share: 1%, least: 0}")
        assert (await mesh.call(web, GET, None)).status == 503
        assert len(backend.requests) == 1, "one percent of one is none"
        assert retries(web) == {"over_budget": 1}
        await rested(web)

    mesh.run(story())


# --- what is sent again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["503", "502", "reset"])
@pytest.mark.parametrize(
    ("method", "fields", "hits"),
    [
        (b"GET", b"", 2),
        (b"PUT", b"", 2),
        (b"DELETE", b"", 2),
        (b"POST", b"", 1),
        (b"PATCH", b"", 1),
        (b"POST", b"idempotency-key: k\r\n", 2),
        (b"POST", b"idempotency-key: \r\n", 1),
    ],
)
def test_only_what_may_be_repeated_is_sent_again(tmp_path, method, fields, hits, fails):
    mesh = Mesh(tmp_path)

    async def story():
        bad = breaks if fails == "reset" else gives(int(fails))
        one, two = await mesh.backend(first(bad)), await mesh.backend(first(bad))
        web = await sidecar(mesh, one, two)
        answer = await mesh.call(web, put(b"hello", method=method, fields=fields), None)
        requests = one.requests + two.requests
        assert len(requests) == hits
        assert answer.status == (502 if fails == "reset" else int(fails)), "both fail once"
        assert {request.body for request in requests} == {b"hello"}
        assert sorted(request.get(b"flui-attempt") or b"1" for request in requests) == [b"1", b"2"][:hits]
        await rested(web)

    mesh.run(story())


@pytest.mark.parametrize("status", [200, 404, 429, 500, 504])
def test_an_answer_is_an_answer(tmp_path, status):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gives(status))
        web = await sidecar(mesh, backend)
        answer = await mesh.call(web, GET, None)
        assert (answer.status, answer.body) == (status, b"not now\n")
        assert len(backend.requests) == 1
        await rested(web)

    mesh.run(story())


def test_the_last_answer_is_the_one_that_is_passed_on(tmp_path):
    """Attempts are tries altogether; of those that were given up not an octet goes out."""
    mesh = Mesh(tmp_path)

    async def story():
        bodies = [b"one" * 5000, b"two" * 30_000, b"three"]
        backend = await mesh.backend(first(*(gives(503, b"x-try: %d\r\n" % at, body) for at, body in enumerate(bodies, 1))))
        web = await sidecar(mesh, backend, retry=", backoff: 1ms")
        answer = await mesh.call(web, GET, None)
        assert (answer.status, answer.body, answer.get(b"x-try")) == (503, bodies[1], b"2")
        assert len(backend.requests) == 2
        await rested(web)

    mesh.run(story())


def test_a_second_try_goes_to_another_endpoint(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        bad, good = await mesh.backend(gives(503)), await mesh.backend()
        web = await sidecar(mesh, bad, good)
        caller = await mesh.caller(web, None)
        for _ in range(10):
            assert (await caller.ask(GET)).status == 200
        assert len(good.requests) == 10
        assert 5 <= len(bad.requests) <= 10, "the turn goes on with each second try"
        assert [record["attempts"] for record in web.log()].count(2) == len(bad.requests)
        caller.close()
        await rested(web)

    mesh.run(story())


@pytest.mark.parametrize("size", [0, 1, CAP, CAP + 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_is_sent_again_whole_or_not_at_all(tmp_path, size, chunked):
    """Past what is kept the second try is given up, never the body."""
    mesh = Mesh(tmp_path)
    body = pattern(b"body", size)

    async def story():
        backend = await mesh.backend(first(breaks))
        web = await sidecar(mesh, backend)
        octets = put(body)
        if chunked:
            octets = put(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
            octets += (b"%x\r\n%b\r\n" % (size, body) if size else b"") + b"0\r\nx-sum: 7\r\n\r\n"
        answer = await mesh.call(web, octets, None)
        kept = size <= CAP
        assert answer.status == (200 if kept else 502)
        assert [request.body for request in backend.requests] == [body] * (2 if kept else 1)
        assert retries(web) == ({"sent": 1} if kept else {"given_up": 1})
        await rested(web)

    mesh.run(story())


def test_a_long_body_is_replayed_without_a_pause_and_then_goes_on(tmp_path):
    """The endpoint breaks off in the middle of 200 KiB; credit for the rest comes from the one that got it next."""
    mesh = Mesh(tmp_path)
    body = pattern(b"body", 200 << 10)

    async def midway(backend, request, reader, writer):
        await reader.readexactly(100 << 10)
        reset(writer)
        return False

    async def story():
        backend = await mesh.backend(first(midway))
        web = await sidecar(mesh, backend, retry=", body: 256KiB, backoff: 0s, backoff_max: 0s")
        caller = await mesh.caller(web, None)
        octets = put(body)
        await caller.send(octets[: 150 << 10])
        await until(lambda: len(backend.requests) == 2, "the second try begins while the caller still sends")
        await caller.send(octets[150 << 10 :])
        assert (await caller.answer()).status == 200
        assert backend.requests[1].body == body
        caller.close()
        await rested(web)

    mesh.run(story())


def test_an_interim_answer_of_a_try_that_failed_does_no_harm(tmp_path):
    mesh = Mesh(tmp_path)

    async def hints(backend, request, reader, writer):
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
        await writer.drain()
        writer.close()
        return False

    async def story():
        backend = await mesh.backend(first(hints))
        web = await sidecar(mesh, backend)
        assert (await mesh.call(web, GET, None)).status == 200
        assert len(backend.requests) == 2
        await rested(web)

    mesh.run(story())


def test_an_answer_that_cannot_be_understood_is_not_asked_for_again(tmp_path):
    mesh = Mesh(tmp_path)

    async def babbles(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/9 hello\r\n\r\n")
        return True

    async def story():
        backend = await mesh.backend(babbles)
        web = await sidecar(mesh, backend)
        assert (await mesh.call(web, GET, None)).status == 502
        assert len(backend.requests) == 1
        await rested(web)

    mesh.run(story())


# --- retry-after and shed answers -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for_when_nobody_else_is_left(tmp_path, form):
    mesh = Mesh(tmp_path)

    async def asks(backend, request, reader, writer):
        value = "1" if form == "seconds" else formatdate(int(wall_clock()) + 2, usegmt=True)
        return await gives(503, b"retry-after: %b\r\n" % value.encode())(backend, request, reader, writer)

    async def story():
        backend = await mesh.backend(first(asks))
        web = await sidecar(mesh, backend, retry=", retry_after: 3s")
        began = time.monotonic()
        assert (await mesh.call(web, GET, None)).status == 200
        took = time.monotonic() - began
        assert (1.0 if form == "seconds" else 0.9) <= took < 2.5
        assert len(backend.requests) == 2
        await rested(web)

    mesh.run(story())


def test_retry_after_speaks_for_one_endpoint_only(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        busy, free = await mesh.backend(gives(503, b"retry-after: 1\r\n")), await mesh.backend()
        web = await sidecar(mesh, busy, free)
        caller = await mesh.caller(web, None)
        began = time.monotonic()
        for _ in range(4):
            assert (await caller.ask(GET)).status == 200
        assert time.monotonic() - began < 0.9
        assert len(busy.requests) >= 2
        caller.close()
        await rested(web)

    mesh.run(story())


@pytest.mark.parametrize("after", [b"2", b"Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_longer_pause_than_the_route_waits_is_passed_on(tmp_path, after):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gives(503, b"retry-after: %b\r\n" % after))
        web = await sidecar(mesh, backend)
        answer = await mesh.call(web, GET, None)
        assert (answer.status, answer.get(b"retry-after")) == (503, after)
        assert len(backend.requests) == 1
        await rested(web)

    mesh.run(story())


def test_a_pause_that_the_deadline_does_not_allow_is_not_begun(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gives(503, b"retry-after: 1\r\n"))
        web = await sidecar(mesh, backend)
        began = time.monotonic()
        assert (await mesh.call(web, with_field(GET, b"flui-deadline: 900"), None)).status == 503
        assert time.monotonic() - began < 0.5
        assert len(backend.requests) == 1
        await rested(web)

    mesh.run(story())


@pytest.mark.parametrize("fault", [b"overloaded", b"circuit_open", b"rate_limited"])
def test_what_another_sidecar_has_shed_is_never_tried_again(tmp_path, fault):
    mesh = Mesh(tmp_path)

    async def story():
        one, two = [await mesh.backend(gives(503, b"flui-fault: %b\r\n" % fault)) for _ in range(2)]
        web = await sidecar(mesh, one, two)
        answer = await mesh.call(web, GET, None)
        assert answer.status == 503
        assert answer.get(b"flui-fault") is None, "it was said to the sidecar"
        assert len(one.requests) + len(two.requests) == 1
        await rested(web)

    mesh.run(story())


def test_a_real_sidecar_that_sheds_is_asked_once(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        orders = await mesh.sidecar("orders", app=f"{{url: {backend.url}, rate: {{rate: 1/h, burst: 1}}}}")
        web = await mesh.sidecar(
            "web",
            services=f"  orders: {{endpoints: ['{orders.inbound}']}}",
            more="routes: [{name: all, to: orders, retry: {attempts: 5, statuses: [429, 503]}}]",
        )
        get = GET.replace(b"stock", b"orders")
        assert (await mesh.call(web, get, None)).status == 200
        assert (await mesh.call(web, get, None)).status == 429
        await until(lambda: len(orders.log()) == 2, "it has recorded both")
        assert len(backend.requests) == 1
        assert retries(web) == {}
        await rested(web)
        await rested(orders)

    mesh.run(story())


# --- nested retries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "hits"), [(None, 2), (b"1", 2), (b"2", 1), (b"9", 1)])
def test_who_is_retried_already_is_not_retried_again(tmp_path, said, hits):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(gives(503))
        web = await sidecar(mesh, backend, retry=", backoff: 1ms")
        await mesh.call(web, with_field(GET, b"flui-attempt: %b" % said) if said else GET, None)
        assert len(backend.requests) == hits
        assert backend.requests[0].get(b"flui-attempt") == (said if hits == 1 else None)
        await rested(web)

    mesh.run(story())


def calls_on(to, host):
    """A module that asks the next service for each request, and answers what it was answered. It hands on what only sidecars read."""

    async def does(backend, request, reader, writer):
        if request is not None:
            lines = b"".join(b"%b: %b\r\n" % (n, v) for n, v in request.fields if n in {b"flui-attempt", b"flui-deadline", b"traceparent"})
            caller = await Caller.to(to())
            answer = await caller.ask(b"GET %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (request.target, host, lines))
            caller.close()
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % answer.status)
        return True

    return does


@pytest.mark.slow
def test_retries_of_a_chain_add_and_do_not_multiply(tmp_path):
    """Threats H1. Three services, five sidecars on the way, two attempts each: 2^5 = 32 requests if nobody told the next one."""
    mesh = Mesh(tmp_path)

    async def story():
        outbound = {}
        last = await mesh.backend(gives(503))
        depot = await mesh.sidecar("depot", app=last, rules="p, spiffe://shop/stock, depot, *, /*\n")
        middle = await mesh.backend(calls_on(lambda: outbound["stock"], b"depot"))
        stock = await mesh.sidecar(
            "stock", app=middle, rules="p, spiffe://shop/orders, stock, *, /*\n", services=f"  depot: {{endpoints: ['{depot.inbound}']}}"
        )
        begin = await mesh.backend(calls_on(lambda: outbound["orders"], b"stock"))
        orders = await mesh.sidecar("orders", app=begin, services=f"  stock: {{endpoints: ['{stock.inbound}']}}")
        web = await mesh.sidecar("web", services=f"  orders: {{endpoints: ['{orders.inbound}']}}")
        outbound.update(stock=stock.outbound, orders=orders.outbound)
        count = 10
        for _ in range(count):
            assert (await mesh.call(web, GET.replace(b"stock", b"orders"), None)).status == 503
        hits = [len(backend.requests) / count for backend in (begin, middle, last)]
        print(f"requests seen by the three modules for each one asked: {hits}")
        assert hits[0] <= 3
        assert hits[2] <= 1 + 6, "one more for each sidecar that retries, and never a product"
        assert hits[2] >= 2
        for side in (web, orders, stock, depot):
            await rested(side)

    mesh.run(story())


# --- time -------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_try_that_takes_too_long_is_followed_by_another(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        slow, good = await mesh.backend(hangs), await mesh.backend()
        web = await sidecar(mesh, slow, good, retry=", per_try: 80ms")
        caller = await mesh.caller(web, None)
        for _ in range(4):
            began = time.monotonic()
            assert (await caller.ask(GET)).status == 200
            assert time.monotonic() - began < 0.5
        assert len(slow.requests) >= 2
        await until(lambda: not slow.open, "it is left alone")
        caller.close()
        await rested(web)

    mesh.run(story())


@pytest.mark.slow
@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_every_try_has_its_own_time(tmp_path, attempts):
    """Also those after the first, which begin at moments that nobody foresaw."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(hangs)
        web = await sidecar(mesh, backend, retry=", per_try: 80ms" + (", backoff: 10ms" if attempts > 1 else ""), attempts=attempts)
        began = time.monotonic()
        answer = await mesh.call(web, GET, None)
        took = time.monotonic() - began
        assert (answer.status, answer.problem()["code"]) == (504, "upstream_timeout")
        assert len(backend.requests) == attempts
        assert 0.08 * attempts <= took < 0.08 * attempts + 0.5
        await until(lambda: not backend.open, "it is left alone")
        await rested(web)

    mesh.run(story())


@pytest.mark.slow
def test_the_time_of_a_try_begins_when_it_is_sent(tmp_path):
    """Its connection took longer than a try may: TLS with an endpoint that shakes hands late."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(hangs)
        web = await sidecar(mesh, backend, retry=", per_try: 60ms, backoff: 1ms")
        pool = pool_of(web)
        dial, held = type(pool).dial, asyncio.Event()

        class Slow(type(pool)):
            __slots__ = ()

            async def dial(self, member, owner):
                await held.wait()
                return await dial(self, member, owner)

        pool.__class__ = Slow
        asking = asyncio.ensure_future(mesh.call(web, GET, None))
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.15, "more than twice the time of a try")
        assert not asking.done()
        held.set()
        assert (await asking).status == 504
        assert time.monotonic() - began < 0.15 + 2 * 0.06 + 0.5
        assert len(backend.requests) == 2
        await rested(web)

    mesh.run(story())


@pytest.mark.slow
def test_a_try_that_has_answered_may_take_as_long_as_it_likes(tmp_path):
    mesh = Mesh(tmp_path)

    async def trickles(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
            for _ in range(5):
                await asyncio.sleep(0.04)
                writer.write(b"x")
        return True

    async def story():
        backend = await mesh.backend(trickles)
        web = await sidecar(mesh, backend, retry=", per_try: 60ms")
        answer = await mesh.call(web, GET, None)
        assert (answer.status, answer.body) == (200, b"xxxxx")
        assert len(backend.requests) == 1
        await rested(web)

    mesh.run(story())


def test_endpoints_that_are_gone_before_the_second_try_end_it_at_once(tmp_path):
    """Recorded at once too: nobody waits for a timer."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(breaks)
        web = await sidecar(mesh, backend, retry=", backoff: 0s, backoff_max: 0s")
        pool = pool_of(web)
        pick = type(pool).pick

        class Once(type(pool)):
            __slots__ = ()

            def pick(self, key, tried):
                return None if backend.requests else pick(self, key, tried)

        pool.__class__ = Once
        caller = await mesh.caller(web, None)
        answer = await caller.ask(GET)
        assert answer.problem()["code"] == "no_endpoint"
        await until(web.log, "recorded", 1.0)
        await rested(web, 1.0)
        caller.close()

    mesh.run(story())


# --- callers that go --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["dial", "pending", "body", "body, politely", "wait", "pause", "second", "answer"])
def test_whenever_the_caller_goes_everything_is_given_back(tmp_path, stage):
    """With an RST; half a request and a FIN is as good as one."""
    mesh = Mesh(tmp_path)

    async def trickles(backend, request, reader, writer):
        if request is not None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
            await writer.drain()
            await reader.read()
        return request is None

    async def mute(backend, request, reader, writer):
        await reader.read()
        return False

    async def story():
        does = {"dial": mute, "pause": gives(503, b"retry-after: 1\r\n"), "second": first(breaks, then=hangs), "answer": trickles}
        backend = await mesh.backend(does.get(stage, hangs))
        web = await sidecar(mesh, backend, service=", breaker: {connections: 1}" if stage == "pending" else "", plain=stage != "dial")
        pool = pool_of(web)
        callers = [await mesh.caller(web, None) for _ in range(2 if stage == "pending" else 1)]
        octets = put(b"x" * 1000)
        for caller in callers:
            await caller.send(octets[:-500] if stage.startswith("body") else octets)
        ready = {
            "dial": lambda: backend.open,
            "pending": lambda: len(backend.requests) == 1 and pool.pending == 1,
            "pause": lambda: len(backend.requests) == 1 and not pool.active,
            "second": lambda: len(backend.requests) == 2,
            "answer": lambda: any(e.splice.status for g in web.running.gates for c in g.connections for e in c.exchanges()),
        }.get(stage, lambda: len(backend.requests) == 1)
        await until(ready, f"stage {stage} is reached")
        assert borrowed(web)
        for caller in reversed(callers):
            if stage == "body, politely":
                caller.close()
            else:
                reset(caller.writer)
        if stage == "dial":
            await until(lambda: not web.connections, "it is gone")
            await backend.stop()
        await rested(web)
        await until(lambda: len(web.log()) == len(callers), "recorded")
        assert {record["fault"] for record in web.log()} == {"caller_gone"}

    mesh.run(story())


def test_when_the_sidecar_ends_nothing_is_held(tmp_path):
    """Requests that wait, are paused, are tried again: after the drain all are answered or cut, and all is given back."""
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend(first(gives(503, b"retry-after: 1\r\n"), breaks, then=hangs))
        web = await sidecar(mesh, backend, more="timeouts: {drain: 300ms}")
        callers = [await mesh.caller(web, None) for _ in range(6)]
        for caller in callers:
            await caller.send(GET)
        await until(lambda: len(backend.requests) >= 6, "they are under way")
        await web.stop()
        assert borrowed(web) == {}
        for caller in callers:
            caller.close()

    mesh.run(story())

"""A copy equals its original, its answer is read by nobody, and whatever its service does, callers do not notice."""

import asyncio
import time

import pytest

from flui.downstream import mirror
from flui.telemetry.families import MIRRORED
from support.mesh import TRACE, Mesh, answers, read_body, until
from support.resets import pattern, reset, rested

GET = b"GET /items?id=7 HTTP/1.1\r\nhost: stock\r\n\r\n"
HOP = {b"host", b"flui-deadline", b"transfer-encoding", b"content-length"}


def put(body, fields=b""):
    return b"PUT /items HTTP/1.1\r\nhost: stock\r\ncontent-length: %d\r\n%b\r\n" % (len(body), fields) + body


async def hangs(backend, request, reader, writer):
    """Takes the request and never answers."""
    if request is not None:
        await reader.read()
    return request is None


class Mirrored:
    """A sidecar whose module calls `stock`, with copies for `shadow`."""

    def __init__(self, web, stock, shadow):
        self.web = web
        self.stock = stock
        self.shadow = shadow

    def counts(self):
        return {outcome: int(n) for (_, outcome), n in self.web.running.meters.samples(MIRRORED).items() if n}

    async def counted(self, expected):
        try:
            await until(lambda: self.counts() == expected, "the copies are counted")
        except AssertionError:
            raise AssertionError(f"{self.counts()} and not {expected}") from None


async def mirrored(mesh, does=answers, copies=answers, *, share="100%", retry="retry: off", service="", more=""):
    stock, shadow = await mesh.backend(does), await mesh.backend(copies)
    web = await mesh.sidecar(
        "web",
        services=f"  stock: {{endpoints: ['{stock.address}'], plaintext: true}}\n"
        f"  shadow: {{endpoints: ['{shadow.address}'], plaintext: true{service}}}",
        more=f"routes: [{{name: all, match: {{hosts: [stock]}}, to: stock, {retry}, mirror: {{service: shadow, share: {share}}}}}]\n{more}",
    )
    return Mirrored(web, stock, shadow)


# --- what is copied ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5_000, 65_536])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("retry", ["retry: off", "retry: {attempts: 2}"])
def test_a_copy_equals_its_original(tmp_path, size, chunked, retry):
    mesh = Mesh(tmp_path)
    body = pattern(b"body", size)

    async def story():
        two = await mirrored(mesh, retry=retry)
        octets = put(body, b"x-a: 1\r\nx-a: 2\r\nflui-key: k\r\ntraceparent: %b\r\nidempotency-key: i\r\n" % TRACE)
        if chunked:
            head = octets.partition(b"\r\n\r\n")[0].replace(b"content-length: %d" % size, b"transfer-encoding: chunked")
            octets = head + b"\r\n\r\n" + (b"%x\r\n%b\r\n" % (size, body) if size else b"") + b"0\r\nx-sum: 1\r\n\r\n"
        caller = await mesh.caller(two.web, None)
        for number in range(1, 4):  # the same head again is the same object inside
            assert (await caller.ask(octets)).status == 200
            await two.counted({"sent": number, "answered": number})
        for original, copy in zip(two.stock.requests, two.shadow.requests, strict=True):
            assert (copy.method, copy.target, copy.body) == (original.method, original.target, body)
            assert [f for f in copy.fields if f[0] not in HOP] == [f for f in original.fields if f[0] not in HOP]
            assert copy.get(b"flui-attempt") is None
            assert 14_500 < int(copy.get(b"flui-deadline")) <= 15_000, "the time of a first try"
        assert two.shadow.connections == 1, "they are used again"
        caller.close()
        await rested(two.web)

    mesh.run(story())


def test_a_request_that_was_sent_twice_is_copied_once_as_a_first_try(tmp_path):
    mesh = Mesh(tmp_path)
    hits = 0

    async def breaks_first(backend, request, reader, writer):
        nonlocal hits
        if request is None:
            return True
        hits += 1
        await read_body(request, reader)
        if hits == 1:
            reset(writer)
            return False
        return await answers(backend, request, reader, writer) if not request.body else writer.write(b"HTTP/1.1 204 X\r\n\r\n") is None

    async def story():
        two = await mirrored(mesh, breaks_first, retry="retry: {attempts: 2}")
        assert (await mesh.call(two.web, put(b"hello"), None)).status == 204
        await two.counted({"sent": 1, "answered": 1})
        assert [request.get(b"flui-attempt") for request in two.stock.requests] == [None, b"2"]
        assert [(request.get(b"flui-attempt"), request.body) for request in two.shadow.requests] == [(None, b"hello")]
        await rested(two.web)

    mesh.run(story())


def test_a_request_that_ran_out_of_time_is_copied_with_the_time_it_had(tmp_path):
    """What was too slow for one version is what one wants to see the next one do."""
    mesh = Mesh(tmp_path)

    async def story():
        two = await mirrored(mesh, hangs)
        assert (await mesh.call(two.web, GET.replace(b"\r\n\r\n", b"\r\nflui-deadline: 100\r\n\r\n"), None)).status == 504
        await two.counted({"sent": 1, "answered": 1})
        assert 50 < int(two.shadow.requests[0].get(b"flui-deadline")) <= 100
        await rested(two.web)

    mesh.run(story())


def test_a_part_of_the_traffic_is_copied(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        two = await mirrored(mesh, share="30%")
        caller = await mesh.caller(two.web, None)
        for _ in range(400):
            assert (await caller.ask(GET)).status == 200
        caller.close()
        await rested(two.web)
        assert len(two.stock.requests) == 400
        assert 120 - 4 * 9.2 <= len(two.shadow.requests) <= 120 + 4 * 9.2

    mesh.run(story())


@pytest.mark.parametrize("retry", ["retry: off", "retry: {attempts: 2, body: 1KiB}"])
def test_a_body_past_what_is_kept_is_not_copied(tmp_path, retry):
    """Nor half of it; the original is whole."""
    mesh = Mesh(tmp_path)
    body = pattern(b"body", (64 << 10) + 1)

    async def story():
        two = await mirrored(mesh, retry=retry)
        assert (await mesh.call(two.web, put(body), None)).status == 200
        assert two.stock.requests[0].body == body
        await two.counted({"dropped": 1})
        assert not two.shadow.connections
        await rested(two.web)

    mesh.run(story())


def test_half_a_request_is_not_copied(tmp_path):
    """The service answers before it has all; the caller goes in the middle."""
    mesh = Mesh(tmp_path)

    async def early(backend, request, reader, writer):
        if request is not None and request.get(b"x-early"):
            writer.write(b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n")
        return request is None or bool(request.get(b"x-early"))

    async def story():
        two = await mirrored(mesh, early)
        caller = await mesh.caller(two.web, None)
        await caller.send(put(b"x" * 1000, b"x-early: 1\r\n")[:-500])
        assert (await caller.answer()).status == 413
        caller.close()
        await two.counted({"dropped": 1})
        gone = await mesh.caller(two.web, None)
        await gone.send(put(b"x" * 1000)[:-500])
        await until(lambda: len(two.stock.requests) == 2, "it is under way")
        reset(gone.writer)
        await two.counted({"dropped": 2})
        assert not two.shadow.connections
        await rested(two.web)

    mesh.run(story())


def test_what_nobody_was_sent_is_not_copied(tmp_path):
    """Refused or aborted by the sidecar itself: a copy would be traffic that the service never had, and its body is not kept."""
    mesh = Mesh(tmp_path)

    async def story():
        aborts = await mirrored(mesh)
        file = aborts.web.file
        file.write_text(file.read_text().replace("retry: off", "retry: off, inject: {abort: 418}"))
        await aborts.web.running.reload()
        for octets in (GET, put(b"hello"), put(b"x" * 100_000)):
            assert (await mesh.call(aborts.web, octets, None)).status == 418
        file.write_text(file.read_text().replace(", inject: {abort: 418}", ""))
        await aborts.web.running.reload()
        assert (await mesh.call(aborts.web, put(b"hello"), None)).status == 200
        await aborts.counted({"sent": 1, "answered": 1})
        assert [request.body for request in aborts.shadow.requests] == [b"hello"]
        await rested(aborts.web)

    mesh.run(story())


# --- what its service does is nobody's business ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 65_536, 65_537, 1 << 20])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("window", ["4KiB", "64KiB"])
def test_answers_are_read_to_their_end_and_ignored(tmp_path, size, chunked, window):
    """Also one that is longer than the window: it is read on, or its connection could not be used again."""
    mesh = Mesh(tmp_path)

    async def big(backend, request, reader, writer):
        if request is not None:
            body = pattern(b"copy", size)
            if chunked:
                writer.write(b"HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, body))
            else:
                writer.write(b"HTTP/1.1 500 X\r\ncontent-length: %d\r\n\r\n" % size + body)
        return True

    async def story():
        two = await mirrored(mesh, copies=big, more=f"limits: {{window: {window}}}")
        for number in range(1, 4):
            answer = await mesh.call(two.web, GET, None)
            assert (answer.status, answer.body) == (200, b"ok\n")
            await two.counted({"sent": number, "answered": number})
        assert two.shadow.connections == 1
        await rested(two.web)

    mesh.run(story())


@pytest.mark.parametrize("how", ["refuses", "resets", "babbles", "says 503"])
def test_a_copy_that_fails_is_counted_and_never_sent_again(tmp_path, how):
    mesh = Mesh(tmp_path)

    async def bad(backend, request, reader, writer):
        if request is None:
            return True
        if how == "resets":
            reset(writer)
        elif how == "babbles":
            writer.write(b"hello\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n")
        return how == "says 503"

    async def story():
        two = await mirrored(mesh, copies=bad, retry="retry: {attempts: 3}")
        if how == "refuses":
            await two.shadow.stop()
        answer = await mesh.call(two.web, GET, None)
        assert (answer.status, answer.body) == (200, b"ok\n")
        expected = {"refuses": {"failed": 1}, "says 503": {"sent": 1, "answered": 1}}.get(how, {"sent": 1, "failed": 1})
        await two.counted(expected)
        await rested(two.web)
        assert len(two.shadow.requests) == (how != "refuses")
        assert two.web.faults() == {}

    mesh.run(story())


@pytest.mark.slow
def test_a_service_that_hangs_never_delays_a_caller_and_holds_64_copies_at_most(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        two = await mirrored(mesh, copies=hangs)
        caller = await mesh.caller(two.web, None)
        took = []
        for _ in range(300):
            began = time.perf_counter()
            assert (await caller.ask(GET)).status == 200
            took.append(time.perf_counter() - began)
        await until(lambda: len(two.shadow.requests) == mirror.AT_ONCE, "64 are under way")
        assert two.counts() == {"sent": 64, "dropped": 236}
        copies = two.web.running.relay.extras.mirrors
        assert len(copies) == 64
        assert two.web.running.relay.pools.by_name["shadow"].active == 64
        assert two.web.running.relay.pools.by_name["stock"].active == 0
        plain = sorted(took)[len(took) // 2]
        print(f"median with a mirror that hangs: {plain * 1e3:.2f} ms")
        assert plain < 0.05
        caller.close()
        await two.shadow.stop()
        await until(lambda: not len(copies), "cut by their service, they are over")
        await rested(two.web)

    mesh.run(story())


def test_a_copy_has_a_time_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "PATIENCE_S", 0.1)
    mesh = Mesh(tmp_path)

    async def story():
        two = await mirrored(mesh, copies=hangs)
        assert (await mesh.call(two.web, GET, None)).status == 200
        began = time.monotonic()
        await two.counted({"sent": 1, "failed": 1})
        assert time.monotonic() - began < 1.0
        await until(lambda: not two.shadow.open, "its connection is closed")
        await rested(two.web)

    mesh.run(story())


@pytest.mark.slow
def test_copies_obey_the_breaker_of_their_service(tmp_path, monkeypatch):
    """One connection, one that waits: the third is refused, and the one that waits is given up when its time is over."""
    monkeypatch.setattr(mirror, "PATIENCE_S", 0.8)
    mesh = Mesh(tmp_path)

    async def story():
        two = await mirrored(mesh, copies=hangs, service=", breaker: {connections: 1, pending: 1}")
        caller = await mesh.caller(two.web, None)
        for _ in range(3):
            assert (await caller.ask(GET)).status == 200
        await two.counted({"sent": 1, "failed": 1})
        await until(lambda: two.counts()["failed"] == 3, "their time is over")
        assert two.counts()["sent"] <= 2, "the end of the first may make room for the second, for the moment that it has left"
        caller.close()
        await rested(two.web)

    mesh.run(story())


def test_copies_count_as_requests_in_flight(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        two = await mirrored(mesh, copies=hangs, service=", breaker: {requests: 2}")
        caller = await mesh.caller(two.web, None)
        for _ in range(5):
            assert (await caller.ask(GET)).status == 200
        await two.counted({"sent": 2, "dropped": 3})
        await two.shadow.stop()
        caller.close()
        await rested(two.web)

    mesh.run(story())


@pytest.mark.parametrize("stage", ["answer", "dial"])
def test_nothing_is_left_when_the_sidecar_ends(tmp_path, stage):
    mesh = Mesh(tmp_path)

    async def mute(backend, request, reader, writer):
        await reader.read()
        return False

    async def story():
        two = await mirrored(mesh, copies=hangs if stage == "answer" else mute)
        pool = two.web.running.relay.pools.by_name["shadow"]
        held = asyncio.Event()
        if stage == "dial":

            class Slow(type(pool)):
                __slots__ = ()

                async def dial(self, member, owner):
                    await held.wait()
                    raise AssertionError

            pool.__class__ = Slow
        assert (await mesh.call(two.web, GET, None)).status == 200
        copies = two.web.running.relay.extras.mirrors
        await until(lambda: len(two.shadow.requests) == 1 if stage == "answer" else len(copies) == 1, "the copy is under way")
        await two.web.stop()
        await until(lambda: not len(copies), "it is given up")
        assert pool.active == 0
        assert two.counts() == ({"sent": 1, "failed": 1} if stage == "answer" else {"failed": 1})

    mesh.run(story())

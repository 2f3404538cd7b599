"""Issue 6: "A module replaced by a version with a changed proto is served by its new shape within 5 s, no restart of the sidecar,
no failed call on unchanged methods".

What holds, and what it takes:

- One replica, and the new version listens on the same port before the old one ends (SO_REUSEPORT): its own sidecar moves over, and
  no call fails. What grpcio has read when it is told to end, but not begun, it answers with CANCELLED; so the sidecar is told that a
  call which ends so may be sent again, and that all that are under way may be at once (`AGAIN`).
- Two replicas, one after the other, each away for a while, and told the same: what its own sidecar cannot repeat, for nobody is there,
  it says that nobody has taken; so the caller's sidecar asks the other one, in every dialect, and no call fails. (Without `AGAIN` those
  fail that grpcio itself has cancelled: whoever calls it without us is told the same.)
- One replica that is away for a while: calls meanwhile fail with UNAVAILABLE, at once; nothing else fails, and nothing hangs.
"""

import asyncio
import contextlib
import json
import time

import pytest

from support.library import Library
from support.mesh import Caller, Mesh, until
from support.spoken import FORMS, UNARY, request

FRESH_S = 5.0
RULES = (
    "p, spiffe://shop/web, orders, CALL, /lib.Library/*\np, spiffe://shop/web, orders, *, /v1/*\np, spiffe://shop/web, orders, *, /v2/*\n"
)
UNCHANGED = [*UNARY, "connect-get"]
AGAIN = ", retry: {grpc: [unavailable, cancelled], attempts: 4}, retry_budget: {share: 100%, least: 16}"
DOWN_S = 0.3
"""How long a replica is away."""


class Load:
    """Callers of a method that both versions have, in every dialect, one call after the other."""

    def __init__(self, address, message):
        self._address = address
        self._message = message
        self.calls = 0
        self.wrong = []
        self.codes = set()
        self.newer = 0
        self._over = False
        self._tasks = []

    async def _call(self, name):
        form = FORMS[name]
        octets = form.octets("GetBook", self._message).replace(b"host: library", b"host: orders")
        caller = None
        while not self._over:
            if caller is None:
                caller = await Caller.to(self._address)
            async with asyncio.timeout(5):
                answer = await caller.ask(octets)
            self.calls += 1
            told = form.told(answer)
            if told.code or len(told.messages) != 1:
                self.wrong.append((name, answer.status, told))
                self.codes.add(told.code)
            elif b"isbn" in told.messages[0]:
                self.newer += 1
            if answer.get(b"connection") == b"close" or not answer.complete:
                caller.close()
                caller = None
            await asyncio.sleep(0.002)
        if caller is not None:
            caller.close()

    @contextlib.asynccontextmanager
    async def running(self):
        self._tasks = [asyncio.ensure_future(self._call(name)) for name in UNCHANGED]
        try:
            await until(lambda: self.calls > 50 or any(task.done() for task in self._tasks), "calls")
            yield self
        finally:
            self._over = True
            await asyncio.gather(*self._tasks)


async def meshed(mesh, tmp_path, modules, app=""):
    """A caller's sidecar, and one for each module."""
    sides = []
    for number, module in enumerate(modules):
        place = Mesh(tmp_path / f"orders-{number}")
        place.ca = mesh.ca
        sides.append(await mesh.start(place.prepare("orders", app=f"{{url: 'h2c://{module.address}'{app}}}", rules=RULES)))
    endpoints = ", ".join(f"'{side.inbound}'" for side in sides)
    web = await mesh.sidecar("web", services=f"  orders: {{endpoints: [{endpoints}]}}")
    for side in sides:
        await until(lambda side=side: side.running.relay.snapshot.schema.methods, "the shape of the module")
    return web, sides


async def ask(web, octets):
    caller = await Caller.to(web.outbound)
    try:
        return await caller.ask(octets.replace(b"host: library", b"host: orders"))
    finally:
        caller.close()


def knows(side, path=b"/lib.Library/Borrow"):
    return path in side.running.relay.snapshot.schema.methods


async def in_new_shape(web):
    """The new version's own words are understood."""
    answer = await ask(web, request("POST", "/v2/shelves/1/books/2:borrow"))
    assert (answer.status, json.loads(answer.body)) == (200, {"name": "shelves/1/books/2"})
    answer = await ask(web, request("GET", "/v2/shelves/1/books?most=1"))
    assert (answer.status, json.loads(answer.body)) == (200, [{"name": "0"}])
    answer = await ask(web, request("GET", "/v1/shelves/1/books/2"))
    assert json.loads(answer.body)["isbn"] == "1"
    answer = await ask(web, request("POST", "/lib.Library/Fail", b"{}", "application/json"))
    assert answer.status == 404, "what it does not have any more is gone"


def message(module):
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(module.pool.FindMessageTypeByName("lib.GetBookRequest"))(name="shelves/1/books/2")


async def stopped(module, grace_s=5.0):
    await asyncio.get_running_loop().run_in_executor(None, module.stop, grace_s)


@pytest.mark.slow
def test_two_replicas_are_replaced_one_after_the_other_and_the_other_one_is_asked(tmp_path):
    mesh = Mesh(tmp_path)
    with contextlib.ExitStack() as stack:
        olds = [stack.enter_context(Library()) for _ in range(2)]

        async def story():
            web, sides = await meshed(mesh, tmp_path, olds, AGAIN)
            started = [side.running for side in sides]
            async with Load(web.outbound, message(olds[0])).running() as load:
                for old, side in zip(olds, sides, strict=True):
                    await stopped(old)
                    await asyncio.sleep(DOWN_S)  # it is away for a while, as processes are
                    stack.enter_context(Library(newer=True, at=old.address))
                    took = await until(lambda side=side: knows(side), "the new shape", FRESH_S)
                    print(f"\nknown {took:.2f} s after it listened")
                before = load.calls
                await until(lambda: load.calls > before + 100, "calls of the new versions")
            assert load.wrong == [], load.wrong[:5]
            assert load.newer > 0
            await in_new_shape(web)
            assert [side.running for side in sides] == started
            print(f"{load.calls} calls, {len(load.wrong)} wrong")

        mesh.run(story())


@pytest.mark.slow
def test_a_single_replica_that_overlaps_with_its_successor_is_replaced_and_no_call_fails(tmp_path):
    mesh = Mesh(tmp_path)
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(Library(shared=True))

        async def story():
            web, (side,) = await meshed(mesh, tmp_path, [old], AGAIN)
            async with Load(web.outbound, message(old)).running() as load:
                stack.enter_context(Library(newer=True, at=old.address, shared=True))
                listens = time.monotonic()
                await stopped(old)
                await until(lambda: knows(side), "the new shape", FRESH_S)
                assert time.monotonic() - listens < FRESH_S
                print(f"\nknown {time.monotonic() - listens:.2f} s after it listened")
                before = load.calls
                await until(lambda: load.calls > before + 100, "calls of the new version")
            assert load.wrong == [], load.wrong[:5]
            await in_new_shape(web)
            print(f"{load.calls} calls, {len(load.wrong)} wrong")

        mesh.run(story())


@pytest.mark.slow
def test_a_single_replica_that_is_away_fails_at_once_as_unavailable_and_nothing_else(tmp_path):
    mesh = Mesh(tmp_path)
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(Library())

        async def story():
            web, (side,) = await meshed(mesh, tmp_path, [old])
            async with Load(web.outbound, message(old)).running() as load:
                await stopped(old)
                await until(lambda: 14 in load.codes, "it is missed")
                stack.enter_context(Library(newer=True, at=old.address))
                await until(lambda: knows(side), "the new shape", FRESH_S)
                failed = len(load.wrong)
                before = load.calls
                await until(lambda: load.calls > before + 100, "calls of the new version")
            assert 14 in load.codes <= {1, 14}, load.wrong
            assert len(load.wrong) - failed == 0, "nothing fails once it is there"
            await in_new_shape(web)
            print(f"\n{load.calls} calls, {failed} while it was away")

        mesh.run(story())

"""Sidecars with limits, a module that answers when it is told to, and callers that wait for it: see `Mesh`.

backend = await mesh.backend(gated)
orders = await sidecar(mesh, backend, "breaker: {requests: 2}")
crowd = Crowd(mesh, orders)
await crowd.ask(get(), get())                  two requests under way
check_refusal(await crowd.refused(), "circuit_open")
release(backend, 2)
assert await crowd.answered() == [200, 200]
await until(lambda: is_clean(orders), "nothing is left")
"""

import asyncio

from flui.telemetry.exposition import page
from support.mesh import OK
from support.pki import replace

RULES = "p, spiffe://shop/web, orders, *, /*\np, spiffe://shop/ops, orders, *, /*\n"
GOLD = "routes: [{name: gold, match: {headers: {x-class: gold}}, priority: high}]"


def get(path="/items", fields=""):
    return f"GET {path} HTTP/1.1\r\nhost: orders\r\n{fields}\r\n".encode()


async def gated(backend, request, reader, writer):
    """Takes requests and answers them, all connections alike, one for each `turn` that is released."""
    if request is not None:
        if not hasattr(backend, "turn"):
            backend.turn = asyncio.Semaphore(0)
        await backend.turn.acquire()
        writer.write(OK)
    return True


def release(backend, answers=1):
    for _ in range(answers):
        backend.turn.release()


async def sidecar(mesh, backend, app="", more=""):
    """`orders` with these keys of `app`."""
    file = mesh.prepare("orders", app=backend, rules=RULES, more=more)
    file.write_text(file.read_text().replace(f"app: {backend.url}", f"app: {{url: '{backend.url}', {app}}}"))
    return await mesh.start(file)


async def reload(side, before, after):
    text = side.file.read_text()
    assert before in text
    version = side.running.relay.snapshot.version
    replace(side.file, text.replace(before, after).encode())
    await side.running.reload()
    assert side.running.relay.snapshot.version > version
    assert not side.said("reload refused")


class Crowd:
    """Callers with a request under way each, on connections of their own."""

    def __init__(self, mesh, side, name="web"):
        self.mesh = mesh
        self.side = side
        self.name = name
        self.waiting = []

    async def ask(self, *octets):
        for one in octets:
            caller = await self.mesh.caller(self.side, self.name)
            await caller.send(one)
            self.waiting.append((caller, asyncio.ensure_future(caller.answer())))

    async def refused(self, octets=None):
        """The answer to one more, which must come at once."""
        async with asyncio.timeout(2.0):
            return await self.mesh.call(self.side, octets or get(), self.name)

    async def answered(self):
        """Statuses of all, in the order in which they were asked."""
        statuses = [(await answer).status for _, answer in self.waiting]
        for caller, _ in self.waiting:
            caller.close()
        self.waiting.clear()
        return statuses

    def leave(self, number):
        caller, answer = self.waiting.pop(number)
        answer.cancel()
        caller.abort()


def pool_of(side, name="@app"):
    return side.running.relay.pools.by_name[name]


def is_clean(side):
    """Nothing is in use, waits, or is owed."""
    return all(
        (pool.active, pool.pending, pool._dialling, pool.guard.budget.used, *(member.active for member in pool.members.values()))
        == (0,) * (4 + len(pool.members))
        and not pool._waiters
        and pool.open_count() == pool.idle_count()
        for pool in side.running.relay.pools.by_name.values()
    )


def metrics(side, *names):
    """Samples of the page as they stand there."""
    lines = (line.rpartition(" ") for line in page(side.running.meters).splitlines() if line.startswith(names))
    return {sample: float(value) for sample, _, value in lines}


def shown(side, what, of="used"):
    return metrics(side, f"flui_breaker_{of}")[f'flui_breaker_{of}{{cluster="@app",what="{what}"}}']


def check_refusal(answer, fault, status=503):
    assert answer.status == status
    assert answer.problem()["code"] == fault
    assert answer.get(b"flui-fault") == fault.encode(), "the next sidecar is told not to try again"
    assert int(answer.get(b"retry-after")) >= 1


async def spend(mesh, side, name, asked=10, octets=None):
    """Statuses of so many requests at once."""
    caller = await mesh.caller(side, name)
    statuses = []
    for _ in range(asked):
        answer = await caller.ask(octets or get())
        statuses.append(answer.status)
        if answer.status == 429:
            check_refusal(answer, "rate_limited", 429)
    caller.close()
    assert statuses == sorted(statuses), "once it is used up nothing gets through"
    return statuses.count(200)


ONE = "{rate: 1/m, burst: %d, per: %s}"

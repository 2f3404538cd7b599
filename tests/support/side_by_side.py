"""Sidecars that differ only in what their collector does, asked in turn, request by request.

    caller ─┬─▶ web, whose collector is well ──┬─▶ a raw server
            ├─▶ another of the same kind       │
            ├─▶ web, whose collector is down   │
            ├─▶ web, whose collector hangs     │
            └─▶ web, whose collector says 500 ─┘

Each is a process; every request is sampled. What else the machine does meets all of them alike, so what is left is the collector,
and chance: how much that is, two of the same kind show.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from flui.telemetry import families as of
from support.collector import Answer, Collector
from support.mesh import Caller, Mesh, until
from support.mixed import head
from support.witness import Observed, Sidecar

WELL = "well"
ALSO = "also well"


class Beside:
    """The scene."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.observed = Observed(mesh)
        self.sides: dict[str, Sidecar] = {}
        self.collectors: dict[str, Collector] = {}
        self.asked = 0
        """Requests to each."""
        self._callers: dict[str, Caller] = {}
        self._stack = ExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def _start(self) -> None:
        app = await self.observed.witness("app")
        for name in (WELL, ALSO, "down", "hangs", "500"):
            collector = self.collectors[name] = self._stack.enter_context(Collector())
            more = f"tracing: {{endpoint: '{collector.endpoint}', share: 100%, rate: 1000000/s}}\n"
            if name == "down":
                collector.kill()
            elif name == "hangs":
                self._stack.enter_context(collector.hanging())
            elif name == "500":
                collector.answers.extend([Answer(500)] * 10_000)
            services = f"  stock: {{endpoints: ['{app.address}'], plaintext: true}}"
            self.sides[name] = await self.observed.sidecar(f"web-{len(self.sides)}", services=services, more=more)
        # all at the end: a connection that says nothing is closed after ten seconds
        for name, side in self.sides.items():
            self._callers[name] = await self.observed.caller(side.outbound)
        await self._ask(50)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.observed.__aexit__(kind, error, trace)
        self._stack.close()

    async def _ask(self, many: int) -> dict[str, list[float]]:
        octets = head("GET", "/items/1", "stock", {}, b"")
        took: dict[str, list[float]] = {name: [] for name in self.sides}
        names = list(self.sides)
        for number in range(many):
            # a different one begins each time: the first of a round has waited longest
            for name in names[number % len(names) :] + names[: number % len(names)]:
                began = time.perf_counter()
                answer = await self._callers[name].ask(octets)
                took[name].append(time.perf_counter() - began)
                assert answer.status == 200
        self.asked += many
        return took

    async def measure(self, many: int) -> dict[str, tuple[float, float]]:
        """p50 and p99 of each sidecar's requests, as multiples of those beside a collector that is well: of the slower of the two."""
        took = {name: sorted(times) for name, times in (await self._ask(many)).items()}
        quantiles = {name: (times[len(times) // 2], times[len(times) * 99 // 100]) for name, times in took.items()}
        p50, p99 = (max(quantiles[name][at] for name in (WELL, ALSO)) for at in (0, 1))
        return {name: (mine / p50, late / p99) for name, (mine, late) in quantiles.items()}

    async def accounted(self) -> None:
        """Every span was sent, has failed, was dropped, or waits in a queue with a bound."""
        for name in (WELL, ALSO):
            await until(lambda name=name: self.sides[name].page().one(of.SPANS, "sent") == self.asked, "all have arrived", 20.0)
            assert len(self.collectors[name].spans) == self.asked
        for name in ("down", "500"):
            await until(
                lambda name=name: sum(self.sides[name].page().of(of.SPANS).values()) == self.asked, f"{name}: all are given up", 20.0
            )
            assert self.sides[name].page().one(of.SPANS, "sent") == 0
        hung = self.sides["hangs"].page().of(of.SPANS)
        assert hung["sent",] == 0

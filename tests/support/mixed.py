"""A mixed load over real sidecars, and what each of them must have told of it, worked out from what callers and modules saw.

    module `web` ─▶ web (outbound) ═ mTLS ═▶ orders (inbound) ─▶ module, a process of its own
                          ├─────────────────▶ stock-1, -2, -3    raw servers, here, that reset, cut and hold as they are told
                          └─────────────────▶ shadow             gets the copies
    tour, audit, stranger ═════ mTLS ═══════▶ orders

Nothing here reads what the sidecars keep inside: `Expected` is made of requests sent, answers read and requests served.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from flui.telemetry import families as of
from flui.telemetry.meters import BOUNDS
from support.collector import Collector
from support.mesh import Caller, Mesh, until
from support.pki import Authority, raw_context, wall_clock
from support.witness import Asked, ModuleProcess, Numbers, Observed, Page, Sidecar, asked
from support.witness_module import Note, Witness, reset

WEB = "spiffe://shop/web"
CALLERS = 20
"""Connections of the module `web`; each of the others has two."""
DELAY_S = 0.5
LATE_S = 0.25

RULES = """\
p, spiffe://shop/web,   orders, *,   /items/*
p, spiffe://shop/web,   orders, GET, /limited/*
p, spiffe://shop/web,   orders, GET, /drill/*
p, spiffe://shop/web,   orders, GET, /mirrored/*
p, spiffe://shop/web,   orders, GET, /reports/*
p, spiffe://shop/tour,  orders, GET, /items/*
p, spiffe://shop/audit, orders, GET, /nothing
"""
LINES = {"items": 1, "limited": 2, "drill": 3, "mirrored": 4, "reports": 5}
NO_RULE = "no rule"
RECEIVER = "decided by the receiver"

ROUTES = f"""\
routes:
  - {{name: limited, match: {{hosts: [orders], path: /limited/*}}, to: orders, rate: {{rate: 5/s, burst: 10}}}}
  - {{name: late, match: {{hosts: [stock], path: /late/*}}, to: stock, timeout: {LATE_S * 1000:.0f}ms}}
  - {{name: drill, match: {{hosts: [orders], path: /drill/*}}, to: orders, inject: {{abort: 418, abort_share: 50%, delay: {DELAY_S * 1000:.0f}ms, delay_share: 50%}}}}
  - {{name: mirrored, match: {{hosts: [orders], path: /mirrored/*}}, to: orders, mirror: shadow}}
  - {{name: hedged, match: {{hosts: [stock], path: /hedged/*}}, to: stock, retry: {{attempts: 2, hedge_after: 50ms}}}}
  - {{name: again, match: {{hosts: [stock], path: /again/*}}, to: stock, retry: {{attempts: 3, backoff: 2ms, body: 64KiB}}}}
"""

KINDS = {
    "get": 300, "post": 120, "big": 15, "head": 20, "missing": 60, "empty": 20, "denied": 60, "nowhere": 20, "slow": 30, "late": 6, "due": 4,
    "limited": 40, "drill": 20, "mirrored": 20, "reports": 40, "stock": 60, "again": 60, "keyed": 20, "long": 5, "failed": 15, "cut": 15,
    "hedged": 10, "gone": 5, "tour": 40, "audit": 10, "stranger": 10,
}  # fmt: skip
"""How many of a thousand or so."""
DIRECT = {"tour": "tour", "due": "tour", "audit": "audit", "stranger": "stranger"}
"""Kinds that callers with an identity of their own send to orders."""


@dataclass(slots=True)
class Plan:
    """One request that will be sent."""

    kind: str
    found: Asked
    octets: bytes
    method: str
    host: str
    path: str
    said_trace: bool = False
    """It carries a traceparent."""
    leaves_s: float = 0.0
    """The caller goes away after so long; 0: it waits for the answer."""


@dataclass(slots=True)
class Expected:
    """What one sidecar must say of one exchange."""

    trace: str
    listener: str
    service: str
    route: str
    rule: str
    principal: str
    method: str
    authority: str
    path: str
    status: int
    fault: str
    upstream: str
    attempts: int
    request_octets: int
    response_octets: int
    inner_s: float
    """It cannot have taken less,"""
    outer_s: float
    """nor more."""
    answer_s: float = 0.0
    """Until the head of the answer it cannot have taken less."""
    began: float = 0.0
    ended: float = 0.0
    """Monotonic seconds between which it was; 0: not known."""
    peer: str = ""

    EQUAL = (
        "listener", "service", "route", "rule", "principal", "method", "authority", "path", "status", "fault", "upstream", "attempts",
        "request_octets", "response_octets",
    )  # fmt: skip


class Mixed:
    """The scene and its load."""

    def __init__(self, mesh: Mesh, observed: Observed, seed: int = 4) -> None:
        self.mesh = mesh
        self.observed = observed
        self.random = Random(seed)
        self.plans: list[Plan] = []
        self.connects: Counter[str] = Counter()
        """Connections that were opened, by listener."""
        self.handshakes: dict[str, list[float]] = defaultdict(list)
        self.malformed: list[int] = []
        """Octets of the answers to requests that were none."""
        self.wrong_hellos: Counter[str] = Counter()
        self.notes: dict[str, list[Note]] = {}
        self.expected: dict[str, list[Expected]] = {}
        self.tries: Counter[str] = Counter()
        self.offset = 0.0
        """Of the wall clock over the monotonic one."""
        self.orders_accepted = 0
        """Connections at orders, as it counts them itself: those that are not ours are web's."""
        self.module: ModuleProcess
        self.stock: list[Witness]
        self.shadow: Witness
        self.web: Sidecar
        self.orders: Sidecar
        self.collector = Collector()

    async def start(self, *, rotate: str = "64KiB", web: str = "", orders: str = "") -> None:
        self.module = self.observed.module()
        self.stock = [await self.observed.witness(f"stock-{number}", self.tries) for number in (1, 2, 3)]
        self.shadow = await self.observed.witness("shadow")
        tracing = f"tracing: {{endpoint: '{self.collector.endpoint}', share: 100%, rate: 5/s}}\n"
        log = f"{{file: access.log, rotate: {rotate}, keep: 1000}}"
        self.orders = await self.observed.sidecar(
            "orders", rules=RULES, outbound="off", access_log=log, more=tracing + orders,
            app=f"{{url: '{self.module.url}', retry: off, routes: [{{name: reports, match: {{path: /reports/*}}}}]}}",
        )  # fmt: skip
        stock = ", ".join(f"{{name: {each.name}, address: '{each.address}'}}" for each in self.stock)
        services = (
            f"  orders: {{endpoints: [{{name: orders-1, address: '{self.orders.inbound}'}}], outlier: off}}\n"
            f"  stock: {{endpoints: [{stock}], plaintext: true, balance: round_robin, outlier: off, retry_budget: {{share: 100%, least: 1000}}}}\n"
            f"  shadow: {{endpoints: [{{name: shadow, address: '{self.shadow.address}'}}], plaintext: true, outlier: off}}"
        )
        self.web = await self.observed.sidecar("web", services=services, more=ROUTES + tracing + web, access_log=log)
        self.offset = wall_clock() - time.monotonic()

    # The load.

    def make(self, kind: str, number: int) -> Plan:
        """A request of a kind, and its caller's own name for it."""
        random = self.random
        said = f"{kind}-{number}"
        found = Asked(said, kind)
        method, host, fields, body = "GET", "orders", {"x-id": said, "x-size": str(random.choice((0, 1, 60, 700, 3_000)))}, b""
        place, leaves_s, chunked = "items", 0.0, False
        if random.random() < 0.8 or kind in {"gone", "cut"}:
            found.trace = f"{random.getrandbits(128) or 1:032x}"
            fields["traceparent"] = f"00-{found.trace}-{random.getrandbits(64) or 1:016x}-00"
        match kind:
            case "post":
                method, body, chunked = "POST", bytes(random.choice((0, 1, 500, 20_000))), random.random() < 0.3
                fields["x-status"] = "201"
            case "big":
                method, body, fields["x-size"] = "PUT", bytes(200_000), "150000"
            case "head":
                method = "HEAD"
            case "missing":
                fields["x-status"] = "404"
            case "empty":
                fields["x-status"] = "204"
            case "denied":
                place = "secret"
            case "nowhere":
                host = "nowhere"
            case "slow":
                fields["x-wait"] = str(random.randrange(60, 120))
            case "late":
                host, place, fields["x-wait"] = "stock", "late", "1000"
            case "due":
                fields["x-wait"], fields["flui-deadline"] = "1000", "150"
            case "limited" | "drill" | "mirrored" | "reports":
                place = kind
            case "stock":
                host = "stock"
            case "again":
                host, place, method = "stock", "again", random.choice(("GET", "PUT"))
                body = bytes(random.choice((0, 900, 30_000))) if method == "PUT" else b""
                fields["x-plan"], fields["x-status"] = random.choice(
                    (("reset,ok", "200"), ("ok", "503,200"), ("reset,ok", "502,502,200"), ("reset", "200"))
                )
            case "keyed":
                host, method, body, fields["x-plan"] = "stock", "POST", bytes(100), "reset,ok"
                fields["idempotency-key"] = said
            case "long":
                host, place, method, body, fields["x-plan"] = "stock", "again", "PUT", bytes(100_000), "reset"
            case "failed":
                host, method, body, fields["x-plan"] = "stock", "POST", bytes(100), "reset"
            case "cut":
                host, fields["x-plan"], fields["x-size"] = "stock", "cut", "4000"
            case "hedged":
                host, place, fields["x-plan"] = "stock", "hedged", "hold,ok"
            case "gone":
                leaves_s, fields["x-wait"] = 0.1, "2500"
            case "audit" | "stranger":
                place = "items"
        path = f"/{place}/{random.randrange(300)}"
        octets = head(method, path + ("?q=1" if random.random() < 0.1 else ""), host, fields, body, chunked=chunked)
        found.octets_in = len(body)
        return Plan(kind, found, octets, method, host, path, bool(found.trace), leaves_s)

    async def load(self, count: int) -> None:
        """Sends about so many requests, in an order that chance chose, and waits until all have ended."""
        whole = sum(KINDS.values())
        kinds = [kind for kind, share in KINDS.items() for _ in range(max(1, round(count * share / whole)))]
        self.random.shuffle(kinds)
        plans = [self.make(kind, number) for number, kind in enumerate(kinds)]
        self.plans += plans
        entries: dict[str, list[Plan]] = defaultdict(list)
        for plan in plans:
            entries[DIRECT.get(plan.kind, "web")].append(plan)
        async with asyncio.TaskGroup() as group:
            for entry, waiting in entries.items():
                queue = iter(waiting)
                for _ in range(CALLERS if entry == "web" else 2):
                    group.create_task(self._keep_asking(entry, queue))
        for each in self.stock:
            each.release()

    async def _connect(self, entry: str) -> Caller:
        began = time.monotonic()
        if entry == "web":
            self.connects["outbound"] += 1
            return await self.observed.caller(self.web.outbound)
        self.connects["inbound"] += 1
        caller = await self.observed.caller(self.orders.inbound, self.mesh.context(entry))
        self.handshakes[entry].append(time.monotonic() - began)
        return caller

    async def _keep_asking(self, entry: str, queue: Iterable[Plan]) -> None:
        caller: Caller | None = None
        for plan in queue:
            if caller is None:
                caller = await self._connect(entry)
            if plan.leaves_s:
                plan.found.began = time.monotonic()
                await caller.send(plan.octets)
                await asyncio.sleep(plan.leaves_s)  # what this caller does
                plan.found.ended = time.monotonic()
                reset(caller.writer)  # a caller that only ends its side would still be answered
                caller = None
                continue
            answer = await asked(caller, plan.octets, plan.found)
            if answer is None or not answer.complete or answer.get(b"connection") == b"close":
                caller.close()
                caller = None
        if caller is not None:
            caller.close()

    async def misbehave(self) -> None:
        """What never becomes an exchange: requests that are none, and callers that prove nothing."""
        for octets in (
            b"GET /a b HTTP/1.1\r\nhost: orders\r\n\r\n",
            b"GET /%zz HTTP/1.1\r\nhost: orders\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ):
            caller = await self._connect("web")
            answer = await caller.ask(octets)
            assert answer.status == 400, answer
            self.malformed.append(len(answer.body))
            caller.close()
        strangers = Authority("shop")
        for reason, context in (
            ("no_certificate", raw_context(ssl.PROTOCOL_TLS_CLIENT, None, [self.mesh.ca])),
            ("untrusted", raw_context(ssl.PROTOCOL_TLS_CLIENT, strangers.leaf(WEB), [self.mesh.ca])),
        ):
            self.connects["inbound"] += 1
            try:
                caller = await self.observed.caller(self.orders.inbound, context)
                await caller.closed()
                caller.close()
            except OSError:
                pass
            self.wrong_hellos[reason] += 1
        self.connects["inbound"] += 1
        caller = await self.observed.caller(self.orders.inbound)
        await caller.send(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
        await caller.closed()
        caller.close()
        self.wrong_hellos["plaintext"] += 1

    async def settle(self) -> None:
        """Until every exchange has ended at both sidecars, and all that callers opened is closed."""
        wanted = sum(plan.kind not in DIRECT for plan in self.plans) + len(self.malformed)

        def ended() -> bool:
            page = self.web.page()
            open_now = (
                page.one(of.CONNECTIONS_OPEN, "outbound")
                + page.one(of.BREAKER_USED, "orders", "requests")
                + page.one(of.MIRRORED, "shadow", "sent")
            )
            return sum(page.of(of.REQUESTS).values()) >= wanted and open_now == page.one(of.MIRRORED, "shadow", "answered")

        await until(ended, "every exchange has ended", 20.0)
        await until(lambda: self.orders.page().one(of.BREAKER_USED, "@app", "requests") == 0, "at orders too", 20.0)
        self.orders_accepted = int(self.orders.page().one(of.CONNECTIONS_ACCEPTED, "inbound"))

    async def spans(self) -> None:
        """Until every trace that began is accounted for, and the collector has what was sent."""
        begun = sum(not plan.said_trace and plan.kind not in DIRECT for plan in self.plans)
        own = sum(not plan.said_trace and plan.kind in DIRECT for plan in self.plans)

        def come() -> bool:
            web, orders = (side.page().of(of.SPANS) for side in (self.web, self.orders))
            spans = self.collector.spans
            follow = sum(span.service == "web" and span.attributes.get("flui.upstream") == "orders-1" for span in spans)
            sent = web["sent",] + orders["sent",]
            return sum(web.values()) == begun and sum(orders.values()) == follow + own and sent == len(spans)

        await until(come, "every span is accounted for", 20.0)

    async def observers(self) -> None:
        """Ends the modules, and works out what must have been told."""
        for each in (*self.stock, self.shadow):
            await each.stop()
        self.module.end()
        self.collector.kill()
        assert not self.collector.wrong, self.collector.wrong
        for note in [*self.module.notes, *(note for each in self.stock for note in each.notes)]:
            self.notes.setdefault(note.id, []).append(note)
        web, orders = [], []
        for plan in self.plans:
            notes = sorted(self.notes.get(plan.found.id, ()), key=lambda note: note.began)
            if not plan.found.trace and notes:
                plan.found.trace = notes[0].trace
            if plan.kind in DIRECT:
                orders.append(self._at_orders(plan, notes, f"spiffe://shop/{DIRECT[plan.kind]}"))
                continue
            web.append(self._at_web(plan, notes))
            if plan.host == "orders" and web[-1].attempts:
                orders.append(self._at_orders(plan, notes, WEB))
        self.expected = {"web": web, "orders": orders}

    # What must be told.

    def _at_web(self, plan: Plan, notes: list[Note]) -> Expected:
        found = plan.found
        place = plan.path.split("/")[1]
        route = place if place in {"limited", "late", "drill", "mirrored", "again", "hedged"} else plan.host
        status, fault, service, rule = found.status, "", plan.host, RECEIVER
        attempts, upstream = len(notes), notes[-1].name if notes else ""
        if plan.host == "orders":
            attempts, upstream = 1, "orders-1"
        octets_out = found.octets_out
        match plan.kind:
            case "nowhere":
                service, route, rule, fault, attempts, upstream = "-", "-", "no route", "no_route", 0, ""
            case "limited" if found.status == 429:
                fault, attempts, upstream = found.code, 0, ""
            case "drill" if found.status == 418:
                fault, attempts, upstream = found.code, 0, ""
            case "late":
                fault = found.code
            case "gone":
                status, fault = 499, "caller_gone"
            case "failed" | "again" | "long" if found.status == 502 and found.code:
                fault = found.code
            case "cut":
                fault = "upstream_reset"
        last = notes[-1] if notes and attempts else None
        return Expected(
            found.trace, "outbound", service, route, rule, WEB, plan.method, plan.host, plan.path, status, fault, upstream, attempts,
            found.octets_in, octets_out,
            inner_s=last.ended - notes[0].began if last is not None and found.status and last.status and plan.kind != "late" else 0.0,
            outer_s=found.outer_s + (5.0 if plan.kind == "gone" else 0.0),
            answer_s=last.inner_s if last is not None and found.status and last.status and plan.kind not in {"late", "hedged"} else 0.0,
            began=found.began, ended=found.ended, peer=WEB,
        )  # fmt: skip

    def _at_orders(self, plan: Plan, notes: list[Note], principal: str) -> Expected:
        found = plan.found
        place = plan.path.split("/")[1]
        rule = f"rules.csv:{LINES[place]}" if place in LINES else NO_RULE
        status, fault, attempts, upstream = found.status, "", len(notes), "app" if notes else ""
        match plan.kind:
            case "denied" | "audit" | "stranger":
                rule, fault = NO_RULE, found.code
            case "tour":
                rule = "rules.csv:6"
            case "due":
                rule, fault = "rules.csv:6", found.code
            case "gone":
                status, fault = 499, "caller_gone"
        last = notes[-1] if notes else None
        octets_out = found.octets_out
        answered = last is not None and last.status and plan.kind not in {"due", "gone"}
        return Expected(
            found.trace, "inbound", "orders", "reports" if place == "reports" else "app", rule, principal, plan.method, plan.host, plan.path,
            status, fault, upstream, attempts, found.octets_in, octets_out,
            inner_s=last.inner_s if last is not None and answered else 0.0,
            outer_s=found.outer_s + (5.0 if plan.kind == "gone" else 0.0),
            answer_s=last.inner_s if last is not None and answered else 0.0,
            began=found.began, ended=found.ended, peer="other" if principal.endswith("/stranger") else principal,
        )  # fmt: skip


def head(method: str, path: str, host: str, fields: dict[str, str], body: bytes, *, chunked: bool = False) -> bytes:
    """A request as octets."""
    told = dict(fields)
    if chunked:
        told["transfer-encoding"] = "chunked"
    elif body or method in {"POST", "PUT"}:
        told["content-length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    sent = body
    if chunked:
        pieces = [body[at : at + 700] for at in range(0, len(body), 700)]
        sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n".encode() + sent


@dataclass
class Ledger:
    """Compares families with what was counted, and remembers which ones it has compared and how."""

    page: Page
    seen: dict[of.Family, int] = field(default_factory=dict)
    """Numbers compared."""
    told: list[str] = field(default_factory=list)

    def equal(self, family: of.Family, counted: Numbers, *, zero: Callable[[tuple[str, ...]], bool] = lambda _: False) -> None:
        """Every sample of the family is what was counted, and there is no other. `zero`: labels that may be there with 0."""
        said = self.page.of(family)
        found = {labels: number for labels, number in said.items() if number or not zero(labels)}
        wanted = {labels: float(number) for labels, number in counted.items() if number or not zero(labels)}
        assert found == wanted, f"{family.name}: {differ(found, wanted)}"
        self._note(family, len(wanted))

    def between(self, family: of.Family, low: Numbers, high: Numbers, suffix: str = "", slack: float = 0.001) -> None:
        """Every sample lies between two bounds, with so much slack."""
        said = self.page.of(family, suffix)
        assert said.keys() == low.keys() == high.keys(), f"{family.name}: {said.keys() ^ low.keys()}"
        for labels, number in said.items():
            assert low[labels] - slack <= number <= high[labels] + slack, (
                f"{family.name}{suffix} {labels}: {low[labels]} {number} {high[labels]}"
            )
        self._note(family, len(said))

    def _note(self, family: of.Family, many: int) -> None:
        self.seen[family] = self.seen.get(family, 0) + many


def differ(found: dict[Any, Any], wanted: dict[Any, Any]) -> str:
    """What is not the same, for people."""
    return ", ".join(
        f"{key}: told {found.get(key)}, counted {wanted.get(key)}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    )


def compare_log(expected: list[Expected], log: list[dict[str, Any]], offset: float) -> dict[str, int]:
    """Every line of an access log against what was seen of its exchange; each has exactly one. Says how many members were compared."""
    by_trace: dict[str, dict[str, Any]] = {}
    for line in log:
        if line["trace"]:
            assert line["trace"] not in by_trace, f"two lines of one exchange: {line}"
            by_trace[line["trace"]] = line
    assert len(by_trace) == len(expected), f"{len(by_trace)} lines of {len(expected)} exchanges"
    compared: Counter[str] = Counter()
    for want in expected:
        line = by_trace[want.trace]
        for name in Expected.EQUAL:
            assert line[name] == getattr(want, name), f"{name}: told {line[name]!r}, counted {getattr(want, name)!r}: {line}"
            compared[name] += 1
        total_s, upstream_s, queue_s = (line[name] / 1000 for name in ("total_ms", "upstream_ms", "queue_ms"))
        assert want.inner_s - 0.001 <= total_s <= want.outer_s + 0.001, f"{want.inner_s} {want.outer_s} {line}"
        assert want.answer_s - 0.001 <= upstream_s <= total_s + 0.001, f"{want.answer_s} {line}"
        assert 0 <= queue_s <= total_s + 0.001, line
        assert 0 <= line["decide_ms"] <= 1000 * want.outer_s, line
        ended = unix(line["time"]) - offset
        assert want.began - 0.005 <= ended <= want.began + want.outer_s + 0.005, f"{want.began} {ended} {want.ended}"
        compared.update(("total_ms", "upstream_ms", "queue_ms", "decide_ms", "time"))
    return dict(compared)


def unix(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def durations(expected: Iterable[Expected], by: tuple[str, ...], bound: str) -> Numbers:
    """Sums of the bounds of what exchanges took."""
    sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for each in expected:
        sums[tuple(getattr(each, name) for name in by)] += getattr(each, bound)
    return dict(sums)


def counts(expected: Iterable[Expected], by: tuple[str, ...], of_each: Callable[[Expected], int] = lambda _: 1) -> Numbers:
    """Numbers of exchanges, or of what each has, by some of their labels."""
    sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for each in expected:
        sums[tuple(str(getattr(each, name)) for name in by)] += of_each(each)
    return dict(sums)


def buckets(expected: Iterable[Expected], bound: str) -> Numbers:
    """How many exchanges took at most each bound of the histogram, if they took as long as `bound` says."""
    sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for each in expected:
        took = getattr(each, bound)
        for le in (*BOUNDS, float("inf")):
            sums[each.listener, each.service, each.route, "+Inf" if le == float("inf") else f"{le:g}"] += took <= le
    return dict(sums)


def _pre(*allowed: tuple[str, ...]) -> Callable[[tuple[str, ...]], bool]:
    return lambda labels: not allowed or labels in allowed


def compare_page(mixed: Mixed, side: Sidecar, page: Page) -> Ledger:
    """Every counter of a sidecar's page that requests move, against what was seen. The load is over and settled."""
    ledger = Ledger(page)
    is_web = side is mixed.web
    expected = mixed.expected[side.name]
    listener = "outbound" if is_web else "inbound"
    none = len(mixed.malformed) if is_web else 0
    route, peer, rule = ("listener", "service", "route"), ("listener", "peer"), ("listener", "rule")

    def also(found: Numbers, labels: tuple[str, ...], number: float) -> Numbers:
        return {**found, labels: found.get(labels, 0) + number} if none else found

    nameless = (listener, "-", "-")
    ledger.equal(of.REQUESTS, also(counts(expected, (*route, "status")), (*nameless, "400"), none))
    ledger.equal(of.PEER_REQUESTS, also(counts(expected, (*peer, "status")), (listener, "-", "400"), none))
    ledger.equal(of.RULE_REQUESTS, also(counts(expected, (*rule, "status")), (listener, "-", "400"), none))
    ledger.equal(of.REQUEST_OCTETS, also(counts(expected, route, lambda e: e.request_octets), nameless, 0))
    ledger.equal(of.RESPONSE_OCTETS, also(counts(expected, route, lambda e: e.response_octets), nameless, sum(mixed.malformed)))
    slack = 0.001 + 1e-4 * len(expected)
    for family, by in ((of.DURATION, route), (of.PEER_SECONDS, peer), (of.RULE_SECONDS, rule)):
        low, high = (also(durations(expected, by, bound), (listener, "-", "-")[: len(by)], 0) for bound in ("inner_s", "outer_s"))
        ledger.between(family, low, high, "_sum", slack)
        many = also(counts(expected, by), (listener, "-", "-")[: len(by)], none)
        ledger.between(family, many, many, "_count", 0)
    told = page.of(of.DURATION, "_bucket", ("le",))
    fewest, most = buckets(expected, "outer_s"), buckets(expected, "inner_s")
    for labels, number in told.items():
        extra = none if labels[:3] == nameless else 0
        assert fewest.get(labels, 0) + extra <= number <= most.get(labels, 0) + extra, (
            f"{labels}: {fewest.get(labels)} {number} {most.get(labels)}"
        )
    ledger.seen[of.DURATION] += len(told)
    faults = Counter((listener, each.fault) for each in expected if each.fault)
    if none:
        faults[listener, "malformed"] += none
    ledger.equal(of.FAULTS, {labels: float(number) for labels, number in faults.items()})
    distinct = {(each.principal, each.method, each.authority if is_web else "", each.path) for each in expected}
    ledger.equal(of.FLOW_LOOKUPS, {("hit",): len(expected) - len(distinct), ("miss",): len(distinct)})
    ledger.equal(of.FLOWS, {(): len(distinct)})
    for family in (of.FOLDED, of.LOG_LINES_SAMPLED):
        ledger.equal(family, {(): 0})
    ledger.equal(of.LOG_LINES_DROPPED, {("access",): 0})
    for family in (of.SHED, of.BREAKER_REFUSED):
        ledger.equal(family, {}, zero=_pre())
    _spans(mixed, ledger)
    (_web if is_web else _orders)(mixed, ledger)
    return ledger


def _spans(mixed: Mixed, ledger: Ledger) -> None:
    """Traces begin where no traceparent came; the next sidecar follows those that the first one has sampled."""
    spans = mixed.collector.spans
    of_web = {span.trace_id for span in spans if span.service == "web"}
    side = "web" if ledger.page.of(of.ENDPOINT_REQUESTS).get(("@app", "app")) is None else "orders"
    expected = mixed.expected[side]
    unsaid = {plan.found.trace for plan in mixed.plans if not plan.said_trace}
    sampled = [each for each in expected if each.trace in unsaid] if side == "web" else [
        each for each in expected if each.trace in (of_web if each.principal == WEB else unsaid)
    ]  # fmt: skip
    sent = sum(span.service == side for span in spans)
    assert sent, "some are sampled"
    ledger.equal(of.SPANS, {("sent",): sent, ("failed",): 0, ("dropped",): 0, ("over_rate",): len(sampled) - sent})


def _web(mixed: Mixed, ledger: Ledger) -> None:
    of_kind: dict[str, list[Plan]] = defaultdict(list)
    for plan in mixed.plans:
        of_kind[plan.kind].append(plan)
    notes = [note for each in mixed.stock for note in each.notes]
    at_orders = [each for each in mixed.expected["orders"] if each.principal == WEB]
    hedged = len(of_kind["hedged"])
    again = sum(len(mixed.notes[plan.found.id]) - 1 for kind in ("again", "keyed") for plan in of_kind[kind])
    ledger.equal(of.RETRIES, {("stock", "sent"): again, ("stock", "given_up"): len(of_kind["long"])}, zero=_pre())
    ledger.equal(of.HEDGES, {("stock", "sent"): hedged, ("stock", "won"): hedged}, zero=lambda _: True)
    ledger.equal(of.ENDPOINT_REQUESTS, {
        ("orders", "orders-1"): len(at_orders), ("shadow", "shadow"): len(mixed.shadow.notes),
        **{("stock", each.name): len(each.notes) for each in mixed.stock},
    })  # fmt: skip
    assert len(notes) == sum(each.attempts for each in mixed.expected["web"] if each.authority == "stock")
    copies = len(mixed.shadow.notes)
    assert copies == len(of_kind["mirrored"])
    ledger.equal(of.MIRRORED, {("shadow", "sent"): copies, ("shadow", "answered"): copies}, zero=lambda _: True)
    limited = sum(plan.found.status == 429 for plan in of_kind["limited"])
    assert limited, "the limit is below what is sent"
    ledger.equal(of.RATE_LIMITED, {("outbound", "limited"): limited}, zero=lambda _: True)
    aborted = [plan for plan in of_kind["drill"] if plan.found.status == 418]
    delayed = [
        plan
        for plan in of_kind["drill"]
        if plan.found.status != 418
        and mixed.notes[plan.found.id][0].began - plan.found.began >= 0.9 * DELAY_S  # the timers of the loop are of milliseconds
    ]
    ledger.equal(of.INJECTED, {("drill", "abort"): len(aborted), ("drill", "delay"): len(delayed)}, zero=lambda _: True)
    ledger.equal(of.CONNECTIONS_ACCEPTED, {("outbound",): mixed.connects["outbound"]})
    ledger.equal(of.UPSTREAM_CONNECTS, {
        ("orders", "connected"): mixed.orders_accepted - mixed.connects["inbound"],
        ("stock", "connected"): sum(each.accepted for each in mixed.stock),
        ("shadow", "connected"): mixed.shadow.accepted,
    })  # fmt: skip


def _orders(mixed: Mixed, ledger: Ledger) -> None:
    ledger.equal(of.HANDSHAKES_REFUSED, {("inbound", reason): number for reason, number in mixed.wrong_hellos.items()})
    ledger.equal(of.UPSTREAM_CONNECTS, {("@app", "connected"): mixed.module.accepted})
    ledger.equal(of.ENDPOINT_REQUESTS, {("@app", "app"): len(mixed.module.notes)})
    ledger.equal(of.RETRIES, {}, zero=_pre())

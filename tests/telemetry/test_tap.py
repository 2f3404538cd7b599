"""Taps: shown to whom the policy allows it, what was asked for, and never at the cost of a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from flui.model.decision import Why
from flui.policy.base import Policy, PolicySource, Text
from flui.policy.casbin import load
from flui.policy.index import DenyAll
from flui.telemetry.accesslog import RANDOM_FROM, RANDOM_TO, AccessLog, fixed, sample_bound
from flui.telemetry.journal import Journal
from flui.telemetry.tap import QUEUED, TAPS, FilterError, Filters, Record, Refusal, Tap, Taps

MODEL = (Path(__file__).parents[2] / "policy" / "model.conf").read_text()
ALL = "p, uid:7, orders, TAP, /*\n"


def policy(rows: str) -> Policy:
    return load(PolicySource(Text("model.conf", MODEL), (Text("shop.csv", rows),))).policy


def record(
    path: bytes = b"/orders/7",
    *,
    service: str = "orders",
    listener: str = "inbound",
    route: str = "app",
    principal: str = "spiffe://shop/web",
    shown: bytes | None = None,
    trace: bytes = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    method: bytes = b"GET",
    status: int = 200,
    fault: str = "",
    total_s: float = 0.00145,
    attempts: int = 1,
) -> Record:
    why = Why(listener, service, route, "shop.csv:3", principal)
    text = fixed({"listener": listener, "service": service, "route": route, "rule": "shop.csv:3", "principal": principal})
    shown = path if shown is None else shown
    line = AccessLog().line(
        1_700_000_000.0,
        text,
        trace[3:35],
        method,
        b"orders",
        shown,
        status,
        fault.encode(),
        b"orders-1",
        attempts,
        1,
        2,
        0,
        0,
        0,
        0.001,
        total_s,
    )
    return Record(line, why, path, shown, trace, method, status, fault, total_s)


class Told:
    """Keeps what a journal is told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []

    def write(self, line: bytes) -> None:
        self.lines.append(json.loads(line))

    def kick(self) -> None:
        pass


class Reader:
    """A sink that remembers, and can stop reading."""

    def __init__(self) -> None:
        self.octets = b""
        self.writable = True
        self.takes = -1
        """Pieces it takes before it is full; -1: all."""
        self.finished = asyncio.Event()
        self.came = asyncio.Event()

    def write(self, octets: bytes) -> None:
        assert not self.finished.is_set()
        self.octets += octets
        self.takes -= 1
        if not self.takes:
            self.writable = False
        self.came.set()

    def finish(self) -> None:
        self.finished.set()

    @property
    def objects(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.octets.decode("ascii").splitlines()]

    async def until(self, count: int) -> list[dict[str, object]]:
        """The first `count` objects."""
        while len(self.objects) < count:
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), 10)
        assert len(self.objects) == count
        return self.objects


class Rig:
    def __init__(self, rows: str = ALL) -> None:
        self.policy: Policy = policy(rows)
        self.told = Told()
        self.taps = Taps("orders", lambda: self.policy, Journal(self.told, lambda: 0.0))  # type: ignore[arg-type] # two of its methods are used

    def look(self, **filters: str) -> tuple[Tap, Reader]:
        tap = self.taps.attach(7, filters)
        assert isinstance(tap, Tap), tap
        reader = Reader()
        tap.start(reader)
        return tap, reader

    def offer(self, *records: Record) -> None:
        for each in records:
            self.taps.offer(each)

    def refused(self, uid: int | None = 7, filters: dict[str, str] | None = None) -> Refusal:
        refusal = self.taps.attach(uid, filters or {})
        assert isinstance(refusal, Refusal)
        assert not self.taps.active
        return refusal


def run(work: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))


def test_what_is_shown_is_the_access_logs_line() -> None:
    async def work() -> None:
        rig = Rig()
        _, reader = rig.look()
        rig.offer(record(attempts=3), record(status=404))
        first, second = await reader.until(2)
        assert first == json.loads(record(attempts=3).line)
        assert (first["attempts"], second["status"], second["attempts"]) == (3, 404, 1)

    run(work)


def test_without_a_rule_it_is_refused_at_once_with_the_row_to_add() -> None:
    rig = Rig("p, uid:8, orders, TAP, /*\np, uid:7, orders, GET, /*\np, role:operator, orders, TAP, /*\ng, uid:9, role:operator\n")
    refusal = rig.refused()
    assert refusal.status == 403
    assert refusal.row == "p, uid:7, orders, TAP, /*"
    assert "no rule of the policy lets uid:7 tap" in refusal.detail
    assert refusal.row in refusal.detail
    assert rig.told.lines[-1]["event"] == "tap refused"
    rig.policy = policy(refusal.row)
    assert isinstance(rig.taps.attach(7, {}), Tap)


def test_without_a_policy_it_is_refused_and_says_so() -> None:
    rig = Rig()
    rig.policy = DenyAll("no policy is configured")
    assert "none is in force (no policy is configured)" in rig.refused().detail


def test_a_deny_alone_allows_nothing() -> None:
    assert Rig("p, uid:7, orders, TAP, /*, deny\n").refused().status == 403


def test_nobody_is_nobody() -> None:
    """Over TCP the system does not say who asks."""
    refusal = Rig().refused(uid=None)
    assert refusal.status == 403
    assert "Unix socket" in refusal.detail


def test_only_what_the_policy_allows_is_shown() -> None:
    async def work() -> None:
        rig = Rig(
            "p, role:operator, orders, TAP, /orders/*\np, role:operator, orders, TAP, /orders/secret, deny\n"
            "p, uid:7, stock, TAP, /items/:id\ng, uid:7, role:operator\n"
        )
        _, reader = rig.look()
        rig.offer(
            record(b"/orders/7"),
            record(b"/orders/secret"),
            record(b"/users/1"),
            record(b"/items/1"),
            record(b"/items/1", service="stock"),
            record(b"/items/1/parts", service="stock"),
            record(b"/orders/7", service="stock"),
            record(b"/orders/8"),
        )
        shown = await reader.until(3)
        assert [(each["service"], each["path"]) for each in shown] == [
            ("orders", "/orders/7"),
            ("stock", "/items/1"),
            ("orders", "/orders/8"),
        ]

    run(work)


@pytest.mark.parametrize(
    ("rows", "count"), [(ALL, 1), ("p, uid:7, orders, TAP, /\np, uid:7, orders, TAP, /:a\n", 0), ("p, uid:7, stock, TAP, /*\n", 0)]
)
def test_what_was_refused_before_a_decision_is_for_those_who_may_see_everything(rows: str, count: int) -> None:
    """A malformed path is none that a rule can be asked about."""

    async def work() -> None:
        rig = Rig(rows + "p, uid:7, orders, TAP, /last\n")
        _, reader = rig.look()
        rig.offer(record(b"/a\xff\x00", service="-", status=400, fault="malformed"), record(b"/last"))
        shown = await reader.until(count + 1)
        assert [each["status"] for each in shown] == [400, 200][1 - count :]

    run(work)


def test_a_changed_policy_holds_for_a_running_tap_at_once() -> None:
    async def work() -> None:
        rig = Rig()
        _, reader = rig.look()
        rig.offer(record(b"/orders/1"), record(b"/users/1"))
        rig.policy = policy("p, uid:7, orders, TAP, /orders/*\n")
        rig.offer(record(b"/orders/2"), record(b"/users/1"))
        rig.policy = policy("p, uid:7, orders, TAP, /users/*\n")
        rig.offer(record(b"/orders/1"), record(b"/users/3"))
        assert [each["path"] for each in await reader.until(4)] == ["/orders/1", "/users/1", "/orders/2", "/users/3"]
        rig.policy = policy("p, uid:8, orders, TAP, /*\n")
        rig.offer(record(b"/users/4"))
        await reader.finished.wait()
        assert reader.objects[4:] == [{"ended": "the policy in force does not let uid:7 tap any more"}]
        assert not rig.taps.active

    run(work)


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        ({"listener": "inbound"}, {"listener": "inbound"}),
        ({"service": "stock"}, {"service": "stock"}),
        ({"route": "items"}, {"route": "items"}),
        ({"principal": "spiffe://shop/tour"}, {"principal": "spiffe://shop/tour"}),
        ({"principal": "spiffe://shop/t*"}, {"principal": "spiffe://shop/tour"}),
        ({"method": "POST"}, {"method": b"POST"}),
        ({"path": "/items/:id"}, {"path": b"/items/7"}),
        ({"path": "/items/*"}, {"path": b"/items/7/parts"}),
        ({"status": "503"}, {"status": 503}),
        ({"status": "5xx"}, {"status": 504}),
        ({"status": ">=400"}, {"status": 400}),
        ({"status": ">400"}, {"status": 401}),
        ({"status": "<200"}, {"status": 101}),
        ({"status": "<=199"}, {"status": 0}),
        ({"fault": "denied"}, {"fault": "denied"}),
        ({"fault": "*"}, {"fault": "upstream_reset"}),
        ({"min_ms": "20"}, {"total_s": 0.02}),
        ({"min_ms": "1.5"}, {"total_s": 0.0016}),
        ({"status": "5xx", "path": "/items/*"}, {"status": 500, "path": b"/items/1"}),
    ],
)
def test_a_filter_lets_through_what_it_says_and_no_other(filters: dict[str, str], passing: dict[str, object]) -> None:
    other = record(listener="outbound")
    assert not Filters(filters).hold(other)
    assert Filters(filters).hold(record(**({"listener": "outbound"} | passing)))  # type: ignore[arg-type] # each by its name
    for name in passing if len(passing) > 1 else ():
        assert not Filters(filters).hold(record(**{name: passing[name]}))  # type: ignore[arg-type] # each by its name


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"colour": "red"}, "colour: is no filter; there are listener, "),
        ({"service": ""}, "service: is empty"),
        ({"path": "items"}, "path: 'items' does not begin with a slash"),
        ({"path": "/a/*/b"}, "path: '/a/*/b' has a `*`"),
        ({"path": "/\u00e9"}, "is not ASCII"),
        ({"status": "6xx"}, "status: '6xx' is no status; write 500, 5xx or >=400"),
        ({"status": "=500"}, "status:"),
        ({"status": "\u0665\u0660\u0660"}, "status:"),
        ({"fault": "boom"}, "fault: 'boom' is no fault; write * for any, or one of malformed, "),
        ({"method": "get"}, "write GET"),
        ({"min_ms": "-1"}, "min_ms:"),
        ({"min_ms": "nan"}, "min_ms:"),
        ({"sample": "0"}, "sample:"),
        ({"sample": "101%"}, "sample:"),
        ({"sample": "2"}, "sample:"),
        ({"sample": "0.00001"}, "sample:"),
        ({"limit": "0"}, "limit:"),
        ({"limit": "1e3"}, "limit:"),
    ],
)
def test_a_filter_that_is_none_says_what_to_write(filters: dict[str, str], said: str) -> None:
    with pytest.raises(FilterError) as raised:
        Filters(filters)
    assert said in str(raised.value)
    assert ";" in str(raised.value)
    refusal = Rig().refused(filters=filters)
    assert (refusal.status, refusal.detail) == (400, str(raised.value))


def test_a_filter_sees_no_more_than_is_shown() -> None:
    """Or one could ask for `/users/jane` and learn who was there from what comes."""

    async def work() -> None:
        rig = Rig()
        _, guess = rig.look(path="/users/jane")
        _, plain = rig.look(path="/users/:id")
        rig.offer(record(b"/users/jane", shown=b"/users/-"))
        assert [each["path"] for each in await plain.until(1)] == ["/users/-"]
        assert guess.octets == b""
        assert b"jane" not in plain.octets

    run(work)


@pytest.mark.parametrize(
    ("sample", "share_bp"), [("0.1", 1_000), ("10%", 1_000), ("0.01%", 1), (".5", 5_000), ("1", 10_000), ("100%", 10_000)]
)
def test_a_sample_is_the_part_that_the_access_log_would_keep(sample: str, share_bp: int) -> None:
    filters = Filters({"sample": sample})
    bound = sample_bound(share_bp, 10_000)
    kept = 0
    for number in range(20_000):
        trace = b"00-%032x-b7ad6b7169203331-00" % (number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128))
        holds = filters.hold(record(trace=trace)) if number < 50 else bound is None or trace[RANDOM_FROM:RANDOM_TO] < bound
        assert holds == (bound is None or trace[RANDOM_FROM:RANDOM_TO] < bound)
        kept += holds
    assert abs(kept - 2 * share_bp) <= 3 * (2 * share_bp * (1 - share_bp / 10_000)) ** 0.5


def test_a_smaller_sample_is_part_of_every_larger_one_and_what_opentelemetry_takes() -> None:
    """OpenTelemetry's TraceIdRatioBased: the last 64 bits of the trace id are less than the ratio of 2**64."""
    ids = [number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128) for number in range(1, 2_000)]
    before: set[int] = set()
    for share in (0, 1, 100, 1_000, 5_000, 9_999):
        bound = sample_bound(share, 10_000)
        assert bound is not None
        kept = {each for each in ids if (b"00-%032x-b7ad6b7169203331-01" % each)[RANDOM_FROM:RANDOM_TO] < bound}
        assert kept == {each for each in ids if each % (1 << 64) < share * (1 << 64) // 10_000}
        assert before <= kept
        before = kept
    assert sample_bound(10_000, 10_000) is None


def test_a_failure_before_there_was_a_trace_is_in_every_sample() -> None:
    assert Filters({"sample": "0.01%"}).hold(record(trace=b"", status=400))


def test_after_its_limit_a_tap_ends_and_nobody_looks_any_more() -> None:
    async def work() -> None:
        rig = Rig()
        _, reader = rig.look(limit="2", status="5xx")
        rig.offer(record(), record(status=500), record(), record(status=502), record(status=503))
        assert not rig.taps.active
        await reader.finished.wait()
        assert [each["status"] for each in reader.objects] == [500, 502]

    run(work)


def test_one_who_does_not_read_loses_records_is_told_how_many_and_where() -> None:
    async def work() -> None:
        rig = Rig()
        tap, reader = rig.look()
        reader.writable = False
        rig.offer(*(record(b"/orders/%d" % number) for number in range(QUEUED + 76)))
        assert reader.octets == b""
        assert tap.dropped == 76
        reader.writable = True
        tap.resume()
        rig.offer(record(b"/orders/last"))
        shown = await reader.until(QUEUED + 2)
        assert [each["path"] for each in shown[:QUEUED]] == [f"/orders/{number}" for number in range(QUEUED)]
        assert shown[QUEUED] == {"dropped": 76}
        assert shown[QUEUED + 1]["path"] == "/orders/last"

    run(work)


def test_one_who_reads_slowly_is_given_no_more_than_he_takes() -> None:
    async def work() -> None:
        rig = Rig()
        tap, reader = rig.look()
        reader.writable = False
        rig.offer(*[record()] * 100)
        for _ in range(4):
            before = len(reader.objects)
            reader.takes = 1
            reader.writable = True
            tap.resume()
            assert 0 < len(reader.objects) - before < 50
        assert len(reader.objects) == 100
        tap.stop()

    run(work)


def test_what_waits_is_bounded() -> None:
    async def work() -> None:
        rig = Rig()
        tap, reader = rig.look()
        reader.writable = False
        one = record()
        rig.offer(*[one] * QUEUED)
        for _ in range(5_000):
            rig.taps.offer(one)
        assert len(tap._queue) == QUEUED + 1
        assert tap.dropped == 5_000

    run(work)


def test_so_many_taps_and_no_more() -> None:
    async def work() -> None:
        rig = Rig()
        looking = [rig.look() for _ in range(TAPS)]
        refusal = rig.taps.attach(7, {})
        assert isinstance(refusal, Refusal)
        assert refusal.status == 503
        looking[3][0].stop()
        _, ninth = rig.look(status="500")
        rig.offer(record())
        for at, (_, reader) in enumerate(looking):
            if at != 3:
                await reader.until(1)
        assert looking[3][1].octets == ninth.octets == b""

    run(work)


def test_one_that_is_gone_is_forgotten_and_the_journal_says_who_looked() -> None:
    async def work() -> None:
        rig = Rig()
        assert not rig.taps.active
        tap, reader = rig.look(status=">=400", path="/orders/*")
        assert rig.taps.active
        rig.offer(record(status=500))
        tap.stop()
        tap.stop()
        assert not rig.taps.active
        rig.offer(record(status=500))
        assert reader.octets == b""
        opened, ended = rig.told.lines
        assert (opened["event"], opened["subject"], opened["filters"]) == ("tap opened", "uid:7", "status=>=400 path=/orders/*")
        assert (ended["event"], ended["shown"], ended["dropped"]) == ("tap ended", 1, 0)

    run(work)


def test_verdicts_are_remembered_within_bounds() -> None:
    async def work() -> None:
        rig = Rig()
        tap, _ = rig.look(limit="100000")
        for number in range(10_000):
            rig.taps.offer(record(b"/orders/%d" % number))
        rig.taps.offer(record(b"/orders/" + b"x" * 300))
        assert 0 < len(tap._known) <= 4_096
        assert all(len(path) <= 256 for _, path in tap._known)
        tap.stop()

    run(work)


def test_what_a_peer_sends_stays_within_its_line() -> None:
    async def work() -> None:
        rig = Rig()
        _, reader = rig.look()
        rig.offer(record(b'/a"\n{"x":1}\x1b[2J\xff', service="-", status=400))
        (shown,) = await reader.until(1)
        assert shown["path"] == '/a"\n{"x":1}\x1b[2J\u00ff'
        assert reader.octets.count(b"\n") == 1
        assert all(0x20 <= octet < 0x7F for octet in reader.octets[:-1])

    run(work)

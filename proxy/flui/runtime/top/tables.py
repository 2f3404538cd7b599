"""What stands in each table: its columns, and the words for every number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Final, NamedTuple, TypeVar

from flui.model.units import GIB, KIB, MIB
from flui.runtime.top.layout import Column
from flui.runtime.top.view import ClusterRow, EndpointRow, Head, Lost, PeerRow, RefusalRow, RouteRow, View
from flui.telemetry.meters import BOUNDS

GOOD: Final = "green"
DOUBTFUL: Final = "yellow"
BAD: Final = "bold red"
FAINT: Final = "dim"
TITLE: Final = "bold cyan"

NOTHING: Final = "-"
_LAGGING_S: Final = 0.1
"""Loop lag that is worth a colour."""
_NEARLY: Final = 0.8
"""Part of a limit that is worth a colour."""

Row = TypeVar("Row")


class Cell(NamedTuple):
    """A word and its colours."""

    text: str
    style: str = ""


class Table(NamedTuple):
    """A table that is still as large as it wants to be."""

    columns: tuple[Column, ...]
    rows: list[list[Cell]]


_SIDECAR: Final = Column("SIDECAR", least=10)

_HEADS: Final = (
    _SIDECAR,
    Column("IDENTITY", 7, least=16),
    Column("UP", 4, right=True, usual=6),
    Column("POLICY", 6, least=8),
    Column("FORM", 8),
    Column("READY"),
    Column("LAG", 2, right=True, usual=6),
    Column("CPU", 2, right=True, usual=5),
    Column("MEMORY", 2, right=True, usual=7),
    Column("APP CPU", 9, right=True),
    Column("APP MEM", 9, right=True),
    Column("CONNS", 5, right=True, usual=5),
    Column("REQ/S", right=True, usual=6),
    Column("ERR", 1, right=True, usual=6),
    Column("P50", 5, right=True, usual=6),
    Column("P99", 1, right=True, usual=6),
    Column("SHEDS", 3),
)
_ROUTES: Final = (
    Column("LISTENER", 2),
    Column("SERVICE", least=8),
    Column("ROUTE", least=10),
    Column("REQ/S", right=True, usual=6),
    Column("ERR/S", 5, right=True, usual=5),
    Column("ERR", right=True, usual=6),
    Column("P50", 3, right=True, usual=6),
    Column("P99", right=True, usual=6),
    Column("IN FLIGHT", 4, right=True),
)
_ENDPOINTS: Final = (
    Column("CLUSTER", least=8),
    Column("ENDPOINT", least=10),
    Column("ADDRESS", 5, least=15),
    Column("HEALTH", least=14),
    Column("ACTIVE", 1, right=True),
    Column("TRIES/S", 1, right=True, usual=7),
    Column("EJECTED", 2, right=True),
)
_CLUSTERS: Final = (
    Column("CLUSTER", least=8),
    Column("RETRY/S", right=True),
    Column("REFUSED/S", 2, right=True),
    Column("USED/ALLOWED", 1, right=True),
    Column("HEDGE/S", 5, right=True),
    Column("BREAKER", 3),
    Column("LIMIT", 4, right=True),
    Column("IDLE/BUSY", 6, right=True),
    Column("PANIC", 1),
)
_REFUSALS: Final = (
    Column("REFUSED BY"),
    Column("WHAT", least=16),
    Column("WHERE", 2, least=8),
    Column("PER S", right=True, usual=5),
    Column("TOTAL", 1, right=True, usual=7),
)
_PEERS: Final = (
    Column("LISTENER", 3),
    Column("PEER", least=24),
    Column("REQ/S", right=True, usual=6),
    Column("ERR", 1, right=True, usual=6),
    Column("MEAN", 2, right=True, usual=6),
    Column("TOTAL", 4, right=True, usual=7),
)


def tables(views: Sequence[View | Lost]) -> list[Table]:
    """Every table that has a row, in the order of the screen; the sidecars' own only if there are several."""
    several = len(views) > 1
    well = [each for each in views if isinstance(each, View)]
    made = [
        _table(_ROUTES, ((view, view.routes) for view in well), _route, lambda row: row.requests_per_s, several),
        _table(_ENDPOINTS, ((view, view.endpoints) for view in well), _endpoint, _endpoint_rank, several),
        _table(_CLUSTERS, ((view, view.clusters) for view in well), _cluster, lambda row: row.retries_per_s + row.busy, several),
        _table(_REFUSALS, ((view, view.refusals) for view in well), _refusal, lambda row: row.per_s, several),
        _table(_PEERS, ((view, view.peers) for view in well), _peer, lambda row: row.requests_per_s, several),
    ]
    if several:
        made.insert(0, Table(_HEADS, [_head(each) for each in views]))
    return [table for table in made if table.rows]


def facts(head: Head) -> list[Cell]:
    """What is said about a sidecar that is alone."""
    told = [
        Cell(head.sidecar, "bold"),
        Cell(head.identity),
        *_optional("up", head.up_s, span),
        Cell(f"policy {head.policy}" if head.policy else ""),
        Cell(f"{head.form} {head.version}".strip()),
        _ready(head),
        *(Cell(f"lag {cell.text}", cell.style) for cell in [_lag(head.lag_s)] if cell.text),
        *_optional("cpu", head.cpu, share),
        *_optional("memory", head.memory_octets, octets),
        *_optional("module cpu", head.module_cpu, share),
        *_optional("module memory", head.module_memory_octets, octets),
        Cell(f"{head.connections} connections"),
        Cell(f"{rate(head.requests_per_s)} requests/s", "bold"),
        Cell(f"{_error_share(head)} errors", BAD if head.errors_per_s else ""),
        *_optional("p50", head.p50_s, seconds),
        *_optional("p99", head.p99_s, seconds),
        Cell(f"sheds {_sheds(head)}" if head.overload else "", DOUBTFUL),
    ]
    return [cell for cell in told if cell.text]


def rate(per_s: float) -> str:
    """Events per second."""
    if not per_s:
        return "0"
    if per_s < 0.05:
        return "<0.1"
    return f"{per_s:.1f}" if per_s < 99.95 else f"{per_s:,.0f}"


def share(part: float) -> str:
    """A part of 1."""
    if not part:
        return "0 %"
    if part < 0.0005:
        return "<0.1 %"
    return f"{part * 100:.1f} %" if part < 0.0995 else f"{part * 100:.0f} %"


def seconds(time_s: float | None) -> str:
    """A latency; above the histogram's last bound only that much is known."""
    if time_s is None:
        return NOTHING
    if time_s >= BOUNDS[-1]:
        return f">{BOUNDS[-1]:.0f} s"
    if time_s < 0.9995:
        milliseconds = time_s * 1000
        return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"
    return f"{time_s:.1f} s"


def span(time_s: float) -> str:
    """How long something has lasted, in its two largest units."""
    left = int(time_s)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def octets(number: float) -> str:
    """A size."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if number >= size:
            return f"{number / size:.1f} {unit}" if number < 10 * size else f"{number / size:.0f} {unit}"
    return f"{number:.0f} B"


def _table(
    columns: tuple[Column, ...],
    by_view: Iterable[tuple[View, Sequence[Row]]],
    cells: Callable[[Row], list[Cell]],
    busy: Callable[[Row], float],
    several: bool,
) -> Table:
    rows = [(view.head.sidecar, row) for view, rows in by_view for row in rows]
    if not several:
        return Table(columns, [cells(row) for _, row in rows])
    rows.sort(key=lambda each: -busy(each[1]))
    return Table((_SIDECAR, *columns), [[Cell(name), *cells(row)] for name, row in rows])


def _head(each: View | Lost) -> list[Cell]:
    if isinstance(each, Lost):
        return [Cell(each.sidecar, BAD), Cell(""), Cell(""), Cell(""), Cell(""), Cell("lost", BAD), *(Cell("") for _ in _HEADS[6:])]
    head = each.head
    return [
        Cell(head.sidecar, "bold"),
        Cell(head.identity),
        Cell("" if head.up_s is None else span(head.up_s)),
        Cell(head.policy),
        Cell(head.form),
        _ready(head, short=True),
        _lag(head.lag_s),
        Cell("" if head.cpu is None else share(head.cpu)),
        Cell("" if head.memory_octets is None else octets(head.memory_octets)),
        Cell("" if head.module_cpu is None else share(head.module_cpu)),
        Cell("" if head.module_memory_octets is None else octets(head.module_memory_octets)),
        Cell(str(head.connections)),
        Cell(rate(head.requests_per_s)),
        Cell(_error_share(head), BAD if head.errors_per_s else FAINT),
        Cell(seconds(head.p50_s)),
        Cell(seconds(head.p99_s)),
        Cell(_sheds(head) if head.overload else "", DOUBTFUL),
    ]


def _route(row: RouteRow) -> list[Cell]:
    faint = "" if row.requests_per_s else FAINT
    failing = BAD if row.errors_per_s else FAINT
    return [
        Cell(row.listener, faint),
        Cell(row.service, faint),
        Cell(row.route, faint),
        Cell(rate(row.requests_per_s), faint or "bold"),
        Cell(rate(row.errors_per_s), failing),
        Cell(share(row.error_share), failing),
        Cell(seconds(row.p50_s), faint),
        Cell(seconds(row.p99_s), faint),
        Cell(rate(row.in_flight), faint),
    ]


def _endpoint_rank(row: EndpointRow) -> float:
    """What is not well comes first: that is what someone looks for."""
    return inf if row.health != "ok" else row.requests_per_s or row.active


def _endpoint(row: EndpointRow) -> list[Cell]:
    health = {
        "ok": Cell("ok", GOOD),
        "warming": Cell(f"warming {row.share * 100:.0f} %", DOUBTFUL),
        "out": Cell(f"out: {row.why}" if row.why else "out", BAD),
    }[row.health]
    return [
        Cell(row.cluster),
        Cell(row.endpoint),
        Cell(row.address, FAINT),
        health,
        Cell(str(row.active)),
        Cell("" if row.requests_per_s is None else rate(row.requests_per_s), "bold"),
        Cell(str(row.ejections), DOUBTFUL if row.ejections else FAINT),
    ]


def _cluster(row: ClusterRow) -> list[Cell]:
    fullest = max(row.breaker, key=lambda gate: gate.used / gate.limit if gate.limit else 1.0, default=None)
    tight = fullest is not None and fullest.used >= fullest.limit * _NEARLY
    spent = row.retries_allowed is not None and row.retries_active >= row.retries_allowed
    return [
        Cell(row.cluster),
        Cell(rate(row.retries_per_s), DOUBTFUL if row.retries_per_s else FAINT),
        Cell(rate(row.over_budget_per_s), BAD if row.over_budget_per_s else FAINT),
        Cell("" if row.retries_allowed is None else f"{row.retries_active}/{row.retries_allowed}", DOUBTFUL if spent else ""),
        Cell(rate(row.hedges_per_s), "" if row.hedges_per_s else FAINT),
        Cell("" if fullest is None else f"{fullest.what} {fullest.used}/{fullest.limit}", BAD if tight else ""),
        Cell("" if row.concurrency_limit is None else str(row.concurrency_limit)),
        Cell(f"{row.idle}/{row.busy}"),
        Cell("panic" if row.panic else "", BAD),
    ]


def _refusal(row: RefusalRow) -> list[Cell]:
    style = DOUBTFUL if row.per_s else FAINT
    return [
        Cell(row.kind, style),
        Cell(row.what, style),
        Cell(row.where, FAINT),
        Cell(rate(row.per_s), style),
        Cell(f"{row.total:,}", FAINT),
    ]


def _peer(row: PeerRow) -> list[Cell]:
    faint = "" if row.requests_per_s else FAINT
    return [
        Cell(row.listener, faint),
        Cell(row.peer, faint),
        Cell(rate(row.requests_per_s), faint or "bold"),
        Cell(share(row.error_share), BAD if row.error_share else FAINT),
        Cell(seconds(row.mean_s), faint),
        Cell(f"{row.requests:,}", FAINT),
    ]


def _ready(head: Head, *, short: bool = False) -> Cell:
    if head.ready:
        return Cell("yes" if short else "ready", GOOD)
    if short:
        return Cell(head.why or "no", BAD)
    return Cell(f"not ready: {head.why}" if head.why else "not ready", BAD)


def _lag(lag_s: float | None) -> Cell:
    return Cell("") if lag_s is None else Cell(seconds(lag_s), DOUBTFUL if lag_s >= _LAGGING_S else "")


def _error_share(head: Head) -> str:
    return share(head.errors_per_s / head.requests_per_s if head.requests_per_s else 0.0)


def _sheds(head: Head) -> str:
    return "low" if head.overload == 1 else "low, normal"


def _optional(name: str, number: float | None, words: Callable[[float], str]) -> list[Cell]:
    return [] if number is None else [Cell(f"{name} {words(number)}")]

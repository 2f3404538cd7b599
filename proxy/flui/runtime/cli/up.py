"""`flui up`: a topology as plain processes on this machine, for a newcomer, a test, a tour."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from flui.model.config import ConfigError
from flui.runtime import topology as topologies
from flui.runtime.local import Local, socket_fits
from flui.runtime.processes import StartError
from flui.transport.tasks import TaskSet

_COMMAND_GRACE_S: Final = 10.0
"""What COMMAND has to end after we were asked to."""


@click.command(
    epilog="Example: flui up compose/shop.yaml -- .venv/bin/python examples/tour.py   COMMAND finds the addresses in FLUI_ORDERS_INBOUND, "
    "_OUTBOUND, _ADMIN, _APP (so for every service), FLUI_CERTS and FLUI_RUN."
)
@click.argument("file", metavar="TOPOLOGY", type=click.Path(path_type=Path))
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--json", "as_json", is_flag=True, help="Print the addresses as JSON.")
@click.option("--run", type=click.Path(file_okay=False, path_type=Path), help="Keep certificates, logs and sockets in this folder.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(1, 600), default=60.0, show_default=True, help="Seconds until all is ready.")
def up(file: Path, command: tuple[str, ...], as_json: bool, run: Path | None, timeout_s: float) -> None:
    """Run a topology from compose/ on this machine, without containers.

    Every service gets a loopback address of its own and a sidecar, all under a development CA made for this run. Once
    every sidecar is ready the addresses are printed. With COMMAND (after --): runs it, takes everything down, exits with
    its status. Without: until Ctrl-C.
    """
    if command and shutil.which(command[0]) is None:
        raise click.UsageError(f"COMMAND: there is no program {command[0]}")
    try:
        topology = topologies.load(file)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    folder = run or Path(tempfile.mkdtemp(prefix=f"flui-{topology.name}-"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not socket_fits(folder.resolve(), topology):
        raise click.UsageError(f"--run: the path {folder.resolve()} is too long for a Unix socket; name a shorter one, or set TMPDIR")
    status = asyncio.run(_up(topology, folder.resolve(), command, as_json, timeout_s))
    if run is not None or status:
        _say(f"logs and certificates: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(status)


async def _up(topology: topologies.Topology, run: Path, command: tuple[str, ...], as_json: bool, timeout_s: float) -> int:
    """Brings the topology up, serves it, takes it down; the exit status."""
    ending = _Ending()
    begun = asyncio.get_running_loop().time()
    try:
        async with Local(topology, run, _say) as local:
            await local.start(timeout_s)
            _say(f"ready after {asyncio.get_running_loop().time() - begun:.1f} s")
            click.echo(json.dumps(local.addresses(), indent=2) if as_json else _table(local))
            tasks = TaskSet(_unexpected)
            tasks.start(_tell_deaths(local, lasting=not command))
            try:
                status = await _command(command, local, ending) if command else await _until_asked()
            finally:
                await tasks.close()
    except StartError as error:
        click.secho(f"flui up: {error}", fg="red", err=True)
        for line in error.last:
            click.echo(f"  | {line}", err=True)
        return 1
    except ConfigError as error:
        click.echo(str(error), err=True)
        return 1
    except asyncio.CancelledError:
        if not ending.asked:
            raise
        return 0 if ending.asked == signal.SIGINT and not command else 128 + ending.asked
    return status


async def _until_asked() -> int:
    _say("Ctrl-C ends it")
    await asyncio.Event().wait()
    return 0


async def _command(command: tuple[str, ...], local: Local, ending: _Ending) -> int:
    """Runs COMMAND in our own terminal and group; its status, or 128 and the signal that ended it."""
    child = await asyncio.create_subprocess_exec(*command, env={**os.environ, **local.environment()})
    ending.child = child
    try:
        status = await child.wait()
    finally:
        ending.child = None
    return status if status >= 0 else 128 - status


async def _tell_deaths(local: Local, *, lasting: bool) -> None:
    while True:
        process = await local.next_death()
        rest = "; the others keep going" if lasting else ""
        click.secho(f"flui up: {process.name} ({process.kind}, pid {process.pid}) {process.ending()}{rest}", fg="yellow", err=True)
        for line in process.last_lines()[-3:] if process.status > 0 else ():
            click.echo(f"  | {line}", err=True)


class _Ending:
    """What a signal to us means: COMMAND ends first, if it runs; else we do. A second one no longer waits."""

    def __init__(self) -> None:
        self.asked = 0
        """The first signal; 0: none."""
        self.child: asyncio.subprocess.Process | None = None
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._on, number)

    def _on(self, number: signal.Signals) -> None:
        again, self.asked = bool(self.asked), self.asked or int(number)
        child = self.child
        if child is None:
            self._task.cancel()
            return
        if again:
            _kill(child)
            return
        if number != signal.SIGINT:  # a Ctrl-C has reached it already, from the terminal
            child.send_signal(signal.SIGTERM)
        self._loop.call_later(_COMMAND_GRACE_S, _kill, child)


def _kill(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()


def _unexpected(error: BaseException) -> None:
    raise error


def _table(local: Local) -> str:
    """Where everything is, for people."""
    rows = [("MODULE", "RUNS AS", "INBOUND (mTLS)", "OUTBOUND", "APP", "ADMIN")]
    rows += [
        (one.module.name, local.programs[one.module.name].runtime, one.inbound, one.outbound, one.app or "-", one.admin)
        for one in local.placed
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    first = local.placed[0]
    lines += ["", f"certificates: {local.certs}   logs: {local.run}"]
    for name in (one.companion.service for one in local.placed[1:2]):
        lines.append(f"try: curl -i -H 'Host: {name}' http://{first.outbound}/{name}")
    return "\n".join(lines)


def _say(line: str) -> None:
    click.echo(f"flui up: {line}", err=True)

"""`flui top`: a live table of what sidecars do."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from flui.runtime import adminclient
from flui.runtime.top.terminal import Terminal, is_capable, speakable
from flui.runtime.top.view import Lost, View
from flui.runtime.top.watch import Watch

_FOLDER: Final = adminclient.FOLDER
_KEYS: Final = "q ends"
_PICTURE: Final = (110, 40)
"""Columns and lines of the picture."""

Views = tuple[View | Lost, ...]


@click.command(
    epilog="Example: flui top   flui top --service orders --service stock   flui top --admin RUN, all of a topology that "
    "`flui up --run RUN` started   flui top --json --interval 5 | jq .   "
    "Exit codes: 0 ended by q or Ctrl-C, 1 nobody answers (with --once: somebody does not), 2 used wrongly."
)
@click.option(
    "--admin",
    "addresses",
    metavar="ADDRESS",
    multiple=True,
    help="Unix socket path, HOST:PORT on this machine, or a folder: every *.sock in it. May be given several times.",
)
@click.option(
    "--service",
    "services",
    metavar="NAME",
    multiple=True,
    help="The sidecar of this service: /tmp/flui-NAME.sock. With neither, all that have a socket there.",
)
@click.option(
    "--interval", "interval_s", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="One table, of one interval; so it is without a terminal.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, each of one interval.")
@click.option("--svg", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Draw one interval into this file.")
def top(addresses: tuple[str, ...], services: tuple[str, ...], interval_s: float, once: bool, as_json: bool, svg: Path | None) -> None:
    """Show what one sidecar does, or several.

    Routes, endpoints, retries, refusals and peers, the busiest first: rates and quantiles of the last interval. Everything is
    read from the admin API. On a terminal the table lives until q or Ctrl-C.
    """
    if svg and as_json:
        raise click.UsageError("give --svg or --json, not both")
    where = _where(addresses, services)
    if is_capable() and not (once or as_json or svg):
        with Terminal() as terminal:
            ended = asyncio.run(_Live(terminal).run(where, interval_s))
    else:
        said = partial(_line, once=once) if as_json else partial(_picture, file=svg) if svg else _page
        ended = asyncio.run(_Plain(said).run(where, interval_s))
    _end(*ended)


def _where(addresses: Sequence[str], services: Sequence[str]) -> list[str]:
    found: list[str] = []
    try:
        for address in addresses:
            if os.path.isdir(address):  # noqa: PTH112 -- an address is a text, and seldom a path
                here = adminclient.sockets(Path(address), "*.sock")
                if not here:
                    raise click.UsageError(f"--admin: no socket of ours is in {address}")
                found += here
            else:
                adminclient.connect(address)
                found.append(address)
    except ValueError as error:
        raise click.UsageError(f"--admin: {error}") from error
    try:
        found += [adminclient.socket_of(service, _FOLDER) for service in services]
    except ValueError as error:
        raise click.UsageError(f"--service: {error}") from error
    found = found or adminclient.sockets(_FOLDER)
    if not found:
        _end(1, f"no sidecar has a socket in {_FOLDER}; start one with `flui run`, or say --admin ADDRESS")
    return list(dict.fromkeys(found))


def _ending(loop: asyncio.AbstractEventLoop) -> asyncio.Future[tuple[int, str]]:
    """What ends a run: the status to exit with and why, or what went wrong in one of the loop's calls."""
    done: asyncio.Future[tuple[int, str]] = loop.create_future()

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not done.done():
            done.set_exception(context.get("exception") or AssertionError(context["message"]))

    loop.set_exception_handler(failed)
    return done


class _Plain:
    """Rounds that are printed, until the printer says that it was enough."""

    def __init__(self, said: Callable[[Views], int | None]) -> None:
        self._said = said
        self._rounds = 0

    async def run(self, where: list[str], interval_s: float) -> tuple[int, str]:
        loop = asyncio.get_running_loop()
        self._done = _ending(loop)
        watch = Watch(where, interval_s, self._told)
        loop.add_signal_handler(signal.SIGINT, self._end, 0, "")
        watch.start()
        try:
            return await self._done
        finally:
            watch.stop()

    def _told(self, views: Views) -> None:
        self._rounds += 1
        if self._rounds == 1:  # rates need two
            if why := _nobody(views):
                self._end(1, why)
            return
        try:
            status = self._said(views)
        except BrokenPipeError:  # the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 0
        if status is not None:
            self._end(status, "")

    def _end(self, status: int, why: str) -> None:
        if not self._done.done():
            self._done.set_result((status, why))


class _Live:
    """Rounds that are drawn, until a key or a signal ends them."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._views: Views = ()

    async def run(self, where: list[str], interval_s: float) -> tuple[int, str]:
        loop = asyncio.get_running_loop()
        self._done = _ending(loop)
        watch = Watch(where, interval_s, self._told)
        loop.add_signal_handler(signal.SIGINT, self._end, 0)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, 128 + number)
        loop.add_signal_handler(signal.SIGWINCH, self._draw, True)
        loop.add_signal_handler(signal.SIGTSTP, self._pause)
        keyboard = self._terminal.keyboard
        if keyboard is not None:
            loop.add_reader(keyboard, self._typed)
        watch.start()
        try:
            return await self._done
        finally:
            watch.stop()
            if keyboard is not None:
                loop.remove_reader(keyboard)

    def _told(self, views: Views) -> None:
        if not self._views and (why := _nobody(views)):
            self._end(1, why)
            return
        self._views = views
        self._draw()

    def _draw(self, anew: bool = False) -> None:
        from flui.runtime.top.screen import ansi, frame  # noqa: PLC0415 -- rich is loaded where something is drawn, and nowhere else

        if not self._views or self._done.done():
            return
        columns, height = self._terminal.size()
        lines = frame(self._views, columns, height, _KEYS)
        try:
            self._terminal.draw(ansi(lines, coloured=self._terminal.coloured), [line.cell_len for line in lines], anew=anew)
        except OSError:
            self._end(1)

    def _typed(self) -> None:
        typed = self._terminal.keys()
        if typed is None or any(key in b"qQ" for key in typed):
            self._end(0)

    def _pause(self) -> None:
        """Ctrl-Z: the shell gets its terminal back for so long."""
        self._terminal.give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._terminal.take()
        self._draw(anew=True)

    def _end(self, status: int, why: str = "") -> None:
        if not self._done.done():
            self._done.set_result((status, why))


def _line(views: Views, *, once: bool) -> int | None:
    shown = [
        {"sidecar": each.sidecar, "lost": each.why}
        if isinstance(each, Lost)
        else {"sidecar": each.head.sidecar, **dataclasses.asdict(each)}
        for each in views
    ]
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    print(json.dumps({"time": time, "sidecars": shown}, allow_nan=False), flush=True)
    return _status(views) if once else None


def _page(views: Views) -> int:
    from flui.runtime.top.screen import ansi, frame  # noqa: PLC0415 -- as above

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    coloured = is_capable() and not os.environ.get("NO_COLOR")
    page = "\n".join(ansi(frame(views, width, None), coloured=coloured, styled=is_capable()))
    print(speakable(page, sys.stdout.encoding), flush=True)
    return _status(views)


def _picture(views: Views, file: Path) -> int:
    from flui.runtime.top.screen import frame, svg  # noqa: PLC0415 -- as above

    try:
        file.write_text(svg(frame(views, *_PICTURE)), "utf-8")
    except OSError as error:
        _end(1, f"--svg: {file}: {error.strerror}")
    return _status(views)


def _status(views: Views) -> int:
    return 1 if any(isinstance(each, Lost) for each in views) else 0


def _nobody(views: Views) -> str:
    """Why there is nothing to look at; empty when there is."""
    if any(isinstance(each, View) for each in views):
        return ""
    return "; ".join(each.why for each in views if isinstance(each, Lost))


def _end(status: int, why: str) -> NoReturn:
    if why:
        click.echo(f"flui top: {adminclient.clean(why)}", err=True)
    raise click.exceptions.Exit(status)

"""`flui tap`: exchanges of a running sidecar, as they end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any, Final, NoReturn
from urllib.parse import urlencode

import click

from flui.runtime.adminclient import TIMEOUT_S, clean, connect
from flui.runtime.cli.admin import where_of
from flui.telemetry.tap import FilterError, Filters

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_READ: Final = 64 * 1024
_WIDTH: Final = 120
"""Columns where nobody says how many there are."""
_NARROWEST: Final = 12
# time, status, method, principal, endpoint and milliseconds, each with the blanks behind it, and the blanks behind service and path
_COLUMNS: Final = 14 + 5 + 9 + 16 + 16 + 12 + 2
_NOTES: Final = 18
"""Columns left for the fault."""


class _Socket(socket.socket):
    """A socket whose reader hears Ctrl-C.

    A signal that comes just before `recv` blocks is only seen when that returns, which with a quiet sidecar is never. So nothing is
    received before there is something, and what the signal itself writes (`_signals`) is waited for too.
    """

    def __init__(self, fileno: int, heard: int) -> None:
        super().__init__(fileno=fileno)
        self._heard = heard

    def recv_into(self, *arguments: Any) -> int:
        """As of every socket."""
        waited: list[Any] = [self, self._heard]
        while True:
            ready = select.select(waited, [], [], self.gettimeout())[0]
            if self in ready:
                return super().recv_into(*arguments)
            if not ready:
                raise TimeoutError
            os.read(self._heard, 64)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that can be read once a signal has come."""
    heard, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    try:
        yield heard
    finally:
        signal.set_wakeup_fd(before)
        os.close(heard)
        os.close(told)


@click.command(
    epilog="Example: flui tap --service orders --status '>=400' --path '/orders/*'   "
    "Only a policy can allow it: `p, uid:1000, orders, TAP, /*` shows user 1000 every exchange of the service orders.   "
    "Exit codes: 0 fine (also after Ctrl-C), 1 nobody listens, it is not allowed or the sidecar went away, 2 used wrongly."
)
@click.option("--admin", "address", metavar="SOCKET", help="Unix socket path of the sidecar's admin API.")
@click.option(
    "--service", metavar="NAME", help="The sidecar of this service: /tmp/flui-NAME.sock. With one sidecar running, neither is needed."
)
@click.option("--listener", metavar="NAME", help="Only what came in there: inbound or outbound.")
@click.option("--to", "asked", metavar="NAME", help="Only this service was asked.")
@click.option("--route", metavar="NAME", help="Only this route.")
@click.option("--principal", metavar="ID", help="Only this caller; with a final * all that begin so: spiffe://shop/*.")
@click.option("--method", metavar="METHOD", help="Only this method.")
@click.option("--path", metavar="PATTERN", help="Only these paths: /items/7, /items/:id, /items/*. Redacted parts read `-`.")
@click.option("--status", metavar="STATUS", help="Only these: 500, 5xx, '>=400'.")
@click.option("--fault", metavar="NAME", help="Only this fault; * for any.")
@click.option("--min-ms", metavar="MS", help="Only what took at least so many milliseconds.")
@click.option("--sample", metavar="PART", help="Only this part of the traces: 0.1 or 10%.")
@click.option("--limit", metavar="N", help="End after so many exchanges.")
@click.option("--json", "raw", is_flag=True, help="One JSON object a line, as it comes.")
def tap(
    address: str | None,
    service: str | None,
    listener: str | None,
    asked: str | None,
    route: str | None,
    principal: str | None,
    method: str | None,
    path: str | None,
    status: str | None,
    fault: str | None,
    min_ms: str | None,
    sample: str | None,
    limit: str | None,
    raw: bool,
) -> None:
    """Show exchanges of a running sidecar as they end: who asked what, how it ended, how long it took.

    Never headers, query strings or bodies; only what the policy lets you see.
    """
    given = {
        "listener": listener,
        "service": asked,
        "route": route,
        "principal": principal,
        "method": method,
        "path": path,
        "status": status,
        "fault": fault,
        "min_ms": min_ms,
        "sample": sample,
        "limit": limit,
    }
    filters = {name: value for name, value in given.items() if value is not None}
    try:
        Filters(filters)
    except FilterError as error:
        name, _, what = str(error).partition(":")
        option = "to" if name == "service" else name.replace("_", "-")
        raise click.UsageError(f"--{option}:{what}") from error
    where = where_of(address, service, "tap")
    try:
        _follow(where, filters, raw=raw)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # whoever read us has seen enough; nothing more may be written there, not even at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _follow(where: str, filters: dict[str, str], *, raw: bool) -> None:
    with _signals() as heard, contextlib.closing(_connected(where, heard)) as connection:
        response = _asked(connection, where, filters)
        if not raw and sys.stdout.isatty():
            click.secho(f"tapping {where}; Ctrl-C ends", dim=True, err=True)
        try:
            with response:
                for lines in _pieces(response):
                    _show(lines, raw=raw)
        except (ConnectionResetError, http.client.HTTPException):
            _fail(f"{where} went away")
        except ValueError:
            _fail(f"{where} sends what is no JSON; is it a sidecar?")


def _connected(where: str, heard: int) -> http.client.HTTPConnection:
    try:
        connection = connect(where)
    except ValueError as error:
        raise click.UsageError(f"--admin: {error}") from error
    try:
        connection.connect()
    except OSError as error:
        connection.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            _fail(f"nobody listens on {where}; is the sidecar running?")
        _fail(f"{where}: {error.strerror or error}")
    sock = connection.sock
    connection.sock = _Socket(sock.detach(), heard)
    connection.sock.settimeout(TIMEOUT_S)
    return connection


def _asked(connection: http.client.HTTPConnection, where: str, filters: dict[str, str]) -> http.client.HTTPResponse:
    sock: socket.socket = connection.sock
    query = f"?{urlencode(filters)}" if filters else ""
    try:
        connection.request("GET", f"/tap{query}")
        response = connection.getresponse()
    except TimeoutError:
        _fail(f"{where} did not answer within {TIMEOUT_S:g} s")
    except (OSError, http.client.HTTPException) as error:
        _fail(f"{where}: {str(error) or type(error).__name__}")
    if response.status != 200:
        _refused(where, response)
    # from now on silence only means that nothing happens
    sock.settimeout(None)
    return response


def _refused(where: str, response: http.client.HTTPResponse) -> NoReturn:
    told = f"{where}: {response.status} {response.reason}"
    try:
        with response:
            body: Json = json.loads(response.read(_READ))
    except (OSError, ValueError, http.client.HTTPException):
        body = None
    if isinstance(body, dict) and isinstance(body.get("detail"), str):
        told += f": {body['detail']}"
    if response.status == 400:
        raise click.UsageError(clean(told))
    _fail(clean(told))


def _pieces(response: http.client.HTTPResponse) -> Iterator[list[bytes]]:
    """Whole lines as they arrive, those that come together in one list."""
    rest = b""
    while piece := response.read1(_READ):
        *lines, rest = (rest + piece).split(b"\n")
        if lines:
            yield lines


def _show(lines: list[bytes], *, raw: bool) -> None:
    out: list[str] = []
    for line in lines:
        text = line.decode("utf-8", "backslashreplace")
        item: Json = json.loads(text)
        if not isinstance(item, dict):
            continue
        if "ended" in item:
            _print(out)
            _fail(clean(str(item["ended"])))
        if raw:
            out.append(text)
        elif "dropped" in item:
            out.append(click.style(f"  ... {item['dropped']} more were not shown: they came faster than they were read", fg="yellow"))
        else:
            out.append(_line(item))
    _print(out)


def _print(lines: list[str]) -> None:
    if lines:
        click.echo("\n".join(lines))


def _line(item: dict[str, Json]) -> str:
    """An exchange on one line: time, status, method, service and path, who, endpoint, milliseconds, and what went wrong."""
    said = {name: clean(value) if isinstance(value, str) else str(value) for name, value in item.items()}
    get = said.get
    width = max(_NARROWEST, shutil.get_terminal_size((_WIDTH, 24)).columns - _COLUMNS - _NOTES)
    status = get("status", "")
    total = item.get("total_ms")
    notes = " ".join(filter(None, (click.style(get("fault", ""), fg="red") if get("fault") else "", *_notes(item))))
    return "  ".join(
        (
            click.style(_fit(get("time", "")[11:23], 12), dim=True),
            click.style(_fit(status, 3), fg=_colour(status)),
            _fit(get("method", ""), 7),
            _fit(f"{get('service', '')} {get('path', '')}", width),
            _fit(_short(get("principal", "")), 14),
            _fit(get("upstream", ""), 14),
            f"{total:10.3f}" if isinstance(total, float) else " " * 10,
            notes,
        )
    ).rstrip()


def _notes(item: dict[str, Json]) -> list[str]:
    attempts = item.get("attempts")
    return [f"x{attempts}"] if isinstance(attempts, int) and attempts > 1 else []


def _fit(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"


def _short(principal: str) -> str:
    """The last part of an identity: `web` of `spiffe://shop/web`, the subject of a token."""
    return principal.rsplit("/" if principal.startswith("spiffe:") else ":", 1)[-1]


def _colour(status: str) -> str:
    return {"1": "cyan", "2": "green", "3": "cyan", "4": "yellow"}.get(status[:1], "red")


def _fail(why: str) -> NoReturn:
    click.echo(f"flui tap: {why}", err=True)
    raise click.exceptions.Exit(1)

"""`flui admin`: reads a running sidecar's admin API."""

from __future__ import annotations

import http.client
import json
import sys
from typing import Final, NoReturn

import click

from flui.runtime import adminclient
from flui.runtime.adminclient import clean

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_FOLDER: Final = adminclient.FOLDER
_CELL: Final = 60


@click.command(
    epilog="Example: flui admin /clusters --service orders   "
    "Paths: /live /ready /metrics /config /flows /clusters /connections /policy /api /openapi.json /descriptors /certs   "
    "Exit codes: 0 fine, 1 nobody listens or the answer is a refusal (also /ready while it is not), 2 used wrongly."
)
@click.argument("path")
@click.option("--admin", "address", metavar="ADDRESS", help="Unix socket path, or HOST:PORT on this machine.")
@click.option(
    "--service", metavar="NAME", help="The sidecar of this service: /tmp/flui-NAME.sock. With one sidecar running, neither is needed."
)
@click.option("--json", "raw", is_flag=True, help="Print the answer as it came.")
def admin(path: str, address: str | None, service: str | None, raw: bool) -> None:
    """Read a running sidecar's admin API."""
    where = where_of(address, service)
    status, kind, body = _get(where, path if path.startswith("/") else f"/{path}")
    if kind == "application/x-protobuf":
        if sys.stdout.isatty():
            _fail(f"{path} is no text; send it to a file: flui admin {path} > module.binpb")
        sys.stdout.buffer.write(body)
        return
    text = body.decode("utf-8", "backslashreplace")
    value: Json = json.loads(text) if "json" in kind else None
    if raw or "json" not in kind:
        click.echo(_page(text) if sys.stdout.isatty() else text, nl=not text.endswith("\n"))
    elif kind != "application/problem+json":
        click.echo("\n".join(_show(value)))
    if status >= 400:
        _fail(_refusal(status, path, value))


def where_of(address: str | None, service: str | None, command: str = "admin") -> str:
    """The address that `--admin` and `--service` say; with neither, the only socket that there is.

    Raises:
        click.UsageError: they contradict each other, or several sidecars run and neither is given.
        click.exceptions.Exit: no sidecar runs; `command` has said so.
    """
    if address and service:
        raise click.UsageError("give --admin or --service, not both")
    if address:
        return address
    if service:
        try:
            return adminclient.socket_of(service, _FOLDER)
        except ValueError as error:
            raise click.UsageError(f"--service: {error}") from error
    found = adminclient.sockets(_FOLDER)
    if len(found) > 1:
        raise click.UsageError(f"several sidecars have a socket here: {', '.join(found)}; say --service NAME or --admin ADDRESS")
    if not found:
        _fail(f"no sidecar has a socket in {_FOLDER}; start one with `flui run`, or say --admin ADDRESS", command)
    return found[0]


def _get(where: str, path: str) -> adminclient.Answer:
    try:
        return adminclient.get(where, path)
    except adminclient.NoAnswerError as error:
        _fail(str(error))
    except ValueError as error:
        raise click.UsageError(f"--admin: {error}") from error


def _refusal(status: int, path: str, value: Json) -> str:
    told = f"{path}: {status} {http.client.responses.get(status, '')}".rstrip()
    if isinstance(value, dict):
        if value.get("detail"):
            told += f": {value['detail']}"
        if isinstance(value.get("paths"), list):
            told += f"; there are {' '.join(map(str, _items(value['paths'])))}"
    return clean(told)


def _items(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _show(value: Json, indent: str = "") -> list[str]:
    """Lines for people: a table for a list of objects, `key: value` for an object."""
    if isinstance(value, dict):
        return _object(value, indent)
    if isinstance(value, list):
        rows = [item for item in value if isinstance(item, dict)]
        if rows and len(rows) == len(value):
            return _table(rows, indent)
        return [f"{indent}- {_cell(item)}" for item in value] or [f"{indent}(none)"]
    return [indent + _cell(value)]


def _object(value: dict[str, Json], indent: str) -> list[str]:
    lines: list[str] = []
    for name, item in value.items():
        title = click.style(f"{clean(name)}:", bold=True)
        if isinstance(item, dict | list) and item and not _is_short(item):
            lines.append(f"{indent}{title}")
            lines += _show(item, f"{indent}  ")
        else:
            lines.append(f"{indent}{title} {_cell(item)}")
    return lines or [f"{indent}(none)"]


def _is_short(value: Json) -> bool:
    """A list of a few words fits behind its name."""
    return isinstance(value, list) and not any(isinstance(item, dict | list) for item in value) and len(_cell(value)) <= _CELL


def _table(rows: list[dict[str, Json]], indent: str) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_short(_cell(row.get(name, ""))) for name in names] for row in rows]
    widths = [max(len(name), *(len(row[at]) for row in cells)) for at, name in enumerate(names)]
    head = "  ".join(clean(name).ljust(width) for name, width in zip(names, widths, strict=True)).rstrip()
    body = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [indent + click.style(head, bold=True), *(indent + line for line in body)]


def _cell(value: Json) -> str:
    if isinstance(value, str):
        return clean(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "-"
    if isinstance(value, dict):
        return " ".join(f"{clean(name)}={_cell(item)}" for name, item in value.items()) or "-"
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"


def _page(text: str) -> str:
    return "\n".join(map(clean, text.split("\n")))


def _fail(why: str, command: str = "admin") -> NoReturn:
    click.echo(f"flui {command}: {why}", err=True)
    raise click.exceptions.Exit(1)

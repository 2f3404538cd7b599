"""`flui admin`: reads a running sidecar's admin API."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import stat
import sys
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote

import click

from flui.model.units import MIB

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_FOLDER: Final = Path("/tmp")  # noqa: S108 -- where sidecars put their sockets by default; only those of our own user are picked by themselves
_TIMEOUT_S: Final = 5.0
_BODY_LIMIT: Final = 64 * MIB
_CELL: Final = 60
_SERVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# a value must not drive the terminal it is shown on
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@click.command(
    epilog="Example: flui admin /clusters --service orders   "
    "Paths: /live /ready /metrics /config /flows /clusters /connections /policy /certs   "
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
    where = _where(address, service)
    status, kind, body = _get(where, path if path.startswith("/") else f"/{path}")
    text = body.decode("utf-8", "backslashreplace")
    value: Json = json.loads(text) if "json" in kind else None
    if raw or "json" not in kind:
        click.echo(_page(text) if sys.stdout.isatty() else text, nl=not text.endswith("\n"))
    elif kind != "application/problem+json":
        click.echo("\n".join(_show(value)))
    if status >= 400:
        _fail(_refusal(status, path, value))


def _where(address: str | None, service: str | None) -> str:
    if address and service:
        raise click.UsageError("give --admin or --service, not both")
    if address:
        return address
    if service:
        if not _SERVICE.fullmatch(service):
            raise click.UsageError(f"--service: {service!r} is not a service's name")
        return str(_FOLDER / f"flui-{service}.sock")
    found = sorted(str(path) for path in _FOLDER.glob("flui-*.sock") if _is_ours(path))
    if len(found) > 1:
        raise click.UsageError(f"several sidecars have a socket here: {', '.join(found)}; say --service NAME or --admin ADDRESS")
    if not found:
        _fail(f"no sidecar has a socket in {_FOLDER}; start one with `flui run`, or say --admin ADDRESS")
    return found[0]


def _is_ours(path: Path) -> bool:
    """Anyone may put a socket into a shared folder; only those of this user and of root are trusted unasked."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid in (os.getuid(), 0)


def _get(where: str, path: str) -> tuple[int, str, bytes]:
    connection = _connection(where)
    try:
        connection.request("GET", quote(path, safe="/?=&%+,:;@!$'()*~-._"))
        response = connection.getresponse()
        body = response.read(_BODY_LIMIT)
    except (FileNotFoundError, ConnectionRefusedError):
        _fail(f"nobody listens on {where}; is the sidecar running?")
    except TimeoutError:
        _fail(f"{where} did not answer within {_TIMEOUT_S:g} s")
    except (OSError, http.client.HTTPException) as error:
        _fail(f"{where}: {str(error) or type(error).__name__}")
    finally:
        connection.close()
    return response.status, response.headers.get_content_type(), body


def _connection(where: str) -> http.client.HTTPConnection:
    if "/" in where:
        return _UnixConnection(where)
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal():
        raise click.UsageError(f"--admin: {where!r} is neither a path nor HOST:PORT")
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_TIMEOUT_S)


def _refusal(status: int, path: str, value: Json) -> str:
    told = f"{path}: {status} {http.client.responses.get(status, '')}".rstrip()
    if isinstance(value, dict):
        if value.get("detail"):
            told += f": {value['detail']}"
        if isinstance(value.get("paths"), list):
            told += f"; there are {' '.join(map(str, _items(value['paths'])))}"
    return _clean(told)


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
        title = click.style(f"{_clean(name)}:", bold=True)
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
    head = "  ".join(_clean(name).ljust(width) for name, width in zip(names, widths, strict=True)).rstrip()
    body = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [indent + click.style(head, bold=True), *(indent + line for line in body)]


def _cell(value: Json) -> str:
    if isinstance(value, str):
        return _clean(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "-"
    if isinstance(value, dict):
        return " ".join(f"{_clean(name)}={_cell(item)}" for name, item in value.items()) or "-"
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"


def _clean(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _page(text: str) -> str:
    return "\n".join(map(_clean, text.split("\n")))


def _fail(why: str) -> NoReturn:
    click.echo(f"flui admin: {why}", err=True)
    raise click.exceptions.Exit(1)

"""`flui api`: what a service offers, and how it is asked: its methods, their REST routes, and a ready line of curl for each."""

from __future__ import annotations

import json
import sys
from typing import Any, Final, NoReturn

import click

from flui.runtime import adminclient
from flui.runtime.adminclient import clean
from flui.runtime.cli.admin import where_of

_VIA: Final = "127.0.0.1:15001"
_KINDS: Final = {"unary": "", "server": "  (stream of answers)", "client": "  (stream of requests)", "bidi": "  (streams both ways)"}


@click.command(
    epilog="Example: flui api stock   flui api stock --openapi > stock.json   "
    "Exit codes: 0 fine, 1 nobody listens or nothing is known of the module, 2 used wrongly."
)
@click.argument("name", required=False)
@click.option("--admin", "address", metavar="ADDRESS", help="Unix socket path of its admin API, or HOST:PORT on this machine.")
@click.option(
    "--via",
    metavar="HOST:PORT",
    default=_VIA,
    show_default=True,
    help="Outbound listener of a caller, for the curl lines.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--openapi", is_flag=True, help="Print the REST side as an OpenAPI 3.1 document.")
def api(name: str | None, address: str | None, via: str, *, as_json: bool, openapi: bool) -> None:
    """List what the service NAME serves: services, methods, REST routes, and a curl line for each.

    NAME is that of a sidecar which runs on this machine; with one sidecar running it need not be given.
    """
    if as_json and openapi:
        raise click.UsageError("give --json or --openapi, not both")
    where = where_of(address, name, "api")
    if openapi:
        click.echo(json.dumps(_get(where, "/openapi.json"), indent=2, ensure_ascii=False))
        return
    page = _get(where, "/api")
    for method in _methods(page):
        for each in method["curl"]:
            each["line"] = _through(each["line"], via)
    if as_json:
        click.echo(json.dumps(page, indent=2, ensure_ascii=False))
    else:
        _show(page)
    if not page["version"]:
        raise click.exceptions.Exit(1)


def _get(where: str, path: str) -> dict[str, Any]:
    try:
        status, _, body = adminclient.get(where, path)
    except adminclient.NoAnswerError as error:
        _fail(str(error))
    except ValueError as error:
        raise click.UsageError(f"--admin: {error}") from error
    try:
        page = json.loads(body)
    except ValueError:
        page = None
    if not isinstance(page, dict):
        _fail(f"{where} answered {status}, and not with what a sidecar says")
    if status != 200:
        _fail(clean(str(page.get("detail") or status)))
    return page


def _methods(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [method for service in page["services"] for method in service["methods"]]


def _through(line: str, via: str) -> str:
    """The listing asks the service by its name: the outbound listener of a caller knows where that is."""
    return line.replace("curl ", f"curl -x http://{via} ", 1)


def _show(page: dict[str, Any]) -> None:
    # What a module calls its methods must not drive the terminal.
    click.echo(clean(f"{page['service']}: {page['known']}"))
    for service in page["services"]:
        click.echo()
        click.secho(clean(service["service"]), bold=True)
        for method in service["methods"]:
            click.echo(f"  {click.style(clean(method['method']), fg='cyan')}{_KINDS[method['kind']]}")
            click.echo(clean(f"    CALL {method['path']}  {method['request']} -> {method['response']}"))
            for route in method["routes"]:
                body = f"  body: {route['body']}" if route["body"] else ""
                click.echo(clean(f"    {route['verb']} {route['path']}{body}"))
            for each in method["curl"]:
                click.echo(click.style(clean(f"    {each['line']}"), dim=True))
    for mistake in page["left out"]:
        click.echo(click.style(clean(f"left out: {mistake}"), fg="yellow"), err=True)


def _fail(why: str) -> NoReturn:
    click.echo(f"flui api: {why}", err=True)
    sys.exit(1)

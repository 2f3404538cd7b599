"""`flui run`: one sidecar."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

import click

from flui.model.config import ConfigError, Sidecar
from flui.runtime import configfile
from flui.runtime.sidecar import Running


def sidecar_flags(command: click.decorators.FC) -> click.decorators.FC:
    """The options that describe a sidecar without a file, or change one that has a file."""
    for option in (
        click.option("--certs", metavar="DIR", envvar="FLUI_CERTS", show_envvar=True, help="Folder with ca.pem, NAME.pem and NAME.key."),
        click.option("--policy", metavar="DIR", help="Folder with model.conf and *.csv."),
        click.option("--admin", metavar="ADDR", help="Unix socket path or loopback HOST:PORT of the admin API."),
        click.option("--outbound", metavar="ADDR", help="Where the module sends its calls (default 127.0.0.1:15001)."),
        click.option("--inbound", metavar="ADDR", help="Where the mesh calls us, TLS 1.3 (default 0.0.0.0:15006)."),
        click.option("--app", metavar="URL", help="The module beside us: http://HOST:PORT."),
        click.option("--service", metavar="NAME", help="Name of this service."),
        click.option("-c", "--config", metavar="FILE", help="Configuration file; flags win over it."),
    ):
        command = option(command)
    return command


def load(config: str | None, flags: dict[str, str | None], *, on_disk: bool = True) -> Sidecar:
    """The configuration that the command line asks for.

    Args:
        config: The file, if there is one.
        flags: What stands over it, by the names of `configfile.Flags`.
        on_disk: Whether the folders and files it names must be there.

    Raises:
        ConfigError: Everything that is wrong with it.
    """
    given = configfile.Flags(**flags)
    return configfile.from_flags(given, on_disk=on_disk) if config is None else configfile.read(config, given, on_disk=on_disk)


def fail(error: ConfigError) -> None:
    """Says what is wrong, one line each, and ends with 1."""
    for problem in error.problems:
        click.echo(str(problem), err=True)
    sys.exit(1)


@click.command(epilog="Example: flui run --service orders --app http://127.0.0.1:8000 --policy policy --certs certs")
@sidecar_flags
@click.option("--take-over", is_flag=True, help="Replace the sidecar that runs at these addresses: once this one is ready, end that one.")
def run(config: str | None, take_over: bool, **flags: str | None) -> None:
    """Run one sidecar until SIGTERM; SIGHUP reloads it and reopens its log."""
    if config is None and flags["service"] is None:
        raise click.UsageError("name a configuration file (-c FILE) or a service (--service NAME)")
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(lambda: load(config, flags), take_over))
    except ConfigError as error:
        fail(error)


async def _serve(read: Callable[[], Sidecar], take_over: bool) -> None:
    running = Running(read, take_over=take_over)
    loop = asyncio.get_running_loop()
    # before it says that it is ready: who reads that may signal at once
    loop.add_signal_handler(signal.SIGTERM, running.stop)
    loop.add_signal_handler(signal.SIGINT, running.stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: _reload(running))
    await running.start()
    await running.drained()


def _reload(running: Running) -> None:
    if not running.ready:
        return  # it has just read everything, or ends
    running.reopen_logs()
    running.relay.tasks.start(running.reload())


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """Prefers uvloop where it is installed; the standard loop serves as well, at twice the CPU."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.Loop

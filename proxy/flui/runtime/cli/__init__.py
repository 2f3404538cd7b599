"""The `flui` command. Each subcommand lives in its own module and is imported only when it is called."""

from __future__ import annotations

import importlib
from typing import Final

import click

from flui import __version__

_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("flui.runtime.cli.run:run", "Run one sidecar."),
    "check": ("flui.runtime.cli.check:check", "Validate configuration, policy and topology files."),
    "up": ("flui.runtime.cli.up:up", "Run a topology on this machine as plain processes."),
    "certs": ("flui.runtime.cli.certs:certs", "Development CA, leaves, verification."),
    "policy": ("flui.runtime.cli.policy:policy", "Lint, test, explain and compare policy."),
    "explain": ("flui.runtime.cli.explain:explain", "Say what would be decided for a request, and why."),
    "admin": ("flui.runtime.cli.admin:admin", "Read a running sidecar's admin API."),
    "api": ("flui.runtime.cli.api:api", "List a service's methods, their REST routes, and a curl line for each."),
    "tap": ("flui.runtime.cli.tap:tap", "Show exchanges of a running sidecar as they end."),
    "top": ("flui.runtime.cli.top:top", "Show live what sidecars do: rates, latencies, health, refusals."),
}


class _Lazy(click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.command(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: flui up compose/shop.yaml   Exit codes: 0 fine, 1 found something wrong, 2 used wrongly.",
)
@click.version_option(__version__, prog_name="flui")
def main() -> None:
    """FLUI Mesh: a sidecar that authenticates, authorises and routes what services say to one another."""

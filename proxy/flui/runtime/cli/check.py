"""`flui check`: everything that is wrong with configuration, policy and topology files, at once.

What a file is, is decided by what is in it:

    model.conf, *.csv             policy: its whole folder is checked, as the rows need their model
    YAML, a list at the top       cases of a policy
    YAML with containers in it    a topology, and every sidecar's configuration inside it
    other YAML                    a sidecar's configuration, and the policy and the descriptor set that it names
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Final

import click

from flui.model.config import ConfigError, Problem
from flui.policy import casbin, source
from flui.policy.base import Text as PolicyText
from flui.policy.cases import read_cases
from flui.runtime import configfile, topology
from flui.runtime._yaml import Items, Node, Section, load

SIDECAR: Final = "sidecar"
POLICY: Final = "policy"
CASES: Final = "cases"
TOPOLOGY: Final = "topology"
API: Final = "descriptors"

_CONTAINER: Final = frozenset(("image", "build", "command", "network_mode"))
"""Keys of a service in a Compose file; a sidecar's `services:` have none of them."""


@click.command(epilog="Example: flui check sidecar.yaml policy compose/shop.yaml")
@click.argument("files", nargs=-1, required=True, metavar="FILE|FOLDER...")
@click.option("--no-files", is_flag=True, help="Do not ask for the certificates and policy that a configuration names: they are elsewhere.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(files: tuple[str, ...], *, no_files: bool, as_json: bool) -> None:
    """Validate configuration, policy and topology files: every mistake at once, with what to write instead.

    A FOLDER stands for the policy in it, or for the YAML files in it. FLUI_CERTS counts as it does for `flui run`.
    """
    checker = _Checker(on_disk=not no_files)
    for file in files:
        checker.path(file)
    if as_json:
        click.echo(json.dumps(checker.document(), indent=2))
    else:
        checker.tell()
    raise SystemExit(1 if checker.problems else 0)


class _Checker:
    """Checks one path after the other and keeps what was found."""

    def __init__(self, *, on_disk: bool) -> None:
        self._on_disk = on_disk
        self._checked: dict[str, str] = {}
        """Path → what it is."""
        self._skipped: list[str] = []
        self._folders: set[Path] = set()
        """Policy folders that were checked."""
        self.problems: list[Problem] = []
        self._warnings: list[Problem] = []

    # -- what is it ----------------------------------------------------------------------------------------------------

    def path(self, name: str) -> None:
        """Checks a file or a folder."""
        path = Path(name)
        if path.is_dir():
            self._folder(path)
        elif path.name == source.MODEL or path.suffix == ".csv":
            if path.is_file():
                self._policy(path.parent)
            else:
                self.problems.append(Problem(name, 0, "", "there is no such file", "check the path"))
        else:
            self._yaml(name, skip=False)

    def _folder(self, path: Path) -> None:
        found = False
        if (path / source.MODEL).is_file() or any(path.glob("*.csv")):
            self._policy(path)
            found = True
        for file in sorted(path.iterdir()):
            if file.suffix in {".yaml", ".yml"} and file.is_file():
                self._yaml(str(file), skip=True)
                found = True
        if not found:
            fix = "name a configuration, a topology, or a folder with model.conf"
            self.problems.append(Problem(str(path), 0, "", "there is nothing in this folder that can be checked", fix))

    def _yaml(self, name: str, *, skip: bool) -> None:
        """Checks a YAML file.

        Args:
            name: Its path.
            skip: It was not named but found in a folder, so it need not be one of ours.
        """
        try:
            tree, _ = load(name)
        except ConfigError as error:
            self.problems.extend(error.problems)
            return
        if isinstance(tree, Items):
            self._cases(name)
        elif _has_containers(tree):
            self._topology(name)
        elif skip and not (isinstance(tree, Section) and tree.entries.keys() & set(configfile.KEYS)):
            self._skipped.append(name)
        else:
            self._sidecar(name)

    # -- is it right ---------------------------------------------------------------------------------------------------

    def _sidecar(self, name: str) -> None:
        self._checked[name] = SIDECAR
        try:
            config = configfile.read(name, configfile.Flags(certs=os.environ.get("FLUI_CERTS")), on_disk=self._on_disk)
        except ConfigError as error:
            self.problems.extend(error.problems)
            return
        if config.policy is not None and self._on_disk:
            self._policy(Path(config.policy))
        if config.api.file and self._on_disk:
            self._api(config.api.file)

    def _api(self, file: str) -> None:
        from flui.runtime import apifile  # noqa: PLC0415 - only where there are descriptors

        self._checked[file] = API
        try:
            routes = apifile.read(file)
        except ConfigError as error:
            self.problems.extend(error.problems)
            return
        fix = "correct the annotation, or the others are served without it"
        self._warnings.extend(Problem(file, 0, "", mistake, fix) for mistake in routes.mistakes)

    def _policy(self, folder: Path) -> None:
        if folder.resolve() in self._folders:
            return
        self._folders.add(folder.resolve())
        self._checked[str(folder)] = POLICY
        try:
            examined = casbin.examine(source.read(str(folder)))
        except ConfigError as error:
            self.problems.extend(error.problems)
            return
        self.problems.extend(_inside(folder, problem) for problem in examined.problems)
        self._warnings.extend(_inside(folder, problem) for problem in examined.warnings)
        try:
            read_cases(source.read_cases(str(folder)))
        except ConfigError as error:
            self.problems.extend(_inside(folder / "cases", problem) for problem in error.problems)

    def _cases(self, name: str) -> None:
        self._checked[name] = CASES
        try:
            read_cases((PolicyText(name, Path(name).read_text("utf-8-sig")),))
        except ConfigError as error:
            self.problems.extend(error.problems)

    def _topology(self, name: str) -> None:
        self._checked[name] = TOPOLOGY
        try:
            topology.load(Path(name))
        except ConfigError as error:
            self.problems.extend(error.problems)

    # -- what to say ---------------------------------------------------------------------------------------------------

    def document(self) -> dict[str, object]:
        """Everything, for `--json`."""
        return {
            "ok": not self.problems,
            "checked": [{"file": file, "kind": kind} for file, kind in self._checked.items()],
            "skipped": self._skipped,
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "warnings": [dataclasses.asdict(problem) for problem in self._warnings],
        }

    def tell(self) -> None:
        """Everything, for people: mistakes on standard error, what was checked on standard output."""
        for problem in self.problems:
            click.echo(click.style(str(problem), fg="red"), err=True)
        for warning in self._warnings:
            click.echo(click.style(f"{warning} (a warning)", fg="yellow"), err=True)
        for file in self._skipped:
            click.echo(f"skipped {file}: none of its keys is one of ours")
        what = ", ".join(f"{file} ({kind})" for file, kind in self._checked.items()) or "nothing"
        if self.problems:
            count = f"{len(self.problems)} mistake{'s' if len(self.problems) > 1 else ''}"
            click.echo(f"{click.style('failed', fg='red')}  {count}; checked {what}")
        else:
            click.echo(f"{click.style('ok', fg='green')}  checked {what}")


def _has_containers(tree: Node) -> bool:
    if not isinstance(tree, Section):
        return False
    services = tree.entries.get("services")
    inside = services.entries.values() if isinstance(services, Section) else ()
    return "x-flui" in tree.entries or any(isinstance(service, Section) and _CONTAINER & service.entries.keys() for service in inside)


def _inside(folder: Path, problem: Problem) -> Problem:
    """The problem with its file's folder, where only the name is known."""
    return problem if os.sep in problem.file else dataclasses.replace(problem, file=str(folder / problem.file))

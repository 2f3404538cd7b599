"""Topologies: a Docker Compose file, read as something that can also run as plain processes.

Owns what a topology file says and every mistake in it. Starts nothing and opens nothing but that file. What a container
would be told (command, working folder, environment, the sidecar's own file under `configs:`) is read as it stands;
only what Compose cannot say is under `x-flui`. `flui.runtime.placement` then gives every service an address on this machine.

    services:            a *module*: what runs            NAME
                         its *sidecar*                    any service with `network_mode: "service:NAME"`
    configs:             the sidecar's file, inline, named by the sidecar's own `configs:`
    x-flui: (top)        trust-domain, identities, cache
    x-flui: (module)     build, twin
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from flui.model.api import AUTO, OFF, REFLECTION
from flui.model.config import ConfigError
from flui.runtime import configfile
from flui.runtime._schema import Reader
from flui.runtime._yaml import parse
from flui.runtime.composefile import ComposeFile, Place, listed

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}\Z")
_TOP_KEYS: Final = ("trust-domain", "identities", "cache")
_MODULE_KEYS: Final = ("build", "twin")


@dataclass(frozen=True, slots=True)
class Module:
    """A service of the file that is ours to run: a program in a folder."""

    name: str
    folder: Path
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    build: tuple[str, ...]
    """Compiles it, `{binary}` standing for the result, which then runs instead of `command`; empty: nothing to build."""
    twin: tuple[str, ...]
    """Runs instead where the program that `build` or `command` begins with is missing; empty: there is none."""
    line: int


@dataclass(frozen=True, slots=True)
class Companion:
    """The sidecar of a module."""

    name: str
    module: str
    service: str
    """What it is to the mesh; replicas share it."""
    settings: Mapping[str, object]
    """Its configuration file as a container reads it."""
    policy: Path | None
    """Its policy folder, on this machine."""
    descriptors: Path | None
    """The file that `app.api` names, on this machine; None: it names none."""
    line: int
    """Where its configuration begins."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole file."""

    file: Path
    name: str
    trust_domain: str
    identities: tuple[str, ...]
    """Callers beside the services that get a leaf too."""
    cache: Path
    modules: tuple[Module, ...]
    companions: tuple[Companion, ...]
    """One per module, in the same order."""


def load(file: Path) -> Topology:
    """Reads and validates a topology.

    Raises:
        ConfigError: with every mistake found, each with its line.
    """
    return _Reader(file).topology()


def is_topology(text: str) -> bool:
    """Whether a YAML text is meant as a topology: it has `services:` at the top, with images, commands or `x-flui` in them."""
    try:
        top = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    if not isinstance(top, dict) or not isinstance(top.get("services"), dict):
        return False
    compose = {"image", "build", "command", "network_mode"}
    return "x-flui" in top or any(isinstance(service, dict) and compose & service.keys() for service in top["services"].values())


def address_in(value: object, default: str = "") -> str:
    """The address of `inbound`, `outbound` or `app`, which is the value itself or in a section, under `address` or `url`."""
    if isinstance(value, Mapping):
        value = value.get("address", value.get("url"))
    return default if value is None else str(value)


def descriptors_in(settings: Mapping[str, object]) -> str:
    """What a sidecar's file says under `app.api`, in either form: a word or a path; empty when it says nothing."""
    app = settings.get("app")
    api = app.get("api") if isinstance(app, Mapping) else None
    if isinstance(api, Mapping):
        api = api.get("descriptors")
    return "" if api is None else str(api)


class _Reader:
    """Reads one file as a topology."""

    def __init__(self, file: Path) -> None:
        self.values = ComposeFile(file)
        self.wheres: dict[str, Place] = {}
        """Module → where its sidecar's configuration stands."""

    def topology(self) -> Topology:
        top = self.values.mapping(self.values.parsed(), (), "a Docker Compose file, with `services:`")
        self.values.stop_if_wrong()
        own = self.values.mapping(top.get("x-flui", {}), ("x-flui",), "keys of x-flui")
        self.values.unknown(own, ("x-flui",), _TOP_KEYS)
        trust_domain = self.values.text(own.get("trust-domain", ""), ("x-flui", "trust-domain"))
        if not _TRUST_DOMAIN.match(trust_domain):
            what = "is not a trust domain" if "trust-domain" in own else "trust-domain is missing"
            self.values.wrong(("x-flui", "trust-domain"), what, "write the name its SPIFFE IDs carry, such as `trust-domain: shop`")
        services = self.values.mapping(top.get("services", {}), ("services",), "services by name")
        if not services:
            self.values.wrong(("services",), "there is no service", "add `services:` with a module and its sidecar")
        modules, companions = self.pairs(services, self.values.mapping(top.get("configs", {}), ("configs",), "configs by name"))
        identities = self.values.words(own.get("identities", []), ("x-flui", "identities"))
        for number, name in enumerate(identities):
            if not _NAME.match(name):
                self.values.wrong(("x-flui", "identities", number), f"{name!r} is not a name", "use a-z, 0-9, dot, hyphen and underscore")
        self.endpoints(companions)
        self.values.stop_if_wrong()
        return Topology(
            file=self.values.file,
            name=self.values.text(top.get("name", self.values.file.stem), ("name",)),
            trust_domain=trust_domain,
            identities=identities,
            cache=self.values.folder / self.values.text(own.get("cache", ".cache"), ("x-flui", "cache")),
            modules=tuple(modules),
            companions=tuple(companions),
        )

    # -- services ------------------------------------------------------------------------------------------------------

    def pairs(self, services: dict[str, object], configs: dict[str, object]) -> tuple[list[Module], list[Companion]]:
        """Every module with its one sidecar."""
        told = {name: self.values.mapping(value, ("services", name), "what the service is") for name, value in services.items()}
        beside: dict[str, str] = {}
        for name, service in told.items():
            if not _NAME.match(name):
                self.values.wrong(("services", name), "is not a name", "use a-z, 0-9, dot, hyphen and underscore, 63 characters at most")
            if "network_mode" not in service:
                continue
            at: Place = ("services", name, "network_mode")
            kind, _, module = self.values.text(service["network_mode"], at).partition(":")
            if kind != "service":
                self.values.wrong(at, "a sidecar shares the network of its module", 'write `network_mode: "service:NAME"`')
            elif module not in told:
                self.values.wrong(at, f"there is no service {module!r} for it to stand beside", f"name one of {listed(told)}")
            elif "network_mode" in told[module]:
                self.values.wrong(at, f"{module!r} is itself a sidecar", "name the module")
            elif module in beside:
                self.values.wrong(at, f"{module!r} has a sidecar already: {beside[module]!r}", "keep one of the two")
            else:
                beside[module] = name
        modules, companions = [], []
        for name, service in told.items():
            if "network_mode" in service:
                continue
            if name not in beside:
                fix = f'add a service with `network_mode: "service:{name}"` and the command `run -c FILE`'
                self.values.wrong(("services", name), "it has no sidecar", fix)
                continue
            modules.append(self.module(name, service))
            companions.append(self.companion(beside[name], name, told[beside[name]], configs))
        return modules, companions

    def module(self, name: str, service: dict[str, object]) -> Module:
        at: Place = ("services", name)
        own = self.values.mapping(service.get("x-flui", {}), (*at, "x-flui"), "keys of x-flui")
        self.values.unknown(own, (*at, "x-flui"), _MODULE_KEYS)
        build = self.values.words(own.get("build", []), (*at, "x-flui", "build"))
        if build and not any("{binary}" in word for word in build):
            self.values.wrong(
                (*at, "x-flui", "build"), "it does not say where the result goes", 'put "{binary}" where the output file is named'
            )
        command = self.values.words(service.get("command", []), (*at, "command"))
        if not command and not build:
            what = "it has no command: what an image runs by itself cannot run as a process"
            self.values.wrong(at, what, "write `command: [PROGRAM, ARGUMENT]`")
        folder = self.values.folder
        if "working_dir" in service:
            there = self.values.text(service["working_dir"], (*at, "working_dir"))
            found = self.on_this_machine(there, service, at)
            if found is None:
                fix = f"mount the module's folder there: `volumes: [./FOLDER:{there}:ro]`"
                self.values.wrong((*at, "working_dir"), f"no volume holds {there}", fix)
            elif not found.is_dir():
                self.values.wrong((*at, "volumes"), f"{found} is not a folder", "name the folder where the module's files are")
            else:
                folder = found
        return Module(
            name=name,
            folder=folder,
            command=command,
            environment=self.values.environment(service.get("environment", {}), (*at, "environment")),
            build=build,
            twin=self.values.words(own.get("twin", []), (*at, "x-flui", "twin")),
            line=self.values.line(at),
        )

    def companion(self, name: str, module: str, service: dict[str, object], configs: dict[str, object]) -> Companion:
        at: Place = ("services", name)
        settings, where = self.settings(name, service, configs)
        self.wheres[module] = where
        policy = None
        if "policy" in settings:
            there = self.values.text(settings["policy"], (*where, "policy"))
            policy = self.on_this_machine(there, service, at)
            if policy is None:
                self.values.wrong(
                    (*where, "policy"), f"no volume of {name} holds {there}", f"add `volumes: [../policy:{there}:ro]` to {name}"
                )
            elif not policy.is_dir():
                self.values.wrong((*at, "volumes"), f"{policy} is not a folder", "name the policy folder")
        return Companion(
            name=name,
            module=module,
            service=str(settings.get("service", "")),
            settings=settings,
            policy=policy,
            descriptors=self.descriptors(name, settings, service, at, where),
            line=self.values.line(where),
        )

    def descriptors(self, name: str, settings: dict[str, object], service: dict[str, object], at: Place, where: Place) -> Path | None:
        """The descriptor set that a sidecar's file names under `app.api`, if it names one."""
        there = descriptors_in(settings)
        if there in {"", AUTO, REFLECTION, OFF}:
            return None
        found = self.on_this_machine(there, service, at)
        place: Place = (*where, "app", "api")
        if found is None:
            fix = f"write a full path that one does, such as `volumes: [./shop.binpb:/etc/flui/shop.binpb:ro]` of {name}"
            self.values.wrong(place, f"no volume of {name} holds {there}", fix)
        elif not found.is_file():
            self.values.wrong(place, f"{found} is not a file", "make it with `protoc --include_imports --descriptor_set_out=FILE`")
        return found

    def settings(self, name: str, service: dict[str, object], configs: dict[str, object]) -> tuple[dict[str, object], Place]:
        """The sidecar's file: its first config whose target is the FILE of `run -c FILE`, and where its text stands."""
        at: Place = ("services", name)
        command = self.values.words(service.get("command", []), (*at, "command"))
        wanted = next((command[i + 1] for i, word in enumerate(command[:-1]) if word in ("-c", "--config")), "")
        if not wanted:
            self.values.wrong((*at, "command"), "a sidecar is run with a file", "write `command: [run, -c, /etc/flui/sidecar.yaml]`")
            return {}, at
        mounted = service.get("configs", [])
        for number, entry in enumerate(mounted if isinstance(mounted, list) else []):
            if isinstance(entry, dict) and entry.get("target") == wanted:
                source = self.values.text(entry.get("source", ""), (*at, "configs", number, "source"))
                if source not in configs:
                    self.values.wrong(
                        (*at, "configs", number, "source"), f"there is no config {source!r}", f"name one of {listed(configs)}"
                    )
                    return {}, at
                return self.inline(source, configs[source])
        self.values.wrong((*at, "configs"), f"nothing is mounted at {wanted}", f"write `configs: [{{source: NAME, target: {wanted}}}]`")
        return {}, at

    def inline(self, source: str, config: object) -> tuple[dict[str, object], Place]:
        """The mapping inside `configs: SOURCE: content: |`."""
        at: Place = ("configs", source)
        content = self.values.mapping(config, at, "a config with `content: |`").get("content")
        where: Place = (*at, "content")
        if not isinstance(content, str):
            self.values.wrong(at, "it has no inline text", "write the sidecar's file below `content: |`")
            return {}, at
        first = self.values.line(where) + 1  # a block scalar's text begins on the line below its key
        text = self.values.interpolated(content, where)
        try:
            tree, found = parse(text.encode(), str(self.values.file), first)
            configfile.interpret(tree, Reader(found), str(self.values.file))
        except ConfigError as error:
            self.values.problems += [problem for problem in error.problems if problem not in self.values.problems]
            return {}, where
        return self.values.mapping(self.values.marked(text, where, first, guess=False), where, "a sidecar's configuration"), where

    def endpoints(self, companions: list[Companion]) -> None:
        """Every endpoint of every sidecar's file must be the inbound address of a service of this topology."""
        inbound = {c.module: address_in(c.settings.get("inbound"), str(configfile.INBOUND)).rpartition(":")[2] for c in companions}
        meant = {c.module: c.service for c in companions}
        checked: set[Place] = set()
        for companion in companions:
            where = self.wheres[companion.module]
            services = companion.settings.get("services", {})
            for name, told in (services if isinstance(services, dict) else {}).items():
                several = told.get("endpoints", []) if isinstance(told, dict) else []
                for number, endpoint in enumerate(several if isinstance(several, list) else []):
                    at: Place = (*where, "services", name, "endpoints", number)
                    if at in checked:
                        continue  # a file shared by replicas is judged once
                    checked.add(at)
                    address = endpoint.get("address", "") if isinstance(endpoint, dict) else endpoint
                    host, _, port = str(address).rpartition(":")
                    at = (*at, "address")
                    if meant.get(host) == "":
                        continue  # its own file could not be read
                    if host not in inbound:
                        self.values.wrong(at, f"there is no service {host!r}", f"name one of {listed(inbound)}")
                    elif port != inbound[host]:
                        self.values.wrong(at, f"the sidecar of {host} accepts on port {inbound[host]}", f"write {host}:{inbound[host]}")
                    elif meant[host] != name:
                        self.values.wrong(at, f"{host} is a replica of {meant[host]!r}, not of {name!r}", f"list it under {meant[host]}")

    def on_this_machine(self, there: str, service: dict[str, object], at: Place) -> Path | None:
        """Where a path inside the container is on this machine, by the service's volumes (`HOST:CONTAINER[:ro]`)."""
        volumes = service.get("volumes", [])
        for number, volume in enumerate(volumes if isinstance(volumes, list) else []):
            if isinstance(volume, dict):
                here, mounted = str(volume.get("source", "")), str(volume.get("target", ""))
            else:
                here, _, rest = self.values.text(volume, (*at, "volumes", number)).partition(":")
                mounted = rest.partition(":")[0]
            if here.startswith((".", "/", "~")) and (there == mounted or there.startswith(mounted.rstrip("/") + "/")):
                return (self.values.folder / Path(here).expanduser() / there.removeprefix(mounted).lstrip("/")).resolve()
        return None

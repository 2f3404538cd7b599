"""Where a topology runs on this machine: an address for every service, and what is told to each in those terms.

Containers have an address each and call themselves 127.0.0.1; processes share one machine, so every module and its
sidecar get a loopback address of their own, and each mention of a service or of "itself" is rewritten to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flui.runtime import configfile
from flui.runtime.topology import Companion, Module, Topology, address_in

_ADDRESS: Final = re.compile(r"(?P<scheme>[a-z0-9+]+://)?(?P<host>[A-Za-z0-9._-]+):(?P<port>\d{1,5})\Z")
_OWN: Final = ("127.0.0.1", "0.0.0.0", "localhost")  # noqa: S104  what a container calls itself; nothing is bound here


@dataclass(frozen=True, slots=True)
class Placed:
    """A module and its sidecar with addresses on this machine."""

    module: Module
    companion: Companion
    host: str
    app: str
    """`host:port` where the module listens; empty when it only calls out."""
    inbound: str
    outbound: str
    """Empty when it is off."""
    admin: str
    """Path of a Unix socket."""
    environment: tuple[tuple[str, str], ...]
    settings: Mapping[str, object]


def place(topology: Topology, hosts: Mapping[str, str], run: Path, certs: Path) -> tuple[Placed, ...]:
    """Gives every module its host, and rewrites what the sidecars and modules are told accordingly.

    Args:
        topology: as loaded, hence without mistakes.
        hosts: module → an address of its own on this machine.
        run: folder for the admin sockets.
        certs: folder with `ca.pem` and a leaf and key per service.

    Returns:
        One per module, in the topology's order.
    """
    placed = []
    for module, companion in zip(topology.modules, topology.companions, strict=True):
        host = hosts[module.name]
        settings = dict(companion.settings)
        defaults = {"inbound": str(configfile.INBOUND), "outbound": str(configfile.OUTBOUND), "app": ""}
        told = {key: _moved(address_in(settings.get(key), default), host, hosts) for key, default in defaults.items()}
        for key, address in told.items():
            if address:
                settings[key] = _with_address(settings.get(key), address)
        settings["admin"] = str(run / f"{module.name}.sock")
        settings["certs"] = str(certs)
        if companion.policy is not None:
            settings["policy"] = str(companion.policy)
        if companion.descriptors is not None:
            settings["app"] = _with_descriptors(settings["app"], str(companion.descriptors))
        if "services" in settings:
            settings["services"] = _moved_endpoints(settings["services"], host, hosts)
        placed.append(
            Placed(
                module=module,
                companion=companion,
                host=host,
                app=told["app"].rpartition("://")[2],
                inbound=told["inbound"],
                outbound="" if told["outbound"] == "off" else told["outbound"],
                admin=str(settings["admin"]),
                environment=tuple((name, _moved(value, host, hosts)) for name, value in module.environment),
                settings=settings,
            )
        )
    return tuple(placed)


def _with_address(value: object, address: str) -> object:
    """`value` with its address replaced: a section keeps its other keys."""
    if not isinstance(value, Mapping):
        return address
    return {**value, "url" if "url" in value else "address": address}


def _with_descriptors(app: object, path: str) -> object:
    """`app` with the file that its `api` names replaced."""
    assert isinstance(app, Mapping), "an api stands under it"
    api = app["api"]
    return {**app, "api": {**api, "descriptors": path} if isinstance(api, Mapping) else path}


def _moved(text: str, host: str, hosts: Mapping[str, str]) -> str:
    """`text` with its host replaced, where it is an address (or a bare host) of this topology; else as it is."""
    if text in _OWN:
        return host
    found = _ADDRESS.match(text)
    if found is None:
        return text
    named = found["host"]
    target = host if named in _OWN else hosts.get(named, named)
    return f"{found['scheme'] or ''}{target}:{found['port']}"


def _moved_endpoints(value: object, host: str, hosts: Mapping[str, str]) -> object:
    """Every `address:` below `value`, moved."""
    if isinstance(value, dict):
        return {
            key: _moved(inner, host, hosts) if key == "address" and isinstance(inner, str) else _moved_endpoints(inner, host, hosts)
            for key, inner in value.items()
        }
    return [_moved_endpoints(inner, host, hosts) for inner in value] if isinstance(value, list) else value

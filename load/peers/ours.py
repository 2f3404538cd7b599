"""Our sidecar's configuration and policy for a measurement: as deployed, with what is off by default turned on as well."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from load.peers.certificates import spiffe_id
from load.peers.envoy import RULES

_SUN_PATH: Final = 107
"""Octets of a Unix socket's path that Linux takes (unix(7)); a checkout may lie deeper than that."""
_ADMITTED: Final = (("client", "bench"), ("bench", "backend"))


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One sidecar as it is deployed: both listeners, an admin socket, the access log on. Ports are on 127.0.0.1."""

    service: str
    app: int
    inbound: int
    outbound: int
    calls: str
    """The service to which every outbound request goes, whatever its Host."""
    at: int
    """Its one endpoint."""
    collector: int
    """Port of what takes its spans."""
    plain: bool
    """That service has no sidecar: plain text. Else mTLS, and it must prove its name."""
    http2: bool = False
    """Module and plain service speak HTTP/2 with prior knowledge."""
    api: Path | None = None
    """Descriptor set of a gRPC module; None: nobody asks for it but by gRPC."""


def config(sidecar: Sidecar, folder: Path, certs: Path, policy: Path, *, defaults: bool = False) -> str:
    """The configuration file, YAML.

    Args:
        sidecar: What to say.
        folder: For the admin socket, unless its path is too long for one.
        certs: Folder with `ca.pem` and the service's leaf.
        policy: Folder that `write_policy` made.
        defaults: Only what is on by itself: no rates, adaptive limit, health checks or tracing.
    """
    limit = {"rate": "1000000/s", "burst": 1_000_000, "per": "principal"}
    """Looked at for every request, and never reached."""
    # The limit that finds itself would shed what a closed loop offers beyond capacity: its floor lets it count and learn, not refuse.
    concurrency = {"least": 1000, "start": 1000, "most": 2000}
    health = {"path": "/items/7"}
    socket = str(folder / f"{sidecar.inbound}.sock")
    called: dict[str, object] = {"endpoints": [f"127.0.0.1:{sidecar.at}"], "rate": limit, "concurrency": concurrency}
    if sidecar.plain:
        called |= {"plaintext": True, "health": health}
    if sidecar.plain and sidecar.http2:
        called["protocol"] = "http2"
    scheme = "h2c" if sidecar.http2 else "http"
    app: dict[str, object] = {"url": f"{scheme}://127.0.0.1:{sidecar.app}", "rate": limit, "concurrency": concurrency, "health": health}
    if sidecar.api is not None:
        app["api"] = str(sidecar.api)
    tracing = {"tracing": {"endpoint": f"http://127.0.0.1:{sidecar.collector}/v1/traces", "share": "1%", "rate": "100/s"}}
    if defaults:
        tracing = {}
        for section in (called, app):
            for key in ("rate", "concurrency", "health"):
                section.pop(key, None)
    return yaml.dump(
        {
            "service": sidecar.service,
            "app": app,
            "inbound": f"127.0.0.1:{sidecar.inbound}",
            "outbound": {"address": f"127.0.0.1:{sidecar.outbound}", "authorize": True},
            "admin": socket if len(os.fsencode(socket)) <= _SUN_PATH else "127.0.0.1:0",
            "certs": str(certs),
            "policy": str(policy),
            "services": {sidecar.calls: called},
            "routes": [{"name": "all", "match": {"path": "/*"}, "to": sidecar.calls}],
            "access_log": "/dev/null",
            **tracing,
        },
        Dumper=_Whole,
        sort_keys=False,
    )


class _Whole(yaml.SafeDumper):
    """Writes a value out wherever it stands: a sidecar reads no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def write_policy(folder: Path, model: Path) -> None:
    """Makes the policy folder: 99 rules that never apply, as Envoy has, and the ones that admit the load.

    Args:
        folder: Made when it is not there.
        model: The repository's `model.conf`, copied.

    Raises:
        OSError: The model is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, folder / "model.conf")
    (folder / "bench.csv").write_text("\n".join(policy_rows()) + "\n")


def policy_rows() -> list[str]:
    """Rows in Casbin's format; the ones that admit come last: the load calling `bench`, and `bench` calling `backend`."""
    return [
        *(f"p, {spiffe_id(f'svc{number}')}, bench, GET, /svc{number}/*" for number in range(RULES - 1)),
        *(f"p, {spiffe_id(caller)}, {called}, {action}, /*" for caller, called in _ADMITTED for action in ("GET", "CALL")),
    ]

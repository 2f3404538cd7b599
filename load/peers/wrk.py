"""The load: wrk, a closed loop over keep-alive connections, and what it says."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from load.peers.certificates import Identities
from load.peers.processes import pinned

FIELDS: Final = (
    "User-Agent: python-requests/2.32",
    "Accept: application/json",
    "Accept-Encoding: gzip, deflate",
    "Authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "cookie: session=abcdef0123456789",
    "flui-key: 42",
)
"""With the Host that wrk adds, the eight fields of every request."""

_FRESH: Final = Path(__file__).with_name("fresh.lua")
_GRACE_S: Final = 30.0
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TOTAL: Final = re.compile(r"(\d+) requests in ([\d.]+)(us|ms|s|m|h),")
_PERCENTILE: Final = r"^\s+{}%\s+([\d.]+)(us|ms|s|m|h)\s*$"
_SOCKET_ERRORS: Final = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_REFUSED: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")


class LoadError(Exception):
    """wrk did not do its work, or said something that we do not understand."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked, and how."""

    url: str
    connections: int
    client: str | None
    """Name of the identity that the connections present; None: plain text."""
    fresh: bool = False
    """Every request has a trace id of its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of wrk saw."""

    requests: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    """Failed connects, reads and writes, timeouts, and answers that are not 2xx or 3xx."""


def run(wrk: str, shim: str, load: Load, identities: Identities, secs: int, core: int) -> Outcome:
    """Runs wrk on one core for `secs` seconds, one thread.

    Args:
        wrk: The program.
        shim: The library that gives it a client certificate.
        load: What to ask.
        identities: Where that certificate is.
        secs: Whole seconds, at least 1.
        core: The CPU it is pinned to.

    Raises:
        LoadError: It failed, hung, or wrote something else than wrk 4 does.
    """
    argv = [wrk, "-t1", f"-c{load.connections}", f"-d{secs}s", "--timeout", "10s", "--latency"]
    argv += [part for field in FIELDS for part in ("-H", field)]
    if load.fresh:
        argv += ["-s", str(_FRESH)]
    env = dict(os.environ)
    if load.client is not None:
        env["LD_PRELOAD"] = shim
        env["BENCH_CLIENT_CERT"] = str(identities.certificate(load.client))
        env["BENCH_CLIENT_KEY"] = str(identities.key(load.client))
    try:
        with pinned(core):
            done = subprocess.run([*argv, load.url], env=env, capture_output=True, text=True, timeout=secs + _GRACE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"wrk did not end within {secs + _GRACE_S:.0f} s") from error
    if done.returncode:
        raise LoadError(f"wrk ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-400:]}")
    return parse(done.stdout)


def parse(text: str) -> Outcome:
    """Reads what `wrk --latency` writes.

    Raises:
        LoadError: A figure that must be there is not.
    """
    total = _TOTAL.search(text)
    if total is None:
        raise LoadError(f"no total in what wrk wrote: {text.strip()[-400:]!r}")
    failed = _SOCKET_ERRORS.search(text)
    refused = _REFUSED.search(text)
    return Outcome(
        requests=int(total[1]),
        duration_s=float(total[2]) * _SECONDS[total[3]],
        p50_ms=_percentile(text, 50),
        p99_ms=_percentile(text, 99),
        errors=(sum(map(int, failed.groups())) if failed else 0) + (int(refused[1]) if refused else 0),
    )


def _percentile(text: str, percent: int) -> float:
    found = re.search(_PERCENTILE.format(percent), text, re.MULTILINE)
    if found is None:
        raise LoadError(f"no {percent}% latency in what wrk wrote: {text.strip()[-400:]!r}")
    return float(found[1]) * _SECONDS[found[2]] * 1e3

"""A real browser for tests: Debian's Chromium, driven by `playwright-core` of a pinned version, kept in `.cache/browser`."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from support.pair import debian
from support.peers_grpc import CACHE, PeerMissing

FOLDER = CACHE / "browser"
DRIVER = "playwright-core@1.65.1"
INSTALL_S = 180
NEEDS_NODE = 18


def node() -> str:
    """Path of Node, which is new enough.

    Raises:
        PeerMissing: It is not here, or too old.
    """
    found = debian("node", "nodejs")
    said = subprocess.run([found, "--version"], check=True, capture_output=True, text=True, timeout=20).stdout.strip()
    if int(said.removeprefix("v").partition(".")[0]) < NEEDS_NODE:
        raise PeerMissing(f"make test-peers needs Node {NEEDS_NODE} or newer for {DRIVER}, and this one is {said}")
    return found


def environment() -> dict[str, str]:
    """What `examples/browser/run.mjs` finds its browser and its driver by; the driver is installed now if it was not before.

    Raises:
        PeerMissing: There is no Chromium, or no way to the driver; says what to install.
    """
    chromium = debian("chromium", "chromium")
    npm = debian("npm", "npm")
    modules = FOLDER / "node_modules"
    mark = FOLDER / DRIVER
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            shutil.rmtree(modules, ignore_errors=True)
            command = [npm, "install", "--prefix", str(FOLDER), "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", DRIVER]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_S)
            if done.returncode:
                raise PeerMissing(f"npm could not install {DRIVER}: {' '.join(done.stderr.split()[-30:])}")
            mark.touch()
    return {**os.environ, "CHROMIUM": chromium, "MODULES": str(modules)}


def script(name: str) -> Path:
    """A script of the example."""
    return Path(__file__).resolve().parents[2] / "examples" / "browser" / name

"""What a module of a topology runs as on this machine: its own program, compiled once if need be, or its twin.

A newcomer may have neither Node nor Go. A module whose program is missing, or cannot be compiled without the network,
is replaced by its Python twin, and the note says so. Nothing is written outside the topology's cache folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flui.runtime.processes import StartError
from flui.runtime.topology import Module

_BUILD_S: Final = 300.0
_PYTHONS: Final = ("python", "python3")


@dataclass(frozen=True, slots=True)
class Program:
    """What runs."""

    command: tuple[str, ...]
    runtime: str
    """`node`, `go`, `python3`, or `python3 (twin)`."""


async def program_of(module: Module, cache: Path, say: Callable[[str], None]) -> Program:
    """Finds, and where needed compiles, what the module runs as.

    Args:
        module: of a loaded topology.
        cache: folder for what is compiled; made if it is not there.
        say: told one line before something slow, and when the twin takes over.

    Raises:
        StartError: the program is missing or does not compile, and there is no twin.
    """
    if not module.build:
        found = _found(module.command[0])
        if found:
            return Program((found, *module.command[1:]), module.command[0])
        return _twin(module, f"{module.command[0]} is not installed here", (), say)
    compiler = _found(module.build[0])
    if not compiler:
        return _twin(module, f"{module.build[0]} is not installed here", (), say)
    binary = cache / "modules" / f"{module.folder.name}-{_fingerprint(module)}"
    if not binary.exists():
        say(f"{module.folder.name}: compiling it with {module.build[0]}, once; it is kept in {cache}")
        failure = await _compile(module, compiler, binary, cache)
        if failure:
            return _twin(module, f"{module.build[0]} could not compile it", failure, say)
    return Program((str(binary),), module.build[0])


def _found(name: str) -> str:
    """Path of a program; a Python is always the one that runs us."""
    return sys.executable if name in _PYTHONS else shutil.which(name) or ""


def _twin(module: Module, why: str, last: tuple[str, ...], say: Callable[[str], None]) -> Program:
    found = _found(module.twin[0]) if module.twin else ""
    if not found:
        raise StartError(module.name, f"{why}; install it, or give the module a twin under x-flui", last)
    say(f"{module.folder.name}: {why}; its Python twin {module.twin[-1]} runs instead")
    return Program((found, *module.twin[1:]), f"{module.twin[0]} (twin)")


def _fingerprint(module: Module) -> str:
    """Changes with the build command and with any file of the folder."""
    seen = hashlib.sha256("\0".join(module.build).encode())
    for file in sorted(path for path in module.folder.rglob("*") if path.is_file()):
        octets = file.read_bytes()
        seen.update(f"{file.relative_to(module.folder)}\0{len(octets)}\0".encode())
        seen.update(octets)
    return seen.hexdigest()[:12]


async def _compile(module: Module, compiler: str, binary: Path, cache: Path) -> tuple[str, ...]:
    """Compiles; empty when it worked, else the compiler's last words."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    fresh = binary.with_name(f"{binary.name}.{os.getpid()}")
    # Go keeps its cache under XDG_CACHE_HOME, and must not fetch another version of itself.
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "GOTOOLCHAIN": "local"}
    environment.pop("GOCACHE", None)
    child = await asyncio.create_subprocess_exec(
        compiler,
        *(word.replace("{binary}", str(fresh)) for word in module.build[1:]),
        cwd=module.folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_BUILD_S):
            said, _ = await child.communicate()
    except TimeoutError:
        said = f"not done after {_BUILD_S:g} s".encode()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode == 0 and fresh.exists():
        fresh.replace(binary)
        return ()
    fresh.unlink(missing_ok=True)
    return tuple(said.decode("utf-8", "replace").splitlines()[-12:]) or (f"status {child.returncode}",)

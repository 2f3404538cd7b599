"""Compiles floors 0-2, and the hot files of floor 3, with mypyc into build/native, a whole copy of the package beside the pure one.

The compiled form is the same typed Python; it is chosen by putting build/native first on PYTHONPATH, and the pure form
stays whole on its own. Needs a C compiler and the packages of the `native` group. Run it through `make native`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "proxy" / "flui"
BUILD = ROOT / "build" / "native"
FLOORS = (
    "model", "codecs", "framing", "identity", "policy", "resilience", "routing",
    "decide.py", "answer.py", "splice.py", "call.py", "translate",
)  # fmt: skip
"""Floors 0-2, in the order of the house."""
COLD = ("translate/descriptors.py", "translate/openapi.py", "translate/listing.py")
"""Of them, what no request passes through."""
HOT = (
    "telemetry/families.py",
    "telemetry/meters.py",
    "telemetry/accesslog.py",
    "telemetry/redact.py",
    "telemetry/spans.py",
    "telemetry/recorder.py",
    "transport/alarm.py",
    "transport/secure.py",
    "upstream/single.py",
    "upstream/shared.py",
    "upstream/guard.py",
    "upstream/fitness.py",
    "upstream/pool.py",
    "downstream/hedge.py",
    "downstream/translated.py",
    "downstream/exchange.py",
    "downstream/connection.py",
)
"""Of floor 3, what every request passes through."""


def modules() -> list[Path]:
    """Files to compile, relative to the package's parent."""
    found: list[Path] = []
    for name in FLOORS + HOT:
        place = SOURCE / name
        found += [place] if place.is_file() else sorted(place.rglob("*.py"))
    found = [path for path in found if path.relative_to(SOURCE).as_posix() not in COLD]
    return [path.relative_to(SOURCE.parent) for path in found]


def main() -> int:
    """Builds; exit status 0 when the compiled form imports and says so."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        print(f"make native: no C compiler ({compiler}); the pure form works without it")
        return 1
    shutil.rmtree(BUILD, ignore_errors=True)
    shutil.copytree(SOURCE, BUILD / "flui", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    setup = BUILD / "setup.py"
    names = [str(path) for path in modules()]
    setup.write_text(
        "from mypyc.build import mypycify\n"
        "from setuptools import setup\n"
        f"modules = mypycify({names!r}, opt_level='3', debug_level='0', group_name='flui', multi_file=True)\n"
        "setup(name='flui', ext_modules=modules, packages=[])\n"
    )
    jobs = str(os.cpu_count() or 1)
    flags = f"{os.environ.get('CFLAGS', '')} -fvisibility=hidden".strip()  # calls between files are direct, and nobody looks their names up
    env = {**os.environ, "MYPYPATH": str(BUILD), "CFLAGS": flags}
    config = BUILD / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = True\n[mypy-casbin.*]\nignore_missing_imports = True\n[mypy-xxhash.*]\nignore_missing_imports = True\n"
    )
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j", jobs],
        cwd=BUILD,
        env=env,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
        return done.returncode
    shutil.rmtree(BUILD / "build", ignore_errors=True)
    probe = "import flui; assert flui.compiled(); print('compiled form ready: PYTHONPATH=build/native .venv/bin/python -m flui')"
    return subprocess.run([sys.executable, "-c", probe], env={**os.environ, "PYTHONPATH": str(BUILD)}, check=False, cwd="/").returncode


if __name__ == "__main__":
    sys.exit(main())

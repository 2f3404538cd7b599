"""What start-up leaves behind, given back once: on a host with many sidecars each of them is there all the time and mostly idle."""

from __future__ import annotations

import ctypes
import gc
import threading
from pathlib import Path
from typing import Final

_THRESHOLD: Final = 50_000
"""Objects made and kept between two collections of the youngest: a request makes none that only a collection can free."""
_SMAPS: Final = Path("/proc/self/smaps")
_DONTNEED: Final = 4
"""MADV_DONTNEED (madvise(2)), the same on every Linux."""
LATER_S: Final = 2.0
"""By then the files that are watched have been read once more, which takes as much memory as reading them first."""


def settle() -> None:
    """Takes what start-up has made and keeps out of every later collection. Some milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_THRESHOLD, 20, 50)


def trim() -> None:
    """Gives back what is free, and the code that only start-up needed. Some 20 ms, in which the interpreter is mostly free."""
    libc = ctypes.CDLL(None)
    give = getattr(libc, "malloc_trim", None)
    if give is not None:  # glibc; others give memory back by themselves, or never
        give(0)
    advise = getattr(libc, "madvise", None)
    if advise is not None and _SMAPS.exists():
        for start, octets in code(_SMAPS.read_text()):
            advise(ctypes.c_void_p(start), ctypes.c_size_t(octets), _DONTNEED)


def trim_aside() -> None:
    """`trim`, in a thread of its own."""
    threading.Thread(target=trim, name="flui-trim", daemon=True).start()


def code(smaps: str) -> list[tuple[int, int]]:
    """Where code lies that its file has all of: dropping it costs whoever calls it again a look into the page cache.

    Args:
        smaps: As /proc/self/smaps says (proc(5)).

    Returns:
        Address and octets of each mapping that is executable, private, of a file, and of which no page was ever written.
    """
    found: list[tuple[int, int]] = []
    where = ""
    for line in smaps.splitlines():
        name, _, value = line.partition(" ")
        if not name.endswith(":"):
            parts = line.split(None, 5)
            where = name if len(parts) == 6 and parts[1] == "r-xp" and parts[5].startswith("/") else ""
        elif where and name == "Anonymous:" and value.split() == ["0", "kB"]:
            start, end = (int(part, 16) for part in where.split("-"))
            found.append((start, end - start))
    return found

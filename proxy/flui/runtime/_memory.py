"""What start-up leaves behind, given back once: on a host with many sidecars each of them is there all the time and mostly idle."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_THRESHOLD: Final = 50_000
"""Objects made and kept between two collections of the youngest: a request makes none that only a collection can free."""


def settle() -> None:
    """Frees what only start-up needed, and takes what is left out of every later collection. Some milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_THRESHOLD, 20, 50)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc; others give memory back by themselves, or never
        trim(0)

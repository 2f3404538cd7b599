"""What start-up leaves behind, given back once: on a host with many sidecars each of them is there all the time and mostly idle."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_THRESHOLD: Final = 50_000
"""Objects made and kept between two collections of the youngest: a request makes none that only a collection can free."""


LATER_S: Final = 2.0
"""By then the files that are watched have been read once more, which takes as much memory as reading them first."""


def settle() -> None:
    """Takes what start-up has made and keeps out of every later collection. Some milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_THRESHOLD, 20, 50)


def trim() -> None:
    """Gives back what is free. A millisecond."""
    give = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give is not None:  # glibc; others give memory back by themselves, or never
        give(0)

"""The `flui` command with a sampler inside: `python -m load.peers.sampler FOLDER run -c FILE`. `profile.py` starts it.

The samples are Python's: a signal is seen at the next function entry or backward jump, so the time of a C call (TLS, a write to a socket,
compiled modules) shows at the Python line that it returned to, or at the function called next. Good for finding what to look at; what a
change gains is for `make bench` to say.
"""

from __future__ import annotations

import atexit
import collections
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

from flui.runtime.cli import main

_EVERY_S: Final = 0.002
_DEPTH: Final = 64


class Sampler:
    """Counts the stacks of this process's main thread and writes them when it exits."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._stacks: collections.Counter[tuple[str, ...]] = collections.Counter()

    def start(self) -> None:
        """From now on a sample every _EVERY_S seconds of CPU."""
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)
        atexit.register(self._write)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        del number
        stack: list[str] = []
        while frame is not None and len(stack) < _DEPTH:
            code = frame.f_code
            stack.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})")
            frame = frame.f_back
        self._stacks[tuple(reversed(stack))] += 1

    def _write(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._out.write_text("".join(f"{';'.join(stack)} {count}\n" for stack, count in self._stacks.items()))


if __name__ == "__main__":
    Sampler(Path(sys.argv.pop(1)) / f"{os.getpid()}.stacks").start()
    main()

"""A terminal that is drawn on as a whole, and left as it was.

What it can do is asked of terminfo; where that knows nothing, it is taken for an xterm. A terminal without an alternate
screen (vt100) is cleared, and left with the last picture on it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import termios
import tty
from collections.abc import Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

_DELAY: Final = re.compile(rb"\$<[^>]*>")
_HOME: Final = b"\x1b[H"
_ERASE_LINE: Final = b"\x1b[K"
_ERASE_BELOW: Final = b"\x1b[J"
_COLUMNS: Final = 80
_LINES: Final = 24
_KEYS: Final = 1024
_ASCII: Final = str.maketrans({"…": "~"})
"""For terminals that do not speak UTF-8."""


class Abilities(NamedTuple):
    """What a terminal can do."""

    enter: bytes = b"\x1b[?1049h"
    """To the alternate screen; empty: it has none."""
    leave: bytes = b"\x1b[?1049l"
    hide: bytes = b"\x1b[?25l"
    """The cursor."""
    show: bytes = b"\x1b[?12l\x1b[?25h"
    colours: bool = True


def abilities(file: int) -> Abilities:
    """What the terminal of this file, by `TERM`, can do."""
    try:
        import curses  # noqa: PLC0415 -- some builds of Python have none
    except ImportError:
        return Abilities()
    try:
        curses.setupterm(fd=file)
    except curses.error:  # TERM is unknown here
        return Abilities()

    def told(name: str) -> bytes:
        return _DELAY.sub(b"", curses.tigetstr(name) or b"")

    many = 8
    return Abilities(told("smcup"), told("rmcup"), told("civis"), told("cnorm"), colours=curses.tigetnum("colors") >= many)


def is_capable() -> bool:
    """Whether standard output is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}


def speakable(text: str, encoding: str | None) -> str:
    """`text` with what this encoding has no octets for replaced."""
    encoding = encoding or "utf-8"
    if encoding.lower().replace("-", "") == "utf8":
        return text
    return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)


class Terminal:
    """Standard input and output, taken over within `with`."""

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        self._in = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._able = abilities(self._out)
        self._modes: list[int | list[bytes | int]] | None = None
        self._encoding = sys.stdout.encoding or "utf-8"
        self.coloured = self._able.colours and not os.environ.get("NO_COLOR")

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError, termios.error):  # it may be gone
            self.give_back()

    @property
    def keyboard(self) -> int | None:
        """The file that keys come from; None: there is none."""
        return self._in

    def take(self) -> None:
        """Keys come at once and are not shown; the picture has a screen of its own."""
        if self._in is not None:
            self._modes = termios.tcgetattr(self._in)
            tty.setcbreak(self._in, termios.TCSADRAIN)
        self._write(self._able.enter + self._able.hide + _HOME + _ERASE_BELOW)

    def give_back(self) -> None:
        """Everything as it was before `take`."""
        try:
            if self._able.leave:
                self._write(self._able.show + self._able.leave)
            else:
                self._write(self._able.show + b"\x1b[%d;1H\r\n" % self.size()[1])
        finally:
            if self._in is not None and self._modes is not None:
                # what was typed for us is not for the shell
                termios.tcsetattr(self._in, termios.TCSAFLUSH, self._modes)
                self._modes = None

    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        try:
            columns, lines = os.get_terminal_size(self._out)
        except OSError:
            columns = lines = 0
        return columns or _COLUMNS, lines or _LINES

    def draw(self, lines: Sequence[str], widths: Sequence[int], *, anew: bool) -> None:
        """Replaces the picture.

        Args:
            lines: no more than the terminal has.
            widths: the columns that each needs.
            anew: nothing of the last picture may stay, as after a change of size.
        """
        columns, _ = self.size()
        made = [_HOME + (_ERASE_BELOW if anew else b"")]
        for number, (line, width) in enumerate(zip(lines, widths, strict=True)):
            # erasing after the last column would erase that, as the cursor still stands on it
            made.append(
                (b"\r\n" if number else b"")
                + speakable(line, self._encoding).encode(self._encoding)
                + (_ERASE_LINE if width < columns else b"")
            )
        if widths and widths[-1] < columns:
            made.append(_ERASE_BELOW)
        self._write(b"".join(made))

    def keys(self) -> bytes | None:
        """What was typed; None: nothing ever will be again."""
        assert self._in is not None
        try:
            return os.read(self._in, _KEYS) or None
        except OSError:
            return None

    def _write(self, octets: bytes) -> None:
        sys.stdout.flush()
        while octets:
            octets = octets[os.write(self._out, octets) :]

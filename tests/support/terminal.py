"""A terminal for tests: a real pseudo terminal, and a screen that understands what a full-screen program sends it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable

PATIENCE_S = 30.0
CONTROLLED = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "flui", *sys.argv[1:]])
"""
"""Makes standard input the terminal that signals come from, as a shell does."""

SEQUENCE = re.compile(rb"\x1b\[(\?)?([\d;]*)([A-Za-z])|\x1b[()>=78].?")


class Screen:
    """As much of a terminal as a full-screen program may rely on; it notes what a picture must not do."""

    def __init__(self, columns: int, lines: int) -> None:
        self.modes: list[bytes] = []
        self.colours: set[bytes] = set()
        self.spilt = 0
        """Characters and lines that the screen had no room for."""
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.cells = [[" "] * columns for _ in range(lines)]
        self.x = self.y = 0

    def feed(self, octets: bytes) -> None:
        at = 0
        while at < len(octets):
            found = SEQUENCE.match(octets, at)
            if found is not None:
                self._sequence(found)
                at = found.end()
            else:
                end = at + 1
                while end < len(octets) and octets[end : end + 1] not in b"\x1b\r\n":
                    end += 1
                self._text(octets[at:end].decode("utf-8", "replace"))
                at = end

    def _sequence(self, found: re.Match[bytes]) -> None:
        private, numbers, final = found.groups()
        if private:
            self.modes.append(numbers + final)
        elif final == b"H":
            y, _, x = (numbers or b"1;1").partition(b";")
            self.x, self.y = int(x or 1) - 1, int(y or 1) - 1
        elif final == b"K":
            self.cells[self.y][self.x :] = [" "] * (self.columns - self.x)
        elif final == b"J":
            self.cells[self.y][self.x :] = [" "] * (self.columns - self.x)
            self.cells[self.y + 1 :] = [[" "] * self.columns for _ in range(self.lines - self.y - 1)]
        elif final == b"m":
            self.colours |= {number for number in numbers.split(b";") if number[:1] in (b"3", b"4", b"9")}

    def _text(self, text: str) -> None:
        for character in text:
            if character == "\r":
                self.x = 0
            elif character == "\n":
                if self.y == self.lines - 1:
                    self.spilt += 1
                self.y = min(self.y + 1, self.lines - 1)
            elif self.x == self.columns:
                self.spilt += 1
            else:
                self.cells[self.y][self.x] = character
                self.x += 1

    def rows(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.cells]


class Session:
    """A `flui` command on a pseudo terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 80, lines: int = 24, **environment: str) -> None:
        self.screen = Screen(columns, lines)
        self.master, self.slave = pty.openpty()
        self._size(columns, lines)
        self.modes = termios.tcgetattr(self.slave)
        clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLED, *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**clean, "TERM": "xterm", "PYTHONUTF8": "1", **environment},
        )

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        self.read_all()
        self.screen.resize(columns, lines)
        self._size(columns, lines)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read_all(self, wait_s: float = 0.0) -> bool:
        ready, _, _ = select.select([self.master], [], [], wait_s)
        if ready:
            with contextlib.suppress(OSError):
                self.screen.feed(os.read(self.master, 65536))
        return bool(ready)

    def until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        end = time.monotonic() + PATIENCE_S
        while not holds(rows := self.screen.rows()):
            assert time.monotonic() < end, "\n".join(rows)
            assert self.process.poll() is None, self.process.communicate()[1]
            self.read_all(0.2)
        return rows

    def ended(self) -> int:
        status = self.process.wait(PATIENCE_S)
        while self.read_all():
            pass
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self.master)
        os.close(self.slave)

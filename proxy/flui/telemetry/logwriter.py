"""Log lines leave the event loop in batches, by one daemon thread, so that a reader that stands still never stops a request.

    event loop: write(line) -> list -> every 64 lines or on kick(): one joined chunk -> queue -> thread: os.write

Bounded: past `limit` octets that wait for the descriptor a batch is dropped and its lines are counted. A file that has
grown past its size is renamed by the thread, between two chunks, so that no line is torn or lost:

    FILE.2 -> FILE.3, FILE.1 -> FILE.2, FILE -> FILE.1, a new FILE        (the oldest goes when `keep` are there)

What cannot be renamed is written on; it is tried again when the file has grown by its size once more.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
from queue import SimpleQueue
from typing import Final

from flui.model.units import KIB, MIB

BATCH_OCTETS: Final = 128 * KIB
"""Octets of lines that are handed over together: a hand-over costs the waking of a thread and a turn of the GIL, an append 0.1 µs."""


_NEWLINE: Final = 0x0A


class _Chunk:
    """Octets for the descriptor, or an order to the thread."""

    __slots__ = ("done", "lines", "octets", "reopen")

    def __init__(self, octets: bytes = b"", lines: int = 0, done: threading.Event | None = None, *, reopen: bool = False) -> None:
        self.octets = octets
        self.lines = lines
        self.done = done
        """Set once everything before it was dealt with."""
        self.reopen = reopen


class LogWriter:
    """Writes lines to one descriptor. All methods are for the event loop's thread.

    Args:
        fd: open for writing; blocking or not.
        path: where it was opened, for `reopen`; empty for a descriptor that is not ours (standard output).
        limit: octets that may wait for the descriptor. At most `BATCH_OCTETS` and a line more wait to be handed over.
        rotate_octets: size past which a file is renamed, exceeded by one chunk at most; 0: never. Needs a path.
        keep: renamed files kept; 0: none.
    """

    __slots__ = (
        "_fd",
        "_gathered",
        "_handed",
        "_keep",
        "_limit",
        "_lines",
        "_lost",
        "_path",
        "_queue",
        "_refused",
        "_rotate_at",
        "_rotate_octets",
        "_thread",
        "_told",
        "_torn",
        "_written",
        "failure",
        "rotation_failure",
        "rotations",
        "rotations_failed",
    )

    def __init__(self, fd: int, path: str = "", limit: int = 1 * MIB, rotate_octets: int = 0, keep: int = 5) -> None:
        assert not rotate_octets or path, "what has no name cannot be renamed"
        self._fd = fd
        self._path = path
        self._limit = limit
        self._rotate_octets = rotate_octets
        self._keep = keep
        self._rotate_at = rotate_octets
        """Size at which a rotation is tried next."""
        self._lines: list[bytes] = []
        self._gathered = 0
        self._queue: SimpleQueue[_Chunk | None] = SimpleQueue()
        # Each of these has one writer, so no lock: the loop owns _handed and _refused, the thread _written and _lost.
        self._handed = 0
        self._refused = 0
        self._written = 0
        self._lost = 0
        self._torn = False
        """What was written last ends within a line: the next chunk starts a new one."""
        self.failure = ""
        """Why the last write or reopening failed; empty when it did not."""
        self.rotation_failure = ""
        """Why the last rotation failed; empty when it did not."""
        self.rotations = 0
        """Rotations done."""
        self.rotations_failed = 0
        self._told = ""
        self._thread = threading.Thread(target=self._run, name="flui-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost so far: nobody read them, or the descriptor failed."""
        return self._refused + self._lost

    @property
    def pending(self) -> int:
        """Octets handed over and not written yet."""
        return self._handed - self._written

    def news(self) -> str:
        """Why lines are lost or files not rotated, once until it changes; empty when there is nothing new. The owner asks on a timer."""
        now = "; ".join(filter(None, (self.failure, self.rotation_failure)))
        if now == self._told:
            return ""
        self._told = now
        return now

    def write(self, line: bytes) -> None:
        """Takes one line, newline included. Never blocks; a line that finds no room later is dropped and counted."""
        self._lines.append(line)
        self._gathered += len(line)
        if self._gathered >= BATCH_OCTETS:
            self.kick()

    def kick(self) -> None:
        """Hands over what has gathered. The owner calls it on a timer, so that a quiet log is not a late one."""
        lines = self._lines
        if not lines:
            return
        octets = b"".join(lines)
        count = len(lines)
        lines.clear()
        self._gathered = 0
        if self._handed - self._written + len(octets) > self._limit:
            self._refused += count
            return
        self._handed += len(octets)
        self._queue.put(_Chunk(octets, count))

    def reopen(self) -> None:
        """Opens the file anew at its path, after the lines before this call: for rotation by others. Nothing happens without a path."""
        if self._path:
            self.kick()
            self._queue.put(_Chunk(reopen=True))

    def flush(self, timeout: float) -> bool:
        """Hands over everything and waits for it. Blocks: for shutdown.

        Args:
            timeout: seconds at most.

        Returns:
            True when everything before this call was dealt with.
        """
        self.kick()
        done = threading.Event()
        self._queue.put(_Chunk(done=done))
        return done.wait(timeout)

    def close(self, timeout: float) -> bool:
        """Flushes, ends the thread and closes the file if it is ours. What still waits after `timeout` is left to the daemon thread."""
        flushed = self.flush(timeout)
        self._queue.put(None)
        if flushed:
            self._thread.join(timeout)
        return flushed

    def _run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            if chunk.octets:
                self._put(chunk)
            if chunk.reopen:
                self._swap()
            if chunk.done is not None:
                chunk.done.set()
        if self._path:
            os.close(self._fd)

    def _put(self, chunk: _Chunk) -> None:
        if self._rotate_octets:
            size = os.fstat(self._fd).st_size
            if size > self._rotate_at:
                self._rotate(size)
        octets = b"\n" + chunk.octets if self._torn else chunk.octets
        rest = memoryview(octets)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:
                    # someone we share the pipe with made it non-blocking
                    _wait_writable(self._fd)
            self._torn = False
            self.failure = ""
        except OSError as error:
            # a closed pipe, a full disk: the service goes on, the loss is counted
            if len(rest) < len(octets):
                self._torn = octets[-len(rest) - 1] != _NEWLINE
            self._lost += min(chunk.lines, bytes(rest).count(b"\n"))
            self.failure = error.strerror or str(error)
        self._written += len(chunk.octets)

    def _swap(self) -> None:
        try:
            fd = _open(self._path)
        except OSError as error:
            self.failure = f"{self._path}: {error.strerror}"
            return
        self._take(fd)

    def _take(self, fd: int) -> None:
        # the same file may be open anew; only another one begins with a line of its own
        self._torn = self._torn and os.path.samestat(os.fstat(fd), os.fstat(self._fd))
        os.close(self._fd)
        self._fd = fd
        self._rotate_at = self._rotate_octets

    def _rotate(self, size: int) -> None:
        """Gives the file another name and begins a new one; whatever fails, what is open stays open and is written to."""
        try:
            ours = os.fstat(self._fd)
            mode = 0o640
            if _is_at(self._path, ours):
                mode = stat.S_IMODE(ours.st_mode)
                _shift(self._path, self._keep)
            # else somebody has renamed it already: there is only a new one to begin
            fd = _open(self._path, mode)
        except OSError as error:
            self.rotations_failed += 1
            self.rotation_failure = f"{self._path} cannot be rotated: {error.strerror or error}"
            self._rotate_at = size + self._rotate_octets
            return
        with contextlib.suppress(OSError):  # the mode it had before, whatever the umask; else at least no more than that
            os.fchmod(fd, mode)
        self._take(fd)
        self.rotations += 1
        self.rotation_failure = ""


def open_log(target: str, rotate_octets: int = 0, keep: int = 5) -> LogWriter | None:
    """The writer for a configured access log.

    Args:
        target: `-` for standard output, `off` for none, or a file, which is appended to (mode 0640 when it is new).
        rotate_octets: size past which a file is renamed; 0: never. Nothing else than a file is.
        keep: renamed files kept.

    Raises:
        OSError: the file cannot be opened.
    """
    if target == "off":
        return None
    if target == "-":
        return LogWriter(1)
    fd = _open(target)
    return LogWriter(fd, target, rotate_octets=rotate_octets if stat.S_ISREG(os.fstat(fd).st_mode) else 0, keep=keep)


def _open(path: str, mode: int = 0o640) -> int:
    # O_NONBLOCK: a FIFO without a reader is refused at once instead of standing still; a file does not care
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, mode)


def _is_at(path: str, ours: os.stat_result) -> bool:
    """Whether a file still has its name.

    Raises:
        OSError: the name is a symbolic link: renaming that would leave the file, and perhaps take somebody else's name away.
    """
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(there.st_mode):
        raise OSError("it is a symbolic link; configure the name of the file itself")
    return os.path.samestat(there, ours)


def _shift(path: str, keep: int) -> None:
    """Renames a file to its first number, the older ones to the next. Numbers move no further than to the first that is free."""
    if keep < 1:
        os.unlink(path)  # noqa: PTH108 -- paths are str throughout; pathlib adds nothing
        return
    last = next((number for number in range(1, keep) if not os.path.lexists(f"{path}.{number}")), keep)
    for number in range(last, 1, -1):
        os.replace(f"{path}.{number - 1}", f"{path}.{number}")  # noqa: PTH105 -- as above
    os.replace(path, f"{path}.1")  # noqa: PTH105 -- as above


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll(1_000)

"""The log writer: nothing is lost in order, nothing blocks, nothing grows without bound."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from flui.telemetry.logwriter import BATCH_OCTETS, LogWriter, open_log


def _drain(fd: int, octets: int) -> bytes:
    got = b""
    while len(got) < octets:
        chunk = os.read(fd, 65_536)
        assert chunk
        got += chunk
    return got


def test_every_line_arrives_once_and_in_order(tmp_path: Path) -> None:
    writer = open_log(str(tmp_path / "access.log"))
    assert writer is not None
    lines = [b"line %d\n" % number for number in range(1_000)]
    for line in lines:
        writer.write(line)
    assert writer.close(10)
    assert (tmp_path / "access.log").read_bytes() == b"".join(lines)
    assert writer.dropped == 0
    assert writer.pending == 0


def test_a_quiet_log_is_written_on_kick() -> None:
    reader, fd = os.pipe()
    writer = LogWriter(fd)
    writer.write(b"only one\n")
    writer.kick()
    assert _drain(reader, 9) == b"only one\n"
    assert writer.close(10)
    os.close(reader)
    os.close(fd)


def test_a_full_batch_needs_no_kick() -> None:
    reader, fd = os.pipe()
    writer = LogWriter(fd)
    for _ in range(BATCH_OCTETS // 2):
        writer.write(b"x\n")
    assert _drain(reader, BATCH_OCTETS) == b"x\n" * (BATCH_OCTETS // 2)
    assert writer.close(10)
    os.close(reader)
    os.close(fd)


def test_a_pipe_that_nobody_reads_never_blocks_and_lines_past_the_limit_are_counted() -> None:
    reader, fd = os.pipe()
    writer = LogWriter(fd, limit=200_000)
    line = b"y" * 999 + b"\n"
    for _ in range(1_024):
        writer.write(line)
    # a pipe holds 64 KiB; what was handed over is bounded, and the rest was given up
    assert writer.pending <= 200_000
    assert writer.dropped >= 1_024 - 200 - 66 - BATCH_OCTETS // 1_000 - 1
    assert not writer.flush(0.01)
    kept = 1_024 - writer.dropped
    assert _drain(reader, kept * 1_000) == line * kept
    assert writer.close(10)
    assert writer.pending == 0
    os.close(reader)
    os.close(fd)


def test_a_pipe_made_non_blocking_by_someone_else_is_waited_for() -> None:
    reader, fd = os.pipe()
    os.set_blocking(fd, False)
    writer = LogWriter(fd)
    big = b"z" * 299_999 + b"\n"
    writer.write(big)
    writer.kick()
    assert _drain(reader, len(big)) == big
    assert writer.close(10)
    assert writer.dropped == 0
    os.close(reader)
    os.close(fd)


def test_a_closed_pipe_costs_lines_and_nothing_else() -> None:
    reader, fd = os.pipe()
    os.close(reader)
    writer = LogWriter(fd)
    writer.write(b"one\n")
    writer.write(b"two\n")
    assert writer.close(10)
    assert writer.dropped == 2
    assert "pipe" in writer.failure.lower()
    os.close(fd)


def test_a_line_torn_by_a_failure_does_not_join_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle of a line, and has room again later."""
    real = os.write
    steps = iter(["half", "full", "full"])

    def failing(fd: int, octets: bytes) -> int:
        if threading.current_thread().name != "flui-log":
            return real(fd, octets)
        match next(steps, "write"):
            case "half":
                return real(fd, octets[: len(octets) // 2])
            case "full":
                raise OSError(28, "No space left on device")
        return real(fd, octets)

    monkeypatch.setattr(os, "write", failing)
    writer = open_log(str(tmp_path / "log"))
    assert writer is not None
    for line in (b"first line\n", b"second line\n", b"third line\n"):
        writer.write(line)
        assert writer.flush(10)
    assert writer.dropped == 2
    assert writer.failure == ""
    assert writer.close(10)
    assert (tmp_path / "log").read_bytes() == b"first\nthird line\n"


def test_after_reopening_lines_go_to_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    writer = open_log(str(path))
    assert writer is not None
    writer.write(b"before\n")
    assert writer.flush(10)
    path.rename(tmp_path / "access.log.1")
    writer.write(b"still the old one\n")
    writer.reopen()
    writer.write(b"after\n")
    assert writer.close(10)
    assert (tmp_path / "access.log.1").read_bytes() == b"before\nstill the old one\n"
    assert path.read_bytes() == b"after\n"
    assert path.stat().st_mode & 0o777 <= 0o640


def test_a_reopening_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    writer = open_log(str(folder / "log"))
    assert writer is not None
    moved = tmp_path / "moved"
    folder.rename(moved)
    writer.reopen()
    assert writer.flush(10)
    assert "log" in writer.failure
    writer.write(b"kept\n")
    assert writer.close(10)
    assert (moved / "log").read_bytes() == b"kept\n"


def test_an_existing_log_is_appended_to(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"old\n")
    writer = open_log(str(tmp_path / "log"))
    assert writer is not None
    writer.write(b"new\n")
    assert writer.close(10)
    assert (tmp_path / "log").read_bytes() == b"old\nnew\n"


def test_off_is_no_writer_and_a_bad_path_is_an_error_at_once(tmp_path: Path) -> None:
    assert open_log("off") is None
    with pytest.raises(OSError):
        open_log(str(tmp_path / "missing" / "log"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError):
        open_log(str(tmp_path / "fifo"))

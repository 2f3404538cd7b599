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


def _numbered(count: int, of: int = 0) -> list[bytes]:
    return [b"line %05d\n" % number for number in range(of, of + count)]


def _rotating(path: Path, octets: int, keep: int = 5) -> LogWriter:
    writer = open_log(str(path), octets, keep)
    assert writer is not None
    return writer


def _say(writer: LogWriter, lines: list[bytes]) -> None:
    for line in lines:
        writer.write(line)
    assert writer.flush(10)


def test_a_file_past_its_size_is_renamed_and_no_line_is_torn_or_lost(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    writer = _rotating(path, 1_000, keep=1_000)
    lines = _numbered(3_000)
    for at in range(0, 3_000, 37):
        _say(writer, lines[at : at + 37])
    assert writer.close(10)
    files = sorted(tmp_path.iterdir(), key=lambda file: int(file.suffix[1:]) if file.suffix != ".log" else 0, reverse=True)
    assert len(files) == writer.rotations + 1 > 20
    assert b"".join(file.read_bytes() for file in files) == b"".join(lines)
    for file in files[:-1]:
        octets = file.read_bytes()
        assert octets.endswith(b"\n")
        assert 1_000 < len(octets) <= 1_000 + 37 * 11
    assert (writer.dropped, writer.rotations_failed, writer.news()) == (0, 0, "")


def test_only_so_many_are_kept_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = _rotating(path, 100, keep=3)
    for at in range(0, 70, 10):
        _say(writer, _numbered(10, at))
    assert writer.close(10)
    said = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert said == {
        "log.3": b"".join(_numbered(10, 30)),
        "log.2": b"".join(_numbered(10, 40)),
        "log.1": b"".join(_numbered(10, 50)),
        "log": b"".join(_numbered(10, 60)),
    }


def test_none_kept_means_none(tmp_path: Path) -> None:
    writer = _rotating(tmp_path / "log", 100, keep=0)
    _say(writer, _numbered(10))
    _say(writer, _numbered(1))
    assert writer.close(10)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"line 00000\n"]


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o644])
def test_a_new_file_has_the_mode_of_the_old_one_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "log"
    writer = _rotating(path, 100)
    path.chmod(mode)
    before = os.umask(0o077)
    try:
        _say(writer, _numbered(10))
        _say(writer, _numbered(10))
    finally:
        os.umask(before)
    assert writer.close(10)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {"log": mode, "log.1": mode}


def test_a_larger_file_that_was_there_is_renamed_before_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 200 + b"\n")
    writer = _rotating(path, 100)
    _say(writer, _numbered(1))
    assert writer.close(10)
    assert (tmp_path / "log.1").read_bytes() == b"x" * 200 + b"\n"
    assert path.read_bytes() == b"line 00000\n"


def test_a_file_that_others_have_renamed_is_begun_anew_and_theirs_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = _rotating(path, 100)
    _say(writer, _numbered(10))
    path.rename(tmp_path / "theirs")
    _say(writer, _numbered(1, 10))
    assert writer.close(10)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "theirs": b"".join(_numbered(10)),
        "log": b"line 00010\n",
    }


def test_a_file_that_others_have_put_in_its_place_is_written_to_and_not_renamed(tmp_path: Path) -> None:
    """`logrotate` with `create`, before it tells us."""
    path = tmp_path / "log"
    writer = _rotating(path, 100)
    _say(writer, _numbered(10))
    path.rename(tmp_path / "theirs")
    path.touch()
    _say(writer, _numbered(1, 10))
    assert writer.close(10)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "theirs": b"".join(_numbered(10)),
        "log": b"line 00010\n",
    }


def test_opening_anew_on_demand_works_beside_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = _rotating(path, 100)
    _say(writer, _numbered(10))
    path.rename(tmp_path / "moved")
    writer.reopen()
    _say(writer, _numbered(10, 10))
    _say(writer, _numbered(1, 20))
    assert writer.close(10)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "moved": b"".join(_numbered(10)),
        "log.1": b"".join(_numbered(10, 10)),
        "log": b"line 00020\n",
    }
    assert writer.rotations == 1


def test_what_cannot_be_renamed_is_written_on_counted_and_told_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    (tmp_path / "log.1" / "in the way").mkdir(parents=True)
    writer = _rotating(path, 100, keep=1)
    for at in range(0, 100, 5):
        _say(writer, _numbered(5, at))
    # tried when the file was past 100, then once for each 100 octets more
    assert 5 <= writer.rotations_failed <= 11
    news = writer.news()
    assert news.startswith(f"{path} cannot be rotated: ")
    assert writer.news() == ""
    assert writer.dropped == 0
    assert path.read_bytes() == b"".join(_numbered(100))
    (tmp_path / "log.1" / "in the way").rmdir()
    (tmp_path / "log.1").rmdir()
    for at in range(100, 110, 5):
        _say(writer, _numbered(5, at))
    assert writer.rotations == 1
    assert writer.news() == ""
    assert writer.close(10)
    assert (tmp_path / "log.1").read_bytes() + path.read_bytes() == b"".join(_numbered(110))


def test_failed_attempts_do_not_push_old_files_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    for number in (1, 2, 3):
        (tmp_path / f"log.{number}").write_bytes(b"old %d\n" % number)
    real = os.replace

    def refusing(source: str, target: str) -> None:
        if source == str(path):
            raise PermissionError(1, "Operation not permitted")
        real(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    writer = _rotating(path, 100, keep=5)
    for at in range(0, 100, 5):
        _say(writer, _numbered(5, at))
    assert writer.rotations_failed > 4
    assert writer.close(10)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file != path} == {
        f"log.{number + 1}": b"old %d\n" % number for number in (1, 2, 3)
    }


def test_a_new_file_that_cannot_be_made_costs_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room for another file: the renamed one is still open."""
    path = tmp_path / "log"
    writer = _rotating(path, 100)
    real = os.open

    def full(*arguments: object, **named: object) -> int:
        raise OSError(28, "No space left on device")

    _say(writer, _numbered(10))
    monkeypatch.setattr(os, "open", full)
    _say(writer, _numbered(10, 10))
    monkeypatch.setattr(os, "open", real)
    assert writer.news() == f"{path} cannot be rotated: No space left on device"
    _say(writer, _numbered(5, 20))
    _say(writer, _numbered(5, 25))
    assert writer.close(10)
    assert (tmp_path / "log.1").read_bytes() + path.read_bytes() == b"".join(_numbered(30))
    assert (writer.dropped, writer.rotations, writer.rotations_failed) == (0, 1, 1)


def test_a_full_disk_is_told_once_and_again_after_it_had_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_log(str(tmp_path / "log"))
    assert writer is not None
    real = os.write

    def full(fd: int, octets: bytes) -> int:
        raise OSError(28, "No space left on device")

    told = []
    for broken in (True, True, False, True):
        monkeypatch.setattr(os, "write", full if broken else real)
        _say(writer, _numbered(1))
        told.append(writer.news())
    monkeypatch.setattr(os, "write", real)
    assert told == ["No space left on device", "", "", "No space left on device"]
    assert writer.dropped == 3
    assert writer.close(10)


def test_a_symbolic_link_is_not_renamed(tmp_path: Path) -> None:
    """`/dev/stdout` is one."""
    (tmp_path / "log").symlink_to(tmp_path / "real")
    writer = _rotating(tmp_path / "log", 100)
    for at in range(0, 40, 10):
        _say(writer, _numbered(10, at))
    assert writer.close(10)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "real"]
    assert (tmp_path / "real").read_bytes() == b"".join(_numbered(40))
    assert "symbolic link" in writer.news()


def test_a_torn_line_stays_in_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    steps = iter(["half", "full"])

    def failing(fd: int, octets: bytes) -> int:
        match next(steps, "write"):
            case "half":
                return real(fd, octets[: len(octets) // 2])
            case "full":
                raise OSError(28, "No space left on device")
        return real(fd, octets)

    path = tmp_path / "log"
    path.write_bytes(b"x" * 98 + b"\n")
    writer = _rotating(path, 100)
    monkeypatch.setattr(os, "write", failing)
    _say(writer, [b"first line\n"])
    _say(writer, [b"second line\n"])
    monkeypatch.setattr(os, "write", real)
    assert writer.close(10)
    assert (tmp_path / "log.1").read_bytes().endswith(b"\nfirst")
    assert path.read_bytes() == b"second line\n"
    assert writer.dropped == 1


def test_what_is_no_file_is_never_rotated(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = _rotating(tmp_path / "fifo", 10)
    _say(writer, _numbered(3))
    _say(writer, _numbered(3))
    assert writer.close(10)
    assert _drain(reader, 66) == b"".join(_numbered(3)) * 2
    os.close(reader)
    assert [file.name for file in tmp_path.iterdir()] == ["fifo"]

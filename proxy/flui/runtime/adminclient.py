"""Reads admin APIs of sidecars on this machine, blocking: for commands, never for a sidecar.

What is read may hold what a peer made up: `clean` takes everything from a text that could drive the terminal it is shown on.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import stat
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from flui.model.units import MIB

FOLDER: Final = Path("/tmp")  # noqa: S108 -- where sidecars put their sockets by default; only those of our own user are picked by themselves
"""Where sidecars put their sockets by default."""
TIMEOUT_S: Final = 5.0
"""Longest silence of a sidecar that is asked."""

_BODY_LIMIT: Final = 64 * MIB
_SERVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# a value must not drive the terminal it is shown on
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class NoAnswerError(Exception):
    """Nobody answered; its text says who and why, for people."""


class Answer(NamedTuple):
    """What a sidecar answered."""

    status: int
    content_type: str
    """Without parameters."""
    body: bytes


def get(where: str, path: str) -> Answer:
    """Asks one question.

    Args:
        where: a Unix socket path, or HOST:PORT.
        path: with its query.

    Raises:
        NoAnswerError: nobody listens, or what came is not an answer.
        ValueError: `where` is neither.
    """
    connection = connect(where)
    try:
        connection.request("GET", quote(path, safe="/?=&%+,:;@!$'()*~-._"))
        response = connection.getresponse()
        return Answer(response.status, response.headers.get_content_type(), response.read(_BODY_LIMIT))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoAnswerError(f"nobody listens on {where}; is the sidecar running?") from error
    except TimeoutError as error:
        raise NoAnswerError(f"{where} did not answer within {TIMEOUT_S:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswerError(f"{where}: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()


def connect(where: str) -> http.client.HTTPConnection:
    """A connection, not yet open, for one question and one answer.

    Raises:
        ValueError: `where` is neither a Unix socket path nor HOST:PORT.
    """
    if "/" in where:
        return _UnixConnection(where)
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{where!r} is neither a path nor HOST:PORT")
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT_S)


def socket_of(service: str, folder: Path = FOLDER) -> str:
    """Where the sidecar of a service puts its socket by default.

    Raises:
        ValueError: no service is called so.
    """
    if not _SERVICE.fullmatch(service):
        raise ValueError(f"{service!r} is not a service's name")
    return str(folder / f"flui-{service}.sock")


def sockets(folder: Path = FOLDER, pattern: str = "flui-*.sock") -> list[str]:
    """Sockets in a folder that belong to this user or to root, sorted: anyone may put one into a shared folder."""
    return sorted(str(path) for path in folder.glob(pattern) if _is_ours(path))


def clean(text: str) -> str:
    """`text` with the codes of control characters, and of those that turn the writing direction, in their place."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _is_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid in (os.getuid(), 0)

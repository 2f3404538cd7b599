"""The journal: what the operator is told about the sidecar itself, one event a line, on standard error.

JSON for machines; on a terminal the same, in colour, for people. Values are cut to 2 KiB and cannot break their line or
drive the terminal (threats G7); what looks like a secret is left out. One event name may speak 20 times a second: then
one line says how many were left out.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from flui.telemetry.accesslog import FIELD_LIMIT
from flui.telemetry.logwriter import LogWriter

Scalar = str | int | float | bool | None

PER_SECOND: Final = 20
"""Lines of one event name and level within a second."""

REDACTED: Final = "[redacted]"

_SECRET_NAME: Final = re.compile(
    r"(?:^|[_.-])(?:pass(?:word|wd|phrase)?|secrets?|tokens?|credentials?|authorization|cookies?|api[_-]?key|private[_-]?key)$",
    re.IGNORECASE,
)
_SECRET_VALUE: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"  # PEM
    r"|(?:^|\s)(?:bearer|basic)\s+\S"  # an Authorization value
    r"|\beyJ[\w-]{5,}\.eyJ[\w-]{5,}\."  # a JSON Web Token
    r"|://[^/\s@]*:[^/\s@]*@",  # userinfo in a URL
    re.IGNORECASE,
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_COLOURS: Final = {"info": "32", "warn": "33", "error": "31"}


class _Window:
    """What one event name said in the current second."""

    __slots__ = ("left_out", "said", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.said = 0
        self.left_out = 0


class Journal:
    """Writes operator events.

    Args:
        writer: where lines go, most often standard error's; each line is handed over at once, so it never waits for a batch.
        clock: gives Unix seconds.
        human: coloured text instead of JSON (`is_terminal`).
        service: named in every line.
    """

    __slots__ = ("_clock", "_human", "_service", "_windows", "_writer")

    def __init__(self, writer: LogWriter, clock: Callable[[], float], *, human: bool = False, service: str = "") -> None:
        self._writer = writer
        self._clock = clock
        self._human = human
        self._service = service
        self._windows: dict[tuple[str, str], _Window] = {}

    def info(self, event: str, **members: Scalar) -> None:
        """Something went as it should. `event` is a fixed text in our words; what varies goes into members."""
        self._say("info", event, members)

    def warn(self, event: str, **members: Scalar) -> None:
        """Something is wrong and the sidecar goes on as before."""
        self._say("warn", event, members)

    def error(self, event: str, **members: Scalar) -> None:
        """Something does not work until somebody acts."""
        self._say("error", event, members)

    def tick(self) -> None:
        """Says how many lines were left out in seconds that are over. The owner calls it on a timer and before it ends."""
        now = self._clock()
        for (level, event), window in list(self._windows.items()):
            if not 0 <= now - window.since < 1:
                del self._windows[level, event]
                if window.left_out:
                    self._write(now, level, "lines left out", {"of": event, "count": window.left_out})

    def _say(self, level: str, event: str, members: dict[str, Scalar]) -> None:
        now = self._clock()
        window = self._windows.get((level, event))
        # a clock that was set back also begins a new second
        if window is not None and not 0 <= now - window.since < 1:
            self.tick()
            window = None
        if window is None:
            window = self._windows[level, event] = _Window(now)
        if window.said >= PER_SECOND:
            window.left_out += 1
            return
        window.said += 1
        self._write(now, level, event, members)

    def _write(self, now: float, level: str, event: str, members: dict[str, Scalar]) -> None:
        shown = {name: _shown(name, value) for name, value in members.items()}
        line = _human(now, level, event, shown) if self._human else _json(now, level, event, self._service, shown)
        self._writer.write(line)
        self._writer.kick()


def is_terminal(fd: int = 2) -> bool:
    """True when people look at `fd`, and did not ask for plain text (`NO_COLOR`)."""
    return os.isatty(fd) and not os.environ.get("NO_COLOR")


def is_secret(name: str, value: object) -> bool:
    """True when `name` names a secret or `value` looks like one: a private key, an authorization, a token, a URL with a password."""
    if value is None or isinstance(value, bool):
        return False
    return bool(_SECRET_NAME.search(name)) or (isinstance(value, str) and bool(_SECRET_VALUE.search(value)))


def _shown(name: str, value: Scalar) -> Scalar:
    if is_secret(name, value):
        return REDACTED
    return value if not isinstance(value, str) or len(value) <= FIELD_LIMIT else value[: FIELD_LIMIT - 3] + "..."


def _json(now: float, level: str, event: str, service: str, members: dict[str, Scalar]) -> bytes:
    record: dict[str, Scalar] = {"time": _stamp(now), "level": level, "event": event}
    if service:
        record["service"] = service
    for name, value in members.items():
        record[f"{name}_" if name in record else name] = value
    # ASCII escapes: no octet of a value can end the line or be read as another encoding; NaN is not JSON
    return json.dumps(_finite(record), separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _finite(record: dict[str, Scalar]) -> dict[str, Scalar]:
    return {name: str(value) if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()}


def _human(now: float, level: str, event: str, members: dict[str, Scalar]) -> bytes:
    told = "".join(f"  \x1b[2m{name}=\x1b[0m{_printable(value)}" for name, value in members.items())
    return f"\x1b[2m{_stamp(now)[11:19]}\x1b[0m \x1b[{_COLOURS[level]}m{level:5}\x1b[0m {event}{told}\n".encode("utf-8", "backslashreplace")


def _printable(value: Scalar) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

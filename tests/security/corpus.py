"""Reads the cases in `corpus/` (its README says what they hold)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
HOSTILE = "hostile_upstream"


@dataclass(frozen=True)
class Case:
    """A request-smuggling shape and how it must end."""

    family: str
    name: str
    send: bytes
    statuses: tuple[int, ...]
    requests: tuple[bytes, ...]
    bodies: tuple[bytes, ...] | None
    cut: int
    closes: bool
    eof: bool
    absent: tuple[bytes, ...]
    only_ours: tuple[bytes, ...]
    present: tuple[bytes, ...]
    trailers: tuple[bytes, ...]
    listener: str
    threats: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.family}: {self.name}"


@dataclass(frozen=True)
class Hostile:
    """What a hostile upstream says, and what the caller may get of it."""

    name: str
    method: bytes
    reply: bytes
    ends: bool
    status: int
    body: bytes | None
    whole: bool
    interim: int
    reusable: bool

    def __str__(self) -> str:
        return self.name


_KEYS = set(Case.__annotations__) - {"family"}
_HOSTILE_KEYS = set(Hostile.__annotations__)


def octets(text: object) -> bytes:
    """A text, or a list of texts and `{text, times}`, as octets."""
    if isinstance(text, str):
        return text.encode("latin-1")
    if isinstance(text, dict):
        return octets(text["text"]) * text["times"]
    assert isinstance(text, list)
    return b"".join(octets(part) for part in text)


def _all(texts: list[str]) -> tuple[bytes, ...]:
    return tuple(octets(text) for text in texts)


def cases() -> list[Case]:
    """Every case, in the order of files and of lines."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        if path.stem == HOSTILE:
            continue
        tree = tomllib.loads(path.read_text())
        for row in tree["case"]:
            assert set(row) <= _KEYS, (path.name, row["name"], set(row) - _KEYS)
            statuses = tuple(row["statuses"])
            last = statuses[-1] if statuses else 0
            found.append(
                Case(
                    family=path.stem,
                    name=row["name"],
                    send=octets(row["send"]),
                    statuses=statuses,
                    requests=_all(row.get("requests", [])),
                    bodies=_all(row["bodies"]) if "bodies" in row else None,
                    cut=row.get("cut", 0),
                    closes=row.get("closes", not 200 <= last < 300 and last not in {403, 404}),
                    eof=row.get("eof", False),
                    absent=_all(row.get("absent", [])),
                    only_ours=_all(row.get("only_ours", [])),
                    present=_all(row.get("present", [])),
                    trailers=_all(row.get("trailers", [])),
                    listener=row.get("listener", ""),
                    threats=tuple(row.get("threats", tree["threats"])),
                )
            )
    return found


def hostile() -> list[Hostile]:
    """What hostile upstreams say."""
    found = []
    for row in tomllib.loads((FOLDER / f"{HOSTILE}.toml").read_text())["case"]:
        assert set(row) <= _HOSTILE_KEYS, (row["name"], set(row) - _HOSTILE_KEYS)
        found.append(
            Hostile(
                name=row["name"],
                method=octets(row.get("method", "GET")),
                reply=octets(row["reply"]),
                ends=row.get("ends", False),
                status=row["status"],
                body=octets(row["body"]) if "body" in row else None,
                whole=row.get("whole", True),
                interim=row.get("interim", 0),
                reusable=row.get("reusable", False),
            )
        )
    return found

"""Timestamps, durations and field masks as the strings they are in JSON (ProtoJSON, "Well-known types"), both ways."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from flui.translate.schema import Unfit
from flui.translate.wire import Malformed

_RFC3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)
_SECONDS: Final = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,9}))?s")

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - in UTC throughout; a zone would cost and say nothing
_EPOCH_DAY: Final = 719_163
"""`date.toordinal` of it."""
_FIRST: Final = -62_135_596_800
"""0001-01-01T00:00:00Z."""
_LAST: Final = 253_402_300_799
"""9999-12-31T23:59:59Z."""
_LONGEST: Final = 315_576_000_000
"""Seconds of a duration: about 10,000 years."""


def timestamp_of(text: object) -> tuple[int, int]:
    """Seconds since 1970 and nanoseconds of an RFC 3339 time.

    Raises:
        Unfit: It is none, or not within the years 1 to 9999 of UTC.
    """
    found = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise Unfit("", 'a time such as "2024-05-17T08:30:00Z" is expected')
    year, month, day, hour, minute, second, fraction, sign, ahead_h, ahead_m = found.groups()
    try:
        when = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second))  # noqa: DTZ001 - as above
    except ValueError:
        raise Unfit("", "there is no such time") from None
    seconds = (when.toordinal() - _EPOCH_DAY) * 86_400 + when.hour * 3600 + when.minute * 60 + when.second
    if sign:
        hours, minutes = int(ahead_h), int(ahead_m)
        if hours > 23 or minutes > 59:
            raise Unfit("", "there is no such offset from UTC")
        ahead = hours * 3600 + minutes * 60
        seconds += ahead if sign == "-" else -ahead
        if not _FIRST <= seconds <= _LAST:
            raise Unfit("", "a time is within the years 0001 to 9999")
    return seconds, _nanos_of(fraction)


def timestamp_text(seconds: int, nanos: int) -> str:
    """RFC 3339 time, in quotes.

    Raises:
        Malformed: It is not within the years 1 to 9999.
    """
    if not (_FIRST <= seconds <= _LAST and 0 <= nanos <= 999_999_999):
        raise Malformed("a timestamp is out of range")
    return f'"{(_EPOCH + timedelta(seconds=seconds)).isoformat()}{_fraction(nanos)}Z"'


def duration_of(text: object) -> tuple[int, int]:
    """Seconds and nanoseconds, of the same sign, of a text such as `-1.5s`.

    Raises:
        Unfit: It is none, or longer than 315,576,000,000 seconds.
    """
    found = _SECONDS.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise Unfit("", 'a duration such as "1.5s" is expected')
    sign, whole, fraction = found.groups()
    seconds, nanos = int(whole), _nanos_of(fraction)
    if seconds > _LONGEST:
        raise Unfit("", f"a duration is at most {_LONGEST} seconds")
    return (-seconds, -nanos) if sign else (seconds, nanos)


def duration_text(seconds: int, nanos: int) -> str:
    """Duration, in quotes.

    Raises:
        Malformed: It is out of range, or its signs differ.
    """
    if not (-_LONGEST <= seconds <= _LONGEST and -999_999_999 <= nanos <= 999_999_999) or seconds * nanos < 0:
        raise Malformed("a duration is out of range")
    sign = "-" if seconds < 0 or nanos < 0 else ""
    return f'"{sign}{abs(seconds)}{_fraction(abs(nanos))}s"'


def _nanos_of(fraction: str | None) -> int:
    return int(fraction) * 10 ** (9 - len(fraction)) if fraction else 0


def _fraction(nanos: int) -> str:
    """With its point: none, three, six or nine digits."""
    if not nanos:
        return ""
    digits = f"{nanos:09d}"
    if digits.endswith("000000"):
        return f".{digits[:3]}"
    return f".{digits[:6]}" if digits.endswith("000") else f".{digits}"


def mask_of(text: object) -> list[str]:
    """Paths of a field mask, in `snake_case`, of a text such as `user.displayName,photo`.

    Raises:
        Unfit: It is no string, or holds an underscore.
    """
    if not isinstance(text, str):
        raise Unfit("", 'a field mask such as "user.displayName,photo" is expected')
    if "_" in text:
        raise Unfit("", "a field mask is written in camelCase; it holds no underscore")
    if not text:
        return []
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in text).split(",")


def mask_text(paths: list[str]) -> str:
    """Paths in `camelCase`, joined; not quoted.

    Raises:
        Malformed: A path would not be the same when read again.
    """
    return ",".join([_camel(path) for path in paths])


def _camel(path: str) -> str:
    made: list[str] = []
    after = False
    for c in path:
        if c.isupper() or (after and not c.islower()):
            raise Malformed("a path of a field mask cannot be said in JSON")
        if c == "_":
            after = True
        else:
            made.append(c.upper() if after else c)
            after = False
    if after:
        raise Malformed("a path of a field mask cannot be said in JSON")
    return "".join(made)

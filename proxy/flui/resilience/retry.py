"""What becomes of a failed try: it is sent again only if that cannot do its work twice, and helps (threats H1, H2).

Pure rules. The budget is asked afterwards (`budget.RetryBudget`): a verdict says what may be tried again, the budget whether
there is room for it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from random import Random
from typing import Final, NamedTuple

from flui.codecs.grpc import pushback
from flui.model.fields import Field
from flui.model.resilience import IDEMPOTENT, Retry

UNSENT: Final = "unsent"
"""Again: the try provably never reached the module."""
STATUS: Final = "status"
"""Again: its status counts as a failed try."""
LOST: Final = "lost"
"""Again: it broke off or took too long before an answer's head."""
ANSWER: Final = "answer"
"""Final: its status is an answer, not a failure."""
SHED: Final = "shed"
"""Final: the answer says that there is too much to do already."""
NESTED: Final = "nested"
"""Final: the caller retries itself."""
NOT_REPEATABLE: Final = "not_repeatable"
"""Final: its work might be done twice."""
BODY: Final = "body"
"""Final: the request's body was too long to be kept."""
ATTEMPTS: Final = "attempts"
"""Final: it was tried as often as the route says."""
RETRY_AFTER: Final = "retry_after"
"""Final: the last endpoint asks for a longer pause than the route waits."""
DEADLINE: Final = "deadline"
"""Final: nothing would be left of its time."""

WHYS: Final = (UNSENT, STATUS, LOST, ANSWER, SHED, NESTED, NOT_REPEATABLE, BODY, ATTEMPTS, RETRY_AFTER, DEADLINE)
"""Every reason that `verdict` gives."""

NO_OTHER: Final = float("inf")
"""A pause without end: see `asked_pause`."""

_LEAST_LEFT_S: Final = 0.001
"""A try that would begin with less before its deadline is not begun."""
_MOST_DOUBLINGS: Final = 30
_LONGEST_S: Final = 2.0**31
"""What a number of seconds with more than ten digits counts as (RFC 9111 1.2.2)."""


class Verdict(NamedTuple):
    """What becomes of a failed try."""

    again: bool
    wait_s: float
    """Pause before the next try; 0.0 when there is none."""
    why: str
    """One of `WHYS`."""
    counts: bool
    """The failed try is one of the route's `attempts`. One that was proven unsent while another endpoint is left is not."""


def may_repeat(method: bytes, has_key: bool) -> bool:
    """Whether a request may be sent again although it might have been served already (RFC 9110 9.2.2).

    Args:
        method: As on the wire.
        has_key: It carries an `idempotency-key`.
    """
    return has_key or method in IDEMPOTENT


def backoff(rules: Retry, tries: int, random: Random) -> float:
    """Seconds before the next try: anything from none to a bound that doubles with each try (full jitter).

    Args:
        rules: Say the first bound and the last.
        tries: Number of the try that failed, from 1.
        random: Source of chance.
    """
    bound = rules.backoff_s * float(1 << min(max(tries - 1, 0), _MOST_DOUBLINGS))
    return random.random() * min(bound, rules.backoff_max_s)


def verdict(
    rules: Retry,
    tries: int,
    random: Random,
    *,
    repeatable: bool,
    unsent: bool,
    status: int,
    shed: bool,
    after_s: float | None,
    left_s: float,
    others: bool,
    said: int,
    held: bool,
    grpc: int = -1,
) -> Verdict:
    """Says what becomes of a try that failed, or whose answer's head has come.

    Args:
        rules: The route's.
        tries: Number of the try from 1. Earlier ones that did not count (`Verdict.counts`) are left out.
        random: Source of chance.
        repeatable: See `may_repeat`.
        unsent: The module provably saw nothing of it: no connection, a refused stream.
        status: Of the answer; 0 when there is none.
        shed: The answer says that it was shed.
        after_s: What the answer's `retry-after` says, see `retry_after`.
        left_s: Until the request's deadline; `inf` without one.
        others: An endpoint that was not tried for this request is left.
        said: The attempt that the caller says this request is, from 1. Above 1 somebody before us retries already.
        held: The whole body that was read is still held.
        grpc: What a gRPC call ended with, and then `status` is 0; below 0: it is no call, or has no end yet.
    """
    counts = not (unsent and others)
    if (status and status not in rules.statuses) or (grpc >= 0 and grpc not in rules.grpc_statuses):
        return Verdict(False, 0.0, ANSWER, counts)
    if shed:
        return Verdict(False, 0.0, SHED, counts)
    if not unsent:
        if said > 1:
            return Verdict(False, 0.0, NESTED, counts)
        if not repeatable:
            return Verdict(False, 0.0, NOT_REPEATABLE, counts)
    if not held:
        return Verdict(False, 0.0, BODY, counts)
    wait_s = 0.0
    if counts:
        if tries >= rules.attempts:
            return Verdict(False, 0.0, ATTEMPTS, counts)
        wait_s = backoff(rules, tries, random)
        # It speaks for the endpoint that said it: another one may well be free.
        if after_s is not None and not others:
            if after_s > rules.after_s:
                return Verdict(False, 0.0, RETRY_AFTER, counts)
            wait_s = max(wait_s, after_s)
    if left_s - wait_s < _LEAST_LEFT_S:
        return Verdict(False, 0.0, DEADLINE, counts)
    return Verdict(True, wait_s, UNSENT if unsent else STATUS if status or grpc >= 0 else LOST, counts)


_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_MONTH: Final = rb"(?P<month>" + b"|".join(_MONTHS) + rb")"
_TIME: Final = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_SHORT_DAY: Final = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY: Final = rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"

# RFC 9110 5.6.7: the one form that is written, and two obsolete ones that must be read.
_DATES: Final = (
    re.compile(_SHORT_DAY + rb", (?P<day>\d\d) " + _MONTH + rb" (?P<year>\d{4}) " + _TIME + rb" GMT"),
    re.compile(_LONG_DAY + rb", (?P<day>\d\d)-" + _MONTH + rb"-(?P<year>\d\d) " + _TIME + rb" GMT"),
    re.compile(_SHORT_DAY + rb" " + _MONTH + rb" (?P<day>\d\d| \d) " + _TIME + rb" (?P<year>\d{4})"),
)


def asked_pause(fields: list[Field], unix_now: float) -> float | None:
    """The pause that an answer asks for, in seconds: its `retry-after`, or its `grpc-retry-pushback-ms` (gRPC A6).

    Returns:
        None when it asks for none; `NO_OTHER` when it asks for no other try, by anyone.
    """
    after: float | None = None
    for field in fields:
        if field.name == b"retry-after":
            after = retry_after(field.value, unix_now)
        elif field.name == b"grpc-retry-pushback-ms":
            wait_s = pushback(field.value)
            return NO_OTHER if wait_s is None else wait_s
    return after


def retry_after(value: bytes, unix_now: float) -> float | None:
    """Reads a `retry-after` field (RFC 9110 10.2.3).

    Args:
        value: Its value: seconds, or a date in one of the three forms of HTTP.
        unix_now: Seconds since 1970, which dates are measured from.

    Returns:
        Seconds from now, never negative; None when it is malformed.
    """
    value = value.strip(b" \t")
    if value.isdigit():
        return float(value) if len(value) <= 10 else _LONGEST_S
    for form in _DATES:
        found = form.fullmatch(value)
        if found is not None:
            break
    else:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:
        year = _full_year(year, unix_now)
    second = int(found["second"])
    try:
        # A leap second is the last one twice; datetime knows none.
        at = datetime(
            year,
            _MONTHS.index(found["month"]) + 1,
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            59 if second == 60 else second,
            tzinfo=UTC,
        )
    except ValueError:
        return None
    wait_s = at.timestamp() + (second == 60) - unix_now
    return wait_s if wait_s > 0.0 else 0.0


def _full_year(year: int, unix_now: float) -> int:
    """RFC 9110 5.6.7: what seems more than 50 years ahead is the most recent past year with these two digits."""
    this = datetime.fromtimestamp(unix_now, UTC).year
    full = this - this % 100 + year
    return full - 100 if full > this + 50 else full

"""What becomes of a failed try: threats H1 (storms) and H2 (work done twice)."""

from datetime import UTC, datetime
from email.utils import format_datetime
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.model.fields import field
from flui.model.resilience import Retry
from flui.resilience import retry
from flui.resilience.retry import NO_OTHER, Verdict, asked_pause, backoff, may_repeat, retry_after, verdict


def ask(
    rules: Retry = Retry(attempts=3),
    tries: int = 1,
    *,
    repeatable: bool = True,
    unsent: bool = False,
    status: int = 0,
    shed: bool = False,
    after_s: float | None = None,
    left_s: float = inf,
    others: bool = True,
    said: int = 1,
    held: bool = True,
    grpc: int = -1,
) -> Verdict:
    """A lost try of a request that may be repeated, unless told otherwise."""
    return verdict(
        rules,
        tries,
        Random(tries),
        repeatable=repeatable,
        unsent=unsent,
        status=status,
        shed=shed,
        after_s=after_s,
        left_s=left_s,
        others=others,
        said=said,
        held=held,
        grpc=grpc,
    )


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"])
def test_idempotent_methods_may_be_repeated(method: bytes) -> None:
    assert may_repeat(method, has_key=False)


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"CONNECT", b"get", b"PURGE", b""])
def test_others_only_with_an_idempotency_key(method: bytes) -> None:
    """RFC 9110 9.2.2; methods are case-sensitive."""
    assert not may_repeat(method, has_key=False)
    assert may_repeat(method, has_key=True)


def test_a_lost_try_is_tried_again_after_a_pause() -> None:
    found = ask()
    assert (found.again, found.why, found.counts) == (True, retry.LOST, True)
    assert 0.0 <= found.wait_s <= 0.025


def test_only_the_statuses_of_the_rule_are_failures() -> None:
    assert ask(status=503).why == retry.STATUS
    assert ask(status=500) == Verdict(False, 0.0, retry.ANSWER, True)
    assert ask(status=200).why == retry.ANSWER
    assert ask(Retry(attempts=3, statuses=(500,)), status=500).again


def test_a_shed_answer_is_never_tried_again() -> None:
    """H1: who has too much to do is not asked twice, not even elsewhere."""
    assert ask(status=503, shed=True) == Verdict(False, 0.0, retry.SHED, True)
    assert not ask(unsent=True, shed=True).again


def test_what_may_have_been_done_is_not_done_twice() -> None:
    """H2."""
    assert ask(repeatable=False) == Verdict(False, 0.0, retry.NOT_REPEATABLE, True)
    assert ask(repeatable=False, status=503).why == retry.NOT_REPEATABLE


def test_what_was_provably_not_sent_may_always_be_sent() -> None:
    assert ask(repeatable=False, unsent=True) == Verdict(True, 0.0, retry.UNSENT, False)


def test_an_unsent_try_does_not_count_while_another_endpoint_is_left() -> None:
    """Nor does it wait: the other one has done nothing wrong."""
    assert ask(Retry(attempts=1), tries=1, unsent=True) == Verdict(True, 0.0, retry.UNSENT, False)
    assert ask(Retry(attempts=1), tries=1, unsent=True, others=False) == Verdict(False, 0.0, retry.ATTEMPTS, True)
    again = ask(Retry(attempts=2), tries=1, unsent=True, others=False)
    assert again.again
    assert again.counts
    assert again.wait_s > 0.0


def test_attempts_are_tries_altogether() -> None:
    assert ask(Retry(attempts=3), tries=2).again
    assert ask(Retry(attempts=3), tries=3).why == retry.ATTEMPTS
    assert ask(Retry(attempts=1), tries=1).why == retry.ATTEMPTS


def test_retries_are_not_retried() -> None:
    """H1: with somebody before us retrying, three hops of three tries would be 27."""
    assert ask(said=2) == Verdict(False, 0.0, retry.NESTED, True)
    assert ask(said=2, status=503).why == retry.NESTED
    assert ask(said=2, unsent=True).again


def test_a_body_that_is_gone_is_not_sent_again() -> None:
    assert ask(held=False).why == retry.BODY
    assert ask(held=False, unsent=True).why == retry.BODY


def test_retry_after_speaks_for_the_endpoint_that_said_it() -> None:
    assert ask(status=503, after_s=60.0, others=True).wait_s <= 0.025
    assert ask(status=503, after_s=0.5, others=False).wait_s == 0.5
    assert ask(status=503, after_s=0.0, others=False).again


def test_a_longer_retry_after_than_the_rule_waits_is_given_up() -> None:
    assert ask(status=503, after_s=1.0, others=False).again
    assert ask(status=503, after_s=1.001, others=False) == Verdict(False, 0.0, retry.RETRY_AFTER, True)


def test_a_try_without_time_is_not_begun() -> None:
    assert ask(status=503, after_s=0.5, others=False, left_s=0.502).again
    assert ask(status=503, after_s=0.5, others=False, left_s=0.5005).why == retry.DEADLINE
    assert ask(unsent=True, left_s=0.0005).why == retry.DEADLINE
    assert ask(left_s=-1.0).why == retry.DEADLINE


@pytest.mark.slow
@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 200, 404, 502, 503]),
    st.booleans(),
    st.none() | st.floats(0.0, 3.0),
    st.floats(-1.0, 2.0),
    st.booleans(),
    st.integers(1, 3),
    st.booleans(),
)
def test_whatever_happens_the_laws_hold(
    attempts: int,
    tries: int,
    repeatable: bool,
    unsent: bool,
    status: int,
    shed: bool,
    after_s: float | None,
    left_s: float,
    others: bool,
    said: int,
    held: bool,
) -> None:
    unsent = unsent and not status
    rules = Retry(attempts=attempts)
    found = ask(
        rules,
        tries,
        repeatable=repeatable,
        unsent=unsent,
        status=status,
        shed=shed,
        after_s=after_s,
        left_s=left_s,
        others=others,
        said=said,
        held=held,
    )
    assert found.why in retry.WHYS
    assert found.counts is not (unsent and others)
    if not found.again:
        assert found.wait_s == 0.0
        return
    assert held
    assert not shed
    assert status in {0, *rules.statuses}
    assert unsent or (repeatable and said == 1)
    assert (unsent and others) or tries < attempts
    assert found.wait_s + 0.001 <= left_s
    assert found.wait_s <= max(rules.backoff_max_s, rules.after_s)
    if after_s is not None and not others:
        assert after_s <= found.wait_s


def test_the_pause_doubles_up_to_its_bound_and_is_all_chance() -> None:
    rules = Retry(backoff_s=0.1, backoff_max_s=1.0)
    random = Random(7)
    for tries, bound in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (6, 1.0), (5_000, 1.0)):
        drawn = [backoff(rules, tries, random) for _ in range(2_000)]
        assert 0.0 <= min(drawn) < 0.01 * bound
        assert 0.99 * bound < max(drawn) <= bound
        assert sum(drawn) / len(drawn) == pytest.approx(bound / 2, rel=0.05)


NOW = datetime(2026, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"120", 120.0),
        (b" 7\t", 7.0),
        (b"007", 7.0),
        (b"9" * 5_000, 2.0**31),
        (b"Fri, 06 Nov 2026 08:50:07 GMT", 30.0),
        (b"Friday, 06-Nov-26 08:50:07 GMT", 30.0),
        (b"Fri Nov  6 08:50:07 2026", 30.0),
        (b"Fri Nov 16 08:49:37 2026", 864_000.0),
        (b"Fri, 06 Nov 2026 08:49:60 GMT", 23.0),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        # 1994, not 2094: it would be more than 50 years ahead
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
    ],
)
def test_seconds_and_all_three_forms_of_a_date_are_read(value: bytes, seconds: float) -> None:
    """RFC 9110 10.2.3 and 5.6.7."""
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"soon",
        b"-1",
        b"+1",
        b"1.5",
        b"1e3",
        b"0x10",
        b"1 2",
        b"120, 120",
        "１２".encode(),
        b"Fri, 06 Nov 2026 08:50:07",
        b"Fri, 06 Nov 2026 08:50:07 CET",
        b"fri, 06 nov 2026 08:50:07 gmt",
        b"Fri, 31 Feb 2026 08:50:07 GMT",
        b"Fri, 06 Nov 2026 24:00:00 GMT",
        b"Fri, 06 Nov 2026 08:50:61 GMT",
        b"Fri, 06 Nov 0000 08:50:07 GMT",
        b"Fri, 06 Nov 2026 08:50:07 GMT\n",
        b"Fri, 6 Nov 2026 08:50:07 GMT",
    ],
)
def test_a_malformed_retry_after_says_nothing(value: bytes) -> None:
    assert retry_after(value, NOW) is None


@given(st.binary(max_size=40))
def test_any_octets_give_seconds_or_nothing(value: bytes) -> None:
    found = retry_after(value, NOW)
    assert found is None or found >= 0.0


@given(st.datetimes(datetime(1971, 1, 1), datetime(2999, 12, 31)))  # noqa: DTZ001 - hypothesis takes naive bounds
def test_dates_are_read_as_the_standard_library_writes_them(at: datetime) -> None:
    at = at.replace(microsecond=0, tzinfo=UTC)
    found = retry_after(format_datetime(at, usegmt=True).encode(), NOW)
    assert found == max(0.0, at.timestamp() - NOW)


def test_only_the_ends_of_calls_that_the_rule_names_are_failures() -> None:
    """UNAVAILABLE, unless the rule says otherwise; a call's HTTP status never counts."""
    assert ask(grpc=14).again
    assert ask(grpc=14).why == retry.STATUS
    for end in (0, 2, 4, 5, 7, 8, 12, 13, 16):
        assert ask(grpc=end).why == retry.ANSWER
    assert ask(Retry(attempts=3, grpc_statuses=(8, 10)), grpc=10).again
    assert not ask(Retry(attempts=3, grpc_statuses=()), grpc=14).again
    assert ask(grpc=14, repeatable=False).why == retry.NOT_REPEATABLE
    assert ask(grpc=14, said=2).why == retry.NESTED


@pytest.mark.parametrize(
    ("fields", "pause"),
    [
        ((), None),
        (((b"retry-after", b"3"),), 3.0),
        (((b"grpc-retry-pushback-ms", b"250"),), 0.25),
        (((b"retry-after", b"3"), (b"grpc-retry-pushback-ms", b"0")), 0.0),
        (((b"grpc-retry-pushback-ms", b"-1"),), NO_OTHER),
        (((b"grpc-retry-pushback-ms", b"soon"),), NO_OTHER),
        (((b"grpc-retry-pushback-ms", b""),), NO_OTHER),
    ],
)
def test_a_pause_is_asked_for_in_http_or_in_grpc(fields: tuple[tuple[bytes, bytes], ...], pause: float | None) -> None:
    """gRPC A6: a pushback that is negative, or no number, means that nobody tries again."""
    assert asked_pause([field(name, value) for name, value in fields], 0.0) == pause

"""Meters: what is counted, and that it stays bounded."""

from __future__ import annotations

import random

import pytest

from flui.telemetry import meters
from flui.telemetry.exposition import page
from flui.telemetry.meters import BOUNDS, OTHER, Meters

LABELS = ("inbound", "orders", "default")


def _samples(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_an_exchange_is_counted_under_its_labels_and_code() -> None:
    held = Meters()
    held.exchange(LABELS, 200, 0.003, 10, 100)
    held.exchange(LABELS, 200, 0.004, 1, 2)
    held.exchange(LABELS, 403, 0.1, 0, 50)
    assert sorted(held.requests()) == [((*LABELS, "200"), 2), ((*LABELS, "403"), 1)]
    series = held.routes()[LABELS]
    assert (series.octets_in, series.octets_out) == (11, 152)
    assert series.seconds == pytest.approx(0.107)
    assert sum(series.buckets) == 3


@pytest.mark.parametrize(("at", "bound"), list(enumerate(BOUNDS)))
def test_a_duration_equal_to_a_bound_falls_in_that_bucket(at: int, bound: float) -> None:
    held = Meters()
    held.exchange(LABELS, 200, bound, 0, 0)
    held.exchange(LABELS, 200, bound + 1e-9, 0, 0)
    buckets = held.routes()[LABELS].buckets
    assert buckets[at] == 1
    assert buckets[at + 1] == 1


def test_longer_than_every_bound_is_still_counted() -> None:
    held = Meters()
    held.exchange(LABELS, 504, 3600.0, 0, 0)
    assert held.routes()[LABELS].buckets[-1] == 1


def test_past_the_limit_new_routes_become_other_and_the_page_stays_within_it() -> None:
    """Threats C13: at most 2,000 series."""
    held = Meters()
    pick = random.Random(1)
    for number in range(20_000):
        held.exchange(("outbound", f"service-{number}", "default"), pick.randrange(100, 1000), 0.001, 1, 1)
        held.count(meters.UPSTREAM_CONNECTS, f"cluster-{number}", "ok")
        held.count(meters.HANDSHAKES_REFUSED, f"listener-{number}", f"reason-{number}")
        held.count(meters.FAULTS, f"listener-{number}", "denied")
        held.count(meters.RELOADS, f"what-{number}", "good")
        held.count(meters.CONNECTIONS_ACCEPTED, f"listener-{number}")
    samples = _samples(page(held))
    assert len(samples) <= 2_000
    assert held.folded > 0
    assert sum(count for _, count in held.requests()) == 20_000
    assert sum(series.octets_in for series in held.routes().values()) == 20_000
    assert (OTHER, OTHER, OTHER) in held.routes()
    assert sum(held.samples(meters.CONNECTIONS_ACCEPTED).values()) == 20_000


def test_a_known_route_keeps_its_series_after_the_limit() -> None:
    held = Meters()
    held.exchange(LABELS, 200, 0.001, 0, 0)
    for number in range(1_000):
        held.exchange(("outbound", f"service-{number}", "default"), 200, 0.001, 0, 0)
    held.exchange(LABELS, 200, 0.001, 0, 0)
    assert dict(held.requests())[*LABELS, "200"] == 2


def test_an_upstream_cannot_make_series_with_codes_of_its_own() -> None:
    held = Meters()
    for status in range(600, 1000):
        held.exchange(LABELS, status, 0.001, 0, 0)
    assert held.requests() == [((*LABELS, OTHER), 400)]
    assert held.folded == 0


def test_a_counter_shown_before_its_first_event_is_zero() -> None:
    held = Meters()
    held.count(meters.RELOADS, "policy", "bad", by=0)
    assert held.samples(meters.RELOADS) == {("policy", "bad"): 0}
    held.count(meters.RELOADS, "policy", "bad", by=3)
    assert held.samples(meters.RELOADS) == {("policy", "bad"): 3}


def test_the_wrong_number_of_labels_is_our_own_mistake() -> None:
    held = Meters()
    with pytest.raises(AssertionError, match="flui_reloads_total"):
        held.count(meters.RELOADS, "policy")
    with pytest.raises(AssertionError):
        held.exchange(("inbound",), 200, 0.1, 0, 0)


def test_sources_are_asked_each_time_and_added_together() -> None:
    held = Meters()
    numbers = {"open": 1}
    held.read(meters.CONNECTIONS_OPEN, lambda: [(("inbound",), numbers["open"])])
    held.read(meters.CONNECTIONS_OPEN, lambda: [(("inbound",), 10), (("outbound",), 2)])
    assert held.samples(meters.CONNECTIONS_OPEN) == {("inbound",): 11, ("outbound",): 2}
    numbers["open"] = 5
    assert held.samples(meters.CONNECTIONS_OPEN)["inbound",] == 15


def test_a_limit_without_room_for_other_is_refused() -> None:
    with pytest.raises(AssertionError):
        Meters(limit=50)

"""Meters: what is counted, that it adds up on every axis, and that it stays bounded."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.telemetry import families
from flui.telemetry.exposition import page
from flui.telemetry.families import Family, Kind
from flui.telemetry.meters import BOUNDS, ERRORS, KEPT, OTHER, Meters, Room, Totals

ROUTE = ("inbound", "orders", "default")
LABELS = (*ROUTE, "spiffe://shop/web", "rules.csv:1")


def _samples(text: str) -> list[str]:
    """Lines of the page that `exchange` and `count` made."""
    return [line for line in text.splitlines() if not line.startswith("#")]


def _sum(totals: dict[tuple[str, ...], Totals]) -> int:
    return sum(sum(each.codes.values()) for each in totals.values())


def test_an_exchange_is_counted_under_its_labels_and_code() -> None:
    held = Meters()
    held.exchange(LABELS, 200, 0.003, 10, 100)
    held.exchange(LABELS, 200, 0.004, 1, 2)
    held.exchange(LABELS, 403, 0.1, 0, 50)
    assert sorted(held.requests()) == [((*ROUTE, "200"), 2), ((*ROUTE, "403"), 1)]
    series = held.routes()[ROUTE]
    assert (series.octets_in, series.octets_out) == (11, 152)
    assert series.seconds == pytest.approx(0.107)
    assert sum(series.buckets) == 3


def test_who_asked_and_what_decided_are_counted_beside_the_route() -> None:
    held = Meters()
    for peer, rule, status in (("a", "1", 200), ("a", "2", 403), ("b", "1", 200), ("b", "1", 200)):
        held.exchange(("inbound", "orders", "app", peer, rule), status, 0.5, 0, 0)
    view = held.view()
    assert {labels: (each.codes, each.seconds) for labels, each in view.peers.items()} == {
        ("inbound", "a"): ({"200": 1, "403": 1}, 1.0),
        ("inbound", "b"): ({"200": 2}, 1.0),
    }
    assert {labels: each.codes for labels, each in view.rules.items()} == {("inbound", "1"): {"200": 3}, ("inbound", "2"): {"403": 1}}
    assert view.folded == 0


def test_looking_twice_counts_nothing_twice() -> None:
    held = Meters()
    held.exchange(LABELS, 200, 0.003, 10, 100)
    assert page(held) == page(held)
    held.exchange(LABELS, 200, 0.003, 10, 100)
    assert held.routes()[ROUTE].codes == {"200": 2}
    assert held.routes()[ROUTE].octets_out == 200


@pytest.mark.parametrize(("at", "bound"), list(enumerate(BOUNDS)))
def test_a_duration_equal_to_a_bound_falls_in_that_bucket(at: int, bound: float) -> None:
    held = Meters()
    held.exchange(LABELS, 200, bound, 0, 0)
    held.exchange(LABELS, 200, bound + 1e-9, 0, 0)
    buckets = held.routes()[ROUTE].buckets
    assert buckets[at] == 1
    assert buckets[at + 1] == 1


def test_longer_than_every_bound_is_still_counted() -> None:
    held = Meters()
    held.exchange(LABELS, 504, 3600.0, 0, 0)
    assert held.routes()[ROUTE].buckets[-1] == 1


_EXCHANGES = st.lists(
    st.tuples(
        st.sampled_from(["inbound", "outbound"]),
        st.integers(0, 40),
        st.integers(0, 60),
        st.integers(0, 60),
        st.sampled_from([200, 204, 302, 403, 404, 499, 502, 503, 504, 599, 777]),
    ),
    max_size=400,
)


@settings(max_examples=50, deadline=None)
@given(_EXCHANGES, st.integers(300, 2_000))
def test_every_axis_adds_up_to_all_exchanges_whatever_is_folded(exchanges: list[tuple[str, int, int, int, int]], limit: int) -> None:
    held = Meters(limit)
    for listener, route, peer, rule, status in exchanges:
        held.exchange((listener, f"s{route}", f"r{route}", f"p{peer}", f"rules.csv:{rule}"), status, 0.001, 3, 5)
    view = held.view()
    assert _sum(view.routes) == _sum(view.peers) == _sum(view.rules) == len(exchanges)
    assert sum(sum(each.buckets) for each in view.routes.values()) == len(exchanges)
    assert sum(each.octets_in for each in view.routes.values()) == 3 * len(exchanges)
    assert {labels[0] for labels in (*view.routes, *view.peers, *view.rules)} <= {"inbound", "outbound"}, "the listener stays"
    errors = sum(status >= 500 and status != 777 for *_, status in exchanges)
    assert sum(count for totals in view.rules.values() for code, count in totals.codes.items() if code[0] == "5") == errors
    assert len(_samples(page(held))) <= limit


def test_past_the_limit_new_routes_become_other_and_the_page_stays_within_it() -> None:
    """Threats C13: at most 2,000 series."""
    held = Meters()
    pick = random.Random(1)
    for number in range(20_000):
        labels = (f"listener-{number % 9}", f"service-{number}", "default", f"peer-{number}", f"rules.csv:{number}")
        held.exchange(labels, pick.randrange(100, 1000), 0.001, 1, 1)
        held.count(families.UPSTREAM_CONNECTS, f"cluster-{number}", "ok")
        held.count(families.HANDSHAKES_REFUSED, f"listener-{number}", f"reason-{number}")
        held.count(families.FAULTS, f"listener-{number}", "denied")
        held.count(families.RELOADS, f"what-{number}", "good")
        held.count(families.CONNECTIONS_ACCEPTED, f"listener-{number}")
    samples = _samples(page(held))
    assert 1_500 < len(samples) <= 2_000, "the room is used, and no more than that"
    assert len(samples) == len({line.rpartition(" ")[0] for line in samples})
    assert held.folded > 0
    assert sum(count for _, count in held.requests()) == 20_000
    assert sum(series.octets_in for series in held.routes().values()) == 20_000
    assert ("listener-0", OTHER, OTHER) in held.routes(), "the first listeners keep their name"
    assert (OTHER, OTHER, OTHER) in held.routes()
    assert sum(held.samples(families.CONNECTIONS_ACCEPTED).values()) == 20_000


def test_fifty_routes_a_hundred_peers_and_a_hundred_rules_are_half_a_million_that_are_not_kept() -> None:
    """They multiply; what is held does not."""
    held = Meters()
    pick = random.Random(2)
    names = [("inbound", f"s{n}", f"r{n}") for n in range(50)]
    peers = [f"spiffe://shop/p{n}" for n in range(100)]
    rules = [f"rules.csv:{n}" for n in range(100)]
    tracemalloc.start()
    try:
        for _ in range(3 * KEPT):
            held.exchange((*pick.choice(names), pick.choice(peers), pick.choice(rules)), 200, 0.001, 1, 1)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(6 * KEPT):
            held.exchange((*pick.choice(names), pick.choice(peers), pick.choice(rules)), 200, 0.001, 1, 1)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert before < 4 * 2**20
    assert grown < 2**18
    view = held.view()
    assert _sum(view.routes) == _sum(view.peers) == _sum(view.rules) == 9 * KEPT
    assert len(_samples(page(held))) <= 2_000


def test_what_left_to_make_room_is_still_counted_and_can_come_back() -> None:
    held = Meters()
    held.exchange(LABELS, 200, 0.25, 1, 2)
    for number in range(KEPT):
        held.exchange((*ROUTE, "p", str(number % 40)), 200 + number // 40, 0.001, 0, 0)
    held.exchange(LABELS, 200, 0.25, 1, 2)
    view = held.view()
    assert view.peers["inbound", LABELS[3]].codes == {"200": 2}
    assert view.peers["inbound", LABELS[3]].seconds == 0.5
    assert _sum(view.routes) == KEPT + 2


def test_many_peers_do_not_hide_a_route_a_rule_or_an_event() -> None:
    """A part of the room is kept for each axis."""
    held = Meters()
    for number in range(5_000):
        held.exchange((*ROUTE, f"peer-{number}", "rules.csv:1"), 200, 0.001, 0, 0)
    late = ("inbound", "stock", "late", "peer-0", "rules.csv:9")
    held.exchange(late, 503, 0.001, 0, 0)
    held.count(families.FAULTS, "inbound", "upstream_reset")
    view = held.view()
    assert view.routes[late[:3]].codes == {"503": 1}
    assert view.rules["inbound", "rules.csv:9"].codes == {"503": 1}
    assert held.samples(families.FAULTS) == {("inbound", "upstream_reset"): 1}
    others = view.peers["inbound", OTHER]
    assert 4_000 < sum(others.codes.values()) <= view.folded
    assert view.routes[ROUTE].codes == {"200": 5_000}, "their route is counted where it belongs"


def test_a_known_route_keeps_its_series_after_the_limit_and_its_errors_are_seen_there() -> None:
    held = Meters()
    held.exchange(LABELS, 200, 0.001, 0, 0)
    for number in range(1_000):
        held.exchange(("outbound", f"service-{number}", "default", f"p{number}", "-"), 200, 0.001, 0, 0)
    for status in (200, 502, 503, 404):
        held.exchange(LABELS, status, 0.001, 0, 0)
    before = held.folded
    assert dict(held.requests())[*ROUTE, "200"] == 2
    codes = held.routes()[ROUTE].codes
    assert sum(count for code, count in codes.items() if code.startswith("5")) == 2
    assert sum(codes.values()) == 5
    assert held.folded == before, "looking folds nothing"


def test_a_code_without_room_is_an_error_or_other_at_its_own_route() -> None:
    held = Meters(limit=300)
    statuses = [200, 201, 202, 204, 206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 409, 410, 500, 501, 502, 503, 504]
    for status in statuses * 2:
        held.exchange(LABELS, status, 0.001, 0, 0)
    codes = held.routes()[ROUTE].codes
    assert codes[ERRORS] > 0
    assert sum(codes.values()) == 2 * len(statuses)
    assert sum(count for code, count in codes.items() if code.startswith("5")) == 10
    assert held.folded > 0


def test_an_upstream_cannot_make_series_with_codes_of_its_own() -> None:
    held = Meters()
    for status in (*range(600, 1000), 599, 598):
        held.exchange(LABELS, status, 0.001, 0, 0)
    assert held.requests() == [((*ROUTE, OTHER), 400), ((*ROUTE, ERRORS), 2)]
    assert held.folded == 0


def test_a_counter_shown_before_its_first_event_is_zero() -> None:
    held = Meters()
    held.count(families.RELOADS, "policy", "bad", by=0)
    assert held.samples(families.RELOADS) == {("policy", "bad"): 0}
    held.count(families.RELOADS, "policy", "bad", by=3)
    assert held.samples(families.RELOADS) == {("policy", "bad"): 3}


def test_events_past_the_limit_keep_the_name_of_their_cluster() -> None:
    held = Meters()
    for number in range(4_000):
        held.count(families.EJECTIONS, f"cluster-{number % 3}", f"endpoint-{number}", "failures")
    found = held.samples(families.EJECTIONS)
    assert found["cluster-1", OTHER, OTHER] > 0
    assert sum(found.values()) == 4_000
    assert held.folded == sum(count for labels, count in found.items() if OTHER in labels)


def test_the_wrong_number_of_labels_is_our_own_mistake() -> None:
    held = Meters()
    with pytest.raises(AssertionError, match="flui_reloads_total"):
        held.count(families.RELOADS, "policy")
    with pytest.raises(AssertionError):
        held.exchange(ROUTE, 200, 0.1, 0, 0)


def test_a_family_that_no_page_would_show_is_our_own_mistake() -> None:
    unknown = Family("flui_x_total", Kind.COUNTER, (), "x")
    summary = Family("flui_x_seconds", Kind.SUMMARY, (), "x")
    with pytest.raises(AssertionError, match="flui_x_total is not listed"):
        Meters().count(unknown)
    with pytest.raises(AssertionError, match="single numbers"):
        Meters().read(summary, list)


def test_sources_are_asked_each_time_and_added_together() -> None:
    held = Meters()
    numbers = {"open": 1}
    held.read(families.CONNECTIONS_OPEN, lambda: [(("inbound",), numbers["open"])])
    held.read(families.CONNECTIONS_OPEN, lambda: [(("inbound",), 10), (("outbound",), 2)])
    assert held.samples(families.CONNECTIONS_OPEN) == {("inbound",): 11, ("outbound",): 2}
    numbers["open"] = 5
    assert held.samples(families.CONNECTIONS_OPEN)["inbound",] == 15


def test_a_limit_without_room_for_other_is_refused() -> None:
    with pytest.raises(AssertionError):
        Meters(limit=50)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30))))
def test_a_part_always_has_what_is_kept_for_it_and_all_together_never_more_than_there_is(asked: list[tuple[int, int]]) -> None:
    room = Room(50, (20, 30, 0))
    taken = [0, 0, 0]
    for part, many in asked:
        if room.take(part, many):
            taken[part] += many
        else:
            assert taken[part] + many > (20, 30, 0)[part]
    assert sum(max(0, got - own) for got, own in zip(taken, (20, 30, 0), strict=True)) <= 50

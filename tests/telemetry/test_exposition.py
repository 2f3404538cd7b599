"""The page, read back by prometheus_client's own parser."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from flui.telemetry import families
from flui.telemetry.exposition import CONTENT_TYPE, page
from flui.telemetry.families import FAMILIES, Family, Kind
from flui.telemetry.meters import BOUNDS, Meters

DOCS = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"
ROW = re.compile(r"^\| `(flui_\w+)(?:\{([\w,]+)\})?` \| (\w+) \| .+ \|$", re.MULTILINE)
"""A row of the document's table: name, labels, kind, and something that tells what it counts."""

WEB = ("spiffe://shop/web", "rules.csv:1")


def _read(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def _exchanges() -> Meters:
    held = Meters()
    for seconds in (0.0004, 0.003, 0.003, 99.0):
        held.exchange(("inbound", "orders", "default", *WEB), 200, seconds, 7, 11)
    held.exchange(("outbound", "stock", "by-key", "spiffe://shop/orders", "decided by the receiver"), 502, 0.2, 0, 3)
    return held


def _filled() -> Meters:
    """Every family has a sample: exchanges, counters that are counted, gauges that are read."""
    held = _exchanges()
    of_exchanges = FAMILIES[: FAMILIES.index(families.FAULTS)]
    for number, family in enumerate(FAMILIES):
        values = tuple(f"{label}-{number}" for label in family.labels)
        if family in of_exchanges:
            continue
        if family.kind is Kind.COUNTER:
            held.count(family, *values, by=number)
        else:
            held.read(family, lambda values=values, number=number: [(values, number)])
    return held


def test_every_family_is_on_the_page_with_its_type_and_help() -> None:
    read = _read(page(_filled()))
    for family in FAMILIES:
        # the parser names a counter without `_total`
        found = read[family.name.removesuffix("_total")]
        assert found.type == family.kind.value, family.name
        assert found.documentation == family.help
        assert found.samples, family.name
        for sample in found.samples:
            assert set(sample.labels) - {"le"} == set(family.labels), family.name
    assert len(read) == len(FAMILIES)


def test_families_stand_in_their_listed_order_each_once_and_no_series_twice() -> None:
    lines = page(_filled()).splitlines()
    assert [line.split()[2] for line in lines if line.startswith("# TYPE")] == [family.name for family in FAMILIES]
    assert [line.split()[2] for line in lines if line.startswith("# HELP")] == [family.name for family in FAMILIES]
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_families_of_another_room_follow_in_the_order_in_which_they_came() -> None:
    second = Family("flui_a_room_bytes", Kind.GAUGE, ("device",), "Of a room's own.")
    first = Family("flui_z_room_total", Kind.COUNTER, (), "Also.")
    held = _filled()
    held.read(first, lambda: [((), 5)])
    held.read(second, lambda: [(("sda",), 1.5), (("sdb",), 2)])
    held.read(first, lambda: [((), 2)])
    text = page(held)
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert names == [*(family.name for family in FAMILIES), "flui_z_room_total", "flui_a_room_bytes"]
    read = _read(text)
    assert [sample.value for sample in read["flui_z_room"].samples] == [7]
    assert {sample.labels["device"]: sample.value for sample in read["flui_a_room_bytes"].samples} == {"sda": 1.5, "sdb": 2}


def test_a_family_without_a_sample_is_left_out() -> None:
    held = Meters()
    held.read(families.FLOWS, list)
    assert list(_read(page(held))) == ["flui_exchanges_folded"]


def test_numbers_come_back_as_they_were_counted() -> None:
    held = _exchanges()
    held.read(families.CERTIFICATE_EXPIRY, lambda: [(("leaf",), 1_800_000_000.0)])
    held.read(families.UPTIME, lambda: [((), 12.5)])
    read = _read(page(held))
    requests = {(sample.labels["service"], sample.labels["code"]): sample.value for sample in read["flui_requests"].samples}
    assert requests == {("orders", "200"): 4, ("stock", "502"): 1}
    octets = {sample.labels["service"]: sample.value for sample in read["flui_response_octets"].samples}
    assert octets == {"orders": 44, "stock": 3}
    assert read["flui_certificate_expiry_timestamp_seconds"].samples[0].value == 1_800_000_000
    assert read["flui_uptime_seconds"].samples[0].value == 12.5


def test_a_summary_is_the_sum_and_the_count_of_its_exchanges() -> None:
    read = _read(page(_exchanges()))
    for name, label, value in (("peer", "peer", WEB[0]), ("rule", "rule", WEB[1])):
        found = {
            sample.name.rpartition("_")[2]: sample.value
            for sample in read[f"flui_{name}_request_duration_seconds"].samples
            if sample.labels == {"listener": "inbound", label: value}
        }
        assert found["count"] == 4
        assert abs(found["sum"] - 99.0064) < 1e-9
        (requests,) = [sample for sample in read[f"flui_{name}_requests"].samples if sample.labels[label] == value]
        assert (requests.value, requests.labels["code"]) == (4, "200")


def test_a_histogram_is_cumulative_ends_in_inf_and_agrees_with_its_count() -> None:
    samples = [s for s in _read(page(_exchanges()))["flui_request_duration_seconds"].samples if s.labels["service"] == "orders"]
    buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
    assert [bound for bound, _ in buckets] == [*BOUNDS, float("inf")]
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == 4
    assert next(s.value for s in samples if s.name.endswith("_count")) == 4
    assert abs(next(s.value for s in samples if s.name.endswith("_sum")) - 99.0064) < 1e-9


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5, unique=True))
def test_any_label_value_comes_back_unchanged(values: list[tuple[str, str]]) -> None:
    held = Meters()
    for first, second in values:
        held.count(families.UPSTREAM_CONNECTS, first, second)
        held.exchange(("inbound", "orders", "app", first, second), 200, 0.1, 0, 0)
    read = _read(page(held))
    assert {(s.labels["cluster"], s.labels["outcome"]) for s in read["flui_upstream_connects"].samples} == set(values)
    assert {s.labels["peer"] for s in read["flui_peer_requests"].samples} == {first for first, _ in values}
    assert {s.labels["rule"] for s in read["flui_rule_requests"].samples} == {second for _, second in values}


def test_numbers_that_are_not_finite_are_spelt_as_prometheus_reads_them() -> None:
    held = Meters()
    held.read(families.CERTIFICATE_EXPIRY, lambda: [(("a",), float("inf")), (("b",), float("-inf")), (("c",), float("nan"))])
    assert [line.rpartition(" ")[2] for line in page(held).splitlines()[-3:]] == ["+Inf", "-Inf", "NaN"]
    assert len(_read(page(held))["flui_certificate_expiry_timestamp_seconds"].samples) == 3


def test_names_follow_the_convention_of_their_kind() -> None:
    assert "0.0.4" in CONTENT_TYPE
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.startswith("flui_")
        assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
        assert family.help.endswith("."), family.name


def test_the_document_lists_every_metric_in_order_with_its_labels_and_kind() -> None:
    told = [(name, tuple(labels.split(",")) if labels else (), kind) for name, labels, kind in ROW.findall(DOCS.read_text("utf-8"))]
    assert told == [(family.name, family.labels, family.kind.value) for family in FAMILIES]

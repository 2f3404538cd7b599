"""The page, read back by prometheus_client's own parser."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from flui.telemetry import meters
from flui.telemetry.exposition import CONTENT_TYPE, page
from flui.telemetry.families import FAMILIES, Kind
from flui.telemetry.meters import BOUNDS, Meters

DOCS = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"


def _read(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def _filled() -> Meters:
    held = Meters()
    for seconds in (0.0004, 0.003, 0.003, 99.0):
        held.exchange(("inbound", "orders", "default"), 200, seconds, 7, 11)
    held.exchange(("outbound", "stock", "by-key"), 502, 0.2, 0, 3)
    held.count(meters.HANDSHAKES_REFUSED, "inbound", "unknown_ca")
    held.count(meters.FAULTS, "outbound", "upstream_reset")
    held.count(meters.CONNECTIONS_ACCEPTED, "inbound", by=4)
    held.count(meters.UPSTREAM_CONNECTS, "stock", "refused")
    held.count(meters.RELOADS, "policy", "bad")
    held.read(meters.FLOW_LOOKUPS, lambda: [(("hit",), 12), (("miss",), 3)])
    held.read(meters.LOG_LINES_DROPPED, lambda: [(("access",), 0)])
    held.read(meters.CONNECTIONS_OPEN, lambda: [(("inbound",), 2)])
    held.read(meters.UPSTREAM_CONNECTIONS, lambda: [(("stock", "idle"), 1), (("stock", "busy"), 2)])
    held.read(meters.FLOWS, lambda: [((), 17)])
    held.read(meters.CERTIFICATE_EXPIRY, lambda: [(("leaf",), 1_800_000_000.0)])
    held.read(meters.POLICY_INFO, lambda: [(("sha256:abc",), 1)])
    held.read(meters.BUILD_INFO, lambda: [(("0.1.0", "3.11.7", "pure"), 1)])
    held.read(meters.UPTIME, lambda: [((), 12.5)])
    return held


def test_every_family_is_on_the_page_with_its_type_and_help() -> None:
    read = _read(page(_filled()))
    for family in FAMILIES:
        # the parser names a counter without `_total`
        found = read[family.name.removesuffix("_total")]
        assert found.type == family.kind.value
        assert found.documentation == family.help
        assert found.samples
        for sample in found.samples:
            assert set(sample.labels) - {"le"} == set(family.labels)


def test_numbers_come_back_as_they_were_counted() -> None:
    read = _read(page(_filled()))
    requests = {(sample.labels["service"], sample.labels["code"]): sample.value for sample in read["flui_requests"].samples}
    assert requests == {("orders", "200"): 4, ("stock", "502"): 1}
    octets = {sample.labels["service"]: sample.value for sample in read["flui_response_octets"].samples}
    assert octets == {"orders": 44, "stock": 3}
    assert read["flui_certificate_expiry_timestamp_seconds"].samples[0].value == 1_800_000_000
    assert read["flui_uptime_seconds"].samples[0].value == 12.5


def test_a_histogram_is_cumulative_ends_in_inf_and_agrees_with_its_count() -> None:
    samples = [s for s in _read(page(_filled()))["flui_request_duration_seconds"].samples if s.labels["service"] == "orders"]
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
    for cluster, outcome in values:
        held.count(meters.UPSTREAM_CONNECTS, cluster, outcome)
    found = _read(page(held))["flui_upstream_connects"].samples
    assert {(s.labels["cluster"], s.labels["outcome"]) for s in found} == set(values)


def test_numbers_that_are_not_finite_are_spelt_as_prometheus_reads_them() -> None:
    held = Meters()
    held.read(meters.CERTIFICATE_EXPIRY, lambda: [(("a",), float("inf")), (("b",), float("-inf")), (("c",), float("nan"))])
    assert [line.rpartition(" ")[2] for line in page(held).splitlines()[-3:]] == ["+Inf", "-Inf", "NaN"]
    assert len(_read(page(held))["flui_certificate_expiry_timestamp_seconds"].samples) == 3


def test_names_follow_the_convention_of_their_kind() -> None:
    assert "0.0.4" in CONTENT_TYPE
    for family in FAMILIES:
        assert family.name.startswith("flui_")
        assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)


def test_the_document_lists_every_metric_with_its_labels() -> None:
    text = DOCS.read_text()
    for family in FAMILIES:
        labels = f"{{{','.join(family.labels)}}}" if family.labels else ""
        assert f"`{family.name}{labels}`" in text, family.name

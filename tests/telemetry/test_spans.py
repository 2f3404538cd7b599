"""Which requests get a span, and what it says."""

from __future__ import annotations

import re
from random import Random
from typing import Any

import pytest

from flui.codecs.http1 import Http1Server
from flui.model.config import Limits, Tracing
from flui.model.decision import Decision, Forward, Why
from flui.model.events import RequestHead
from flui.model.fault import Fault
from flui.model.topology import Target
from flui.splice import Splice
from flui.telemetry.spans import Sampler, SpanKind, SpanRecord, has_span, span_of

URL = "http://127.0.0.1:4318/v1/traces"
FORM = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")
SAMPLED = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SAMPLED[:-1] + b"0"


def sampler(share_bp: int = 10_000, per_s: float = 1e9, seed: int = 1) -> Sampler:
    return Sampler(Tracing(URL, share_bp, per_s), Random(seed))


def sampled(traceparent: bytes) -> bool:
    return traceparent[-2:] == b"01"


def test_a_root_is_a_well_formed_traceparent_with_ids_of_its_own() -> None:
    """W3C Trace Context 3.2.2."""
    ours = sampler(5_000)
    made = [ours.root(0.0) for _ in range(2_000)]
    assert all(FORM.fullmatch(one) for one in made)
    assert len({one[3:35] for one in made}) == len({one[36:52] for one in made}) == 2_000


def test_the_share_holds_within_three_sigma_over_100_000() -> None:
    for share_bp in (50, 100, 2_500, 9_900):
        ours = sampler(share_bp)
        count = sum(sampled(ours.root(0.0)) for _ in range(100_000))
        p = share_bp / 10_000
        assert abs(count - 100_000 * p) <= 3 * (100_000 * p * (1 - p)) ** 0.5, share_bp


def test_a_share_of_all_is_all_and_a_share_of_none_is_none() -> None:
    everything, nothing, off = sampler(), sampler(0), Sampler(None, Random(1))
    for _ in range(1_000):
        assert sampled(everything.root(0.0))
        assert not sampled(nothing.root(0.0))
        assert not sampled(off.root(0.0))
    assert everything.over_rate == nothing.over_rate == off.over_rate == 0


def test_sidecars_with_the_same_share_agree_about_a_trace_id() -> None:
    """As TraceIdRatioBased of OpenTelemetry does: the last half of the trace id decides, and nothing else."""
    ours = sampler(2_500)
    for _ in range(1_000):
        made = ours.root(0.0)
        assert sampled(made) == (int(made[19:35], 16) < 2_500 * 2**64 // 10_000)


def test_no_more_than_per_s_are_sampled_and_the_rest_is_counted() -> None:
    ours = sampler(per_s=100.0)
    assert sum(sampled(ours.root(5.0)) for _ in range(500)) == 100
    assert ours.over_rate == 400
    # nine more seconds, 1,000 requests each
    count = sum(sampled(ours.root(5.0 + n / 1_000)) for n in range(9_000))
    assert count == pytest.approx(900, abs=1)
    assert ours.samples() == [(("over_rate",), 400 + 9_000 - count)]


def test_a_rate_below_one_a_second_still_samples() -> None:
    ours = sampler(per_s=0.5)
    assert [sampled(ours.root(float(now))) for now in range(5)] == [True, False, True, False, True]


def test_callers_that_sample_everything_share_the_same_cap() -> None:
    """Else whoever sets a bit would decide what we spend."""
    ours = sampler(per_s=10.0)
    made = [ours.follow(SAMPLED, 1.0) for _ in range(50)]
    assert sum(one is not SAMPLED for one in made) == 10
    assert ours.over_rate == 40
    assert not sampled(ours.root(1.0))


def test_a_sampled_parent_is_followed_with_a_span_id_of_ours() -> None:
    ours = sampler(0)  # the share is about roots only
    made = ours.follow(SAMPLED, 0.0)
    assert FORM.fullmatch(made)
    assert made[:36] == SAMPLED[:36]
    assert made[52:] == SAMPLED[52:]
    assert made[36:52] != SAMPLED[36:52]


def test_flags_that_we_do_not_know_are_passed_on() -> None:
    for flags, follows in ((b"03", True), (b"0b", True), (b"ff", True), (b"02", False), (b"0a", False), (b"fe", False)):
        parent = SAMPLED[:-2] + flags
        made = sampler().follow(parent, 0.0)
        assert made[-2:] == flags
        assert (made is not parent) == follows


def test_what_gets_no_span_is_passed_on_as_the_same_object() -> None:
    """The splice tells by identity whether the field must be said anew."""
    assert sampler().follow(UNSAMPLED, 0.0) is UNSAMPLED
    assert Sampler(None, Random(1)).follow(SAMPLED, 0.0) is SAMPLED
    full = sampler(per_s=1.0)
    full.root(0.0)
    assert full.follow(SAMPLED, 0.0) is SAMPLED


def test_replacing_the_configuration_keeps_what_was_counted() -> None:
    ours = sampler(per_s=1.0)
    for _ in range(3):
        ours.root(0.0)
    ours.replace(None)
    assert not sampled(ours.root(9.0))
    ours.replace(Tracing(URL, 10_000, 5.0))
    assert sampled(ours.root(9.0))
    assert ours.over_rate == 2


# What a span says.


def exchange(parent: bytes = b"", own: bytes = SAMPLED, **changes: Any) -> Splice:
    """An exchange that is over: 40 ms, of which 10 for an upstream connection and 20 for its answer."""
    head = RequestHead(1, changes.pop("method", b"GET"), b"https", changes.pop("authority", b"orders"), b"/items/7", b"?secret=1", [], 0)
    head.host, _, _ = head.authority.partition(b":")
    head.trace = parent
    head.deadline = head.priority = -1
    why = Why(changes.pop("listener", "inbound"), "orders", changes.pop("route", "app"), "p.csv:3", "spiffe://shop/web")
    action = Forward((Target("up"),), timeout_s=0.0, idle_timeout_s=0.0, key=None, add=(), deadline=None, keep_forwarded=False)
    splice = Splice(Http1Server(Limits(), b"https"), head, Decision(action, why, float("inf"), (), b""), 100.0, own, None)
    splice.status = 200
    splice.endpoint = b"orders-1"
    splice.tries = 1
    splice.attached_at = 100.01
    splice.first_at = 100.03
    for name, value in changes.items():
        setattr(splice, name, value)
    return splice


def told(splice: Splice, tls_s: float = 0.0, path: bytes = b"") -> SpanRecord:
    return span_of(splice, tls_s, 1_700_000_000.5, 100.04, path)


def test_a_root_has_no_parent_and_a_followed_span_has_the_caller_s() -> None:
    root = told(exchange())
    assert (root.trace_id.hex(), root.span_id.hex(), root.parent_id) == (SAMPLED[3:35].decode(), SAMPLED[36:52].decode(), b"")
    own = sampler().follow(SAMPLED, 0.0)
    span = told(exchange(SAMPLED, own))
    assert span.trace_id == root.trace_id
    assert span.span_id.hex() == own[36:52].decode()
    assert span.parent_id == root.span_id


def test_a_span_lasts_from_the_head_to_the_end() -> None:
    span = told(exchange())
    assert span.end_ns == 1_700_000_000_500_000_000
    assert span.end_ns - span.start_ns == pytest.approx(40_000_000, abs=1_000)


def test_inbound_is_a_server_and_outbound_a_client() -> None:
    assert told(exchange()).kind is SpanKind.SERVER
    assert told(exchange(listener="outbound")).kind is SpanKind.CLIENT


def test_the_attributes_are_those_of_opentelemetry_s_conventions_and_ours() -> None:
    span = told(exchange(authority=b"orders:8443", decide_s=0.004), tls_s=0.003, path=b"/items/-")
    times = {name: span.attributes.pop(name) for name in list(span.attributes) if name.endswith("_ms")}
    assert span.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.scheme": "https",
        "url.path": "/items/-",
        "server.address": "orders",
        "server.port": 8443,
        "flui.principal": "spiffe://shop/web",
        "flui.rule": "p.csv:3",
        "flui.service": "orders",
        "flui.route": "app",
        "flui.upstream": "orders-1",
        "flui.attempts": 1,
    }
    assert times == pytest.approx({"flui.tls_ms": 3.0, "flui.decide_ms": 4.0, "flui.queue_ms": 6.0, "flui.upstream_ms": 20.0})
    assert not span.failed


def test_a_path_is_said_only_as_it_was_given_and_a_query_never() -> None:
    """Threats C13 and G7."""
    span = told(exchange())
    assert "url.path" not in span.attributes
    assert span.name == "GET app"
    shown = repr([(name, getattr(span, name)) for name in SpanRecord.__slots__])
    assert "items" not in shown
    assert "secret" not in shown
    assert told(exchange(), path=b"/a\x00\x80").attributes["url.path"] == "/a\\u0000\\u0080"
    assert len(str(told(exchange(), path=b"/" * 9_000).attributes["url.path"])) == 2_048


def test_names_come_from_closed_sets() -> None:
    assert told(exchange(method=b"BREW")).name == "HTTP app"
    attributes = told(exchange(method=b"BREW")).attributes
    assert (attributes["http.request.method"], attributes["http.request.method_original"]) == ("_OTHER", "BREW")
    assert told(exchange(route="-")).name == "GET"


def test_faults_and_statuses_from_500_are_errors_and_others_are_not() -> None:
    timeout = told(exchange(status=504, fault=Fault.UPSTREAM_TIMEOUT))
    assert timeout.failed
    assert timeout.attributes["error.type"] == "upstream_timeout"
    broken = told(exchange(status=500))
    assert broken.failed
    assert broken.attributes["error.type"] == "500"
    absent = told(exchange(status=404))
    assert not absent.failed
    assert "error.type" not in absent.attributes


def test_a_request_that_no_upstream_saw_tells_none() -> None:
    span = told(exchange(status=403, fault=Fault.DENIED, endpoint=b"", tries=0, attached_at=0.0, first_at=0.0))
    missing = {"flui.upstream", "flui.attempts", "flui.queue_ms", "flui.upstream_ms"}
    assert not missing & set(span.attributes)
    assert span.attributes["error.type"] == "denied"


def test_only_a_sampled_traceparent_of_our_own_making_has_a_span() -> None:
    ours = sampler()
    assert has_span(exchange(b"", ours.root(0.0)))
    assert has_span(exchange(SAMPLED, ours.follow(SAMPLED, 0.0)))
    assert not has_span(exchange(SAMPLED, SAMPLED))
    assert not has_span(exchange(UNSAMPLED, ours.follow(UNSAMPLED, 0.0)))
    assert not has_span(exchange(b"", sampler(0).root(0.0)))


def test_over_three_hops_each_span_is_the_child_of_the_one_before() -> None:
    """Caller, outbound sidecar, inbound sidecar: each sends on the traceparent with its own span id."""
    first, second, third = sampler(seed=1), sampler(seed=2), sampler(seed=3)
    one = first.root(0.0)
    two = second.follow(one, 0.0)
    three = third.follow(two, 0.0)
    spans = [told(exchange(b"", one)), told(exchange(one, two)), told(exchange(two, three))]
    assert len({span.trace_id for span in spans}) == 1
    assert [span.parent_id for span in spans] == [b"", spans[0].span_id, spans[1].span_id]

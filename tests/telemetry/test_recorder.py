"""What becomes of an exchange that ended: counted always, logged by its sample, redacted, shown to taps, and a span if it has one."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from flui.codecs.http1 import Http1Server
from flui.model.config import AccessLogging, Limits
from flui.model.decision import Decision, Forward, Why
from flui.model.events import RequestHead
from flui.model.fault import Fault
from flui.model.fields import Field, field
from flui.model.topology import Target
from flui.splice import Splice
from flui.telemetry.accesslog import fixed
from flui.telemetry.families import FAULTS, RESPONSE_OCTETS
from flui.telemetry.meters import Meters
from flui.telemetry.recorder import Recorder
from flui.telemetry.spans import SpanRecord
from flui.telemetry.tap import Record

OURS = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
CANARY = b"canary"
LABELS = ("inbound", "orders", "app", "spiffe://shop/web", "rules.csv:1")


class Writer:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


class Looking:
    def __init__(self) -> None:
        self.active = False
        self.seen: list[Record] = []

    def offer(self, record: Record) -> None:
        assert self.active, "nobody looks: it was not worth the call"
        self.seen.append(record)


class Sink:
    def __init__(self) -> None:
        self.spans: list[SpanRecord] = []

    def offer(self, span: SpanRecord) -> None:
        self.spans.append(span)


class Rig:
    def __init__(self, logging: AccessLogging | None = None, *, written: bool = True) -> None:
        self.meters = Meters()
        self.writer = Writer()
        self.taps = Looking()
        where = self.writer if written else None
        self.recorder = Recorder(self.meters, where, logging or AccessLogging(), self.taps)  # type: ignore[arg-type] # what is called of them is there

    def end(self, now: float = 10.25, tls_s: float = 0.0, **more: Any) -> Splice:
        splice = exchange(**more)
        self.recorder.exchange(splice, now, tls_s)
        return splice


def exchange(
    path: bytes = b"/items/7",
    status: int = 200,
    fault: Fault | None = None,
    trace: bytes = OURS + b"0",
    said: bytes = b"",
    fields: tuple[Field, ...] = (),
    **members: Any,
) -> Splice:
    """An exchange that began at 10.0, was sent on at 10.05 and answered at 10.15."""
    why = Why("inbound", "orders", "app", "rules.csv:1", "spiffe://shop/web")
    forward = Forward((Target("@app"),), 15.0, 60.0, None, (), None, keep_forwarded=False)
    text = fixed({"listener": "inbound", "service": "orders", "route": "app", "rule": "rules.csv:1", "principal": "spiffe://shop/web"})
    decision = Decision(forward, why, float("inf"), LABELS, text)
    head = RequestHead(1, b"GET", b"https", b"orders:80", path, b"?token=" + CANARY, list(fields), 0)
    head.host, head.trace, head.key, head.deadline, head.attempt, head.priority = b"orders", said, b"", -1, 1, -1
    head.repeatable, head.forwarded = False, None
    splice = Splice(Http1Server(Limits(), b"https"), head, decision, 10.0, trace, None)
    splice.status, splice.fault = status, fault
    splice.attached_at, splice.first_at, splice.endpoint, splice.tries = 10.05, 10.15, b"app", 1
    splice.octets_in, splice.octets_out = 11, 22
    for name, value in members.items():
        setattr(splice, name, value)
    return splice


def test_an_exchange_is_counted_and_logged_with_the_same_numbers() -> None:
    rig = Rig()
    rig.end(tls_s=0.002, decide_s=0.0005, tries=2)
    assert rig.meters.requests() == [(("inbound", "orders", "app", "200"), 1)]
    (totals,) = rig.meters.routes().values()
    assert (totals.octets_in, totals.octets_out, totals.seconds) == (11, 22, 0.25)
    (line,) = rig.writer.records
    assert {name: line[name] for name in ("status", "fault", "upstream", "attempts", "request_octets", "response_octets")} == {
        "status": 200, "fault": "", "upstream": "app", "attempts": 2, "request_octets": 11, "response_octets": 22,
    }  # fmt: skip
    assert (line["tls_ms"], line["decide_ms"], line["queue_ms"], line["upstream_ms"], line["total_ms"]) == (2, 0.5, 49.5, 100, 250)
    assert line["trace"] == OURS[3:35].decode()


def test_a_fault_is_counted_by_its_name_and_told_in_the_line() -> None:
    rig = Rig()
    rig.end(status=502, fault=Fault.UPSTREAM_RESET, first_at=0.0)
    assert rig.meters.samples(FAULTS) == {("inbound", "upstream_reset"): 1}
    (line,) = rig.writer.records
    assert (line["status"], line["fault"], line["upstream_ms"]) == (502, "upstream_reset", 0)


def test_an_exchange_that_was_never_sent_waited_for_nobody() -> None:
    rig = Rig()
    rig.end(status=403, fault=Fault.DENIED, attached_at=0.0, first_at=0.0, endpoint=b"", tries=0, decide_s=0.1)
    (line,) = rig.writer.records
    assert (line["queue_ms"], line["upstream_ms"], line["attempts"], line["upstream"]) == (0, 0, 0, "")


# --- samples ----------------------------------------------------------------------------------------------------------------


def test_a_part_of_the_successes_is_logged_and_the_rest_is_counted() -> None:
    """Within three deviations, by the trace's own bits: two sidecars keep the same ones."""
    both = [Rig(AccessLogging(successes_bp=1_000)) for _ in range(2)]
    random = Random(5)
    for _ in range(5_000):
        trace = b"00-%032x-b7ad6b7169203331-00" % random.getrandbits(128)
        for rig in both:
            rig.end(trace=trace)
    kept = [{line["trace"] for line in rig.writer.records} for rig in both]
    assert kept[0] == kept[1]
    assert abs(len(kept[0]) - 500) <= 3 * (5_000 * 0.1 * 0.9) ** 0.5
    for rig in both:
        assert rig.recorder.sampled == 5_000 - len(kept[0])
        assert rig.meters.requests() == [(("inbound", "orders", "app", "200"), 5_000)], "metrics count all"


@pytest.mark.parametrize(
    "ending",
    [
        {"status": 400},
        {"status": 404},
        {"status": 500},
        {"status": 200, "fault": Fault.UPSTREAM_RESET},
        {"status": 499, "fault": Fault.CALLER_GONE},
    ],
)
def test_what_failed_is_logged_whatever_the_sample(ending: dict[str, Any]) -> None:
    rig = Rig(AccessLogging(successes_bp=0))
    for _ in range(20):
        rig.end(**ending)
        rig.end(status=302)
    assert len(rig.writer.lines) == 20
    assert rig.recorder.sampled == 20


def test_a_log_that_is_off_leaves_nothing_out() -> None:
    rig = Rig(AccessLogging(file="off", successes_bp=0), written=False)
    rig.end()
    assert rig.recorder.sampled == 0


def test_another_configuration_holds_from_the_next_exchange_on() -> None:
    rig = Rig(AccessLogging(successes_bp=0))
    rig.end(path=b"/users/jane")
    rig.recorder.tune(AccessLogging(redact=("/users/:id",)))
    rig.end(path=b"/users/jane")
    rig.recorder.tune(AccessLogging())
    rig.end(path=b"/users/jane")
    assert [line["path"] for line in rig.writer.records] == ["/users/-", "/users/jane"]
    assert rig.recorder.sampled == 1


# --- who looks on -----------------------------------------------------------------------------------------------------------


def test_a_tap_is_shown_what_sampling_left_out_and_what_no_log_has() -> None:
    for rig in (Rig(AccessLogging(successes_bp=0)), Rig(written=False)):
        rig.end()
        rig.taps.active = True
        splice = rig.end(path=b"/items/8", status=404)
        rig.end(path=b"/items/9")
        assert [(record.path, record.status, record.total_s) for record in rig.taps.seen] == [
            (b"/items/8", 404, 0.25),
            (b"/items/9", 200, 0.25),
        ]
        assert rig.taps.seen[0].why is splice.decision.why
        assert rig.taps.seen[0].trace == splice.trace
        assert json.loads(rig.taps.seen[1].line)["path"] == "/items/9"


def test_a_tap_is_asked_by_the_path_itself_and_filters_see_the_redacted_one() -> None:
    rig = Rig(AccessLogging(redact=("/users/:id",)))
    rig.taps.active = True
    rig.end(path=b"/users/jane")
    (record,) = rig.taps.seen
    assert (record.path, record.shown) == (b"/users/jane", b"/users/-")
    assert b"jane" not in record.line


# --- spans ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trace", "said", "spans"), [
    (OURS + b"1", b"", 1),
    (OURS + b"1", OURS[:36] + b"0123456789abcdef-01", 1),
    (OURS + b"0", b"", 0),
])  # fmt: skip
def test_only_what_was_sampled_here_has_a_span(trace: bytes, said: bytes, spans: int) -> None:
    rig = Rig()
    rig.end(trace=trace, said=said)  # nothing is traced: nobody to tell
    sink = rig.recorder.spans = Sink()
    rig.end(trace=trace, said=said)
    assert len(sink.spans) == spans
    for span in sink.spans:
        assert span.trace_id.hex() == trace[3:35].decode()
        assert span.parent_id.hex() == said[36:52].decode()


def test_a_callers_span_that_was_passed_on_is_not_ours() -> None:
    rig = Rig()
    sink = rig.recorder.spans = Sink()
    said = OURS + b"1"
    rig.end(trace=b"", said=said)
    assert not sink.spans


def test_a_span_is_sent_also_when_the_line_is_left_out() -> None:
    rig = Rig(AccessLogging(successes_bp=0))
    sink = rig.recorder.spans = Sink()
    rig.end(trace=OURS + b"1")
    assert len(sink.spans) == 1
    assert not rig.writer.lines


# --- secrets ----------------------------------------------------------------------------------------------------------------


def test_neither_query_nor_fields_nor_what_is_redacted_is_told_anybody() -> None:
    """Threats G7."""
    rig = Rig(AccessLogging(redact=("/users/*", "/a/:x")))
    rig.taps.active = True
    sink = rig.recorder.spans = Sink()
    for path in (b"/users/" + CANARY, b"/users/x/" + CANARY, b"/a/" + CANARY):
        rig.end(path=path, trace=OURS + b"1", fields=(field(b"authorization", CANARY), field(b"x-" + CANARY, b"1")))
    assert len(rig.writer.lines) == len(sink.spans) == 3
    for span in sink.spans:
        assert CANARY.decode() not in repr([span.name, span.attributes])
    for octets in (*rig.writer.lines, *(record.line for record in rig.taps.seen), *(record.shown for record in rig.taps.seen)):
        assert CANARY not in octets


# --- what never became an exchange ------------------------------------------------------------------------------------------


def bad(path: bytes = b"/%zz") -> RequestHead:
    return RequestHead(1, b"GET", b"https", b"orders", path, b"", [], 0)


def test_what_cannot_be_decided_on_is_counted_logged_and_shown_without_names() -> None:
    rig = Rig(AccessLogging(successes_bp=0))
    rig.taps.active = True
    rig.recorder.refused("inbound", "spiffe://shop/web", Fault.MALFORMED, bad(), 120, 0.003)
    rig.recorder.refused("inbound", "spiffe://shop/web", Fault.REQUEST_TIMEOUT, None, 0, 0.0)
    assert rig.meters.requests() == [(("inbound", "-", "-", "400"), 1), (("inbound", "-", "-", "408"), 1)]
    assert rig.meters.samples(FAULTS) == {("inbound", "malformed"): 1, ("inbound", "request_timeout"): 1}
    assert rig.meters.routes()["inbound", "-", "-"].octets_out == 120, RESPONSE_OCTETS.name
    first, second = rig.writer.records
    assert (first["rule"], first["principal"], first["path"], first["tls_ms"]) == ("not decided", "spiffe://shop/web", "/%zz", 3)
    assert (second["method"], second["path"], second["trace"]) == ("", "", "")
    assert [(record.path, record.fault) for record in rig.taps.seen] == [(b"", "malformed"), (b"", "request_timeout")]


def test_a_path_that_no_validator_has_seen_is_left_out_whole_where_anything_is_redacted() -> None:
    """It may be spelt so that no pattern knows it."""
    rig = Rig(AccessLogging(redact=("/users/:id",)))
    rig.taps.active = True
    rig.recorder.refused("inbound", "x", Fault.MALFORMED, bad(b"//users/" + CANARY + b"%zz"), 0, 0.0)
    (line,) = rig.writer.records
    assert line["path"] == "-"
    assert CANARY not in rig.taps.seen[0].line
    assert rig.taps.seen[0].shown == b"-"


def test_without_a_log_and_without_taps_no_line_is_made() -> None:
    rig = Rig(written=False)
    rig.recorder._line = None  # type: ignore[assignment] # calling it would be the mistake
    rig.end()
    rig.recorder.refused("inbound", "x", Fault.MALFORMED, bad(), 0, 0.0)
    assert len(rig.meters.requests()) == 2

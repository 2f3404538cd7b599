"""What becomes of an exchange that ended: meters, one access-log line, a span if it is sampled, and what taps are shown."""

from __future__ import annotations

import time
from typing import Final

from flui.call import Call
from flui.model.config import AccessLogging
from flui.model.decision import Why
from flui.model.events import RequestHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import is_sampled
from flui.model.grpc import Status
from flui.model.resilience import WHOLE_BP
from flui.model.spoken import Dialect
from flui.splice import Splice
from flui.telemetry.accesslog import RANDOM_FROM, RANDOM_TO, AccessLog, fixed, sample_bound
from flui.telemetry.families import FAULTS, GRPC_CALLS
from flui.telemetry.logwriter import LogWriter
from flui.telemetry.meters import Meters
from flui.telemetry.redact import redactor
from flui.telemetry.spans import SpanSink, has_span, span_of
from flui.telemetry.tap import Record, Taps

_NAMES: Final[tuple[str, ...]] = tuple(status.name for status in Status)
_SAID: Final[tuple[bytes, ...]] = tuple(b'"grpc_status":"%b",' % status.name.encode() for status in Status)
_DIALECTS: Final[tuple[bytes, ...]] = tuple(b'"dialect":"%b",' % dialect.label.encode() for dialect in Dialect)
"""Members of a line, ready: by the number of a status, and by dialect."""


class Recorder:
    """Counts exchanges, logs them, and shows them to taps."""

    __slots__ = ("_bound", "_line", "_redactor", "_writer", "meters", "sampled", "spans", "taps")

    def __init__(self, meters: Meters, writer: LogWriter | None, logging: AccessLogging, taps: Taps) -> None:
        """A recorder.

        Args:
            meters: Where exchanges are counted.
            writer: Where access-log lines go; None: nowhere.
            logging: Which lines are written, and what of their paths.
            taps: Who looks on.
        """
        self.meters = meters
        self.taps = taps
        self.spans: SpanSink | None = None
        """Where spans go; None: nothing is traced."""
        self.sampled = 0
        """Successes left out of the access log."""
        self._writer = writer
        self._line = AccessLog().line
        self.tune(logging)

    def tune(self, logging: AccessLogging) -> None:
        """Takes up what is written of lines; where they go stays."""
        self._bound = sample_bound(logging.successes_bp, WHOLE_BP)
        self._redactor = redactor(logging.redact)

    def exchange(self, splice: Splice, now: float, tls_s: float) -> None:
        """An exchange is over.

        Args:
            splice: Its record.
            now: Monotonic seconds.
            tls_s: What the handshake took, on the first exchange of a connection; else 0.
        """
        decision = splice.decision
        begun = splice.begun_at
        fault = splice.fault
        trace = splice.trace
        status = splice.status
        fixed_text = decision.log_text
        if splice.head.grpc and isinstance(splice, Call):
            status = splice.judged()
            said = splice.outcome()
            labels = decision.labels
            self.meters.count(GRPC_CALLS, labels[0], labels[1], labels[2], _NAMES[said])
            fixed_text += _SAID[said]
            if splice.dialect is not None:
                fixed_text += _DIALECTS[splice.dialect]
        self.meters.exchange(decision.labels, status, now - begun, splice.octets_in, splice.octets_out)
        if fault is not None:
            self.meters.count(FAULTS, decision.labels[0], fault.value)
        if self.spans is not None and is_sampled(trace):
            self._span(splice, now, tls_s)
        writer = self._writer
        bound = self._bound
        if bound is not None and writer is not None and fault is None and status < 400 and trace[RANDOM_FROM:RANDOM_TO] >= bound:
            self.sampled += 1
            writer = None
        tapped = self.taps.active
        if writer is None and not tapped:
            return
        attached = splice.attached_at
        first = splice.first_at
        head = splice.head
        path = head.path
        hides = self._redactor
        shown = path if hides is None else hides.path(path)
        line = self._line(
            time.time(),  # noqa: TID251 - the edge: log lines carry wall-clock time
            fixed_text,
            trace[3:35],
            head.method,
            head.authority,
            shown,
            splice.status,
            fault.value.encode() if fault is not None else b"",
            splice.endpoint,
            splice.tries,
            splice.octets_in,
            splice.octets_out,
            tls_s,
            splice.decide_s,
            attached - begun - splice.decide_s if attached > begun else 0.0,
            first - attached if first else 0.0,
            now - begun,
        )
        if writer is not None:
            writer.write(line)
        if tapped:
            told = fault.value if fault is not None else ""
            self.taps.offer(Record(line, decision.why, path, shown, trace, head.method, status, told, now - begun))

    def _span(self, splice: Splice, now: float, tls_s: float) -> None:
        if has_span(splice) and self.spans is not None:
            path = splice.head.path if self._redactor is None else self._redactor.path(splice.head.path)
            self.spans.offer(span_of(splice, tls_s, time.time(), now, path))  # noqa: TID251 - spans carry wall-clock time

    def refused(self, listener: str, principal: str, fault: Fault, head: RequestHead | None, octets_out: int, tls_s: float) -> None:
        """A request was answered before there was anything to decide on: malformed, too large, too slow."""
        status = DIALECTS[fault].http
        self.meters.count(FAULTS, listener, fault.value)
        self.meters.exchange((listener, "-", "-", "-", "-"), status, 0.0, 0, octets_out)
        writer = self._writer
        tapped = self.taps.active
        if writer is None and not tapped:
            return
        why = Why(listener, "-", "-", "not decided", principal)
        members = {"listener": listener, "service": "-", "route": "-", "rule": why.rule, "principal": principal}
        method, authority, path = (head.method, head.authority, head.path) if head is not None else (b"", b"", b"")
        if self._redactor is not None:
            path = self._redactor.unseen(path)
        line = self._line(
            time.time(),  # noqa: TID251 - the edge: log lines carry wall-clock time
            fixed(members),
            b"",
            method,
            authority,
            path,
            status,
            fault.value.encode(),
            b"",
            0,
            0,
            octets_out,
            tls_s,
            0.0,
            0.0,
            0.0,
            0.0,
        )
        if writer is not None:
            writer.write(line)
        if tapped:
            self.taps.offer(Record(line, why, b"", path, b"", method, status, fault.value, 0.0))

"""What becomes of an exchange that ended: meters and one access-log line."""

from __future__ import annotations

import time

from flui.model.events import RequestHead
from flui.model.fault import DIALECTS, Fault
from flui.splice import Splice
from flui.telemetry.accesslog import AccessLog, fixed
from flui.telemetry.families import FAULTS
from flui.telemetry.logwriter import LogWriter
from flui.telemetry.meters import Meters


class Recorder:
    """Counts exchanges and logs them."""

    __slots__ = ("_line", "_writer", "meters")

    def __init__(self, meters: Meters, writer: LogWriter | None) -> None:
        """A recorder.

        Args:
            meters: Where exchanges are counted.
            writer: Where access-log lines go; None: nowhere.
        """
        self.meters = meters
        self._writer = writer
        self._line = AccessLog().line

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
        self.meters.exchange(decision.labels, splice.status, now - begun, splice.octets_in, splice.octets_out)
        if fault is not None:
            self.meters.count(FAULTS, decision.labels[0], fault.value)
        writer = self._writer
        if writer is not None:
            attached = splice.attached_at
            first = splice.first_at
            head = splice.head
            writer.write(
                self._line(
                    time.time(),  # noqa: TID251 - the edge: log lines carry wall-clock time
                    decision.log_text,
                    splice.trace[3:35],
                    head.method,
                    head.authority,
                    head.path,
                    splice.status,
                    fault.value.encode() if fault is not None else b"",
                    splice.endpoint,
                    splice.octets_in,
                    splice.octets_out,
                    tls_s,
                    splice.decide_s,
                    attached - begun - splice.decide_s if attached > begun else 0.0,
                    first - attached if first else 0.0,
                    now - begun,
                )
            )

    def refused(self, listener: str, principal: str, fault: Fault, head: RequestHead | None, octets_out: int, tls_s: float) -> None:
        """A request was answered before there was anything to decide on: malformed, too large, too slow."""
        self.meters.count(FAULTS, listener, fault.value)
        self.meters.exchange((listener, "-", "-", "-", "-"), DIALECTS[fault].http, 0.0, 0, octets_out)
        writer = self._writer
        if writer is not None:
            members = {"listener": listener, "service": "-", "route": "-", "rule": "not decided", "principal": principal}
            method, authority, path = (head.method, head.authority, head.path) if head is not None else (b"", b"", b"")
            writer.write(
                self._line(
                    time.time(),  # noqa: TID251 - the edge: log lines carry wall-clock time
                    fixed(members),
                    b"",
                    method,
                    authority,
                    path,
                    DIALECTS[fault].http,
                    fault.value.encode(),
                    b"",
                    0,
                    octets_out,
                    tls_s,
                    0.0,
                    0.0,
                    0.0,
                    0.0,
                )
            )

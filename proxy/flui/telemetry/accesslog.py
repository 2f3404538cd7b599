"""The access log: one JSON object per exchange, on one line, in a fixed order of members.

A line is the time, the ready text of the decision (`fixed`, made once per flow) and the exchange's own part. Nothing a
peer says can leave its string (threats G7): what is not plain is escaped and cut to 2 KiB. Query strings, fields and
bodies are never logged. `docs/telemetry.md` lists the members.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

FIELD_LIMIT: Final = 2_048
"""Octets of one member's text at most, escapes included."""

# What needs no escape and gives nothing away: no quote, backslash or control octet; `?`, `#` and `@` may begin or end what is never logged.
_PLAIN: Final = frozenset(range(0x21, 0x7F)) - frozenset(b'"\\?#@')
_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE"))
_AUTHORITIES: Final = 1_024
_AUTHORITY_LIMIT: Final = 255
# Maps everything else to `~`: text is plain exactly when this changes nothing. 60 ns; a regular expression takes 220.
_SIEVE: Final = bytes(octet if octet in _PLAIN else 0x7E for octet in range(256))
_UNSAFE: Final = re.compile(rb'["\\\x00-\x1f\x7f-\xff]')
_CUT: Final = b"..."
_PARTIAL_ESCAPE: Final = re.compile(rb"(?<!\\)(?:\\\\)*(\\(?:u[0-9a-f]{0,3})?)\Z")

RANDOM_FROM: Final = 19
RANDOM_TO: Final = 35
"""Where the last half of the trace id stands in a traceparent, in hexadecimal: what samplers of traces look at too."""
_WHOLE_PART: Final = 1 << 64

# Formatting a float costs 0.15 µs, reading a list 0.03; most exchanges behind a sidecar take less than 8 ms. 0.4 MB.
_READY_US: Final = 8_192
_DURATIONS: Final = [b"%d.%03d" % divmod(us, 1_000) for us in range(_READY_US)]


class AccessLog:
    """Makes lines; remembers the text of the current millisecond, and authorities that need no escape."""

    __slots__ = ("_authorities", "_from", "_second", "_second_text", "_time", "_until")

    def __init__(self) -> None:
        self._authorities: set[bytes] = set()
        self._second = -1
        self._second_text = b""
        self._time = b""
        # `_time` is right from _from up to _until, both Unix seconds
        self._from = 0.0
        self._until = 0.0

    def line(
        self,
        now: float,
        fixed_text: bytes,
        trace: bytes,
        method: bytes,
        authority: bytes,
        path: bytes,
        status: int,
        fault: bytes,
        upstream: bytes,
        attempts: int,
        octets_in: int,
        octets_out: int,
        tls_s: float,
        decide_s: float,
        queue_s: float,
        upstream_s: float,
        total_s: float,
    ) -> bytes:
        """One record, newline included.

        Args:
            now: Unix seconds, the end of the exchange.
            fixed_text: ready members from `fixed`, with their commas (`Decision.log_text`).
            trace: trace id, 32 hex digits, of our own making or validated.
            method: as asked.
            authority: as asked; userinfo is left out.
            path: without query; one that comes along all the same is left out.
            status: what downstream was told; 0 when it was gone before.
            fault: `Fault.value` in octets, empty when there was none.
            upstream: name of the endpoint, from configuration; empty when none was asked.
            attempts: how often it was sent to an endpoint.
            octets_in: request body.
            octets_out: response body.
            tls_s: seconds of the TLS handshake, on the first exchange of a connection; else 0.
            decide_s: validation, facts and decision.
            queue_s: waiting for an upstream connection; 0 when one was ready.
            upstream_s: from the head sent to the response's head.
            total_s: from the request's head to the end. No duration is negative: they are differences of a monotonic clock.
        """
        if not self._from <= now < self._until:
            self._tick(now)
        # plain means: unchanged by `safe`; authorities and methods are few, so they are remembered
        if method not in _METHODS or authority not in self._authorities or path.translate(_SIEVE) != path or len(path) > FIELD_LIMIT:
            method, authority, path = safe(method, 64), self._authority(authority), safe(_path(path))
        ready = _DURATIONS
        decide = int(decide_s * 1e6)
        answer = int(upstream_s * 1e6)
        total = int(total_s * 1e6)
        return (
            b'{"time":"%b",%b"trace":"%b","method":"%b","authority":"%b","path":"%b","status":%d,"fault":"%b","upstream":"%b","attempts":%d,'
            b'"request_octets":%d,"response_octets":%d,"tls_ms":%b,"decide_ms":%b,"queue_ms":%b,"upstream_ms":%b,"total_ms":%b}\n'
            % (
                self._time,
                fixed_text,
                trace,
                method,
                authority,
                path,
                status,
                fault,
                upstream,
                attempts,
                octets_in,
                octets_out,
                _milliseconds(tls_s) if tls_s else b"0.000",
                ready[decide] if decide < _READY_US else _milliseconds(decide_s),
                _milliseconds(queue_s) if queue_s else b"0.000",
                ready[answer] if answer < _READY_US else _milliseconds(upstream_s),
                ready[total] if total < _READY_US else _milliseconds(total_s),
            )
        )

    def _authority(self, authority: bytes) -> bytes:
        """What is logged of an authority: without userinfo, where a password may stand, and escaped."""
        if len(authority) <= _AUTHORITY_LIMIT and authority.translate(_SIEVE) == authority:
            if len(self._authorities) >= _AUTHORITIES:
                self._authorities.clear()
            self._authorities.add(authority)
            return authority
        return safe(_host(authority))

    def _tick(self, now: float) -> None:
        milliseconds = int(now * 1_000)
        second, rest = divmod(milliseconds, 1_000)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        self._time = b"%b.%03dZ" % (self._second_text, rest)
        self._from = milliseconds / 1_000
        self._until = (milliseconds + 1) / 1_000


def sample_bound(share: int, whole: int) -> bytes | None:
    """What decides which exchanges belong to a sample: those of which that part (from `RANDOM_FROM` to `RANDOM_TO`) is less.

    The trace id's own bits decide, and not a counter, so that all hops of a trace keep it or leave it out alike, and a trace that a
    smaller sample has is also in every larger one, as is what OpenTelemetry's `TraceIdRatioBased` takes. A caller that makes up
    its trace ids so chooses which of its exchanges are kept: a sample is for looking, not for proving. Failures are never left
    out, and metrics count everything.

    Args:
        share: what is kept of `whole`, which is greater than 0.
        whole: all of it.

    Returns:
        The bound; None when everything is kept.
    """
    return None if share >= whole else b"%016x" % (max(0, share) * _WHOLE_PART // whole)


def fixed(members: Mapping[str, str]) -> bytes:
    """Ready members for `AccessLog.line`: `"name":"value",` each, escaped and cut.

    Args:
        members: names are ours; values may be anything.
    """
    return b"".join(
        b'"%b":"%b",' % (safe(name.encode()), safe(value.encode("utf-8", "backslashreplace"))) for name, value in members.items()
    )


def safe(value: bytes, limit: int = FIELD_LIMIT) -> bytes:
    r"""The inside of a JSON string that shows `value`, in printable ASCII.

    Quotes and backslashes are escaped, control octets and octets from 0x7f become `\u00xx` (one escape per octet: what
    was sent can be read back). A cut value ends in `...`.

    Args:
        value: octets from anywhere.
        limit: octets of the result at most; at least 3.
    """
    cut = len(value) > limit
    if cut:
        value = value[:limit]
    if _UNSAFE.search(value):
        value = _UNSAFE.sub(_escape, value)
    if not cut and len(value) <= limit:
        return value
    value = value[: limit - len(_CUT)]
    partial = _PARTIAL_ESCAPE.search(value)
    return (value[: partial.start(1)] if partial else value) + _CUT


def _escape(match: re.Match[bytes]) -> bytes:
    octet = match[0]
    return b"\\" + octet if octet in b'"\\' else b"\\u%04x" % octet[0]


def _milliseconds(seconds: float) -> bytes:
    return b"%.3f" % (seconds * 1e3)


def _host(authority: bytes) -> bytes:
    """An authority without userinfo."""
    return authority.rpartition(b"@")[2]


def _path(path: bytes) -> bytes:
    """A path without query, fragment and, in absolute form, userinfo."""
    path = path.partition(b"?")[0].partition(b"#")[0]
    if path[:1] == b"/" or b"@" not in path:
        return path
    scheme, separator, rest = path.partition(b"://")
    return scheme + separator + _host(rest) if separator else _host(path)

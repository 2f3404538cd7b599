"""Every metric by name: what it counts, and the names of its labels. Nothing is counted that is not listed here.

Label values come from configuration or from our own enumerations, never from a request (threats C13).
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Kind(Enum):
    """What a family's numbers are."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    """Sum and count only."""


class Family:
    """One metric: its name, what it counts, the names of its labels. Compared by identity; all are listed in `FAMILIES`."""

    __slots__ = ("help", "kind", "labels", "name")

    def __init__(self, name: str, kind: Kind, labels: tuple[str, ...], about: str) -> None:
        self.name = name
        self.kind = kind
        self.labels = labels
        self.help = about


_ROUTE: Final = ("listener", "service", "route")

# Filled by `Meters.exchange`.
REQUESTS: Final = Family("flui_requests_total", Kind.COUNTER, (*_ROUTE, "code"), "Exchanges that ended, by status code.")
DURATION: Final = Family(
    "flui_request_duration_seconds", Kind.HISTOGRAM, _ROUTE, "Time from the request's head to the end of the exchange."
)
REQUEST_OCTETS: Final = Family("flui_request_octets_total", Kind.COUNTER, _ROUTE, "Octets of request bodies.")
RESPONSE_OCTETS: Final = Family("flui_response_octets_total", Kind.COUNTER, _ROUTE, "Octets of response bodies.")
PEER_REQUESTS: Final = Family("flui_peer_requests_total", Kind.COUNTER, ("listener", "peer", "code"), "Exchanges that ended, by who asked.")
PEER_SECONDS: Final = Family("flui_peer_request_duration_seconds", Kind.SUMMARY, ("listener", "peer"), "Time of exchanges, by who asked.")
RULE_REQUESTS: Final = Family(
    "flui_rule_requests_total", Kind.COUNTER, ("listener", "rule", "code"), "Exchanges that ended, by the rule that decided."
)
RULE_SECONDS: Final = Family(
    "flui_rule_request_duration_seconds", Kind.SUMMARY, ("listener", "rule"), "Time of exchanges, by the rule that decided."
)
FOLDED: Final = Family(
    "flui_exchanges_folded_total", Kind.COUNTER, (), "Exchanges and events counted under `other`: the limit of series was reached."
)

# Filled by `Meters.count`.
FAULTS: Final = Family(
    "flui_faults_total", Kind.COUNTER, ("listener", "fault"), "Exchanges that ended in a fault, malformed requests included."
)
CONNECTIONS_ACCEPTED: Final = Family("flui_connections_accepted_total", Kind.COUNTER, ("listener",), "Downstream connections accepted.")
HANDSHAKES_REFUSED: Final = Family(
    "flui_handshakes_refused_total", Kind.COUNTER, ("listener", "reason"), "TLS handshakes and identities refused, by reason."
)
UPSTREAM_CONNECTS: Final = Family(
    "flui_upstream_connects_total", Kind.COUNTER, ("cluster", "outcome"), "Connections tried to endpoints, by outcome."
)
RELOADS: Final = Family(
    "flui_reloads_total", Kind.COUNTER, ("what", "outcome"), "Reloads of policy, configuration and certificates, by outcome."
)

# Read when the page is asked for: `Meters.read`.
FLOW_LOOKUPS: Final = Family("flui_flow_lookups_total", Kind.COUNTER, ("result",), "Look-ups in the flow table, hit or miss.")
LOG_LINES_DROPPED: Final = Family(
    "flui_log_lines_dropped_total", Kind.COUNTER, ("log",), "Log lines lost: nobody read them, or the disk failed."
)
CONNECTIONS_OPEN: Final = Family("flui_connections_open", Kind.GAUGE, ("listener",), "Downstream connections open now.")
UPSTREAM_CONNECTIONS: Final = Family("flui_upstream_connections", Kind.GAUGE, ("cluster", "state"), "Upstream connections, idle or busy.")
FLOWS: Final = Family("flui_flows", Kind.GAUGE, (), "Entries of the flow table.")
CERTIFICATE_EXPIRY: Final = Family(
    "flui_certificate_expiry_timestamp_seconds", Kind.GAUGE, ("certificate",), "Unix time at which the certificate ends."
)
POLICY_INFO: Final = Family("flui_policy_info", Kind.GAUGE, ("version",), "1 for the policy that is in force.")
BUILD_INFO: Final = Family("flui_build_info", Kind.GAUGE, ("version", "python", "form"), "1; form is pure or compiled.")
UPTIME: Final = Family("flui_uptime_seconds", Kind.GAUGE, (), "Seconds since the sidecar started.")

# Resilience, filled by `Meters.count`.
RETRIES: Final = Family(
    "flui_retries_total", Kind.COUNTER, ("cluster", "outcome"), "Second and further tries: sent, over_budget, given_up (body too long)."
)
HEDGES: Final = Family("flui_hedges_total", Kind.COUNTER, ("cluster", "outcome"), "Tries beside a slow one: sent, won.")
EJECTIONS: Final = Family("flui_endpoint_ejections_total", Kind.COUNTER, ("cluster", "endpoint", "why"), "Endpoints taken out, by reason.")
HEALTH_CHECKS: Final = Family(
    "flui_health_checks_total", Kind.COUNTER, ("cluster", "endpoint", "outcome"), "Active health checks: well, ill."
)
BREAKER_REFUSED: Final = Family(
    "flui_breaker_refused_total",
    Kind.COUNTER,
    ("cluster", "what"),
    "Requests refused: connections, pending or requests at their limit.",
)
RATE_LIMITED: Final = Family("flui_rate_limited_total", Kind.COUNTER, ("listener", "route"), "Requests refused by a rate limit.")
SHED: Final = Family(
    "flui_shed_total",
    Kind.COUNTER,
    ("listener", "priority", "why"),
    "Requests refused at once, for overload of the sidecar or concurrency of the cluster.",
)
MIRRORED: Final = Family(
    "flui_mirrored_total", Kind.COUNTER, ("cluster", "outcome"), "Copies of requests: sent, answered, failed, dropped."
)
INJECTED: Final = Family("flui_injected_total", Kind.COUNTER, ("route", "what"), "Faults made on purpose: delay, abort.")
CONNECTIONS_REFUSED: Final = Family(
    "flui_connections_refused_total",
    Kind.COUNTER,
    ("listener", "why"),
    "Connections closed before they were served: per_source, reserved, handshakes.",
)
SPANS: Final = Family("flui_spans_total", Kind.COUNTER, ("outcome",), "Spans: sent, failed, dropped (queue full), over_rate.")

# Resilience, read when the page is asked for.
ENDPOINT_AVAILABLE: Final = Family(
    "flui_endpoint_available", Kind.GAUGE, ("cluster", "endpoint"), "1 while the endpoint gets requests, 0 while it is out."
)
ENDPOINT_SHARE: Final = Family(
    "flui_endpoint_share", Kind.GAUGE, ("cluster", "endpoint"), "Part of its full share that it gets (slow start)."
)
ENDPOINT_REQUESTS: Final = Family(
    "flui_endpoint_requests_total",
    Kind.COUNTER,
    ("cluster", "endpoint"),
    "Tries sent to the endpoint, retries, hedges and copies included.",
)
ENDPOINT_ACTIVE: Final = Family("flui_endpoint_requests_active", Kind.GAUGE, ("cluster", "endpoint"), "Requests in flight.")
CLUSTER_PANIC: Final = Family("flui_cluster_panic", Kind.GAUGE, ("cluster",), "1 while fewer than half of the endpoints are well.")
BREAKER_USED: Final = Family("flui_breaker_used", Kind.GAUGE, ("cluster", "what"), "Connections, pending and requests now.")
BREAKER_LIMIT: Final = Family("flui_breaker_limit", Kind.GAUGE, ("cluster", "what"), "Their limits.")
RETRIES_ACTIVE: Final = Family("flui_retries_active", Kind.GAUGE, ("cluster",), "Retries and hedges under way.")
RETRIES_ALLOWED: Final = Family("flui_retries_allowed", Kind.GAUGE, ("cluster",), "What the budget allows now.")
CONCURRENCY_LIMIT: Final = Family("flui_concurrency_limit", Kind.GAUGE, ("cluster",), "Requests in flight that the adaptive limit allows.")
LOOP_LAG: Final = Family("flui_loop_lag_seconds", Kind.GAUGE, (), "How long work waits for the event loop.")
OVERLOAD_LEVEL: Final = Family("flui_overload_level", Kind.GAUGE, (), "0: nothing is shed; 1: low priority; 2: also normal.")
BUFFERED: Final = Family("flui_buffered_octets", Kind.GAUGE, ("side",), "Octets waiting in the sidecar: downstream, upstream, replay.")
GRPC_CALLS: Final = Family("flui_grpc_calls_total", Kind.COUNTER, (*_ROUTE, "status"), "gRPC calls that ended, by gRPC's status.")
HTTP2_BOUNDS: Final = Family(
    "flui_http2_bounds_total", Kind.COUNTER, ("listener", "what"), "Bounds of HTTP/2 that callers have met, and malformed streams, by name."
)
API_REFRESHES: Final = Family(
    "flui_api_refreshes_total",
    Kind.COUNTER,
    ("result",),
    "Looks at what the module serves: changed, unchanged, refused (cannot be used), absent (no reflection), failed.",
)
API_METHODS: Final = Family("flui_api_methods", Kind.GAUGE, (), "gRPC methods of the module that are known.")
LOG_LINES_SAMPLED: Final = Family("flui_log_lines_sampled_total", Kind.COUNTER, (), "Successes left out of the access log by its sampling.")


FAMILIES: Final = (
    REQUESTS,
    DURATION,
    REQUEST_OCTETS,
    RESPONSE_OCTETS,
    PEER_REQUESTS,
    PEER_SECONDS,
    RULE_REQUESTS,
    RULE_SECONDS,
    FOLDED,
    FAULTS,
    CONNECTIONS_ACCEPTED,
    HANDSHAKES_REFUSED,
    UPSTREAM_CONNECTS,
    RELOADS,
    FLOW_LOOKUPS,
    LOG_LINES_DROPPED,
    CONNECTIONS_OPEN,
    UPSTREAM_CONNECTIONS,
    FLOWS,
    CERTIFICATE_EXPIRY,
    POLICY_INFO,
    BUILD_INFO,
    UPTIME,
    RETRIES,
    HEDGES,
    EJECTIONS,
    HEALTH_CHECKS,
    BREAKER_REFUSED,
    RATE_LIMITED,
    SHED,
    MIRRORED,
    INJECTED,
    CONNECTIONS_REFUSED,
    SPANS,
    ENDPOINT_AVAILABLE,
    ENDPOINT_SHARE,
    ENDPOINT_REQUESTS,
    ENDPOINT_ACTIVE,
    CLUSTER_PANIC,
    BREAKER_USED,
    BREAKER_LIMIT,
    RETRIES_ACTIVE,
    RETRIES_ALLOWED,
    CONCURRENCY_LIMIT,
    LOOP_LAG,
    OVERLOAD_LEVEL,
    BUFFERED,
    GRPC_CALLS,
    LOG_LINES_SAMPLED,
    HTTP2_BOUNDS,
    API_REFRESHES,
    API_METHODS,
)
"""Every family, in the order of the page."""

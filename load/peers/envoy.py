"""Envoy's configuration for the work that our sidecar does by default: RBAC over 100 policies, a JSON access log, a request id.

The allowing policy is called `ok`, admits anyone, and Envoy evaluates policies in the order of their names: it comes first, which is
Envoy's best case, not ours.
"""

from __future__ import annotations

import json
from typing import Final

from load.peers import dialects
from load.peers.certificates import Identities, spiffe_id
from load.peers.hop import Hop

Json = dict[str, object]

RULES: Final = 100
_TYPE: Final = "type.googleapis.com/envoy.extensions."
_NO_LIMIT: Final = 65_536
_LOG: Final = {
    "t": "%START_TIME%",
    "m": "%REQ(:METHOD)%",
    "p": "%REQ(:PATH)%",
    "c": "%RESPONSE_CODE%",
    "d": "%DURATION%",
    "u": "%UPSTREAM_HOST%",
    "id": "%REQ(X-REQUEST-ID)%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
}


def config(hop: Hop, identities: Identities) -> str:
    """The configuration file, JSON: one listener, one cluster."""
    chain: Json = {"filters": [{"name": "hcm", "typed_config": _connection_manager(hop)}]}
    if hop.accepts_as is not None:
        tls: Json = _typed(
            "transport_sockets.tls.v3.DownstreamTlsContext",
            require_client_certificate=True,
            common_tls_context=_tls(hop.accepts_as, None, identities, "h2" if hop.http2_in else "http/1.1"),
        )
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    listener: Json = {"name": "in", "address": _address(hop.port), "filter_chains": [chain]}
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [_cluster(hop, identities)]}}, indent=1)


def _typed(name: str, **fields: object) -> Json:
    return {"@type": _TYPE + name, **fields}


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _tls(name: str, expects: str | None, identities: Identities, alpn: str) -> Json:
    trust: Json = {"trusted_ca": {"filename": str(identities.ca)}}
    if expects is not None:
        trust["match_typed_subject_alt_names"] = [{"san_type": "URI", "matcher": {"exact": spiffe_id(expects)}}]
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(identities.certificate(name))},
                "private_key": {"filename": str(identities.key(name))},
            }
        ],
        "validation_context": trust,
        "alpn_protocols": [alpn],
    }


def _policies() -> Json:
    policies: Json = {"ok": {"permissions": [{"any": True}], "principals": [{"any": True}]}}
    for number in range(RULES - 1):
        method: Json = {"header": {"name": ":method", "string_match": {"exact": "GET"}}}
        path: Json = {"url_path": {"path": {"prefix": f"/svc{number}/"}}}
        caller: Json = {"authenticated": {"principal_name": {"exact": spiffe_id(f"svc{number}")}}}
        policies[f"p{number}"] = {"permissions": [{"and_rules": {"rules": [method, path]}}], "principals": [caller]}
    return policies


def _connection_manager(hop: Hop) -> Json:
    rbac = _typed("filters.http.rbac.v3.RBAC", rules={"action": "ALLOW", "policies": _policies()})
    log = _typed("access_loggers.file.v3.FileAccessLog", path="/dev/null", log_format={"json_format": _LOG})
    route: Json = {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}
    return _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="in",
        codec_type="HTTP2" if hop.http2_in else "HTTP1",
        generate_request_id=True,
        access_log=[{"name": "envoy.access_loggers.file", "typed_config": log}],
        http_filters=[
            {"name": "envoy.filters.http.rbac", "typed_config": rbac},
            *_translation(hop),
            {"name": "envoy.filters.http.router", "typed_config": _typed("filters.http.router.v3.Router")},
        ],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    )


def _translation(hop: Hop) -> list[Json]:
    """The filter between a caller's dialect and gRPC; each speaks it by itself, with no more asked of it than that."""
    if hop.dialect == dialects.JSON:
        shape: Json = {"proto_descriptor": str(hop.descriptors), "services": [dialects.SERVICE], "convert_grpc_status": True}
        transcoder = _typed("filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder", **shape)
        return [{"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder}]
    if hop.dialect == dialects.GRPC_WEB:
        return [{"name": "envoy.filters.http.grpc_web", "typed_config": _typed("filters.http.grpc_web.v3.GrpcWeb")}]
    if hop.dialect == dialects.CONNECT:
        bridge = _typed("filters.http.connect_grpc_bridge.v3.FilterConfig")
        return [{"name": "envoy.filters.http.connect_grpc_bridge", "typed_config": bridge}]
    return []


def _cluster(hop: Hop, identities: Identities) -> Json:
    protocol = "http2_protocol_options" if hop.http2_out else "http_protocol_options"
    options = _typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={protocol: {}})
    cluster: Json = {
        "name": "up",
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [{"max_connections": _NO_LIMIT, "max_pending_requests": _NO_LIMIT, "max_requests": _NO_LIMIT}]},
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(hop.upstream)}}]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }
    if hop.calls_as is not None:
        common = _tls(hop.calls_as, hop.expects, identities, "h2" if hop.http2_out else "http/1.1")
        tls = _typed("transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=common)
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return cluster

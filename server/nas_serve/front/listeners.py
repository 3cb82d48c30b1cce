"""The ports that clients know: protocols, TLS, limits, and what looks at a request before it is sent on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .front import Front, Tls
from .routes import BUFFER, TYPES, routes

MAX_REQUEST_BYTES = 128 * 2**20
_MAX_OTHER_BYTES = 2**16  # of a request that is no inference
_SCRIPTS = [Path(__file__).with_name(name) for name in ("admission.lua", "requests.lua")]
_CORS = "envoy.filters.http.cors"
_JSON_ERROR = {"json_format": {"error": "%LOCAL_REPLY_BODY%"}, "content_type": "application/json"}


def listener(front: Front, service: str) -> dict[str, Any]:
    """Of http, grpc or metrics, in Envoy's form."""
    chain: dict[str, Any] = {
        "filters": [{"name": "http", "typed_config": _connection_manager(front, service)}],
    }
    if front.tls:
        chain["transport_socket"] = _transport(front.tls, service)
    return {
        "name": service,
        "address": address(front.host, front.ports[service]),
        "per_connection_buffer_limit_bytes": MAX_REQUEST_BYTES,
        "enable_reuse_port": False,  # else a second server would share the port, silently
        "drain_type": "MODIFY_ONLY",  # connections stay while the server is not ready
        "filter_chains": [chain],
    }


def _transport(tls: Tls, service: str) -> dict[str, Any]:
    common: dict[str, Any] = {
        "alpn_protocols": ["h2"] if service == "grpc" else ["http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [
            {"certificate_chain": {"filename": tls.certificate}, "private_key": {"filename": tls.key}}
        ],
    }
    if tls.client_authority:
        common["validation_context"] = {"trusted_ca": {"filename": tls.client_authority}}
    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": common,
            "require_client_certificate": bool(tls.client_authority),
        },
    }


def _connection_manager(front: Front, service: str) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}
    # What is no inference is small, and comes whole; the script takes care of the rest.
    small = {
        "name": BUFFER,
        "typed_config": {"@type": f"{TYPES}.filters.http.buffer.v3.Buffer", "max_request_bytes": _MAX_OTHER_BYTES},
    }
    filters = [*_filters(front, service), small, router]
    return {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": service,
        "codec_type": "HTTP2" if service == "grpc" else "HTTP1",
        "http2_protocol_options": {"max_concurrent_streams": 256, "initial_stream_window_size": 2**24},
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        # Slow clients: a head, and then a body that goes on.
        "request_headers_timeout": "10s",
        "stream_idle_timeout": "120s",
        "common_http_protocol_options": {"idle_timeout": "300s", "headers_with_underscores_action": "ALLOW"},
        "http_filters": filters,
        **({} if service == "grpc" else {"local_reply_config": {"body_format": _JSON_ERROR}}),
        "route_config": {
            "virtual_hosts": [{"name": service, "domains": ["*"], "routes": routes(front, service), **_cors(front)}],
        },
    }


def _filters(front: Front, service: str) -> list[dict[str, Any]]:
    if service == "metrics":
        return []
    told = json.dumps([service, front.threads, front.capacity_file]).strip("[]")  # Lua's literals are the same
    told = f"PROTOCOL, THREADS, CAPACITY_FILE = {told}"
    script = "\n".join([told, *(path.read_text(encoding="utf-8") for path in _SCRIPTS)])
    look = {
        "name": "look",
        "typed_config": {
            "@type": f"{TYPES}.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": script},
        },
    }
    if service == "grpc":
        count = {
            "name": "count",
            "typed_config": {
                "@type": f"{TYPES}.filters.http.grpc_stats.v3.FilterConfig",
                "stats_for_all_methods": False,
            },
        }
        return [count, look]
    health = {
        "name": "health",
        "typed_config": {
            "@type": f"{TYPES}.filters.http.health_check.v3.HealthCheck",
            "pass_through_mode": True,
            "headers": [{"name": ":path", "string_match": {"exact": "/v2/health/ready"}}],
        },
    }
    cors = {"name": _CORS, "typed_config": {"@type": f"{TYPES}.filters.http.cors.v3.Cors"}}
    return [*([cors] if front.cors_origins else []), health, look]


def _cors(front: Front) -> dict[str, Any]:
    """Of a virtual host: whose pages may call it from a browser. Only the HTTP port has the filter that reads it."""
    if not front.cors_origins:
        return {}
    policy = {
        "@type": f"{TYPES}.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [
            {"safe_regex": {"regex": ".*"}} if origin == "*" else {"exact": origin} for origin in front.cors_origins
        ],
        "allow_methods": "GET, POST",
        "allow_headers": "authorization, content-type, inference-header-content-length",
        "expose_headers": "inference-header-content-length",
        "max_age": "600",
    }
    return {"typed_per_filter_config": {_CORS: policy}}


def address(host: str, port: int) -> dict[str, Any]:
    """In Envoy's form."""
    return {"socket_address": {"address": host, "port_value": port}}

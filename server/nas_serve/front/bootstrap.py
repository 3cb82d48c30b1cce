"""Envoy's configuration: its ports, Triton's ports as clusters, and what it does when memory runs out."""

from __future__ import annotations

from typing import Any

from .front import LOOPBACK, Front
from .listeners import MAX_REQUEST_BYTES, address, listener
from .routes import CLUSTERS, INFERENCE, NOBODY, TYPES

_MAX_REQUESTS = 256  # of each protocol; Triton's queue for an engine holds 128
_MAX_CONNECTIONS = 1024
_MAX_MEMORY_BYTES = 2 * 2**30  # new requests are refused near it, and the largest of gRPC are ended
_MONITORS = f"{TYPES}.resource_monitors"


def config(front: Front) -> dict[str, Any]:
    """Envoy's bootstrap."""
    return {
        "admin": {"address": {"pipe": {"path": front.socket, "mode": 0o600}}},
        "static_resources": {
            "listeners": [listener(front, service) for service in front.ports],
            "clusters": [
                *(_cluster(front, name, name.partition("_")[2]) for name in CLUSTERS),
                _cluster(front, "metrics", "metrics"),
                {"name": NOBODY, "load_assignment": {"cluster_name": NOBODY}},
            ],
        },
        "overload_manager": {
            "refresh_interval": "0.25s",
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.fixed_heap",
                    "typed_config": {
                        "@type": f"{_MONITORS}.fixed_heap.v3.FixedHeapConfig",
                        "max_heap_size_bytes": _MAX_MEMORY_BYTES,
                    },
                },
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _MAX_CONNECTIONS,
                    },
                },
            ],
            "actions": [
                _at(0.8, "envoy.overload_actions.stop_accepting_requests"),
                _at(0.9, "envoy.overload_actions.stop_accepting_connections"),
                {
                    "name": "envoy.overload_actions.reset_high_memory_stream",
                    "triggers": [
                        {
                            "name": "envoy.resource_monitors.fixed_heap",
                            "scaled": {"scaling_threshold": 0.85, "saturation_threshold": 0.95},
                        }
                    ],
                },
            ],
            "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        },
        "layered_runtime": {
            "layers": [
                {"name": "ours", "static_layer": {"re2.max_program_size.error_level": 1000}},
                {"name": "supervisor", "admin_layer": {}},
            ]
        },
    }


def _cluster(front: Front, name: str, service: str) -> dict[str, Any]:
    limit = _MAX_REQUESTS if name in INFERENCE else 4 * _MAX_REQUESTS
    protocol = (
        {"http2_protocol_options": {"initial_stream_window_size": 2**24, "initial_connection_window_size": 2**26}}
        if service == "grpc"
        else {"http_protocol_options": {}}
    )
    return {
        "name": name,
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": MAX_REQUEST_BYTES,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(LOOPBACK, front.triton_ports[service])}}]}
            ],
        },
        "circuit_breakers": {
            "thresholds": [{"max_requests": limit, "max_connections": limit, "max_pending_requests": limit}]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": protocol,
            }
        },
    }


def _at(share: float, action: str) -> dict[str, Any]:
    trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": share}}
    return {"name": action, "triggers": [trigger]}

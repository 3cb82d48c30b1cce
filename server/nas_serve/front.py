"""Envoy in front of Triton: what clients reach, on the ports that they know. Triton itself answers to nobody else.

Its own ports are on loopback, and every API on them wants a key that only Envoy and the supervisor have. Envoy lets
through what is served here (`_OPEN`), wants the admin key for the rest (`_ADMIN`), refuses requests that would hurt
Triton (`front.lua`), bounds sizes, counts, and the time that slow clients may take, speaks TLS, and says «unavailable»
while Triton is away. The standard library is all this needs: containers run it too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HTTP_HEADER = "admin-key"
GRPC_HEADER = "triton-grpc-protocol-admin-key"
TRITON_HEADER = "front-key"  # of Triton itself
_LOOPBACK = "127.0.0.1"
_TRITON_APIS = (
    *("health", "metadata", "inference", "shared-memory", "model-config"),
    *("model-repository", "statistics", "trace", "logging"),
)
AWAY = "away"  # in Envoy's runtime: 100 while Triton starts or stops, so that nothing is sent to its ports
INFERENCE = ("infer_http", "infer_grpc")  # Envoy's clusters, each with limits of its own
CLUSTERS = (*INFERENCE, "other_http", "other_grpc")
MAX_REQUEST_BYTES = 128 * 2**20
_MAX_REQUESTS = 256  # of each protocol; Triton's queue for an engine holds 128
_MAX_OTHER_BYTES = 2**16  # of a request that is no inference
_MAX_CONNECTIONS = 1024
_MAX_MEMORY_BYTES = 2 * 2**30  # new requests are refused near it, and the largest of gRPC are ended
_TYPES = "type.googleapis.com/envoy.extensions"
_MONITORS = f"{_TYPES}.resource_monitors"
_MODEL = r"/v2/models/[^/]+(/versions/[^/]+)?"
_SERVICE = "/inference.GRPCInferenceService/"
_INFER = {"http": rf"{_MODEL}/infer", "grpc": rf"{_SERVICE}ModelInfer"}
_INDEX = "/v2/repository/index"
_OPEN = {
    "http": rf"/v2/?|/v2/health/ready|{_MODEL}(/ready|/config)?",
    "grpc": rf"{_SERVICE}(Server(Live|Ready|Metadata)|Model(Ready|Metadata|Config)|RepositoryIndex)"
    r"|/grpc\.health\.v1\.Health/Check",
}
_ADMIN = {
    "shared-memory": {
        "http": r"/v2/(systemsharedmemory|cudasharedmemory)/.*",
        "grpc": rf"{_SERVICE}(System|Cuda)SharedMemory(Status|Register|Unregister)",
    },
    "statistics": {"http": rf"{_MODEL}/stats|/v2/models/stats", "grpc": rf"{_SERVICE}ModelStatistics"},
    "settings": {
        "http": rf"/v2/logging|/v2/trace/setting|{_MODEL}/trace/setting",
        "grpc": rf"{_SERVICE}(TraceSetting|LogSettings)",
    },
}
_BUFFER = "envoy.filters.http.buffer"
_JSON_ERROR = {"json_format": {"error": "%LOCAL_REPLY_BODY%"}, "content_type": "application/json"}


@dataclass(frozen=True)
class Tls:
    """PEM files. With an authority clients must show a certificate of it."""

    certificate: str
    key: str
    client_authority: str | None = None


@dataclass(frozen=True)
class Front:
    """Where clients come in, and where Triton is.

    Attributes:
        host: address to listen on.
        ports: public port of each of http, grpc and metrics.
        triton_ports: those of Triton, on loopback.
        triton_key: opens them.
        admin_key: opens shared memory, trace and log settings.
        folder: for the socket that commands Envoy, and for what Lua reads; closed to others.
        opened: of shared-memory and statistics, to clients without the admin key too.
        tls: for all three ports.
        threads: of Envoy.
    """

    host: str
    ports: dict[str, int]
    triton_ports: dict[str, int]
    triton_key: str
    admin_key: str
    folder: str
    opened: tuple[str, ...] = ()
    tls: Tls | None = None
    threads: int = 1

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Front:
        """Undo `dataclasses.asdict`."""
        return cls(**{**values, "tls": Tls(**values["tls"]) if values.get("tls") else None})

    @property
    def socket(self) -> str:
        """Unix socket of Envoy's administration."""
        return f"{self.folder}/envoy.sock"

    @property
    def capacity_file(self) -> str:
        """One line: requests a second, requests under way, and when that was."""
        return f"{self.folder}/capacity"

    def triton_arguments(self, key: str) -> list[str]:
        """Of a Triton that is reached through this alone: loopback, and no API without the key, in either protocol."""
        apis = f"{','.join(_TRITON_APIS)}:{TRITON_HEADER}={key}"
        addresses = (f"--{service}-address={_LOOPBACK}" for service in self.triton_ports)
        ports = (f"--{service}-port={port}" for service, port in self.triton_ports.items())
        clouds = ("--allow-sagemaker=false", "--allow-vertex-ai=false")
        return [f"--http-restricted-api={apis}", f"--grpc-restricted-protocol={apis}", *clouds, *addresses, *ports]

    def config(self) -> dict[str, Any]:
        """Envoy's bootstrap."""
        return {
            "admin": {"address": {"pipe": {"path": self.socket, "mode": 0o600}}},
            "static_resources": {
                "listeners": [self._listener(service) for service in self.ports],
                "clusters": [
                    *(self._cluster(name, name.partition("_")[2]) for name in CLUSTERS),
                    self._cluster("metrics", "metrics"),
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

    def _listener(self, service: str) -> dict[str, Any]:
        chain: dict[str, Any] = {
            "filters": [{"name": "http", "typed_config": self._connection_manager(service)}],
        }
        if self.tls:
            chain["transport_socket"] = self._transport(service)
        return {
            "name": service,
            "address": _address(self.host, self.ports[service]),
            "per_connection_buffer_limit_bytes": MAX_REQUEST_BYTES,
            "drain_type": "MODIFY_ONLY",  # connections stay while the server is not ready
            "filter_chains": [chain],
        }

    def _transport(self, service: str) -> dict[str, Any]:
        assert self.tls is not None
        common: dict[str, Any] = {
            "alpn_protocols": ["h2"] if service == "grpc" else ["http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificates": [
                {"certificate_chain": {"filename": self.tls.certificate}, "private_key": {"filename": self.tls.key}}
            ],
        }
        if self.tls.client_authority:
            common["validation_context"] = {"trusted_ca": {"filename": self.tls.client_authority}}
        return {
            "name": "tls",
            "typed_config": {
                "@type": f"{_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": common,
                "require_client_certificate": bool(self.tls.client_authority),
            },
        }

    def _connection_manager(self, service: str) -> dict[str, Any]:
        router = {"name": "router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}}
        # What is no inference is small, and comes whole; the script takes care of the rest.
        small = {
            "name": _BUFFER,
            "typed_config": {"@type": f"{_TYPES}.filters.http.buffer.v3.Buffer", "max_request_bytes": _MAX_OTHER_BYTES},
        }
        filters = [*self._filters(service), small, router]
        return {
            "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
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
                "virtual_hosts": [{"name": service, "domains": ["*"], "routes": self._routes(service)}],
            },
        }

    def _filters(self, service: str) -> list[dict[str, Any]]:
        if service == "metrics":
            return []
        told = json.dumps([service, self.threads, self.capacity_file]).strip("[]")  # Lua's literals are the same
        told = f"PROTOCOL, THREADS, CAPACITY_FILE = {told}\n"
        look = {
            "name": "look",
            "typed_config": {
                "@type": f"{_TYPES}.filters.http.lua.v3.Lua",
                "default_source_code": {
                    "inline_string": told + Path(__file__).with_suffix(".lua").read_text(encoding="utf-8")
                },
            },
        }
        if service == "grpc":
            count = {
                "name": "count",
                "typed_config": {
                    "@type": f"{_TYPES}.filters.http.grpc_stats.v3.FilterConfig",
                    "stats_for_all_methods": False,
                },
            }
            return [count, look]
        health = {
            "name": "health",
            "typed_config": {
                "@type": f"{_TYPES}.filters.http.health_check.v3.HealthCheck",
                "pass_through_mode": True,
                "headers": [{"name": ":path", "string_match": {"exact": "/v2/health/ready"}}],
            },
        }
        return [health, look]

    def _routes(self, service: str) -> list[dict[str, Any]]:
        if service == "metrics":
            match = {"path": "/metrics", **_with(":method", "GET")}
            return [{"match": match, "route": {"cluster": "metrics", "timeout": "10s"}}]
        no_buffer = {"@type": f"{_TYPES}.filters.http.buffer.v3.BufferPerRoute", "disabled": True}
        any_size = {"typed_per_filter_config": {_BUFFER: no_buffer}}  # the script looks at the size
        infer = {
            "match": _matches(_INFER[service]) | _with(":method", "POST"),
            "route": {
                "cluster": f"infer_{service}",
                "timeout": "0s",
                "max_stream_duration": {"grpc_timeout_header_max": "0s"},  # the client's deadline holds
                # Only what Triton has not seen: it may be what ended it.
                "retry_policy": {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 1},
            },
            **any_size,
            **self._with_triton_key(service),
        }
        away = {"default_value": {"numerator": 100}, "runtime_key": AWAY}
        nothing = _reply(503, "the server is not ready: it starts, or it is stopping")
        routes = [{"match": {"prefix": "/", "runtime_fraction": away}, **nothing, **any_size}, infer]
        header = GRPC_HEADER if service == "grpc" else HTTP_HEADER
        with_key = _with(header, self.admin_key)
        for name, paths in _ADMIN.items():
            match = _matches(paths[service])
            if name in self.opened:
                routes.append(self._to_triton(service, match))
            else:
                routes.append(self._to_triton(service, match | with_key))
                routes.append({"match": match, **_reply(403, f"This API is restricted, expecting header '{header}'")})
        if service == "http":
            # Alive is who answers at all; whether Triton does is a question of being ready.
            routes.insert(0, {"match": {"path": "/v2/health/live"}, "direct_response": {"status": 200}})
            routes.append(self._to_triton(service, _matches(_OPEN[service]) | _with(":method", "GET")))
            routes.append(self._to_triton(service, {"path": _INDEX, **_with(":method", "POST")}))
        else:
            routes.append(self._to_triton(service, _matches(_OPEN[service])))
        nowhere = _reply(403 if service == "http" else 404, "not served here: inference, metadata and health are")
        return [*routes, {"match": {"prefix": "/"}, **nowhere}]

    def _to_triton(self, service: str, match: dict[str, Any]) -> dict[str, Any]:
        return {
            "match": match,
            "route": {"cluster": f"other_{service}", "timeout": "30s"},
            **self._with_triton_key(service),
        }

    def _with_triton_key(self, service: str) -> dict[str, Any]:
        name = f"triton-grpc-protocol-{TRITON_HEADER}" if service == "grpc" else TRITON_HEADER
        value = {"key": name, "value": self.triton_key}
        return {
            "request_headers_to_add": [{"header": value, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
            "request_headers_to_remove": [HTTP_HEADER, GRPC_HEADER],
        }

    def _cluster(self, name: str, service: str) -> dict[str, Any]:
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
                    {"lb_endpoints": [{"endpoint": {"address": _address(_LOOPBACK, self.triton_ports[service])}}]}
                ],
            },
            "circuit_breakers": {
                "thresholds": [{"max_requests": limit, "max_connections": limit, "max_pending_requests": limit}]
            },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": protocol,
                }
            },
        }


def _matches(pattern: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": pattern}}


def _with(header: str, value: str) -> dict[str, Any]:
    return {"headers": [{"name": header, "string_match": {"exact": value}}]}


def _reply(status: int, text: str) -> dict[str, Any]:
    return {"direct_response": {"status": status, "body": {"inline_string": text}}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _at(share: float, action: str) -> dict[str, Any]:
    trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": share}}
    return {"name": action, "triggers": [trigger]}

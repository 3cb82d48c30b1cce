"""Which paths are served, which want the admin key, and which are closed."""

from __future__ import annotations

from typing import Any

from nas_ensembles.admin_key import GRPC_HEADER, HTTP_HEADER

from .front import TRITON_HEADER, Front

TYPES = "type.googleapis.com/envoy.extensions"  # names of Envoy's own begin so
BUFFER = "envoy.filters.http.buffer"
AWAY = "away"  # in Envoy's runtime: 100 while Triton starts or stops, so that nothing is sent to its ports
INFERENCE = ("infer_http", "infer_grpc")  # Envoy's clusters, each with limits of its own
CLUSTERS = (*INFERENCE, "other_http", "other_grpc")
NOBODY = "nobody"  # a cluster without servers
_MODEL = r"/v2/models/[^/]+(/versions/[^/]+)?"
_SERVICE = "/inference.GRPCInferenceService/"
_INFER = {"http": rf"{_MODEL}/infer", "grpc": rf"{_SERVICE}ModelInfer"}
_INDEX = "/v2/repository/index"
# Statistics say no more than the metrics do, and perf_analyzer, which gives no key, reads them for every measurement.
_OPEN = {
    "http": rf"/v2/?|/v2/health/ready|{_MODEL}(/ready|/config|/stats)?|/v2/models/stats",
    "grpc": rf"{_SERVICE}(Server(Live|Ready|Metadata)|Model(Ready|Metadata|Config|Statistics)|RepositoryIndex)"
    r"|/grpc\.health\.v1\.Health/Check",
}
_ADMIN = {
    "shared-memory": {
        "http": r"/v2/(systemsharedmemory|cudasharedmemory)/.*",
        "grpc": rf"{_SERVICE}(System|Cuda)SharedMemory(Status|Register|Unregister)",
    },
    "settings": {
        "http": rf"/v2/logging|/v2/trace/setting|{_MODEL}/trace/setting",
        "grpc": rf"{_SERVICE}(TraceSetting|LogSettings)",
    },
}


def routes(front: Front, service: str) -> list[dict[str, Any]]:
    """Of http, grpc or metrics, in Envoy's form: the first that matches is taken."""
    away = {"default_value": {"numerator": 100}, "runtime_key": AWAY}
    nothing = _reply(503, "the server is not ready: it starts, or it is stopping")
    closed = {"match": {"prefix": "/", "runtime_fraction": away}, **nothing}
    if service == "metrics":
        match = {"path": "/metrics", **_with(":method", "GET")}
        return [closed, {"match": match, "route": {"cluster": "metrics", "timeout": "10s"}}]
    no_buffer = {"@type": f"{TYPES}.filters.http.buffer.v3.BufferPerRoute", "disabled": True}
    any_size = {"typed_per_filter_config": {BUFFER: no_buffer}}  # the script looks at the size
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
        **_with_triton_key(front, service),
    }
    found = [closed | any_size, infer]
    header = GRPC_HEADER if service == "grpc" else HTTP_HEADER
    with_key = _with(header, front.admin_key)
    for name, paths in _ADMIN.items():
        match = _matches(paths[service])
        if name == "shared-memory" and front.open_shared_memory:
            found.append(_to_triton(front, service, match))
        else:
            found.append(_to_triton(front, service, match | with_key))
            found.append({"match": match, **_reply(403, f"This API is restricted, expecting header '{header}'")})
    if service == "http":
        # Alive is who answers at all; whether Triton does is a question of being ready.
        found.insert(0, {"match": {"path": "/v2/health/live"}, "direct_response": {"status": 200}})
        if front.cors_origins:
            # What a browser asks first is answered by Envoy's filter, if there is a route to some server.
            found.insert(0, {"match": _matches("/v2/.*") | _with(":method", "OPTIONS"), "route": {"cluster": NOBODY}})
        found.append(_to_triton(front, service, _matches(_OPEN[service]) | _with(":method", "GET")))
        found.append(_to_triton(front, service, {"path": _INDEX, **_with(":method", "POST")}))
    else:
        found.append(_to_triton(front, service, _matches(_OPEN[service])))
    nowhere = _reply(403 if service == "http" else 404, "not served here: inference, metadata and health are")
    return [*found, {"match": {"prefix": "/"}, **nowhere}]


def _to_triton(front: Front, service: str, match: dict[str, Any]) -> dict[str, Any]:
    return {
        "match": match,
        "route": {"cluster": f"other_{service}", "timeout": "30s"},
        **_with_triton_key(front, service),
    }


def _with_triton_key(front: Front, service: str) -> dict[str, Any]:
    name = f"triton-grpc-protocol-{TRITON_HEADER}" if service == "grpc" else TRITON_HEADER
    value = {"key": name, "value": front.triton_key}
    return {
        "request_headers_to_add": [{"header": value, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
        "request_headers_to_remove": [HTTP_HEADER, GRPC_HEADER],
    }


def _matches(pattern: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": pattern}}


def _with(header: str, value: str) -> dict[str, Any]:
    return {"headers": [{"name": header, "string_match": {"exact": value}}]}


def _reply(status: int, text: str) -> dict[str, Any]:
    return {"direct_response": {"status": status, "body": {"inline_string": text}}}

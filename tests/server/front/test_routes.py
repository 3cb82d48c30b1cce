"""Which rule a path meets first, as Envoy reads them; with a real Envoy they are asked in test_front.py."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from nas_serve.front.front import Front
from nas_serve.front.routes import AWAY, NOBODY, routes

PORTS = {"http": 1, "grpc": 2, "metrics": 3}


def front(open_shared_memory: bool = False) -> Front:
    return Front("127.0.0.1", PORTS, PORTS, "triton key", "admin key", "/folder", open_shared_memory)


def met(rules: list[dict[str, Any]], path: str, method: str = "GET", **headers: str) -> str:
    """The cluster it is sent to, or the status it is answered with; the server is ready."""
    seen = {":method": method, **{name.replace("_", "-"): value for name, value in headers.items()}}
    for rule in rules:
        match = rule["match"]
        fits = [
            "path" not in match or match["path"] == path,
            "safe_regex" not in match or re.fullmatch(match["safe_regex"]["regex"], path),
            all(seen.get(one["name"]) == one["string_match"]["exact"] for one in match.get("headers", ())),
            match.get("runtime_fraction", {}).get("runtime_key") != AWAY,
        ]
        if all(fits):
            return rule["route"]["cluster"] if "route" in rule else str(rule["direct_response"]["status"])
    raise AssertionError("no rule")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v2/models/m/infer", "infer_http"),
        ("POST", "/v2/models/m/versions/1/infer", "infer_http"),
        ("GET", "/v2/models/m/infer", "403"),
        ("GET", "/v2/health/ready", "other_http"),
        ("GET", "/v2/health/live", "200"),
        ("GET", "/v2/models/m/config", "other_http"),
        ("POST", "/v2/repository/index", "other_http"),
        ("POST", "/v2/repository/models/m/load", "403"),
        ("POST", "/v2/models/m/generate", "403"),
        ("GET", "/v2/logging", "403"),
        ("GET", "/v2/models/m/stats", "other_http"),
        ("GET", "/anything", "403"),
    ],
)
def test_http(method: str, path: str, expected: str) -> None:
    assert met(routes(front(), "http"), path, method) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ModelInfer", "infer_grpc"),
        ("ModelStreamInfer", "404"),
        ("ServerReady", "other_grpc"),
        ("ModelConfig", "other_grpc"),
        ("RepositoryModelLoad", "404"),
        ("ModelStatistics", "other_grpc"),
        ("SystemSharedMemoryRegister", "403"),
    ],
)
def test_grpc(method: str, expected: str) -> None:
    assert met(routes(front(), "grpc"), f"/inference.GRPCInferenceService/{method}", "POST") == expected


def test_metrics() -> None:
    assert met(routes(front(), "metrics"), "/metrics") == "metrics"
    assert len(routes(front(), "metrics")) == 2  # the other says that Triton is away


def test_the_admin_key_opens_what_is_closed() -> None:
    path = "/v2/systemsharedmemory/status"
    assert met(routes(front(), "http"), path, admin_key="admin key") == "other_http"
    assert met(routes(front(), "http"), path, admin_key="another") == "403"
    assert met(routes(front(open_shared_memory=True), "http"), path) == "other_http"
    assert met(routes(front(open_shared_memory=True), "http"), "/v2/logging") == "403"


def test_tritons_key_is_ours_whatever_a_client_sends() -> None:
    for service in ("http", "grpc"):
        for rule in routes(dataclasses.replace(front(), cors_origins=["*"]), service):
            if "route" in rule and rule["route"]["cluster"] != NOBODY:
                (added,) = rule["request_headers_to_add"]
                assert added["header"]["value"] == "triton key" and added["append_action"].startswith("OVERWRITE")

"""Dockerfiles, compose.yaml and the configs of monitoring, by the tools that check them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.samples import ROOT

BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DASHBOARD = json.loads((ROOT / "docker/grafana/dashboards/nas-triton.json").read_text())


def run(*command: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=False, **kwargs)


def test_compose_follows_the_specification() -> None:
    done = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="hadolint has no wheel for this machine")
@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.slim"])
def test_dockerfiles_pass_hadolint(name: str) -> None:
    done = run(BIN / "hadolint", f"docker/{name}")
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize("script", ["docker/serve.sh", "tests/docker/python_image.sh", ".ci/run"])
def test_scripts_pass_shellcheck(script: str) -> None:
    done = run(BIN / "shellcheck", script)
    assert done.returncode == 0, done.stdout


def test_everything_is_pinned() -> None:
    images = [service["image"] for service in COMPOSE["services"].values()]
    for dockerfile in ("Dockerfile", "Dockerfile.slim"):
        text = (ROOT / "docker" / dockerfile).read_text()
        images += re.findall(r"^ARG PYTHON_IMAGE=(.*)", text, re.MULTILINE)
        packages = re.findall(r"pip install (.*?)\s*\\?$", text, re.MULTILINE)
        assert packages and all("==" in word or "/src" in word for line in packages for word in line.split())
    assert all(re.search(r":(\$\{TRITON_VERSION:-26\.08\}|slim|v?\d+\.\d+\.\d+.*)$", image) for image in images), images
    env = dict(line.split("=") for line in (ROOT / ".env").read_text().splitlines() if "=" in line and line[0] != "#")
    assert env == {"COMPOSE_PROFILES": "gpu", "TRITON_VERSION": "26.08"}


def test_one_release_of_triton_everywhere() -> None:
    from nas_build.targets.tensorrt import servers

    assert "ARG TRITON_VERSION=26.08" in (ROOT / "docker/Dockerfile").read_text()
    assert servers.DEFAULT_SERVER == os.environ.get("NVIDIA_TRITON_SERVER_VERSION", "26.08")
    assert servers.server_tensorrt("26.08") == "11.2.1"


def test_images_get_every_package_and_nothing_else() -> None:
    allowed = {
        line[1:].partition("/")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    packages = re.search(r"packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert packages is not None
    roots = {path.partition("/")[0] for path in re.findall(r'"([^"]+)"', packages[1])}
    files = {"compose.yaml", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"}
    assert allowed == roots | files | {"samples", "docker"}


@pytest.mark.parametrize("name", ["triton", "triton-cpu", "triton-slim"])
def test_servers_are_closed_up(name: str) -> None:
    service = COMPOSE["services"][name]
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["restart"] == "unless-stopped"
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["shm_size"] == "1gb" and service["mem_limit"] and service["pids_limit"]
    assert service["healthcheck"]["test"][-1].endswith(("ready", "/v2/health/ready')"))
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in service["ports"])
    for dockerfile in ("Dockerfile", "Dockerfile.slim"):
        assert re.findall(r"^USER (\d+)", (ROOT / "docker" / dockerfile).read_text(), re.MULTILINE)[-1] == "1000"


def test_only_the_gpu_profiles_ask_for_a_gpu() -> None:
    asks = {name for name, service in COMPOSE["services"].items() if "deploy" in service}
    assert asks == {"triton", "build"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_accepts_its_config_and_the_dashboards_queries(tmp_path: Path) -> None:
    assert run("promtool", "check", "config", "docker/prometheus.yml").returncode == 0
    rules = [
        {"record": f"panel:{panel['id']}:{target['refId']}", "expr": re.sub(r"\$__rate_interval", "1m", target["expr"])}
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = run("promtool", "check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0 and f"{len(rules)} rules found" in done.stdout, done.stderr

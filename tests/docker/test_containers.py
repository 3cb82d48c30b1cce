"""What the containers start, with a real Triton, and the containers themselves where there is Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest
import yaml
from nas_client import Credentials, Detector
from nas_serve import Server

from support.certificates import certificates
from support.containers import triton_by_script, wheels_triton
from support.echo import add_model
from support.samples import ROOT, SAMPLES
from support.waiting import until

BIN = Path(sys.executable).parent
NAME = "yolo_nas_s_int8"
DASHBOARD = json.loads((ROOT / "docker/grafana/dashboards/nas-triton.json").read_text())


def run(*command: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=False, **kwargs)


# --- what the start script starts


def served(
    models: Path, folder: Path, tls: ssl.SSLContext | None = None, **environment: str
) -> AbstractContextManager[dict[str, int]]:
    """docker/serve.sh with the tritonserver of the wheel; `tls` is trusted to ask whether it is ready."""
    arguments, paths = wheels_triton(folder)
    paths["MODEL_REPOSITORY"] = str(models)
    return triton_by_script(arguments, paths | environment, folder / "log", tls=tls)


@pytest.fixture(scope="module")
def one_model(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_model")
    for path in repository.glob(f"{NAME}*"):
        shutil.copytree(path, folder / path.name)
    return folder


def test_production_flags_close_what_clients_do_not_need(one_model: Path, tmp_path: Path) -> None:
    closed = [
        "v2/systemsharedmemory/status",
        "v2/trace/setting",
        "v2/logging",
    ]
    with served(one_model, tmp_path, NAS_ADMIN_KEY="open sesame") as ports:
        with httpx.Client(base_url=f"http://127.0.0.1:{ports['http']}") as http:
            for path in closed:
                assert http.get(path).status_code == 403, path
                assert http.get(path, headers={"admin-key": "wrong"}).status_code == 403, path
                assert http.get(path, headers={"admin-key": "open sesame"}).status_code == 200, path
            for action in ("load", "unload"):
                answer = http.post(f"v2/repository/models/{NAME}/{action}")
                assert answer.status_code == 403 and "not served here" in answer.json()["error"]
        for url in (f"127.0.0.1:{ports['grpc']}", f"http://127.0.0.1:{ports['http']}"):
            with Detector(url) as detector:
                assert detector.detect(SAMPLES / "bus.jpg").names.count("person") >= 4
                assert detector.models()[0].name == NAME
                frame = cv2.imread(str(SAMPLES / "bus.jpg"), cv2.IMREAD_COLOR_RGB)
                assert detector.detect(frame).names == detector.detect(SAMPLES / "bus.jpg").names
                assert not detector.shares_memory  # it was refused, so the frame was sent
        metrics = httpx.get(f"http://127.0.0.1:{ports['metrics']}/metrics").text
        assert re.search(rf'nv_inference_request_summary_us{{model="{NAME}",version="1",quantile="0.99"}} \d', metrics)


def test_probes_ask_whether_it_answers_and_whether_somebody_mends_it(one_model: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"

    def probe(what: str) -> int:
        return run(ROOT / "docker/serve.sh", "probe", what, env=os.environ | {"NAS_STATE": str(state)}).returncode

    assert probe("ready") and probe("live")
    with served(one_model, tmp_path, NAS_STATE=str(state)) as ports:
        assert until(lambda: probe("ready") == probe("live") == 0)
        process = next(
            p for p in psutil.process_iter() if p.name() == "tritonserver" and f"{tmp_path}" in str(p.cmdline())
        )
        process.kill()
        assert until(lambda: probe("ready") != 0) and probe("live") == 0
        assert httpx.get(f"http://127.0.0.1:{ports['http']}/v2/health/ready").status_code == 503
        assert httpx.get(f"http://127.0.0.1:{ports['http']}/v2/health/live").status_code == 200
        assert until(lambda: probe("ready") == 0)
    assert probe("ready") and probe("live")


@pytest.mark.parametrize("hostile", ["changed", "unsigned"])
def test_what_was_not_built_so_is_not_served(hostile: str, one_model: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(one_model, models)
    environment = {}
    if hostile == "changed":
        with next(models.glob(f"{NAME}_engine/*/model.onnx")).open("r+b") as file:
            file.write(b"x")
    else:
        environment["NAS_VERIFY_KEY"] = str(tmp_path / "key.pub")
    with pytest.raises(AssertionError, match="gave-up .*(it is not what was built|not signed)"):
        with served(models, tmp_path, **environment):
            pass


def test_the_image_has_what_the_start_script_wants(tmp_path: Path) -> None:
    """The files that the Dockerfile copies, in a Python with nothing but numpy: the supervisor finds all of them."""
    text = (ROOT / "docker/Dockerfile").read_text().replace("\\\n", "")
    for line in re.findall(r"^COPY --chmod=755 (.*)", text, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            into = tmp_path / target.lstrip("/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, into, dirs_exist_ok=True)
            else:
                into = into / Path(source).name if target.endswith("/") else into
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, into)
    assert {"model.py", "cores.py", "known_answer.py"} <= {
        p.name for p in (tmp_path / "opt/tritonserver/backends/openvino").iterdir()
    }
    model = tmp_path / "models" / "m"
    (model / "1").mkdir(parents=True)
    (model / "1" / "manifest.json").write_text('{"files": {"m/1/gone": "0"}}')
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "numpy").symlink_to(Path(np.__file__).parent)
    environment = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(packages),
        "NAS_SUPERVISOR": str(tmp_path / "usr/local/lib/nas-triton"),
        "NAS_STATE": str(tmp_path / "state"),
        "MODEL_REPOSITORY": str(model.parent),
    }
    done = run(tmp_path / "usr/local/bin/serve", env=environment, timeout=300)
    assert done.returncode == 1 and "m/1/gone: it is not what was built" in done.stdout, done.stderr


def test_without_an_admin_key_nobody_has_one(one_model: Path, tmp_path: Path) -> None:
    with served(one_model, tmp_path, NAS_ADMIN_KEY="") as ports:
        url = f"http://127.0.0.1:{ports['http']}/v2/logging"
        assert httpx.get(url, headers={"admin-key": ""}).status_code == 403
        assert httpx.get(f"http://127.0.0.1:{ports['http']}/v2/health/live").status_code == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_tls_on_every_port(one_model: Path, tmp_path: Path) -> None:
    certificates(tmp_path)
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    pem, key = str(tmp_path / "server.pem"), str(tmp_path / "server.key")
    with served(one_model, tmp_path, trust, NAS_TLS_CERT=pem, NAS_TLS_KEY=key) as ports:
        command = [BIN / "nas-client", "detect", SAMPLES / "bus.jpg", "--url", f"grpcs://localhost:{ports['grpc']}"]
        trusting = os.environ | {"NAS_TLS_CA": str(tmp_path / "ca.pem")}
        done = run(*command, env=trusting, timeout=300)
        assert done.returncode == 0 and "bus" in done.stdout, done.stderr
        done = run(*command, timeout=300)  # nobody vouches for the certificate
        assert done.returncode == 1 and "no Triton server answers" in done.stderr
        for port, path in ((ports["http"], "v2/health/ready"), (ports["metrics"], "metrics")):
            assert httpx.get(f"https://localhost:{port}/{path}", verify=trust).status_code == 200
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://localhost:{port}/{path}")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_mutual_tls(one_model: Path, tmp_path: Path) -> None:
    """Who shows no certificate of the authority gets no answer, on any port."""
    certificates(tmp_path)
    names = {"CERT": "server.pem", "KEY": "server.key", "CLIENT_CA": "ca.pem"}
    environment = {f"NAS_TLS_{name}": str(tmp_path / file) for name, file in names.items()}
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    known = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    known.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
    with served(one_model, tmp_path, known, **environment) as ports:
        for service, path in (("http", "v2/health/ready"), ("metrics", "metrics"), ("grpc", "")):
            url = f"https://localhost:{ports[service]}/{path}"
            with pytest.raises(httpx.TransportError):
                httpx.get(url, verify=trust)
            if path:
                assert httpx.get(url, verify=known).status_code == 200
        for url in (f"grpcs://localhost:{ports['grpc']}", f"https://localhost:{ports['http']}"):
            files = (str(tmp_path / name) for name in ("ca.pem", "client.pem", "client.key"))
            with Detector(url, credentials=Credentials(None, *files)) as detector:
                assert "bus" in detector.detect(SAMPLES / "bus.jpg").names


# --- monitoring


def test_the_dashboard_asks_for_metrics_that_triton_has(server: Server) -> None:
    with Detector(server.grpc_url, model=NAME) as detector:
        detector.detect(SAMPLES / "bus.jpg")
    there = set(re.findall(r"^(nv_\w+)[{ ]", httpx.get(server.metrics_url).text, re.MULTILINE))
    asked = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for name in re.findall(r"nv_\w+", target["expr"])
    }
    of_gpus = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"}
    assert len(asked) > 8 and asked - of_gpus <= there, asked - of_gpus - there
    assert {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]} == {
        source["uid"]
        for source in yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/prometheus.yaml").read_text())[
            "datasources"
        ]
    }


# --- with Docker

TRITONS = """
import pathlib
for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
    if path.read_text() == "tritonserver\\n":
        print(path.parent.name)
"""


@pytest.fixture(scope="module")
def compose() -> list[str]:
    command = ["docker", "compose"]
    if shutil.which("docker") is None or run(*command, "version").returncode:
        pytest.skip("docker compose is not installed")
    return command


@pytest.mark.parametrize(
    ("arguments", "services"),
    [
        ([], {"triton"}),
        (["--profile", "cpu"], {"triton-cpu"}),
        (["--profile", "slim"], {"triton-slim"}),
        (["--profile", "monitoring"], {"triton", "prometheus", "grafana"}),
        (["--profile", "cpu-monitoring"], {"triton-cpu", "prometheus", "grafana"}),
        (["--profile", "slim-monitoring"], {"triton-slim", "prometheus", "grafana"}),
        (["--profile", "gpu", "--profile", "monitoring"], {"triton", "prometheus", "grafana"}),
    ],
)
def test_what_each_profile_starts(arguments: list[str], services: set[str], compose: list[str]) -> None:
    done = run(*compose, *arguments, "config", "--services")
    assert set(done.stdout.split()) == services, done.stderr


@pytest.mark.parametrize("profile", ["slim", "cpu"])
def test_a_container_serves_the_repository(profile: str, compose: list[str], one_model: Path) -> None:
    """Built, up, healthy, its Triton killed, healthy again, down: with the compose file as it is."""
    if profile not in os.environ.get("NAS_TEST_CONTAINERS", "").split(","):
        pytest.skip("NAS_TEST_CONTAINERS=slim,cpu builds and starts images")
    for path in one_model.rglob("*"):
        path.chmod(path.stat().st_mode | 0o555)
    one_model.chmod(0o755)
    env = os.environ | {"MODEL_REPOSITORY": str(one_model)}
    composed = [*compose, "--profile", profile]
    inside = [*composed, "exec", f"triton-{profile}"]

    def health() -> str:
        shown = run(*composed, "ps", "--format", "json", env=env).stdout
        return str(json.loads(shown)["Health"]) if shown else "gone"

    def tritons() -> list[str]:
        return run(*inside, "python3", "-c", TRITONS, env=env).stdout.split()

    def answers() -> bool:
        with Detector("localhost:8001") as detector:
            return detector.detect(SAMPLES / "bus.jpg").names.count("person") >= 4

    try:
        up = run(*composed, "up", "--build", "--wait", env=env, timeout=3600)
        assert up.returncode == 0, up.stderr + run(*composed, "logs", env=env).stdout
        assert health() == "healthy" and answers()
        assert run(*inside, "id", "-u", env=env).stdout.strip() == "1000"
        assert run(*inside, "sh", "-c", "command -v gcc cc clang", env=env).stdout == ""
        assert run(*inside, "touch", "/models/x", env=env).returncode != 0
        assert run(*inside, "touch", "/x", env=env).returncode != 0
        (first,) = tritons()
        assert run(*inside, "python3", "-c", f"import os; os.kill({first}, 9)", env=env).returncode == 0
        assert until(lambda: tritons() not in ([], [first]), 300)
        assert until(lambda: health() == "healthy", 300) and answers()
    finally:
        down = run(*composed, "down", "--volumes", env=env, timeout=300)
    assert down.returncode == 0 and health() == "gone"


def test_it_waits_for_a_first_model_and_serves_what_is_built_later(tmp_path: Path) -> None:
    """`docker compose up` before anything was built; then a model, and another one."""
    models, log = tmp_path / "models", tmp_path / "log"
    models.mkdir()
    threading.Timer(4, add_model, (models, "first")).start()
    with (
        served(models, tmp_path, NAS_WATCH="1") as ports,
        httpx.Client(base_url=f"http://127.0.0.1:{ports['http']}") as http,
    ):
        assert f"waiting there are no models in {models}; what nas-build puts there is served" in log.read_text()
        assert http.get("v2/models/first/ready").is_success
        add_model(models, "second")
        assert until(lambda: http.get("v2/models/second/ready").is_success)
        assert "reloading" in log.read_text() and http.get("v2/models/first/ready").is_success


def test_a_model_that_is_still_copied_or_damaged_does_not_end_what_is_served(one_model: Path, tmp_path: Path) -> None:
    models, log = add_model(tmp_path / "models", "first"), tmp_path / "log"
    with (
        served(models, tmp_path, NAS_WATCH="1") as ports,
        httpx.Client(base_url=f"http://127.0.0.1:{ports['http']}") as http,
    ):
        shutil.copytree(one_model, models, dirs_exist_ok=True)
        (file,) = models.glob(f"{NAME}_engine/*/model.onnx")
        whole = file.read_bytes()
        file.write_bytes(whole[:1000])
        assert until(lambda: "note not served yet: " in log.read_text())
        assert http.get("v2/models/first/ready").is_success and "reloading" not in log.read_text()
        next(
            p for p in psutil.process_iter() if p.name() == "tritonserver" and f"{tmp_path}" in str(p.cmdline())
        ).kill()
        time.sleep(3)  # it waits, and says so
        assert http.get("v2/health/ready").status_code == 503 and http.get("v2/health/live").is_success
        file.write_bytes(whole)
        assert until(lambda: http.get(f"v2/models/{NAME}/ready").is_success)
        assert log.read_text().count("not served yet") == 1 and "gave-up" not in log.read_text()
        assert http.get("v2/models/first/ready").is_success

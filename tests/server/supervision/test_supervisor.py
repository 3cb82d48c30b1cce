"""Attacks and accidents: what is closed, and that a server that is hurt answers again by itself."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from nas_client import AdminKeyMissing, ClientError, Detector
from nas_ensembles import admin_key
from nas_serve import Server
from tritonclient.utils import InferenceServerException

from support.samples import SAMPLES
from support.waiting import until

BIN = Path(sys.executable).parent
NAME = "yolo_nas_s_int8"
BUS = SAMPLES / "bus.jpg"
BACK_S = 60.0  # ten are promised, and twenty more for who hangs; this machine may be busy
STEADY_S = 1.5  # three looks of the supervisor: an answer before the first proves nothing


@pytest.fixture(scope="module")
def models(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model alone."""
    folder = tmp_path_factory.mktemp("survival") / "models"
    for path in repository.glob(f"{NAME}*"):
        shutil.copytree(path, folder / path.name)
    return folder


@pytest.fixture(scope="module", params=["all", "chosen", "polled"])
def server(request: pytest.FixtureRequest, models: Path) -> Iterator[Server]:
    """In each mode."""
    how: dict[str, Any] = {"all": {}, "chosen": {"models": [NAME]}, "polled": {"poll_s": 5}}[request.param]
    with Server(models, **how) as running:
        yield running


def test_nothing_can_be_loaded_from_outside(server: Server) -> None:
    """A load request may carry files: Python that would run as whoever serves."""
    evil = {"parameters": {"config": '{"backend": "python"}', "file:1/model.py": "cmFpc2UgU3lzdGVtRXhpdA=="}}
    headers = {"Content-Type": "text/plain", "Origin": "http://evil.example"}
    with_key = headers | {admin_key.HTTP_HEADER: str(admin_key.find(server.ports["http"]))}
    for sent in (headers, with_key):
        for model in ("evil", NAME):
            url = f"http://{server.http_url}/v2/repository/models/{model}"
            for action in ("load", "unload"):
                answer = httpx.post(f"{url}/{action}", content=json.dumps(evil), headers=sent)
                assert answer.status_code == 403, answer.text
    client = triton.InferenceServerClient(server.grpc_url)
    with pytest.raises(InferenceServerException, match="not served here"):
        client.load_model("evil", config='{"backend": "python"}', files={"file:1/model.py": b"raise SystemExit"})
    with Detector(server.grpc_url, model=NAME) as detector:
        assert "bus" in detector.detect(BUS).names


def test_administration_needs_the_key_that_only_this_user_has(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ["v2/systemsharedmemory/status", "v2/cudasharedmemory/status", "v2/trace/setting", "v2/logging"]
    key = admin_key.find(server.ports["http"])
    assert key and key == admin_key.find(server.ports["grpc"])
    with httpx.Client(base_url=f"http://{server.http_url}") as http:
        for path in paths:
            assert http.get(path).status_code == 403, path
            assert http.get(path, headers={admin_key.HTTP_HEADER: "guess"}).status_code == 403, path
        assert http.get(paths[0], headers={admin_key.HTTP_HEADER: key}).status_code == 200
        assert http.post("v2/repository/index").status_code == 200
        region = "v2/systemsharedmemory/region/x/register"
        assert http.post(region, json={"key": "/nas_serve_1", "offset": 0, "byte_size": 1}).status_code == 403
    file = admin_key.folder() / f"{server.ports['grpc']}.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    # Nor can other users see it in the arguments of a process.
    arguments = [" ".join(process.cmdline()) for process in family(server)]
    assert any("tritonserver" in line for line in arguments) and not any(key in line for line in arguments)
    # Nor does Triton itself answer anybody.
    (port,) = {word.partition("=")[2] for line in arguments for word in line.split() if "--http-port=" in word}
    for path in ("v2/health/ready", "v2", f"v2/models/{NAME}/config", "v2/systemsharedmemory/status"):
        assert httpx.get(f"http://127.0.0.1:{port}/{path}", headers={"front-key": "guess"}).status_code == 403, path
    frame = np.zeros((64, 64, 3), np.uint8)
    with Detector(server.grpc_url, model=NAME) as detector:
        detector.detect(frame)
        assert detector.shares_memory and detector.models()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # where another user would look
    for url in (server.grpc_url, f"http://{server.http_url}"):
        with Detector(url, model=NAME) as detector:
            assert detector.detect(frame) is not None and not detector.shares_memory and detector.models()
            with pytest.raises(AdminKeyMissing, match="NAS_ADMIN_KEY"):
                detector.transport.registered()


@pytest.fixture(scope="module")
def survivor(models: Path) -> Iterator[tuple[Server, list[str]]]:
    """A server, and what it says."""
    said: list[str] = []
    with Server(models, said=said.append) as running:
        yield running, said


def family(server: Server, name: str = "") -> list[psutil.Process]:
    """Its processes, those of this name."""
    assert server._process is not None
    return [p for p in psutil.Process(server._process.pid).children(recursive=True) if name in p.name()]


def kill_a_python_model(server: Server) -> None:
    max(family(server, "stub"), key=lambda p: p.pid).kill()


def kill_triton(server: Server) -> None:
    family(server, "tritonserver")[0].kill()


def kill_envoy(server: Server) -> None:
    family(server, "envoy")[0].kill()


def stop(server: Server, part: str) -> None:
    """It is there, and answers nothing."""
    (process,) = (p for p in family(server, "stub") if any(f"{NAME}_{part}/" in argument for argument in p.cmdline()))
    process.suspend()


def stop_preprocess(server: Server) -> None:
    stop(server, "preprocess")


def stop_engine(server: Server) -> None:
    stop(server, "engine")


def stop_postprocess(server: Server) -> None:
    stop(server, "postprocess")


def stop_triton(server: Server) -> None:
    family(server, "tritonserver")[0].suspend()


HURT = (kill_a_python_model, kill_triton, kill_envoy, stop_preprocess, stop_engine, stop_postprocess, stop_triton)


@pytest.mark.parametrize("hurt", HURT)
def test_it_answers_again_by_itself(hurt: Callable[[Server], None], survivor: tuple[Server, list[str]]) -> None:
    """Until then clients hear that it does not, and nothing wrong."""
    server, said = survivor
    before = len(said)
    with Detector(server.grpc_url, model=NAME) as detector:
        expected = detector.detect(BUS)
    hurt(server)
    began, answered_since = time.monotonic(), None
    while time.monotonic() - began < BACK_S + STEADY_S:
        try:
            with Detector(server.grpc_url, model=NAME, timeout_s=3, retries=0) as detector:
                got = detector.detect(BUS)
            np.testing.assert_array_equal(got.boxes_xyxy, expected.boxes_xyxy)
            answered_since = answered_since or time.monotonic()
            if time.monotonic() - answered_since > STEADY_S:
                break
        except ClientError:
            answered_since = None
        time.sleep(0.1)
    assert answered_since is not None and answered_since - began < BACK_S, said
    assert httpx.get(f"http://{server.http_url}/v2/health/ready").status_code == 200
    assert [line.partition(":")[0] for line in said[before:]] == ["restarting", "Triton is ready again"]


@pytest.mark.parametrize("command", ["detect", "val"])
def test_clients_survive_a_restart(command: str, survivor: tuple[Server, list[str]], tmp_path: Path) -> None:
    """Every picture is answered once; what was sent again is counted."""
    server, _ = survivor
    names = [f"{i}.jpg" for i in range(60)]
    for name in names:
        shutil.copy(BUS, tmp_path / name)
    truth = {
        "images": [{"id": i, "file_name": name, "width": 810, "height": 1080} for i, name in enumerate(names)],
        "categories": [{"id": 6, "name": "bus"}],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 6, "bbox": [11, 231, 794, 525], "area": 416850, "iscrowd": 0}
            for i in range(len(names))
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    arguments = {
        "detect": [str(tmp_path), "--format", "jsonl"],
        "val": ["--data", str(tmp_path / "truth.json"), "--images", str(tmp_path), "--json", "--no-resume"],
    }[command]
    client = [str(BIN / "nas-client"), command, *arguments, "--model", NAME, "--url", server.grpc_url]
    with subprocess.Popen(client, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        engine = f"http://{server.http_url}/v2/models/{NAME}_postprocess/stats"
        before = _count(engine)
        while _count(engine) < before + 10:
            assert process.poll() is None
            time.sleep(0.05)
        kill_triton(server)
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert re.search(r"^\d+ requests were sent again", errors, re.MULTILINE), errors
    if command == "detect":
        assert [json.loads(line)["source"] for line in out.splitlines()] == sorted(
            str(tmp_path / name) for name in names
        )
    else:
        report = json.loads(out)
        assert report["pictures"] == len(names) and report["failed"] == 0 and report["retried"] > 0
        assert report["models"][0]["map_50"] > 0.9


def _count(url: str) -> int:
    return int(httpx.get(url).json()["model_stats"][0]["inference_stats"]["success"]["count"])


def test_shared_memory_of_a_killed_client_is_let_go(survivor: tuple[Server, list[str]]) -> None:
    server, _ = survivor
    code = "import sys, time, numpy, nas_client; d = nas_client.Detector(sys.argv[1], sys.argv[2], shared_memory=True);"
    code += "d.detect(numpy.zeros((64, 64, 3), numpy.uint8)); print('done', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, server.grpc_url, NAME], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None and client.stdout.readline()
        with Detector(server.grpc_url) as detector:
            mine = [name for name in detector.transport.registered() if f"_{client.pid}_" in name]
            assert len(mine) == 1
            client.kill()
            deadline = time.monotonic() + BACK_S
            while mine[0] in detector.transport.registered():
                assert time.monotonic() < deadline
                time.sleep(0.2)


def test_restarts_are_counted(survivor: tuple[Server, list[str]]) -> None:
    server, said = survivor
    restarts = sum(line.startswith("restarting") for line in said)
    text = httpx.get(server.metrics_url).text
    assert f'nas_server_restarts{{model="{NAME}_preprocess"}} {restarts}' in text.replace(".000000", "")


def test_a_full_disk_ends_nothing(models: Path) -> None:
    said: list[str] = []
    with Server(models, said=said.append) as server:
        (server._scratch / "capacity.new").symlink_to("/dev/full")
        (server._scratch / "capacity").unlink(missing_ok=True)
        assert until(lambda: any("No space left on device" in line for line in said), 30)
        time.sleep(3)  # six looks
        with Detector(server.grpc_url) as detector:
            assert "bus" in detector.detect(BUS).names
        assert len(said) == 1 and said[0].startswith("note: Envoy is not told"), said

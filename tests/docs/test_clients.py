"""The programs of docs/clients.md, as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nas_client import Detector
from nas_serve import Server

from support.samples import ROOT, SAMPLES

MODEL = "yolo_nas_s_int8"
PAGE = (ROOT / "docs/clients.md").read_text(encoding="utf-8")


def program(language: str, server: Server, number: int = 0) -> str:
    """A block of a language, with the server's address."""
    block = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[number]
    assert MODEL in block
    return str(block).replace("localhost:8001", server.grpc_url).replace("localhost:8000", server.http_url)


def run(*command: object) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, cwd=ROOT, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def best(server: Server) -> tuple[float, int]:
    """Score of the surest object of the picture, and how many there are."""
    with Detector(server.grpc_url, MODEL) as detector:
        found = detector.detect(SAMPLES / "bus.jpg")
    return float(found.scores[0]), len(found)


def test_python(server: Server, best: tuple[float, int]) -> None:
    out = run(sys.executable, "-c", program("python", server))
    assert any(float(number) == pytest.approx(best[0], abs=1e-4) for number in re.findall(r"0\.\d+", out))
    assert len(re.findall(r"^ ?\[+ *[\d.]+ ", out, re.MULTILINE)) >= best[1]


@pytest.mark.parametrize(("number", "least"), [(0, 0.5), (2, 0.0)], ids=["alone", "base64"])
def test_curl(number: int, least: float, server: Server) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    out = json.loads(run("bash", "-euo", "pipefail", "-c", program("bash", server, number)))
    data = {output["name"]: output["data"] for output in out["outputs"]}
    with Detector(server.grpc_url, MODEL) as detector:
        found = detector.detect(SAMPLES / "bus.jpg", score_threshold=least or None)
    assert data["num_detections"] == [len(found)] and data["labels"][: len(found)] == found.labels.tolist()


def test_curl_and_jq(server: Server, best: tuple[float, int]) -> None:
    if shutil.which("curl") is None or shutil.which("jq") is None:
        pytest.skip("curl and jq are not installed")
    lines = run("bash", "-euo", "pipefail", "-c", program("bash", server, 1)).splitlines()
    assert len(lines) == best[1]
    first = json.loads(lines[0])
    assert first["score"] == pytest.approx(best[0], abs=1e-4) and len(first["box"]) == 4


def test_javascript(server: Server, best: tuple[float, int], tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = tmp_path / "client.mjs"
    script.write_text(program("javascript", server))
    lines = run("node", script).splitlines()
    assert len([line for line in lines if re.match(r"\d+ 0\.\d+", line)]) == best[1]


def test_why_ultralytics_cannot(server: Server) -> None:
    """It takes models whose inputs all are FP32, FP16 or UINT8, and casts all their outputs to numbers."""
    with Detector(server.grpc_url, MODEL) as detector:
        for model, strange in ((MODEL, "TYPE_STRING"), (f"{MODEL}_frames", "TYPE_INT32")):
            config = detector.transport.model_config(model)
            assert strange in {tensor["data_type"] for tensor in config["input"]}
        engine = detector.transport.model_config(f"{MODEL}_engine")
        assert {tensor["name"]: tensor["data_type"] for tensor in engine["output"]}["engine_info"] == "TYPE_STRING"

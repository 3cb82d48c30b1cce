"""The programs of docs/clients.md, as they stand there."""

from __future__ import annotations

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


def program(language: str, server: Server) -> str:
    """The only block of a language, with the server's address."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert MODEL in block
    return str(block).replace("localhost:8001", server.grpc_url).replace("localhost:8000", server.http_url)


def run(*command: object) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env=os.environ
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


def test_curl(server: Server, best: tuple[float, int]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    out = run("bash", "-euo", "pipefail", "-c", program("bash", server))
    assert f'"name":"num_detections","datatype":"INT32","shape":[1,1],"data":[{best[1]}]' in out


def test_javascript(server: Server, best: tuple[float, int], tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = tmp_path / "client.mjs"
    script.write_text(program("javascript", server))
    lines = run("node", script).splitlines()
    assert len([line for line in lines if re.match(r"\d+ 0\.\d+", line)]) == best[1]

"""perf_analyzer on this machine and in a container."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nas_client import Detector
from nas_client.bench import perf_analyzer
from nas_client.bench.perf_analyzer import Analyzer, Load
from nas_client.bench.sweep import Contender
from nas_client.errors import BenchError
from nas_client.transport import Address
from nas_serve import Server

from support.containers import machine_image
from support.samples import SAMPLES

BUS = SAMPLES / "bus.jpg"
INT8 = "yolo_nas_s_int8"


def test_requests_are_written_as_triton_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    picture = np.array([b"abc"], dtype=object)
    perf_analyzer.write_data(path, [{"image": picture, "size": np.array([1.5, 2], np.float32)}])
    (request,) = json.loads(path.read_text())["data"]
    assert base64.b64decode(request["image"]["content"]["b64"]) == struct.pack("<I", 3) + b"abc"
    assert request["image"]["shape"] == [1] and request["size"]["shape"] == [2]
    assert base64.b64decode(request["size"]["content"]["b64"]) == struct.pack("<ff", 1.5, 2)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="nope: No such file"):
        perf_analyzer.find(str(tmp_path / "nope"))
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\necho something failed >&2\nexit 3\n")
    silent.chmod(0o755)
    with pytest.raises(BenchError, match="silent: something failed"):
        perf_analyzer.find(str(silent))
    monkeypatch.setattr(perf_analyzer, "_library_folders", lambda: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        perf_analyzer.find()
    except BenchError as error:
        message = str(error)
        assert "pip install nvidia-cuda-runtime-cu12" in message or "apt install libb64-0d" in message
        assert "container: there is no docker command" in message


def test_a_load_that_fails_is_said_in_perf_analyzers_words(server: Server, analyzer: Analyzer, tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    perf_analyzer.write_data(path, [{"image": np.array([b"no picture"], dtype=object)}])
    address = Address.parse(server.grpc_url, None)
    with pytest.raises(BenchError, match="could not measure yolo_nas_s_int8 at concurrency 1: "):
        analyzer.run(INT8, address, Load("concurrency", 1), path, 0.3)


def test_perf_analyzer_in_a_container(
    repository: Path, analyzer: Analyzer, engine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """perf_analyzer itself, in a container of this machine's files, on a server outside that shares memory with all."""
    name = "nas-triton-test/perf_analyzer:2.51.0"
    monkeypatch.setattr(perf_analyzer, "SDK_IMAGE", name)
    with pytest.raises(BenchError, match=f"container: the image {name} is not here; docker pull it"):
        perf_analyzer.find("container")
    monkeypatch.setenv("LD_LIBRARY_PATH", analyzer.environment["LD_LIBRARY_PATH"])  # for the libraries of the image
    with (
        machine_image(engine, name, [Path(analyzer.command[0])]),
        Server(repository, models=[INT8], open_shared_memory=True) as server,
    ):
        found = perf_analyzer.find("container")
        assert found.command[0].endswith("docker") and found.version == analyzer.version
        for shared_memory in ("none", "system"):
            pictures = [BUS.read_bytes()]
            with contextlib.closing(
                Contender(INT8, Detector(server.grpc_url, INT8), pictures, shared_memory=shared_memory)  # type: ignore[arg-type]
            ) as target:
                point = target.measure(found, "ensemble", Load("concurrency", 1), 0.4)
            assert point.measured.throughput > 1 and 0 < point.measured.p50_ms <= point.measured.p99_ms
        with pytest.raises(BenchError, match="perf_analyzer could not measure nope at concurrency 1: .*nope"):
            perf_analyzer.write_data(tmp_path / "input.json", [{"image": np.array([b"x"], dtype=object)}])
            address = Address.parse(server.grpc_url, None)
            found.run("nope", address, Load("concurrency", 1), tmp_path / "input.json", 0.3)
    assert not engine.containers.list(all=True, filters={"ancestor": name})

"""The same boxes on every CPU: the int8 model served under each instruction set that this one can imitate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from nas_build.graph import check
from nas_build.graph.exact import Exact
from nas_build.int8.rounding import nearest
from nas_build.int8.schemes import UNSIGNED
from nas_build.repository import configs
from nas_build.yolo_nas.processing import COCO
from nas_client import Detections, Detector
from nas_ensembles import known_answer
from nas_serve import Server, ServerError
from onnx import numpy_helper
from tritonclient.grpc import model_config_pb2 as pb

from support.cpu import INSTRUCTION_SETS
from support.repository import PARTS, copy_of
from support.samples import PICTURES, ROOT

BIN = Path(sys.executable).parent
NAME = "yolo_nas_s_int8"
MODELS = [f"{NAME}{part}" for part in PARTS]


def nas_client(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "nas-client"), *arguments, "--url", server.grpc_url]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def checked(server: Server) -> dict[str, Any]:
    done = nas_client(server, "check", "--json")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)
    return dict(one)


@pytest.fixture(params=INSTRUCTION_SETS)
def limited(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an instruction set; servers started after it have no other."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def unlimited(server: Server) -> Iterator[Detector]:
    with Detector(server.grpc_url, model=NAME) as detector:
        yield detector


def same(a: Detections, b: Detections) -> bool:
    """The clear objects of one are those of the other, to a pixel."""
    found = [
        any(
            label == other and np.abs(box - box_).max() < 1.5 and abs(score - score_) < 0.02
            for other, box_, score_ in zip(b.labels, b.boxes_xyxy, b.scores, strict=True)
        )
        for label, box, score in zip(a.labels, a.boxes_xyxy, a.scores, strict=True)
        if score > 0.4
    ]
    return len(found) > 0 and all(found)


def test_int8_is_served_alike(limited: str, repository: Path, tmp_path: Path, unlimited: Detector) -> None:
    with (
        Server(copy_of(repository, tmp_path / "m")) as server,
        Detector(server.grpc_url, model=NAME) as detector,
    ):
        one = checked(server)
        assert one["agreement"] > 0.93 and one["engine"]["path"] == "as built"
        assert "I8" in one["engine"]["kernels"] and ("avx2" in one["engine"]["kernels"]) == limited.startswith("AVX2")
        for path in PICTURES:
            here, there = detector.detect(path), unlimited.detect(path)
            assert same(here, there) and same(there, here)


@pytest.fixture(scope="module")
def overflowing(repository: Path) -> onnx.ModelProto:
    """The demo graph with weights that use all of int8, as builds for other engines have them."""
    path = next((repository / f"{NAME}_engine").rglob("model.onnx"))
    graph = onnx.load(str(path))
    for tensor in graph.graph.initializer:
        if tensor.name.endswith(".weight_int8"):
            (scales,) = (i for i in graph.graph.initializer if i.name == tensor.name.replace("_int8", "_scale"))
            weights = numpy_helper.to_array(tensor) * numpy_helper.to_array(scales).reshape(-1, 1, 1, 1)
            rounded = nearest(weights.astype(np.float32))
            tensor.CopyFrom(numpy_helper.from_array(rounded.values, tensor.name))
            scales.CopyFrom(numpy_helper.from_array(rounded.scales, scales.name))
    return graph


@pytest.mark.parametrize(
    "limited", [name for name in INSTRUCTION_SETS if name in ("AVX2", "AVX512_CORE")][-1:], indirect=True
)
def test_what_a_cpu_computes_wrongly_takes_the_exact_path(
    limited: str, overflowing: onnx.ModelProto, repository: Path, tmp_path: Path
) -> None:
    folder = copy_of(repository, tmp_path / "m")
    (engine,) = (folder / f"{NAME}_engine").glob("[0-9]*")
    onnx.save(overflowing, str(engine / "model.onnx"))
    known = check.ask(Exact(overflowing), COCO.letterbox)
    (engine / known_answer.FILE).write_text(json.dumps(known.to_dict()))
    with_parameter(folder, known.to_dict())
    log = tmp_path / "log"
    with Server(folder, log=log) as server, Detector(server.grpc_url) as detector:
        assert "it takes the exact path" in log.read_text() and f"{NAME}_engine" in log.read_text()
        listed = {model["name"]: model for model in json.loads(nas_client(server, "models", "--json").stdout)}
        assert listed[NAME]["parameters"]["engine"]["path"] == "exact"
        assert "exact" in nas_client(server, "models").stdout
        assert checked(server)["agreement"] > 0.9
        assert {"bus", "person"} <= set(detector.detect(PICTURES[1]).names)


def test_a_wrong_model_file_is_refused(repository: Path, tmp_path: Path) -> None:
    folder = copy_of(repository, tmp_path / "m")
    (path,) = (folder / f"{NAME}_engine").rglob("model.onnx")
    graph = onnx.load(str(path))
    (bias,) = (i for i in graph.graph.initializer if i.name == "heads.head1.cls_pred.bias_shifted")
    bias.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(bias), bias.name))
    onnx.save(graph, str(path))
    with pytest.raises(ServerError, match="agreement with the known answer is .*on the exact path .*expected at least"):
        Server(folder).start()


def with_parameter(folder: Path, change: dict[str, Any] | None) -> None:
    """Change the known answer that clients see, or take it away."""
    path = folder / f"{NAME}_engine/config.pbtxt"
    config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    known = json.loads(config.parameters["known_answer"].string_value)
    if change is None:
        del config.parameters["known_answer"]
    else:
        config.parameters["known_answer"].string_value = json.dumps({**known, **change})
    path.write_text(configs.render(config), encoding="utf-8")


WRONG: dict[str, tuple[dict[str, Any] | None, str]] = {
    "yolo_nas_s_labels": (
        {"labels": [79] * 100},
        "computes something else than it was built to: agreement with the known answer 0.00",
    ),
    "yolo_nas_s_version": ({"version": 7}, "its known answer is of version 7, the server has 1"),
    "yolo_nas_s_none": (None, "has no known answer: build the model again"),
}


def test_check_says_what_is_wrong(repository: Path, tmp_path: Path) -> None:
    """Three copies of the model in one server, each with something else."""
    for name, (change, _) in WRONG.items():
        folder = copy_of(repository, tmp_path / name)
        with_parameter(folder, change)
        for model in MODELS:
            config = folder / model / "config.pbtxt"
            config.write_text(config.read_text(encoding="utf-8").replace(NAME, name), encoding="utf-8")
            (tmp_path / "m").mkdir(exist_ok=True)
            (folder / model).rename(tmp_path / "m" / model.replace(NAME, name))
    with Server(tmp_path / "m") as server:
        done = nas_client(server, "check")
        assert done.returncode == 1 and done.stdout.count("wrong") == 3, done.stdout
        for name, (_, message) in WRONG.items():
            assert name in done.stderr and message in done.stderr
        assert nas_client(server, "check", "nope").returncode == 1


def test_check_of_all_models(server: Server) -> None:
    for protocol, url, names in (("grpc", server.grpc_url, []), ("http", server.http_url, [NAME])):
        command = [str(BIN / "nas-client"), "check", *names, "--json", "--url", url, "--protocol", protocol]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
        checks = json.loads(done.stdout)
        assert done.returncode == 0 and len(checks) == (len(names) or 6), done.stderr
        for one in checks:
            assert one["agreement"] > (0.99 if "fp16" in one["model"] else 0.85) and one["device"] == "CPU"
            assert 1 < one["engine_ms"] < one["picture_ms"] * 3 and one["triton"] and one["engine"]["openvino"]


def test_int8_is_no_slower_than_fp16(limited: str, repository: Path) -> None:
    """On any of them."""
    command = [sys.executable, str(ROOT / "benchmarks/instruction_sets.py"), "--latency", str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=dict(os.environ))
    assert json.loads(done.stdout)["int8 / fp16"] < 1


def test_plain_weights_do_overflow(overflowing: onnx.ModelProto, repository: Path) -> None:
    """What the limit for pairs is for: such weights are there to be found."""
    limit = UNSIGNED.pair_limit
    assert limit is not None
    path = next((repository / f"{NAME}_engine").rglob("model.onnx"))

    def most(graph: onnx.ModelProto) -> int:
        weights = [numpy_helper.to_array(i) for i in graph.graph.initializer if i.name.endswith(".weight_int8")]
        return max(int(np.sort(w.reshape(len(w), -1).astype(int))[:, -2:].sum(axis=1).max()) for w in weights)

    assert most(onnx.load(str(path))) <= limit < most(overflowing)

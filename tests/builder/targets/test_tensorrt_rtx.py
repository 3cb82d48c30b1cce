"""Engines by TensorRT for RTX itself, which needs no GPU to build them. None is run here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import tensorrt_rtx as trt
from google.protobuf import text_format
from nas_build import Options, PlanError, TensorRTRTXOptions
from nas_build.errors import OptionError
from nas_build.progress import SILENT
from nas_build.targets import EngineFile, EngineGraph
from nas_build.targets.tensorrt_rtx import TensorRTRTX
from nas_ensembles.known_answer import KnownAnswer
from tritonclient.grpc import model_config_pb2 as pb

NAME = "yolo_nas_s_int8"
CAPABILITIES = ["7.5", *(pytest.param(one, marks=pytest.mark.nightly) for one in ("8.0", "8.6", "8.9", "12.0", "12.1"))]


def for_gpus(compute_capability: str | None) -> TensorRTRTX:
    return TensorRTRTX.find(Options(tensorrt_rtx=TensorRTRTXOptions(compute_capability)), SILENT.warn)


@pytest.fixture()
def built(graph: Callable[[str], onnx.ModelProto]) -> Callable[[str | None], EngineFile]:
    known = KnownAnswer.__new__(KnownAnswer)  # the target does not ask it
    return lambda capability: for_gpus(capability).build(EngineGraph("engine", graph("s_int8"), known), SILENT)


@pytest.mark.parametrize("compute_capability", [None, *CAPABILITIES])
def test_an_engine_for_each_kind_of_gpu(
    compute_capability: str | None, built: Callable[[str | None], EngineFile]
) -> None:
    engine = built(compute_capability)
    assert len(engine.data) > 10_000_000
    assert engine.facts["compute_capability"] == compute_capability
    assert engine.facts["tensorrt_rtx_version"] == trt.__version__


def test_another_release_or_kind_of_gpu_is_another_key() -> None:
    target = for_gpus(None)
    other = replace(target.options, tensorrt_rtx=TensorRTRTXOptions("8.9"))
    keys = [target.key(), for_gpus("8.9").key(), TensorRTRTX(target.options, onnx).key()]
    assert keys[0] == {"tensorrt_rtx_version": trt.__version__, "compute_capability": None}
    assert TensorRTRTX(other, trt).key() == keys[1] and keys[0] not in keys[1:] and keys[1] != keys[2]


def test_a_gpu_it_does_not_know() -> None:
    with pytest.raises(OptionError, match="builds for SM75, .*; got compute capability '6.1'") as caught:
        for_gpus("6.1")
    assert caught.value.options == ("tensorrt_rtx.compute_capability",)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(PlanError, match=r"pip install 'nas-triton\[tensorrt-rtx\]'"):
        for_gpus(None)


def test_from_the_command_line_to_a_repository(small_checkpoint: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("nas-build")), "--target", "tensorrt-rtx", "--precision", "int8"]
    command += ["--weights", str(small_checkpoint), "--model-repository", str(tmp_path), "--compute-capability", "8.9"]
    command += ["--calibration-method", "max"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Serve it with: a Triton that has a backend tensorrt_rtx" in " ".join(done.stdout.split())
    folder = tmp_path / f"{NAME}_engine"
    assert sorted(p.name for p in (folder / "1").iterdir()) == ["known_answer.json", "model.plan"]
    config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
    assert config.backend == "tensorrt_rtx" and config.default_model_filename == "model.plan"
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_AUTO and not config.optimization.cuda.graphs
    config = text_format.Parse((tmp_path / NAME / "config.pbtxt").read_text(), pb.ModelConfig())
    assert config.parameters["target"].string_value == "tensorrt-rtx"
    plan = json.loads(config.parameters["plan"].string_value)
    assert plan["tensorrt_rtx_version"] == trt.__version__ and plan["compute_capability"] == "8.9"
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)[0]["built"] is False

"""The target, from a checkpoint to a model repository and from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tensorrt_rtx as trt
from google.protobuf import text_format
from nas_build import Options, TensorRTOptions, pipeline
from nas_build.errors import PlanError
from nas_build.progress import BuildProgress
from nas_build.targets.tensorrt import TensorRT
from nas_build.targets.tensorrt.gpus import Gpu
from nas_build.targets.tensorrt.in_process import InProcess
from nas_build.targets.tensorrt.plan import Plan, PlanBuilder, PlanRequest
from tritonclient.grpc import model_config_pb2 as pb

from support.plans import NO_TIMINGS, for_gpus

BIN = Path(sys.executable).parent


def built(options: Options, plan_builder: PlanBuilder) -> pipeline.Result:
    return pipeline.build(options, target=TensorRT(options, plan_builder))


@pytest.mark.filterwarnings(NO_TIMINGS)
def test_a_built_model_says_what_its_plan_needs(small_checkpoint: Path, tmp_path: Path) -> None:
    options = Options(
        weights=small_checkpoint,
        variant="s",
        target="tensorrt",
        model_repository=tmp_path / "models",
        max_batch_size=4,
    )
    builder = for_gpus("SM89")
    first = built(options, builder)
    assert first.built and first.seconds["plan"] > 0
    engine = tmp_path / "models" / "yolo_nas_s_fp16_engine"
    assert sorted(p.name for p in (engine / "1").iterdir()) == ["known_answer.json", "model.plan"]
    facts = first.manifest["plan"]
    assert facts["tensorrt_version"] == trt.__version__ and facts["gpu"] == "NVIDIA L4"
    assert facts["optimization_level"] == 3 and facts["hardware_compatible"] is False
    config = text_format.Parse((tmp_path / "models/yolo_nas_s_fp16/config.pbtxt").read_text(), pb.ModelConfig())
    assert json.loads(config.parameters["plan"].string_value) == facts
    assert config.parameters["target"].string_value == "tensorrt"
    config = text_format.Parse((engine / "config.pbtxt").read_text(), pb.ModelConfig())
    assert config.backend == "tensorrt" and config.instance_group[0].count == 2
    assert list(config.parameters) == ["known_answer"]
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 4]

    assert not built(options, builder).built
    other_gpu = InProcess(trt, Gpu("NVIDIA T4", "7.5"), builder._configure)
    changed = replace(options, tensorrt=TensorRTOptions(opt_batch_size=1))
    for other_options, other_builder in ((options, other_gpu), (changed, builder)):
        with pytest.raises(RuntimeError, match="a new build"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline._Build, "run", lambda _: (_ for _ in ()).throw(RuntimeError("a new build")))
            built(other_options, other_builder)


def test_a_build_that_fails_installs_nothing(small_checkpoint: Path, tmp_path: Path) -> None:
    class Refusing:
        def identity(self) -> dict[str, str]:
            return {"tensorrt_version": "11.2.1"}

        def build(self, request: PlanRequest, progress: BuildProgress) -> Plan:
            raise PlanError("out of memory")

    options = Options(small_checkpoint, "s", target="tensorrt", model_repository=tmp_path / "models")
    with pytest.raises(PlanError, match="out of memory"):
        built(options, Refusing())
    assert not any((tmp_path / "models").iterdir())


def test_the_command_line_builds_for_the_gpu_it_finds(
    trtexec_machine: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    command = [str(BIN / "nas-build"), "--weights", str(small_checkpoint), "--model-repository", str(tmp_path / "m")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["target"] == "tensorrt" and result["plan"]["tensorrt_version"] == "11.2.1"
    assert "yolo_nas_s_fp16_engine/1/model.plan" in result["files"]
    # Another server: nothing that is here fits, and each way says why.
    done = subprocess.run(
        [*command, "--target", "tensorrt", "--server", "25.12"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "trtexec: TensorRT 11.2.1 here, but nvcr.io/nvidia/tritonserver:25.12-py3 has 10.14" in said
    assert "tensorrt: the tensorrt package cannot be used" in said and "docker: no Docker engine answers" in said
    assert "Triton 25.12 has known remote code execution" in said
    assert "or build for the CPU. (--server, --target openvino)" in said


def test_a_gpu_without_tensorrt_builds_for_the_cpu_and_says_so(
    gpu_machine: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    command = [str(BIN / "nas-build"), "--weights", str(small_checkpoint), "--model-repository", str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        "there is a GPU, but a TensorRT plan for nvcr.io/nvidia/tritonserver:26.08-py3 cannot be built" in done.stderr
    )
    assert (tmp_path / "m" / "yolo_nas_s_fp16_engine" / "1" / "model.onnx").exists()
    assert "Serve it with: nas-serve --model-repository" in done.stdout

"""Plans by TensorRT's own parser and builder. TensorRT for RTX has both, and builds without a GPU."""

from __future__ import annotations

import _thread
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt_rtx as trt
import torch
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from nas_build import pipeline
from nas_build.errors import PlanError
from nas_build.graph.export import EndToEnd
from nas_build.int8 import calibrate, rounding
from nas_build.int8.qdq import insert_qdq
from nas_build.int8.schemes import SCHEMES
from nas_build.options import Options, TensorRTOptions
from nas_build.targets.tensorrt import plan, trtexec
from nas_build.targets.tensorrt.in_process import InProcess
from nas_build.targets.tensorrt.plan import Gpu, Plan, PlanOptions, Profile
from nas_build.targets.tensorrt.trtexec import Trtexec
from nas_build.yolo_nas.network import YoloNAS
from nas_build.yolo_nas.processing import COCO
from onnx import numpy_helper
from tritonclient.grpc import model_config_pb2 as pb

from support.networks import canvas_of
from support.samples import PICTURES

BIN = Path(sys.executable).parent
PROFILE = Profile("images", (3, 640, 640), max_batch_size=8, opt_batch_size=4)
GPU = Gpu("NVIDIA L4", "8.9")
DEFAULTS = PlanOptions()
# TensorRT for RTX keeps no timings, and says so each time it is asked.
pytestmark = pytest.mark.filterwarnings("ignore:.*[Tt]iming cache:DeprecationWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def for_gpus(*names: str) -> InProcess:
    """TensorRT for RTX, building for these kinds of GPU."""

    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(names)
        for i, name in enumerate(names):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), i)

    return InProcess(trt, GPU, configure)


def built(
    builder: plan.PlanBuilder,
    model: bytes,
    options: PlanOptions = DEFAULTS,
    profile: Profile = PROFILE,
    log: plan.Log = lambda *_: None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Plan:
    return builder.build("yolo_nas_s_engine", model, profile, options, progress, log)


@pytest.fixture(scope="session")
def graph(repository: Path, networks: dict[str, YoloNAS]) -> Callable[[str], bytes]:
    """Of a model, as it is for TensorRT: the repository's int8 graphs are for OpenVINO."""

    @functools.cache
    def read(name: str) -> bytes:
        variant, precision = name.split("_")
        fp16 = (repository / f"yolo_nas_{variant}_fp16_engine" / "1" / "model.onnx").read_bytes()
        if precision == "fp16":
            return fp16
        reference, scheme = EndToEnd(networks[variant], COCO, torch.float64), SCHEMES["tensorrt"]
        observed = calibrate.observe(reference, [canvas_of(PICTURES[0])])
        grids = {layer: scheme.grid(observation.histogram, "max") for layer, observation in observed.items()}
        # To the nearest: how weights are rounded changes nothing for TensorRT.
        weights = {layer: rounding.nearest(reference.network.get_submodule(layer).weight.numpy()) for layer in grids}  # type: ignore[operator]
        return insert_qdq(onnx.load_from_string(fp16), grids, weights).SerializeToString()

    return read


slow = pytest.mark.slow


@pytest.mark.parametrize("gpu", ["SM89", "SM120"])
@pytest.mark.parametrize(
    "name", ["s_fp16", "s_int8", *(pytest.param(f"{v}_{p}", marks=slow) for v in "ml" for p in ("fp16", "int8"))]
)
def test_every_model_builds_as_a_strongly_typed_network(name: str, gpu: str, graph: Callable[[str], bytes]) -> None:
    log: list[str] = []
    plan = built(for_gpus(gpu), graph(name), log=lambda _, line: log.append(line))
    assert len(plan.data) > 10_000_000
    layers = next(line for line in log if line.startswith("Layers:")).splitlines()
    convolutions = [line for line in layers if "LayerType: correlation," in line]
    in_int8 = [line for line in convolutions if re.search(r"Inputs: \[ \{[^}]*Datatype: Int8", line)]
    weights_in_int8 = [line for line in convolutions if re.search(r"Constants: \[ \{[^}]*Datatype: Int8", line)]
    model = onnx.ModelProto.FromString(graph(name))
    if name.endswith("int8"):
        # The two transposed convolutions are not among them: TensorRT for RTX dequantizes and runs them in half.
        assert len(convolutions) == sum(node.op_type == "Conv" for node in model.graph.node)
        assert len(convolutions) == len(in_int8) == len(weights_in_int8)
    else:
        assert convolutions and not in_int8 and not weights_in_int8


def test_one_plan_for_several_gpus_and_any_batch(graph: Callable[[str], bytes]) -> None:
    both = built(for_gpus("SM89", "SM120"), graph("s_int8"))
    single = built(for_gpus("SM89"), graph("s_int8"), profile=Profile("images", (3, 640, 640), 1, 1))
    assert both.data != single.data
    facts = both.facts()
    assert facts["tensorrt_version"] == trt.__version__ and facts["gpu"] == "NVIDIA L4"
    assert facts["compute_capability"] == "8.9" and facts["build_seconds"] > 0 and facts["built_with"] == "tensorrt"


def with_quantized_bias(model: onnx.ModelProto) -> str:
    name = "heads.head1.cls_pred"
    position, node = next((i, n) for i, n in enumerate(model.graph.node) if n.name == name)
    (bias,) = (i for i in model.graph.initializer if i.name == node.input[2])
    values = np.round(numpy_helper.to_array(bias).astype(np.float32) / 0.01).astype(np.int32)
    names = ["bias_int32", "bias_scale", "bias_zero"]
    arrays = values, np.asarray(np.float16(0.01)), np.zeros((), np.int32)
    model.graph.initializer.extend(map(numpy_helper.from_array, arrays, names))
    node.input[2] = "bias_dequantized"
    dequantize = onnx.helper.make_node("DequantizeLinear", names, ["bias_dequantized"], name="the_quantized_bias")
    model.graph.node.insert(position, dequantize)
    return "the_quantized_bias"


def with_float_weights(model: onnx.ModelProto) -> str:
    (weight,) = (i for i in model.graph.initializer if i.name == "backbone.stem.conv.conv.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    return "backbone.stem.conv.conv"


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [("s_int8", with_quantized_bias, "int8|INT8|type"), ("s_fp16", with_float_weights, "Half but .* Float")],
)
def test_a_graph_tensorrt_refuses_is_refused_by_the_name_of_its_node(
    name: str, spoil: Callable[[onnx.ModelProto], str], reason: str, graph: Callable[[str], bytes]
) -> None:
    model = onnx.ModelProto.FromString(graph(name))
    node = spoil(model)
    with pytest.raises(PlanError) as caught:
        built(for_gpus("SM89"), model.SerializeToString())
    message = str(caught.value)
    assert message.startswith(f"yolo_nas_s_engine: TensorRT {trt.__version__} refuses the graph: node {node} (")
    assert re.search(reason, message) and "catchCudaError" not in message


def test_what_is_no_onnx_is_refused() -> None:
    with pytest.raises(PlanError, match="refuses the graph"):
        built(for_gpus("SM89"), b"no graph")


def test_progress_rises_to_the_end(graph: Callable[[str], bytes]) -> None:
    seen: list[int] = []
    built(for_gpus("SM89"), graph("s_fp16"), progress=lambda what, done, total: seen.append(done))
    assert seen == sorted(seen) and len(set(seen)) > 20 and seen[-1] <= 99


def test_ctrl_c_stops_the_build_at_its_next_step(graph: Callable[[str], bytes], cache: Path) -> None:
    steps: list[int] = []

    def interrupt(what: str, done: int, total: int) -> None:
        if not steps:
            _thread.interrupt_main()
        steps.append(done)

    with pytest.raises(KeyboardInterrupt):
        built(for_gpus("SM89"), graph("s_fp16"), progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name == "tensorrt" and thread.is_alive()]
    assert not cache.exists()


def test_timings_are_kept_per_gpu_and_release(graph: Callable[[str], bytes], cache: Path) -> None:
    kept = cache / "timing" / f"nvidia-l4-sm89-tensorrt{trt.__version__}.cache"
    built(for_gpus("SM89"), graph("s_fp16"))
    assert [*kept.parent.iterdir()] == [kept] and kept.stat().st_size > 0
    kept.write_bytes(b"of another release")
    built(for_gpus("SM89"), graph("s_fp16"))  # ones that do not fit are left aside


def test_a_plan_is_not_lost_with_its_timings(graph: Callable[[str], bytes], cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    log: list[tuple[str, str]] = []
    assert built(for_gpus("SM89"), graph("s_fp16"), log=lambda *line: log.append(line)).data
    assert [line for level, line in log if level == "warning" and "cannot be written" in line]


def test_a_built_model_says_what_its_plan_needs(tmp_path: Path) -> None:
    options = Options(
        weights="demo",
        variant="s",
        precision="int8",
        target="tensorrt",
        model_repository=tmp_path / "models",
        max_batch_size=4,
        instances=2,
    )
    builder = for_gpus("SM89")
    first = pipeline.build(options, plan_builder=builder)
    assert first.built and first.seconds["plan"] > 0
    engine = tmp_path / "models" / "yolo_nas_s_int8_engine"
    assert sorted(p.name for p in (engine / "1").iterdir()) == ["known_answer.json", "model.plan"]
    facts = first.manifest["plan"]
    assert facts["tensorrt_version"] == trt.__version__ and facts["gpu"] == "NVIDIA L4"
    config = text_format.Parse((tmp_path / "models/yolo_nas_s_int8/config.pbtxt").read_text(), pb.ModelConfig())
    assert json.loads(config.parameters["plan"].string_value) == facts
    assert config.parameters["target"].string_value == "tensorrt"
    config = text_format.Parse((engine / "config.pbtxt").read_text(), pb.ModelConfig())
    assert config.backend == "tensorrt" and config.instance_group[0].count == 2
    assert list(config.parameters) == ["known_answer"]
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 4]

    assert not pipeline.build(options, plan_builder=builder).built
    other_gpu = InProcess(trt, Gpu("NVIDIA T4", "7.5"), builder._configure)
    changed = replace(options, tensorrt=TensorRTOptions(opt_batch_size=1))
    for differs in ({"options": options, "plan_builder": other_gpu}, {"options": changed, "plan_builder": builder}):
        with pytest.raises(RuntimeError, match="a new build"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline._Build, "run", lambda _: (_ for _ in ()).throw(RuntimeError("a new build")))
            pipeline.build(**differs)  # type: ignore[arg-type]


def test_a_build_that_fails_installs_nothing(tmp_path: Path, repository: Path) -> None:
    class Refusing:
        identity = staticmethod(lambda: {"tensorrt_version": "11.2.1"})

        def build(self, *_: object) -> Plan:
            raise PlanError("out of memory")

    options = Options(
        weights="demo", variant="s", precision="fp16", target="tensorrt", model_repository=tmp_path / "models"
    )
    with pytest.raises(PlanError, match="out of memory"):
        pipeline.build(options, plan_builder=Refusing())  # type: ignore[arg-type]
    assert not any((tmp_path / "models").iterdir())


# --- which server loads it


@pytest.mark.parametrize(
    ("version", "server", "compatible", "fits"),
    [
        ("11.2.1.3", "26.08", False, True),
        ("11.2.1", "26.08-py3", False, True),
        ("11.2.0", "26.08", False, False),
        ("11.2.0", "26.08", True, True),
        ("11.3.0", "26.08", True, False),
        ("10.16.1.11", "26.08", True, False),
        ("10.14.1.48", "25.12", False, True),
        ("10.5.0.18", "my.registry/team/tritonserver:24.10-py3", False, True),
        ("10.6.0", "my.registry:5000/tritonserver:24.10-py3", False, False),
        ("9.0", "mine:latest", False, True),
        ("9.0", "99.99", False, True),
    ],
)
def test_a_plan_is_refused_for_a_server_of_another_tensorrt(
    version: str, server: str, compatible: bool, fits: bool
) -> None:
    problem = plan.misfit(version, server, compatible)
    assert (problem is None) == fits
    if problem:
        assert version in problem and plan.server_image(server) in problem


def test_releases_below_the_security_floor_are_known() -> None:
    assert plan.below_security_floor("26.03") and plan.below_security_floor("registry/tritonserver:24.10-py3")
    assert not plan.below_security_floor("26.05") and not plan.below_security_floor("mine:latest")


def test_images() -> None:
    assert plan.server_image("26.08") == plan.server_image("26.08-py3") == "nvcr.io/nvidia/tritonserver:26.08-py3"
    assert plan.server_image("mine:1") == "mine:1"


# --- trtexec


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110201] [b3] # trtexec", "11.2.1"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # x", "10.16.1"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # x", "8.6.1"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v11.1.0.106] [b48] # x", "11.1.0.106"),
        ("bash: trtexec: not found", None),
    ],
)
def test_the_release_is_read_from_trtexecs_banner(banner: str, version: str | None) -> None:
    assert trtexec.parse_version(banner) == version


@given(st.integers(10, 99), st.integers(0, 99), st.integers(0, 99))
def test_the_release_of_any_banner(major: int, minor: int, patch: int) -> None:
    number = major * 10000 + minor * 100 + patch
    assert trtexec.parse_version(f"[TensorRT v{number}]") == f"{major}.{minor}.{patch}"


def test_trtexec_is_told_all_options_and_no_precision() -> None:
    options = PlanOptions(5, 2048, True, True)
    told = trtexec.arguments(PROFILE, options)
    assert told == [
        "--onnx=model.onnx",
        "--saveEngine=model.plan",
        "--stronglyTyped",
        "--skipInference",
        "--minShapes=images:1x3x640x640",
        "--optShapes=images:4x3x640x640",
        "--maxShapes=images:8x3x640x640",
        "--timingCacheFile=timing.cache",
        "--builderOptimizationLevel=5",
        "--profilingVerbosity=detailed",
        "--memPoolSize=workspace:2048",
        "--hardwareCompatibilityLevel=ampere+",
        "--versionCompatible",
    ]


def write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture()
def gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on PATH, with an nvidia-smi."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write_script(folder / "nvidia-smi", "#!/bin/sh\necho 'NVIDIA L4, 8.9'\n")
    monkeypatch.setenv("PATH", f"{folder}:{BIN}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    return folder


@pytest.fixture()
def trtexec_machine(gpu_machine: Path) -> Path:
    """... and a trtexec that builds with TensorRT for RTX."""
    shutil.copy(Path(__file__).with_name("trtexec"), gpu_machine)
    return gpu_machine


def test_a_plan_by_trtexec_on_this_machine(trtexec_machine: Path, graph: Callable[[str], bytes], cache: Path) -> None:
    builder = Trtexec.local()
    assert builder.identity() == {
        "built_with": "trtexec",
        "tensorrt_version": "11.2.1",
        "name": "NVIDIA L4",
        "compute_capability": "8.9",
    }
    log: list[tuple[str, str]] = []
    for _ in range(2):
        plan = built(builder, graph("s_int8"), log=lambda *line: log.append(line))
    assert len(plan.data) > 10_000_000 and plan.tensorrt_version == "11.2.1" and plan.gpu == GPU
    assert ("info", "Building") in log
    # The timings of the first build were given to the second.
    assert (cache / "timing" / "nvidia-l4-sm89-tensorrt11.2.1.cache").read_bytes() == b"timings timings "


def test_what_trtexec_refuses_is_told_in_its_words(trtexec_machine: Path, graph: Callable[[str], bytes]) -> None:
    model = onnx.ModelProto.FromString(graph("s_fp16"))
    node = with_float_weights(model)
    message = rf"^yolo_nas_s_engine: TensorRT 11.2.1 cannot build a plan: .*{node}: .*(\n|.)*Failed to parse onnx file"
    with pytest.raises(PlanError, match=message):
        built(Trtexec.local(), model.SerializeToString())


def test_the_command_line_builds_for_the_gpu_it_finds(trtexec_machine: Path, tmp_path: Path) -> None:
    command = [str(BIN / "nas-build"), "--weights", "demo", "--model-repository", str(tmp_path / "models")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["target"] == "tensorrt" and result["plan"]["tensorrt_version"] == "11.2.1"
    assert "yolo_nas_s_fp16_engine/1/model.plan" in result["files"]
    # Another server: nothing that is here fits, and each way says why.
    done = subprocess.run(
        [*command, "--target", "tensorrt", "--server", "25.12"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "trtexec: TensorRT 11.2.1 here, but nvcr.io/nvidia/tritonserver:25.12-py3 has 10.14" in said
    assert "tensorrt: the tensorrt package cannot be used" in said and "docker: no Docker engine answers" in said
    assert "Triton 25.12 has known remote code execution" in said


def test_a_gpu_without_tensorrt_builds_for_the_cpu_and_says_so(gpu_machine: Path, tmp_path: Path) -> None:
    command = [str(BIN / "nas-build"), "--weights", "demo", "--model-repository", str(tmp_path / "models")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        "there is a GPU, but a TensorRT plan for nvcr.io/nvidia/tritonserver:26.08-py3 cannot be built" in done.stderr
    )
    assert (tmp_path / "models" / "yolo_nas_s_fp16_engine" / "1" / "model.onnx").exists()


@pytest.mark.parametrize("answer", ["echo 'No devices were found'", "echo failed; exit 9", "echo 'GPU, [N/A]'"])
def test_an_nvidia_smi_that_finds_nothing(answer: str, gpu_machine: Path) -> None:
    write_script(gpu_machine / "nvidia-smi", f"#!/bin/sh\n{answer}\n")
    with pytest.raises(PlanError, match="no NVIDIA GPU can be used: nvidia-smi says: "):
        plan.find_gpu()


def test_the_visible_device_is_asked_about(gpu_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(gpu_machine / "nvidia-smi", '#!/bin/sh\necho "$1, 8.9"\n')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert plan.find_gpu() == Gpu("--id=3", "8.9")

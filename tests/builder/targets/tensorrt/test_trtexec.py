from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nas_build.errors import PlanError
from nas_build.options import TensorRTOptions
from nas_build.targets.tensorrt import trtexec
from nas_build.targets.tensorrt.plan import PlanRequest, Profile
from nas_build.targets.tensorrt.trtexec import Trtexec

from support.plans import GPU, Heard, built, with_float_weights

Graph = Callable[[str], onnx.ModelProto]


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
    options = TensorRTOptions(
        optimization_level=5, workspace_mib=2048, hardware_compatible=True, version_compatible=True
    )
    profile = Profile("images", (3, 640, 640), max_batch_size=8, opt_batch_size=4)
    told = trtexec.arguments(PlanRequest("engine", b"", profile, options))
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


def test_a_plan_by_trtexec_on_this_machine(trtexec_machine: Path, graph: Graph, cache: Path) -> None:
    builder = Trtexec.local()
    assert builder.identity() == {
        "built_with": "trtexec",
        "tensorrt_version": "11.2.1",
        "name": "NVIDIA L4",
        "compute_capability": "8.9",
    }
    progress = Heard()
    for _ in range(2):
        plan = built(builder, graph("s_int8"), progress)
    assert len(plan.data) > 10_000_000 and plan.tensorrt_version == "11.2.1" and plan.gpu == GPU
    assert ("info", "Building") in progress.lines
    # The timings of the first build were given to the second.
    assert (cache / "timing" / "nvidia-l4-sm89-tensorrt11.2.1.cache").read_bytes() == b"timings timings "


def test_what_trtexec_refuses_is_told_in_its_words(trtexec_machine: Path, graph: Graph) -> None:
    model = onnx.ModelProto.FromString(graph("s_fp16").SerializeToString())
    node = with_float_weights(model)
    message = rf"^yolo_nas_s_engine: TensorRT 11.2.1 cannot build a plan: .*{node}: .*(\n|.)*Failed to parse onnx file"
    with pytest.raises(PlanError, match=message):
        built(Trtexec.local(), model)

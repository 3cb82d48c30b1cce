"""What holds for every target in the registry."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nas_build import targets
from nas_build.errors import OptionError, PlanError
from nas_build.options import Int8Options, Options, TensorRTOptions, entries_found
from nas_build.targets import TARGETS, Target
from nas_build.targets.openvino import OpenVINO
from nas_build.targets.tensorrt import TensorRT, ways
from nas_build.targets.tensorrt.gpus import find_gpu
from tritonclient.grpc import model_config_pb2 as pb

from support.plans import Heard, for_gpus

# A value of each type of option that is not the default.
OTHERS: dict[str, Any] = {"int": 1, "int | None": 1, "bool": True, "str | None": "8.9"}


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setattr(ways, "find", lambda options: for_gpus("SM89"))
    return targets.find(Options(target=request.param), Heard().warn)


def test_a_row_has_the_name_of_its_target(target: Target, tmp_path: Path) -> None:
    assert TARGETS[target.name] is type(target) and target.backend and target.engine_file
    assert type(target).__doc__ and target.serve_hint(tmp_path)


def test_its_own_options_are_in_its_key(target: Target) -> None:
    own = getattr(target.options, target.name.replace("-", "_"), None)
    for field in dataclasses.fields(own) if own is not None else ():
        if field.name in ("way", "server"):  # decide which way is found
            continue
        changed = dataclasses.replace(own, **{field.name: OTHERS[str(field.type)]})  # type: ignore[type-var]
        options = dataclasses.replace(target.options, **{target.name.replace("-", "_"): changed})
        assert targets.find(options, Heard().warn).key() != target.key(), field.name
    assert own is None or entries_found(type(own)) <= target.key().keys()


def test_options_that_are_a_targets_are_called_like_it() -> None:
    nested = {f.name for f in dataclasses.fields(Options) if dataclasses.is_dataclass(getattr(Options(), f.name))}
    assert nested - {"int8"} <= {name.replace("-", "_") for name in TARGETS}
    assert isinstance(Options().int8, Int8Options)


def test_what_it_does_to_a_config_triton_can_read(target: Target) -> None:
    config = pb.ModelConfig(name="engine", max_batch_size=8)
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    target.tune(config)
    assert pb.ModelConfig.FromString(config.SerializeToString()) == config


def test_a_target_that_there_is_not() -> None:
    with pytest.raises(OptionError, match="no target 'tpu'; expected one of auto, openvino, tensorrt") as caught:
        targets.find(Options(target="tpu"), Heard().warn)
    assert caught.value.options == ("target",)


@pytest.mark.parametrize("found", [True, False])
def test_auto_without_a_gpu_is_openvino(found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_gpu() -> None:
        if not found:
            raise PlanError("none")

    monkeypatch.setattr(targets, "find_gpu", find_gpu)
    monkeypatch.setattr(ways, "find", lambda options: for_gpus("SM89"))
    progress = Heard()
    target = targets.find(Options(target="auto"), progress.warn)
    assert type(target) is (TensorRT if found else OpenVINO) and not progress.warnings


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "onnx", "openvino", "tensorrt", "tensorrt_rtx", "docker"}
    code = f"import sys; sys.path[:0] = {sys.path!r}; import nas_build.cli.main; print({heavy!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "set()"


def test_a_way_that_was_named_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be on another machine: that this one has no GPU decides nothing."""
    with pytest.raises(PlanError, match="a TensorRT plan for"):
        targets.find(Options(target="auto", tensorrt=TensorRTOptions(way="trtexec")), Heard().warn)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(PlanError, match="CUDA_VISIBLE_DEVICES is empty"):
        find_gpu()
    assert isinstance(targets.find(Options(target="auto"), Heard().warn), OpenVINO)

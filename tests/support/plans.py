"""TensorRT's parser and builder without a GPU: TensorRT for RTX has both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import tensorrt_rtx as trt
from nas_build.options import TensorRTOptions
from nas_build.progress import BuildProgress
from nas_build.targets.tensorrt.gpus import Gpu
from nas_build.targets.tensorrt.in_process import InProcess
from nas_build.targets.tensorrt.plan import Plan, PlanBuilder, PlanRequest, Profile
from onnx import numpy_helper

SIDE = 64  # of the canvas: the layers are the same as at 640, and soon built
GPU = Gpu("NVIDIA L4", "8.9")
PROFILE = Profile("images", (3, SIDE, SIDE), max_batch_size=8, opt_batch_size=4)
# It keeps no timings, and says so each time it is asked.
NO_TIMINGS = "ignore:.*[Tt]iming cache:DeprecationWarning"


class Heard(BuildProgress):
    """Keeps what TensorRT says, what it warns of, and how far it is; `on_count` and `on_log` may do more."""

    def __init__(
        self, on_count: Callable[[int], None] = lambda done: None, on_log: Callable[[str], None] = lambda line: None
    ) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []
        self.done: list[int] = []
        self.warnings: list[str] = []
        self._on_count, self._on_log = on_count, on_log

    def count(self, what: str, done: int, total: int) -> None:
        self.done.append(done)
        self._on_count(done)

    def warn(self, message: str, *, options: tuple[str, ...] = ()) -> None:
        self.warnings.append(message)

    def log(self, level: str, line: str) -> None:
        self.lines.append((level, line))
        self._on_log(line)


def for_gpus(*names: str) -> InProcess:
    """TensorRT for RTX in TensorRT's place, building for these kinds of GPU."""

    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(names)
        for i, name in enumerate(names):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), i)

    return InProcess(trt, GPU, configure)


def built(
    builder: PlanBuilder, graph: onnx.ModelProto, progress: BuildProgress | None = None, profile: Profile = PROFILE
) -> Plan:
    request = PlanRequest("yolo_nas_s_engine", graph.SerializeToString(), profile, TensorRTOptions())
    return builder.build(request, progress or BuildProgress())


def with_float_weights(graph: onnx.ModelProto) -> str:
    """Spoils a graph in half precision; name of the node that TensorRT must refuse."""
    (weight,) = (i for i in graph.graph.initializer if i.name == "backbone.stem.conv.conv.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    return "backbone.stem.conv.conv"

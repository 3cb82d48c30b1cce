"""An exported graph in OpenVINO, as the served engine runs it on this machine's CPU."""

from __future__ import annotations

import statistics
import time

import numpy as np
import onnx
import openvino
from nas_ensembles import contract
from numpy.typing import NDArray

from .exact import Outputs, opened
from .export import BOXES, SCORES

# As the served engine computes on a CPU, see `build`.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenVINORunner:
    """A graph in OpenVINO, its parts that are not int8 in float32.

    Args:
        model: from `export.export` or `quantize.insert_qdq`.

    Attributes:
        cpu: what OpenVINO calls it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        core = openvino.Core()
        graph = core.read_model(opened(model).SerializeToString())
        graph.reshape({port: [1, *port.partial_shape[1:]] for port in graph.inputs})
        self._graph = core.compile_model(graph, "CPU", PRECISION)
        self.cpu = str(core.get_property("CPU", "FULL_DEVICE_NAME"))

    def __call__(self, canvas: NDArray[np.uint8]) -> Outputs:
        """Run on one canvas, (3, H, W) uint8 RGB."""
        results = self._graph(canvas[None])
        candidates = (tensor.name for tensor in contract.CANDIDATE_TENSORS)
        return Outputs.of({name: results[name] for name in (*candidates, BOXES, SCORES)})


def latency_ratio(model: onnx.ModelProto, other: onnx.ModelProto, canvas: NDArray[np.uint8], rounds: int = 40) -> float:
    """How many times as long one graph takes as the other: medians of runs in turn, on this machine."""
    graphs = OpenVINORunner(model), OpenVINORunner(other)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for graph, taken in zip(graphs, seconds, strict=True):
            started = time.perf_counter()
            graph(canvas)
            taken.append(time.perf_counter() - started)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])

"""An exported graph, run on this machine's CPU."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import onnx
import openvino
from nas_ensembles import contract
from numpy.typing import NDArray

from .export import BOXES, SCORES

# As the served engine computes on a CPU, see `build`.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


@dataclass(frozen=True)
class Outputs:
    """Of one picture; K candidates, N anchors, C classes.

    Attributes:
        candidates: boxes (K, 4) xyxy in canvas pixels, scores (K,), labels (K,): what the engine answers.
        boxes: (N, 4) xyxy in canvas pixels, before the top-k.
        scores: (N, C), before the top-k.
    """

    candidates: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


class Compiled:
    """A graph in OpenVINO, its parts that are not int8 in float32.

    Args:
        model: from `export.export` or `quantize.insert_qdq`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        opened = onnx.ModelProto()
        opened.CopyFrom(model)
        opened.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in (BOXES, SCORES))
        core = openvino.Core()
        self._graph = core.compile_model(core.read_model(opened.SerializeToString()), "CPU", PRECISION)

    def __call__(self, canvas: NDArray[np.uint8]) -> Outputs:
        """Run on one canvas, (3, H, W) uint8 RGB."""
        results = self._graph(canvas[None])
        candidates = (contract.CANDIDATE_BOXES, contract.CANDIDATE_SCORES, contract.CANDIDATE_LABELS)
        boxes, scores, labels = (results[name][0] for name in candidates)
        return Outputs((boxes, scores, labels), results[BOXES][0], results[SCORES][0])


def latency_ratio(model: onnx.ModelProto, other: onnx.ModelProto, canvas: NDArray[np.uint8], rounds: int = 40) -> float:
    """How many times as long one graph takes as the other: medians of runs in turn, on this machine."""
    graphs = Compiled(model), Compiled(other)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for graph, taken in zip(graphs, seconds, strict=True):
            started = time.perf_counter()
            graph(canvas)
            taken.append(time.perf_counter() - started)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])

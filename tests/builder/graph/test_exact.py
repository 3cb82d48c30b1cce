"""The executor that judges: exact, alike everywhere, and what other engines compute as well."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import openvino.passes
import pytest
from nas_build.graph import check, export
from nas_build.graph.exact import Exact, Outputs, opened
from nas_build.graph.export import BOXES, SCORES, Exported
from nas_build.int8.quantizer import Quantizer
from nas_build.int8.schemes import SIGNED, UNSIGNED, Scheme
from nas_ensembles import contract
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from support.cpu import INSTRUCTION_SETS
from support.networks import QUARTER, canvas_of
from support.samples import PICTURES

CANVASES = [canvas_of(path, QUARTER.letterbox) for path in PICTURES]
_NAMES = [tensor.name for tensor in contract.CANDIDATE_TENSORS]


@pytest.fixture(scope="module")
def graphs(exported: Exported, quantizer_of: Callable[[Scheme], Quantizer]) -> dict[str, onnx.ModelProto]:
    graphs = {"fp16": exported.graph}
    for name, scheme in (("signed", SIGNED), ("unsigned", UNSIGNED)):
        quantizer = quantizer_of(scheme)
        graphs[name] = quantizer.graph(quantizer.grids("percentile-99.999"))
    return graphs


def one_convolution(values: NDArray[np.uint8], weights: NDArray[np.int8], zero_point: int) -> onnx.ModelProto:
    """`images` as they are, dequantized, through one int8 convolution, reshaped to what the executor answers."""
    channels = len(weights)
    constants = {
        "scale": np.float16(0.5),
        "zero": np.uint8(zero_point),
        "w": weights,
        "w_scale": np.full(channels, 0.25, np.float16),
        "w_zero": np.zeros(channels, np.int8),
        "bias": np.zeros(channels, np.float16),
        "flat": np.array([1, -1, channels], np.int64),
        "label": np.zeros((1, 1), np.int32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["images", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["kernel"], axis=0),
        helper.make_node("Conv", ["x", "kernel", "bias"], ["y"], pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("Reshape", ["y", "flat"], [SCORES]),
        helper.make_node("Identity", [SCORES], [BOXES]),
        helper.make_node("Identity", [SCORES], [_NAMES[0]]),
        helper.make_node("Identity", [SCORES], [_NAMES[1]]),
        helper.make_node("Identity", ["label"], [_NAMES[2]]),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, *values.shape])],
        [helper.make_empty_tensor_value_info(name) for name in _NAMES],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", export.OPSET)])


@pytest.mark.parametrize("zero_point", [0, 65])
@pytest.mark.parametrize("c_in", [16, 1024])  # the sums of the larger do not fit into float32
def test_a_quantized_convolution_is_its_integers(c_in: int, zero_point: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (c_in, 6, 5), dtype=np.uint8)
    weights = rng.integers(100, 128, (4, c_in, 3, 3)).astype(np.int8)
    got = Exact(one_convolution(values, weights, zero_point))(values).scores
    padded = np.pad(values.astype(np.int64) - zero_point, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    sums = np.einsum("chwij,ocij->ohw", windows, weights.astype(np.int64)).reshape(-1, 4)
    assert (np.abs(sums).max() >= 2**24) == (c_in == 1024)
    np.testing.assert_array_equal(got, (sums.astype(np.float32) * np.float32(0.125)))


def run_in_openvino(model: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], Outputs]:
    """Without the transformations that make it fast and different."""
    core, folding = openvino.Core(), openvino.passes.Manager()
    graph = core.read_model(opened(model).SerializeToString())
    folding.register_pass(openvino.passes.ConstantFolding())
    folding.run_passes(graph)
    properties = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    compiled = core.compile_model(graph, "CPU", properties)
    return lambda canvas: Outputs.of({name: compiled(canvas[None])[name] for name in (*_NAMES, BOXES, SCORES)})


def run_in_onnxruntime(model: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], Outputs]:
    """Without optimizations, and as typed: float16 between the layers."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(opened(model).SerializeToString(), options, ["CPUExecutionProvider"])
    names = [*_NAMES, BOXES, SCORES]
    return lambda canvas: Outputs.of(dict(zip(names, session.run(names, {"images": canvas[None]}), strict=True)))


@pytest.mark.parametrize("other", [run_in_openvino, run_in_onnxruntime])
@pytest.mark.parametrize("graph", ["fp16", "signed", "unsigned"])
def test_other_executors_say_the_same(
    graph: str, other: Callable[[onnx.ModelProto], Any], graphs: dict[str, onnx.ModelProto]
) -> None:
    """Not to the bit: they round in between, and then a value falls on another step."""
    exact, theirs = Exact(graphs[graph]), other(graphs[graph])
    known = check.ask(exact, QUARTER.letterbox)
    assert known.agreement(*theirs(known.canvas).candidates) > {"fp16": 0.99, "unsigned": 0.93, "signed": 0.8}[graph]
    for canvas in CANVASES[:2]:
        mine, other_scores = exact(canvas).scores, theirs(canvas).scores
        correlation = np.corrcoef(check._logits(mine), check._logits(other_scores))[0, 1]
        assert correlation > {"fp16": 0.9999, "unsigned": 0.9993, "signed": 0.998}[graph]


_ANSWER = """
import sys, onnx, numpy as np
from support.networks import QUARTER, canvas_of
from support.samples import PICTURES
from nas_build.graph.exact import Exact
for path in sys.argv[1:]:
    answer = Exact(onnx.load(path))(canvas_of(PICTURES[1], QUARTER.letterbox))
    np.savez(path + ".npz", answer.boxes, answer.scores, *answer.candidates)
"""
ELSEWHERE = [
    *(pytest.param({"ONEDNN_MAX_CPU_ISA": name}, marks=pytest.mark.nightly) for name in INSTRUCTION_SETS),
    {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    pytest.param(
        {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "3", "NPY_DISABLE_CPU_FEATURES": "AVX512F"},
        marks=pytest.mark.nightly,
    ),
]


@pytest.mark.parametrize("environment", ELSEWHERE, ids=lambda e: " ".join(f"{k}={v}" for k, v in e.items()))
def test_the_same_bits_on_other_cpus_and_with_other_threads(
    environment: dict[str, str], graphs: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    paths = {name: tmp_path / f"{name}.onnx" for name in graphs}
    for name, path in paths.items():
        onnx.save(graphs[name], str(path))
    command = [sys.executable, "-W", "ignore", "-c", _ANSWER, *map(str, paths.values())]
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, env=variables, check=True, timeout=500)
    for name, path in paths.items():
        mine, arrays = Exact(graphs[name])(CANVASES[1]), np.load(f"{path}.npz")
        for got, expected in zip(arrays.values(), (mine.boxes, mine.scores, *mine.candidates), strict=True):
            np.testing.assert_array_equal(got, expected, err_msg=name)

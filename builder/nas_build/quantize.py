"""INT8 as explicit Q/DQ: calibrate on real pictures, then write the scales into the graph.

Symmetric signed int8 with zero point 0: weights per output channel (transposed convolutions per tensor, because
runtimes disagree about the channel axis), activations per tensor. Biases stay unquantized: TensorRT's parser refuses
an int32 DequantizeLinear. Convolutions that read the same tensor share its one Q/DQ pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from .errors import CalibrationError
from .export import Engine

INT8_MAX = 127
_BINS = 4096
_CONVOLUTIONS = ("Conv", "ConvTranspose")


class Histogram:
    """Counts of |x|; the range doubles as larger values come, so that one pass over the pictures is enough."""

    def __init__(self) -> None:
        self.limit = 0.0
        self.counts: NDArray[np.float64] = np.zeros(_BINS)

    def add(self, x: Tensor) -> None:
        """Count one tensor."""
        magnitudes = x.abs()
        peak = float(magnitudes.max())
        if self.limit == 0.0:
            self.limit = peak or 1e-6
        while peak > self.limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2)])
            self.limit *= 2
        self.counts += torch.histc(magnitudes, _BINS, 0, self.limit).double().numpy()

    def amax(self) -> float:
        """The clipping range with the least squared error of symmetric int8."""
        width = self.limit / _BINS
        centres = (np.arange(_BINS) + 0.5) * width
        top = int(np.flatnonzero(self.counts)[-1]) + 1
        best, best_error = self.limit, np.inf
        for i in np.unique(np.linspace(max(1, top // 8), top, 96).astype(int)):
            scale = i * width / INT8_MAX
            error = float(self.counts @ (centres - np.minimum(np.round(centres / scale), INT8_MAX) * scale) ** 2)
            if error < best_error:
                best, best_error = i * width, error
        return best


def calibrate(
    engine: Engine, canvases: Iterable[NDArray[np.uint8]], progress: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Find the range of every convolution's input.

    Args:
        engine: in float32 (`Engine(..., half=False)`).
        canvases: (3, H, W) uint8 RGB, letterboxed as the served model will see them.
        progress: called after each picture.

    Returns:
        Name of the convolution in the network -> largest magnitude to represent.

    Raises:
        CalibrationError: if there is no picture.
    """
    histograms: dict[str, Histogram] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
        histogram = histograms[name] = Histogram()
        return lambda _module, inputs, _output: histogram.add(inputs[0])

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in engine.network.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    seen = 0
    try:
        with torch.inference_mode():
            for canvas in canvases:
                engine.network.raw(engine.normalize(torch.from_numpy(canvas)[None]))
                seen += 1
                progress()
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise CalibrationError("no pictures to calibrate with. Give a folder of pictures with --calibration DIR.")
    return {name: histogram.amax() for name, histogram in histograms.items()}


def insert_qdq(model: onnx.ModelProto, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of the graph whose convolutions are int8.

    Args:
        model: from `export`, with convolutions named after the network's modules.
        ranges: from `calibrate`; convolutions that are not in it stay as they are.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    initializers = {i.name: i for i in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    activations: set[str] = set()
    for node in graph.node:
        if node.op_type in _CONVOLUTIONS and node.name in ranges:
            source, weight = node.input[0], node.input[1]
            weights = numpy_helper.to_array(initializers[weight])
            if source not in activations:
                activations.add(source)
                scale = np.asarray(max(ranges[node.name], 1e-6) / INT8_MAX, weights.dtype)
                _store(graph, f"{source}_scale", scale)
                _store(graph, f"{source}_zero_point", np.zeros((), np.int8))
                nodes.append(_node("QuantizeLinear", source, source, f"{source}_int8"))
                nodes.append(_node("DequantizeLinear", f"{source}_int8", source, f"{source}_dequantized"))
            values, scales = quantize_weights(weights, per_channel=node.op_type == "Conv")
            graph.initializer.remove(initializers[weight])
            _store(graph, f"{weight}_int8", values)
            _store(graph, f"{weight}_scale", scales)
            _store(graph, f"{weight}_zero_point", np.zeros(scales.shape, np.int8))
            nodes.append(_node("DequantizeLinear", f"{weight}_int8", weight, f"{weight}_dequantized", axis=0))
            node.input[0], node.input[1] = f"{source}_dequantized", f"{weight}_dequantized"
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    onnx.checker.check_model(quantized)
    return quantized


def quantize_weights(weights: NDArray[Any], per_channel: bool) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """Symmetric int8 values and their scales, the scales in the type of the weights.

    Args:
        weights: (C_out, C_in, kh, kw) of a convolution, or any shape per tensor.
        per_channel: one scale per first axis, otherwise one for all.
    """
    axes = tuple(range(1, weights.ndim)) if per_channel else None
    amax = np.abs(weights.astype(np.float32)).max(axis=axes)
    # Rounded to the stored type first, so that the values are right for the scale the runtime will read.
    smallest = np.finfo(weights.dtype).smallest_subnormal
    scales = np.maximum((amax / INT8_MAX).astype(weights.dtype), smallest)
    divisor = scales.astype(np.float32).reshape(-1, *[1] * (weights.ndim - 1)) if per_channel else np.float32(scales)
    values = np.clip(np.round(weights.astype(np.float32) / divisor), -INT8_MAX, INT8_MAX).astype(np.int8)
    return values, scales


def _node(op: str, source: str, scaled: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        op, [source, f"{scaled}_scale", f"{scaled}_zero_point"], [output], name=output, **attributes
    )


def _store(graph: onnx.GraphProto, name: str, array: NDArray[Any]) -> None:
    graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))

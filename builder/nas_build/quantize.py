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
from .variants import CalibrationMethod

INT8_MAX = 127
_BINS = 4096
_CANDIDATES = 96  # ranges that are tried
_PERCENTILE = 0.9999
_CONVOLUTIONS = ("Conv", "ConvTranspose")


class Histogram:
    """Counts of |x|; the range doubles as larger values come, so that one pass over the pictures is enough."""

    def __init__(self) -> None:
        self.limit = self.peak = 0.0
        self.counts: NDArray[np.float64] = np.zeros(_BINS)

    def add(self, x: Tensor) -> None:
        """Count one tensor."""
        magnitudes = x.abs()
        peak = float(magnitudes.max())
        self.peak = max(self.peak, peak)
        if self.limit == 0.0:
            self.limit = peak or 1e-6
        while peak > self.limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2)])
            self.limit *= 2
        self.counts += torch.histc(magnitudes, _BINS, 0, self.limit).double().numpy()

    def amax(self, method: CalibrationMethod = "mse") -> float:
        """The clipping range of symmetric int8.

        Args:
            method: "mse" has the least squared error, "entropy" loses the least information (Kullback-Leibler
                divergence of the distributions), "percentile" keeps 99.99 % of the values, "max" all of them.
        """
        width = self.limit / _BINS
        top = int(np.flatnonzero(self.counts)[-1]) + 1
        if method == "max":
            return self.peak
        if method == "percentile":
            kept = np.cumsum(self.counts) / self.counts.sum()
            return float((np.searchsorted(kept, _PERCENTILE) + 1) * width)
        loss = self._squared_error if method == "mse" else self._divergence
        candidates = np.unique(np.linspace(max(1, top // 8), top, _CANDIDATES).astype(int))
        return float(min(candidates, key=lambda i: loss(i * width)) * width)

    def snr_db(self, amax: float) -> float:
        """Signal to noise of the values when int8 represents them up to `amax`, in decibels."""
        centres = (np.arange(_BINS) + 0.5) * self.limit / _BINS
        return _decibels(float(self.counts @ centres**2), self._squared_error(amax))

    def _squared_error(self, amax: float) -> float:
        scale = amax / INT8_MAX
        centres = (np.arange(_BINS) + 0.5) * self.limit / _BINS
        return float(self.counts @ (centres - np.minimum(np.round(centres / scale), INT8_MAX) * scale) ** 2)

    def _divergence(self, amax: float) -> float:
        """Of what int8 leaves of the distribution from the distribution, clipped values counted at the range's end.

        The peak at zero, which every ReLU leaves, would outweigh all else: its bin counts like the next.
        """
        bins = max(round(amax / self.limit * _BINS), 2)
        inside = self.counts[:bins].copy()
        inside[0] = inside[1]
        clipped = inside.copy()
        clipped[-1] += self.counts[bins:].sum()
        level = np.arange(bins) * (INT8_MAX + 1) // bins
        there = inside > 0
        members = np.bincount(level, there, INT8_MAX + 1)
        share = np.bincount(level, inside, INT8_MAX + 1) / np.maximum(members, 1)
        p = clipped / clipped.sum()
        q = np.where(there, share[level], 0)
        q = q / max(q.sum(), 1e-300)
        both = p > 0
        return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())


def observe(
    engine: Engine, canvases: Iterable[NDArray[np.uint8]], progress: Callable[[], None] = lambda: None
) -> dict[str, Histogram]:
    """Count what every convolution reads.

    Args:
        engine: in float32 (`Engine(..., half=False)`).
        canvases: (3, H, W) uint8 RGB, letterboxed as the served model will see them.
        progress: called after each picture.

    Returns:
        Name of the convolution in the network -> magnitudes of its input.

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
    return histograms


def report(engine: Engine, histograms: Mapping[str, Histogram], ranges: Mapping[str, float]) -> dict[str, Any]:
    """What int8 costs each convolution.

    Args:
        engine: in float32.
        histograms: from `observe`.
        ranges: of the convolutions that are int8; the others are fp16.

    Returns:
        Per convolution: precision, range of its input, signal to noise of input and weights in decibels.
    """
    layers: dict[str, dict[str, Any]] = {}
    for name, histogram in histograms.items():
        if name not in ranges:
            layers[name] = {"precision": "fp16"}
            continue
        module = engine.network.get_submodule(name)
        weights = module.weight.detach().numpy()  # type: ignore[operator]
        values, scales = quantize_weights(weights, per_channel=isinstance(module, nn.Conv2d))
        error = weights - values * scales.reshape(-1, *[1] * (weights.ndim - 1))
        layers[name] = {
            "precision": "int8",
            "range": float(f"{ranges[name]:.6g}"),
            "input_snr_db": round(histogram.snr_db(ranges[name]), 2),
            "weight_snr_db": round(_decibels(float((weights**2).sum()), float((error**2).sum())), 2),
        }
    return layers


def insert_qdq(model: onnx.ModelProto, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of the graph whose convolutions are int8.

    Args:
        model: from `export`, with convolutions named after the network's modules.
        ranges: by convolution, from `Histogram.amax`; convolutions that are not in it stay as they are.
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


def _decibels(signal: float, noise: float) -> float:
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))

"""A graph as it is written: the same answer, bit for bit, on every CPU and with any number of threads.

Engines differ: they fuse, reorder sums and round in between, and in a quantized network a last bit decides which of two
steps a value falls on. So whatever judges a graph, or chooses between two, asks this and not an engine.

ONNX's own reference evaluator runs the graph, one type wider than written (float16 as float32, float32 as float64).
The convolutions are computed by PyTorch:

- quantized ones on integers. Their sums stay below 2^24, where float32 is exact (in float64 where they would not), so
  that the order of the additions does not matter; scale and bias follow in float32, one operation at a time;
- others in float64, rounded to float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from nas_ensembles import contract
from nas_ensembles.pipeline import Candidates
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor
from torch.nn import functional

from .export import BOXES, SCORES

_DOMAIN = "nas_build.graph.exact"
_QUANTIZED_CONV = "QuantizedConv"
_WIDER = {TensorProto.FLOAT16: TensorProto.FLOAT, TensorProto.FLOAT: TensorProto.DOUBLE}
_WHOLE_IN_FLOAT32 = 2.0**24
_CANDIDATES = [tensor.name for tensor in contract.CANDIDATE_TENSORS]
_Array = NDArray[Any]


@dataclass(frozen=True)
class Outputs:
    """Of one picture; K candidates, N anchors, C classes.

    Attributes:
        candidates: what the engine answers.
        boxes: (N, 4) xyxy in canvas pixels, before the top-k.
        scores: (N, C), before the top-k.
    """

    candidates: Candidates
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, results: Mapping[str, _Array]) -> Outputs:
        """From the graph's outputs by name, for one picture."""
        boxes, scores, labels = (results[name][0] for name in _CANDIDATES)
        candidates = Candidates(boxes.astype(np.float32), scores.astype(np.float32), labels)
        return cls(candidates, results[BOXES][0].astype(np.float32), results[SCORES][0].astype(np.float32))


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the graph that answers its decoded boxes and scores too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in (BOXES, SCORES))
    return copy


class Exact:
    """A graph, run as written.

    Args:
        model: from `export.export` or `quantize.insert_qdq`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = opened(model)
        _widen(graph)
        _take_integers(graph)
        self._evaluator = ReferenceEvaluator(graph, new_ops=_OPERATORS)

    def __call__(self, canvas: NDArray[np.uint8]) -> Outputs:
        """Run on one canvas, (3, H, W) uint8 RGB."""
        with torch.inference_mode():
            answers: Any = self._evaluator.run(None, {contract.IMAGES.name: canvas[None]})
        return Outputs.of(dict(zip(self._evaluator.output_names, answers, strict=True)))


def _widen(model: onnx.ModelProto) -> None:
    """float16 becomes float32, float32 becomes float64."""
    for tensor in model.graph.initializer:
        if tensor.data_type in _WIDER:
            wider = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(_WIDER[tensor.data_type]))
            tensor.CopyFrom(numpy_helper.from_array(wider, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = _WIDER.get(attribute.i, attribute.i)
    for output in model.graph.output:
        kind = output.type.tensor_type
        kind.elem_type = _WIDER.get(kind.elem_type, kind.elem_type)


def _take_integers(model: onnx.ModelProto) -> None:
    """A convolution of two dequantized tensors becomes one operator that takes their integers."""
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        sources = [producers.get(name) for name in node.input[:2]]
        if node.op_type == "Conv" and all(source and source.op_type == "DequantizeLinear" for source in sources):
            data, weights = (list(source.input) for source in sources if source)
            node.input[:] = [*data, *weights[:2], *node.input[2:]]
            node.op_type, node.domain = _QUANTIZED_CONV, _DOMAIN
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    needed = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node if read & set(n.output)]
    del graph.node[:]
    graph.node.extend(needed)
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))


class QuantizedConv(OpRun):
    """Convolution of integers, then scale and bias."""

    op_domain = _DOMAIN
    _constants: tuple[Tensor, Tensor, Tensor] | None = None

    def _run(  # type: ignore[no-untyped-def]
        self, x: _Array, scale: _Array, zero_point: _Array, w: _Array, w_scale: _Array, bias: _Array, **how
    ):
        if self._constants is None:  # they are initializers: the same at every run
            longest = float(np.abs(w.astype(np.int64)).reshape(len(w), -1).sum(axis=1).max())
            reach = max(abs(int(bound) - int(zero_point)) for bound in (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max))
            exact = torch.float32 if longest * reach < _WHOLE_IN_FLOAT32 else torch.float64
            scales = torch.tensor(w_scale * scale).reshape(1, -1, 1, 1)
            self._constants = _tensor(w).to(exact), scales, torch.tensor(bias).reshape(1, -1, 1, 1)
        weights, scales, biases = self._constants
        integers = torch.from_numpy(x).to(weights.dtype, memory_format=torch.channels_last)
        if int(zero_point):
            integers -= float(zero_point)
        sums = functional.conv2d(integers, weights, stride=how["strides"], padding=_padding(how)).float()
        return (sums.mul_(scales).add_(biases).numpy(),)


class Conv(OpRun):
    """In float64, rounded to the type of its input."""

    def _run(self, x: _Array, w: _Array, bias: _Array | None = None, **how):  # type: ignore[no-untyped-def]
        result = functional.conv2d(*_doubles(x, w, bias), stride=how["strides"], padding=_padding(how))
        return (result.numpy().astype(x.dtype),)


class ConvTranspose(OpRun):
    """In float64, rounded to the type of its input."""

    def _run(self, x: _Array, w: _Array, bias: _Array | None = None, **how):  # type: ignore[no-untyped-def]
        result = functional.conv_transpose2d(*_doubles(x, w, bias), stride=how["strides"], padding=_padding(how))
        return (result.numpy().astype(x.dtype),)


class QuantizeLinear(OpRun):
    """Halves to even, as ONNX says; here because the reference's takes ten times as long."""

    def _run(self, x: _Array, scale: _Array, zero_point: _Array, **_):  # type: ignore[no-untyped-def]
        bounds = np.iinfo(zero_point.dtype)
        steps = torch.from_numpy(x).div(float(scale)).round_().add_(float(zero_point))
        kind = torch.from_numpy(np.zeros(0, zero_point.dtype)).dtype
        return (steps.clamp_(float(bounds.min), float(bounds.max)).to(kind).numpy(),)


class MaxPool(OpRun):
    """Here because the reference's takes seconds."""

    def _run(self, x: _Array, **how):  # type: ignore[no-untyped-def]
        pooled = functional.max_pool2d(torch.from_numpy(x), how["kernel_shape"], how["strides"], _padding(how))
        return (pooled.numpy(),)


class GatherElements(OpRun):
    """Here because the reference's takes at most 32 rows."""

    def _run(self, x: _Array, indices: _Array, axis: int = 0):  # type: ignore[no-untyped-def]
        return (np.take_along_axis(x, indices, axis),)


_OPERATORS = [QuantizedConv, Conv, ConvTranspose, QuantizeLinear, MaxPool, GatherElements]


def _tensor(array: _Array) -> Tensor:
    """A copy: initializers are not writable, and PyTorch warns of that."""
    return torch.from_numpy(array.copy()) if not array.flags.writeable else torch.from_numpy(array)


def _doubles(x: _Array, w: _Array, bias: _Array | None) -> tuple[Tensor, Tensor, Tensor | None]:
    return _tensor(x).double(), _tensor(w).double(), None if bias is None else _tensor(bias).double()


def _padding(how: Mapping[str, Any]) -> tuple[int, int]:
    """Of both sides: the network pads evenly."""
    top, left, bottom, right = how["pads"]
    assert (top, left) == (bottom, right), how
    return top, left

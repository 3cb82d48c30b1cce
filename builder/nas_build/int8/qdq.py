"""INT8 as explicit Q/DQ: write ranges and rounded weights into the graph.

Weights are symmetric int8, per output channel; activations are of the target's type, per tensor. Convolutions that read
the same tensor share its one Q/DQ pair, and so does the shortcut of a bottleneck, which spares both engines a second
copy in half precision. Biases stay unquantized: TensorRT's parser refuses an int32 DequantizeLinear. Transposed
convolutions stay in half precision: int8 makes them no faster in either engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from .rounding import Rounded
from .schemes import Grid


def insert_qdq(model: onnx.ModelProto, grids: Mapping[str, Grid], weights: Mapping[str, Rounded]) -> onnx.ModelProto:
    """A copy of the graph whose convolutions are int8.

    Args:
        model: from `export`, with convolutions named after the network's modules.
        grids: of each convolution's input, from `Scheme.grid`; convolutions that are not in it stay as they are.
        weights: of each convolution in `grids`.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    initializers = {i.name: i for i in graph.initializer}
    tensors = {node.input[0]: grids[node.name] for node in graph.node if _is_int8(node, grids)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if _is_int8(node, grids):
            nodes.append(_quantize_weights(graph, initializers, node, weights[node.name]))
        if _is_int8(node, grids) or _is_shortcut(node):
            node.input[:] = [f"{name}_dequantized" if name in tensors else name for name in node.input]
        nodes.append(node)
        for name in node.output:
            if name in tensors:
                nodes += _quantize_tensor(graph, name, tensors[name])
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    onnx.checker.check_model(quantized)
    return quantized


def _is_int8(node: onnx.NodeProto, grids: Mapping[str, Grid]) -> bool:
    return node.op_type == "Conv" and node.name in grids


def _is_shortcut(node: onnx.NodeProto) -> bool:
    """The learned factor of a bottleneck's shortcut."""
    return node.op_type == "Mul" and any(name.endswith(".alpha") for name in node.input)


def _quantize_tensor(graph: onnx.GraphProto, name: str, grid: Grid) -> list[onnx.NodeProto]:
    scale, zero_point = grid.stored()
    _store(graph, f"{name}_scale", scale)
    _store(graph, f"{name}_zero_point", zero_point)
    return [
        _node("QuantizeLinear", name, name, f"{name}_quantized"),
        _node("DequantizeLinear", f"{name}_quantized", name, f"{name}_dequantized"),
    ]


def _quantize_weights(
    graph: onnx.GraphProto, initializers: Mapping[str, onnx.TensorProto], node: onnx.NodeProto, rounded: Rounded
) -> onnx.NodeProto:
    """Replace the weights of a convolution and shift its bias; returns the node that dequantizes the weights."""
    weight = node.input[1]
    graph.initializer.remove(initializers[weight])
    _store(graph, f"{weight}_int8", rounded.values)
    _store(graph, f"{weight}_scale", rounded.scales)
    _store(graph, f"{weight}_zero_point", np.zeros(rounded.scales.shape, np.int8))
    bias = rounded.bias_shift
    if len(node.input) > 2:  # the exporter leaves out a bias of zeros
        bias = bias + numpy_helper.to_array(initializers[node.input[2]]).astype(np.float32)
    _store(graph, f"{node.name}.bias_shifted", bias.astype(np.float16))
    node.input[:] = [node.input[0], f"{weight}_dequantized", f"{node.name}.bias_shifted"]
    return _node("DequantizeLinear", f"{weight}_int8", weight, f"{weight}_dequantized", axis=0)


def _node(op: str, source: str, scaled: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        op, [source, f"{scaled}_scale", f"{scaled}_zero_point"], [output], name=output, **attributes
    )


def _store(graph: onnx.GraphProto, name: str, array: NDArray[Any]) -> None:
    graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from nas_build.graph import check
from nas_build.graph.exact import Exact
from nas_build.int8.quantize import LIMITS
from nas_build.int8.quantizer import Quantizer
from nas_build.int8.schemes import SIGNED, UNSIGNED, Scheme
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper


@pytest.fixture(scope="module", params=[SIGNED, UNSIGNED], ids=lambda scheme: scheme.activations)
def quantizer(request: pytest.FixtureRequest, quantizer_of: Callable[[Scheme], Quantizer]) -> Quantizer:
    return quantizer_of(request.param)


@pytest.fixture(scope="module")
def int8(quantizer: Quantizer) -> onnx.ModelProto:
    return quantizer.graph(quantizer.grids("percentile-99.999"))


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def test_convolutions_read_dequantized_tensors_and_plain_biases(int8: onnx.ModelProto) -> None:
    producer, initializers = producers(int8), {i.name: i for i in int8.graph.initializer}
    assert len(convolutions(int8)) == 98
    for node in convolutions(int8):
        data, weight = producer[node.input[0]], producer[node.input[1]]
        assert data.op_type == weight.op_type == "DequantizeLinear"
        assert producer[data.input[0]].op_type == "QuantizeLinear"
        assert initializers[weight.input[0]].data_type == TensorProto.INT8
        assert initializers[node.input[2]].data_type == TensorProto.FLOAT16  # a quantized bias stops TensorRT
        scale = numpy_helper.to_array(initializers[weight.input[1]])
        assert scale.shape == (initializers[weight.input[0]].dims[0],)


def test_types_are_the_targets_and_only_convolutions_and_shortcuts_read_int8(
    int8: onnx.ModelProto, quantizer: Quantizer
) -> None:
    initializers = {i.name: i for i in int8.graph.initializer}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in int8.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    shortcuts, offset = 0, set()
    for node in int8.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = numpy_helper.to_array(initializers[node.input[2]])
            scale = numpy_helper.to_array(initializers[node.input[1]])
            weight = node.op_type == "DequantizeLinear" and node.input[0] in initializers
            assert zero.dtype == ("int8" if weight else quantizer._scheme.activations)
            if zero.any():
                offset.add(node.input[1])
            assert scale.dtype == np.float16 and (scale > 0).all()
        if node.op_type == "DequantizeLinear":
            others = [reader for reader in consumers[node.output[0]] if reader.op_type != "Conv"]
            assert all(reader.op_type == "Mul" and "alpha" in " ".join(reader.input) for reader in others)
            shortcuts += len(others)
    # What is read behind a Concat with a transposed convolution is all that can be negative.
    assert len(offset) == (2 if quantizer._scheme.activations == "uint8" else 0)
    assert all(name.startswith("cat") for name in offset)
    assert shortcuts == 20 == sum(".alpha" in i.name for i in int8.graph.initializer)


def test_readers_of_one_tensor_share_its_scale(int8: onnx.ModelProto) -> None:
    quantizers = [n for n in int8.graph.node if n.op_type == "QuantizeLinear"]
    assert len({n.input[0] for n in quantizers}) == len(quantizers) < 98
    readers = {n.name: n.input[0] for n in convolutions(int8)}
    csp = "backbone.stage1.blocks"
    assert readers[f"{csp}.conv1.conv"] == readers[f"{csp}.conv2.conv"]


def test_types_are_consistent(int8: onnx.ModelProto) -> None:
    """Strict inference fails on a Float/Half mismatch, which TensorRT's parser refuses too."""
    inferred = onnx.shape_inference.infer_shapes(int8, check_type=True, strict_mode=True, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert {types[n.output[0]] for n in convolutions(int8)} == {TensorProto.FLOAT16}


def test_kept_convolutions_stay_as_they_were(quantizer: Quantizer) -> None:
    kept = ("heads.head1.cls_pred", "backbone.stage1.blocks.conv1.conv")
    model = quantizer.graph(quantizer.grids("max"), kept)
    initializers = {i.name: i for i in model.graph.initializer}
    original = {i.name: i for i in quantizer._exported.graph.graph.initializer}
    producer = producers(model)
    for node in convolutions(model):
        assert (producer[node.input[0]].op_type == "DequantizeLinear") == (node.name not in kept)
        if node.name in kept:
            assert initializers[node.input[1]] == original[node.input[1]]
            assert initializers[node.input[2]] == original[node.input[2]]
    # Its neighbour reads the same tensor in int8.
    assert producer[next(n for n in convolutions(model) if n.name == "backbone.stage1.blocks.conv2.conv").input[0]]
    without = quantizer.graph(quantizer.grids("max"), quantizer.observed)
    assert not any(node.op_type.endswith("QuantizeLinear") for node in without.graph.node)


def test_a_convolution_without_a_bias_gets_the_shift(quantizer: Quantizer) -> None:
    """The exporter leaves out a bias of zeros."""
    bare = onnx.ModelProto.FromString(quantizer._exported.graph.SerializeToString())
    node = next(n for n in convolutions(bare) if n.name == "heads.head2.reg_pred")
    del node.input[2]
    other = Quantizer(
        replace(quantizer._exported, graph=bare), {node.name: quantizer.observed[node.name]}, quantizer._scheme
    )
    model = other.graph(other.grids("max"))
    (quantized,) = (n for n in convolutions(model) if n.name == node.name)
    bias = next(i for i in model.graph.initializer if i.name == quantized.input[2])
    assert np.array_equal(numpy_helper.to_array(bias), other._rounded[node.name].bias_shift.astype(np.float16))


def test_int8_finds_the_same_objects(
    int8: onnx.ModelProto, quantizer: Quantizer, canvases: list[NDArray[np.uint8]]
) -> None:
    agreement = check.compare(Exact(int8), quantizer._exported.reference, canvases)
    assert agreement.detections >= 4
    assert agreement.detections_found == agreement.detections
    scheme = quantizer._scheme.activations
    assert agreement.logit_correlation >= {"uint8": 0.998, "int8": 0.99}[scheme]
    check.require(agreement, LIMITS[scheme], "s")

"""TensorRT's own parser and builder accept the exported graphs; TensorRT for RTX builds without a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt_rtx as trt
from conftest import PICTURES, canvas_of
from nas_build import export, quantize
from nas_build.export import Engine
from nas_build.network import YoloNAS
from nas_build.processing import COCO
from onnx import numpy_helper

LOGGER = trt.Logger(trt.Logger.ERROR)


@pytest.fixture(scope="module")
def graphs(demo_network: YoloNAS) -> dict[str, onnx.ModelProto]:
    fp16 = export.export(Engine(demo_network, COCO), (640, 640), "s")
    ranges = quantize.calibrate(Engine(demo_network, COCO, half=False), [canvas_of(path) for path in PICTURES])
    return {"fp16": fp16, "int8": quantize.insert_qdq(fp16, ranges)}


def parse(model: onnx.ModelProto) -> tuple[Any, Any, list[str]]:
    """Builder, network and the parser's errors."""
    builder = trt.Builder(LOGGER)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, LOGGER)
    parser.parse(model.SerializeToString())
    return builder, network, [parser.get_error(i).desc() for i in range(parser.num_errors)]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_strongly_typed_engine_is_built(precision: str, graphs: dict[str, onnx.ModelProto]) -> None:
    builder, network, errors = parse(graphs[precision])
    assert errors == []
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (1, 3, 640, 640), (8, 3, 640, 640), (8, 3, 640, 640))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None and plan.nbytes > 10_000_000


def test_the_parser_refuses_a_quantized_bias(graphs: dict[str, onnx.ModelProto]) -> None:
    """Why biases stay unquantized: this is what the check above would catch."""
    wrong = onnx.ModelProto.FromString(graphs["int8"].SerializeToString())
    position, node = next((i, n) for i, n in enumerate(wrong.graph.node) if n.name == "heads.head1.cls_pred")
    bias = node.input[2]
    (stored,) = (i for i in wrong.graph.initializer if i.name == bias)
    scale = np.float16(0.01)
    values = np.round(numpy_helper.to_array(stored).astype(np.float32) / 0.01).astype(np.int32)
    wrong.graph.initializer.extend(
        [
            numpy_helper.from_array(values, "bias_int32"),
            numpy_helper.from_array(np.asarray(scale), "bias_scale"),
            numpy_helper.from_array(np.zeros((), np.int32), "bias_zero"),
        ]
    )
    names = ["bias_int32", "bias_scale", "bias_zero"]
    dequantize = onnx.helper.make_node("DequantizeLinear", names, ["bias_dequantized"])
    node.input[2] = "bias_dequantized"
    wrong.graph.node.insert(position, dequantize)
    _, _, errors = parse(wrong)
    assert errors

from __future__ import annotations

from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from conftest import PICTURES, canvas_of
from nas_build import check, export, quantize
from nas_build.errors import CalibrationError
from nas_build.export import Engine
from nas_build.network import YoloNAS
from nas_build.processing import COCO
from nas_build.quantize import Histogram
from nas_build.variants import CalibrationMethod
from onnx import TensorProto, numpy_helper


@pytest.fixture(scope="module")
def reference(demo_network: YoloNAS) -> Engine:
    return Engine(demo_network, COCO, half=False)


@pytest.fixture(scope="module")
def histograms(reference: Engine) -> dict[str, Histogram]:
    return quantize.observe(reference, [canvas_of(path) for path in PICTURES])


@pytest.fixture(scope="module")
def ranges(histograms: dict[str, Histogram]) -> dict[str, float]:
    return {name: histogram.amax() for name, histogram in histograms.items()}


@pytest.fixture(scope="module")
def fp16(demo_network: YoloNAS) -> onnx.ModelProto:
    return export.export(Engine(demo_network, COCO), (640, 640), "s")


@pytest.fixture(scope="module")
def int8(fp16: onnx.ModelProto, ranges: dict[str, float]) -> onnx.ModelProto:
    return quantize.insert_qdq(fp16, ranges)


def test_every_convolution_has_a_range(ranges: dict[str, float], int8: onnx.ModelProto) -> None:
    convolutions = {n.name for n in int8.graph.node if n.op_type in ("Conv", "ConvTranspose")}
    assert convolutions == ranges.keys() and len(ranges) == 100
    assert all(value > 0 for value in ranges.values())
    assert 0.9 <= ranges["backbone.stem.conv.conv"] <= 1.01  # pixels / 255


def test_convolutions_read_dequantized_tensors_and_plain_biases(int8: onnx.ModelProto) -> None:
    producer = {output: node for node in int8.graph.node for output in node.output}
    initializers = {i.name: i for i in int8.graph.initializer}
    for node in int8.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        data, weight = producer[node.input[0]], producer[node.input[1]]
        assert data.op_type == weight.op_type == "DequantizeLinear"
        assert producer[data.input[0]].op_type == "QuantizeLinear"
        assert initializers[weight.input[0]].data_type == TensorProto.INT8
        assert initializers[node.input[2]].data_type == TensorProto.FLOAT16  # a quantized bias stops TensorRT
        scale = numpy_helper.to_array(initializers[weight.input[1]])
        out_channels = initializers[weight.input[0]].dims[0]
        assert scale.shape == ((out_channels,) if node.op_type == "Conv" else ())


def test_symmetric_and_nothing_else_is_quantized(int8: onnx.ModelProto) -> None:
    initializers = {i.name: i for i in int8.graph.initializer}
    consumers: dict[str, set[str]] = {}
    for node in int8.graph.node:
        for name in node.input:
            consumers.setdefault(name, set()).add(node.op_type)
    for node in int8.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = numpy_helper.to_array(initializers[node.input[2]])
            scale = numpy_helper.to_array(initializers[node.input[1]])
            assert zero.dtype == np.int8 and not zero.any()
            assert scale.dtype == np.float16 and (scale > 0).all()
        if node.op_type == "DequantizeLinear":
            assert consumers[node.output[0]] <= {"Conv", "ConvTranspose"}


def test_convolutions_that_share_an_input_share_its_scale(int8: onnx.ModelProto) -> None:
    quantizers = [n for n in int8.graph.node if n.op_type == "QuantizeLinear"]
    assert len({n.input[0] for n in quantizers}) == len(quantizers) < 100
    readers = {n.name: n.input[0] for n in int8.graph.node if n.op_type == "Conv"}
    csp = "backbone.stage1.blocks"
    assert readers[f"{csp}.conv1.conv"] == readers[f"{csp}.conv2.conv"]


def test_types_are_consistent(int8: onnx.ModelProto) -> None:
    """Strict inference fails on a Float/Half mismatch, which TensorRT's parser refuses too."""
    inferred = onnx.shape_inference.infer_shapes(int8, check_type=True, strict_mode=True, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    convolutions = [n for n in int8.graph.node if n.op_type in ("Conv", "ConvTranspose")]
    assert {types[n.output[0]] for n in convolutions} == {TensorProto.FLOAT16}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_come_back_within_half_a_step(dtype: type, per_channel: bool) -> None:
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(8, 4, 3, 3)) * np.logspace(-6, 1, 8).reshape(-1, 1, 1, 1)).astype(dtype)
    weights[3] = 0
    values, scales = quantize.quantize_weights(weights, per_channel)
    assert values.dtype == np.int8 and values.min() >= -127 and scales.dtype == dtype
    step = scales.astype(np.float64).reshape(-1, 1, 1, 1) if per_channel else np.float64(scales)
    # Half a step, and for the largest of a channel what rounding the scale itself to float16 costs.
    slack = 0.5 + 127 * (2**-11 if dtype == np.float16 else 1e-7)
    smallest = np.finfo(dtype).smallest_subnormal * 128
    assert (np.abs(values * step - weights.astype(np.float64)) <= np.maximum(slack * step, smallest)).all()


def test_histogram_keeps_counts_when_the_range_grows() -> None:
    histogram = Histogram()
    for scale in (0.0, 0.1, 5.0, 0.3, 80.0):
        histogram.add(torch.linspace(-scale, scale, 1001))
    assert histogram.counts.sum() == 5 * 1001
    assert histogram.limit >= 80


def test_range_clips_one_outlier_but_not_a_plain_tensor() -> None:
    plain, outlier = Histogram(), Histogram()
    uniform = torch.linspace(-1, 1, 100_000)
    plain.add(uniform)
    outlier.add(torch.cat([uniform, torch.tensor([30.0])]))
    assert 0.98 <= plain.amax() <= 1.02
    assert outlier.amax() < 25


def heavy_tailed() -> Histogram:
    histogram = Histogram()
    histogram.add(torch.distributions.StudentT(3.0).sample((200_000,)))
    return histogram


def test_each_method_is_the_best_at_what_it_minds() -> None:
    torch.manual_seed(0)
    histogram = heavy_tailed()
    ranges = {method: histogram.amax(method) for method in get_args(CalibrationMethod)}
    assert ranges["max"] == histogram.peak == max(ranges.values()) and min(ranges.values()) > 1
    assert len(set(ranges.values())) == 4
    assert min(ranges.values(), key=histogram._squared_error) == ranges["mse"]
    assert max(ranges.values(), key=histogram.snr_db) == ranges["mse"]
    assert min(ranges.values(), key=histogram._divergence) == ranges["entropy"]
    kept = float(histogram.counts[: round(ranges["percentile"] / histogram.limit * 4096)].sum() / 200_000)
    assert 0.9999 <= kept < 0.99995


def test_signal_to_noise_of_evenly_spread_values() -> None:
    """Steps of 1 / 127 leave noise of a twelfth of their square."""
    histogram = Histogram()
    histogram.add(torch.linspace(-1, 1, 1_000_001))
    assert histogram.snr_db(1.0) == pytest.approx(10 * np.log10(4 * 127**2), abs=0.1)
    assert histogram.snr_db(0.5) < 15  # half of them clipped


def test_the_report_names_every_convolution(
    reference: Engine, histograms: dict[str, Histogram], ranges: dict[str, float]
) -> None:
    kept = "heads.head1.cls_pred"
    layers = quantize.report(reference, histograms, {name: value for name, value in ranges.items() if name != kept})
    assert layers.keys() == ranges.keys() and layers[kept] == {"precision": "fp16"}
    stem = layers["backbone.stem.conv.conv"]
    assert stem["precision"] == "int8" and stem["range"] == pytest.approx(ranges["backbone.stem.conv.conv"], rel=1e-5)
    assert all(layer["weight_snr_db"] > 20 for name, layer in layers.items() if name != kept)


def test_no_picture(reference: Engine) -> None:
    with pytest.raises(CalibrationError, match="no pictures to calibrate with"):
        quantize.observe(reference, [])


def test_int8_finds_the_same_objects(int8: onnx.ModelProto, reference: Engine) -> None:
    agreement = check.compare(int8, reference, [canvas_of(path) for path in PICTURES])
    assert agreement.detections >= 8
    assert agreement.detections_found == agreement.detections
    assert agreement.logit_correlation > 0.98
    check.require(agreement, "int8", "s")

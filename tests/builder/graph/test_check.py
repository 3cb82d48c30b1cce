from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from nas_build.errors import DisagreementError
from nas_build.graph import check, export
from nas_build.graph.check import FP16_LIMITS, Agreement, Limits
from nas_build.graph.exact import Exact
from nas_build.graph.export import EndToEnd, Exported
from nas_build.int8.quantize import LIMITS as INT8_LIMITS
from nas_build.yolo_nas.network import YoloNAS
from onnx import numpy_helper

from support.networks import QUARTER, canvas_of
from support.samples import PICTURES

CANVASES = [canvas_of(path, QUARTER.letterbox) for path in PICTURES]


@pytest.fixture(scope="module")
def fp16(exported: Exported) -> onnx.ModelProto:
    return exported.graph


@pytest.fixture(scope="module")
def reference(exported: Exported) -> EndToEnd:
    return exported.reference


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def test_a_true_graph_is_accepted(fp16: onnx.ModelProto, reference: EndToEnd) -> None:
    agreement = check.compare(Exact(fp16), reference, CANVASES)
    check.require(agreement, FP16_LIMITS, "s")
    assert agreement.pictures == len(CANVASES)
    assert agreement.max_score_difference < 0.01 and agreement.max_box_difference_px < 1
    assert agreement.detections == agreement.detections_found >= 4


def test_swapped_channels_are_refused(demo_network: YoloNAS, reference: EndToEnd) -> None:
    wrong = export.export(EndToEnd(demo_network, dataclasses.replace(QUARTER, bgr=True)), (320, 320), "s")
    agreement = check.compare(Exact(wrong), reference, CANVASES)
    with pytest.raises(DisagreementError, match="disagrees with PyTorch on 4 pictures: largest score difference"):
        check.require(agreement, FP16_LIMITS, "s")


def test_a_damaged_convolution_is_refused_as_int8_too(fp16: onnx.ModelProto, reference: EndToEnd) -> None:
    wrong = copy_of(fp16)
    (kernel,) = (i for i in wrong.graph.initializer if i.name == "backbone.stage2.downsample.conv.weight")
    kernel.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(kernel), kernel.name))
    agreement = check.compare(Exact(wrong), reference, CANVASES)
    for limits in (FP16_LIMITS, *INT8_LIMITS.values()):
        with pytest.raises(DisagreementError, match="Nothing was installed"):
            check.require(agreement, limits, "s")


def test_a_wrong_top_k_is_refused(fp16: onnx.ModelProto, reference: EndToEnd) -> None:
    wrong = copy_of(fp16)
    last = [node for node in wrong.graph.node if node.op_type == "TopK"][-1]
    for attribute in last.attribute:
        if attribute.name == "largest":
            attribute.i = 0
    if not any(attribute.name == "largest" for attribute in last.attribute):
        last.attribute.append(onnx.helper.make_attribute("largest", 0))
    with pytest.raises(DisagreementError, match="top-k is not the best of its own scores"):
        check.compare(Exact(wrong), reference, CANVASES[:1])


GOOD = Agreement(4, 0.001, 0.2, 1.0, 10, 10)


def test_what_mends_a_disagreement() -> None:
    bad = dataclasses.replace(GOOD, detections_found=0)
    for limits, options in ((FP16_LIMITS, ()), (INT8_LIMITS["int8"], ("calibration", "calibration_method", "budget"))):
        with pytest.raises(DisagreementError) as caught:
            check.require(bad, limits, "s")
        assert caught.value.options == tuple(f"int8.{option}" for option in options)


@pytest.mark.parametrize(
    ("change", "limits", "message"),
    [
        ({"max_score_difference": 0.02}, FP16_LIMITS, "largest score difference 0.02, expected at most 0.01"),
        ({"max_box_difference_px": 1.5}, FP16_LIMITS, "largest box difference in pixels 1.5, expected at most 1"),
        ({"max_box_difference_px": float("nan")}, FP16_LIMITS, "nan"),
        (
            {"logit_correlation": 0.985},
            INT8_LIMITS["uint8"],
            "correlation of the class logits 0.985, expected at least 0.99",
        ),
        (
            {"logit_correlation": 0.5},
            INT8_LIMITS["int8"],
            "correlation of the class logits 0.5, expected at least 0.98",
        ),
        (
            {"detections_found": 7},
            INT8_LIMITS["uint8"],
            "share of detections found again 0.7, expected at least 0.9.*Calibrate with",
        ),
    ],
)
def test_limits(change: dict, limits: Limits, message: str) -> None:
    check.require(GOOD, limits, "s")
    with pytest.raises(DisagreementError, match=message):
        check.require(dataclasses.replace(GOOD, **change), limits, "s")


def test_an_engine_that_gives_nan_is_refused(fp16: onnx.ModelProto, reference: EndToEnd) -> None:
    wrong = copy_of(fp16)
    (bias,) = (i for i in wrong.graph.initializer if i.name == "heads.head3.cls_pred.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(80, np.nan, np.float16), bias.name))
    with pytest.raises(DisagreementError):
        check.require(check.compare(Exact(wrong), reference, CANVASES[:1]), FP16_LIMITS, "s")

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from nas_build.errors import ProcessingError
from nas_build.yolo_nas.processing import COCO, Processing, compile_processing
from nas_ensembles.contract import Thresholds
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import Candidates, finish, prepare

from support.samples import CUSTOM_PROCESSING

RESCALE = {"DetectionLongestMaxSizeRescale": {"output_shape": [636, 636]}}
CENTER = {"DetectionCenterPadding": {"output_shape": [640, 640], "pad_value": 114}}
STANDARDIZE: dict[str, Any] = {"StandardizeImage": {"max_value": 255.0}}
PERMUTE = {"ImagePermute": {"permutation": [2, 0, 1]}}
REVERSE: dict[str, Any] = {"ReverseImageChannels": {}}
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
NORMALIZE = {"NormalizeImage": {"mean": MEAN, "std": STD}}


AUTO: dict[str, Any] = {"shape_multiple": [32, 32], "pad_value": 90}


def compiled(*steps: Any, **params: Any) -> Processing:
    return compile_processing({"image_processor": {"ComposeProcessing": {"processings": list(steps)}}, **params})


def test_coco() -> None:
    assert compiled(RESCALE, CENTER, STANDARDIZE, PERMUTE, iou=0.7, conf=0.25) == COCO


def test_custom_swaps_channels_pads_bottom_right_and_does_not_divide() -> None:
    letterbox = LetterboxSpec((320, 320), (320, 320), 114, "top_left")
    expected = Processing(letterbox, True, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), Thresholds(0.5, 0.65))
    assert compile_processing(CUSTOM_PROCESSING) == expected


@pytest.mark.parametrize(
    "steps", [[STANDARDIZE, REVERSE, NORMALIZE], [REVERSE, NORMALIZE, STANDARDIZE], [NORMALIZE, REVERSE]]
)
def test_values_are_those_of_the_steps_in_their_order(steps: list[Any]) -> None:
    pixel = np.array([10.0, 100.0, 200.0])
    expected = pixel
    for step in steps:
        expected = {
            "StandardizeImage": lambda x: x / 255.0,
            "ReverseImageChannels": lambda x: x[::-1],
            "NormalizeImage": lambda x: (x - MEAN) / STD,
        }[next(iter(step))](expected)
    got = compiled(RESCALE, CENTER, *steps, PERMUTE)
    seen = pixel[::-1] if got.bgr else pixel
    np.testing.assert_allclose(seen * got.multiply + got.add, expected, rtol=1e-12)


def test_stretched_pictures_have_no_padding_and_come_back() -> None:
    """`DetectionRescale` gives up the proportions: rows and columns have scales of their own."""
    spec = compiled({"DetectionRescale": {"output_shape": [320, 640]}}, STANDARDIZE).letterbox
    image = np.random.default_rng(0).integers(0, 256, (100, 50, 3), dtype=np.uint8)
    prepared = prepare(image, spec)
    expected = cv2.resize(image, (640, 320), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(prepared.canvas, expected.transpose(2, 0, 1))
    box = np.float32([[10, 20, 30, 80]])
    on_canvas = box * np.float32([640 / 50, 320 / 100] * 2)
    candidates = Candidates(on_canvas, np.float32([0.9]), np.int32([0]))
    np.testing.assert_allclose(finish(candidates, prepared.geometry, Thresholds()).boxes_xyxy, box, rtol=1e-6)


@pytest.mark.parametrize(
    ("rescale", "size"), [("DetectionRescale", (320, 640)), ("DetectionLongestMaxSizeRescale", (320, 640))]
)
def test_padding_to_a_multiple_is_right_and_below(rescale: str, size: tuple[int, int]) -> None:
    """A picture as large as its place gets what super-gradients gives it, a smaller one more grey."""
    spec = compiled({rescale: {"output_shape": [300, 630]}}, {"DetectionAutoPadding": AUTO}, STANDARDIZE).letterbox
    assert spec.size_hw == size and spec.pad_value == 90
    image = np.random.default_rng(0).integers(0, 256, (100, 210, 3), dtype=np.uint8)
    expected = np.full((*size, 3), 90, np.uint8)
    expected[:300, :630] = cv2.resize(image, (630, 300), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(prepare(image, spec).canvas, expected.transpose(2, 0, 1))


def test_a_data_sets_own_rescale_before_the_same_of_its_transforms() -> None:
    """As super-gradients saves it for data sets with an input_dim and DetectionPaddedRescale."""
    size: dict[str, Any] = {"output_shape": [640, 640]}
    longest = {"DetectionLongestMaxSizeRescale": size}
    padding = {"DetectionBottomRightPadding": {**size, "pad_value": 114}}
    twice = compiled(REVERSE, longest, longest, padding, PERMUTE)
    assert twice == compiled(REVERSE, longest, padding, PERMUTE)
    assert twice.bgr and twice.letterbox.placement == "top_left" and twice.letterbox.fit_hw == (640, 640)
    with pytest.raises(ProcessingError, match="DetectionLongestMaxSizeRescale appears twice"):
        compiled(RESCALE, longest, padding)


def test_two_swaps_are_none() -> None:
    assert not compiled(REVERSE, RESCALE, CENTER, REVERSE, STANDARDIZE).bgr


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([RESCALE, CENTER, {"GaussianBlur": {}}], "hold the step 'GaussianBlur', which cannot be compiled"),
        ([{"DetectionRescale": {"output_shape": [600, 640]}}, STANDARDIZE], "do not make a letterbox"),
        ([RESCALE, {"DetectionRescale": {"output_shape": [640, 640]}}], "DetectionRescale appears twice or out of"),
        ([{"DetectionAutoPadding": AUTO}, RESCALE], "DetectionAutoPadding appears twice or out of order"),
        ([RESCALE, {"DetectionAutoPadding": {**AUTO, "shape_multiple": [0, 32]}}], "expected positive multiples"),
        ([RESCALE, STANDARDIZE], "lack a padding to a fixed size"),
        ([CENTER, STANDARDIZE], "lack a rescaling"),
        ([RESCALE, STANDARDIZE, CENTER], "DetectionCenterPadding appears twice or out of order"),
        ([CENTER, RESCALE], "DetectionLongestMaxSizeRescale appears twice or out of order"),
        ([RESCALE, CENTER, {"ImagePermute": {"permutation": [1, 2, 0]}}], r"expected permutation \(2, 0, 1\)"),
        ([RESCALE, {"DetectionCenterPadding": {"output_shape": [640, 640], "pad_value": [1, 2, 3]}}], "one grey"),
        (
            [RESCALE, {"DetectionCenterPadding": {"output_shape": [600, 600], "pad_value": 0}}],
            "do not make a letterbox",
        ),
        ([RESCALE, {"DetectionCenterPadding": {"pad_value": 0}}], "expected output_shape"),
        ([RESCALE, CENTER, {"StandardizeImage": {"max_value": 0}}], "divide by zero"),
        ([{"a": {}, "b": {}}], "expected {step: {argument: value}}"),
    ],
)
def test_what_cannot_be_compiled_is_named(steps: list[Any], message: str) -> None:
    with pytest.raises(ProcessingError, match=message):
        compiled(*steps)


@pytest.mark.parametrize("arguments", [{"mean": "x", "std": [1, 1, 1]}, {"mean": [0, 0, 0], "std": {}}])
def test_processing_of_nonsense(arguments: dict[str, object]) -> None:
    with pytest.raises(ProcessingError, match="cannot be read: .*Error: .*build with that") as caught:
        compile_processing({"image_processor": {"NormalizeImage": arguments}})
    assert caught.value.options == ("processing=coco",)


def test_processing_nested_deeply() -> None:
    steps: object = {"ImagePermute": {}}
    for _ in range(2000):
        steps = {"ComposeProcessing": {"processings": [steps]}}
    with pytest.raises(ProcessingError, match="cannot be read: RecursionError"):
        compile_processing({"image_processor": steps})

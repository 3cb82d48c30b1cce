from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nas_ensembles.letterbox import LetterboxSpec, letterbox, to_planes, unletterbox

COCO = LetterboxSpec()
BOTTOM_RIGHT = LetterboxSpec((640, 640), (640, 640), 114, "top_left")
STRETCHED = LetterboxSpec((320, 640), (300, 640), 0, "top_left", stretch=True)
# height, width -> new height, new width, left, top; worked out by hand from the rules:
# scale = min(636 / h, 636 / w), Python's round (half to even), left and top = floor(rest / 2).
GOLDEN = {
    (1080, 810): (636, 477, 81, 2),
    (480, 640): (477, 636, 2, 81),
    (512, 512): (636, 636, 2, 2),
    (427, 640): (424, 636, 2, 108),
    (100, 50): (636, 318, 161, 2),
    (1, 1000): (1, 636, 2, 319),
    (1272, 5): (636, 2, 319, 2),  # width 2.5 rounds to 2, to even
    (1272, 7): (636, 4, 318, 2),  # 3.5 rounds to 4
}


@pytest.mark.parametrize("hw", GOLDEN, ids=str)
def test_letterbox_golden_geometry(hw: tuple[int, int]) -> None:
    new_h, new_w, left, top = GOLDEN[hw]
    image = np.full((*hw, 3), 255, np.uint8)
    boxed = letterbox(image, COCO)
    expected = np.full((640, 640, 3), 114, np.uint8)
    expected[top : top + new_h, left : left + new_w] = 255
    np.testing.assert_array_equal(boxed.canvas, expected)
    assert boxed.pad_xy == (left, top)
    assert boxed.scale_xy == (min(636 / hw[0], 636 / hw[1]),) * 2


def test_letterbox_pixels_are_cv2_bilinear() -> None:
    image = np.random.default_rng(0).integers(0, 256, (123, 77, 3), dtype=np.uint8)
    boxed = letterbox(image, COCO)
    resized = cv2.resize(image, (398, 636), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(boxed.canvas[2:638, 121:519], resized)


def test_letterbox_top_left() -> None:
    boxed = letterbox(np.zeros((320, 640, 3), np.uint8), BOTTOM_RIGHT)
    assert boxed.pad_xy == (0, 0) and boxed.scale_xy == (1.0, 1.0)
    assert (boxed.canvas[:320] == 0).all() and (boxed.canvas[320:] == 114).all()


def test_stretched_pictures_fill_their_place() -> None:
    image = np.random.default_rng(0).integers(0, 256, (123, 77, 3), dtype=np.uint8)
    boxed = letterbox(image, STRETCHED)
    resized = cv2.resize(image, (640, 300), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(boxed.canvas[:300], resized)
    assert (boxed.canvas[300:] == 0).all() and boxed.scale_xy == (640 / 77, 300 / 123)


sides = st.integers(1, 3000)


@settings(deadline=None, max_examples=60)
@given(sides, sides, st.sampled_from([COCO, BOTTOM_RIGHT, STRETCHED]), st.data())
def test_unletterbox_restores_boxes(h: int, w: int, spec: LetterboxSpec, data: st.DataObject) -> None:
    boxed = letterbox(np.zeros((h, w, 3), np.uint8), spec)
    x1, x2 = sorted(data.draw(st.tuples(st.floats(0, w), st.floats(0, w))))
    y1, y2 = sorted(data.draw(st.tuples(st.floats(0, h), st.floats(0, h))))
    box = np.array([[x1, y1, x2, y2]])
    on_canvas = (box * [*boxed.scale_xy, *boxed.scale_xy] + [*boxed.pad_xy, *boxed.pad_xy]).astype(np.float32)
    restored = unletterbox(on_canvas, boxed.scale_xy, boxed.pad_xy, (w, h))
    np.testing.assert_allclose(restored, box, atol=1e-4 / min(boxed.scale_xy) + 1e-4 * max(h, w))


def test_unletterbox_clips_to_the_picture() -> None:
    boxes = np.array([[-50, -50, 900, 900]], np.float32)
    np.testing.assert_array_equal(unletterbox(boxes, (0.5, 0.5), (10, 20), (300, 200)), [[0, 0, 300, 200]])


def test_to_planes_is_a_transpose() -> None:
    canvas = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    out = np.empty((3, 64, 96), np.uint8)
    to_planes(canvas, out)
    np.testing.assert_array_equal(out, canvas.transpose(2, 0, 1))


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_letterbox_refuses_what_is_no_picture(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8"):
        letterbox(image, COCO)


@pytest.mark.parametrize(
    "arguments",
    [
        {"size_hw": (640, 600), "fit_hw": (600, 600)},
        {"fit_hw": (641, 640)},
        {"pad_value": 256},
        {"placement": "left"},
    ],
)
def test_spec_names_what_is_wrong(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        LetterboxSpec(**arguments)


@pytest.mark.parametrize(
    ("spec", "size_hw", "divisor"),
    [
        (COCO, (1272, 1000), 2),
        (COCO, (480, 640), 640 / 636),
        (LetterboxSpec((320, 640), (318, 636)), (1272, 636), 2),  # it may be turned: upright it would be 4
        (LetterboxSpec((640, 640), (640, 640), stretch=True), (1280, 2560), 2),
    ],
)
def test_how_much_smaller_a_picture_may_be(spec: LetterboxSpec, size_hw: tuple[int, int], divisor: float) -> None:
    assert spec.divisor(size_hw) == pytest.approx(divisor) == spec.divisor(size_hw[::-1])


def test_spec_survives_json() -> None:
    import json

    for spec in (LetterboxSpec((320, 640), (300, 620), 0, "top_left"), STRETCHED):
        assert LetterboxSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec

from __future__ import annotations

import numpy as np
import pytest
from nas_ensembles.contract import Thresholds
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import Candidates, finish, prepare

SPEC = LetterboxSpec((64, 96), (60, 92))


def test_prepare_letterboxes_into_planes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 46, 3), np.uint8)
    canvas, geometry = prepare(image, SPEC)
    assert canvas.shape == (3, 64, 96) and canvas.dtype == np.uint8
    np.testing.assert_array_equal(geometry, np.float32([2, 2, 2, 2, 46, 30]))
    assert (canvas[:, :2] == 114).all() and (canvas[:, :, -2:] == 114).all()
    again = np.zeros((3, 64, 96), np.uint8)
    assert prepare(image, SPEC, out=again).canvas is again
    np.testing.assert_array_equal(again, canvas)


def test_boxes_of_a_smaller_picture_are_of_the_whole_one() -> None:
    """61 x 93 pixels decoded to a half."""
    _, geometry = prepare(np.zeros((31, 47, 3), np.uint8), SPEC, size_hw=(61, 93))
    boxes = np.float32([[2, 2, 94, 62]])
    found = finish(Candidates(boxes, np.float32([0.9]), np.int32([1])), geometry, Thresholds())
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 93, 61]], atol=1)


def test_prepare_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        prepare(np.zeros((4, 4), np.uint8), SPEC)


def test_finish_brings_the_best_back_to_the_picture() -> None:
    boxes = np.float32([[2, 2, 94, 62], [4, 2, 94, 62], [0, 0, 12, 12], [0, 0, 12, 12]])
    candidates = Candidates(boxes, np.float32([0.9, 0.8, 0.7, 0.1]), np.int32([1, 1, 1, 0]))
    found = finish(candidates, np.float32([2, 2, 2, 2, 46, 30]), Thresholds())
    np.testing.assert_array_equal(found.boxes_xyxy, np.float32([[0, 0, 46, 30], [0, 0, 5, 5]]))
    np.testing.assert_array_equal(found.scores, np.float32([0.9, 0.7]))
    assert found.labels.tolist() == [1, 1]
    assert len(finish(candidates, np.float32([2, 2, 2, 2, 46, 30]), Thresholds(max_detections=1)).scores) == 1

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nas_ensembles.contract import CANDIDATES, Thresholds
from nas_ensembles.nms import select


def iou(a: np.ndarray, b: np.ndarray) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(w, 0) * max(h, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def reference(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, thresholds: Thresholds) -> list[int]:
    """Greedy class-wise NMS as the textbook has it."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        rivals = [k for k in kept if labels[k] == labels[i]]
        if scores[i] > thresholds.score and all(iou(boxes[k], boxes[i]) <= thresholds.iou for k in rivals):
            kept.append(int(i))
    return kept[: thresholds.max_detections]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(1, 4), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_select_equals_the_textbook(seed: int, n: int, classes: int, iou_threshold: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-60, 60, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 80, (n, 2))], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.01, 0.99, n)).astype(np.float32)
    labels = rng.integers(0, classes, n).astype(np.int32)
    thresholds = Thresholds(score=0.2, iou=iou_threshold, max_detections=12)
    assert select(boxes, scores, labels, thresholds).tolist() == reference(boxes, scores, labels, thresholds)


@pytest.mark.parametrize(("classes", "most"), [(1, 300), (5, 40), (80, 300)])
def test_as_many_candidates_as_there_can_be(classes: int, most: int) -> None:
    """They are taken a part at a time; in falling order or not, the result is the same."""
    rng = np.random.default_rng(classes)
    corner = rng.uniform(0, 300, (CANDIDATES, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(40, 90, (CANDIDATES, 2))], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.02, 0.99, CANDIDATES)).astype(np.float32)
    labels = rng.integers(0, classes, CANDIDATES).astype(np.int32)
    thresholds = Thresholds(score=0.01, iou=0.5, max_detections=most)
    assert select(boxes, scores, labels, thresholds).tolist() == reference(boxes, scores, labels, thresholds)


def boxes_of(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_nms_keeps_best_of_identical_boxes() -> None:
    boxes = boxes_of(*[[10, 10, 50, 50]] * 3)
    kept = select(boxes, np.float32([0.5, 0.9, 0.7]), np.int32([1, 1, 1]), Thresholds())
    assert kept.tolist() == [1]


def test_classes_do_not_compete() -> None:
    boxes = boxes_of(*[[10, 10, 50, 50]] * 2)
    assert select(boxes, np.float32([0.5, 0.9]), np.int32([0, 79]), Thresholds(iou=0.0)).tolist() == [1, 0]


def test_one_anchor_may_have_several_labels() -> None:
    boxes = boxes_of([0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9])
    assert len(select(boxes, np.float32([0.9, 0.8, 0.7]), np.int32([0, 1, 2]), Thresholds())) == 3


def test_score_must_exceed_the_threshold() -> None:
    boxes = boxes_of([0, 0, 9, 9], [20, 20, 30, 30])
    kept = select(
        boxes, np.float32([0.5, np.nextafter(np.float32(0.5), np.float32(1))]), np.int32([0, 0]), Thresholds(score=0.5)
    )
    assert kept.tolist() == [1]


def test_overlap_equal_to_the_threshold_stays() -> None:
    boxes = boxes_of([0, 0, 10, 10], [0, 0, 10, 5])  # IoU exactly 0.5
    scores, labels = np.float32([0.9, 0.8]), np.int32([0, 0])
    assert len(select(boxes, scores, labels, Thresholds(iou=0.5))) == 2
    assert len(select(boxes, scores, labels, Thresholds(iou=0.49))) == 1


def test_nothing_passes() -> None:
    assert select(boxes_of([0, 0, 1, 1]), np.float32([0.1]), np.int32([0]), Thresholds()).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": 1.5}, "score_threshold must be from 0 to 1, got 1.5"),
        ({"iou": float("nan")}, "iou_threshold must be from 0 to 1, got nan"),
        ({"max_detections": 301}, "max_detections must be from 1 to 300, got 301"),
        ({"max_detections": 0}, "max_detections must be from 1 to 300, got 0"),
    ],
)
def test_thresholds_out_of_range_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Thresholds(**arguments)

"""Which prediction is of which object: confusion of classes, and F1 over confidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from nas_eval.dataset import Dataset
from nas_eval.metrics import Prediction
from numpy.typing import NDArray

CONFIDENCE = np.linspace(0, 1, 201)
CONFIDENT = 0.25  # of the detections in the confusion matrix and on the sheets
SAME_OBJECT_IOU = 0.5


def confusion(dataset: Dataset, predictions: Sequence[Prediction]) -> tuple[NDArray[np.int64], list[str]]:
    """Which class is taken for which: rows are the truth, columns the predictions, the last of each is nothing.

    Detections that score more than 0.25 are paired with true boxes, best first, where they overlap by an IoU of at
    least 0.5, whatever their classes. Crowds pair with nothing.

    Returns:
        (C + 1, C + 1) counts and the C names.
    """
    row = {category: i for i, category in enumerate(dataset.class_names)}
    matrix = np.zeros((len(row) + 1, len(row) + 1), np.int64)
    confident = [one for one in predictions if one["score"] > CONFIDENT]
    for prediction, true in _pairs(dataset, confident, "image_id"):
        i, j = (-1 if box is None else row[box["category_id"]] for box in (true, prediction))
        matrix[i, j] += 1
    return matrix, list(dataset.class_names.values())


def f1_over_confidence(dataset: Dataset, predictions: Sequence[Prediction]) -> dict[str, NDArray[np.float64]]:
    """F1 of each class that has objects when only scores from each confidence on count: 201 of them, 0 to 1.

    Detections are paired with true boxes of their class, best first, at an IoU of at least 0.5.
    """
    scores: dict[int, list[tuple[float, bool]]] = {}
    objects: dict[int, int] = {}
    for prediction, true in _pairs(dataset, predictions, "image_id", "category_id"):
        if true is not None:
            objects[true["category_id"]] = objects.get(true["category_id"], 0) + 1
        if prediction is not None:
            scores.setdefault(prediction["category_id"], []).append((prediction["score"], true is not None))
    curves = {}
    for category, name in dataset.class_names.items():
        if category in objects:
            score, hit = np.array(scores.get(category, []), np.float64).reshape(-1, 2).T
            counted = score[None] >= CONFIDENCE[:, None]
            curves[name] = 2 * (counted @ hit) / (counted.sum(axis=1) + objects[category])
    return curves


def _pairs(
    dataset: Dataset, predictions: Sequence[Prediction], *together: str
) -> Iterator[tuple[Prediction | None, Any | None]]:
    """Every prediction and every true box that is no crowd, once, with its partner or None.

    Only boxes that agree in the fields `together` are paired.
    """
    groups: dict[Any, tuple[list[Prediction], list[Any]]] = {}

    def group(box: Any) -> tuple[list[Prediction], list[Any]]:
        return groups.setdefault(tuple(box[field] for field in together), ([], []))

    for prediction in sorted(predictions, key=lambda one: -one["score"]):
        group(prediction)[0].append(prediction)
    for box in dataset.truth["annotations"]:
        if not box["iscrowd"]:
            group(box)[1].append(box)
    for ours, true in groups.values():
        overlap = _iou(xyxy(ours), xyxy(true))
        left = set(range(len(true)))
        for i, prediction in enumerate(ours):
            best = max(left, key=lambda j, row=overlap[i]: row[j], default=None)  # type: ignore[misc]
            if best is not None and overlap[i, best] >= SAME_OBJECT_IOU:
                left.remove(best)
                yield prediction, true[best]
            else:
                yield prediction, None
        for j in left:
            yield None, true[j]


def xyxy(boxes: Sequence[Any]) -> NDArray[np.float32]:
    """[N, 4] of COCO's boxes, left, top, right, bottom."""
    xywh = np.array([box["bbox"] for box in boxes], np.float32).reshape(-1, 4)
    return np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, M] of [N, 4] and [M, 4] xyxy."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = sides.clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    iou: NDArray[np.float32] = overlap / np.maximum(areas[0][:, None] + areas[1][None] - overlap, 1e-9)
    return iou

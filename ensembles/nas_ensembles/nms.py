"""Choose detections among the engine's candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import Thresholds
from .opencv import cv2

_AT_A_TIME = 512


def select(
    boxes_xyxy: NDArray[np.float32], scores: NDArray[np.float32], labels: NDArray[np.int32], thresholds: Thresholds
) -> NDArray[np.intp]:
    """Threshold, class-wise greedy NMS, best first.

    Candidates score more than `thresholds.score`; of two boxes of one class whose IoU is more than `thresholds.iou`
    the better stays; boxes of different classes never compete.

    Args:
        boxes_xyxy: (K, 4) float32.
        scores: (K,) float32.
        labels: (K,) int32, from 0.
        thresholds: of the request.

    Returns:
        Indices of the detections, (N,), by falling score, N at most `thresholds.max_detections`.
    """
    passed = np.flatnonzero(scores > thresholds.score)
    if passed.size > _AT_A_TIME:
        passed = passed[np.argsort(-scores[passed], kind="stable")]
    boxes, scores, labels = boxes_xyxy[passed].astype(np.float64), scores[passed], labels[passed]
    boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    # OpenCV keeps classes apart by shifting each by the largest coordinate, which wants coordinates from 0.
    boxes_xywh[:, :2] -= boxes_xywh[:, :2].min(axis=0, initial=np.inf)
    kept: NDArray[np.intp] = np.empty(0, np.intp)
    # What is kept of the best is kept of all. OpenCV compares each with all that were kept, so fewer are much quicker.
    for start in range(0, passed.size, _AT_A_TIME):
        some = np.concatenate([kept, np.arange(start, min(start + _AT_A_TIME, passed.size))])
        best: Any = cv2.dnn.NMSBoxesBatched(boxes_xywh[some], scores[some], labels[some], 0.0, thresholds.iou)
        kept = some[best]
        if kept.size >= thresholds.max_detections:
            break
    detections: NDArray[np.intp] = passed[kept[: thresholds.max_detections]]
    return detections

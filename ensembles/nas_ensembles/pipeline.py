"""The chain around the engine: a picture to its input, its candidates to detections.

Served models, the builder and the tests all take this one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import nms
from .contract import Thresholds
from .letterbox import LetterboxSpec, letterbox, to_planes, unletterbox


class Prepared(NamedTuple):
    """What the engine sees, and the way back.

    Attributes:
        canvas: (3, H, W) uint8 RGB.
        geometry: (6,) float32: canvas pixels per picture pixel along x and y, left and top in canvas pixels, width and
            height of the picture in pixels.
    """

    canvas: NDArray[np.uint8]
    geometry: NDArray[np.float32]


class Candidates(NamedTuple):
    """What the engine answers for one picture.

    Attributes:
        boxes: (K, 4) float32 xyxy in canvas pixels.
        scores: (K,) float32, falling.
        labels: (K,) int32.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]


class Detected(NamedTuple):
    """Objects in one picture, best first.

    Attributes:
        boxes_xyxy: (N, 4) float32 in picture pixels, clipped to it.
        scores: (N,) float32.
        labels: (N,) int32.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]


def prepare(
    image: NDArray[np.uint8],
    spec: LetterboxSpec,
    out: NDArray[np.uint8] | None = None,
    size_hw: tuple[int, int] | None = None,
) -> Prepared:
    """Fit a picture into the engine's input.

    Args:
        image: (h, w, 3) uint8 RGB.
        spec: of the model.
        out: (3, H, W) uint8 to write the canvas into; a new one if None.
        size_hw: of the whole picture in pixels, if the image is a smaller one of it: boxes come back in its pixels.

    Raises:
        ValueError: if the picture is something else, or empty.
    """
    boxed = letterbox(image, spec, size_hw)
    canvas = np.empty((3, *spec.size_hw), np.uint8) if out is None else out
    to_planes(boxed.canvas, canvas)
    height, width = size_hw or image.shape[:2]
    return Prepared(canvas, np.array([*boxed.scale_xy, *boxed.pad_xy, width, height], np.float32))


def finish(candidates: Candidates, geometry: NDArray[np.float32], thresholds: Thresholds) -> Detected:
    """Choose detections among candidates, and bring their boxes back to the picture.

    Args:
        candidates: of the engine.
        geometry: (6,) from `prepare`.
        thresholds: of the request.
    """
    kept = nms.select(*candidates, thresholds)
    scale_x, scale_y, left, top, width, height = geometry.tolist()
    boxes = unletterbox(candidates.boxes[kept], (scale_x, scale_y), (left, top), (width, height))
    return Detected(boxes, candidates.scores[kept], candidates.labels[kept])

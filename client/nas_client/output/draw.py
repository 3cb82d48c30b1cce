"""Draw detections into a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from nas_ensembles.opencv import cv2
from numpy.typing import NDArray

from ..detection.detections import Detections
from .palette import colour, ink


class _Place(NamedTuple):
    """A rectangle in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def annotate(image: NDArray[np.uint8], detections: Detections, *, scores: bool = True) -> NDArray[np.uint8]:
    """A copy of the picture with a box and a caption per detection, the best on top.

    Captions stand above their boxes; where one would cover another's, it gives way to a better detection's.

    Args:
        image: (H, W, 3) uint8 RGB, upright.
        detections: in its pixels, best first.
        scores: whether captions tell them.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    thickness = max(1, round((height + width) / 600))
    scale, pen = max(0.4, (height + width) / 2800), max(1, thickness // 2)
    font = cv2.FONT_HERSHEY_SIMPLEX
    boxes = [tuple(map(int, box)) for box in np.round(detections.boxes_xyxy)]
    labels = [int(label) for label in detections.labels]
    places: list[_Place] = []
    captions = []
    for (left, top, right, bottom), score, name in zip(boxes, detections.scores, detections.names, strict=True):
        # OpenCV's fonts are ASCII only.
        caption = name.encode("ascii", "replace").decode() + (f" {score:.2f}" if scores else "")
        (text_width, text_height), baseline = cv2.getTextSize(caption, font, scale, pen)
        size = text_width, text_height + baseline + thickness
        places.append(_place((left, top, right, bottom), size, (width, height), places))
        captions.append((caption, baseline))
    for (left, top, right, bottom), label in reversed(list(zip(boxes, labels, strict=True))):
        cv2.rectangle(canvas, (left, top), (right, bottom), colour(label), thickness, cv2.LINE_AA)
    for place, (caption, baseline), label in reversed(list(zip(places, captions, labels, strict=True))):
        cv2.rectangle(canvas, place[:2], place[2:], colour(label), cv2.FILLED)
        at = place.left, place.bottom - baseline
        cv2.putText(canvas, caption, at, font, scale, ink(label), pen, cv2.LINE_AA)
    return canvas


def _place(
    box: tuple[int, int, int, int], size: tuple[int, int], picture: tuple[int, int], taken: Sequence[_Place]
) -> _Place:
    """Where a caption goes: of the places at its box, the first that covers no other, or the one that covers least.

    Args:
        box: left, top, right, bottom.
        size: width and height of the caption.
        picture: its width and height.
        taken: places of the captions of better detections.
    """
    left, top, right, bottom = box
    wide, tall = size
    corners = (
        (left, top - tall),  # above
        (left, top),  # inside
        (right - wide, top - tall),
        (right - wide, top),
        (left, bottom),  # below
        (left, bottom - tall),
        (right - wide, bottom),
        (right - wide, bottom - tall),
        *((left, top + line * tall) for line in range(1, 9)),
    )
    best, least = _Place(0, 0, 0, 0), float("inf")
    for x, y in corners:
        x, y = max(0, min(x, picture[0] - wide)), max(0, min(y, picture[1] - tall))
        place = _Place(x, y, x + wide, y + tall)
        covered = sum(_common(place, other) for other in taken)
        if covered < least:
            best, least = place, covered
        if not covered:
            break
    return best


def _common(a: _Place, b: _Place) -> int:
    """Pixels that are in both."""
    wide = min(a.right, b.right) - max(a.left, b.left)
    tall = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(wide, 0) * max(tall, 0)

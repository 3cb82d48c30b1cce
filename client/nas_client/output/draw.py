"""Draw detections into a picture."""

from __future__ import annotations

import numpy as np
from nas_ensembles.opencv import cv2
from numpy.typing import NDArray

from ..detection.detections import Detections

_GOLDEN_ANGLE = 0.381966  # of the hue circle: neighbouring labels get colours far apart


def annotate(image: NDArray[np.uint8], detections: Detections) -> NDArray[np.uint8]:
    """A copy of the picture with a box and a caption per detection, the best on top.

    Args:
        image: (H, W, 3) uint8 RGB, upright.
        detections: in its pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    font = cv2.FONT_HERSHEY_SIMPLEX
    thickness = max(1, round((height + width) / 600))
    scale = max(0.4, (height + width) / 2800)
    rows = zip(detections.boxes_xyxy, detections.scores, detections.labels, detections.names, strict=True)
    for box, score, label, name in reversed(list(rows)):
        colour = _colour(int(label))
        left, top, right, bottom = (int(v) for v in np.round(box))
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
        # OpenCV's fonts are ASCII only.
        caption = f"{name.encode('ascii', 'replace').decode()} {score:.2f}"
        (text_width, text_height), baseline = cv2.getTextSize(caption, font, scale, max(1, thickness // 2))
        tall = text_height + baseline + thickness
        x = max(0, min(left, width - text_width))
        y = top if top >= tall else min(top + tall, height)  # above the box where there is room, else inside
        cv2.rectangle(canvas, (x, y - tall), (x + text_width, y), colour, cv2.FILLED)
        ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 128 else (255, 255, 255)
        cv2.putText(
            canvas,
            caption,
            (x, y - baseline),
            font,
            scale,
            ink,
            max(1, thickness // 2),
            cv2.LINE_AA,
        )
    return canvas


def _colour(label: int) -> tuple[int, int, int]:
    hsv = np.array([[[int(label * _GOLDEN_ANGLE % 1 * 180), 200, 230]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue

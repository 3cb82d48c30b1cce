"""Decode pictures: upright RGB, or a reason why not."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})  # of files that may be decoded


class UnreadableImage(ValueError):
    """The bytes are no picture that can be decoded; the message says why."""


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode one picture.

    The EXIF orientation is applied, greyscale is repeated to three channels, alpha is dropped, 16 bits become 8.

    Args:
        data: a whole JPEG, PNG, WebP or BMP file.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UnreadableImage: if the bytes are empty, no picture, cut off before any row could be decoded, or hold more
            pixels than OPENCV_IO_MAX_IMAGE_PIXELS allowed when OpenCV was loaded (checked against the header,
            before anything is allocated).
    """
    if not data:
        raise UnreadableImage("zero bytes")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise UnreadableImage(
                "more pixels than the limit (max_pixels in the config of the preprocess model)"
            ) from None
        raise UnreadableImage(f"OpenCV: {error.err or error}") from None
    if image is None:
        raise UnreadableImage(f"{len(data)} bytes that are no JPEG, PNG, WebP or BMP picture, or a damaged one")
    return image  # type: ignore[return-value]

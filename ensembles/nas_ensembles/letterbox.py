"""Fit a picture into the network's canvas, and bring boxes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .opencv import cv2

Placement = Literal["center", "top_left"]


@dataclass(frozen=True)
class LetterboxSpec:
    """How pictures become canvases. The defaults are those of the COCO YOLO-NAS checkpoints.

    Attributes:
        size_hw: canvas height and width in pixels.
        fit_hw: the picture is scaled, up or down, to the largest size that fits this box, or stretched to fill it.
        pad_value: grey of the rest, 0 to 255.
        placement: "center" (odd rests go right and below) or "top_left".
        stretch: give up the picture's proportions.
    """

    size_hw: tuple[int, int] = (640, 640)
    fit_hw: tuple[int, int] = (636, 636)
    pad_value: int = 114
    placement: Placement = "center"
    stretch: bool = False

    def __post_init__(self) -> None:
        if min(self.fit_hw) < 1 or any(fit > size for fit, size in zip(self.fit_hw, self.size_hw, strict=True)):
            raise ValueError(f"fit_hw (={self.fit_hw}) must be positive and within size_hw (={self.size_hw}).")
        if any(size % 32 for size in self.size_hw):
            raise ValueError(f"size_hw (={self.size_hw}) must be multiples of 32, the network's largest stride.")
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value (={self.pad_value}) must be from 0 to 255.")
        if self.placement not in ("center", "top_left"):
            raise ValueError(f"placement (={self.placement!r}) must be 'center' or 'top_left'.")

    def divisor(self, size_hw: tuple[int, int]) -> float:
        """How many times smaller a picture may be, lying or upright, that the canvas wants no larger."""
        of_sides = min if self.stretch else max
        height, width = self.fit_hw
        return min(of_sides(one / height, other / width) for one, other in (size_hw, size_hw[::-1]))

    def to_dict(self) -> dict[str, Any]:
        """The form that travels in the config `parameters`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LetterboxSpec:
        """Undo `to_dict` after a trip through JSON."""
        height, width = values["size_hw"]
        fit_height, fit_width = values["fit_hw"]
        return cls(
            (height, width), (fit_height, fit_width), values["pad_value"], values["placement"], values["stretch"]
        )


class Letterboxed(NamedTuple):
    """A canvas and the way back.

    Attributes:
        canvas: (H, W, 3) uint8.
        scale_xy: canvas pixels per picture pixel.
        pad_xy: left and top in canvas pixels.
    """

    canvas: NDArray[np.uint8]
    scale_xy: tuple[float, float]
    pad_xy: tuple[int, int]


def letterbox(image: NDArray[np.uint8], spec: LetterboxSpec, size_hw: tuple[int, int] | None = None) -> Letterboxed:
    """Fit a picture into the canvas.

    The picture is resized (bilinear) to the largest size within `spec.fit_hw`, sides rounded half to even, or to that
    size itself; the rest is grey. COCO YOLO-NAS: fit 636, size 640, pad 114 (super-gradients
    `training/processing/processing.py`).

    Args:
        image: (H, W, 3) uint8.
        spec: the canvas.
        size_hw: of the whole picture in pixels, if the image is a smaller one of it: it takes the same place.

    Returns:
        canvas (size, size, 3) uint8 in the picture's channel order; scale_xy in canvas px per picture px;
        pad_xy (left, top) in canvas px. Undo with `unletterbox`.

    Raises:
        ValueError: if image is not (H, W, 3) uint8 or is empty.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image must be (H, W, 3) uint8 and not empty, got {image.shape} {image.dtype}")
    height, width = size_hw or image.shape[:2]
    scale_y, scale_x = spec.fit_hw[0] / height, spec.fit_hw[1] / width
    if not spec.stretch:
        scale_y = scale_x = min(scale_y, scale_x)
    new_height, new_width = max(1, round(height * scale_y)), max(1, round(width * scale_x))
    left, top = 0, 0
    if spec.placement == "center":
        left, top = (spec.size_hw[1] - new_width) // 2, (spec.size_hw[0] - new_height) // 2
    canvas = np.full((*spec.size_hw, 3), spec.pad_value, np.uint8)
    window = canvas[top : top + new_height, left : left + new_width]
    # OpenCV writes into the window in place: it is a view with the canvas's row step.
    cv2.resize(image, (new_width, new_height), dst=window, interpolation=cv2.INTER_LINEAR)
    return Letterboxed(canvas, (scale_x, scale_y), (left, top))


def to_planes(canvas: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Copy a canvas (H, W, 3) into the engine's layout (3, H, W), in place."""
    for channel in range(3):
        cv2.extractChannel(canvas, channel, dst=out[channel])


def unletterbox(
    boxes_xyxy: NDArray[np.float32],
    scale_xy: tuple[float, float],
    pad_xy: tuple[float, float],
    image_wh: tuple[float, float],
) -> NDArray[np.float32]:
    """Bring boxes from canvas pixels to picture pixels, clipped to the picture.

    Args:
        boxes_xyxy: (N, 4) float32 in canvas pixels.
        scale_xy: canvas pixels per picture pixel, as `letterbox` gave it.
        pad_xy: left and top in canvas pixels.
        image_wh: width and height of the picture in pixels.

    Returns:
        (N, 4) float32, xyxy in picture pixels.
    """
    scale, pad, limit = (np.array([*pair, *pair], np.float32) for pair in (scale_xy, pad_xy, image_wh))
    return np.clip((boxes_xyxy - pad) / scale, 0, limit).astype(np.float32, copy=False)

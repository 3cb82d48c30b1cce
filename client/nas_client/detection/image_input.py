"""What a picture can be given as, and what is sent for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..media.sources import download

if TYPE_CHECKING:
    import PIL.Image

# A file's path, a URL, the bytes of an encoded picture, a picture of PIL, or a frame: (H, W, 3) uint8 in RGB.
ImageInput: TypeAlias = "str | Path | bytes | NDArray[np.uint8] | PIL.Image.Image"
Loaded = bytes | NDArray[np.uint8]  # encoded, or a frame


def load(image: ImageInput) -> Loaded:
    """What is sent for a picture: encoded bytes, or the frame itself.

    A picture of PIL is turned upright as its EXIF data says, and becomes RGB.

    Raises:
        OSError: if the file cannot be read, or the URL not be downloaded.
        ValueError: if the array is not (H, W, 3) uint8.
        TypeError: if it is something else.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        return download(image)
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    if not isinstance(image, np.ndarray):
        return _of_pil(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"expected an RGB picture (H, W, 3) uint8, got {image.shape} {image.dtype}")
    return image


def is_one(image: object) -> bool:
    """Whether it is a picture and no list of them."""
    return isinstance(image, str | Path | bytes | np.ndarray) or hasattr(image, "convert")


def _of_pil(image: PIL.Image.Image) -> NDArray[np.uint8]:
    if not hasattr(image, "convert"):
        raise TypeError(f"expected a path, a URL, bytes, a picture of PIL or an RGB array, got {type(image).__name__}")
    from PIL import ImageOps  # there, since somebody has made the picture

    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def batches(loaded: Sequence[Loaded], size: int) -> Iterator[list[Loaded]]:
    """What can be one request, in order: encoded pictures together, and frames of one shape.

    Args:
        loaded: pictures.
        size: at most, of a batch.
    """
    for _, group in groupby(loaded, lambda one: one.shape if isinstance(one, np.ndarray) else None):
        alike = list(group)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))

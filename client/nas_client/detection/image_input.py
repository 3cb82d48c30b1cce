"""What a picture can be given as, and what is sent for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# A file's path, the bytes of an encoded picture, or a frame: (H, W, 3) uint8 in RGB.
ImageInput = str | Path | bytes | NDArray[np.uint8]
Loaded = bytes | NDArray[np.uint8]  # encoded, or a frame


def load(image: ImageInput) -> Loaded:
    """What is sent for a picture: encoded bytes, or the frame itself.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the array is not (H, W, 3) uint8.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"expected an RGB picture (H, W, 3) uint8, got {image.shape} {image.dtype}")
    return image


def batches(loaded: Sequence[Loaded], size: int) -> Iterator[list[Loaded]]:
    """What can be one request, in order: encoded pictures together, and frames of one shape.

    Args:
        loaded: pictures.
        size: at most, of a batch.
    """
    for _, group in groupby(loaded, lambda one: one.shape if isinstance(one, np.ndarray) else None):
        alike = list(group)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))

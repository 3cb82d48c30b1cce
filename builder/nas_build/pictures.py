"""Real pictures to calibrate with and to check on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from nas_ensembles import images
from nas_ensembles.letterbox import LetterboxSpec, letterbox, to_planes
from numpy.typing import NDArray

from . import weights
from .errors import CalibrationError


def find(folder: Path | None, most: int) -> list[Path]:
    """At most `most` pictures of a folder, evenly spread; the bundled samples if it is None.

    Raises:
        CalibrationError: if there is no such folder or no picture in it.
    """
    if folder is None:
        folder = weights.samples_folder()
    elif not folder.is_dir():
        raise CalibrationError(f"{folder}: no such folder. --calibration wants a folder of pictures.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in images.SUFFIXES)
    if not found:
        raise CalibrationError(f"{folder}: no pictures in it; expected {', '.join(sorted(images.SUFFIXES))}.")
    return spread(found, most)


def spread(paths: list[Path], most: int) -> list[Path]:
    """At most `most` of the paths, evenly spread, in their order."""
    if len(paths) <= most:
        return paths
    return [paths[i * len(paths) // most] for i in range(most)]


def canvases(
    paths: list[Path],
    spec: LetterboxSpec,
    warn: Callable[[str], None],
    advance: Callable[[], None] = lambda: None,
) -> Iterator[NDArray[np.uint8]]:
    """The pictures as the served model will see them, (3, H, W) uint8 RGB; unreadable ones are named and left out.

    Raises:
        CalibrationError: if none can be read.
    """
    readable = 0
    for path in paths:
        try:
            image = images.decode(path.read_bytes())
        except (OSError, images.UnreadableImage) as error:
            warn(f"{path}: left out: {error}")
            continue
        canvas = np.empty((3, *spec.size_hw), np.uint8)
        to_planes(letterbox(image, spec).canvas, out=canvas)
        readable += 1
        yield canvas
        advance()
    if not readable:
        raise CalibrationError(f"none of the {len(paths)} pictures in {paths[0].parent} can be read.")

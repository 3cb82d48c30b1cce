"""Real pictures to calibrate with and to check on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from nas_ensembles import images
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import prepare
from nas_eval import datasets
from nas_eval.datasets import Dataset
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..yolo_nas import weights

_YAML = (".yaml", ".yml")
FEW = 8  # pictures are too few to hold some out


def find(source: Path | None, most: int) -> list[Path]:
    """At most `most` pictures, evenly spread, of a folder or a data set's training split; None is the bundled samples.

    Raises:
        CalibrationError: if there is no such folder or no picture in it.
        DatasetError: if the data set cannot be read.
    """
    if source is None:
        source = weights.samples_folder()
    elif source.suffix in _YAML:
        return spread([picture.path for picture in datasets.load(source, split="train").pictures], most)
    elif not source.is_dir():
        raise CalibrationError(f"{source}: no such folder; --calibration wants one of pictures, or a data set YAML.")
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in images.SUFFIXES)
    if not found:
        raise CalibrationError(f"{source}: no pictures in it; expected {', '.join(sorted(images.SUFFIXES))}.")
    return spread(found, most)


def hold_out(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Pictures to calibrate with, and every fourth to measure with; few pictures do for both."""
    if len(paths) < FEW:
        return paths, paths
    return [path for i, path in enumerate(paths) if i % 4 != 3], paths[3::4]


def labelled(calibration: Path | None, validation: Path | None, folder: Path | None, most: int) -> Dataset | None:
    """Labelled pictures to measure with: of `validation`, else the validation split of a `calibration` data set.

    Args:
        calibration: folder or data set YAML.
        validation: data set YAML or COCO instances JSON.
        folder: of the JSON's pictures.
        most: at most so many, evenly spread.

    Raises:
        DatasetError: if the data set cannot be read.
    """
    source = validation or (calibration if calibration and calibration.suffix in _YAML else None)
    return datasets.load(source, folder).sampled(most) if source else None


def spread(paths: list[Path], most: int) -> list[Path]:
    """At most `most` of the paths, evenly spread, in their order."""
    if len(paths) <= most:
        return paths
    return [paths[i * len(paths) // most] for i in range(most)]


def readable(paths: list[Path], warn: Callable[[str], None]) -> list[Path]:
    """The pictures that can be decoded; the others are named and left out.

    Raises:
        CalibrationError: if none can.
    """
    kept = []
    for path in paths:
        try:
            images.decode(path.read_bytes())
        except (OSError, images.UnreadableImage) as error:
            warn(f"{path}: left out: {error}")
            continue
        kept.append(path)
    if not kept:
        raise CalibrationError(f"none of the {len(paths)} pictures in {paths[0].parent} can be read.")
    return kept


def canvases(
    paths: Iterable[Path], spec: LetterboxSpec, advance: Callable[[], None] = lambda: None
) -> Iterator[NDArray[np.uint8]]:
    """The pictures as the served model will see them, (3, H, W) uint8 RGB."""
    for path in paths:
        yield prepare(images.decode(path.read_bytes()), spec).canvas
        advance()

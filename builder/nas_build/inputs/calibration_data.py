"""Real pictures: to calibrate with, to measure on, to check with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from nas_ensembles import images
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import prepare
from nas_eval import errors as eval_errors
from nas_eval.dataset import Dataset
from nas_eval.downloadable import DOWNLOADABLE
from nas_eval.open_dataset import has_splits, open_dataset
from numpy.typing import NDArray

from ..errors import CalibrationError, DownloadError
from ..options import Int8Options
from ..progress import SILENT, BuildProgress
from . import bundled

_OPTION = ("int8.calibration",)
FEW = 8  # pictures are too few to hold some out


def find(int8: Int8Options, progress: BuildProgress = SILENT) -> list[Path]:
    """The pictures to calibrate with, of a folder, a data set's training split or the bundled samples.

    Raises:
        CalibrationError: if there is no such folder or no picture in it.
        DatasetError: if the data set cannot be read.
        DownloadError: if it cannot be downloaded.
    """
    source, most = int8.calibration, int8.calibration_pictures
    if source is None:
        source = bundled.folder()
    elif has_splits(source):
        dataset = _opened(source, None, "train", progress)
        return spread([picture.path for picture in dataset.pictures], most)
    elif not source.is_dir():
        names = ", ".join(DOWNLOADABLE)
        raise CalibrationError(
            f"{source}: no such folder; expected one of pictures, a data set YAML, or one of {names}, which are "
            "downloaded.",
            options=_OPTION,
        )
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in images.SUFFIXES and path.is_file())
    if not found:
        expected = ", ".join(sorted(images.SUFFIXES))
        raise CalibrationError(f"{source}: no pictures in it; expected {expected}.", options=_OPTION)
    return spread(found, most)


def hold_out(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Pictures to calibrate with, and every fourth to measure with; few pictures do for both."""
    if len(paths) < FEW:
        return paths, paths
    return [path for i, path in enumerate(paths) if i % 4 != 3], paths[3::4]


def labelled(int8: Int8Options, progress: BuildProgress = SILENT) -> Dataset | None:
    """Labelled pictures to measure with, if there are: of `validation`, else `calibration`'s validation split.

    Raises:
        DatasetError: if the data set cannot be read.
        DownloadError: if it cannot be downloaded.
    """
    calibration = int8.calibration
    source = int8.validation or (calibration if calibration and has_splits(calibration) else None)
    if source is None:
        return None
    return _opened(source, int8.validation_images, "val", progress).sampled(int8.validation_pictures)


def _opened(source: Path, images: Path | None, split: str, progress: BuildProgress) -> Dataset:
    try:
        return open_dataset(source, images, split, progress.count)
    except eval_errors.DownloadError as error:
        raise DownloadError(str(error)) from None


def spread(paths: list[Path], most: int) -> list[Path]:
    """At most `most` of the paths, evenly spread, in their order."""
    if len(paths) <= most:
        return paths
    return [paths[i * len(paths) // most] for i in range(most)]


def readable(paths: list[Path], progress: BuildProgress) -> list[Path]:
    """The pictures that can be decoded; the others are named and left out.

    Raises:
        CalibrationError: if none can.
    """
    kept = []
    for path in paths:
        try:
            images.decode(path.read_bytes())
        except (OSError, images.UnreadableImage) as error:
            progress.warn(f"{path}: left out: {error}")
            continue
        kept.append(path)
    if not kept:
        raise CalibrationError(f"none of the {len(paths)} pictures in {paths[0].parent} can be read.", options=_OPTION)
    return kept


def canvases(paths: Iterable[Path], spec: LetterboxSpec) -> Iterator[NDArray[np.uint8]]:
    """The pictures as the served model will see them, (3, H, W) uint8 RGB."""
    for path in paths:
        yield prepare(images.decode(path.read_bytes()), spec).canvas

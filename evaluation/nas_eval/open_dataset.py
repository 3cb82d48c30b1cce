"""What the user calls a data set, for all commands alike: a file, or a name that is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from .coco_json import load_coco
from .dataset import Dataset
from .downloadable import DOWNLOADABLE, fetch_dataset
from .downloads import Progress
from .errors import DatasetError
from .yolo_yaml import load_yolo

_YAML = (".yaml", ".yml")


def open_dataset(
    data: str | Path, images: Path | None = None, split: str = "val", progress: Progress = lambda *_: None
) -> Dataset:
    """Read a data set, after its download if need be.

    Args:
        data: an Ultralytics YAML, a COCO instances JSON, or a name in `DOWNLOADABLE`, which may have the suffix of a
            YAML. A file of that name is taken before a download.
        images: folder of a JSON's pictures.
        split: of a YAML or a download; a JSON is one.
        progress: of a download.

    Raises:
        DatasetError: says what is wrong and where.
        DownloadError: says what each URL answered, and how to bring the file by hand.
    """
    path = Path(data)
    if not os.path.isfile(path):
        if name := _downloadable(path):
            return fetch_dataset(name, split, progress)
        raise DatasetError(
            f"{data}: no such file. Give an Ultralytics YAML, a COCO instances JSON, or one of "
            f"{', '.join(DOWNLOADABLE)}, which are downloaded."
        )
    if path.suffix in _YAML:
        return load_yolo(path, split)
    if images is None:
        raise DatasetError(
            f"{data}: a COCO JSON names files only; give the folder of its pictures too.", remedy="images"
        )
    return load_coco(path, images)


def has_splits(data: Path) -> bool:
    """Whether `data` is called like a data set that may have pictures for training too: a YAML, or a download.

    A folder is none, whatever it is called.
    """
    return not os.path.isdir(data) and (data.suffix in _YAML or _downloadable(data) is not None)


def _downloadable(data: Path) -> str | None:
    """The name in `DOWNLOADABLE` that is meant."""
    name = str(data.with_suffix("")) if data.suffix in _YAML else str(data)
    return name if name in DOWNLOADABLE else None

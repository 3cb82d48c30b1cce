"""Results as folders of label files: what trainers read. Each file is written when its picture was answered."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from nas_ensembles.opencv import cv2
from numpy.typing import NDArray

from .formats import Found, numbered, write_atomic, yolo_lines

Picture = bytes | NDArray[np.uint8]  # encoded, or a frame (H, W, 3) RGB


class LabelFolder(ABC):
    """A folder that gets a file for each picture, mirroring the folders they come from.

    Args:
        folder: is made.
        class_names: by label.
        with_scores: where the format has room for them.
        originals: see `sources.originals`.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        with_scores: bool = False,
        originals: Collection[str] = (),
    ) -> None:
        self._folder, self._class_names, self._with_scores = folder, class_names, with_scores
        self._originals = originals
        self._taken: set[PurePosixPath] = set()

    @abstractmethod
    def add(self, found: Found, picture: Picture) -> None:
        """Write what was found in a picture."""

    def close(self) -> None:
        """Write what belongs to the whole, if anything does."""
        return

    def _stem(self, found: Found) -> PurePosixPath:
        """Where a picture belongs, without suffix; a name that was used gets a number."""
        path = self._inside(PurePosixPath(found.source.relative))
        frame = "" if found.frame is None else f"_{found.frame:06d}"
        taken = numbered(path.with_name(f"{path.stem}{frame}.x"), self._taken)  # names may have dots in them
        return taken.with_name(taken.stem)

    def _inside(self, path: PurePosixPath) -> PurePosixPath:
        """Where a source's path lies in this folder."""
        return path


class YoloFolder(LabelFolder):
    """A data set as Ultralytics takes it: `images/`, `labels/` beside it, `data.yaml`, `classes.txt`.

    Pictures that are files here are linked, others are written. Five columns; scores are a sixth, on demand.
    """

    def add(self, found: Found, picture: Picture) -> None:
        stem = self._stem(found)
        lines = yolo_lines(found, self._with_scores)
        suffix = ".jpg" if isinstance(picture, np.ndarray) else PurePosixPath(found.source.file_name).suffix or ".jpg"
        place, source = self._folder / "images" / f"{stem}{suffix}", Path(found.source.name)
        own = place.is_symlink() or source.is_file() and place.exists() and place.samefile(source)
        if not own and str(place.resolve()) in self._originals:
            raise ValueError(f"not written: {place} is another picture's original. Give another folder with --output.")
        write_atomic(self._folder / "labels" / f"{stem}.txt", lines.encode())
        _place(place, source, picture)

    def _inside(self, path: PurePosixPath) -> PurePosixPath:
        """Below the last `images`: readers look for labels where the last of these in a picture's path is `labels`."""
        folders = path.parts[:-1]
        below = len(folders) - folders[::-1].index("images") if "images" in folders else 0
        return PurePosixPath(*path.parts[below:])

    def close(self) -> None:
        names = "".join(f"  {label}: {_quoted(name)}\n" for label, name in enumerate(self._class_names))
        warning = "# Labels by a model: look at them before you train with them.\n"
        text = f"{warning}train: images\nval: images\nnames:\n{names}"
        write_atomic(self._folder / "data.yaml", text.encode())
        write_atomic(self._folder / "classes.txt", "".join(f"{name}\n" for name in self._class_names).encode())


class VocFolder(LabelFolder):
    """An XML file of Pascal VOC for each picture, by supervision."""

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        with_scores: bool = False,
        originals: Collection[str] = (),
    ) -> None:
        super().__init__(folder, class_names, with_scores, originals)
        try:
            from supervision.dataset.formats.pascal_voc import detections_to_pascal_voc
        except ImportError:
            raise ImportError("--format voc needs supervision: pip install 'nas-triton[supervision]'") from None
        self._render = detections_to_pascal_voc

    def add(self, found: Found, picture: Picture) -> None:
        width, height = found.size_wh
        detections = found.detections.to_supervision()
        text = self._render(detections, list(self._class_names), found.source.file_name, (height, width, 3))
        write_atomic(self._folder / f"{self._stem(found)}.xml", text.encode())


FOLDERS: Mapping[str, type[LabelFolder]] = {"yolo": YoloFolder, "voc": VocFolder}


def _place(path: Path, source: Path, picture: Picture) -> None:
    """The picture itself beside its labels: linked if it is a file, else written."""
    if isinstance(picture, bytes) and source.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.samefile(source):
            return
        path.unlink(missing_ok=True)
        try:
            path.symlink_to(source.resolve())
        except OSError:  # a file system without links
            shutil.copyfile(source, path)
        return
    path.unlink(missing_ok=True)  # a link of a run before
    data = picture if isinstance(picture, bytes) else cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
    write_atomic(path, data)


def _quoted(name: str) -> str:
    """As a YAML scalar between single quotes."""
    return "'" + name.replace("'", "''").replace(os.linesep, " ") + "'"

"""Ultralytics data set YAML with YOLO labels."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_ensembles import images

from . import checks
from .dataset import Dataset, Picture
from .errors import DatasetError
from .picture_size import size_wh


def load_yolo(path: Path, split: str = "val") -> Dataset:
    """Ultralytics data set YAML: `path`, a folder, file list or several of them per split, `names`.

    Labels lie where Ultralytics puts them: `.../labels/x.txt` for `.../images/x.jpg`, lines of class, centre x,
    centre y, width and height as shares of the picture (or a polygon, whose box is taken). A picture without a label
    file, or with an empty one, has no objects.

    Raises:
        DatasetError: names the file and line that is wrong.
    """
    import yaml  # with the `val` extra only

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except Exception as error:  # besides its own, PyYAML raises what bool, date and others do on a bad scalar
        raise DatasetError(f"{path}: cannot be read as YAML: {error}") from None
    content = content if isinstance(content, Mapping) else {}
    if "names" not in content or not content.get(split):
        splits = [key for key in ("train", "val", "test") if content.get(key)]
        raise DatasetError(
            f"{path}: expected an Ultralytics data set with names and {split}; it has the splits "
            f"{', '.join(splits) or 'none'}.",
            remedy="split" if splits and "names" in content else None,
        )
    by_id = _names(path, content["names"], node)
    sources = content[split] if isinstance(content[split], list) else [content[split]]
    for source in sources:
        if not isinstance(source, str):
            raise DatasetError(
                f"{path}: expected {split} to be a folder, a text file or a list of them, got {reprlib.repr(source)}."
            )
    root = _root(path, content.get("path"))
    files = [file for source in sources for file in _files(path, root, source)]
    if not files:
        raise DatasetError(f"{path}: no pictures in {', '.join(map(str, sources))} under {root}.")
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for id, file in enumerate(files, 1):
        width, height = _size_wh(file)
        entries.append({"id": id, "file_name": file.name, "width": width, "height": height})
        for category, box in _labels(file, by_id, width, height):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": id,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    truth = {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": id, "name": name} for id, name in sorted(by_id.items())],
    }
    return Dataset(path.stem, tuple(Picture(id, file) for id, file in enumerate(files, 1)), truth)


def _names(path: Path, names: Any, node: Any) -> dict[int, str]:
    """Class names by id, in their order.

    Args:
        path: of the YAML.
        names: as it has them.
        node: of the whole YAML, in which a key may be written twice.
    """
    listed = list(enumerate(names)) if isinstance(names, list) else list(getattr(names, "items", list)())
    by_id: dict[int, str] = {}
    for id, name in listed:
        if not re.fullmatch("[0-9]{1,9}", str(id)) or not (checks.is_text(name) or isinstance(name, int | float)):
            raise DatasetError(
                f"{path}: names: expected a name for each number, got {reprlib.repr(id)}: {reprlib.repr(name)}."
            )
        by_id[int(id)] = str(name)
    written = next(value for key, value in reversed(node.value) if key.value == "names").value
    if not by_id or len(written) != len(by_id):
        raise DatasetError(
            f"{path}: names: expected a list, or one name for each number, got {len(written)} for {len(by_id)} numbers."
        )
    return by_id


def _root(path: Path, given: Any) -> Path:
    """Where relative paths of the YAML start: beside it, else in the working folder."""
    if given is None:
        return path.parent
    if not isinstance(given, str):
        raise DatasetError(f"{path}: expected path to be a folder, got {reprlib.repr(given)}.")
    root = Path(os.path.expanduser(given))
    return root if root.is_absolute() or not os.path.isdir(path.parent / root) else path.parent / root


def _files(path: Path, root: Path, source: str) -> list[Path]:
    """Pictures of a folder or of a text file that lists them."""
    place = root / source  # an absolute source stays as it is
    if os.path.isdir(place):
        return sorted(file for file in place.rglob("*") if file.suffix.lower() in images.SUFFIXES and file.is_file())
    if os.path.isfile(place) and place.suffix == ".txt":
        files = []
        for number, line in enumerate(_lines(place), 1):
            if not line:
                continue
            named = os.path.abspath((place.parent if line.startswith("./") else root) / line)
            # The list may lie outside of the root, with its pictures.
            file = next(
                (file for folder in (root, place.parent) for file in checks.inside(folder, [named]) if file), None
            )
            if file is None:
                raise DatasetError(
                    f"{place}:{number}: expected a picture inside {root}, got {reprlib.repr(line)}, which leads out of "
                    "it. Give the folder that holds all pictures as the YAML's path."
                )
            files.append(file)
        missing = [str(file) for file in files if not os.path.isfile(file)]
        if missing:
            raise DatasetError(
                f"{place}: {len(missing)} of {len(files)} listed pictures are not there: {checks.some(missing)}."
            )
        return files
    raise DatasetError(f"{path}: {place} is neither a folder of pictures nor a text file that lists them.")


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as text: {error}") from None


def _size_wh(file: Path) -> tuple[int, int]:
    try:
        return size_wh(file.read_bytes())
    except (OSError, images.UnreadableImage) as error:
        raise DatasetError(f"{file}: cannot be read as a picture: {error}") from None


def _labels(file: Path, names: Mapping[int, str], width: int, height: int) -> list[tuple[int, list[float]]]:
    parts = list(file.with_suffix(".txt").parts)
    for i in range(len(parts) - 2, -1, -1):  # the last folder called images
        if parts[i] == "images":
            parts[i] = "labels"
            break
    path = Path(*parts)
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(_lines(path), 1):
        if not line:
            continue
        try:
            label, *values = line.split()
            category, numbers = int(float(label)), [float(value) for value in values]
            if category not in names or len(numbers) < 4 or (len(numbers) > 4 and len(numbers) % 2):
                raise ValueError
            if not all(-1 <= number <= 2 for number in numbers):  # not so NaN
                raise ValueError
            if len(numbers) == 4:
                x, y, w, h = numbers
                left, top = x - w / 2, y - h / 2
            else:
                xs, ys = numbers[::2], numbers[1::2]
                left, top, w, h = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
            if not (0 <= w <= 1.01 and 0 <= h <= 1.01):
                raise ValueError
        except (ValueError, OverflowError):
            raise DatasetError(
                f"{path}:{number}: expected a class from 0 to {max(names)} and a box or polygon in shares of the "
                f"picture, got {line[:60]!r}"
            ) from None
        found.append((category, [left * width, top * height, w * width, h * height]))
    return found

"""Data sets with boxes: Ultralytics YAML with YOLO labels, or COCO instances JSON.

Both become the same thing: pictures, and the truth as a COCO instances dictionary whose category ids are the data
set's own (1 to 90 for COCO), in the order of its class list.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from nas_ensembles import images

from . import checks
from .errors import DatasetError

_LISTED = 3  # examples in a message
_FOLDER_OPTIONS = "nas-client val: --images DIR, nas-build: --validation-images DIR"


@dataclass(frozen=True)
class Picture:
    """One picture of a data set.

    Attributes:
        id: COCO image id.
        path: of the file.
    """

    id: int
    path: Path


@dataclass(frozen=True)
class Dataset:
    """Pictures and their true boxes.

    Attributes:
        name: for reports.
        pictures: in a fixed order.
        truth: COCO instances dictionary: images, annotations (bbox in pixels xywh, area, iscrowd), categories.
    """

    name: str
    pictures: tuple[Picture, ...]
    truth: dict[str, Any]

    @property
    def class_names(self) -> dict[int, str]:
        """Names by category id."""
        return {category["id"]: category["name"] for category in self.truth["categories"]}

    def limited(self, count: int | None) -> Dataset:
        """The first pictures only."""
        if count is None or count >= len(self.pictures):
            return self
        return self._only(self.pictures[:count], f"{self.name}[:{count}]")

    def sampled(self, count: int) -> Dataset:
        """At most so many pictures, evenly spread."""
        step = max(len(self.pictures) / count, 1)
        pictures = tuple(self.pictures[int(i * step)] for i in range(min(count, len(self.pictures))))
        return self._only(pictures, self.name)

    def _only(self, pictures: tuple[Picture, ...], name: str) -> Dataset:
        kept = {picture.id for picture in pictures}
        truth = {
            **self.truth,
            "images": [image for image in self.truth["images"] if image["id"] in kept],
            "annotations": [box for box in self.truth["annotations"] if box["image_id"] in kept],
        }
        return Dataset(name, pictures, truth)

    def categories_of(self, model_names: Sequence[str], ignore_unknown: bool = False) -> dict[int, int]:
        """Category id of each label of a model, by name.

        Args:
            model_names: names by label.
            ignore_unknown: leave out classes that the other side lacks, instead of refusing.

        Raises:
            DatasetError: if the data set has classes that the model lacks; the model's other classes are left out.
        """
        labels = {_key(name): label for label, name in enumerate(model_names)}
        missing = [name for name in self.class_names.values() if _key(name) not in labels]
        if len(missing) == len(self.class_names) or (missing and not ignore_unknown):
            raise DatasetError(
                f"{self.name}: {len(missing)} of its {len(self.class_names)} classes are unknown to the model: "
                f"{_some(missing)}. The model knows: {_some(list(model_names))}. Validate on the data set it was "
                "trained for, or leave the unknown ones out (nas-client val: --ignore-unknown-classes)."
            )
        return {labels[_key(name)]: id for id, name in self.class_names.items() if _key(name) in labels}

    def restricted(self, categories: Sequence[int]) -> Dataset:
        """The truth of these categories only; all pictures stay."""
        kept = set(categories)
        truth = {
            **self.truth,
            "categories": [category for category in self.truth["categories"] if category["id"] in kept],
            "annotations": [box for box in self.truth["annotations"] if box["category_id"] in kept],
        }
        return Dataset(self.name, self.pictures, truth)


def load(data: Path, pictures: Path | None = None, split: str = "val") -> Dataset:
    """Read a data set.

    Args:
        data: Ultralytics YAML, or COCO instances JSON.
        pictures: folder of the JSON's pictures.
        split: of the YAML.

    Raises:
        DatasetError: says what is wrong and where.
    """
    if not os.path.isfile(data):
        raise DatasetError(f"{data}: no such file. Give an Ultralytics YAML or a COCO instances JSON.")
    if data.suffix in (".yaml", ".yml"):
        return load_yolo(data, split)
    if pictures is None:
        raise DatasetError(
            f"{data}: a COCO JSON names files only; give the folder of its pictures too ({_FOLDER_OPTIONS})."
        )
    return load_coco(data, pictures)


def unlabelled(name: str, files: Sequence[Path], class_names: Sequence[str]) -> Dataset:
    """Pictures without truth; category ids are those of the class list."""
    pictures = tuple(Picture(id, file) for id, file in enumerate(files, 1))
    truth = {
        "images": [{"id": picture.id, "file_name": picture.path.name} for picture in pictures],
        "annotations": [],
        "categories": [{"id": id, "name": name} for id, name in enumerate(class_names)],
    }
    return Dataset(name, pictures, truth)


def load_coco(path: Path, pictures: Path) -> Dataset:
    """COCO instances JSON and the folder of its pictures.

    Raises:
        DatasetError: names the entry that is wrong, or the pictures that are not in the folder.
    """
    truth = checks.read_instances(path)
    found = []
    files = checks.inside(pictures, (entry["file_name"] for entry in truth["images"]))
    for i, (entry, file) in enumerate(zip(truth["images"], files, strict=True)):
        if file is None:
            raise DatasetError(
                f"{path}: images[{i}]: expected file_name inside {pictures}, got {reprlib.repr(entry['file_name'])}, "
                f"which leads out of it. Give the folder that holds all pictures ({_FOLDER_OPTIONS})."
            )
        found.append(Picture(entry["id"], file))
    listed = tuple(sorted(found, key=lambda picture: picture.id))
    missing = [picture.path.name for picture in listed if not os.path.isfile(picture.path)]
    if missing:
        raise DatasetError(
            f"{pictures}: {len(missing)} of the {len(listed)} pictures of {path.name} are not there: {_some(missing)}. "
            f"Give their folder ({_FOLDER_OPTIONS})."
        )
    if not listed:
        raise DatasetError(f"{path}: names no pictures.")
    for number, box in enumerate(truth["annotations"], 1):
        box["id"] = number  # 0 would count as unmatched
        box.setdefault("iscrowd", 0)
        if "area" not in box:
            box["area"] = box["bbox"][2] * box["bbox"][3]
    return Dataset(path.stem, listed, truth)


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
    if not isinstance(content, Mapping) or "names" not in content or not content.get(split):
        splits = [key for key in ("train", "val", "test") if isinstance(content, Mapping) and content.get(key)]
        raise DatasetError(
            f"{path}: expected an Ultralytics data set with names and {split}; it has the splits "
            f"{', '.join(splits) or 'none'}; nas-client val takes one of them with --split."
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
        height, width = _size(file)
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
        return sorted(file for file in place.rglob("*") if file.suffix.lower() in images.SUFFIXES)
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
                f"{place}: {len(missing)} of {len(files)} listed pictures are not there: {_some(missing)}."
            )
        return files
    raise DatasetError(f"{path}: {place} is neither a folder of pictures nor a text file that lists them.")


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as text: {error}") from None


def _size(file: Path) -> tuple[int, int]:
    try:
        height, width = images.decode(file.read_bytes()).shape[:2]
    except (OSError, ValueError, cv2.error) as error:
        raise DatasetError(f"{file}: cannot be read as a picture: {error}") from None
    return int(height), int(width)


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


def _key(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")

"""COCO instances JSON; every field that is relied on is checked, since files come from anywhere."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from . import checks
from .dataset import Dataset, Picture
from .errors import DatasetError

_FAR = 2**31  # pixels: no picture is as large, and an area stays finite
_LARGEST = _FAR**2
_IDS = 2**63  # what the metrics count with
_NUMBERS = {int, float}  # bool, which JSON has too, is none
_ABSENT = object()


class _Field(NamedTuple):
    name: str
    holds: Callable[[Any], bool]
    expected: str
    default: Any = _ABSENT
    unique: bool = False


def _is_id(value: Any) -> bool:
    return type(value) is int and -_IDS <= value < _IDS


def _is_id_or_none(value: Any) -> bool:
    return value is None or _is_id(value)


def _is_size(value: Any) -> bool:
    return type(value) in _NUMBERS and 0 <= value < _LARGEST


def _is_flag(value: Any) -> bool:
    return type(value) in (int, bool) and 0 <= value <= 1


def _is_box(value: Any) -> bool:
    if type(value) is not list or len(value) != 4 or not _NUMBERS.issuperset(map(type, value)):
        return False
    left, top, width, height = value
    near: bool = -_FAR < left < _FAR and -_FAR < top < _FAR and 0 <= width < _FAR and 0 <= height < _FAR  # no NaN is
    return near


_FIELDS = {
    "images": (_Field("id", _is_id, "an integer", unique=True), _Field("file_name", checks.is_text, "a string")),
    "annotations": (
        _Field("image_id", _is_id, "an integer"),
        _Field("category_id", _is_id, "an integer"),
        _Field("bbox", _is_box, f"[left, top, width, height], numbers of pixels below {_FAR}, sizes not negative"),
        _Field("id", _is_id_or_none, "an integer", None, unique=True),
        _Field("area", _is_size, "a number that is not negative", 0),
        _Field("iscrowd", _is_flag, "0 or 1", 0),
    ),
    "categories": (_Field("id", _is_id, "an integer", unique=True), _Field("name", checks.is_text, "a string")),
}


def load_coco(path: Path, pictures: Path) -> Dataset:
    """COCO instances JSON and the folder of its pictures.

    Raises:
        DatasetError: names the entry that is wrong, or the pictures that are not in the folder.
    """
    truth = _read_instances(path)
    found = []
    files = checks.inside(pictures, (entry["file_name"] for entry in truth["images"]))
    for i, (entry, file) in enumerate(zip(truth["images"], files, strict=True)):
        if file is None:
            raise DatasetError(
                f"{path}: images[{i}]: expected file_name inside {pictures}, got {reprlib.repr(entry['file_name'])}, "
                "which leads out of it. Give the folder that holds all pictures.",
                remedy="images",
            )
        found.append(Picture(entry["id"], file))
    listed = tuple(sorted(found, key=lambda picture: picture.id))
    missing = [picture.path.name for picture in listed if not os.path.isfile(picture.path)]
    if missing:
        raise DatasetError(
            f"{pictures}: {len(missing)} of the {len(listed)} pictures of {path.name} are not there: "
            f"{checks.some(missing)}. Give their folder.",
            remedy="images",
        )
    if not listed:
        raise DatasetError(f"{path}: names no pictures.")
    for number, box in enumerate(truth["annotations"], 1):
        box["id"] = number  # 0 would count as unmatched
        box.setdefault("iscrowd", 0)
        if "area" not in box:
            box["area"] = box["bbox"][2] * box["bbox"][3]
    return Dataset(path.stem, listed, truth)


def _read_instances(path: Path) -> dict[str, Any]:
    """A COCO instances JSON.

    Returns:
        Its content, with the lists images (id, file_name), annotations (image_id, category_id, bbox in pixels xywh;
        perhaps id, area, iscrowd) and categories (id, name). Each id is there once.

    Raises:
        DatasetError: names the entry, what was expected of it and what it is.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is no COCO instances JSON: {type(error).__name__} {error}") from None
    lists = content if isinstance(content, dict) else {}
    if lacking := [name for name in _FIELDS if not isinstance(lists.get(name), list)]:
        raise DatasetError(
            f"{path}: is no COCO instances JSON: expected an object with the lists {', '.join(_FIELDS)}, "
            f"got {type(content).__name__} without {', '.join(lacking)}."
        )
    for name, fields in _FIELDS.items():
        _check_entries(path, name, content[name], fields)
    return lists


def _check_entries(path: Path, name: str, entries: list[Any], fields: Iterable[_Field]) -> None:
    for i, entry in enumerate(entries):
        if type(entry) is not dict:
            raise DatasetError(f"{path}: {name}[{i}]: expected an object, got {reprlib.repr(entry)}.")
    for field in fields:  # field by field, and entry by entry only to name one: there are tens of thousands
        key = field.name
        values = [entry.get(key, field.default) for entry in entries]
        if not all(map(field.holds, values)):
            i, value = next((i, value) for i, value in enumerate(values) if not field.holds(value))
            got = "none" if value is _ABSENT else reprlib.repr(value)
            raise DatasetError(f"{path}: {name}[{i}]: expected {key} to be {field.expected}, got {got}.")
        if field.unique and len(set(values)) < len(values):
            first: dict[int | None, int] = {}
            for i, value in enumerate(values):
                if first.setdefault(value, i) != i and value is not None:
                    owner = f"{name}[{first[value]}]"
                    raise DatasetError(
                        f"{path}: {name}[{i}]: expected {key} to be its own, got {value}, that of {owner}."
                    )

"""Results as COCO annotations, with ids of their own or those of a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .formats import Found, rows


class UnknownToAnnotations(ValueError):
    """The annotation file has no such picture or class; the message names both."""


@dataclass(frozen=True)
class Ids:
    """Ids of an annotation file.

    Attributes:
        path: of the file.
        images: entries by file name.
        categories: ids by class name.
        entries: the file's categories.
    """

    path: Path
    images: dict[str, dict[str, Any]]
    categories: dict[str, int]
    entries: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Ids:
        """Of a COCO file.

        Raises:
            ValueError: if it is none.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            images = {image["file_name"]: {"id": image["id"], **image} for image in content["images"]}
            categories = {category["name"]: category["id"] for category in content["categories"]}
        except OSError as error:
            raise ValueError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no COCO annotation file with images and categories: {error!r}") from None
        return cls(path, images, categories, content["categories"])

    def image(self, found: Found) -> dict[str, Any]:
        """Entry of a picture: by its path in the folder that was named, or by the end of its path, or by its name.

        Raises:
            UnknownToAnnotations: if there is none.
        """
        path = PurePosixPath(found.source.name)
        names = [found.source.relative, *("/".join(path.parts[at:]) for at in range(len(path.parts)))]
        entry = next((self.images[name] for name in names if name in self.images), None)
        if entry is None:
            raise UnknownToAnnotations(f"{self.path} has no picture of this name among its {len(self.images)}")
        return entry

    def category(self, name: str) -> int:
        """Id of a class.

        Raises:
            UnknownToAnnotations: if there is none of this name.
        """
        if name not in self.categories:
            known = ", ".join(list(self.categories)[:5])
            raise UnknownToAnnotations(f"{self.path} has no category {name!r}; it has {known}, ...")
        return self.categories[name]


def to_coco(results: Sequence[Found], names: Sequence[str], ids: Ids | None = None) -> str:
    """A data set with scores: images, categories (without a file id = label + 1), annotations (bbox xywh in pixels)."""
    names_given = [found.name for found in results]
    relative = [found.relative_name for found in results]
    file_names = relative if len(set(relative)) == len(relative) else names_given  # of several folders
    images = [
        ids.image(found) if ids else image_entry(number, file_name, *found.size_wh)
        for number, (found, file_name) in enumerate(zip(results, file_names, strict=True), start=1)
    ]
    annotations = [annotation_entry(number, one) for number, one in enumerate(_annotations(results, ids), start=1)]
    categories = ids.entries if ids else [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    return _text({"images": images, "categories": categories, "annotations": annotations})


def to_coco_results(results: Sequence[Found], names: Sequence[str], ids: Ids | None = None) -> str:
    """The list that COCO's evaluation takes (pycocotools' `loadRes`)."""
    return _text(_annotations(results, ids))


def _annotations(results: Sequence[Found], ids: Ids | None) -> list[dict[str, Any]]:
    return [
        result_entry(ids.image(found)["id"] if ids else number, ids.category(name) if ids else label + 1, box, score)
        for number, found in enumerate(results, start=1)
        for box, score, label, name in rows(found.detections)
    ]


def image_entry(number: int, file_name: str, width: int, height: int) -> dict[str, Any]:
    """Of a picture, its size in pixels."""
    return {"id": number, "file_name": file_name, "width": width, "height": height}


def result_entry(image_id: int, category_id: int, box_xyxy: Sequence[float], score: float) -> dict[str, Any]:
    """Of an object, as COCO's evaluation takes it: what is beyond hundredths of a pixel is noise."""
    left, top, right, bottom = box_xyxy
    box = [round(value, 2) for value in (left, top, right - left, bottom - top)]
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": round(score, 4)}


def annotation_entry(number: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """A result as an annotation."""
    return {"id": number, **result, "area": round(result["bbox"][2] * result["bbox"][3], 2), "iscrowd": 0}


def _text(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

"""A data set with boxes, whatever format it was read from: pictures, and the truth as a COCO instances dictionary.

Its category ids are the data set's own (1 to 90 for COCO), in the order of its class list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checks
from .errors import DatasetError


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
        none_known = len(missing) == len(self.class_names)
        if none_known or (missing and not ignore_unknown):
            raise DatasetError(
                f"{self.name}: {len(missing)} of its {len(self.class_names)} classes are unknown to the model: "
                f"{checks.some(missing)}. The model knows: {checks.some(list(model_names))}. Take the data set that it "
                "was trained for.",
                remedy=None if none_known else "ignore_unknown",
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


def unlabelled(name: str, files: Sequence[Path], class_names: Sequence[str]) -> Dataset:
    """Pictures without truth; category ids are those of the class list."""
    pictures = tuple(Picture(id, file) for id, file in enumerate(files, 1))
    truth = {
        "images": [{"id": picture.id, "file_name": picture.path.name} for picture in pictures],
        "annotations": [],
        "categories": [{"id": id, "name": name} for id, name in enumerate(class_names)],
    }
    return Dataset(name, pictures, truth)


def _key(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())

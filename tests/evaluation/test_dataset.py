from __future__ import annotations

from pathlib import Path

import pytest
from nas_eval.coco_names import COCO_NAMES
from nas_eval.dataset import Dataset, Picture, unlabelled
from nas_eval.errors import DatasetError


def made(categories: list[tuple[int, str]]) -> Dataset:
    """Four pictures; the first and the second have a box, of the first and the last category."""
    truth = {
        "images": [{"id": id, "file_name": f"{id}.jpg"} for id in range(10, 14)],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": categories[0][0], "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 1},
            {"id": 2, "image_id": 11, "category_id": categories[-1][0], "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
        ],
        "categories": [{"id": id, "name": name} for id, name in categories],
    }
    return Dataset("made", tuple(Picture(id, Path(f"{id}.jpg")) for id in range(10, 14)), truth)


def test_the_first_pictures_only() -> None:
    dataset = made([(1, "person")])
    assert dataset.limited(None) is dataset and dataset.limited(4) is dataset
    first = dataset.limited(1)
    assert first.name == "made[:1]" and [picture.id for picture in first.pictures] == [10]
    assert [image["id"] for image in first.truth["images"]] == [10]
    assert [box["image_id"] for box in first.truth["annotations"]] == [10]


def test_evenly_spread_pictures() -> None:
    dataset = made([(1, "person")])
    assert [picture.id for picture in dataset.sampled(2).pictures] == [10, 12]
    assert dataset.sampled(9).pictures == dataset.pictures and dataset.sampled(2).name == "made"


def test_classes_are_matched_by_name_not_by_place() -> None:
    assert made([(5, "Big_Nut"), (7, "bolt")]).categories_of(["bolt", "washer", "big nut"]) == {2: 5, 0: 7}
    assert made([(1, "person"), (90, "toothbrush")]).categories_of(COCO_NAMES) == {0: 1, 79: 90}


def test_classes_the_model_lacks_are_refused_or_left_out() -> None:
    dataset = made([(5, "nut"), (7, "bolt")])
    message = "1 of its 2 classes are unknown to the model: nut. The model knows: bolt. .* was trained for"
    with pytest.raises(DatasetError, match=message) as caught:
        dataset.categories_of(["bolt"])
    assert caught.value.remedy == "ignore_unknown"
    categories = dataset.categories_of(["bolt"], ignore_unknown=True)
    kept = dataset.restricted(list(categories.values()))
    assert categories == {0: 7} and [box["category_id"] for box in kept.truth["annotations"]] == [7]
    assert len(kept.pictures) == 4
    with pytest.raises(DatasetError, match="2 of its 2 classes are unknown") as caught:
        dataset.categories_of(["cat"], ignore_unknown=True)
    assert caught.value.remedy is None


def test_pictures_without_truth() -> None:
    dataset = unlabelled("held out", [Path("a.jpg"), Path("b.jpg")], ["bolt", "nut"])
    assert [picture.id for picture in dataset.pictures] == [1, 2] and not dataset.truth["annotations"]
    assert dataset.class_names == {0: "bolt", 1: "nut"}

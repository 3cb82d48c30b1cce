from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import PICTURES, SAMPLES
from nas_eval import datasets
from nas_eval.coco import COCO_NAMES
from nas_eval.errors import DatasetError

NAMES = {0: "bolt", 1: "nut"}


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """Two pictures with labels and one without, laid out as Ultralytics does."""
    for name in ("bus.jpg", "astronaut.png", "chelsea.png"):
        (tmp_path / "data/images/val").mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES / name, tmp_path / "data/images/val")
    labels = tmp_path / "data/labels/val"
    labels.mkdir(parents=True)
    (labels / "bus.txt").write_text("0 0.5 0.5 0.2 0.1\n\n1 0.1 0.1 0.1 0.1\n")
    (labels / "astronaut.txt").write_text("1 0.1 0.2 0.5 0.2 0.5 0.8\n")  # a polygon
    return tmp_path / "data"


def write(folder: Path, **content: object) -> Path:
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"names": NAMES, "val": "images/val", **content}))
    return path


def test_yolo_labels_become_boxes_in_pixels(folder: Path) -> None:
    dataset = datasets.load(write(folder, path="."))
    assert [picture.path.name for picture in dataset.pictures] == ["astronaut.png", "bus.jpg", "chelsea.png"]
    assert dataset.class_names == NAMES
    polygon, first, second = dataset.truth["annotations"]
    assert polygon["image_id"] == 1 and polygon["category_id"] == 1
    assert polygon["bbox"] == pytest.approx([51.2, 102.4, 204.8, 307.2])
    assert first["bbox"] == pytest.approx([324, 486, 162, 108]) and first["area"] == pytest.approx(162 * 108)
    assert second["category_id"] == 1 and {image["id"] for image in dataset.truth["images"]} == {1, 2, 3}


@pytest.mark.parametrize("kind", ["absolute", "beside", "none", "list", "file list", "names as a list"])
def test_every_way_to_write_a_path(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "val.txt").write_text("./images/val/bus.jpg\nimages/val/astronaut.png\nimages/val/chelsea.png\n")
    content = {
        "absolute": {"path": str(folder)},
        "beside": {"path": "."},
        "none": {},
        "list": {"val": ["images/val", "images/val"]},
        "file list": {"val": "val.txt"},
        "names as a list": {"names": ["bolt", "nut"]},
    }[kind]
    monkeypatch.chdir("/")
    dataset = datasets.load(write(folder, **content))
    assert len(dataset.pictures) == (6 if kind == "list" else 3) and dataset.class_names == NAMES
    assert len(dataset.truth["annotations"]) == (6 if kind == "list" else 3)


@pytest.mark.parametrize("line", ["2 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1", "x 1 1 1 1", "0 50 50 20 20", "0 0 0 1 1 1"])
def test_a_bad_label_is_named(line: str, folder: Path) -> None:
    path = folder / "labels/val/bus.txt"
    path.write_text(f"0 0.5 0.5 0.2 0.1\n{line}\n")
    with pytest.raises(DatasetError) as caught:
        datasets.load(write(folder))
    assert str(caught.value).startswith(f"{path}:2: expected a class from 0 to 1") and line in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"val": None}, "has the splits none"),
        ({"val": None, "train": "x"}, "has the splits train; nas-client val takes one of them with --split"),
        ({"val": "nowhere"}, "nowhere is neither a folder of pictures nor a text file"),
        ({"val": "labels"}, "no pictures in labels"),
        ({"val": "missing.txt"}, "1 of 1 listed pictures are not there: .*gone.jpg"),
    ],
)
def test_a_yaml_that_does_not_fit(content: dict[str, object], message: str, folder: Path) -> None:
    (folder / "missing.txt").write_text("images/val/gone.jpg\n")
    with pytest.raises(DatasetError, match=message):
        datasets.load(write(folder, **content))


def test_a_picture_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "images/val/bus.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="bus.jpg: cannot be read as a picture: 10 bytes that are no JPEG"):
        datasets.load(write(folder))


def coco(folder: Path, categories: list[tuple[int, str]]) -> Path:
    content = {
        "images": [{"id": 10 + i, "file_name": path.name, "width": 1, "height": 1} for i, path in enumerate(PICTURES)],
        "annotations": [
            {"id": 0, "image_id": 10, "category_id": categories[0][0], "bbox": [1, 2, 3, 4], "iscrowd": 1},
            {"id": 1, "image_id": 11, "category_id": categories[-1][0], "bbox": [1, 2, 3, 4]},
        ],
        "categories": [{"id": id, "name": name} for id, name in categories],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_json(tmp_path: Path) -> None:
    dataset = datasets.load(coco(tmp_path, [(1, "person"), (90, "toothbrush")]), SAMPLES)
    assert [picture.id for picture in dataset.pictures] == [10, 11, 12, 13]
    crowd, single = dataset.truth["annotations"]
    assert crowd["iscrowd"] == 1 and single["iscrowd"] == 0 and single["area"] == 12
    assert crowd["id"] and single["id"] and crowd["id"] != single["id"]
    assert len(dataset.limited(2).truth["annotations"]) == 2 and len(dataset.limited(1).pictures) == 1
    assert dataset.categories_of(COCO_NAMES) == {0: 1, 79: 90}


def test_coco_maps_80_labels_to_91_ids(coco_data: Path) -> None:
    folder = coco_data / "tiny_coco"
    dataset = datasets.load(folder / "annotations" / "instances_val2017.json", folder / "val2017")
    categories = dataset.categories_of(COCO_NAMES)
    assert len(categories) == 80 and categories[0] == 1 and categories[79] == 90 and categories[11] == 13


def test_classes_are_matched_by_name_not_by_place(tmp_path: Path) -> None:
    dataset = datasets.load(coco(tmp_path, [(5, "Big_Nut"), (7, "bolt")]), SAMPLES)
    assert dataset.categories_of(["bolt", "washer", "big nut"]) == {2: 5, 0: 7}


def test_classes_the_model_lacks_are_refused_or_left_out(tmp_path: Path) -> None:
    dataset = datasets.load(coco(tmp_path, [(5, "nut"), (7, "bolt")]), SAMPLES)
    with pytest.raises(DatasetError, match="1 of its 2 classes are unknown to the model: nut. The model knows: bolt"):
        dataset.categories_of(["bolt"])
    categories = dataset.categories_of(["bolt"], ignore_unknown=True)
    kept = dataset.restricted(list(categories.values()))
    assert categories == {0: 7} and [box["category_id"] for box in kept.truth["annotations"]] == [7]
    assert len(kept.pictures) == 4
    with pytest.raises(DatasetError, match="2 of its 2 classes are unknown"):
        dataset.categories_of(["cat"], ignore_unknown=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no COCO instances JSON"),
        ('{"images": []}', "is no COCO instances JSON: KeyError"),
        ('{"images": [], "annotations": [], "categories": []}', "names no pictures"),
        (
            '{"images": [{"id": 1, "file_name": "gone.jpg"}], "annotations": [], "categories": []}',
            "1 of the 1 pictures of x.json are not there: gone.jpg",
        ),
    ],
)
def test_a_json_that_does_not_fit(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        datasets.load(tmp_path / "x.json", SAMPLES)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file. Give an Ultralytics YAML or a COCO instances JSON"):
        datasets.load(tmp_path / "none.yaml")
    with pytest.raises(DatasetError, match="give the folder of its pictures too .*--images DIR"):
        datasets.load(coco(tmp_path, [(1, "person")]))

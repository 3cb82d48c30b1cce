from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from nas_eval import datasets
from nas_eval.coco import COCO_NAMES
from nas_eval.errors import DatasetError

from support.samples import PICTURES, SAMPLES

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


@pytest.mark.parametrize(
    "line",
    [
        *("2 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1", "x 1 1 1 1", "0 50 50 20 20", "0 0 0 1 1 1"),
        *("0 nan 0.5 0.1 0.1", "0 0.5 0.5 nan 0.1", "0 0.5 -inf 0.1 0.1", "0 0.5 0.5 -0.1 0.1", "0 1e308 0.5 0.1 0.1"),
        *("inf 0.5 0.5 0.1 0.1", "nan 0.5 0.5 0.1 0.1", "0 0.1 0.2 nan 0.2 0.5 0.8"),
    ],
)
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
        ({"val": ["images/val", ["x"]]}, "expected val to be a folder, a text file or a list of them, got .'x'."),
        ({"val": "x" * 300}, "neither a folder of pictures nor a text file"),
        ({"path": ["x"]}, "expected path to be a folder, got .'x'."),
        ({"path": "~nobody_of_this_name"}, "neither a folder of pictures nor a text file"),
        ({"names": "bolt"}, "names: expected a list, or one name for each number"),
        ({"names": {"x": "bolt"}}, "names: expected a name for each number, got 'x': 'bolt'"),
        ({"names": {-1: "bolt"}}, "names: expected a name for each number, got -1: 'bolt'"),
        ({"names": {0: "bolt", "0": "nut"}}, "names: .*got 2 for 1 numbers"),
        ({"names": [["bolt"]]}, "names: expected a name for each number, got 0: .'bolt'."),
        ({"names": ["\ud800"]}, "names: expected a name for each number, got 0: "),
    ],
)
def test_a_yaml_that_does_not_fit(content: dict[str, object], message: str, folder: Path) -> None:
    (folder / "missing.txt").write_text("images/val/gone.jpg\n")
    with pytest.raises(DatasetError, match=message):
        datasets.load(write(folder, **content))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: bolt, 0: nut}\nval: images/val\n", "names: .*got 2 for 1 numbers"),
        ("[" * 100_000, "cannot be read as YAML: maximum recursion depth exceeded"),
        ("names: [bolt]\nval: images/val\nx: " + "1" * 5000, "cannot be read as YAML: Exceeds the limit"),
        ("", "expected an Ultralytics data set"),
        ("names: &a [x]\nval: [&b [*a, *a], *b]\n", "expected val to be a folder"),
    ],
    ids=["a number twice", "nested deeply", "a long number", "empty", "aliases"],
)
def test_a_hostile_yaml(text: str, message: str, folder: Path) -> None:
    (folder / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        datasets.load(folder / "data.yaml")
    assert str(caught.value).startswith(f"{folder}/data.yaml: ")


def test_text_that_is_none_is_named(folder: Path) -> None:
    (folder / "labels/val/bus.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="labels/val/bus.txt: cannot be read as text: "):
        datasets.load(write(folder))
    (folder / "val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="val.txt: cannot be read as text: "):
        datasets.load(write(folder, val="val.txt"))


@pytest.mark.parametrize("line", ["../out.jpg", "./../out.jpg", "images/../../out.jpg", "ABSOLUTE/out.jpg", ".."])
def test_a_list_does_not_lead_out_of_the_data_set(line: str, folder: Path) -> None:
    shutil.copy(SAMPLES / "bus.jpg", folder.parent / "out.jpg")
    line = line.replace("ABSOLUTE", str(folder.parent))
    (folder / "val.txt").write_text(f"images/val/bus.jpg\n\n{line}\n")
    with pytest.raises(DatasetError) as caught:
        datasets.load(write(folder, path=".", val="val.txt"))
    assert str(caught.value).startswith(f"{folder}/val.txt:3: expected a picture inside {folder}, got ")
    assert "leads out of it" in str(caught.value)


def test_a_list_may_name_what_is_inside_in_every_way(folder: Path) -> None:
    """Absolute, through a symbolic link, with .. that stays inside, and below the folder of the list itself."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(SAMPLES / "coffee.png", elsewhere)
    (folder / "images/linked").symlink_to(elsewhere)
    (folder / "images/val.txt").write_text(
        f"{folder}/images/val/bus.jpg\nimages/linked/coffee.png\nlabels/../images/val/chelsea.png\n"
        "./val/astronaut.png\n./../images/val/bus.jpg\n"
    )
    (elsewhere / "list.txt").write_text(f"./coffee.png\n{elsewhere}/coffee.png\nimages/val/bus.jpg\n")
    dataset = datasets.load(write(folder, val=["images/val.txt", f"{elsewhere}/list.txt"]))
    names = ["bus.jpg", "coffee.png", "chelsea.png", "astronaut.png", "bus.jpg", "coffee.png", "coffee.png", "bus.jpg"]
    assert [picture.path.name for picture in dataset.pictures] == names
    assert [box["image_id"] for box in dataset.truth["annotations"]] == [1, 1, 4, 5, 5, 8, 8]


def test_a_scalar_that_no_yaml_reader_takes(folder: Path) -> None:
    (folder / "data.yaml").write_text("names: [a]\nval: !!bool x")
    with pytest.raises(DatasetError, match="cannot be read as YAML"):
        datasets.load(folder / "data.yaml")


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
        ("[]", "is no COCO instances JSON: expected an object with the lists images, .*, got list"),
        ("[" * 100_000, "is no COCO instances JSON: RecursionError"),
        ('{"images": []}', "is no COCO instances JSON: .* got dict without annotations, categories"),
        (
            '{"images": {}, "annotations": [], "categories": []}',
            "is no COCO instances JSON: .* got dict without images",
        ),
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


@pytest.mark.parametrize(
    ("where", "changes", "message"),
    [
        *(
            ("annotations[1]", {"bbox": box}, "expected bbox to be [left, top, width, height], numbers of pixels")
            for box in (
                ["1", 2, 3, 4],
                "1234",
                [1, 2, 3],
                [1, 2, 3, 4, 5],
                [],
                [[], 2, 3, 4],
                [True, 2, 3, 4],
                [1, 2, None, 4],
                [float("nan"), 2, 3, 4],
                [1, 2, float("nan"), 4],
                [1, float("-inf"), 3, 4],
                [1, 2, 3, float("inf")],
                [1, 2, -3, 4],
                [1, 2, 3, -1e-9],
                [1, 2, 3, 10**400],
                {"0": 1},
            )
        ),
        ("annotations[1]", {"bbox": ...}, "expected bbox to be [left, top, width, height]"),
        ("annotations[1]", {"image_id": [1]}, "expected image_id to be an integer, got [1]"),
        ("annotations[1]", {"category_id": "1"}, "expected category_id to be an integer, got '1'"),
        ("annotations[1]", {"area": float("nan")}, "expected area to be a number that is not negative, got nan"),
        ("annotations[1]", {"iscrowd": "no"}, "expected iscrowd to be 0 or 1, got 'no'"),
        ("annotations[1]", {"id": 0}, "expected id to be its own, got 0, that of annotations[0]"),
        ("images[3]", {"id": 11}, "expected id to be its own, got 11, that of images[1]"),
        ("images[3]", {"id": "13"}, "expected id to be an integer, got '13'"),
        ("images[3]", {"id": 2**63}, "expected id to be an integer, got 9223372036854775808"),
        ("images[3]", {"file_name": ...}, "expected file_name to be a string, got none"),
        ("images[3]", {"file_name": "\ud800"}, "expected file_name to be a string, got "),
        ("categories[1]", {"id": 5}, "expected id to be its own, got 5, that of categories[0]"),
        ("categories[1]", {"name": 7}, "expected name to be a string, got 7"),
    ],
)
def test_a_bad_entry_is_named(where: str, changes: dict[str, object], message: str, tmp_path: Path) -> None:
    path = coco(tmp_path, [(5, "nut"), (7, "bolt")])
    content = json.loads(path.read_text())
    name, _, index = where.rstrip("]").partition("[")
    entry = {**content[name][int(index)], **changes}
    content[name][int(index)] = {key: value for key, value in entry.items() if value is not ...}
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError) as caught:
        datasets.load(path, SAMPLES)
    assert str(caught.value).startswith(f"{path}: {where}: {message}")
    content[name][int(index)] = None
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError) as caught:
        datasets.load(path, SAMPLES)
    assert str(caught.value) == f"{path}: {where}: expected an object, got None."


@pytest.mark.parametrize(
    ("file_name", "allowed"),
    [
        ("../out.jpg", False),
        ("deep/../../out.jpg", False),
        ("OUTSIDE/out.jpg", False),
        ("OUTSIDE/pictures_too/out.jpg", False),
        ("..", False),
        ("deep/link.jpg", True),
        ("linked/out.jpg", True),
        ("deep/../deep/link.jpg", True),
        ("../pictures/deep/link.jpg", True),
        ("INSIDE/deep/link.jpg", True),
    ],
)
def test_file_names_stay_in_the_folder_of_the_pictures(file_name: str, allowed: bool, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    for folder in (pictures / "deep", tmp_path / "pictures_too"):
        folder.mkdir(parents=True)
    for file in (tmp_path / "out.jpg", tmp_path / "pictures_too" / "out.jpg"):
        shutil.copy(SAMPLES / "bus.jpg", file)
    (pictures / "deep" / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (pictures / "linked").symlink_to(tmp_path)
    file_name = file_name.replace("OUTSIDE", str(tmp_path)).replace("INSIDE", str(pictures))
    path = coco(tmp_path, [(5, "nut")])
    content = json.loads(path.read_text()) | {"images": [{"id": 10, "file_name": file_name}]}
    path.write_text(json.dumps(content))
    if allowed:
        (picture,) = datasets.load(path, pictures).pictures
        assert picture.path.read_bytes() == (SAMPLES / "bus.jpg").read_bytes()
        return
    with pytest.raises(DatasetError) as caught:
        datasets.load(path, pictures)
    assert str(caught.value).startswith(f"{path}: images[0]: expected file_name inside {pictures}, got ")
    assert "leads out of it" in str(caught.value)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file. Give an Ultralytics YAML or a COCO instances JSON"):
        datasets.load(tmp_path / "none.yaml")
    with pytest.raises(DatasetError, match="give the folder of its pictures too .*--images DIR"):
        datasets.load(coco(tmp_path, [(1, "person")]))

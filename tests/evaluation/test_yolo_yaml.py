from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from nas_eval.errors import DatasetError
from nas_eval.yolo_yaml import load_yolo

from support.samples import SAMPLES

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
    dataset = load_yolo(write(folder, path="."))
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
    dataset = load_yolo(write(folder, **content))
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
        load_yolo(write(folder))
    assert str(caught.value).startswith(f"{path}:2: expected a class from 0 to 1") and line in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"val": None}, "has the splits none"),
        ({"val": None, "train": "x"}, "has the splits train"),
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
    with pytest.raises(DatasetError, match=message) as caught:
        load_yolo(write(folder, **content))
    assert caught.value.remedy == ("split" if "splits train" in message else None)


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
        load_yolo(folder / "data.yaml")
    assert str(caught.value).startswith(f"{folder}/data.yaml: ")


def test_text_that_is_none_is_named(folder: Path) -> None:
    (folder / "labels/val/bus.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="labels/val/bus.txt: cannot be read as text: "):
        load_yolo(write(folder))
    (folder / "val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="val.txt: cannot be read as text: "):
        load_yolo(write(folder, val="val.txt"))


@pytest.mark.parametrize("line", ["../out.jpg", "./../out.jpg", "images/../../out.jpg", "ABSOLUTE/out.jpg", ".."])
def test_a_list_does_not_lead_out_of_the_data_set(line: str, folder: Path) -> None:
    shutil.copy(SAMPLES / "bus.jpg", folder.parent / "out.jpg")
    line = line.replace("ABSOLUTE", str(folder.parent))
    (folder / "val.txt").write_text(f"images/val/bus.jpg\n\n{line}\n")
    with pytest.raises(DatasetError) as caught:
        load_yolo(write(folder, path=".", val="val.txt"))
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
    dataset = load_yolo(write(folder, val=["images/val.txt", f"{elsewhere}/list.txt"]))
    names = ["bus.jpg", "coffee.png", "chelsea.png", "astronaut.png", "bus.jpg", "coffee.png", "coffee.png", "bus.jpg"]
    assert [picture.path.name for picture in dataset.pictures] == names
    assert [box["image_id"] for box in dataset.truth["annotations"]] == [1, 1, 4, 5, 5, 8, 8]


def test_a_scalar_that_no_yaml_reader_takes(folder: Path) -> None:
    (folder / "data.yaml").write_text("names: [a]\nval: !!bool x")
    with pytest.raises(DatasetError, match="cannot be read as YAML"):
        load_yolo(folder / "data.yaml")


def test_a_picture_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "images/val/bus.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="bus.jpg: cannot be read as a picture: 10 bytes that are no JPEG"):
        load_yolo(write(folder))


def test_a_picture_that_breaks_off_is_left_to_who_evaluates_it(folder: Path) -> None:
    """Only its header is read here."""
    path = folder / "images/val/bus.jpg"
    path.write_bytes(path.read_bytes()[:3000])
    dataset = load_yolo(write(folder))
    assert dataset.truth["images"][1] == {"id": 2, "file_name": "bus.jpg", "width": 810, "height": 1080}

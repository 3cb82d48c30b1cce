from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from nas_eval.coco_json import load_coco
from nas_eval.coco_names import COCO_NAMES
from nas_eval.errors import DatasetError

from support.samples import PICTURES, SAMPLES


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
    dataset = load_coco(coco(tmp_path, [(1, "person"), (90, "toothbrush")]), SAMPLES)
    assert [picture.id for picture in dataset.pictures] == [10, 11, 12, 13]
    crowd, single = dataset.truth["annotations"]
    assert crowd["iscrowd"] == 1 and single["iscrowd"] == 0 and single["area"] == 12
    assert crowd["id"] and single["id"] and crowd["id"] != single["id"]


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
    with pytest.raises(DatasetError, match=message) as caught:
        load_coco(tmp_path / "x.json", SAMPLES)
    assert caught.value.remedy == ("images" if "not there" in message else None)


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
        load_coco(path, SAMPLES)
    assert str(caught.value).startswith(f"{path}: {where}: {message}")
    content[name][int(index)] = None
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError) as caught:
        load_coco(path, SAMPLES)
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
        (picture,) = load_coco(path, pictures).pictures
        assert picture.path.read_bytes() == (SAMPLES / "bus.jpg").read_bytes()
        return
    with pytest.raises(DatasetError) as caught:
        load_coco(path, pictures)
    assert str(caught.value).startswith(f"{path}: images[0]: expected file_name inside {pictures}, got ")
    assert "leads out of it" in str(caught.value) and caught.value.remedy == "images"


def test_coco_maps_80_labels_to_91_ids(coco_data: Path) -> None:
    folder = coco_data / "tiny_coco"
    dataset = load_coco(folder / "annotations" / "instances_val2017.json", folder / "val2017")
    categories = dataset.categories_of(COCO_NAMES)
    assert len(categories) == 80 and categories[0] == 1 and categories[79] == 90 and categories[11] == 13

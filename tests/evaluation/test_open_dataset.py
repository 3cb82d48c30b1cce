from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nas_eval.errors import DatasetError
from nas_eval.open_dataset import has_splits, open_dataset

from support.samples import SAMPLES

COCO = '{"images": [{"id": 7, "file_name": "bus.jpg"}], "categories": [{"id": 6, "name": "bus"}], "annotations": []}'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; coco8 was downloaded, with one picture in each split."""
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    for split, name in (("train", "chelsea.png"), ("val", "bus.jpg")):
        folder = tmp_path / "cache/datasets/coco8/images" / split
        folder.mkdir(parents=True)
        shutil.copy(SAMPLES / name, folder)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("data", ["coco8", "coco8.yaml", Path("coco8"), Path("coco8.yaml")])
def test_by_name(data: str | Path) -> None:
    for split, name in (("train", "chelsea.png"), ("val", "bus.jpg")):
        dataset = open_dataset(data, split=split)
        assert dataset.name == "coco8" and [picture.path.name for picture in dataset.pictures] == [name]
    assert has_splits(Path(data))


def test_a_file_is_taken_before_a_download(here: Path) -> None:
    shutil.copy(SAMPLES / "coffee.png", here)
    (here / "coco8.yaml").write_text("names: [bolt]\nval: .\n")
    assert [picture.path.name for picture in open_dataset("coco8.yaml").pictures] == ["coffee.png"]
    assert [picture.path.name for picture in open_dataset("coco8").pictures] == ["bus.jpg"]


def test_a_folder_has_no_splits(here: Path) -> None:
    (here / "coco8").mkdir()
    assert not has_splits(Path("coco8")) and not has_splits(here)
    assert has_splits(Path("mine.yaml"))  # to be told that it is not there
    assert not has_splits(Path("instances.json"))


def test_a_coco_json(here: Path) -> None:
    (here / "val.json").write_text(COCO)
    assert open_dataset("val.json", SAMPLES).pictures[0].path == SAMPLES / "bus.jpg"
    with pytest.raises(DatasetError, match="give the folder of its pictures too") as caught:
        open_dataset("val.json")
    assert caught.value.remedy == "images"


@pytest.mark.parametrize("data", ["none.yaml", "none", "folder/coco8.yaml", "folder/coco8", "coco8.json"])
def test_there_is_none(data: str) -> None:
    message = "no such file. Give an Ultralytics YAML, a COCO instances JSON, or one of coco8, coco-val2017"
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(data)
    assert str(caught.value).startswith(f"{data}: ") and caught.value.remedy is None

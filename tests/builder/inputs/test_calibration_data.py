from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nas_build import CalibrationError, Int8Options
from nas_build.errors import DownloadError
from nas_build.inputs.calibration_data import find, hold_out, labelled, spread
from nas_eval.downloadable import DOWNLOADABLE, YoloArchive
from nas_eval.downloads import Download

from support.samples import PICTURES


def test_pictures_are_held_out() -> None:
    paths = [Path(f"{i}.jpg") for i in range(10)]
    calibration, measuring = hold_out(paths)
    assert [path.stem for path in measuring] == ["3", "7"] and not set(calibration) & set(measuring)
    assert hold_out(paths[:7]) == (paths[:7], paths[:7])


def test_they_are_the_samples_or_spread_over_a_folder(tmp_path: Path) -> None:
    assert find(Int8Options()) == PICTURES
    for number in range(8):
        shutil.copy(PICTURES[0], tmp_path / f"{number}{PICTURES[0].suffix}")
    chosen = find(Int8Options(calibration=tmp_path, calibration_pictures=4))
    assert [path.stem for path in chosen] == ["0", "2", "4", "6"]
    assert spread(PICTURES, 100) == PICTURES


def test_links_that_lead_nowhere_and_folders_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").symlink_to("nowhere")
    (tmp_path / "c.jpg").mkdir()
    assert find(Int8Options(calibration=tmp_path)) == [tmp_path / "a.jpg"]


def test_there_are_none(tmp_path: Path) -> None:
    for folder, message in ((tmp_path, "no pictures in it"), (tmp_path / "x", "no such folder")):
        with pytest.raises(CalibrationError, match=message) as caught:
            find(Int8Options(calibration=folder))
        assert caught.value.options == ("int8.calibration",)


def test_a_folder_has_no_labels(tmp_path: Path) -> None:
    assert labelled(Int8Options(calibration=tmp_path)) is None


@pytest.mark.parametrize("data", ["coco8", "coco8.yaml"])
def test_a_data_set_by_name(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    for split, picture in (("train", PICTURES[0]), ("val", PICTURES[1])):
        folder = tmp_path / "datasets/coco8/images" / split
        folder.mkdir(parents=True)
        shutil.copy(picture, folder)
    calibrated, measured = Int8Options(calibration=Path(data)), Int8Options(validation=Path(data))
    assert [path.name for path in find(calibrated)] == [PICTURES[0].name]
    for options in (calibrated, measured):
        dataset = labelled(options)
        assert dataset and dataset.name == "coco8" and [one.path.name for one in dataset.pictures] == [PICTURES[1].name]


def test_a_download_that_fails_is_an_error_of_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    archive = Download("coco8.zip", None, ("http://127.0.0.1:9/coco8.zip",))
    monkeypatch.setitem(DOWNLOADABLE, "coco8", YoloArchive((archive,), DOWNLOADABLE["coco8"].files))
    with pytest.raises(DownloadError, match="coco8.zip"):
        labelled(Int8Options(validation=Path("coco8")))

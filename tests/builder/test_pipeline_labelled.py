"""Builds that calibrate and measure on a labelled data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import pytest
import yaml
from nas_build import Int8Options, Options, pipeline
from nas_build.int8.held_out import HeldOut
from nas_build.progress import BuildProgress
from nas_eval.coco_names import COCO_NAMES
from nas_eval.errors import DatasetError

NAMES = COCO_NAMES


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, held_out: HeldOut) -> Path:
    """A data set YAML of the samples, mirrored ones in the validation split; the truth is float32's."""
    folder = tmp_path_factory.mktemp("labelled")
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
    truth = held_out.dataset.truth["annotations"]
    for picture in held_out.dataset.pictures:
        image = cv2.imread(str(picture.path))
        assert image is not None
        height, width = image.shape[:2]
        cv2.imwrite(str(folder / "images/train" / f"{picture.path.stem}.png"), image)
        cv2.imwrite(str(folder / "images/val" / f"{picture.path.stem}.png"), image[:, ::-1])
        lines = []
        for box in (box for box in truth if box["image_id"] == picture.id):
            x, y, w, h = np.divide(box["bbox"], [width, height, width, height])
            lines.append(f"{box['category_id']} {1 - x - w / 2:.6f} {y + h / 2:.6f} {w:.6f} {h:.6f}")
        (folder / "labels/val" / f"{picture.path.stem}.txt").write_text("\n".join(lines))
    path = folder / "data.yaml"
    names = dict(enumerate(NAMES))
    path.write_text(yaml.safe_dump({"path": ".", "train": "images/train", "val": "images/val", "names": names}))
    return path


class BegunError(Exception):
    """A build is not up to date."""


class Begins(BuildProgress):
    """Ends a build in its first step."""

    def step(self, name: str, total: int = 1) -> NoReturn:
        raise BegunError


def test_a_data_set_calibrates_on_train_and_measures_on_the_labels_of_val(
    labelled: Path, quarter_checkpoint: Path, tmp_path: Path
) -> None:
    int8 = Int8Options(calibration=labelled, calibration_method="percentile-99.999")
    options = Options(quarter_checkpoint, precision="int8", model_repository=tmp_path, int8=int8)
    manifest = pipeline.build(options).manifest
    measured = manifest["int8"]
    assert measured["truth"] == "labels" and measured["objects"] >= 10 and measured["held_out_pictures"] == 4
    assert list(measured["disturbance"]) == ["percentile-99.999"]
    assert 30 < measured["accuracy"]["map_50_95_float32"] < 100  # mirrored, it finds much, not the same
    assert all(name.startswith("train/") for name, _ in manifest["inputs"]["pictures"])
    assert all(name.startswith("val/") for name, _ in manifest["inputs"]["validation"])
    assert not pipeline.build(options).built
    label = labelled.parent / "labels/val/coffee.txt"
    label.write_text(label.read_text() + "\n0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(BegunError):  # another truth is another input
        pipeline.build(options, Begins())


def test_labels_of_other_classes_are_refused(labelled: Path, quarter_checkpoint: Path, tmp_path: Path) -> None:
    other = labelled.parent / "other.yaml"
    other.write_text(yaml.safe_dump({"path": ".", "val": "images/val", "names": {i: f"thing {i}" for i in range(80)}}))
    options = Options(
        quarter_checkpoint, precision="int8", model_repository=tmp_path, int8=Int8Options(validation=other)
    )
    with pytest.raises(DatasetError, match="80 of its 80 classes are unknown to the model"):
        pipeline.build(options)
    with pytest.raises(DatasetError, match="nope.json: no such file"):
        pipeline.build(dataclasses.replace(options, int8=Int8Options(validation=Path("nope.json"))))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))

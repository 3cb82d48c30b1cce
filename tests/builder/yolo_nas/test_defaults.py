from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from nas_build import BuildError, BuildProgress, CheckpointError
from nas_build.progress import SILENT
from nas_build.yolo_nas import defaults
from nas_build.yolo_nas.checkpoint import Checkpoint
from nas_build.yolo_nas.processing import COCO
from nas_eval.coco_names import COCO_NAMES

from support.samples import CUSTOM_PROCESSING


class Warned(BuildProgress):
    said = ""

    def warn(self, message: str, *, options: tuple[str, ...] = ()) -> None:
        self.said += f"{message} {options}"


def test_names_are_the_files_or_the_checkpoints(demo: Checkpoint, tmp_path: Path) -> None:
    assert defaults.class_names(demo, None, SILENT) == list(demo.class_names or ())
    two = replace(demo, num_classes=2, class_names=("a", "b"))
    file = tmp_path / "names.txt"
    for encoding in ("utf-8", "utf-8-sig"):  # with a byte order mark, as of Windows
        file.write_text("Würfel\n\n ball \n", encoding=encoding)
        assert defaults.class_names(two, file, SILENT) == ["Würfel", "ball"]
    three = replace(two, class_names=("a", "b", "c"))
    with pytest.raises(CheckpointError, match="3 class names saved beside a network of 2 classes; give all") as caught:
        defaults.class_names(three, None, SILENT)
    assert caught.value.options == ("class_names",) and defaults.class_names(three, file, SILENT)[1] == "ball"
    with pytest.raises(BuildError, match="2 names; the network has 80 classes"):
        defaults.class_names(demo, file, SILENT)
    with pytest.raises(BuildError, match="cannot read class names"):
        defaults.class_names(demo, tmp_path / "none.txt", SILENT)


def test_names_are_made_up_aloud(demo: Checkpoint) -> None:
    eighty, two = Warned(), Warned()
    assert defaults.class_names(replace(demo, class_names=None), None, eighty) == list(COCO_NAMES)
    nameless = replace(demo, num_classes=2, class_names=None)
    assert defaults.class_names(nameless, None, two) == ["class_0", "class_1"]
    assert "COCO's names are taken. ('class_names',)" in eighty.said and "class_0" in two.said


def test_processing(demo: Checkpoint) -> None:
    custom, warned = replace(demo, processing_params=CUSTOM_PROCESSING), Warned()
    assert defaults.processing_of(custom, "checkpoint", warned).bgr and not warned.said
    assert defaults.processing_of(custom, "coco", warned) == COCO and not warned.said
    assert defaults.processing_of(replace(demo, processing_params=None), "checkpoint", warned) == COCO
    assert "COCO's preprocessing is taken" in warned.said

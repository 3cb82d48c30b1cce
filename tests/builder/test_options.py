from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from nas_build import BuildError, CheckpointError, Int8Options, OptionError, Options, TensorRTOptions
from nas_build.inputs import build_key
from nas_build.options import _DECIDES_NOTHING, _FOUND_IN, entries_found, key_entries

from support.samples import DEMO, PICTURES

CLASSES = (Options, Int8Options, TensorRTOptions)
# What the pipeline adds, which knows target and name.
OF_THE_PIPELINE = {"name", "instances", "queue_delay_us", "target"}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"typo.txt: cannot read class names: No such file") as caught:
        build_key.collect(Options(class_names=tmp_path / "typo.txt"), DEMO, [], None)
    assert caught.value.options == ("class_names",)
    with pytest.raises(CheckpointError, match="cannot be read"):
        build_key.collect(Options(), tmp_path, [], None)
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    assert build_key.collect(Options(), DEMO, [tmp_path / "gone.jpg"], None)["pictures"] == [
        [f"{tmp_path.name}/gone.jpg", ""]
    ]


def test_pictures_of_one_name_all_count(tmp_path: Path) -> None:
    files = [tmp_path / camera / "images" / "1.jpg" for camera in ("one", "two")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(file.parent.parent.name.encode())
    before = build_key.collect(Options(), DEMO, files, None)["pictures"]
    files[0].write_bytes(b"another")
    after = build_key.collect(Options(), DEMO, files, None)["pictures"]
    assert len(before) == len(after) == 2 and before != after


def key(options: Options) -> dict[str, Any]:
    return build_key.collect(options, DEMO, PICTURES, None)


@pytest.mark.parametrize("options", CLASSES)
def test_every_option_is_in_the_key_or_says_why_not(options: type) -> None:
    """By its value, or by what it leads to; a field that says nothing of itself is in it by its value."""
    values = key_entries(options())
    for field in dataclasses.fields(options):
        said = field.metadata
        contained = dataclasses.is_dataclass(getattr(options(), field.name))
        assert contained or said.get(_FOUND_IN) or said.get(_DECIDES_NOTHING) or said.get("entry", field.name) in values


def test_what_options_lead_to_is_in_the_key() -> None:
    entries = set(key(Options(precision="int8")))
    assert entries_found(Options) | entries_found(Int8Options) <= entries | OF_THE_PIPELINE


def test_a_new_option_is_in_the_key() -> None:
    new = dataclasses.make_dataclass("New", [("flavour", Path, Path("x"))])
    assert key_entries(new()) == {"flavour": "x"}


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "int8"},
        {"max_batch_size": 2},
        {"max_pixels": 10},
        {"scaled_decoding": True},
        {"processing": "coco"},
        {"class_names": Path(__file__)},
        {"precision": "int8", "int8": Int8Options(budget=1.0)},
        {"precision": "int8", "int8": Int8Options(calibration_method="max")},
    ],
    ids=lambda change: " ".join(change),
)
def test_another_option_another_key(change: dict[str, Any]) -> None:
    usual = {"int8": Int8Options(), "precision": change["precision"]} if "int8" in change else {}
    assert key(Options(**change)) != key(Options(**usual))


def test_what_decides_nothing_changes_no_key() -> None:
    same = Options(force=True, model_repository=Path("x"), sign=Path("y"), int8=Int8Options(budget=1.0))
    assert key(same) == key(Options())


@pytest.mark.parametrize("name", ["../x", "a b", "", ".", ".x", "-x", "é", "x/y"])
def test_names_that_no_model_can_have(name: str) -> None:
    with pytest.raises(OptionError, match="letters, digits") as caught:
        Options(name=name)
    assert caught.value.options == ("name",)
    assert Options(name="yolo.v1_best-2").name


def test_kernels_for_a_batch_that_never_comes() -> None:
    with pytest.raises(OptionError, match="at most the largest, 4; got 8"):
        Options(max_batch_size=4, tensorrt=TensorRTOptions(opt_batch_size=8))

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nas_build import pipeline
from nas_build.errors import BuildError, CalibrationError
from nas_build.options import RANGE_METHODS, Int8Options
from nas_build.yolo_nas import network

from support.builds import Built, Heard, options
from support.samples import DEMO, QUARTER_PROCESSING, SAMPLES

NAME = "yolo_nas_s_int8"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_step_is_timed(built: Built) -> None:
    assert built.result.built and built.result.version == 1
    assert list(built.result.seconds) == [
        *("export", "held-out pictures", "calibrate", "round weights", "choose ranges"),
        *("accuracy", "check", "engine", "install"),
    ]


def test_up_to_date_is_a_no_op(built: Built) -> None:
    before = tree(built.folder)
    result = pipeline.build(built.options)
    assert not result.built and result.version == 1
    assert tree(built.folder) == before


def test_manifest_holds_what_went_in_and_what_was_measured(built: Built, quarter_checkpoint: Path) -> None:
    manifest = json.loads((built.folder / NAME / "1" / "manifest.json").read_text(encoding="utf-8"))
    inputs = manifest["inputs"]
    assert inputs["checkpoint_sha256"] == hashlib.sha256(quarter_checkpoint.read_bytes()).hexdigest()
    assert [name for name, _ in inputs["pictures"]] == [
        f"samples/{n}" for n in ("astronaut.png", "bus.jpg", "chelsea.png", "coffee.png")
    ]
    assert inputs["versions"].keys() >= {"torch", "onnx", "openvino", "nas-triton"}
    layers = manifest["layers"]
    assert len(layers) == 100
    assert [name for name, layer in layers.items() if layer["precision"] != "int8"] == [
        "neck.neck1.upsample",
        "neck.neck2.upsample",
    ]
    for name, layer in layers.items():
        if layer["precision"] == "int8":
            assert layer["input_snr_db"] > 20 and layer["weight_snr_db"] > 35
            assert layer["activations"] == "uint8"
            assert (layer["low"] < 0) == (layer["zero_point"] > 0) == ("reduce_after_concat" in name)
    int8 = manifest["int8"]
    assert int8["activations"] == "uint8"
    assert int8["truth"] == "float32" and int8["held_out_pictures"] == 4 and int8["kept_fp16"] == []
    assert int8["disturbance"].keys() == set(RANGE_METHODS)
    assert min(int8["disturbance"], key=int8["disturbance"].get) == int8["method"]
    assert int8["accuracy"]["map_50_95_float32"] == 100 and int8["accuracy"]["loss"] < 10  # 13 objects
    agreement = manifest["agreement"]
    assert agreement["detections_found"] == agreement["detections"] >= 4
    assert manifest["processing"]["letterbox"]["fit_hw"] == [318, 318]


def test_another_input_is_a_new_version_and_force_too(quarter_checkpoint: Path, tmp_path: Path) -> None:
    asked = options(quarter_checkpoint, tmp_path, precision="fp16")
    assert pipeline.build(asked).version == 1
    assert pipeline.build(replace(asked, max_batch_size=2)).version == 2
    first = pipeline.build(replace(asked, max_batch_size=2, force=True))
    assert first.built and first.version == 3
    one, two = (tmp_path / f"yolo_nas_s_fp16_engine/{v}/model.onnx" for v in (2, 3))
    assert one.read_bytes() == two.read_bytes()


def test_warns_when_calibrated_on_the_samples_only(built: Built) -> None:
    assert any("bundled samples" in warning for warning in built.progress.warnings)
    assert built.progress.options == {"int8.calibration"} and built.result.doubts == []


def test_unreadable_calibration_pictures_are_named_and_left_out(quarter_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    calibration = Int8Options(calibration=folder)
    folder.mkdir()
    (folder / "a.jpg").write_bytes((SAMPLES / "bus.jpg").read_bytes())
    (folder / "b.png").write_bytes(b"no picture")
    progress = Heard()
    # Unreadable ones are no held-out pictures either.
    result = pipeline.build(options(quarter_checkpoint, tmp_path / "m", int8=calibration), progress)
    assert result.built and any("b.png: left out: 10 bytes that are no" in warning for warning in progress.warnings)
    (folder / "a.jpg").unlink()
    with pytest.raises(CalibrationError, match="none of the 1 pictures"):
        pipeline.build(options(quarter_checkpoint, tmp_path / "n", int8=calibration))
    (folder / "b.png").unlink()
    with pytest.raises(CalibrationError, match="no pictures in it; expected .bmp, .jpeg"):
        pipeline.build(options(quarter_checkpoint, tmp_path / "n", int8=calibration))
    with pytest.raises(CalibrationError, match="no such folder"):
        pipeline.build(options(quarter_checkpoint, tmp_path / "n", int8=Int8Options(calibration=folder / "x")))
    assert not (tmp_path / "n").exists() or tree(tmp_path / "n") == {}


def test_variant_of_the_file_must_be_the_one_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="holds YOLO-NAS S, not M") as caught:
        pipeline.build(options(DEMO, tmp_path, variant="m"))
    assert caught.value.options == ("variant=s",)


@pytest.mark.slow
def test_class_names_from_a_file(tmp_path: Path) -> None:
    network_file, names = tmp_path / "two.pth", tmp_path / "names.txt"
    torch.manual_seed(0)
    processing = {"image_processor": QUARTER_PROCESSING["image_processor"]}
    torch.save({"net": network.build("s", 2).state_dict(), "processing_params": processing}, network_file)
    names.write_text("Würfel\nball\n", encoding="utf-8")
    folder = tmp_path / "m"
    arguments = options(network_file, folder, precision="fp16", class_names=names)
    assert pipeline.build(arguments).name == "yolo_nas_s_fp16"
    assert "Würfel" in (folder / "yolo_nas_s_fp16/config.pbtxt").read_text(encoding="utf-8")
    names.write_text("one\n")
    with pytest.raises(BuildError, match="1 names; the network has 2 classes"):
        pipeline.build(arguments)
    progress = Heard()
    untrained = pipeline.build(options(network_file, tmp_path / "n", precision="fp16"), progress)
    assert any("class_0" in warning for warning in progress.warnings)
    (doubt,) = untrained.doubts
    assert "float32 finds " in doubt and any(doubt in warning for warning in progress.warnings)

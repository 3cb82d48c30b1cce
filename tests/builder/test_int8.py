from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import PICTURES
from nas_build import pipeline
from nas_build.errors import CalibrationError
from nas_build.graph import export
from nas_build.graph.export import Engine
from nas_build.int8 import quantize
from nas_build.int8.calibrate import observe
from nas_build.int8.calibration_data import canvases, hold_out
from nas_build.int8.held_out import HeldOut
from nas_build.int8.quantize import Quantizer, Settings
from nas_build.int8.rounding import nearest
from nas_build.int8.schemes import SCHEMES
from nas_build.pipeline import Options, Reporter
from nas_build.progress import Clock
from nas_build.yolo_nas.network import YoloNAS
from nas_build.yolo_nas.processing import COCO
from nas_eval import datasets
from nas_eval.coco import COCO_NAMES
from nas_eval.datasets import Dataset
from nas_eval.errors import DatasetError
from onnx import numpy_helper

NAMES = COCO_NAMES
SCHEME = SCHEMES["openvino"]
LABELS = dict(enumerate(range(80)))


@pytest.fixture(scope="module")
def reference(demo_network: YoloNAS) -> Engine:
    return Engine(demo_network, COCO, torch.float64)


@pytest.fixture(scope="module")
def fp16(demo_network: YoloNAS) -> onnx.ModelProto:
    return export.export(Engine(demo_network, COCO), (640, 640), "s")


@pytest.fixture(scope="module")
def quantizer(fp16: onnx.ModelProto, reference: Engine) -> Quantizer:
    return Quantizer(fp16, reference, observe(reference, canvases(PICTURES, COCO.letterbox)), SCHEME)


@pytest.fixture(scope="module")
def float32(demo_network: YoloNAS) -> Engine:
    return Engine(demo_network, COCO, torch.float32)


@pytest.fixture(scope="module")
def held_out(reference: Engine, float32: Engine) -> HeldOut:
    return HeldOut(reference, float32, COCO, datasets.unlabelled("samples", PICTURES, NAMES), LABELS)


def without_tails(quantizer: Quantizer) -> onnx.ModelProto:
    return quantizer.graph(quantizer.grids("percentile-99.99"))


def test_what_float32_finds_is_the_truth_where_there_are_no_labels(held_out: HeldOut, fp16: onnx.ModelProto) -> None:
    assert not held_out.labelled and held_out.objects >= 10
    accuracy = held_out.accuracy(fp16)
    assert accuracy.float32 == pytest.approx(100) and accuracy.loss < 0.5
    assert held_out.disturbance(fp16) < 0.01


def test_disturbance_and_loss_follow_the_damage(held_out: HeldOut, fp16: onnx.ModelProto, quantizer: Quantizer) -> None:
    good = quantizer.graph(quantizer.grids("percentile-99.999"))
    graphs = [fp16, good, without_tails(quantizer), quantizer.graph(quantizer.grids("entropy"))]
    disturbances = [held_out.disturbance(graph) for graph in graphs]
    assert disturbances == sorted(disturbances) and disturbances[1] > 5 * disturbances[0]
    losses = [held_out.accuracy(graph).loss for graph in (good, without_tails(quantizer))]
    assert losses[0] < losses[1]
    low, high = held_out.interval(held_out.accuracy(without_tails(quantizer)))
    assert low <= losses[1] <= high


def test_rounding_by_second_order_and_chosen_ranges_halve_what_plain_max_calibration_does(
    held_out: HeldOut, fp16: onnx.ModelProto, quantizer: Quantizer
) -> None:
    widest = quantizer.grids("max")
    plain = quantize.insert_qdq(
        fp16, widest, {name: nearest(quantizer.weights_of(name), SCHEME.pair_limit) for name in widest}
    )
    chosen = quantizer.graph(quantizer.grids("percentile-99.999"))
    assert held_out.disturbance(chosen) < 0.6 * held_out.disturbance(plain)
    assert held_out.accuracy(chosen).loss < 0.5 * held_out.accuracy(plain).loss


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


def test_a_data_set_calibrates_on_train_and_measures_on_the_labels_of_val(labelled: Path, tmp_path: Path) -> None:
    options = Options("demo", "s", "int8", model_repository=tmp_path, calibration=labelled)
    manifest = pipeline.build(dataclasses.replace(options, calibration_method="percentile-99.999")).manifest
    measured = manifest["int8"]
    assert measured["truth"] == "labels" and measured["objects"] >= 10 and measured["held_out_pictures"] == 4
    assert list(measured["disturbance"]) == ["percentile-99.999"]
    assert 30 < measured["accuracy"]["map_50_95_float32"] < 100  # mirrored, it finds much, not the same
    assert all(name.startswith("train/") for name in manifest["inputs"]["pictures"])
    assert all(name.startswith("val/") for name in manifest["inputs"]["validation"])
    again = dataclasses.replace(options, calibration_method="percentile-99.999")
    assert not pipeline.build(again).built
    label = labelled.parent / "labels/val/coffee.txt"
    label.write_text(label.read_text() + "\n0 0.5 0.5 0.1 0.1\n")
    assert pipeline.build(again).built  # another truth is another input


def test_labels_of_other_classes_are_refused(labelled: Path, tmp_path: Path) -> None:
    other = labelled.parent / "other.yaml"
    other.write_text(yaml.safe_dump({"path": ".", "val": "images/val", "names": {i: f"thing {i}" for i in range(80)}}))
    options = Options("demo", "s", "int8", model_repository=tmp_path, validation=other)
    with pytest.raises(DatasetError, match="80 of its 80 classes are unknown to the model"):
        pipeline.build(options)
    with pytest.raises(DatasetError, match="nope.json: no such file"):
        pipeline.build(dataclasses.replace(options, validation=Path("nope.json")))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_pictures_are_held_out() -> None:
    paths = [Path(f"{i}.jpg") for i in range(10)]
    calibration, measuring = hold_out(paths)
    assert [path.stem for path in measuring] == ["3", "7"] and not set(calibration) & set(measuring)
    assert hold_out(paths[:7]) == (paths[:7], paths[:7])


def test_a_budget_keeps_what_hurts_in_fp16(
    fp16: onnx.ModelProto, reference: Engine, float32: Engine, held_out: HeldOut, quantizer: Quantizer
) -> None:
    """Ranges that cut too much off lose several points; within the budget, at a fraction of the work."""
    all_int8 = held_out.accuracy(without_tails(quantizer)).loss
    assert all_int8 > 2
    settings = Settings(PICTURES, datasets.unlabelled("samples", PICTURES, NAMES), SCHEME, "percentile-99.99", 1.0)
    warnings: list[str] = []
    clock = Clock()
    made = quantize.quantize(fp16, reference, float32, COCO, NAMES, settings, clock, warnings.append)
    graph, measured, layers = made.graph, made.report, made.layers
    assert measured["all_int8"]["loss"] == pytest.approx(all_int8, abs=0.01)
    assert measured["accuracy"]["loss"] <= 1.0 and held_out.accuracy(graph).loss <= 1.0
    kept = measured["kept_fp16"]
    assert 0 < len(kept) < 60 and 0 < measured["kept_macs"] < 0.25 and not warnings
    assert made.machine["latency_ratio"] > 0.9
    assert {"sensitivity", "keep in fp16", "latency"} <= clock.seconds.keys()
    assert all(layers[name]["precision"] == "fp16" for name in kept)
    assert sum("gain" in layer for layer in layers.values()) == 98
    plain = {node.name for node in graph.graph.node if node.op_type == "Conv" and ".weight_" not in node.input[1]}
    types = {i.name: numpy_helper.to_array(i).dtype for i in graph.graph.initializer}
    assert plain == set(kept) and all(types[f"{name}.weight"] == np.float16 for name in kept)


def test_a_budget_that_is_met_measures_no_layer(fp16: onnx.ModelProto, reference: Engine, float32: Engine) -> None:
    settings = Settings(PICTURES[:1], datasets.unlabelled("x", PICTURES, NAMES), SCHEME, "percentile-99.999", 50.0)
    clock = Clock()
    report = quantize.quantize(fp16, reference, float32, COCO, NAMES, settings, clock, lambda _: None).report
    assert report["kept_fp16"] == [] and report["budget"] == 50
    assert "sensitivity" not in clock.seconds


def test_nothing_to_measure_a_budget_with(
    fp16: onnx.ModelProto, reference: Engine, float32: Engine, tmp_path: Path
) -> None:
    picture = tmp_path / "grey.png"
    cv2.imwrite(str(picture), np.full((480, 640, 3), 114, np.uint8))
    grey: Dataset = datasets.unlabelled("grey", [picture], NAMES)

    def quantize(budget: float | None) -> dict[str, Any]:
        settings = Settings(PICTURES[:1], grey, SCHEME, "max", budget)
        return quantize.quantize(fp16, reference, float32, COCO, NAMES, settings, Clock(), lambda _: None).report

    with pytest.raises(CalibrationError, match="finds nothing in the 1 held-out pictures.*--validation"):
        quantize(0.3)
    assert "accuracy" not in quantize(None)


def report_of(repository: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "nas-build", "report", *arguments, "--model-repository", repository]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)


def test_report(repository: Path) -> None:
    table = report_of(repository, "yolo_nas_s_int8", "--worst", 5)
    assert table.returncode == 0 and table.stdout.count("│ int8") == 5
    assert "Activations: uint8" in table.stdout and "of the known answer" in table.stdout.replace("\n", " ")
    assert "4 held-out pictures with" in table.stdout and "loss" in table.stdout
    whole = json.loads(report_of(repository, "yolo_nas_s_int8", "--json").stdout)
    assert len(whole["layers"]) == 100 and whole["int8"]["accuracy"]["loss"] < 10
    noises = [
        min(layer["input_snr_db"], layer["weight_snr_db"]) for layer in whole["layers"].values() if len(layer) > 1
    ]
    worst = json.loads(report_of(repository, "yolo_nas_s_int8", "--json", "--worst", 1).stdout)["layers"]
    assert min(noises) == min(next(iter(worst.values()))[key] for key in ("input_snr_db", "weight_snr_db"))
    half = report_of(repository, "yolo_nas_s_fp16")
    assert half.returncode == 0 and "fp16" in half.stdout and "Ranges" not in half.stdout
    missing = report_of(repository, "nope")
    assert missing.returncode == 1 and "no model nope" in missing.stderr and "yolo_nas_m_fp16" in missing.stderr


def test_the_table_of_a_build_shows_the_loss(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Options("demo", "s", "int8", model_repository=repository)
    assert not pipeline.build(options, Reporter()).built
    command = [Path(sys.executable).parent / "nas-build", "--weights", "demo", "--precision", "int8"]
    command += ["--target", "openvino", "--model-repository", repository]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=True)
    assert "mAP loss" in done.stdout and "nas-build report yolo_nas_s_int8" in done.stdout

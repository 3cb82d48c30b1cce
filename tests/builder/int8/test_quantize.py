from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from nas_build.errors import CalibrationError
from nas_build.graph.export import Exported
from nas_build.int8 import quantize
from nas_build.int8.held_out import HeldOut
from nas_build.int8.quantize import Settings
from nas_build.int8.quantizer import Quantizer
from nas_build.int8.schemes import UNSIGNED, Scheme
from nas_build.progress import BuildProgress
from nas_eval.coco_names import COCO_NAMES
from nas_eval.dataset import Dataset, unlabelled
from onnx import numpy_helper

from support.builds import Heard
from support.samples import PICTURES

NAMES = COCO_NAMES


@pytest.fixture(scope="module")
def quantizer(quantizer_of: Callable[[Scheme], Quantizer]) -> Quantizer:
    return quantizer_of(UNSIGNED)


def without_tails(quantizer: Quantizer) -> onnx.ModelProto:
    return quantizer.graph(quantizer.grids("percentile-99.99"))


def test_a_budget_keeps_what_hurts_in_fp16(exported: Exported, quantizer: Quantizer) -> None:
    """Ranges that cut too much off lose several points; within the budget, at a fraction of the work."""
    dataset = unlabelled("samples", PICTURES[:1], NAMES)  # each of 98 convolutions is tried on each picture
    held_out = HeldOut(exported, dataset)
    all_int8 = held_out.accuracy(without_tails(quantizer)).loss
    assert all_int8 > 2
    settings = Settings(PICTURES, dataset, UNSIGNED, "percentile-99.99", 1.0)
    progress = Heard()
    made = quantize.quantize(exported, settings, progress)
    graph, measured, layers = made.graph, made.report, made.layers
    assert measured["all_int8"]["loss"] == pytest.approx(all_int8, abs=0.01)
    assert measured["accuracy"]["loss"] <= 1.0 and held_out.accuracy(graph).loss <= 1.0
    kept = measured["kept_fp16"]
    assert 0 < len(kept) < 60 and 0 < measured["kept_macs"] < 0.25 and not progress.warnings
    assert made.machine["latency_ratio"] > 0.9
    assert {"sensitivity", "keep in fp16", "latency"} <= progress.seconds.keys()
    assert all(layers[name]["precision"] == "fp16" for name in kept)
    assert sum("gain" in layer for layer in layers.values()) == 98
    plain = {node.name for node in graph.graph.node if node.op_type == "Conv" and ".weight_" not in node.input[1]}
    types = {i.name: numpy_helper.to_array(i).dtype for i in graph.graph.initializer}
    assert plain == set(kept) and all(types[f"{name}.weight"] == np.float16 for name in kept)


def test_a_budget_that_is_met_measures_no_layer(exported: Exported) -> None:
    settings = Settings(PICTURES[:1], unlabelled("x", PICTURES, NAMES), UNSIGNED, "percentile-99.999", 50.0)
    progress = Heard()
    report = quantize.quantize(exported, settings, progress).report
    assert report["kept_fp16"] == [] and report["budget"] == 50
    assert "sensitivity" not in progress.seconds


def test_nothing_to_measure_a_budget_with(exported: Exported, tmp_path: Path) -> None:
    picture = tmp_path / "grey.png"
    cv2.imwrite(str(picture), np.full((480, 640, 3), 114, np.uint8))
    grey: Dataset = unlabelled("grey", [picture], NAMES)

    def report(budget: float | None) -> dict[str, Any]:
        settings = Settings(PICTURES[:1], grey, UNSIGNED, "max", budget)
        return quantize.quantize(exported, settings, BuildProgress()).report

    with pytest.raises(CalibrationError, match="finds nothing in the 1 held-out pictures") as caught:
        report(0.3)
    assert caught.value.options == ("int8.calibration", "int8.validation")
    assert "accuracy" not in report(None)

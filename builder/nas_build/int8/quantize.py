"""A graph to int8: calibrate, round, choose ranges, and keep in half precision what hurts too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from nas_eval.dataset import Dataset

from ..errors import CalibrationError
from ..graph import openvino_runner
from ..graph.check import Limits
from ..graph.export import Exported
from ..inputs import calibration_data
from ..options import CalibrationMethod
from ..progress import BuildProgress
from . import calibrate
from .held_out import Accuracy, HeldOut
from .quantizer import Quantizer, significant
from .schemes import ActivationType, Grid, Scheme
from .search import Search

# Behind a ReLU signed activations have half of the steps.
LIMITS: Mapping[ActivationType, Limits] = {
    "int8": Limits(score=1.0, box_px=float("inf"), correlation=0.98, found=0.9),
    "uint8": Limits(score=1.0, box_px=float("inf"), correlation=0.99, found=0.9),
}
_MUCH = 0.25  # share of the work in half precision at which int8 is hardly worth having


@dataclass(frozen=True)
class Settings:
    """How to quantize.

    Attributes:
        calibration: pictures to calibrate with.
        held_out: pictures to measure the loss on, with labels or without.
        method: how ranges are chosen; "auto" tries all and takes the one that disturbs the held-out pictures least.
        scheme: of the target.
        budget: most mAP points to lose against float32; convolutions that hurt most stay in half precision until the
            measured loss is within it. None keeps all int8.
    """

    calibration: Sequence[Path]
    held_out: Dataset
    scheme: Scheme
    method: CalibrationMethod = "auto"
    budget: float | None = None


@dataclass(frozen=True)
class Quantized:
    """What `quantize` made.

    Attributes:
        graph: with Q/DQ.
        report: method, accuracy, what was kept in half precision: the same on every machine.
        layers: likewise, of each convolution.
        machine: what depends on this machine: `latency_ratio` where convolutions were kept for a budget.
        limits: of what it may differ from PyTorch.
    """

    graph: onnx.ModelProto
    report: dict[str, Any]
    layers: dict[str, dict[str, Any]]
    machine: dict[str, Any]
    limits: Limits


@dataclass(frozen=True)
class _Choice:
    """What the held-out pictures led to.

    Attributes:
        graph: the chosen one.
        all_int8: the graph without anything kept in half precision; the same if nothing is.
        accuracy: of the chosen one; None if float32 finds nothing to measure it by.
        accuracy_all_int8: of the other, likewise.
        gains: of each convolution, if the budget asked for them.
        kept: convolutions in half precision.
    """

    graph: onnx.ModelProto
    all_int8: onnx.ModelProto
    accuracy: Accuracy | None = None
    accuracy_all_int8: Accuracy | None = None
    gains: Mapping[str, float] = field(default_factory=dict)
    kept: Sequence[str] = ()


def quantize(exported: Exported, settings: Settings, progress: BuildProgress) -> Quantized:
    """The int8 graph and what is known of it.

    Args:
        exported: graph and network.
        settings: how.
        progress: told of each step, and warned if little is left of int8.

    Raises:
        CalibrationError: if there is a budget and nothing to measure it with.
        DatasetError: if the labels are of classes that the model lacks, or a picture cannot be read.
    """
    with progress.step("held-out pictures", len(settings.held_out.pictures)):
        held_out = HeldOut(exported, settings.held_out, progress)
    _require_objects(held_out, settings)  # before minutes of calibration
    quantizer = _calibrated(exported, settings, progress)
    search = Search(quantizer, held_out, progress)
    method, disturbances = search.method(settings.method)
    grids = quantizer.grids(method)
    choice = _choose(search, grids, disturbances[method], settings.budget)
    kept_macs = _share_kept(quantizer, choice, settings, progress)
    report = {
        "activations": settings.scheme.activations,
        "calibration_pictures": len(settings.calibration),
        "held_out_pictures": len(settings.held_out.pictures),
        "truth": "labels" if held_out.labelled else "float32",
        "objects": held_out.objects,
        "method": method,
        "disturbance": {name: significant(value) for name, value in disturbances.items()},
        "budget": settings.budget,
        "kept_fp16": list(choice.kept),
        "kept_macs": round(kept_macs, 4),
        **_accuracies(held_out, choice),
    }
    layers = quantizer.layers(grids, choice.kept)
    for name, gain in choice.gains.items():
        layers[name]["gain"] = significant(gain)
    machine = _latency(exported, settings, choice, progress)
    return Quantized(choice.graph, report, layers, machine, LIMITS[settings.scheme.activations])


def _calibrated(exported: Exported, settings: Settings, progress: BuildProgress) -> Quantizer:
    """Ranges seen and weights rounded."""
    paths = settings.calibration
    with progress.step("calibrate", len(paths)):
        canvases = calibration_data.canvases(paths, exported.processing.letterbox)
        observed = calibrate.observe(exported.reference, progress.over(canvases), len(paths))
    with progress.step("round weights", len(observed)):
        return Quantizer(exported, observed, settings.scheme, progress)


def _require_objects(held_out: HeldOut, settings: Settings) -> None:
    if settings.budget is not None and not held_out.objects:
        raise CalibrationError(
            f"float32 finds nothing in the {len(settings.held_out.pictures)} held-out pictures, so that a loss cannot "
            "be measured. Give pictures like those the model will see, or labelled ones.",
            options=("int8.calibration", "int8.validation"),
        )


def _choose(search: Search, grids: dict[str, Grid], disturbance: float, budget: float | None) -> _Choice:
    """All int8, or as much of it as the budget allows.

    Args:
        search: on the held-out pictures.
        grids: of all convolutions.
        disturbance: of the graph with all of them.
        budget: most mAP points to lose.
    """
    held_out, all_int8 = search.held_out, search.quantizer.graph(grids)
    if not held_out.objects:
        return _Choice(all_int8, all_int8)
    with search.progress.step("accuracy", len(held_out.dataset.pictures)):
        accuracy = held_out.accuracy(all_int8, search.progress)
    if budget is None or accuracy.loss <= budget:
        return _Choice(all_int8, all_int8, accuracy, accuracy)
    gains = search.gains(grids, disturbance)
    kept = search.within(budget, grids, gains)
    graph = search.quantizer.graph(grids, kept)
    return _Choice(graph, all_int8, held_out.accuracy(graph), accuracy, gains, kept)


def _share_kept(quantizer: Quantizer, choice: _Choice, settings: Settings, progress: BuildProgress) -> float:
    """Of the work, what stays in half precision."""
    macs = {name: observation.macs for name, observation in quantizer.observed.items()}
    share = sum(macs[name] for name in choice.kept) / sum(macs.values())
    if share > _MUCH:
        progress.warn(
            f"for a loss of at most {settings.budget:g}, {share:.0%} of the work stays fp16: little int8 is left. "
            "Calibrate and measure with more pictures, labelled ones if there are, or allow more.",
            options=("int8.calibration", "int8.validation", "int8.budget"),
        )
    return share


def _latency(exported: Exported, settings: Settings, choice: _Choice, progress: BuildProgress) -> dict[str, float]:
    """What keeping convolutions costs on this machine; nothing if none is kept."""
    if not choice.kept:
        return {}
    canvas = next(calibration_data.canvases(settings.calibration[:1], exported.processing.letterbox))
    with progress.step("latency"):
        ratio = openvino_runner.latency_ratio(choice.graph, choice.all_int8, canvas)
    return {"latency_ratio": round(ratio, 3)}


def _accuracies(held_out: HeldOut, choice: _Choice) -> dict[str, dict[str, float]]:
    """For the report; empty if there was nothing to measure."""
    if choice.accuracy is None or choice.accuracy_all_int8 is None:
        return {}
    low, high = held_out.interval(choice.accuracy)
    return {
        "all_int8": _plain(choice.accuracy_all_int8),
        "accuracy": {**_plain(choice.accuracy), "loss_low": _points(low), "loss_high": _points(high)},
    }


def _plain(accuracy: Accuracy) -> dict[str, float]:
    return {
        "map_50_95_float32": _points(accuracy.float32),
        "map_50_95": _points(accuracy.graph),
        "loss": _points(accuracy.loss),
    }


def _points(value: float) -> float:
    return round(value, 2) + 0.0  # no -0.0

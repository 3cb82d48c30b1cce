"""A graph to int8: calibrate, round, choose ranges, and keep in half precision what hurts too much."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from nas_eval.datasets import Dataset
from numpy.typing import NDArray
from torch import nn

from ..errors import CalibrationError
from ..graph import openvino_runner
from ..graph.export import Engine
from ..progress import Clock
from ..yolo_nas.processing import Processing
from ..yolo_nas.variants import RANGE_METHODS, CalibrationMethod, RangeMethod
from . import calibrate, calibration_data, rounding
from .calibrate import Observation
from .held_out import Accuracy, HeldOut
from .qdq import insert_qdq
from .rounding import Rounded
from .schemes import Grid, Scheme

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
        machine: what depends on this machine: `latency_ratio` where there was a budget to meet.
    """

    graph: onnx.ModelProto
    report: dict[str, Any]
    layers: dict[str, dict[str, Any]]
    machine: dict[str, Any]


class Quantizer:
    """Ranges and weights of every convolution, and graphs of them.

    Args:
        model: from `export.export`.
        reference: the same network, not quantized.
        observed: what its convolutions read.
        scheme: of the target.
        progress: called after each convolution.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        reference: Engine,
        observed: dict[str, Observation],
        scheme: Scheme,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.observed = observed
        self._scheme = scheme
        self._model = model
        self._reference = reference
        self._rounded: dict[str, Rounded] = {}
        for name, observation in observed.items():
            self._rounded[name] = rounding.second_order(self.weights_of(name), observation, scheme.pair_limit)
            progress()

    def grids(self, method: RangeMethod) -> dict[str, Grid]:
        """Of the inputs of all convolutions."""
        return {name: self._scheme.grid(observation.histogram, method) for name, observation in self.observed.items()}

    def graph(self, grids: dict[str, Grid], kept: Collection[str] = ()) -> onnx.ModelProto:
        """The int8 graph; convolutions in `kept` stay in half precision."""
        return insert_qdq(self._model, {name: grid for name, grid in grids.items() if name not in kept}, self._rounded)

    def layers(self, grids: dict[str, Grid], kept: Collection[str]) -> dict[str, dict[str, Any]]:
        """Of each convolution: precision, activations, and signal to noise of input and weights in decibels."""
        layers: dict[str, dict[str, Any]] = {}
        for name, module in self._reference.network.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                layers[name] = {"precision": "fp16"}
            if name in self.observed and name not in kept:
                observation, grid = self.observed[name], grids[name]
                snr_db = rounding.output_snr_db(self.weights_of(name), self._rounded[name], observation)
                layers[name] = {
                    "precision": "int8",
                    "activations": grid.type,
                    "zero_point": grid.zero_point,
                    "low": _round(grid.low),
                    "high": _round(grid.high),
                    "input_snr_db": round(observation.histogram.snr_db(max(-grid.low, grid.high), grid.scale), 2),
                    "weight_snr_db": round(snr_db, 2),
                }
        return layers

    def weights_of(self, name: str) -> NDArray[Any]:
        """Of one convolution, (C_out, C_in, kh, kw)."""
        return self._reference.network.get_submodule(name).weight.detach().numpy()  # type: ignore[operator]


def quantize(
    model: onnx.ModelProto,
    reference: Engine,
    float32: Engine,
    processing: Processing,
    class_names: Sequence[str],
    settings: Settings,
    clock: Clock,
    warn: Callable[[str], None],
) -> Quantized:
    """The int8 graph and what is known of it.

    Args:
        model: from `export.export`.
        reference: the same network in float64: what is chosen, is chosen by it.
        float32: the same network in float32, for the many pictures whose accuracy is measured.
        processing: of the model.
        class_names: by label.
        settings: how.
        clock: told of each step.
        warn: told if little is left of int8.

    Raises:
        CalibrationError: if there is a budget and nothing to measure it with.
        DatasetError: if the labels are of classes that the model lacks, or a picture cannot be read.
    """
    with clock.step("calibrate", len(settings.calibration)):
        canvases = calibration_data.canvases(settings.calibration, processing.letterbox)
        observed = calibrate.observe(reference, canvases, clock.advance, len(settings.calibration))
    with clock.step("round weights", len(observed)):
        quantizer = Quantizer(model, reference, observed, settings.scheme, clock.advance)
    with clock.step("held-out pictures", len(settings.held_out.pictures)):
        categories = settings.held_out.categories_of(class_names)
        held_out = HeldOut(reference, float32, processing, settings.held_out, categories, clock.advance)
    if settings.budget is not None and not held_out.objects:
        raise CalibrationError(
            f"float32 finds nothing in the {len(settings.held_out.pictures)} held-out pictures, so that a loss cannot "
            "be measured. Give pictures like those the model will see, or labelled ones with --validation DATA."
        )

    method, disturbances = _choose(quantizer, held_out, settings.method, clock)
    grids = quantizer.grids(method)
    graph = quantizer.graph(grids)
    report: dict[str, Any] = {
        "activations": settings.scheme.activations,
        "calibration_pictures": len(settings.calibration),
        "held_out_pictures": len(settings.held_out.pictures),
        "truth": "labels" if held_out.labelled else "float32",
        "objects": held_out.objects,
        "method": method,
        "disturbance": {name: _round(value) for name, value in disturbances.items()},
    }
    machine: dict[str, Any] = {}
    kept: Sequence[str] = ()
    gains: dict[str, float] = {}
    if held_out.objects:
        with clock.step("accuracy", len(settings.held_out.pictures)):
            accuracy = held_out.accuracy(graph, clock.advance)
        report["all_int8"] = _plain(accuracy)
        if settings.budget is not None and accuracy.loss > settings.budget:
            gains = _gains(quantizer, held_out, grids, disturbances[method], clock)
            kept = _within(settings.budget, quantizer, held_out, grids, gains, clock)
            whole, graph = graph, quantizer.graph(grids, kept)
            accuracy = held_out.accuracy(graph)
            canvas = next(calibration_data.canvases(settings.calibration[:1], processing.letterbox))
            with clock.step("latency"):
                machine["latency_ratio"] = round(openvino_runner.latency_ratio(graph, whole, canvas), 3)
        low, high = held_out.interval(accuracy)
        report["accuracy"] = {**_plain(accuracy), "loss_low": _points(low), "loss_high": _points(high)}
    macs = sum(observation.macs for observation in observed.values())
    kept_macs = sum(observed[name].macs for name in kept) / macs
    if kept_macs > _MUCH:
        warn(
            f"for a loss of at most {settings.budget:g}, {kept_macs:.0%} of the work stays fp16: little int8 is left. "
            "Calibrate and measure with more pictures, labelled ones if there are (--validation DATA), or allow more."
        )
    report["budget"] = settings.budget
    report["kept_fp16"] = list(kept)
    report["kept_macs"] = round(kept_macs, 4)
    layers = quantizer.layers(grids, kept)
    for name, gain in gains.items():
        layers[name]["gain"] = _round(gain)
    return Quantized(graph, report, layers, machine)


def _choose(
    quantizer: Quantizer, held_out: HeldOut, method: CalibrationMethod, clock: Clock
) -> tuple[RangeMethod, dict[RangeMethod, float]]:
    """The method that disturbs least, and what each that was tried disturbs."""
    methods = RANGE_METHODS if method == "auto" else (method,)
    disturbances = {}
    with clock.step("choose ranges", len(methods)):
        for one in methods:
            disturbances[one] = held_out.disturbance(quantizer.graph(quantizer.grids(one)))
            clock.advance()
    return min(disturbances, key=disturbances.__getitem__), disturbances


def _gains(
    quantizer: Quantizer, held_out: HeldOut, grids: dict[str, Grid], disturbance: float, clock: Clock
) -> dict[str, float]:
    """How much less the held-out pictures are disturbed when one convolution alone stays in half precision."""
    gains = {}
    with clock.step("sensitivity", len(grids)):
        for name in grids:
            gains[name] = disturbance - held_out.disturbance(quantizer.graph(grids, (name,)))
            clock.advance()
    return gains


def _within(
    budget: float,
    quantizer: Quantizer,
    held_out: HeldOut,
    grids: dict[str, Grid],
    gains: dict[str, float],
    clock: Clock,
) -> Sequence[str]:
    """The fewest convolutions, those first that gain most for their work, that bring the loss within the budget."""
    macs = {name: observation.macs for name, observation in quantizer.observed.items()}
    least = sum(macs.values()) / len(macs) / 5  # even an empty kernel costs something
    order = sorted(gains, key=lambda name: gains[name] / (macs[name] + least), reverse=True)

    def enough(count: int) -> bool:
        loss = held_out.accuracy(quantizer.graph(grids, order[:count])).loss
        clock.advance()
        return loss <= budget

    with clock.step("keep in fp16", 2 * len(order).bit_length()):
        too_few, count = 0, 1
        while count < len(order) and not enough(count):
            too_few, count = count, min(2 * count, len(order))
        while count - too_few > 1:
            middle = (too_few + count) // 2
            too_few, count = (too_few, middle) if enough(middle) else (middle, count)
    return order[:count]


def _plain(accuracy: Accuracy) -> dict[str, float]:
    return {
        "map_50_95_float32": _points(accuracy.float32),
        "map_50_95": _points(accuracy.graph),
        "loss": _points(accuracy.loss),
    }


def _points(value: float) -> float:
    return round(value, 2) + 0.0  # no -0.0


def _round(value: float) -> float:
    return float(f"{value:.4g}")

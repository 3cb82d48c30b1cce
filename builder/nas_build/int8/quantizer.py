"""Ranges and weights of every convolution in int8, and graphs of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import onnx
from numpy.typing import NDArray
from torch import nn

from ..graph.export import Exported
from ..options import RangeMethod
from ..progress import SILENT, BuildProgress
from . import rounding
from .calibrate import Observation
from .qdq import insert_qdq
from .rounding import Rounded
from .schemes import Grid, Scheme


class Quantizer:
    """Rounds the weights of every convolution, and makes graphs of them.

    Args:
        exported: what to quantize.
        observed: what its convolutions read.
        scheme: of the target.
        progress: advanced after each convolution.
    """

    def __init__(
        self,
        exported: Exported,
        observed: Mapping[str, Observation],
        scheme: Scheme,
        progress: BuildProgress = SILENT,
    ) -> None:
        self.observed = observed
        self._scheme = scheme
        self._exported = exported
        self._rounded: dict[str, Rounded] = {
            name: rounding.second_order(self.weights_of(name), observation, scheme.pair_limit)
            for name, observation in progress.over(observed.items())
        }

    def grids(self, method: RangeMethod) -> dict[str, Grid]:
        """Of the inputs of all convolutions."""
        return {name: self._scheme.grid(observation.histogram, method) for name, observation in self.observed.items()}

    def graph(self, grids: dict[str, Grid], kept: Collection[str] = ()) -> onnx.ModelProto:
        """The int8 graph; convolutions in `kept` stay in half precision."""
        return insert_qdq(
            self._exported.graph, {name: grid for name, grid in grids.items() if name not in kept}, self._rounded
        )

    def layers(self, grids: dict[str, Grid], kept: Collection[str]) -> dict[str, dict[str, Any]]:
        """Of each convolution: precision, activations, and signal to noise of input and weights in decibels."""
        layers: dict[str, dict[str, Any]] = {}
        for name, module in self._exported.reference.network.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                layers[name] = {"precision": "fp16"}
            if name in self.observed and name not in kept:
                observation, grid = self.observed[name], grids[name]
                snr_db = rounding.output_snr_db(self.weights_of(name), self._rounded[name], observation)
                layers[name] = {
                    "precision": "int8",
                    "activations": grid.type,
                    "zero_point": grid.zero_point,
                    "low": significant(grid.low),
                    "high": significant(grid.high),
                    "input_snr_db": round(observation.histogram.snr_db(max(-grid.low, grid.high), grid.scale), 2),
                    "weight_snr_db": round(snr_db, 2),
                }
        return layers

    def weights_of(self, name: str) -> NDArray[Any]:
        """Of one convolution, (C_out, C_in, kh, kw)."""
        return self._exported.reference.network.get_submodule(name).weight.detach().numpy()  # type: ignore[operator]


def significant(value: float) -> float:
    """To four digits, for reports."""
    return float(f"{value:.4g}")

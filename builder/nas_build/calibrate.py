"""What the convolutions read while real pictures pass: magnitudes for the ranges, moments for rounding the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import CalibrationError
from .export import Engine
from .variants import RangeMethod

INT8_MAX = 127
_BINS = 4096
_CANDIDATES = 96  # ranges that are tried
# Patches of a picture that count for the moments: as many as the deepest stage has at 640 x 640, and a bit.
_PATCHES = 512


class Histogram:
    """Counts of |x|; the range doubles as larger values come, so that one pass over the pictures is enough."""

    def __init__(self) -> None:
        self.limit = self.peak = 0.0
        self.counts: NDArray[np.float64] = np.zeros(_BINS)

    def add(self, x: Tensor) -> None:
        """Count one tensor."""
        magnitudes = x.abs()
        peak = float(magnitudes.max())
        self.peak = max(self.peak, peak)
        if self.limit == 0.0:
            self.limit = peak or 1e-6
        while peak > self.limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2)])
            self.limit *= 2
        self.counts += torch.histc(magnitudes, _BINS, 0, self.limit).double().numpy()

    def amax(self, method: RangeMethod = "mse") -> float:
        """The clipping range of symmetric int8.

        Args:
            method: "mse" has the least squared error, "entropy" loses the least information (Kullback-Leibler
                divergence of the distributions), "percentile-99.99" keeps so many per cent of the values, "max" all.
        """
        width = self.limit / _BINS
        top = int(np.flatnonzero(self.counts)[-1]) + 1
        if method == "max":
            return self.peak
        if method.startswith("percentile-"):
            kept = np.cumsum(self.counts) / self.counts.sum()
            share = float(method.removeprefix("percentile-")) / 100
            return min(float((np.searchsorted(kept, share) + 1) * width), self.peak)
        loss = self._squared_error if method == "mse" else self._divergence
        candidates = np.unique(np.linspace(max(1, top // 8), top, _CANDIDATES).astype(int))
        return float(min(candidates, key=lambda i: loss(i * width)) * width)

    def snr_db(self, amax: float) -> float:
        """Signal to noise of the values when int8 represents them up to `amax`, in decibels."""
        centres = (np.arange(_BINS) + 0.5) * self.limit / _BINS
        return decibels(float(self.counts @ centres**2), self._squared_error(amax))

    def _squared_error(self, amax: float) -> float:
        scale = amax / INT8_MAX
        centres = (np.arange(_BINS) + 0.5) * self.limit / _BINS
        return float(self.counts @ (centres - np.minimum(np.round(centres / scale), INT8_MAX) * scale) ** 2)

    def _divergence(self, amax: float) -> float:
        """Of what int8 leaves of the distribution from the distribution, clipped values counted at the range's end.

        The peak at zero, which every ReLU leaves, would outweigh all else: its bin counts like the next.
        """
        bins = max(round(amax / self.limit * _BINS), 2)
        inside = self.counts[:bins].copy()
        inside[0] = inside[1]
        clipped = inside.copy()
        clipped[-1] += self.counts[bins:].sum()
        level = np.arange(bins) * (INT8_MAX + 1) // bins
        there = inside > 0
        members = np.bincount(level, there, INT8_MAX + 1)
        share = np.bincount(level, inside, INT8_MAX + 1) / np.maximum(members, 1)
        p = clipped / clipped.sum()
        q = np.where(there, share[level], 0)
        q = q / max(q.sum(), 1e-300)
        both = p > 0
        return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())


class Observation:
    """What one convolution was given.

    Attributes:
        histogram: of its input.
        macs: multiply-accumulates for one picture.
    """

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.macs = 0
        self._count = 0
        self._shift = self._sum = self._products = torch.zeros(())

    def add(self, convolution: nn.Conv2d, x: Tensor) -> None:
        """Count one picture's input [1, C, H, W]."""
        self.histogram.add(x)
        unfold = nn.Unfold(convolution.kernel_size, padding=convolution.padding, stride=convolution.stride)  # type: ignore[arg-type]
        patches = unfold(x)[0]
        positions = patches.shape[1]
        self.macs = positions * convolution.weight.numel()
        # Every n-th position, n odd, so that no column of the picture is left out.
        patches = patches[:, :: -(-positions // _PATCHES) | 1]
        if not self._count:
            self._shift = patches.mean(dim=1, keepdim=True)  # near the mean, so that float32 keeps the variance
        patches = patches - self._shift
        self._count += patches.shape[1]
        self._sum = self._sum + patches.sum(dim=1, dtype=torch.float64)
        self._products = self._products + patches @ patches.T

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and covariance [D, D] of the patches the kernel is laid on, D = C_in * kh * kw, float64."""
        mean = self._sum / self._count
        covariance = self._products.double() / self._count - torch.outer(mean, mean)
        return mean + self._shift[:, 0], covariance


def observe(
    engine: Engine, canvases: Iterable[NDArray[np.uint8]], progress: Callable[[], None] = lambda: None
) -> dict[str, Observation]:
    """Watch what every convolution reads; transposed ones are left out, they stay in half precision.

    Args:
        engine: in float32 (`Engine(..., half=False)`).
        canvases: (3, H, W) uint8 RGB, letterboxed as the served model will see them.
        progress: called after each picture.

    Returns:
        By name of the convolution in the network.

    Raises:
        CalibrationError: if there is no picture.
    """
    observed: dict[str, Observation] = {}

    def watch(name: str) -> Callable[[nn.Conv2d, tuple[Tensor, ...], Any], None]:
        observation = observed[name] = Observation()
        return lambda convolution, inputs, _output: observation.add(convolution, inputs[0])

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in engine.network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    seen = 0
    try:
        with torch.inference_mode():
            for canvas in canvases:
                engine.network.raw(engine.normalize(torch.from_numpy(canvas)[None]))
                seen += 1
                progress()
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise CalibrationError("no pictures to calibrate with. Give a folder of pictures with --calibration DIR.")
    return observed


def decibels(signal: float, noise: float) -> float:
    """Of a ratio of powers."""
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))

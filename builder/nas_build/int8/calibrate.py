"""What the convolutions read while real pictures pass: magnitudes for the ranges, moments for rounding the weights.

The network runs in float64, and what is kept of it is rounded to float32 or coarser: sums in another order, on another
CPU or by more threads, come out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import CalibrationError
from ..graph.export import Engine
from ..yolo_nas.variants import RangeMethod

_BINS = 4096
_CANDIDATES = 96  # ranges that are tried
# Patches of a picture that count for the moments: as many as the deepest stage has at 640 x 640, and a bit.
_PATCHES = 512
_ENOUGH_PICTURES = 12  # for the moments: some times as many patches as a kernel has inputs


class Histogram:
    """Counts of |x|; the range doubles as larger values come, so that one pass over the pictures is enough.

    Attributes:
        low: the least value, at most 0.
        high: the largest value, at least 0.
    """

    def __init__(self) -> None:
        self.low = self.high = self.limit = 0.0
        self.counts: NDArray[np.float64] = np.zeros(_BINS)

    def add(self, x: Tensor) -> None:
        """Count one tensor."""
        low, high = (float(bound) for bound in torch.aminmax(x))
        self.low, self.high = min(self.low, low), max(self.high, high)
        magnitudes, peak = x.abs(), max(-low, high)
        if self.limit == 0.0:
            self.limit = peak or 1e-6
        while peak > self.limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2)])
            self.limit *= 2
        self.counts += torch.histc(magnitudes, _BINS, 0, self.limit).double().numpy()

    @property
    def peak(self) -> float:
        """The largest magnitude."""
        return max(-self.low, self.high)

    def amax(self, method: RangeMethod, step: Callable[[float], float]) -> float:
        """The magnitude up to which values are kept; larger ones are clipped.

        Args:
            method: "mse" has the least squared error, "entropy" loses the least information (Kullback-Leibler
                divergence of the distributions), "percentile-99.99" keeps so many per cent of the values, "max" all.
            step: between the values of an int8 grid up to a magnitude.
        """
        width = self.limit / _BINS
        top = int(np.flatnonzero(self.counts)[-1]) + 1
        if method == "max":
            return self.peak
        if method.startswith("percentile-"):
            kept = np.cumsum(self.counts) / self.counts.sum()
            share = float(method.removeprefix("percentile-")) / 100
            return min(float((np.searchsorted(kept, share) + 1) * width), self.peak)
        loss = self.squared_error if method == "mse" else self._divergence
        candidates = np.unique(np.linspace(max(1, top // 8), top, _CANDIDATES).astype(int))
        return float(min(candidates, key=lambda i: loss(i * width, step(i * width))) * width)

    def snr_db(self, amax: float, step: float) -> float:
        """Signal to noise of the values when multiples of `step` represent them up to `amax`, in decibels."""
        centres = (np.arange(_BINS) + 0.5) * self.limit / _BINS
        return decibels(float(self.counts @ centres**2), self.squared_error(amax, step))

    def squared_error(self, amax: float, step: float) -> float:
        """Of multiples of `step` up to `amax`, summed over all values."""
        centres = (np.arange(_BINS) + 0.5) * self.limit / _BINS
        return float(self.counts @ (centres - np.minimum(np.round(centres / step), round(amax / step)) * step) ** 2)

    def _divergence(self, amax: float, step: float) -> float:
        """Of what int8 leaves of the distribution from the distribution, clipped values counted at the range's end.

        The peak at zero, which every ReLU leaves, would outweigh all else: its bin counts like the next.
        """
        bins, levels = max(round(amax / self.limit * _BINS), 2), round(amax / step) + 1
        inside = self.counts[:bins].copy()
        inside[0] = inside[1]
        clipped = inside.copy()
        clipped[-1] += self.counts[bins:].sum()
        level = np.arange(bins) * levels // bins
        there = inside > 0
        members = np.bincount(level, there, levels)
        share = np.bincount(level, inside, levels) / np.maximum(members, 1)
        p = clipped / max(clipped.sum(), 1e-300)
        q = np.where(there, share[level], 0)
        q = q / max(q.sum(), 1e-300)
        both = p > 0
        return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())


class Observation:
    """What one convolution was given.

    Attributes:
        histogram: of its input.
        macs: multiply-accumulates for one picture.

    Args:
        every: so manieth picture counts for the moments, all do for the histogram.
        first: pictures before the first that counts.
    """

    def __init__(self, every: int = 1, first: int = 0) -> None:
        self.histogram = Histogram()
        self.macs = 0
        self._every, self._until_next = every, first
        self._count = 0
        self._shift = self._sum = self._products = torch.zeros(())

    def add(self, convolution: nn.Conv2d, x: Tensor) -> None:
        """Count one picture's input [1, C, H, W] float64."""
        self.histogram.add(x.float())
        rows, columns = _positions(convolution, x)
        self.macs = rows * columns * convolution.weight.numel()
        if self._until_next:
            self._until_next -= 1
            return
        self._until_next = self._every - 1
        patches = _patches(convolution, x)
        if not self._count:
            self._shift = patches.mean(dim=1, keepdim=True)  # near the mean, so that float32 keeps the variance
            self._products = torch.zeros(len(patches), len(patches))
        patches = patches - self._shift
        self._count += patches.shape[1]
        self._sum = self._sum + patches.sum(dim=1)
        self._products += patches @ patches.T

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and covariance [D, D] of the patches the kernel is laid on, D = C_in * kh * kw, float64."""
        mean = self._sum / self._count
        covariance = self._products.double() / self._count - torch.outer(mean, mean)
        return mean + self._shift[:, 0], covariance


def observe(
    engine: Engine, canvases: Iterable[NDArray[np.uint8]], progress: Callable[[], None] = lambda: None, count: int = 1
) -> dict[str, Observation]:
    """Watch what every convolution reads; transposed ones are left out, they stay in half precision.

    Args:
        engine: in float64.
        canvases: (3, H, W) uint8 RGB, letterboxed as the served model will see them.
        progress: called after each picture.
        count: of the canvases, about: of many not each has to count for all moments.

    Returns:
        By name of the convolution in the network.

    Raises:
        CalibrationError: if there is no picture.
    """
    observed: dict[str, Observation] = {}

    def watch(name: str) -> Callable[[nn.Conv2d, tuple[Tensor, ...], Any], None]:
        # Each picture counts for the moments of some of the convolutions.
        every = max(1, count // _ENOUGH_PICTURES)
        observation = observed[name] = Observation(every, len(observed) % every)
        return lambda convolution, inputs, _output: observation.add(convolution, inputs[0])

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in engine.network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    seen = 0
    try:
        for canvas in canvases:
            engine.answer(canvas, fresh=True)
            seen += 1
            progress()
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise CalibrationError("no pictures to calibrate with. Give a folder of pictures with --calibration DIR.")
    return observed


def _positions(convolution: nn.Conv2d, x: Tensor) -> tuple[int, int]:
    """Rows and columns of the output."""
    (kh, kw), (sh, sw), (ph, pw) = convolution.kernel_size, convolution.stride, _padding(convolution)
    return (x.shape[2] + 2 * ph - kh) // sh + 1, (x.shape[3] + 2 * pw - kw) // sw + 1


def _padding(convolution: nn.Conv2d) -> tuple[int, int]:
    assert not isinstance(convolution.padding, str), convolution
    top, left = convolution.padding
    return top, left


def _patches(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """What the kernel is laid on at some positions, [C_in * kh * kw, positions]."""
    (kh, kw), (sh, sw), (ph, pw) = convolution.kernel_size, convolution.stride, _padding(convolution)
    padded = nn.functional.pad(x[0], (pw, pw, ph, ph))
    rows, columns = _positions(convolution, x)
    # Every n-th position, n odd, so that no column of the picture is left out.
    chosen = torch.arange(0, rows * columns, -(-rows * columns // _PATCHES) | 1)
    top, left = chosen // columns * sh, chosen % columns * sw
    taps = [padded[:, top + i, left + j] for i in range(kh) for j in range(kw)]
    return torch.stack(taps, dim=1).flatten(0, 1)


def decibels(signal: float, noise: float) -> float:
    """Of a ratio of powers."""
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))

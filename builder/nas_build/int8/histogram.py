"""Magnitudes of what a convolution reads, and the range that int8 keeps of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..options import RangeMethod

_BINS = 4096
# Ranges that are tried, evenly from an eighth of the largest value seen on: to look at each takes long, and neighbours
# differ by less than 1 % of the largest. TensorRT's calibrators try all from a sixteenth on.
_CANDIDATES, _LEAST_SHARE = 96, 8


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
        candidates = np.unique(np.linspace(max(1, top // _LEAST_SHARE), top, _CANDIDATES).astype(int))
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

        TensorRT's (S. Migacz, "8-bit Inference with TensorRT", GTC 2017): the bins of a level share its values, empty
        ones get none. The peak at zero, which every ReLU leaves, would outweigh all else: its bin counts like the next,
        as in NVIDIA's pytorch-quantization.
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


def decibels(signal: float, noise: float) -> float:
    """Of a ratio of powers."""
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))

"""Weights as int8: rounded to the nearest value, or so that a convolution's output changes least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .calibrate import Observation
from .histogram import decibels
from .schemes import WEIGHT_MAX

_DAMPING = 0.01  # of the mean variance: keeps the covariance of few pictures invertible
_BLOCK = 128  # columns whose errors are passed on together


@dataclass(frozen=True)
class Rounded:
    """Weights of a convolution: `values * scales`, one scale per output channel.

    Attributes:
        values: (C_out, C_in, kh, kw).
        scales: (C_out,) float16, as the graph stores them.
        bias_shift: (C_out,) to add to the bias, so that the output keeps its mean.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float16]
    bias_shift: NDArray[np.float32]

    def dequantized(self) -> NDArray[np.float32]:
        """What the convolution computes with, (C_out, C_in, kh, kw)."""
        scales: NDArray[np.float32] = self.scales.astype(np.float32).reshape(-1, 1, 1, 1)
        return self.values * scales


def nearest(weights: NDArray[Any], pair_limit: int | None = None) -> Rounded:
    """Each weight to the nearest int8 value.

    Args:
        weights: (C_out, C_in, kh, kw).
        pair_limit: see `schemes.Scheme`.
    """
    bounds = _Bounds(weights, pair_limit)
    divided = weights.reshape(len(weights), -1).astype(np.float64) / bounds.scales[:, None]
    values = np.clip(np.round(divided), bounds.low, bounds.high).reshape(weights.shape)
    return Rounded(values.astype(np.int8), bounds.scales, np.zeros(len(values), np.float32))


def second_order(weights: NDArray[Any], observation: Observation, pair_limit: int | None = None) -> Rounded:
    """One input at a time, each rounding error made good by the inputs that are still to come.

    How much an input can make good follows from the covariance of what the convolution reads (GPTQ,
    https://arxiv.org/abs/2210.17323). A kernel with an identity in its centre tap gains most: its largest weight sets
    a scale that is coarse for all others. What remains of the mean goes into the bias
    (https://arxiv.org/abs/1906.04721). In float64, so that every machine rounds alike.

    Args:
        weights: (C_out, C_in, kh, kw).
        observation: of the same convolution.
        pair_limit: see `schemes.Scheme`.
    """
    bounds = _Bounds(weights, pair_limit)
    # A row per input, all outputs in it.
    low, high = (torch.from_numpy(array.T.astype(np.float64)) for array in (bounds.low, bounds.high))
    scales = torch.from_numpy(bounds.scales.astype(np.float64))
    exact = torch.from_numpy(weights.reshape(len(weights), -1).T.astype(np.float64))
    mean, covariance = observation.moments()
    covariance.diagonal().add_(max(float(covariance.diagonal().mean()) * _DAMPING, 1e-12))
    passing = _factor_of_inverse(covariance)
    values = torch.empty_like(exact)
    left = exact.clone()
    for start in range(0, len(mean), _BLOCK):
        block = slice(start, start + _BLOCK)
        within, rows = passing[block, block], left[block]
        errors = torch.empty_like(rows)
        for i, row in enumerate(rows):
            rounded = torch.clamp((row / scales).round(), low[start + i], high[start + i])
            values[start + i] = rounded
            errors[i] = (row - rounded * scales) / within[i, i]
            rows[i:].addr_(within[i, i:], errors[i], alpha=-1)
        left[start + _BLOCK :] -= passing[block, start + _BLOCK :].T @ errors
    shift = mean @ (exact - values * scales)
    return Rounded(values.T.to(torch.int8).reshape(weights.shape).numpy(), bounds.scales, shift.float().numpy())


def _factor_of_inverse(matrix: Tensor) -> Tensor:
    """Upper triangular, its transpose times itself the inverse of a positive definite matrix [D, D].

    It is the inverse of the matrix's own factor from the last row up, a quicker way than by the inverse itself.
    """
    return _inverse(torch.linalg.cholesky(matrix.flip(0, 1)).flip(0, 1))


def _inverse(upper: Tensor) -> Tensor:
    """Of an upper triangular matrix [D, D], by halves: products of matrices are what computers are fastest at."""
    size = len(upper)
    if size <= _BLOCK:
        smallest: Tensor = torch.linalg.solve_triangular(upper, torch.eye(size, dtype=upper.dtype), upper=True)
        return smallest
    half = size // 2
    first, last = _inverse(upper[:half, :half]), _inverse(upper[half:, half:])
    inverse = torch.zeros_like(upper)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[:half, half:] = first @ upper[:half, half:] @ -last
    return inverse


def output_snr_db(weights: NDArray[Any], rounded: Rounded, observation: Observation) -> float:
    """Signal to noise at the convolution's output, of the rounding alone, in decibels."""
    _, covariance = observation.moments()

    def power(matrix: NDArray[Any]) -> float:
        rows: Tensor = torch.from_numpy(matrix.astype(np.float64)).flatten(1)
        return float(((rows @ covariance) * rows).sum())

    return decibels(power(weights), power(weights - rounded.dequantized()))


class _Bounds:
    """Scales of the output channels, and how large each rounded weight may be.

    The largest weight of a channel would be 127. With a limit for pairs the scale is such that the two largest of one
    sign add up to less than it; what rounding may add to them is taken off the others.

    Attributes:
        scales: (C_out,) float16: rounded to the stored type before any weight is.
        low, high: (C_out, D) int64.
    """

    def __init__(self, weights: NDArray[Any], pair_limit: int | None) -> None:
        flat = weights.reshape(len(weights), -1).astype(np.float64)
        need = np.abs(flat).max(axis=1) / WEIGHT_MAX
        signs = (flat, -flat)
        if pair_limit:
            for signed in signs:
                pairs = np.sort(signed, axis=1)[:, -2:].clip(0).sum(axis=1)
                need = np.maximum(need, pairs / (pair_limit - 1))
        self.scales: NDArray[np.float16] = np.maximum(need.astype(np.float16), np.finfo(np.float16).smallest_subnormal)
        self.high, low = (self._most(signed, pair_limit) for signed in signs)
        self.low = -low

    def _most(self, weights: NDArray[np.float64], pair_limit: int | None) -> NDArray[np.int64]:
        most = np.full(weights.shape, WEIGHT_MAX)
        if pair_limit:
            rows, largest = np.arange(len(weights)), weights.argmax(axis=1)
            top = np.ceil(weights[rows, largest] / self.scales).clip(pair_limit // 2, WEIGHT_MAX).astype(int)
            most = np.minimum(most, pair_limit - top[:, None])
            most[rows, largest] = top
        return most

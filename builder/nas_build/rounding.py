"""Weights as int8: rounded to the nearest value, or so that a convolution's output changes least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .calibrate import INT8_MAX, Observation, decibels

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


def nearest(weights: NDArray[Any]) -> Rounded:
    """Each weight to the nearest int8 value.

    Args:
        weights: (C_out, C_in, kh, kw).
    """
    scales = _scales(weights)
    divisor = scales.astype(np.float32).reshape(-1, 1, 1, 1)
    values = np.clip(np.round(weights.astype(np.float32) / divisor), -INT8_MAX, INT8_MAX)
    return Rounded(values.astype(np.int8), scales, np.zeros(len(scales), np.float32))


def second_order(weights: NDArray[Any], observation: Observation) -> Rounded:
    """One input at a time, each rounding error made good by the inputs that are still to come.

    How much an input can make good follows from the covariance of what the convolution reads (GPTQ,
    https://arxiv.org/abs/2210.17323). A kernel with an identity in its centre tap gains most: its largest weight sets
    a scale that is coarse for all others. What remains of the mean goes into the bias
    (https://arxiv.org/abs/1906.04721).

    Args:
        weights: (C_out, C_in, kh, kw).
        observation: of the same convolution.
    """
    stored = _scales(weights)
    scales = torch.from_numpy(stored.astype(np.float32))
    exact = torch.from_numpy(weights.astype(np.float32)).flatten(1)
    mean, covariance = observation.moments()
    diagonal = covariance.diagonal()
    damped = covariance + torch.eye(len(mean), dtype=torch.float64) * max(float(diagonal.mean()) * _DAMPING, 1e-12)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    passing = torch.linalg.cholesky(inverse, upper=True).float()
    values = torch.empty_like(exact)
    left = exact.clone()
    for start in range(0, len(mean), _BLOCK):
        block = slice(start, start + _BLOCK)
        within = passing[block, block]
        errors = torch.empty_like(left[:, block])
        for i in range(errors.shape[1]):
            column = left[:, start + i]
            values[:, start + i] = (column / scales).round().clamp(-INT8_MAX, INT8_MAX)
            errors[:, i] = (column - values[:, start + i] * scales) / within[i, i]
            left[:, block][:, i:] -= torch.outer(errors[:, i], within[i, i:])
        left[:, start + _BLOCK :] -= errors @ passing[block, start + _BLOCK :]
    lost = exact - values * scales[:, None]
    return Rounded(values.to(torch.int8).reshape(weights.shape).numpy(), stored, (lost.double() @ mean).float().numpy())


def output_snr_db(weights: NDArray[Any], rounded: Rounded, observation: Observation) -> float:
    """Signal to noise at the convolution's output, of the rounding alone, in decibels."""
    _, covariance = observation.moments()

    def power(matrix: NDArray[Any]) -> float:
        rows: Tensor = torch.from_numpy(matrix.astype(np.float64)).flatten(1)
        return float(((rows @ covariance) * rows).sum())

    return decibels(power(weights), power(weights - rounded.dequantized()))


def _scales(weights: NDArray[Any]) -> NDArray[np.float16]:
    """The largest weight of each output channel is 127; rounded to the stored type before any weight is."""
    largest = np.abs(weights.astype(np.float32)).reshape(len(weights), -1).max(axis=1)
    smallest = np.finfo(np.float16).smallest_subnormal
    scales: NDArray[np.float16] = np.maximum((largest / INT8_MAX).astype(np.float16), smallest)
    return scales

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nas_build.int8 import rounding
from nas_build.int8.calibrate import Observation
from nas_build.int8.histogram import Histogram
from nas_build.int8.schemes import SIGNED, UNSIGNED, Grid, Scheme
from nas_build.options import RANGE_METHODS, RangeMethod
from numpy.typing import NDArray
from torch import nn


def seen(*values: float) -> Histogram:
    histogram = Histogram()
    histogram.add(torch.tensor(values))
    return histogram


def test_openvino_gets_all_steps_of_what_was_seen() -> None:
    positive = UNSIGNED.grid(seen(0.0, 0.5, 5.1), "max")
    assert (positive.type, positive.zero_point) == ("uint8", 0) and positive.scale == pytest.approx(0.02, rel=1e-3)
    signed = UNSIGNED.grid(seen(-1.0, 0.0, 3.0), "max")
    assert signed.zero_point == 64 and signed.scale == pytest.approx(4 / 255, rel=1e-3)
    assert signed.low == pytest.approx(-1, abs=signed.scale) and signed.high == pytest.approx(3, abs=signed.scale)
    late = UNSIGNED.grid(seen(2.0, 3.0), "max")  # padding is zero
    assert late.zero_point == 0 and late.low == 0


def test_tensorrt_gets_symmetric_ones() -> None:
    for histogram in (seen(0.0, 6.35), seen(-6.35, 0.1)):
        grid = SIGNED.grid(histogram, "max")
        assert grid == Grid("int8", float(np.float16(0.05))) and grid.low == -grid.high


@pytest.mark.parametrize("scheme", [SIGNED, UNSIGNED])
@pytest.mark.parametrize("method", RANGE_METHODS)
def test_a_tensor_that_is_always_zero(scheme: Scheme, method: RangeMethod) -> None:
    grid = scheme.grid(seen(0.0, 0.0), method)
    assert grid.scale > 0 and grid.zero_point == 0
    assert grid.stored()[0] > 0


def sums(values: NDArray[np.int8]) -> tuple[int, int]:
    """The largest and the least that two weights of a filter add up to, those of the other sign left out."""
    ordered = np.sort(values.reshape(len(values), -1).astype(int), axis=1)
    return int(ordered[:, -2:].clip(0).sum(axis=1).max()), int(ordered[:, :2].clip(None, 0).sum(axis=1).min())


WEIGHTS = arrays.arrays(
    np.float32,
    (3, 4, 2, 2),
    elements=st.one_of(st.just(0.0), st.floats(-2, -0.125, width=32), st.floats(0.015625, 2, width=32)),
)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(0, 1000))
def test_no_two_products_overflow_16_bits(weights: NDArray[np.float32], seed: int) -> None:
    torch.manual_seed(seed)
    observation = Observation()
    observation.add(nn.Conv2d(4, 3, 2), torch.rand(1, 4, 9, 9, dtype=torch.float64))
    limit = UNSIGNED.pair_limit
    assert limit is not None
    for rounded in (rounding.nearest(weights, limit), rounding.second_order(weights, observation, limit)):
        most, least = sums(rounded.values)
        assert -(2**15) <= 255 * least and 255 * most < 2**15
        # A step at most: the limit is kept by the scale, not by cutting weights.
        step = rounded.scales.astype(np.float64).reshape(-1, 1, 1, 1)
        if rounded.bias_shift.any():
            continue
        assert (np.abs(rounded.dequantized() - weights) <= 0.5 * step + np.abs(weights) * 2**-10 + 1e-7).all()


def test_a_kernel_with_an_identity_keeps_most_of_its_steps() -> None:
    """Half of them are lost only where two weights are as large as each other."""
    weights = np.full((2, 8, 1, 1), 0.1, np.float32)
    weights[0, 3] = 1.0
    weights[1, :2] = 1.0
    rounded = rounding.nearest(weights, 128)
    assert rounded.values[0].max() == 115 and rounded.values[1].max() == 64
    assert rounding.nearest(weights).values.max() == 127

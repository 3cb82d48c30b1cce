from __future__ import annotations

import numpy as np
import pytest
import torch
from nas_build.int8 import rounding
from nas_build.int8.calibrate import Observation
from nas_build.int8.rounding import Rounded
from numpy.typing import NDArray
from torch import nn


@pytest.fixture
def pictures() -> torch.Tensor:
    """Smooth, positive and channel by channel alike, as feature maps are."""
    torch.manual_seed(0)
    noise = torch.relu(torch.randn(8, 1, 24, 24) + 0.3 * torch.randn(8, 16, 24, 24))
    return nn.functional.avg_pool2d(noise, 3, 1, 1)


@pytest.fixture
def convolution() -> nn.Conv2d:
    """Small weights beside an identity, as fused blocks have."""
    torch.manual_seed(1)
    convolution = nn.Conv2d(16, 16, 3, padding=1)
    torch.nn.init.normal_(convolution.weight, std=0.02)
    with torch.no_grad():
        convolution.weight[:, :, 1, 1] += torch.eye(16)
    return convolution


def observed(convolution: nn.Conv2d, pictures: torch.Tensor) -> Observation:
    observation = Observation()
    for picture in pictures:
        observation.add(convolution, picture[None].double())
    return observation


def weights_of(convolution: nn.Conv2d) -> NDArray[np.float32]:
    weights: NDArray[np.float32] = convolution.weight.detach().numpy()
    return weights


def output_error(convolution: nn.Conv2d, rounded: Rounded, pictures: torch.Tensor) -> tuple[float, float]:
    """Standard deviation and largest mean of what the output is off."""
    assert convolution.bias is not None
    with torch.no_grad():
        expected = convolution(pictures)
        bias = convolution.bias + torch.from_numpy(rounded.bias_shift)
        got = nn.functional.conv2d(pictures, torch.from_numpy(rounded.dequantized()), bias, padding=1)
        off = got - expected
    return float(off.std()), float(off.mean(dim=(0, 2, 3)).abs().max())


def test_nearest_comes_back_within_half_a_step() -> None:
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(8, 4, 3, 3)) * np.logspace(-6, 1, 8).reshape(-1, 1, 1, 1)).astype(np.float32)
    weights[3] = 0
    rounded = rounding.nearest(weights)
    assert rounded.values.dtype == np.int8 and rounded.values.min() >= -127 and rounded.scales.dtype == np.float16
    step = rounded.scales.astype(np.float64).reshape(-1, 1, 1, 1)
    # Half a step, and for the largest of a channel what rounding the scale itself to float16 costs.
    slack = 0.5 + 127 * 2**-11
    smallest = np.finfo(np.float16).smallest_subnormal * 128
    assert (np.abs(rounded.values * step - weights.astype(np.float64)) <= np.maximum(slack * step, smallest)).all()
    assert not rounded.bias_shift.any()


def test_second_order_disturbs_the_output_less(convolution: nn.Conv2d, pictures: torch.Tensor) -> None:
    observation = observed(convolution, pictures[:6])
    unseen = pictures[6:]
    nearest = rounding.nearest(weights_of(convolution))
    second_order = rounding.second_order(weights_of(convolution), observation)
    assert np.array_equal(nearest.scales, second_order.scales) and second_order.values.shape == (16, 16, 3, 3)
    plain, plain_mean = output_error(convolution, nearest, unseen)
    better, better_mean = output_error(convolution, second_order, unseen)
    assert better < 0.5 * plain
    assert better_mean < 0.2 * plain_mean


def test_the_reported_ratio_is_the_measured_one(convolution: nn.Conv2d, pictures: torch.Tensor) -> None:
    observation = observed(convolution, pictures)
    weights = weights_of(convolution)
    with torch.no_grad():
        signal = float(convolution(pictures).std(dim=(0, 2, 3)).square().sum())
    for rounded in (rounding.nearest(weights), rounding.second_order(weights, observation)):
        with torch.no_grad():
            lost = torch.from_numpy(weights - rounded.dequantized())
            noise = float(nn.functional.conv2d(pictures, lost, padding=1).std(dim=(0, 2, 3)).square().sum())
        measured = 10 * np.log10(signal / noise)
        assert rounding.output_snr_db(weights, rounded, observation) == pytest.approx(measured, abs=0.3)


def test_channels_that_are_never_lit_and_a_single_picture() -> None:
    convolution = nn.Conv2d(4, 2, 3, padding=1)
    picture = torch.zeros(1, 4, 8, 8)
    picture[:, 0] = torch.rand(8, 8)
    rounded = rounding.second_order(weights_of(convolution), observed(convolution, picture))
    nearest = rounding.nearest(weights_of(convolution))
    assert np.array_equal(rounded.values[:, 1:], nearest.values[:, 1:])
    dark = rounding.second_order(weights_of(convolution), observed(convolution, torch.zeros(1, 4, 8, 8)))
    assert np.array_equal(dark.values, nearest.values) and not dark.bias_shift.any()

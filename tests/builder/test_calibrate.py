from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import PICTURES, canvas_of
from nas_build.errors import CalibrationError
from nas_build.graph.export import Engine
from nas_build.int8 import calibrate
from nas_build.int8.calibrate import Histogram, Observation
from nas_build.yolo_nas.network import YoloNAS
from nas_build.yolo_nas.processing import COCO
from nas_build.yolo_nas.variants import RANGE_METHODS
from torch import nn


def test_histogram_keeps_counts_when_the_range_grows() -> None:
    histogram = Histogram()
    for scale in (0.0, 0.1, 5.0, 0.3, 80.0):
        histogram.add(torch.linspace(-scale, scale, 1001))
    assert histogram.counts.sum() == 5 * 1001
    assert histogram.limit >= 80


def step(amax: float) -> float:
    """Of symmetric int8."""
    return amax / 127


def test_range_clips_one_outlier_but_not_a_plain_tensor() -> None:
    plain, outlier = Histogram(), Histogram()
    uniform = torch.linspace(-1, 1, 100_000)
    plain.add(uniform)
    outlier.add(torch.cat([uniform, torch.tensor([30.0])]))
    assert 0.98 <= plain.amax("mse", step) <= 1.02
    assert outlier.amax("mse", step) < 25
    assert outlier.amax("max", step) == 30


def heavy_tailed() -> Histogram:
    histogram = Histogram()
    histogram.add(torch.distributions.StudentT(3.0).sample((2_000_000,)))
    return histogram


def test_each_method_is_the_best_at_what_it_minds() -> None:
    torch.manual_seed(0)
    histogram = heavy_tailed()
    ranges = {method: histogram.amax(method, step) for method in RANGE_METHODS}
    assert ranges["max"] == histogram.peak == max(ranges.values()) and min(ranges.values()) > 1
    assert len(set(ranges.values())) == len(RANGE_METHODS)
    assert min(ranges.values(), key=lambda amax: histogram.squared_error(amax, step(amax))) == ranges["mse"]
    assert max(ranges.values(), key=lambda amax: histogram.snr_db(amax, step(amax))) == ranges["mse"]
    assert min(ranges.values(), key=lambda amax: histogram._divergence(amax, step(amax))) == ranges["entropy"]
    for method in ("percentile-99.99", "percentile-99.999"):
        share = float(method.removeprefix("percentile-")) / 100
        kept = float(histogram.counts[: round(ranges[method] / histogram.limit * 4096)].sum() / 2_000_000)  # type: ignore[index]
        assert share <= kept < share + 2e-5


def test_signal_to_noise_of_evenly_spread_values() -> None:
    """Steps of 1 / 127 leave noise of a twelfth of their square."""
    histogram = Histogram()
    histogram.add(torch.linspace(-1, 1, 1_000_001))
    assert histogram.snr_db(1.0, step(1.0)) == pytest.approx(10 * np.log10(4 * 127**2), abs=0.1)
    assert histogram.snr_db(0.5, step(0.5)) < 15  # half of them clipped


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_moments_are_those_of_what_the_kernel_reads(offset: float) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, 3, padding=1)
    pictures = torch.randn(4, 3, 16, 16) * torch.tensor([0.1, 1, 3]).reshape(1, 3, 1, 1) + offset
    observation = Observation()
    for picture in pictures:
        observation.add(convolution, picture[None].double())
    mean, covariance = observation.moments()
    patches = nn.functional.unfold(pictures.double(), 3, padding=1).transpose(0, 1).flatten(1)
    assert torch.allclose(mean, patches.mean(dim=1), rtol=1e-5, atol=1e-6)
    assert torch.allclose(covariance, torch.cov(patches, correction=0), rtol=1e-4, atol=1e-4 * (1 + offset))
    assert observation.macs == 16 * 16 * 5 * 27


def test_a_large_picture_counts_by_a_sample_of_its_positions() -> None:
    convolution, observation = nn.Conv2d(1, 1, 1), Observation()
    columns = torch.arange(128.0, dtype=torch.float64).expand(1, 1, 128, 128)
    observation.add(convolution, columns)
    assert 256 < observation._count <= 512
    mean, _ = observation.moments()
    assert float(mean) == pytest.approx(63.5, rel=0.02)  # every column takes part
    assert observation.histogram.counts.sum() == 128 * 128


def test_every_convolution_is_observed(demo_network: YoloNAS) -> None:
    reference, seen = Engine(demo_network, COCO, torch.float64), []
    observed = calibrate.observe(reference, [canvas_of(PICTURES[0])], lambda: seen.append(1))
    convolutions = {name for name, m in reference.network.named_modules() if isinstance(m, nn.Conv2d)}
    assert observed.keys() == convolutions and len(convolutions) == 98 and len(seen) == 1
    assert 0.9 <= observed["backbone.stem.conv.conv"].histogram.peak <= 1.0  # pixels / 255
    assert not any(module._forward_hooks for module in reference.network.modules())


def test_no_picture(demo_network: YoloNAS) -> None:
    with pytest.raises(CalibrationError, match="no pictures to calibrate with"):
        calibrate.observe(Engine(demo_network, COCO, torch.float64), [])

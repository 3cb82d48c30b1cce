from __future__ import annotations

import numpy as np
import pytest
import torch
from nas_build.int8.histogram import Histogram
from nas_build.options import RANGE_METHODS
from numpy.typing import NDArray


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


def by_migacz(counts: NDArray[np.float64], bins: int, levels: int) -> float:
    """His pseudo-code (GTC 2017) for a range of so many bins, with bin 0 counted like bin 1."""
    inside = [counts[1], *counts[1:bins]]
    p = [*inside[:-1], inside[-1] + counts[bins:].sum()]
    q = np.zeros(bins)
    for level in range(levels):
        members = [i for i in range(bins) if i * levels // bins == level and inside[i] > 0]
        for i in members:
            q[i] = sum(inside[j] for j in members) / len(members)
    p, q = p / np.sum(p), q / np.sum(q)
    return sum(float(a * np.log(a / b)) for a, b in zip(p, q, strict=True) if a > 0)


def test_the_information_lost_is_tensorrts() -> None:
    torch.manual_seed(0)
    histogram = heavy_tailed()
    amax = histogram.limit * 256 / len(histogram.counts)
    expected = by_migacz(histogram.counts, 256, 128)
    assert histogram._divergence(amax, step(amax)) == pytest.approx(expected, rel=1e-6)

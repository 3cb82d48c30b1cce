from __future__ import annotations

import pytest
import torch
from nas_build.errors import CalibrationError
from nas_build.graph.export import Exported
from nas_build.int8 import calibrate
from nas_build.int8.calibrate import Observation
from torch import nn


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


def test_every_convolution_is_observed(exported: Exported, observed: dict[str, Observation]) -> None:
    reference = exported.reference
    convolutions = {name for name, m in reference.network.named_modules() if isinstance(m, nn.Conv2d)}
    assert observed.keys() == convolutions and len(convolutions) == 98
    assert 0.9 <= observed["backbone.stem.conv.conv"].histogram.peak <= 1.0  # pixels / 255
    assert not any(module._forward_hooks for module in reference.network.modules())


def test_no_picture(exported: Exported) -> None:
    with pytest.raises(CalibrationError, match="no pictures to calibrate with"):
        calibrate.observe(exported.reference, [])

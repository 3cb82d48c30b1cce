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
from ..graph.export import EndToEnd
from .histogram import Histogram

# Patches of a picture that count for the moments: as many as the deepest stage has at 640 x 640, and a bit.
_PATCHES = 512
_ENOUGH_PICTURES = 12  # for the moments: some times as many patches as a kernel has inputs


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


def observe(reference: EndToEnd, canvases: Iterable[NDArray[np.uint8]], count: int = 1) -> dict[str, Observation]:
    """Watch what every convolution reads; transposed ones are left out, they stay in half precision.

    Args:
        reference: in float64.
        canvases: (3, H, W) uint8 RGB, letterboxed as the served model will see them.
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
        for name, module in reference.network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    seen = 0
    try:
        for canvas in canvases:
            reference.answer(canvas, fresh=True)
            seen += 1
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise CalibrationError("no pictures to calibrate with.", options=("int8.calibration",))
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

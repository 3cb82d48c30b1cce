"""What targets want int8 to be: types of activations, and weights that their kernels can add up.

The network and its calibration are the same for all targets; these numbers are not. TensorRT computes symmetric signed
activations as written. OpenVINO does not compute what a signed Q/DQ behind a Concat says, and behind a ReLU half of a
signed range is unused: it gets unsigned ones, with a zero point where a tensor can be negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..options import RangeMethod

if TYPE_CHECKING:
    from .histogram import Histogram

ActivationType = Literal["int8", "uint8"]
WEIGHT_MAX = 127
_LIMITS: Mapping[ActivationType, tuple[int, int]] = {"int8": (-127, 127), "uint8": (0, 255)}
_SMALLEST_SCALE = np.finfo(np.float16).smallest_subnormal


@dataclass(frozen=True)
class Grid:
    """The values that an activation can take: `(q - zero_point) * scale`.

    Attributes:
        type: of q. int8 is symmetric, -127 to 127; uint8 takes all of 0 to 255.
        scale: as the graph stores it, a float16.
        zero_point: the q of 0.
    """

    type: ActivationType
    scale: float
    zero_point: int = 0

    @property
    def low(self) -> float:
        """The least value."""
        return (_LIMITS[self.type][0] - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """The largest value."""
        return (_LIMITS[self.type][1] - self.zero_point) * self.scale

    def stored(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Scale and zero point as the graph has them."""
        return np.asarray(self.scale, np.float16), np.asarray(self.zero_point, self.type)


@dataclass(frozen=True)
class Scheme:
    """How a target quantizes.

    Attributes:
        activations: their type; weights are int8, symmetric, with a scale for each output channel.
        pair_limit: no two weights of a filter add up to more, or less than its negative. Without VNNI, x86 kernels add
            two products of a uint8 and a weight in 16 bits: 255 * 128 fits, 255 * (127 + 127) does not, and which two
            meet is the kernel's affair. None: the target adds in 32 bits.
    """

    activations: ActivationType
    pair_limit: int | None = None

    def grid(self, histogram: Histogram, method: RangeMethod) -> Grid:
        """The grid of an activation, its range chosen by `method`."""
        return self._grid(histogram, histogram.amax(method, lambda amax: self._grid(histogram, amax).scale))

    def _grid(self, histogram: Histogram, amax: float) -> Grid:
        """The finest grid from -amax to amax, as far as values were seen there."""
        if self.activations == "int8":
            return Grid("int8", _as_stored(amax / _LIMITS["int8"][1]))
        low, high = max(histogram.low, -amax), min(histogram.high, amax)
        least, most = _LIMITS["uint8"]
        scale = _as_stored((high - low) / (most - least))
        return Grid("uint8", scale, min(round(-low / scale), most))


SIGNED = Scheme("int8")  # of TensorRT
UNSIGNED = Scheme("uint8", pair_limit=128)  # of OpenVINO


def _as_stored(scale: float) -> float:
    return float(max(np.float16(scale), _SMALLEST_SCALE))

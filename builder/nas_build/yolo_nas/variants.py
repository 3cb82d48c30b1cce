"""What can be built: kept apart from the modules that import PyTorch, so that help and no-op builds are quick."""

from __future__ import annotations

from typing import Literal, get_args

Variant = Literal["s", "m", "l"]
Precision = Literal["fp16", "int8"]
Target = Literal["openvino", "tensorrt"]

RangeMethod = Literal["max", "mse", "entropy", "percentile-99.99", "percentile-99.999", "percentile-99.9999"]
CalibrationMethod = Literal["auto", RangeMethod]

VARIANTS: tuple[Variant, ...] = get_args(Variant)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TARGETS: tuple[Target, ...] = get_args(Target)
RANGE_METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)

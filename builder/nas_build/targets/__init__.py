"""What an engine can be built for. A new target is a file here and a row below: see docs/adding-a-target.md."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import OptionError, PlanError
from ..options import Options
from ..progress import Warn
from .base import EngineFile, EngineGraph, Target
from .openvino import OpenVINO
from .tensorrt import TensorRT
from .tensorrt.gpus import find_gpu
from .tensorrt_rtx import TensorRTRTX

__all__ = ["AUTO", "CHOICES", "TARGETS", "EngineFile", "EngineGraph", "Target", "find", "get"]

TARGETS: Mapping[str, type[Target]] = {
    "openvino": OpenVINO,
    "tensorrt": TensorRT,
    "tensorrt-rtx": TensorRTRTX,
}
AUTO = "auto"  # whichever suits this machine
CHOICES = (AUTO, *TARGETS)


def get(name: str) -> type[Target]:
    """By its name.

    Raises:
        OptionError: if there is no such target.
    """
    if name not in TARGETS:
        raise OptionError(f"there is no target {name!r}; expected one of {', '.join(CHOICES)}.", options=("target",))
    return TARGETS[name]


def find(options: Options, warn: Warn) -> Target:
    """Of the options. For "auto" tensorrt if a GPU is here and a plan can be built, or a way is named; else openvino.

    Raises:
        OptionError: if there is no such target.
        PlanError: if it cannot be built for here; says what is missing and how to get it.
    """
    if options.target != AUTO:
        return get(options.target).find(options, warn)
    if options.tensorrt.way != "auto":  # perhaps on another machine
        return TensorRT.find(options, warn)
    try:
        find_gpu()
    except PlanError:
        return OpenVINO.find(options, warn)
    try:
        return TensorRT.find(options, warn)
    except PlanError as error:
        warn(f"there is a GPU, but {error}\n  Building for OpenVINO on the CPU instead.", options=error.options)
        return OpenVINO.find(options, warn)

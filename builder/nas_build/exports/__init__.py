"""Checkpoints as files of other runtimes. A new format is a module here and a row below."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..errors import OptionError

if TYPE_CHECKING:
    from .base import Format


class Row(NamedTuple):
    """Where a format is, so that naming them loads no PyTorch."""

    module: str
    class_name: str
    description: str


FORMATS: Mapping[str, Row] = {
    "onnx": Row("plain", "Plain", "boxes and scores of all anchors; float32 RGB from 0 to 1 in"),
    "frigate": Row("frigate", "Frigate", "Frigate's model_type yolonas: uint8 BGR in, 20 rows of 7 out"),
    "deepstream": Row("deepstream", "DeepStream", "DeepStream-Yolo's parser: float32 RGB in, [B, N, 6] out"),
    "sg-flat": Row("super_gradients", "Flat", "super-gradients' FLAT_FORMAT: uint8 RGB in, [N, 7] out"),
    "sg-batch": Row("super_gradients", "Batch", "super-gradients' BATCH_FORMAT: uint8 RGB in, four tensors out"),
}


def get(name: str) -> type[Format]:
    """By its name.

    Raises:
        OptionError: if there is no such format.
    """
    if name not in FORMATS:
        raise OptionError(f"there is no format {name!r}; expected one of {', '.join(FORMATS)}.", options=("format",))
    row = FORMATS[name]
    found: type[Format] = getattr(importlib.import_module(f".{row.module}", __name__), row.class_name)
    return found

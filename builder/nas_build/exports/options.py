"""What can be asked of an export. Free of PyTorch, as `nas_build.options`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import OptionError
from ..options import ProcessingSource, Variant

Batch = int | Literal["dynamic"]
STRIDE = 32  # the network's largest


@dataclass(frozen=True)
class ExportOptions:
    """What to export. None takes the format's default, or what the checkpoint was saved with.

    Attributes:
        weights: as of a build: "demo", "coco", hf://..., a URL or a file.
        format: a name of `exports.FORMATS`.
        output: file; None: CHECKPOINT_FORMAT.onnx in the working folder. Labels go beside it where a format has them.
        size_hw: canvas height and width in pixels.
        batch: pictures the file takes at once.
        score_threshold, iou_threshold, max_detections: of the NMS in the graph, or of the printed configuration.
        variant: expected in the checkpoint.
        sha256: of the weights' file.
        class_names: file with one name per line.
        processing: whose preprocessing to compile into the graph.
        force: write over files that are there.
    """

    weights: str | Path
    format: str
    output: Path | None = None
    size_hw: tuple[int, int] | None = None
    batch: Batch | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None
    variant: Variant | None = None
    sha256: str | None = None
    class_names: Path | None = None
    processing: ProcessingSource = "checkpoint"
    force: bool = False

    def __post_init__(self) -> None:
        if self.size_hw and (min(self.size_hw) < STRIDE or any(side % STRIDE for side in self.size_hw)):
            height, width = self.size_hw
            raise OptionError(f"sides must be multiples of {STRIDE}, got {height} x {width}.", options=("size",))
        if isinstance(self.batch, int) and self.batch < 1:
            raise OptionError(f"must be 1 or more, or dynamic; got {self.batch}.", options=("batch",))


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of "640" or "384x640".

    Raises:
        OptionError: if it is neither.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise OptionError(f"expected pixels, 640 or 384x640 (height x width), got {text!r}.", options=("size",))
    height = int(match[1])
    return height, int(match[2] or height)


def parse_batch(text: str) -> Batch:
    """A number, or "dynamic".

    Raises:
        OptionError: if it is neither.
    """
    if text == "dynamic":
        return "dynamic"
    if not text.isdecimal():
        raise OptionError(f"expected a number or dynamic, got {text!r}.", options=("batch",))
    return int(text)

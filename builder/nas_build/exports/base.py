"""What every format answers: its graph, how its output is read, and what its runtime has to be told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx
from nas_ensembles import contract
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import Candidates
from numpy.typing import NDArray

from ..errors import OptionError
from ..graph import export as graphs
from ..yolo_nas.network import YoloNAS
from ..yolo_nas.processing import Processing
from . import opset
from .network import Raw
from .options import Batch, ExportOptions

INPUT = "input"
Outputs = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Settings:
    """What a file is made for.

    Attributes:
        letterbox: how its runtime fits pictures into the canvas.
        batch: pictures at once.
        thresholds: of the NMS, in the graph or behind it.
    """

    letterbox: LetterboxSpec
    batch: Batch
    thresholds: contract.Thresholds


class Format(ABC):
    """One format, for one network.

    Args:
        processing: of the checkpoint.
        class_names: by label.
        options: what was asked for.

    Attributes:
        own_options: those that only some formats have.
        channels: order of the input's, "RGB" or "BGR".
        pixels: range of its values.
        best_class_only: an anchor gives one detection, not one for each class that scores.
        nms_in_graph: the file's answers are detections.
        default_batch: pictures at once.
        settings: what was asked for, with the format's defaults for the rest.
    """

    own_options: ClassVar[frozenset[str]] = frozenset({"batch"})
    channels: ClassVar[str] = "RGB"
    pixels: ClassVar[str] = "0 to 255"
    best_class_only: ClassVar[bool] = False
    nms_in_graph: ClassVar[bool] = False
    default_batch: ClassVar[Batch] = 1

    def __init__(self, processing: Processing, class_names: Sequence[str], options: ExportOptions) -> None:
        for name in ("batch", "score_threshold", "iou_threshold", "max_detections"):
            if getattr(options, name) is not None and name not in self.own_options:
                raise OptionError(f"{options.format} has no such option.", options=(name,))
        self.processing, self.class_names = processing, class_names
        self.settings = Settings(
            self.letterbox(options.size_hw), options.batch or self.default_batch, self.thresholds(options)
        )

    def letterbox(self, size_hw: tuple[int, int] | None) -> LetterboxSpec:
        """The checkpoint's, scaled to the size: COCO's fit of 636 in 640 becomes 318 in 320."""
        spec = self.processing.letterbox
        if size_hw is None:
            return spec
        fit = [max(1, round(f * new / old)) for f, new, old in zip(spec.fit_hw, size_hw, spec.size_hw, strict=True)]
        return replace(spec, size_hw=size_hw, fit_hw=(fit[0], fit[1]))

    def thresholds(self, options: ExportOptions) -> contract.Thresholds:
        """As asked for, else the checkpoint's."""
        asked = {
            name.removesuffix("_threshold"): value
            for name in ("score_threshold", "iou_threshold", "max_detections")
            if (value := getattr(options, name)) is not None
        }
        try:
            return replace(self.processing.thresholds, **asked)
        except ValueError as error:
            raise OptionError(f"{error}.") from None

    def build(self, network: YoloNAS, name: str) -> onnx.ModelProto:
        """The file's graph.

        Args:
            network: with its weights.
            name: of the graph.
        """
        model = self.graph(network, name)
        onnx.checker.check_model(model, full_check=True)
        return model

    @abstractmethod
    def graph(self, network: YoloNAS, name: str) -> onnx.ModelProto:
        """Before it is checked."""

    @abstractmethod
    def detections(self, outputs: Outputs, row: int, thresholds: contract.Thresholds) -> Candidates:
        """What the file's outputs say of one picture of the batch, NMS done; in canvas pixels."""

    def feed(self, canvas: NDArray[np.uint8]) -> NDArray[Any]:
        """What the file takes of a canvas, (3, H, W) uint8 RGB."""
        return np.ascontiguousarray(canvas if self.channels == "RGB" else canvas[::-1])

    @property
    def lines(self) -> list[str]:
        """Names by label, each on one line."""
        return [" ".join(name.split()) for name in self.class_names]

    def labels(self) -> Mapping[str, str]:
        """Text files that belong beside the file, by name."""
        return {}

    def notes(self, file: str) -> str:
        """What to write into the runtime's configuration.

        Args:
            file: name of the exported file.
        """
        return ""


def traced(module: Raw, settings: Settings, name: str, outputs: Sequence[str], dtype: Any) -> onnx.ModelProto:
    """The module as ONNX.

    Args:
        module: with its weights.
        settings: for the canvas and the batch.
        name: of the graph.
        outputs: names.
        dtype: of the input, torch's.
    """
    import torch

    dynamic = settings.batch == "dynamic"
    example = torch.zeros(2 if dynamic else int(settings.batch), 3, *settings.letterbox.size_hw, dtype=dtype)
    model = graphs.trace(module, example, INPUT, outputs, opset.TRACED, dynamic_batch=dynamic)
    graphs.tidy(model, name)
    opset.lower(model)
    return model

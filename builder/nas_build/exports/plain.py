"""The network alone: what a program of one's own reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from nas_ensembles import contract, nms
from nas_ensembles.pipeline import Candidates
from numpy.typing import NDArray

from ..yolo_nas.network import YoloNAS
from .base import Format, Outputs, traced
from .network import Raw


class Plain(Format):
    """`boxes` [B, N, 4] xyxy in canvas pixels and `scores` [B, N, C], of float32 RGB from 0 to 1."""

    pixels = "0 to 1"

    def graph(self, network: YoloNAS, name: str) -> onnx.ModelProto:
        """See `Format.build`."""
        module = Raw(network, self.processing, unit_input=True)
        return traced(module, self.settings, name, ("boxes", "scores"), torch.float32)

    def feed(self, canvas: NDArray[np.uint8]) -> NDArray[Any]:
        """See `Format.feed`."""
        return canvas.astype(np.float32) / np.float32(255)

    def detections(self, outputs: Outputs, row: int, thresholds: contract.Thresholds) -> Candidates:
        """See `Format.detections`."""
        return selected(outputs[0][row], outputs[1][row], thresholds)


def selected(boxes: NDArray[Any], scores: NDArray[Any], thresholds: contract.Thresholds) -> Candidates:
    """NMS over all (anchor, class) pairs.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N, C).
        thresholds: as a request would set them.
    """
    anchors, labels = np.nonzero(scores > thresholds.score)
    found = Candidates(
        boxes[anchors].astype(np.float32), scores[anchors, labels].astype(np.float32), labels.astype(np.int32)
    )
    kept = nms.select(*found, thresholds)
    return Candidates(found.boxes[kept], found.scores[kept], found.labels[kept])

"""What super-gradients' `model.export(...)` writes for ONNX Runtime: normalization and NMS in the graph.

`src/super_gradients/conversion/onnx/nms.py` of super-gradients 3.7.1. Rows differ in their order alone: they are sorted
by score, where super-gradients leaves them by class, and cuts them off so.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx
import torch
from nas_ensembles import contract
from nas_ensembles.pipeline import Candidates

from ..yolo_nas.network import YoloNAS
from . import nms
from .base import Format, Outputs, traced
from .network import BestAnchors


class WithNMS(Format):
    """uint8 pictures in, NMS in the graph."""

    own_options = frozenset({"batch", "score_threshold", "iou_threshold", "max_detections"})
    nms_in_graph = True
    output: ClassVar[tuple[str, str]]

    def graph(self, network: YoloNAS, name: str) -> onnx.ModelProto:
        """See `Format.build`."""
        module = BestAnchors(network, self.processing, bgr_input=self.channels == "BGR")
        model = traced(module, self.settings, name, (nms.BOXES, nms.SCORES), torch.uint8)
        nms.append(model, self.output, self.settings.thresholds)
        return model


class Flat(WithNMS):
    """FLAT_FORMAT: [N, 7] of picture, x1, y1, x2, y2, score, label; of all pictures, one after the other."""

    output = nms.FLAT

    def detections(self, outputs: Outputs, row: int, thresholds: contract.Thresholds) -> Candidates:
        """See `Format.detections`."""
        rows = outputs[0][outputs[0][:, 0] == row]
        return Candidates(rows[:, 1:5], rows[:, 5], rows[:, 6].astype(np.int32))


class Batch(WithNMS):
    """BATCH_FORMAT: num_predictions [B, 1], pred_boxes [B, N, 4], pred_scores [B, N], pred_classes [B, N]."""

    output = nms.BATCH

    def detections(self, outputs: Outputs, row: int, thresholds: contract.Thresholds) -> Candidates:
        """See `Format.detections`."""
        count = int(outputs[0][row, 0])
        boxes, scores, labels = (tensor[row, :count] for tensor in outputs[1:])
        return Candidates(boxes, scores, labels.astype(np.int32))

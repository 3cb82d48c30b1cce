"""The rows that DeepStream-Yolo's `NvDsInferParseYolo` reads, and the file that it is configured with.

`utils/export_yolonas.py`, `config_infer_primary_yolonas.txt` and `nvdsparsebbox_Yolo.cpp` of
marcoslucianops/DeepStream-Yolo, since it has one parser for all (November 2024). Before, there were two; this graph is
read by neither of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from nas_ensembles import contract
from nas_ensembles.pipeline import Candidates

from ..yolo_nas.network import YoloNAS
from .base import Outputs, traced
from .network import BestClass
from .plain import Plain, selected

_LABELS = "labels.txt"


class DeepStream(Plain):
    """`output` [B, N, 6]: x1, y1, x2, y2, score, label of every anchor's best class; DeepStream does the NMS."""

    own_options = frozenset({"batch", "score_threshold", "iou_threshold", "max_detections"})
    best_class_only = True
    default_batch = "dynamic"

    def graph(self, network: YoloNAS, name: str) -> onnx.ModelProto:
        """See `Format.build`."""
        module = BestClass(network, self.processing, unit_input=True)
        return traced(module, self.settings, name, ("output",), torch.float32)

    def detections(self, outputs: Outputs, row: int, thresholds: contract.Thresholds) -> Candidates:
        """See `Format.detections`."""
        rows = outputs[0][row]
        scores = np.zeros((len(rows), len(self.class_names)), np.float32)
        scores[np.arange(len(rows)), rows[:, 5].astype(int)] = rows[:, 4]
        return selected(rows[:, :4], scores, thresholds)

    def labels(self) -> Mapping[str, str]:
        """One name per line."""
        return {_LABELS: "".join(f"{name}\n" for name in self.lines)}

    def notes(self, file: str) -> str:
        """For config_infer_primary_yolonas.txt."""
        spec, thresholds, batch = self.settings.letterbox, self.settings.thresholds, self.settings.batch
        batch = 1 if batch == "dynamic" else batch
        return f"""\
[property]
gpu-id=0
net-scale-factor=0.0039215697906911373
model-color-format=0
onnx-file={file}
model-engine-file=model_b{batch}_gpu0_fp32.engine
labelfile-path={_LABELS}
batch-size={batch}
network-mode=0
num-detected-classes={len(self.class_names)}
interval=0
gie-unique-id=1
process-mode=1
network-type=0
cluster-mode=2
maintain-aspect-ratio={int(not spec.stretch)}
symmetric-padding={int(spec.placement == "center" and not spec.stretch)}
parse-bbox-func-name=NvDsInferParseYolo
custom-lib-path=nvdsinfer_custom_impl_Yolo/libnvdsinfer_custom_impl_Yolo.so
engine-create-func-name=NvDsInferYoloCudaEngineGet

[class-attrs-all]
nms-iou-threshold={thresholds.iou:g}
pre-cluster-threshold={thresholds.score:g}
topk={thresholds.max_detections}
"""

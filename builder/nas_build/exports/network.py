"""The network as formats want it: other ways in and out than a served engine's."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..graph.export import EndToEnd
from ..yolo_nas.network import YoloNAS
from ..yolo_nas.processing import Processing


class Raw(EndToEnd):
    """Boxes [B, N, 4] xyxy in canvas pixels and scores [B, N, C], in float32; uint8 in.

    Args:
        network: with its weights.
        processing: whose normalization and channel order go into the graph.
        bgr_input: pictures come as BGR, not as RGB.
        unit_input: pixels come as 0 to 1, not as 0 to 255.
    """

    def __init__(
        self, network: YoloNAS, processing: Processing, *, bgr_input: bool = False, unit_input: bool = False
    ) -> None:
        if bgr_input:  # channels that arrive swapped need no swap where the network wants them so
            processing = replace(processing, bgr=not processing.bgr)
        if unit_input:
            a, b, c = (255 * value for value in processing.multiply)
            processing = replace(processing, multiply=(a, b, c))
        super().__init__(network, processing, torch.float32)

    def normalize(self, images: Tensor) -> Tensor:
        """To what the first convolution takes; nothing where that is what comes."""
        if self.add is None and isinstance(self.multiply, float) and self.multiply == 1:
            return images.to(self.dtype)
        return super().normalize(images)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.decoded(images)


class BestAnchors(Raw):
    """The anchors with the best best class alone, at most `most`: what NMS looks at."""

    most = 1000  # super-gradients' num_pre_nms_predictions

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        boxes, scores = self.decoded(images)
        if boxes.shape[1] <= self.most:
            return boxes, scores
        best = scores.amax(dim=2).topk(self.most, dim=1).indices.unsqueeze(-1)
        return boxes.gather(1, best.expand(-1, -1, 4)), scores.gather(1, best.expand(-1, -1, scores.shape[2]))


class BestClass(Raw):
    """DeepStream-Yolo's rows: [B, N, 6] of x1, y1, x2, y2, score and label of the best class."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        boxes, scores = self.decoded(images)
        best, labels = scores.max(dim=-1, keepdim=True)
        return (torch.cat([boxes, best, labels.to(boxes.dtype)], dim=-1),)

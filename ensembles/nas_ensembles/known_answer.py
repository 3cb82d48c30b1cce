"""A picture and what an engine must answer to it.

It travels with the engine: whoever runs the model file can ask, and tell a machine that computes the graph from one
that computes something else. numpy alone: this file is used by builder, client and the openvino backend.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "known_answer.json"  # beside the engine file
# What engines share with the exact answer: int8 on every instruction set 0.94 to 0.99, fp16 over 0.99; int8 sums that
# overflow 0.08 to 0.35.
LIMIT = 0.8
BLOCK = 8  # pixels of the canvas, in both directions, are one of the picture
CANDIDATES = 100  # the best are kept


@dataclass(frozen=True)
class KnownAnswer:
    """A small picture, and the candidates that the graph has for it, as it is written.

    Attributes:
        picture: (h, w, 3) uint8 RGB; each pixel is a block of 8 x 8 of the canvas.
        boxes: (n, 4) float32 xyxy in canvas pixels.
        scores: (n,) float32, falling.
        labels: (n,) int32.
    """

    picture: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]

    @property
    def canvas(self) -> NDArray[np.uint8]:
        """What to ask: (3, 8 h, 8 w) uint8 RGB."""
        return np.ascontiguousarray(self.picture.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1).transpose(2, 0, 1))

    def agreement(self, boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> float:
        """How much of the answer an engine gives too, from 0 to 1.

        Of each candidate the engine's best match of the same label counts: the overlap of their boxes times the smaller
        score over the larger. Candidates weigh as much as they score.

        Args:
            boxes: (K, 4) of the engine.
            scores: (K,) likewise.
            labels: (K,) likewise.
        """
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            return 0.0
        sides = np.minimum(self.boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(self.boxes[:, None, :2], boxes[:, :2])
        overlap = sides.clip(0).prod(axis=2)  # [n, K]
        iou = overlap / np.maximum(_areas(self.boxes)[:, None] + _areas(boxes) - overlap, 1e-9)
        mine = self.scores[:, None]
        ratio = np.minimum(mine, scores) / np.maximum(np.maximum(mine, scores), 1e-30)
        share = np.where(self.labels[:, None] == labels, iou * ratio, 0.0).max(axis=1)
        return float((share * self.scores).sum() / max(float(self.scores.sum()), 1e-30))

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Boxes in hundredths of a pixel, scores to four digits: less than engines differ by."""
        return {
            "picture": base64.b64encode(self.picture.tobytes()).decode(),
            "width": self.picture.shape[1],
            "boxes": [[round(float(side), 2) for side in box] for box in self.boxes],
            "scores": [float(f"{score:.4g}") for score in self.scores],
            "labels": self.labels.tolist(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> KnownAnswer:
        """Undo `to_dict`.

        Raises:
            ValueError: if it is something else.
        """
        try:
            picture = np.frombuffer(base64.b64decode(fields["picture"]), np.uint8).reshape(-1, fields["width"], 3)
            boxes = np.asarray(fields["boxes"], np.float32).reshape(-1, 4)
            scores, labels = np.asarray(fields["scores"], np.float32), np.asarray(fields["labels"], np.int32)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no known answer: {error!r}") from None
        if not 0 < len(boxes) == len(scores) == len(labels):
            raise ValueError(f"{len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels are no known answer")
        return cls(picture, boxes, scores, labels)


def _areas(boxes: NDArray[Any]) -> NDArray[Any]:
    areas: NDArray[Any] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas

"""How much a graph loses against float32, on pictures that calibration has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from nas_ensembles import contract
from nas_ensembles.pipeline import Candidates
from nas_eval import metrics, paired_bootstrap
from nas_eval.dataset import Dataset
from nas_eval.metrics import Prediction
from numpy.typing import NDArray

from ..graph.boxes import iou
from ..graph.exact import Exact
from ..graph.export import Exported, top_candidates
from ..graph.predict import Detect, on_dataset
from ..progress import SILENT, BuildProgress

_LOOKED_AT = 8  # pictures that `disturbance` takes
_ANCHORS = 300  # of each of them
_RESAMPLES = 300


@dataclass(frozen=True)
class Accuracy:
    """MAP 50-95 in percent, of float32 and of a graph on the same pictures."""

    float32: float
    graph: float
    predictions: Sequence[Prediction] = field(default=(), repr=False)  # of the graph

    @property
    def loss(self) -> float:
        """In mAP points; below 0 if the graph is better."""
        return self.float32 - self.graph


class HeldOut:
    """Pictures, and what float32 finds in them.

    Args:
        exported: whose network.
        dataset: with labels; or without, then what float32 finds above the model's score threshold is the truth.
        progress: advanced after each picture.

    Attributes:
        labelled: whether the truth is labels.
        dataset: the pictures and their truth.

    Raises:
        DatasetError: if the labels are of classes that the model lacks, or a picture cannot be read.
    """

    def __init__(self, exported: Exported, dataset: Dataset, progress: BuildProgress = SILENT) -> None:
        self._spec = exported.processing.letterbox
        self._categories = dataset.categories_of(exported.class_names)
        self._seen: list[tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.float32], NDArray[np.float32]]] = []
        self._found = self._predictions(self._watch(exported), dataset, progress)
        self.labelled = bool(dataset.truth["annotations"])
        threshold = exported.processing.thresholds.score
        self.dataset = dataset if self.labelled else _with_truth(dataset, self._found, threshold)
        self._float32 = self._map(self._found)

    @property
    def objects(self) -> int:
        """True ones in all pictures, without crowds."""
        return sum(not box["iscrowd"] for box in self.dataset.truth["annotations"])

    def disturbance(self, model: onnx.ModelProto) -> float:
        """How far a graph's scores and boxes are from float32's, without a threshold that could hide it or blow it up.

        Over the best anchors of each picture, in shares of their scores: what the scores of all classes are off, and
        by how much the box misses (1 - IoU, as much as the anchor scores). 0 is float32 itself.
        """
        graph = Exact(model)
        off = total = 0.0
        for canvas, anchors, boxes, scores in self._seen:
            outputs = graph(canvas)
            best = scores.max(axis=1)
            off += float(np.abs(outputs.scores[anchors] - scores).sum())
            off += float((best * (1 - iou(outputs.boxes[anchors], boxes))).sum())
            total += float(best.sum())
        return off / max(total, 1e-9)

    def accuracy(self, model: onnx.ModelProto, progress: BuildProgress = SILENT) -> Accuracy:
        """The graph's mAP 50-95 beside that of float32; `progress` is advanced after each picture."""
        graph = Exact(model)
        predictions = self._predictions(lambda canvas: graph(canvas).candidates, self.dataset, progress)
        return Accuracy(self._float32, self._map(predictions), predictions)

    def interval(self, accuracy: Accuracy) -> tuple[float, float]:
        """95 % interval of the loss in mAP points, by a paired bootstrap over the pictures."""
        difference = paired_bootstrap.compare(self.dataset, self._found, accuracy.predictions, _RESAMPLES)
        return -difference.high * 100, -difference.low * 100

    def _predictions(self, detect: Detect, dataset: Dataset, progress: BuildProgress) -> list[Prediction]:
        return on_dataset(detect, self._spec, dataset, self._categories, contract.VALIDATION_THRESHOLDS, progress)

    def _map(self, predictions: Sequence[Prediction]) -> float:
        return metrics.evaluate(self.dataset, predictions).map_50_95 * 100

    def _watch(self, exported: Exported) -> Detect:
        """Float32's candidates; what the reference's best anchors say of the first pictures is kept for `disturbance`.

        An average precision follows from the order of the scores and from overlaps above or below a threshold, which
        the last bits of float32 hardly ever change; a disturbance is a sum.
        """

        def detect(canvas: NDArray[np.uint8]) -> Candidates:
            looked_at = len(self._seen) < _LOOKED_AT
            boxes, scores = (exported.reference if looked_at else exported.float32).answer(canvas)
            if looked_at:
                anchors = np.argsort(scores.max(axis=1), kind="stable")[-_ANCHORS:]
                self._seen.append((canvas, anchors, boxes[anchors], scores[anchors]))
            best = top_candidates(torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None])
            return Candidates(*(tensor[0].numpy() for tensor in best))

        return detect


def _with_truth(dataset: Dataset, found: Sequence[Prediction], score_threshold: float) -> Dataset:
    """What float32 finds above the threshold, as labels."""
    annotations = [
        {**prediction, "id": number, "area": prediction["bbox"][2] * prediction["bbox"][3], "iscrowd": 0}
        for number, prediction in enumerate((p for p in found if p["score"] > score_threshold), 1)
    ]
    return Dataset(dataset.name, dataset.pictures, {**dataset.truth, "annotations": annotations})

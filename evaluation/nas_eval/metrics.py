"""COCO's metrics, through faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset

_IOU_50, _IOU_75 = 0, 5
# In COCO's order.
_STATS = (
    *("map_50_95", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)


class Prediction(TypedDict):
    """One detection in COCO's results format: bbox is xywh in pixels."""

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


@dataclass(frozen=True)
class ClassMetrics:
    """Of one class; NaN where the data set has no object of it.

    Attributes:
        objects: in the data set, crowds not counted.
        map_50_95, map_50, map_75: average precision, 0 to 1.
        ar: average recall with 100 detections.
        precision: (101,) at IoU 0.5, over `recall` 0, 0.01, ... 1.
    """

    name: str
    objects: int
    map_50_95: float
    map_50: float
    map_75: float
    ar: float
    precision: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True)
class Metrics:
    """COCO's twelve numbers, from 0 to 1, NaN where the data set has no such object; and each class's."""

    pictures: int
    objects: int
    map_50_95: float
    map_50: float
    map_75: float
    map_small: float
    map_medium: float
    map_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    classes: tuple[ClassMetrics, ...] = field(repr=False)

    def summary(self) -> dict[str, float]:
        """The numbers without the classes."""
        return {name: value for name, value in self.__dict__.items() if name != "classes"}


def to_predictions(
    boxes_xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int32],
    image_id: int,
    categories: Mapping[int, int],
) -> list[Prediction]:
    """A picture's detections in COCO's results format; labels without a category are left out.

    Args:
        boxes_xyxy: (N, 4) pixels of the picture.
        scores: (N,).
        labels: (N,) of the model.
        image_id: of the data set.
        categories: category id of each label.
    """
    return [
        {
            "image_id": image_id,
            "category_id": categories[int(label)],
            "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
            "score": float(score),
        }
        for (left, top, right, bottom), score, label in zip(boxes_xyxy, scores, labels, strict=True)
        if int(label) in categories
    ]


def evaluate(dataset: Dataset, predictions: Sequence[Prediction]) -> Metrics:
    """COCO's metrics of predictions on a data set.

    Args:
        dataset: with crowds and pictures without objects, treated as COCO does.
        predictions: category ids are the data set's.
    """
    coco = _evaluated(dataset, predictions)
    precision, recall, stats = map(_nan_where_nothing_is, (coco.eval["precision"], coco.eval["recall"], coco.stats))
    names = dataset.class_names
    objects = _objects(dataset)
    classes = tuple(
        ClassMetrics(
            name=names[category],
            objects=objects.get(category, 0),
            map_50_95=float(precision[:, :, k, 0, -1].mean()),  # of [T, R, K, A, M]
            map_50=float(precision[_IOU_50, :, k, 0, -1].mean()),
            map_75=float(precision[_IOU_75, :, k, 0, -1].mean()),
            ar=float(recall[:, k, 0, -1].mean()),  # of [T, K, A, M]
            precision=precision[_IOU_50, :, k, 0, -1],
        )
        for k, category in enumerate(coco.params.catIds)
    )
    numbers = dict(zip(_STATS, map(float, stats), strict=True))
    return Metrics(pictures=len(dataset.pictures), objects=sum(objects.values()), classes=classes, **numbers)


def _evaluated(dataset: Dataset, predictions: Sequence[Prediction]) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO({**dataset.truth, "annotations": [dict(box) for box in dataset.truth["annotations"]]})
        coco = COCOeval_faster(truth, truth.loadRes([dict(one) for one in predictions]), "bbox")
        coco.params.imgIds = [picture.id for picture in dataset.pictures]
        coco.run()
    return coco


def _objects(dataset: Dataset) -> dict[int, int]:
    counts: dict[int, int] = {}
    there = {picture.id for picture in dataset.pictures}
    for box in dataset.truth["annotations"]:
        if not box["iscrowd"] and box["image_id"] in there:
            counts[box["category_id"]] = counts.get(box["category_id"], 0) + 1
    return counts


def _nan_where_nothing_is(values: Any) -> NDArray[np.float64]:
    """COCO writes -1 there."""
    array = np.asarray(values, np.float64)
    return np.where(array < 0, np.nan, array)

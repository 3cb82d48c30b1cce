"""COCO's metrics, through faster-coco-eval, and how sure a difference between two models is."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from .datasets import Dataset

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
    """COCO's twelve numbers, from 0 to 1, -1 where the data set has no such object; and each class's."""

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


@dataclass(frozen=True)
class Difference:
    """mAP 50-95 of B less that of A on the same pictures, from 0 to 1.

    Attributes:
        low, high: 95 % interval of a paired bootstrap over pictures.
        resamples: of the bootstrap.
    """

    difference: float
    low: float
    high: float
    resamples: int


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
    coco = _run(dataset, predictions)
    precision, recall = coco.eval["precision"], coco.eval["recall"]  # [T, R, K, A, M], [T, K, A, M]
    names = dataset.class_names
    objects = _objects(dataset)
    classes = tuple(
        ClassMetrics(
            name=names[category],
            objects=objects.get(category, 0),
            map_50_95=_mean(precision[:, :, k, 0, -1]),
            map_50=_mean(precision[_IOU_50, :, k, 0, -1]),
            map_75=_mean(precision[_IOU_75, :, k, 0, -1]),
            ar=_mean(recall[:, k, 0, -1]),
            precision=precision[_IOU_50, :, k, 0, -1],
        )
        for k, category in enumerate(coco.params.catIds)
    )
    numbers = dict(zip(_STATS, (float(value) for value in coco.stats), strict=True))
    return Metrics(pictures=len(dataset.pictures), objects=sum(objects.values()), classes=classes, **numbers)


def compare(
    dataset: Dataset, a: Sequence[Prediction], b: Sequence[Prediction], resamples: int = 1000, seed: int = 0
) -> Difference:
    """How much better B is than A, and how sure that is: pictures are drawn with replacement, the same for both."""
    runs = [_run(dataset, predictions, areas=1) for predictions in (a, b)]
    pictures = len(dataset.pictures)
    random = np.random.default_rng(seed)

    def difference(drawn: NDArray[np.int64]) -> float:
        first, second = (_resampled(run, drawn) for run in runs)
        return second - first

    drawn = [difference(random.integers(0, pictures, pictures)) for _ in range(resamples)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Difference(difference(np.arange(pictures)), float(low), float(high), resamples)


def _run(dataset: Dataset, predictions: Sequence[Prediction], areas: int = 4) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(dataset.truth)
        coco = COCOeval_faster(truth, truth.loadRes([dict(p) for p in predictions]), "bbox", separate_eval=True)
        coco.params.imgIds = [picture.id for picture in dataset.pictures]
        coco.params.areaRng, coco.params.areaRngLbl = coco.params.areaRng[:areas], coco.params.areaRngLbl[:areas]
        coco.evaluate()
        coco.accumulate()
        if areas == 4:
            coco.summarize()
    return coco


def _resampled(run: Any, drawn: NDArray[np.int64]) -> float:
    """MAP 50-95 over drawn pictures, by the library's own accumulation of its matches per class and picture."""
    from faster_coco_eval.core import faster_eval_api

    pictures = len(run.params.imgIds)
    matches = run._evalImgs_cpp  # classes x areas x pictures
    rows = [matches[k * pictures + i] for k in range(len(run.params.catIds)) for i in drawn]
    run._paramsEval.imgIds = [run.params.imgIds[i] for i in drawn]
    accumulated = faster_eval_api._C.COCOevalAccumulate(run._paramsEval, rows)
    precision = np.asarray(accumulated["precision"]).reshape(accumulated["counts"])
    return _mean(precision[:, :, :, 0, -1])


def _objects(dataset: Dataset) -> dict[int, int]:
    counts: dict[int, int] = {}
    for box in dataset.truth["annotations"]:
        if not box["iscrowd"]:
            counts[box["category_id"]] = counts.get(box["category_id"], 0) + 1
    return counts


def _mean(values: NDArray[np.float64]) -> float:
    there = values[values > -1]
    return float(there.mean()) if there.size else float("nan")

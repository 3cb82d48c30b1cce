"""How sure a difference in mAP between two models is: pictures are drawn with replacement, the same for both.

Each model's detections are matched with the truth once, as COCO does. A draw then only weighs pictures: one that was
drawn twice counts twice, so that a thousand draws take seconds where COCO's evaluation would take hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset
from .metrics import Prediction

# COCO's.
_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALL = np.linspace(0, 1, 101)
_MAX_DETECTIONS = 100  # of a class in a picture


@dataclass(frozen=True)
class Difference:
    """MAP 50-95 of B less that of A on the same pictures, from -1 to 1; NaN if there are no objects.

    Attributes:
        low, high: 95 % interval of a paired bootstrap over pictures.
        resamples: of the bootstrap.
    """

    difference: float
    low: float
    high: float
    resamples: int


def compare(
    dataset: Dataset, a: Sequence[Prediction], b: Sequence[Prediction], resamples: int = 1000, seed: int = 0
) -> Difference:
    """How much better B is than A, and how sure that is."""
    matched = [_match_all(dataset, predictions) for predictions in (a, b)]
    pictures = len(dataset.pictures)
    random = np.random.default_rng(seed)

    def difference(weights: NDArray[np.int64]) -> float:
        first, second = (_mean_average_precision(classes, weights) for classes in matched)
        return second - first

    draws = (random.integers(0, pictures, pictures) for _ in range(resamples))
    drawn = np.array([difference(np.bincount(draw, minlength=pictures)) for draw in draws])
    drawn = drawn[~np.isnan(drawn)]  # of draws without any object
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn.size else (np.nan, np.nan)
    return Difference(difference(np.ones(pictures, np.int64)), float(low), float(high), resamples)


@dataclass(frozen=True)
class _Matched:
    """The detections of one class in all pictures, those that score most first.

    Attributes:
        objects: (O,) index of the picture of each true box that is no crowd.
        pictures: (N,) that of each detection.
        hits: for each IoU threshold, which detections have a true box to themselves, as ascending indices.
        ignored: likewise, which have none but lie in a crowd: neither right nor wrong.
    """

    objects: NDArray[np.int64]
    pictures: NDArray[np.int64]
    hits: tuple[NDArray[np.int64], ...]
    ignored: tuple[NDArray[np.int64], ...]

    def average_precision(self, weights: NDArray[np.int64]) -> float:
        """COCO's, the mean over IoU thresholds, when pictures count so often; NaN without objects."""
        objects = weights[self.objects].sum()
        if not objects:
            return float("nan")
        weight = weights[self.pictures]
        counted = weight.cumsum()
        total = 0.0
        for hits, ignored in zip(self.hits, self.ignored, strict=True):
            found = weight[hits].cumsum()
            of = counted[hits]
            if ignored.size:
                of = of - np.append(0, weight[ignored].cumsum())[ignored.searchsorted(hits)]
            precision = found / np.maximum(of, 1)
            best_from = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or more
            at = (found / objects).searchsorted(_RECALL)
            total += np.append(best_from, 0)[at].mean()
        return float(total / len(self.hits))


def _mean_average_precision(classes: Sequence[_Matched], weights: NDArray[np.int64]) -> float:
    values = np.array([one.average_precision(weights) for one in classes])
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")


def _match_all(dataset: Dataset, predictions: Sequence[Prediction]) -> list[_Matched]:
    """Every class of the data set; what is in none of its pictures or classes does not count."""
    index = {id: i for i, id in enumerate(sorted(picture.id for picture in dataset.pictures))}
    true, found = (_grouped(boxes, index) for boxes in (dataset.truth["annotations"], predictions))
    classes = []
    for category in dataset.class_names:
        objects = []
        parts: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]] = []
        in_pictures, found_in = true.get(category, {}), found.get(category, {})
        for i in sorted(in_pictures.keys() | found_in.keys()):
            boxes = in_pictures.get(i, [])
            objects += [i] * sum(not box["iscrowd"] for box in boxes)
            best = sorted(found_in.get(i, []), key=lambda one: -one["score"])[:_MAX_DETECTIONS]
            scores = np.array([one["score"] for one in best], np.float64)
            parts.append((np.full(len(best), i), scores, *_match(boxes, best)))
        nothing = np.zeros((len(_IOU_THRESHOLDS), 0), bool)
        pictures = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
        order = np.argsort(-np.concatenate([np.zeros(0), *(part[1] for part in parts)]), kind="stable")
        hit, ignored = (np.hstack([nothing, *(part[k] for part in parts)])[:, order] for k in (2, 3))
        classes.append(
            _Matched(
                np.array(objects, np.int64),
                pictures[order],
                tuple(map(np.flatnonzero, hit)),
                tuple(map(np.flatnonzero, ignored)),
            )
        )
    return classes


def _grouped(boxes: Sequence[Any], index: Mapping[int, int]) -> dict[int, dict[int, list[Any]]]:
    """By category, then by index of the picture."""
    groups: dict[int, dict[int, list[Any]]] = {}
    for box in boxes:
        if box["image_id"] in index:
            groups.setdefault(box["category_id"], {}).setdefault(index[box["image_id"]], []).append(box)
    return groups


def _match(true: Sequence[Any], found: Sequence[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The boxes of one class in one picture, as COCO pairs them.

    Each detection, in its order, takes the true box that it overlaps most of those that are left; if none is, and it
    overlaps a crowd, it is ignored.

    Returns:
        Which detections hit, and which are ignored: (T, N) each, over IoU thresholds.
    """
    from faster_coco_eval import mask

    hit, ignored = np.zeros((2, len(_IOU_THRESHOLDS), len(found)), bool)
    if not true or not found:
        return hit, ignored
    crowd = np.array([box["iscrowd"] for box in true], bool)
    overlaps = np.asarray(
        mask.iou([one["bbox"] for one in found], [box["bbox"] for box in true], crowd.astype(int).tolist())
    )
    free = np.tile(~crowd, (len(_IOU_THRESHOLDS), 1))
    for n, overlap in enumerate(overlaps):
        enough = overlap >= _IOU_THRESHOLDS[:, None]
        left = np.where(enough & free, overlap, -1)
        hit[:, n] = (left >= 0).any(axis=1)
        ignored[:, n] = ~hit[:, n] & enough[:, crowd].any(axis=1)
        best = len(true) - 1 - left[:, ::-1].argmax(axis=1)  # the last of equal ones
        free[hit[:, n], best[hit[:, n]]] = False
    return hit, ignored

"""The bootstrap's own accumulation: the same numbers as the library's, much quicker."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nas_eval import metrics
from nas_eval.dataset import Dataset, Picture
from nas_eval.metrics import Prediction
from nas_eval.paired_bootstrap import _match_all, _mean_average_precision, compare

from support.detections import invented


@pytest.mark.parametrize("seed", range(5))
def test_every_class_has_the_average_precision_of_the_library(seed: int) -> None:
    """Crowds, equal scores, pictures without objects and a class without objects among them."""
    dataset, predictions = invented(seed, pictures=60)
    expected = [one.map_50_95 for one in metrics.evaluate(dataset, predictions).classes]
    weights = np.ones(60, np.int64)
    ours = [one.average_precision(weights) for one in _match_all(dataset, predictions)]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
    assert any(box["iscrowd"] for box in dataset.truth["annotations"]) and math.isnan(ours[-1])


def test_more_detections_than_count() -> None:
    dataset, _ = invented(0, pictures=2, classes=1)
    truth: list[Any] = dataset.truth["annotations"]
    random = np.random.default_rng(0)
    predictions = [
        Prediction(image_id=1, category_id=1, bbox=truth[i % len(truth)]["bbox"], score=float(random.random()))
        for i in range(300)
    ]
    expected = metrics.evaluate(dataset, predictions).map_50_95
    ours = _mean_average_precision(_match_all(dataset, predictions), np.ones(2, np.int64))
    assert ours > 0 and ours == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_weight_is_a_copy_of_the_picture(seed: int) -> None:
    """The library measures a data set in which each picture lies as often as it was drawn."""
    dataset, found = invented(seed)
    random = np.random.default_rng(seed)
    predictions: list[Any] = [{**one, "score": float(random.random())} for one in found]  # none equal
    weights = np.bincount(random.integers(0, 30, 30), minlength=30)
    copies = [id for id, weight in enumerate(weights, 1) for _ in range(weight)]
    drawn: list[Any] = []
    boxes: list[Any] = []
    for new, id in enumerate(copies, 1):
        drawn += [{**one, "image_id": new} for one in predictions if one["image_id"] == id]
        boxes += [{**box, "image_id": new} for box in dataset.truth["annotations"] if box["image_id"] == id]
    truth = {
        "images": [{"id": new, "file_name": "x"} for new in range(1, len(copies) + 1)],
        "annotations": [{**box, "id": id} for id, box in enumerate(boxes, 1)],
        "categories": dataset.truth["categories"],
    }
    pictures = tuple(Picture(new, Path("x")) for new in range(1, len(copies) + 1))
    expected = metrics.evaluate(Dataset("drawn", pictures, truth), drawn).map_50_95
    ours = _mean_average_precision(_match_all(dataset, predictions), weights)
    assert ours == pytest.approx(expected, abs=1e-9)


def test_the_bootstraps_own_mean_is_the_metric() -> None:
    dataset, predictions = invented(0)
    better = [{**one, "score": one["score"] if i % 3 else 0.001} for i, one in enumerate(predictions)]
    difference = compare(dataset, predictions, better, resamples=50)  # type: ignore[arg-type]
    expected = metrics.evaluate(dataset, better).map_50_95 - metrics.evaluate(dataset, predictions).map_50_95  # type: ignore[arg-type]
    assert math.isclose(difference.difference, expected, abs_tol=1e-9)
    assert difference.low < difference.difference < difference.high and difference.resamples == 50


def test_a_model_does_not_differ_from_itself() -> None:
    dataset, predictions = invented(1)
    difference = compare(dataset, predictions, predictions, resamples=20)
    assert (difference.difference, difference.low, difference.high) == (0, 0, 0)


def test_a_clear_difference_is_told_from_chance_and_a_small_one_is_not() -> None:
    dataset, predictions = invented(2, pictures=40)
    half = [one for one in predictions if one["image_id"] % 2]
    clear = compare(dataset, predictions, half, resamples=100)
    assert clear.high < 0
    without_one = compare(dataset, predictions, [p for p in predictions if p["image_id"] != 1], resamples=100)
    assert without_one.low <= 0 <= without_one.high
    assert compare(dataset, predictions, half, resamples=100) == clear  # the same draws again


def test_without_objects_there_is_no_difference() -> None:
    dataset, predictions = invented(0)
    nothing = Dataset("none", dataset.pictures, {**dataset.truth, "annotations": []})
    difference = compare(nothing, predictions, predictions, resamples=5)
    assert all(map(math.isnan, (difference.difference, difference.low, difference.high)))

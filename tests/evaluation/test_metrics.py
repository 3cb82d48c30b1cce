"""COCO's metrics: the same as pycocotools', crowds and empty pictures among them."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nas_eval import metrics
from nas_eval.coco_json import load_coco
from nas_eval.dataset import Dataset
from nas_eval.metrics import Prediction
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from support.detections import invented


def by_pycocotools(dataset: Dataset, predictions: list[Prediction]) -> tuple[Any, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(dataset.truth))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(predictions))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"]


def assert_equal_to_pycocotools(dataset: Dataset, predictions: list[Prediction]) -> None:
    stats, precision = by_pycocotools(dataset, predictions)
    ours = metrics.evaluate(dataset, predictions)
    stats = np.where(stats < 0, np.nan, stats)
    np.testing.assert_allclose(list(ours.summary().values())[2:], stats, atol=1e-6)
    for k, one in enumerate(ours.classes):
        expected = precision[:, :, k, 0, -1]
        if (expected > -1).any():
            assert math.isclose(one.map_50_95, expected.mean(), abs_tol=1e-6)
        else:
            assert one.objects == 0 and np.isnan(one.precision).all()
            assert all(math.isnan(value) for value in (one.map_50_95, one.map_50, one.map_75, one.ar))


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_are_pycocotools(seed: int) -> None:
    dataset, predictions = invented(seed)
    assert_equal_to_pycocotools(dataset, predictions)
    assert 0.1 < metrics.evaluate(dataset, predictions).map_50_95 < 0.9


def test_the_numbers_are_pycocotools_on_coco(coco_data: Path) -> None:
    folder = coco_data / "tiny_coco"
    dataset = load_coco(folder / "annotations" / "instances_val2017.json", folder / "val2017")
    random = np.random.default_rng(0)
    predictions = [
        Prediction(
            image_id=box["image_id"],
            category_id=box["category_id"],
            bbox=[float(v + random.normal(0, 3)) for v in box["bbox"]],
            score=float(random.random()),
        )
        for box in dataset.truth["annotations"]
    ]
    assert any(box["iscrowd"] for box in dataset.truth["annotations"])
    assert_equal_to_pycocotools(dataset, predictions)


def test_no_predictions_at_all() -> None:
    dataset, _ = invented(0)
    ours = metrics.evaluate(dataset, [])
    assert ours.map_50_95 == 0 and ours.pictures == 30


def test_what_the_data_set_lacks_has_no_value() -> None:
    dataset, predictions = invented(0)
    small = [box for box in dataset.truth["annotations"] if box["area"] < 32**2]
    ours = metrics.evaluate(Dataset("small", dataset.pictures, {**dataset.truth, "annotations": small}), predictions)
    assert math.isnan(ours.map_large) and math.isnan(ours.ar_medium) and ours.map_small > 0
    nothing = metrics.evaluate(Dataset("none", dataset.pictures, {**dataset.truth, "annotations": []}), predictions)
    numbers = nothing.summary()
    assert (numbers.pop("pictures"), numbers.pop("objects")) == (30, 0) and all(map(math.isnan, numbers.values()))


def test_boxes_of_pictures_that_are_not_listed_do_not_count() -> None:
    dataset, predictions = invented(0)
    known = metrics.evaluate(dataset, predictions).objects
    stray = {**dataset.truth["annotations"][0], "id": 10**6, "image_id": 10**6}
    more = Dataset("more", dataset.pictures, {**dataset.truth, "annotations": [*dataset.truth["annotations"], stray]})
    assert metrics.evaluate(more, predictions).objects == known


def test_the_truth_stays_as_it_is() -> None:
    dataset, predictions = invented(0)
    before = json.dumps(dataset.truth)
    metrics.evaluate(dataset, predictions)
    assert json.dumps(dataset.truth) == before


def test_labels_without_a_category_are_left_out() -> None:
    boxes = np.array([[10, 20, 30, 50], [0, 0, 5, 5]], np.float32)
    made = metrics.to_predictions(boxes, np.array([0.5, 0.4], np.float32), np.array([2, 7], np.int32), 9, {2: 44})
    assert made == [{"image_id": 9, "category_id": 44, "bbox": [10, 20, 20, 30], "score": 0.5}]

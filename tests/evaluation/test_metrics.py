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
from nas_eval import datasets, metrics
from nas_eval.datasets import Dataset, Picture
from nas_eval.metrics import Prediction
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def invented(seed: int, pictures: int = 30, classes: int = 5) -> tuple[Dataset, list[Prediction]]:
    """Objects of all sizes, crowds, pictures without objects, and detections of mixed quality."""
    random = np.random.default_rng(seed)
    boxes, predictions = [], []
    for image in range(1, pictures + 1):
        for _ in range(0 if image % 7 == 0 else random.integers(1, 9)):
            wh = np.exp(random.uniform(np.log(8), np.log(300), 2))
            xy = random.uniform(0, 340, 2)
            category = int(random.integers(0, classes))
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": image,
                    "category_id": category * 3 + 1,
                    "bbox": [*map(float, xy), *map(float, wh)],
                    "area": float(wh.prod() * 0.7),
                    "iscrowd": int(random.random() < 0.1),
                }
            )
            for _ in range(random.integers(0, 3)):
                taken = category if random.random() < 0.8 else int(random.integers(0, classes))
                moved = [*(xy + random.normal(0, 0.1, 2) * wh), *(wh * random.uniform(0.8, 1.2, 2))]
                predictions.append(
                    Prediction(
                        image_id=image,
                        category_id=taken * 3 + 1,
                        bbox=[float(value) for value in moved],
                        score=round(float(random.random()), 2),
                    )
                )
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 640} for i in range(1, pictures + 1)],
        "annotations": boxes,
        "categories": [{"id": i * 3 + 1, "name": f"class {i}"} for i in range(classes + 1)],  # one has no object
    }
    listed = tuple(Picture(i, Path(f"{i}.jpg")) for i in range(1, pictures + 1))
    return Dataset("invented", listed, truth), predictions


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
    np.testing.assert_allclose(list(ours.summary().values())[2:], stats, atol=1e-6)
    for k, one in enumerate(ours.classes):
        expected = precision[:, :, k, 0, -1]
        if (expected > -1).any():
            assert math.isclose(one.map_50_95, expected.mean(), abs_tol=1e-6)
        else:
            assert math.isnan(one.map_50_95) and one.objects == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_are_pycocotools(seed: int) -> None:
    dataset, predictions = invented(seed)
    assert_equal_to_pycocotools(dataset, predictions)
    assert 0.1 < metrics.evaluate(dataset, predictions).map_50_95 < 0.9


def test_the_numbers_are_pycocotools_on_coco(coco_data: Path) -> None:
    folder = coco_data / "tiny_coco"
    dataset = datasets.load(folder / "annotations" / "instances_val2017.json", folder / "val2017")
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


def test_the_bootstraps_own_mean_is_the_metric() -> None:
    dataset, predictions = invented(0)
    better = [{**one, "score": one["score"] if i % 3 else 0.001} for i, one in enumerate(predictions)]
    difference = metrics.compare(dataset, predictions, better, resamples=50)  # type: ignore[arg-type]
    expected = metrics.evaluate(dataset, better).map_50_95 - metrics.evaluate(dataset, predictions).map_50_95  # type: ignore[arg-type]
    assert math.isclose(difference.difference, expected, abs_tol=1e-9)
    assert difference.low < difference.difference < difference.high and difference.resamples == 50


def test_a_model_does_not_differ_from_itself() -> None:
    dataset, predictions = invented(1)
    difference = metrics.compare(dataset, predictions, predictions, resamples=20)
    assert (difference.difference, difference.low, difference.high) == (0, 0, 0)


def test_a_clear_difference_is_told_from_chance_and_a_small_one_is_not() -> None:
    dataset, predictions = invented(2, pictures=40)
    half = [one for one in predictions if one["image_id"] % 2]
    clear = metrics.compare(dataset, predictions, half, resamples=100)
    assert clear.high < 0
    without_one = metrics.compare(dataset, predictions, [p for p in predictions if p["image_id"] != 1], resamples=100)
    assert without_one.low <= 0 <= without_one.high
    assert metrics.compare(dataset, predictions, half, resamples=100) == clear  # the same draws again


def test_labels_without_a_category_are_left_out() -> None:
    boxes = np.array([[10, 20, 30, 50], [0, 0, 5, 5]], np.float32)
    made = metrics.to_predictions(boxes, np.array([0.5, 0.4], np.float32), np.array([2, 7], np.int32), 9, {2: 44})
    assert made == [{"image_id": 9, "category_id": 44, "bbox": [10, 20, 20, 30], "score": 0.5}]

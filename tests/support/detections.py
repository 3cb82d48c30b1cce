"""Invented data sets and detections, to measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nas_eval.dataset import Dataset, Picture
from nas_eval.metrics import Prediction


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

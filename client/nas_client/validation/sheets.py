"""Sheets of pictures: the truth on the left, what a model finds on the right."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from nas_ensembles import images
from nas_ensembles.opencv import cv2
from nas_eval.dataset import Dataset, Picture
from nas_eval.metrics import Prediction
from numpy.typing import NDArray

from ..detection.detections import Detections
from ..output.draw import annotate
from .matching import CONFIDENT, xyxy

_ROWS, _WIDTH, _SHEETS = 4, 640, 8
_LINE = 28  # pixels of a heading
_INK, _PAPER = (30, 30, 30), 245


def sheets(
    dataset: Dataset, predictions: Sequence[Prediction], model: str, failed: Collection[int] = ()
) -> dict[str, bytes]:
    """The first pictures of the data set.

    Args:
        dataset: the truth.
        predictions: in its categories; those that score 0.25 or less are not shown.
        model: name for the headings.
        failed: ids of pictures that were not answered, perhaps since they are broken: they are on no sheet.

    Returns:
        JPEGs by file name.
    """
    by_picture: dict[int, list[Prediction]] = {}
    for prediction in predictions:
        if prediction["score"] > CONFIDENT:
            by_picture.setdefault(prediction["image_id"], []).append(prediction)
    shown = [picture for picture in dataset.pictures if picture.id not in failed][: _ROWS * _SHEETS]
    files = {}
    for start in range(0, len(shown), _ROWS):
        rows = [_row(dataset, picture, by_picture, model) for picture in shown[start : start + _ROWS]]
        jpeg = cv2.imencode(".jpg", np.vstack(rows)[..., ::-1])[1]
        files[f"sheet_{start // _ROWS + 1}.jpg"] = jpeg.tobytes()
    return files


def _row(
    dataset: Dataset, picture: Picture, predictions: Mapping[int, list[Prediction]], model: str
) -> NDArray[np.uint8]:
    image = images.decode(picture.path.read_bytes())
    scale = _WIDTH / image.shape[1]
    size = _WIDTH, max(1, round(image.shape[0] * scale))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    true = [box for box in dataset.truth["annotations"] if box["image_id"] == picture.id]
    ours = sorted(predictions.get(picture.id, []), key=lambda one: -one["score"])
    cells = (
        _heading(f"{picture.path.name}: truth, {len(true)} object{'' if len(true) == 1 else 's'}"),
        annotate(small, _detections(dataset, true, scale), scores=False),
        _heading(f"{model}: {len(ours)} that score above {CONFIDENT}"),
        annotate(small, _detections(dataset, ours, scale)),
    )
    return np.hstack([np.vstack(cells[:2]), np.vstack(cells[2:])])


def _heading(text: str) -> NDArray[np.uint8]:
    strip = np.full((_LINE, _WIDTH, 3), _PAPER, np.uint8)
    text = text.encode("ascii", "replace").decode()  # as OpenCV's fonts are
    while len(text) > 8 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0] > _WIDTH - 16:
        text = f"...{text[4:]}"
    cv2.putText(strip, text, (8, _LINE - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
    return strip


def _detections(dataset: Dataset, boxes: Sequence[Any], scale: float) -> Detections:
    names = dataset.class_names
    label = {category: i for i, category in enumerate(names)}
    return Detections(
        boxes_xyxy=xyxy(boxes) * np.float32(scale),
        scores=np.array([box.get("score", 1.0) for box in boxes], np.float32),
        labels=np.array([label[box["category_id"]] for box in boxes], np.int32),
        names=tuple(names[box["category_id"]] for box in boxes),
    )

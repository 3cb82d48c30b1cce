"""What a validation looks like: precision-recall and F1 curves, a confusion matrix, truth beside prediction."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nas_ensembles import images
from nas_ensembles.opencv import cv2
from nas_eval.dataset import Dataset, Picture
from nas_eval.metrics import Metrics, Prediction
from numpy.typing import NDArray

from ..detection.detections import Detections
from ..output import formats
from ..output.draw import annotate

_RECALL = np.linspace(0, 1, 101)
_CONFIDENCE = np.linspace(0, 1, 201)
_NAMED_CURVES = 12  # more classes than these are drawn without a name
_CONFIDENT = 0.25  # of the detections in the confusion matrix and on the sheets
_SAME_OBJECT_IOU = 0.5
_SHEET_ROWS, _CELL_WIDTH, _SHEETS = 4, 640, 8


def save(
    folder: Path,
    dataset: Dataset,
    predictions: Sequence[Prediction],
    metrics: Metrics,
    failed: Collection[int] = (),
) -> list[Path]:
    """Write all plots as PNG and the sheets as JPEG.

    Args:
        folder: made if it is not there.
        dataset: the truth.
        predictions: in the data set's categories.
        metrics: of these predictions.
        failed: ids of pictures that were not answered, perhaps since they are broken: they are on no sheet.

    Returns:
        The files.
    """
    files = {
        "precision_recall.png": _curves(
            "recall", "precision", _RECALL, {c.name: np.maximum(c.precision, 0) for c in metrics.classes if c.objects}
        ),
        "f1_confidence.png": _curves("confidence", "F1", _CONFIDENCE, f1_over_confidence(dataset, predictions)),
        "confusion_matrix.png": _matrix(*confusion(dataset, predictions)),
    }
    by_picture: dict[int, list[Prediction]] = {}
    for prediction in predictions:
        by_picture.setdefault(prediction["image_id"], []).append(prediction)
    shown = [picture for picture in dataset.pictures if picture.id not in failed][: _SHEET_ROWS * _SHEETS]
    for start in range(0, len(shown), _SHEET_ROWS):
        sheet = _sheet(dataset, shown[start : start + _SHEET_ROWS], by_picture)
        files[f"sheet_{start // _SHEET_ROWS + 1}.jpg"] = cv2.imencode(".jpg", sheet[..., ::-1])[1].tobytes()
    for name, data in files.items():
        formats.write_atomic(folder / name, data)
    return [folder / name for name in files]


def confusion(dataset: Dataset, predictions: Sequence[Prediction]) -> tuple[NDArray[np.int64], list[str]]:
    """Which class is taken for which: rows are the truth, columns the predictions, the last of each is nothing.

    Detections that score more than 0.25 are paired with true boxes, best first, where they overlap by an IoU of at
    least 0.5, whatever their classes. Crowds pair with nothing.

    Returns:
        (C + 1, C + 1) counts and the C names.
    """
    row = {category: i for i, category in enumerate(dataset.class_names)}
    matrix = np.zeros((len(row) + 1, len(row) + 1), np.int64)
    confident = [one for one in predictions if one["score"] > _CONFIDENT]
    for prediction, true in _pairs(dataset, confident, "image_id"):
        i, j = (-1 if box is None else row[box["category_id"]] for box in (true, prediction))
        matrix[i, j] += 1
    return matrix, list(dataset.class_names.values())


def f1_over_confidence(dataset: Dataset, predictions: Sequence[Prediction]) -> dict[str, NDArray[np.float64]]:
    """F1 of each class that has objects when only scores from each confidence on count: 201 of them, 0 to 1.

    Detections are paired with true boxes of their class, best first, at an IoU of at least 0.5.
    """
    scores: dict[int, list[tuple[float, bool]]] = {}
    objects: dict[int, int] = {}
    for prediction, true in _pairs(dataset, predictions, "image_id", "category_id"):
        if true is not None:
            objects[true["category_id"]] = objects.get(true["category_id"], 0) + 1
        if prediction is not None:
            scores.setdefault(prediction["category_id"], []).append((prediction["score"], true is not None))
    curves = {}
    for category, name in dataset.class_names.items():
        if category in objects:
            score, hit = np.array(scores.get(category, []), np.float64).reshape(-1, 2).T
            counted = score[None] >= _CONFIDENCE[:, None]
            curves[name] = 2 * (counted @ hit) / (counted.sum(axis=1) + objects[category])
    return curves


def _pairs(
    dataset: Dataset, predictions: Sequence[Prediction], *together: str
) -> Iterator[tuple[Prediction | None, Any | None]]:
    """Every prediction and every true box that is no crowd, once, with its partner or None.

    Only boxes that agree in the fields `together` are paired.
    """
    groups: dict[Any, tuple[list[Prediction], list[Any]]] = {}

    def group(box: Any) -> tuple[list[Prediction], list[Any]]:
        return groups.setdefault(tuple(box[field] for field in together), ([], []))

    for prediction in sorted(predictions, key=lambda one: -one["score"]):
        group(prediction)[0].append(prediction)
    for box in dataset.truth["annotations"]:
        if not box["iscrowd"]:
            group(box)[1].append(box)
    for ours, true in groups.values():
        overlap = _iou(_xyxy(ours), _xyxy(true))
        left = set(range(len(true)))
        for i, prediction in enumerate(ours):
            best = max(left, key=lambda j, row=overlap[i]: row[j], default=None)  # type: ignore[misc]
            if best is not None and overlap[i, best] >= _SAME_OBJECT_IOU:
                left.remove(best)
                yield prediction, true[best]
            else:
                yield prediction, None
        for j in left:
            yield None, true[j]


def _curves(x_label: str, y_label: str, x: NDArray[np.float64], curves: Mapping[str, NDArray[np.float64]]) -> bytes:
    figure, axes = _figure()
    for name, y in curves.items():
        axes.plot(x, y, linewidth=1, alpha=0.6, label=name if len(curves) <= _NAMED_CURVES else None)
    if curves:
        mean = np.mean(list(curves.values()), axis=0)
        axes.plot(x, mean, linewidth=2.5, color="black", label=f"mean of {len(curves)} classes")
        axes.legend(loc="lower left", fontsize="small")
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1.02), title=f"{y_label} over {x_label}, IoU 0.5")
    axes.grid(alpha=0.3)
    return _png(figure)


def _matrix(matrix: NDArray[np.int64], names: Sequence[str]) -> bytes:
    """Rows and columns of classes that occur, each row as shares of its objects."""
    occurs = [i for i in range(len(names)) if matrix[i].any() or matrix[:, i].any()]
    kept = [*occurs, len(names)]
    counts = matrix[np.ix_(kept, kept)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [names[i] for i in occurs]
    figure, axes = _figure(size=max(5.0, 0.32 * len(kept) + 2))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(kept)), [*labels, "nothing"], rotation=90)
    axes.set_yticks(range(len(kept)), [*labels, "nothing"])
    if len(kept) <= 25:
        for i, j in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize="small", color=color)
    axes.set(xlabel="predicted", ylabel="true", title=f"score above {_CONFIDENT}, IoU at least {_SAME_OBJECT_IOU}")
    return _png(figure)


def _sheet(
    dataset: Dataset, pictures: Sequence[Picture], predictions: Mapping[int, list[Prediction]]
) -> NDArray[np.uint8]:
    """Rows of pictures: the truth on the left, confident predictions on the right."""
    rows = []
    for picture in pictures:
        image = images.decode(picture.path.read_bytes())
        true = [box for box in dataset.truth["annotations"] if box["image_id"] == picture.id]
        ours = [one for one in predictions.get(picture.id, []) if one["score"] > _CONFIDENT]
        pair = [annotate(image, _detections(dataset, boxes)) for boxes in (true, ours)]
        height = round(image.shape[0] * _CELL_WIDTH / image.shape[1])
        rows.append(np.hstack([cv2.resize(cell, (_CELL_WIDTH, height), interpolation=cv2.INTER_AREA) for cell in pair]))
    return np.vstack(rows)


def _detections(dataset: Dataset, boxes: Sequence[Any]) -> Detections:
    names = dataset.class_names
    return Detections(
        boxes_xyxy=_xyxy(boxes),
        scores=np.array([box.get("score", 1.0) for box in boxes], np.float32),
        labels=np.array([box["category_id"] for box in boxes], np.int32),
        names=tuple(names[box["category_id"]] for box in boxes),
    )


def _xyxy(boxes: Sequence[Any]) -> NDArray[np.float32]:
    xywh = np.array([box["bbox"] for box in boxes], np.float32).reshape(-1, 4)
    return np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, M] of [N, 4] and [M, 4] xyxy."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = sides.clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    iou: NDArray[np.float32] = overlap / np.maximum(areas[0][:, None] + areas[1][None] - overlap, 1e-9)
    return iou


def _figure(size: float = 7.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: no window, no state

    figure = Figure(figsize=(size, size), layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return data.getvalue()

"""What a validation looks like: curves, a confusion matrix, truth beside prediction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from nas_eval.dataset import Dataset
from nas_eval.metrics import Metrics, Prediction

from ..output import formats
from . import figures, matching
from .figures import Subject
from .sheets import sheets

_RECALL = np.linspace(0, 1, 101)


def draw(
    dataset: Dataset,
    predictions: Sequence[Prediction],
    metrics: Metrics,
    subject: Subject,
    failed: Collection[int] = (),
) -> dict[str, bytes]:
    """All that can be drawn of one model: figures as PNG, SVG and PDF, sheets as JPEG, the confusion as CSV.

    Args:
        dataset: the truth.
        predictions: in the data set's categories.
        metrics: of these predictions.
        subject: for the titles.
        failed: ids of pictures that were not answered.

    Returns:
        Content by file name.
    """
    most_first = sorted((one for one in metrics.classes if one.objects), key=lambda one: -one.objects)
    f1 = matching.f1_over_confidence(dataset, predictions)
    precision = {one.name: np.maximum(one.precision, 0) for one in most_first}
    f1 = {one.name: f1[one.name] for one in most_first}
    return {
        **figures.curves("precision_recall", subject, ("recall", "precision"), _RECALL, precision),
        **figures.curves("f1_confidence", subject, ("confidence", "F1"), matching.CONFIDENCE, f1),
        **figures.confusion(*matching.confusion(dataset, predictions), subject),
        **sheets(dataset, predictions, subject.model, failed),
    }


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Each whole or not at all; the folder is made if it is not there."""
    for name, data in files.items():
        formats.write_atomic(folder / name, data)

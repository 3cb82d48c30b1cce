"""Predictions of a network in this process, without a server: what served models are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from nas_ensembles import contract, images, nms
from nas_ensembles.letterbox import LetterboxSpec, letterbox, to_planes, unletterbox
from nas_eval.datasets import Dataset
from nas_eval.errors import DatasetError
from nas_eval.metrics import Prediction, to_predictions
from numpy.typing import NDArray

from ..progress import SILENT, BuildProgress
from .export import EndToEnd, top_candidates

# A canvas (3, H, W) to candidates: boxes (K, 4) in canvas pixels, scores (K,), labels (K,).
Detect = Callable[[NDArray[np.uint8]], tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]


def in_pytorch(network: EndToEnd) -> Detect:
    """Candidates by PyTorch, in float32 if the network is."""

    def detect(canvas: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        with torch.inference_mode():
            boxes, scores, labels = top_candidates(*network.decoded(torch.from_numpy(canvas)[None]))
        return boxes[0].numpy(), scores[0].numpy(), labels[0].numpy()

    return detect


def on_dataset(
    detect: Detect,
    spec: LetterboxSpec,
    dataset: Dataset,
    categories: Mapping[int, int],
    thresholds: contract.Thresholds,
    progress: BuildProgress = SILENT,
) -> list[Prediction]:
    """Detect in every picture of a data set.

    Args:
        detect: `in_pytorch`, or anything else that finds candidates.
        spec: of the processing.
        dataset: whose pictures.
        categories: category id of each label; other labels are left out.
        thresholds: as a request would set them.
        progress: advanced after each picture.

    Raises:
        DatasetError: if a picture cannot be read.
    """
    predictions: list[Prediction] = []
    for picture in progress.over(dataset.pictures):
        try:
            image = images.decode(picture.path.read_bytes())
        except (OSError, images.UnreadableImage) as error:
            raise DatasetError(f"{picture.path}: cannot be read as a picture: {error}") from None
        boxed = letterbox(image, spec)
        canvas = np.empty((3, *spec.size_hw), np.uint8)
        to_planes(boxed.canvas, canvas)
        boxes, scores, labels = detect(canvas)
        kept = nms.select(boxes, scores, labels, thresholds)
        boxes = unletterbox(boxes[kept], boxed.scale, boxed.pad_xy, (image.shape[1], image.shape[0]))
        predictions += to_predictions(boxes, scores[kept], labels[kept], picture.id, categories)
    return predictions

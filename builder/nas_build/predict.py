"""Predictions of a network in this process, without a server: what served models are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from nas_ensembles import contract, images, nms
from nas_ensembles.letterbox import LetterboxSpec, letterbox, to_planes, unletterbox
from nas_eval.datasets import Dataset
from nas_eval.metrics import Prediction, to_predictions

from .export import Engine, top_candidates


def predict(
    engine: Engine,
    spec: LetterboxSpec,
    dataset: Dataset,
    categories: Mapping[int, int],
    thresholds: contract.Thresholds,
    progress: Callable[[], None] = lambda: None,
) -> list[Prediction]:
    """Detect in every picture of a data set with PyTorch.

    Args:
        engine: `Engine(network, processing, half=False)` for float32.
        spec: of the processing.
        dataset: whose pictures.
        categories: category id of each label; other labels are left out.
        thresholds: as a request would set them.
        progress: called after each picture.
    """
    predictions: list[Prediction] = []
    for picture in dataset.pictures:
        image = images.decode(picture.path.read_bytes())
        boxed = letterbox(image, spec)
        canvas = np.empty((3, *spec.size_hw), np.uint8)
        to_planes(boxed.canvas, canvas)
        with torch.inference_mode():
            candidates = top_candidates(*engine.decoded(torch.from_numpy(canvas)[None]))
        boxes, scores, labels = (tensor[0].numpy() for tensor in candidates)
        kept = nms.select(boxes, scores, labels, thresholds)
        boxes = unletterbox(boxes[kept], boxed.scale, boxed.pad_xy, (image.shape[1], image.shape[0]))
        predictions += to_predictions(boxes, scores[kept], labels[kept], picture.id, categories)
        progress()
    return predictions

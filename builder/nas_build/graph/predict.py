"""Predictions of a network in this process, without a server: what served models are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from nas_ensembles import contract, images
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import Candidates, finish, prepare
from nas_eval.dataset import Dataset
from nas_eval.errors import DatasetError
from nas_eval.metrics import Prediction, to_predictions
from numpy.typing import NDArray

from ..progress import SILENT, BuildProgress
from .export import EndToEnd, top_candidates

Detect = Callable[[NDArray[np.uint8]], Candidates]  # of a canvas, (3, H, W) uint8 RGB


def in_pytorch(network: EndToEnd) -> Detect:
    """Candidates by PyTorch, in float32 if the network is."""

    def detect(canvas: NDArray[np.uint8]) -> Candidates:
        with torch.inference_mode():
            best = top_candidates(*network.decoded(torch.from_numpy(canvas)[None]))
        return Candidates(*(tensor[0].numpy() for tensor in best))

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
        prepared = prepare(image, spec)
        found = finish(detect(prepared.canvas), prepared.geometry, thresholds)
        predictions += to_predictions(*found, picture.id, categories)
    return predictions

"""Predictions of a served model on a data set, kept as they come, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas_ensembles import contract
from nas_eval.dataset import Dataset, Picture
from nas_eval.downloads import cache_folder
from nas_eval.errors import DownloadError
from nas_eval.metrics import Prediction, to_predictions

from ..detection.detector import Detector
from ..detection.models import Model
from ..detection.outcomes import Failed
from ..errors import OF_THE_SERVER


@dataclass(frozen=True)
class Answer:
    """One picture's predictions, or why there are none. `resumed` if an earlier run asked."""

    picture: Picture
    predictions: list[Prediction]
    error: Exception | None = None
    resumed: bool = False


def answers(
    detector: Detector,
    dataset: Dataset,
    categories: Mapping[int, int],
    thresholds: contract.Thresholds,
    in_flight: int,
    resume: bool = True,
) -> Generator[Answer, None, None]:
    """Ask for every picture, several at a time.

    Args:
        detector: of the model.
        dataset: whose pictures.
        categories: category id of each label; other labels are left out.
        thresholds: of every request.
        in_flight: requests at a time.
        resume: begin with what an interrupted run of the same model, data and thresholds was answered.

    Raises:
        ServerUnavailable, ModelUnavailable, Unauthorized: no picture can be asked for any more; what was answered is
            kept, until `forget`.
        DownloadError: answers cannot be kept.
    """
    path = _kept(detector.model, dataset, categories, thresholds)
    known = _read(path) if resume else {}
    for picture in dataset.pictures:
        if picture.id in known:
            yield Answer(picture, known[picture.id], resumed=True)
    missing = [picture for picture in dataset.pictures if picture.id not in known]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a" if known else "w", encoding="utf-8")
    except OSError as error:
        raise DownloadError(f"{path.parent}: cannot keep answers there: {error}. Set NAS_CACHE.") from None
    with opened as file:
        for outcome in detector.detect_many(
            missing,
            lambda picture: picture.path,
            in_flight=in_flight,
            score_threshold=thresholds.score,
            iou_threshold=thresholds.iou,
            max_detections=thresholds.max_detections,
        ):
            if isinstance(outcome, Failed):
                if isinstance(outcome.error, OF_THE_SERVER):
                    raise type(outcome.error)(
                        f"{outcome.error} The same command goes on where this one stopped."
                    ) from outcome.error
                yield Answer(outcome.item, [], outcome.error)
                continue
            found = outcome.detections
            predictions = to_predictions(found.boxes_xyxy, found.scores, found.labels, outcome.item.id, categories)
            file.write(json.dumps({"id": outcome.item.id, "predictions": predictions}) + "\n")
            file.flush()
            yield Answer(outcome.item, predictions)


def forget(
    detector: Detector, dataset: Dataset, categories: Mapping[int, int], thresholds: contract.Thresholds
) -> None:
    """The answers that `answers` kept: the results are out."""
    _kept(detector.model, dataset, categories, thresholds).unlink(missing_ok=True)


def _kept(model: Model, dataset: Dataset, categories: Mapping[int, int], thresholds: contract.Thresholds) -> Path:
    """Where answers are kept: another model, version, data set or threshold is another file."""
    files = [(picture.id, str(picture.path), picture.path.stat().st_size) for picture in dataset.pictures]
    identity: Any = [
        model.name,
        model.version,
        model.parameters,
        files,
        sorted(categories.items()),
        sorted(asdict(thresholds).items()),
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "validation" / f"{model.name}-{digest[:16]}.jsonl"


def _read(path: Path) -> dict[int, list[Prediction]]:
    """Answers by picture; a line that was cut off is left out."""
    known: dict[int, list[Prediction]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return known
    for line in lines:
        try:
            entry = json.loads(line)
            known[int(entry["id"])] = entry["predictions"]
        except (ValueError, KeyError, TypeError):
            continue
    return known

"""Is what a file detects what PyTorch detects? Asked before anything is installed, of real pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from nas_ensembles import contract
from nas_ensembles.pipeline import Candidates
from numpy.typing import NDArray

from ..errors import DisagreementError
from ..graph.export import EndToEnd
from ..progress import BuildProgress
from . import nms, runner
from .base import Format
from .plain import selected

# How far float32 in another order of additions may be from float64.
_SCORE_SHARE = 0.001  # of a score
_BOX_PX = 0.05
_BORDER = 1e-3  # of the threshold: a score this near to it may fall on either side
_AT_LEAST, _AT_MOST = 15, 40  # pairs that pass the lowered threshold


@dataclass(frozen=True)
class Agreement:
    """A file against PyTorch in float64.

    Attributes:
        pictures: that were compared.
        detections: of PyTorch that the file has to have, and has.
        max_score_difference: of them.
        max_box_difference_px: of their sides, canvas pixels.
        by: what ran the file.
    """

    pictures: int
    detections: int
    max_score_difference: float
    max_box_difference_px: float
    by: str


def check(
    file: bytes,
    form: Format,
    reference: EndToEnd,
    canvases: Sequence[NDArray[np.uint8]],
    progress: BuildProgress,
) -> Agreement:
    """Compare detections at the file's own threshold, and of one picture at one so low that there are some to compare.

    Args:
        file: as it will be written.
        form: that it is of.
        reference: in float64.
        canvases: (3, H, W) uint8 RGB, of real pictures.
        progress: advanced after each.

    Raises:
        DisagreementError: if a detection is missing, is too many or is another.
    """
    asked, low = form.settings.thresholds, _lowered(reference, canvases[0], form)
    run = runner.opened(file)
    differences = []
    for index in progress.over(range(len(canvases))):
        differences += _compared(run, form, reference, _batch(form, canvases, index), asked)
    lowered = runner.opened(nms.with_score_threshold(file, low.score)) if form.nms_in_graph else run
    differences += _compared(lowered, form, reference, _batch(form, canvases, 0), low)
    progress.advance()
    if not differences:
        raise DisagreementError("there is nothing to compare: PyTorch finds nothing at all. Nothing was written.")
    score, box = (float(f"{max(values):.3g}") for values in zip(*differences, strict=True))
    return Agreement(len(canvases), len(differences), score, box, runner.version(runner.found()))


def _compared(
    run: runner.Run,
    form: Format,
    reference: EndToEnd,
    batch: Sequence[NDArray[np.uint8]],
    thresholds: contract.Thresholds,
) -> list[tuple[float, float]]:
    """Of each detection in one batch: differences of score and box."""
    outputs = run(np.stack([form.feed(canvas) for canvas in batch]))
    differences = []
    for row, canvas in enumerate(batch):
        expected = in_pytorch(reference, canvas, form, thresholds)
        differences += matched(expected, form.detections(outputs, row, thresholds), thresholds)
    return differences


def in_pytorch(
    reference: EndToEnd, canvas: NDArray[np.uint8], form: Format, thresholds: contract.Thresholds
) -> Candidates:
    """What the file should detect in a canvas, (3, H, W) uint8 RGB."""
    boxes, scores = reference.answer(canvas)
    if form.best_class_only:
        scores = np.where(scores == scores.max(axis=1, keepdims=True), scores, 0)
    return selected(boxes, scores, thresholds)


def matched(expected: Candidates, got: Candidates, thresholds: contract.Thresholds) -> list[tuple[float, float]]:
    """Differences of score and box of detections that are the same in both.

    Detections at the threshold, or at the end of a full list, may be in either alone.

    Raises:
        DisagreementError: names the first that is not.
    """
    differences = []
    lowest = max(thresholds.score, _last(expected, thresholds), _last(got, thresholds))
    for first, second, missing in ((expected, got, True), (got, expected, False)):
        for box, score, label in zip(*first, strict=True):
            near = np.flatnonzero(
                (second.labels == label)
                & (np.abs(second.scores - score) <= _SCORE_SHARE * score)
                & (np.abs(second.boxes - box).max(axis=1, initial=0) <= _BOX_PX)
            )
            if not (near.size or score <= lowest * (1 + _BORDER)):
                sides = ", ".join(f"{side:.1f}" for side in box)
                raise DisagreementError(
                    f"the exported file disagrees with PyTorch: it {'does not have' if missing else 'alone has'} label "
                    f"{label} with score {score:.4f} at {sides}, at threshold {thresholds.score:g}. "
                    "Nothing was written."
                )
            if near.size and missing:
                closest = near[np.abs(second.boxes[near] - box).max(axis=1).argmin()]
                differences.append((abs(float(second.scores[closest] - score)), _apart(second.boxes[closest], box)))
    return differences


def _last(found: Candidates, thresholds: contract.Thresholds) -> float:
    """Score of the last in a full list."""
    return float(found.scores.min()) if len(found.scores) >= thresholds.max_detections else 0.0


def _apart(box: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.abs(box - other).max())


def _lowered(reference: EndToEnd, canvas: NDArray[np.uint8], form: Format) -> contract.Thresholds:
    """A threshold that some pairs of the picture pass, in the widest gap between two scores."""
    scores = np.sort(reference.answer(canvas)[1], axis=None)[::-1].astype(np.float64)
    ranked = np.log(np.maximum(scores[_AT_LEAST : _AT_MOST + 1], np.finfo(np.float32).tiny))
    middle = float(np.exp(ranked.mean()))
    if len(ranked) > 1:
        gap = int(np.argmin(np.diff(ranked)))
        middle = float(np.exp((ranked[gap] + ranked[gap + 1]) / 2))
    return replace(form.settings.thresholds, score=min(form.settings.thresholds.score, middle))


def _batch(form: Format, canvases: Sequence[NDArray[np.uint8]], first: int) -> list[NDArray[np.uint8]]:
    """From the first on, around; two where the size is dynamic."""
    size = 2 if form.settings.batch == "dynamic" else int(form.settings.batch)
    return [canvases[(first + i) % len(canvases)] for i in range(size)]

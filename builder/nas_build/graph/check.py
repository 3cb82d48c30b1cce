"""Two questions before anything is installed: is the graph good, and does an engine compute the graph?

The first compares the graph, run as it is written, with PyTorch on real pictures; the answer is the same on every CPU.
The second asks the engine on this machine for the known answer that will travel with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nas_ensembles import contract, known_answer, nms
from nas_ensembles.known_answer import KnownAnswer
from nas_ensembles.letterbox import LetterboxSpec
from numpy.typing import NDArray

from ..errors import DisagreementError
from ..inputs import bundled, calibration_data
from .boxes import iou
from .exact import Outputs
from .export import EndToEnd, top_candidates

_TOP_ANCHORS = 300  # boxes of worse anchors are never reported
# Detections this far above the threshold must be found again; nearer ones may fall on either side of it.
_MARGIN = 0.15
_SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class Limits:
    """How much an exported graph may differ."""

    score: float  # largest difference of a score
    box_px: float  # largest difference of a box side, canvas pixels, among the best anchors
    correlation: float  # smallest Pearson correlation of the class logits
    found: float  # smallest share of PyTorch's detections that are found again


FP16_LIMITS = Limits(score=0.01, box_px=1.0, correlation=0.999, found=0.99)
_PICTURE = "bus.jpg"  # of the samples: users' own pictures do not travel with their models


@dataclass(frozen=True)
class Agreement:
    """How far the exported graph is from PyTorch in float64 (pictures: how many were compared).

    Attributes:
        max_score_difference: over all anchors and classes.
        max_box_difference_px: canvas pixels, over the 300 best anchors of each picture.
        logit_correlation: Pearson, of the class logits over all anchors, the lowest of any picture.
        detections: of PyTorch, with a score clearly above the threshold.
        detections_found: those of them that the graph finds: same class, IoU at least 0.5.
    """

    pictures: int
    max_score_difference: float
    max_box_difference_px: float
    logit_correlation: float
    detections: int
    detections_found: int


def compare(
    graph: Callable[[NDArray[np.uint8]], Outputs], reference: EndToEnd, canvases: Iterable[NDArray[np.uint8]]
) -> Agreement:
    """Run the graph and the network in PyTorch on the same canvases.

    Args:
        graph: an `exact.Exact`, or what else runs it.
        reference: in float64, so that what is measured is the same on every CPU.
        canvases: (3, H, W) uint8 RGB.

    Raises:
        DisagreementError: if the graph's top-k is not exactly the best of its own scores.
    """
    score_difference, box_difference, correlation = 0.0, 0.0, 1.0
    count = detections = found = 0
    for canvas in canvases:
        outputs = graph(canvas)
        candidates, graph_boxes, graph_scores = outputs.candidates, outputs.boxes, outputs.scores
        boxes, scores = reference.answer(canvas)
        best_pairs = top_candidates(torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None])
        expected = [output[0].numpy() for output in best_pairs]
        _check_candidates(candidates, graph_boxes, graph_scores)
        best = np.argsort(scores.max(axis=1), kind="stable")[-_TOP_ANCHORS:]
        count += 1
        score_difference = max(score_difference, float(np.abs(scores - graph_scores).max()))
        box_difference = max(box_difference, float(np.abs(boxes[best] - graph_boxes[best]).max()))
        correlation = min(correlation, float(np.corrcoef(_logits(scores), _logits(graph_scores))[0, 1]))
        there, again = _found_again(expected, candidates)
        detections += there
        found += again
    return Agreement(count, _round(score_difference), _round(box_difference), _round(correlation), detections, found)


def require(agreement: Agreement, limits: Limits, name: str) -> None:
    """Refuse a graph that differs too much.

    Raises:
        DisagreementError: says what was measured and what was expected.
    """
    found = agreement.detections_found / agreement.detections if agreement.detections else 1.0
    problems = [
        f"{what} {got:.4g}, expected at {bound} {limit:g}"
        for what, got, bound, limit, wrong in (
            ("largest score difference", agreement.max_score_difference, "most", limits.score, 1),
            ("largest box difference in pixels", agreement.max_box_difference_px, "most", limits.box_px, 1),
            ("correlation of the class logits", agreement.logit_correlation, "least", limits.correlation, -1),
            ("share of detections found again", found, "least", limits.found, -1),
        )
        if not (limit - got) * wrong >= 0
    ]
    if problems:
        hint = ""
        options: tuple[str, ...] = ()
        if limits != FP16_LIMITS:
            hint = (
                " This is the graph itself, on any CPU. Calibrate with pictures like those it will see, by another "
                "method, or keep some of it fp16 by a budget."
            )
            options = ("int8.calibration", "int8.calibration_method", "int8.budget")
        raise DisagreementError(
            f"{name}: the exported graph disagrees with PyTorch on {agreement.pictures} pictures: "
            f"{'; '.join(problems)}. Nothing was installed.{hint}",
            options=options,
        )


def ask(graph: Callable[[NDArray[np.uint8]], Outputs], spec: LetterboxSpec) -> KnownAnswer:
    """The known answer that travels with the engine.

    Args:
        graph: an `exact.Exact`.
        spec: of the model.
    """
    (canvas,) = calibration_data.canvases([bundled.folder() / _PICTURE], spec)
    height, width = spec.size_hw[0] // known_answer.BLOCK, spec.size_hw[1] // known_answer.BLOCK
    blocks = canvas.reshape(3, height, known_answer.BLOCK, width, known_answer.BLOCK).mean(axis=(2, 4)).round()
    picture = np.ascontiguousarray(blocks.astype(np.uint8).transpose(1, 2, 0))
    nothing = np.zeros(0, np.float32)
    question = KnownAnswer(picture, nothing.reshape(0, 4), nothing, nothing.astype(np.int32))
    boxes, scores, labels = graph(question.canvas).candidates
    most = known_answer.CANDIDATES
    known = KnownAnswer(picture, boxes[:most], scores[:most], labels[:most])
    return KnownAnswer.from_dict(known.to_dict())  # as it will be read


def _check_candidates(
    candidates: Sequence[NDArray[Any]], boxes: NDArray[np.float32], scores: NDArray[np.float32]
) -> None:
    """The candidates are exactly the best pairs of the graph's own scores, with their boxes and labels."""
    best_boxes, best_scores, labels = candidates
    if not np.array_equal(np.sort(scores, axis=None)[::-1][: len(best_scores)], best_scores):
        raise DisagreementError("the exported graph's top-k is not the best of its own scores. Nothing was installed.")
    for box, score, label in zip(best_boxes, best_scores, labels, strict=True):
        anchors = np.flatnonzero(scores[:, int(label)] == score)
        if not (boxes[anchors] == box).all(axis=1).any():
            raise DisagreementError(
                f"the exported graph's top-k gives box {box.tolist()} to score {score}, label {label}, which belongs "
                "to another box. Nothing was installed."
            )


def _found_again(expected: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]]) -> tuple[int, int]:
    """How many clear detections PyTorch has, and how many of them the graph has too."""
    thresholds = contract.Thresholds()
    clear = contract.Thresholds(score=thresholds.score + _MARGIN)
    kept = nms.select(expected[0], expected[1], expected[2], clear)
    others = nms.select(got[0], got[1], got[2], thresholds)
    found = 0
    for box, label in zip(expected[0][kept], expected[2][kept], strict=True):
        same = others[got[2][others] == label]
        found += bool((iou(box, got[0][same]) >= _SAME_OBJECT_IOU).any())
    return len(kept), found


def _logits(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = scores.reshape(-1).clip(1e-7, 1 - 1e-7)
    logits: NDArray[np.float32] = np.log(flat) - np.log1p(-flat)
    return logits


def _round(value: float) -> float:
    return float(f"{value:.3g}")

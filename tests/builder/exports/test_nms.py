"""NMS in the graph against the project's own, on boxes that overlap at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nas_build.exports import nms as in_graph
from nas_build.exports import runner
from nas_build.exports.opset import IR_VERSION, OPSET
from nas_ensembles import contract, nms
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_non_max_suppression import NonMaxSuppression as Plain

ANCHORS, CLASSES, PICTURES = 30, 4, 3
THRESHOLDS = contract.Thresholds(score=0.3, iou=0.45, max_detections=12)


def model(output: tuple[str, str], pictures: object = "P") -> onnx.ModelProto:
    """Boxes and scores of one input, [P, ANCHORS, 4 + CLASSES], and NMS behind them."""
    made = onnx.parser.parse_model(f"""
<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>
given (float[{pictures}, {ANCHORS}, {4 + CLASSES}] x) =>
  (float[{pictures}, {ANCHORS}, 4] boxes, float[{pictures}, {ANCHORS}, {CLASSES}] scores)
<int64[2] parts = {{4, {CLASSES}}}>
{{ boxes, scores = Split <axis = 2> (x, parts) }}""")
    in_graph.append(made, output, THRESHOLDS)
    onnx.checker.check_model(made, full_check=True)
    return made


RUNS = {
    (name, by): runner.opened(model(output).SerializeToString(), by)
    for name, output in (("batch", in_graph.BATCH), ("flat", in_graph.FLAT))
    for by in runner.RUNNERS
}


def pictures(seed: int, count: int = PICTURES) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 60, (count, ANCHORS, 2)), rng.uniform(5, 60, (count, ANCHORS, 2))
    scores = rng.permutation(np.linspace(0, 0.9, count * ANCHORS * CLASSES)).reshape(count, ANCHORS, CLASSES)
    return np.concatenate([corner, corner + size, scores], axis=2).astype(np.float32)


def expected(picture: np.ndarray) -> np.ndarray:
    """(N, 6): x1, y1, x2, y2, score, label."""
    boxes, scores = picture[:, :4], picture[:, 4:]
    anchors, labels = np.nonzero(scores > THRESHOLDS.score)
    kept = nms.select(boxes[anchors], scores[anchors, labels], labels.astype(np.int32), THRESHOLDS)
    return np.column_stack([boxes[anchors], scores[anchors, labels], labels])[kept].astype(np.float32)


@pytest.mark.parametrize("by", runner.RUNNERS)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 100_000))
def test_flat_rows_are_those_of_our_nms(by: str, seed: int) -> None:
    given_ = pictures(seed)
    (found,) = RUNS["flat", by](given_)
    wanted = [np.column_stack([np.full(len(rows), i), rows]) for i, rows in enumerate(map(expected, given_))]
    np.testing.assert_allclose(found, np.concatenate(wanted), rtol=1e-6)


@pytest.mark.parametrize("by", runner.RUNNERS)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 100_000))
def test_batch_rows_are_those_of_our_nms(by: str, seed: int) -> None:
    given_ = pictures(seed)
    counts, boxes, scores, labels = RUNS["batch", by](given_)
    for i, wanted in enumerate(map(expected, given_)):
        assert counts[i, 0] == len(wanted)
        rows = np.column_stack([boxes[i], scores[i], labels[i]])
        np.testing.assert_allclose(rows[: len(wanted)], wanted, rtol=1e-6)
        assert (rows[len(wanted) :] == -1).all()


class NonMaxSuppression(OpRun):
    """As runtimes answer whose tensors cannot grow: filled up with -1."""

    def _run(self, *inputs: Any, **how: Any) -> tuple[Any]:  # type: ignore[override]
        found: Any = Plain.eval(*inputs, **how)
        return (np.concatenate([found, np.full((40, 3), -1, np.int64)]),)


def test_a_runtime_that_fills_up_the_answer_finds_no_more() -> None:
    made = model(in_graph.FIXED, 1)
    picture = pictures(7, 1)
    filled: Any = ReferenceEvaluator(made, new_ops=[NonMaxSuppression]).run(None, {"x": picture})
    wanted = expected(picture[0])
    np.testing.assert_allclose(filled[0][: len(wanted), 1:], wanted, rtol=1e-6)
    assert (filled[0][len(wanted) :, 6] == -1).all() and len(filled[0]) == THRESHOLDS.max_detections

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from nas_ensembles.known_answer import LIMIT, KnownAnswer
from numpy.typing import NDArray

RNG = np.random.default_rng(0)


@pytest.fixture
def known() -> KnownAnswer:
    corners = RNG.uniform(0, 500, (100, 2))
    boxes = np.concatenate([corners, corners + RNG.uniform(20, 140, (100, 2))], axis=1).astype(np.float32)
    scores = np.sort(RNG.uniform(0.01, 0.95, 100))[::-1].astype(np.float32)
    return KnownAnswer(RNG.integers(0, 256, (5, 4, 3), np.uint8), boxes, scores, RNG.integers(0, 5, 100, np.int32))


def answer(known: KnownAnswer) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """With more candidates than are known, in another order."""
    order = RNG.permutation(100)
    boxes, scores, labels = known.boxes[order], known.scores[order], known.labels[order]
    return np.concatenate([boxes, boxes]), np.concatenate([scores, scores / 9]), np.concatenate([labels, labels])


def test_the_answer_itself(known: KnownAnswer) -> None:
    assert known.agreement(*answer(known)) == pytest.approx(1)


def test_rounding_is_forgiven_and_nonsense_is_not(known: KnownAnswer) -> None:
    boxes, scores, labels = answer(known)
    assert (
        known.agreement(boxes + RNG.normal(0, 0.5, boxes.shape), scores * RNG.uniform(0.98, 1.02, 200), labels) > 0.95
    )
    assert known.agreement(RNG.permutation(boxes), scores, labels) < LIMIT
    assert known.agreement(boxes, scores / 2, labels) == pytest.approx(0.5, abs=0.01)
    assert known.agreement(boxes, scores, labels + 5) == 0
    assert known.agreement(np.zeros_like(boxes), scores, labels) == 0
    assert known.agreement(boxes, np.full_like(scores, np.nan), labels) == 0


def test_the_canvas_is_made_of_blocks(known: KnownAnswer) -> None:
    canvas = known.canvas
    assert canvas.shape == (3, 40, 32) and canvas.flags.c_contiguous
    assert (canvas[:, 8:16, 24:32] == known.picture[1, 3].reshape(3, 1, 1)).all()


def test_json_and_back(known: KnownAnswer) -> None:
    again = KnownAnswer.from_dict(json.loads(json.dumps(known.to_dict())))
    np.testing.assert_array_equal(again.picture, known.picture)
    np.testing.assert_allclose(again.boxes, known.boxes, atol=0.006)
    np.testing.assert_allclose(again.scores, known.scores, atol=6e-5)
    assert again.agreement(known.boxes, known.scores, known.labels) > 0.99


@pytest.mark.parametrize("change", [{"picture": "x"}, {"boxes": [[1, 2, 3]]}, {"labels": []}, {"width": 7}])
def test_what_is_none(change: dict[str, Any], known: KnownAnswer) -> None:
    with pytest.raises(ValueError, match="known answer"):
        KnownAnswer.from_dict({**known.to_dict(), **change})


@pytest.mark.parametrize("scale", [1e-3, 1e-6])
def test_a_network_that_sees_nothing_has_an_answer_too(scale: float, known: KnownAnswer) -> None:
    faint = KnownAnswer(known.picture, known.boxes, known.scores * np.float32(scale), known.labels)
    again = KnownAnswer.from_dict(json.loads(json.dumps(faint.to_dict())))
    assert again.agreement(*answer(faint)) > 0.99

from __future__ import annotations

import numpy as np
import pytest
from nas_build.graph.boxes import iou


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0),
        ((0, 0, 2, 2), (5, 5, 6, 6), 0.0),
        ((0, 0, 4, 4), (1, 1, 3, 3), 0.25),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0.0),  # a point
    ],
)
def test_iou(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    assert float(iou(np.float32(a), np.float32(b))) == pytest.approx(expected)
    assert float(iou(np.float32(b), np.float32(a))) == pytest.approx(expected)


def test_leading_dimensions_are_broadcast() -> None:
    boxes = np.float32([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
    np.testing.assert_allclose(np.diag(iou(boxes[:, None], boxes[None])), 1)
    assert iou(boxes[:, None], boxes[None]).shape == (3, 3)

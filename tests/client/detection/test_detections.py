from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from nas_client import Detections

TWO = Detections(
    np.array([[1, 2, 30, 40], [5, 6, 7, 8]], np.float32),
    np.array([0.9, 0.5], np.float32),
    np.array([5, 0], np.int32),
    ("bus", "person"),
)
NONE = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), ())


def test_to_dict_is_plain() -> None:
    assert json.loads(json.dumps(TWO.to_dict())) == {
        "boxes_xyxy": [[1, 2, 30, 40], [5, 6, 7, 8]],
        "scores": [pytest.approx(0.9), 0.5],
        "labels": [5, 0],
        "names": ["bus", "person"],
    }
    assert NONE.to_dict() == {"boxes_xyxy": [], "scores": [], "labels": [], "names": []}
    assert (len(TWO), len(NONE)) == (2, 0)


@pytest.mark.parametrize("detections", [TWO, NONE])
def test_to_supervision(detections: Detections) -> None:
    converted = detections.to_supervision()
    assert len(converted) == len(detections)
    np.testing.assert_array_equal(converted.xyxy, detections.boxes_xyxy)
    np.testing.assert_array_equal(converted.confidence, detections.scores)
    np.testing.assert_array_equal(converted.class_id, detections.labels)
    assert converted.data["class_name"].tolist() == list(detections.names)


def test_supervision_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'nas-triton\[supervision\]'"):
        TWO.to_supervision()


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match=r"expected boxes \(1, 4\)"):
        Detections(TWO.boxes_xyxy, TWO.scores, TWO.labels, ("bus",))

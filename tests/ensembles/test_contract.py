from __future__ import annotations

import numpy as np
import pytest
from nas_ensembles import contract


def test_shapes_take_the_sizes_of_a_model() -> None:
    assert contract.IMAGES.dims({"H": 640, "W": 320}) == [3, 640, 320]
    assert contract.FRAME.dims({"H": 640, "W": 320}) == [-1, -1, 3]
    assert contract.CANDIDATE_BOXES.dims({"K": 7}) == [7, 4]


def test_a_batch_has_its_type() -> None:
    labels = contract.LABELS.full(2, contract.PAD_LABEL)
    assert labels.shape == (2, 300) and labels.dtype == np.int32 and (labels == -1).all()


def test_stages_feed_each_other() -> None:
    known = {contract.IMAGE.name, contract.FRAME.name, *(tensor.name for tensor in contract.THRESHOLDS)}
    for stage in contract.STAGES.values():
        assert {tensor.name for tensor in stage.inputs} <= known
        known |= {tensor.name for tensor in stage.outputs}
    assert {tensor.name for tensor in contract.OUTPUTS} <= known


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": 1.5}, "score_threshold must be from 0 to 1, got 1.5"),
        ({"iou": float("nan")}, "iou_threshold must be from 0 to 1, got nan"),
        ({"max_detections": 0}, "max_detections must be from 1 to 300, got 0"),
    ],
)
def test_thresholds_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contract.Thresholds(**wrong)  # type: ignore[arg-type]


def test_names_of_stages() -> None:
    assert contract.stage_name("x", "engine") == "x_engine"
    with pytest.raises(ValueError, match="expected one of preprocess, engine, postprocess"):
        contract.stage_name("x", "motor")

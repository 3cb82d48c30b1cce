from __future__ import annotations

from nas_build import Options
from nas_build.repository import model_card
from nas_build.repository.configs import ServedModel
from nas_build.targets.openvino import OpenVINO
from nas_ensembles import contract
from nas_ensembles.letterbox import LetterboxSpec
from nas_eval.coco_names import COCO_NAMES

MODEL = ServedModel(
    name="m",
    letterbox=LetterboxSpec((320, 640), (300, 640)),
    candidates=1024,
    max_batch_size=8,
    max_pixels=50_000_000,
    thresholds=contract.Thresholds(0.3, 0.6),
    parameters={"class_names": COCO_NAMES, "variant": "s", "precision": "int8"},
    target=OpenVINO(Options()),
)
MANIFEST = {
    "inputs": {"checkpoint": "best.pth", "checkpoint_sha256": "ab" * 32},
    "agreement": {"detections_found": 9, "detections": 10, "pictures": 4, "max_score_difference": 0.02},
    "int8": {
        "calibration_pictures": 64,
        "held_out_pictures": 16,
        "truth": "labels",
        "accuracy": {"loss": 0.31, "loss_low": -0.2, "loss_high": 0.9},
    },
}


def test_it_says_what_was_built_and_measured() -> None:
    card = model_card.render(MODEL, MANIFEST)
    for part in (
        "# m\n",
        "YOLO-NAS S in int8 for openvino",
        "| classes | 80: person, bicycle,",
        "and 68 more",
        f"best.pth, SHA-256 {'ab' * 32}",
        "fitted into 640 x 320 pixels",
        "score 0.3, IoU 0.6",
        "9 of 10 objects found again in 4 pictures",
        "64 pictures |",
        "0.31 mAP points, 95 % interval -0.2 to 0.9, on 16 pictures; the truth is labels",
        "licence of the checkpoint",
    ):
        assert part in card


def test_what_was_not_measured_is_left_out() -> None:
    card = model_card.render(MODEL, {})
    assert "against PyTorch" not in card and "int8 |" not in card and "checkpoint |" not in card

"""Bundled pictures, the demo checkpoint, and the processing_params of a fine-tuned one."""

from __future__ import annotations

from pathlib import Path

from nas_eval.coco_names import COCO_NAMES

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
DEMO = SAMPLES / "yolo_nas_s_demo.safetensors"
PICTURES = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".jpg", ".png"))
CUSTOM_NAMES = ("bolt", "nut", "schräge Mutter")
CUSTOM_PROCESSING = {
    "class_names": list(CUSTOM_NAMES),
    "image_processor": {
        "ComposeProcessing": {
            "processings": [
                {"ReverseImageChannels": {}},
                {"DetectionLongestMaxSizeRescale": {"output_shape": [320, 320]}},
                {"DetectionBottomRightPadding": {"output_shape": [320, 320], "pad_value": 114}},
                {"ImagePermute": {"permutation": [2, 0, 1]}},
            ]
        }
    },
    "iou": 0.65,
    "conf": 0.5,
}
QUARTER_PROCESSING = {
    "class_names": list(COCO_NAMES),
    "image_processor": {
        "ComposeProcessing": {
            "processings": [
                {"DetectionLongestMaxSizeRescale": {"output_shape": [318, 318]}},
                {"DetectionCenterPadding": {"output_shape": [320, 320], "pad_value": 114}},
                {"StandardizeImage": {"max_value": 255.0}},
                {"ImagePermute": {"permutation": [2, 0, 1]}},
            ]
        }
    },
}  # COCO's, on a canvas of a quarter

"""Bundled pictures, the demo checkpoint, and the processing_params of a fine-tuned one."""

from __future__ import annotations

from pathlib import Path

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
                {"DetectionLongestMaxSizeRescale": {"output_shape": [640, 640]}},
                {"DetectionBottomRightPadding": {"output_shape": [640, 640], "pad_value": 114}},
                {"ImagePermute": {"permutation": [2, 0, 1]}},
            ]
        }
    },
    "iou": 0.65,
    "conf": 0.5,
}

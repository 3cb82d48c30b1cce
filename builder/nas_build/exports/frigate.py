"""Frigate's `model_type: yolonas`, for its openvino and onnx detectors.

`docs/docs/configuration/object_detectors.md` and `frigate/detectors/plugins/openvino.py` of Frigate: one input
[1, 3, height, width] uint8, one output whose rows are 7 long: picture, x1, y1, x2, y2, score, class. It reads 20 rows,
and stops at the first of a class below 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import yaml
from nas_ensembles import contract
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import Candidates

from . import nms
from .base import Outputs
from .options import ExportOptions
from .super_gradients import Flat

_LABELS = "labelmap.txt"
_ROWS = 20  # Frigate reads no more
_SCORE = 0.4  # of Frigate's export notebook
_SIDE = 320  # likewise


class Frigate(Flat):
    """20 rows, best first; those without a detection are -1."""

    own_options = frozenset({"score_threshold", "iou_threshold"})
    channels = "BGR"
    output = nms.FIXED

    def letterbox(self, size_hw: tuple[int, int] | None) -> LetterboxSpec:
        """Frigate cuts a square out of the frame and scales it to the whole canvas."""
        size = size_hw or (_SIDE, _SIDE)
        return replace(self.processing.letterbox, size_hw=size, fit_hw=size, stretch=True)

    def thresholds(self, options: ExportOptions) -> contract.Thresholds:
        """As asked for, else those of Frigate's notebook."""
        score = _SCORE if options.score_threshold is None else options.score_threshold
        return super().thresholds(replace(options, score_threshold=score, max_detections=_ROWS))

    def detections(self, outputs: Outputs, row: int, thresholds: contract.Thresholds) -> Candidates:
        """Up to the first row of a class below 0, as Frigate reads them."""
        padding = (outputs[0][:, 6] < 0).nonzero()[0]
        return super().detections([outputs[0][: padding[0] if len(padding) else None]], row, thresholds)

    def labels(self) -> Mapping[str, str]:
        """With numbers: Frigate takes a first name that begins with one for the number."""
        return {_LABELS: "".join(f"{label} {name}\n" for label, name in enumerate(self.lines))}

    def notes(self, file: str) -> str:
        """For Frigate's config.yml."""
        height, width = self.settings.letterbox.size_hw
        config = {
            "detectors": {"ov": {"type": "openvino", "device": "GPU"}},
            "model": {
                "model_type": "yolonas",
                "width": width,
                "height": height,
                "input_tensor": "nchw",
                "input_pixel_format": "bgr",
                "path": f"/config/{file}",
                "labelmap_path": f"/config/{_LABELS}",
            },
        }
        return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1000)

"""The bundled pictures and the demo checkpoint: inside the wheel, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

_PLACES = (Path(__file__).parents[1] / "samples", Path(__file__).parents[3] / "samples")
DEMO_CHECKPOINT = "yolo_nas_s_demo.safetensors"


def folder() -> Path:
    """Where they are.

    Raises:
        CheckpointError: if they are missing.
    """
    for place in _PLACES:
        if place.is_dir():
            return place
    raise CheckpointError(f"the bundled samples are missing; looked in {' and '.join(map(str, _PLACES))}.")

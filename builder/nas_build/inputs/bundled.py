"""The bundled pictures and the demo checkpoint: at the top of a checkout, or in a distribution of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import CheckpointError

_CHECKOUT = Path(__file__).parents[3] / "samples"
_PACKAGE = "nas_triton_samples"
DEMO_CHECKPOINT = "yolo_nas_s_demo.safetensors"


def folder() -> Path:
    """Where they are.

    Raises:
        CheckpointError: if they are missing.
    """
    if (_CHECKOUT / DEMO_CHECKPOINT).is_file():
        return _CHECKOUT
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise CheckpointError(
            f"the bundled samples are missing: {_CHECKOUT} is not there, and nas-triton-samples is not installed."
        )
    return Path(package.origin).parent

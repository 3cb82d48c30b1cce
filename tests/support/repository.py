"""Copies of served models, to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

PARTS = ("_preprocess", "_engine", "_postprocess", "_frames", "")  # of a model's name


def copy_of(repository: Path, target: Path, name: str = "yolo_nas_s_int8") -> Path:
    """Of one model alone, without the manifest that would give away a change; the target."""
    for part in PARTS:
        model = f"{name}{part}"
        shutil.copytree(repository / model, target / model, ignore=shutil.ignore_patterns("manifest.json"))
    return target

"""Kernel timings that TensorRT measured: kept for each kind of GPU and release, they make the next build quicker."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nas_eval.downloads import cache_folder

from ...progress import BuildProgress
from .gpus import Gpu


def path_of(gpu: Gpu, tensorrt_version: str) -> Path:
    """Of a kind of GPU and a TensorRT release."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    name = f"{slug}-sm{gpu.compute_capability.replace('.', '')}-tensorrt{tensorrt_version}.cache"
    return cache_folder() / "timing" / name


def read(path: Path) -> bytes:
    """The kept timings, empty if there are none that can be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def keep(path: Path, data: bytes, progress: BuildProgress) -> None:
    """Replace the kept timings, whole or not at all. A plan is not lost because its timings cannot be kept."""
    partial = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        progress.log("warning", f"the next build will not be quicker: {path} cannot be written: {error.strerror}")

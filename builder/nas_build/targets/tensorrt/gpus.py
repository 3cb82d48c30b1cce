"""The GPU of this machine, as nvidia-smi knows it."""

from __future__ import annotations

import os
import re
import subprocess
from typing import NamedTuple

from ...errors import PlanError


class Gpu(NamedTuple):
    """Name as nvidia-smi prints it, compute capability such as "8.9"."""

    name: str
    compute_capability: str


def find_gpu() -> Gpu:
    """The GPU that builds and serves here: the first that CUDA_VISIBLE_DEVICES lets through.

    Raises:
        PlanError: if there is none.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        raise PlanError("no NVIDIA GPU may be used (CUDA_VISIBLE_DEVICES is empty)")
    command = ["nvidia-smi", *gpu_query(visible_device())]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except FileNotFoundError:
        raise PlanError("no NVIDIA GPU on this machine (nvidia-smi is not there)") from None
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stdout", "") or getattr(error, "stderr", "") or error).strip()
        raise PlanError(f"no NVIDIA GPU can be used: nvidia-smi says: {said}") from None
    return parse_gpu(answer.stdout)


def visible_device() -> str:
    """Index or UUID of the first device CUDA may use."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip() or "0"


def gpu_query(device: str) -> list[str]:
    """Arguments that make nvidia-smi print what `parse_gpu` reads."""
    return [f"--id={device}", "--query-gpu=name,compute_cap", "--format=csv,noheader"]


def parse_gpu(answer: str) -> Gpu:
    """`NVIDIA L4, 8.9` as nvidia-smi prints it.

    Raises:
        PlanError: if it is something else.
    """
    name, _, capability = (answer.strip().splitlines() or [""])[0].rpartition(", ")
    if not name or not re.fullmatch(r"\d+\.\d+", capability):
        raise PlanError(f"no NVIDIA GPU can be used: nvidia-smi says: {answer.strip() or 'nothing'}")
    return Gpu(name, capability)

"""The demo network on a quarter of COCO's canvas: exported, observed and rounded once for all tests that look at it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nas_build import pipeline
from nas_build.graph.export import Exported
from nas_build.int8.calibrate import Observation, observe
from nas_build.int8.held_out import HeldOut
from nas_build.int8.quantizer import Quantizer
from nas_build.int8.schemes import Scheme
from nas_build.yolo_nas.network import YoloNAS
from nas_eval.coco_names import COCO_NAMES
from nas_eval.dataset import unlabelled
from numpy.typing import NDArray
from safetensors.torch import load_file

from support.builds import Built, Heard, options
from support.networks import QUARTER, canvas_of
from support.samples import DEMO, PICTURES, QUARTER_PROCESSING


@pytest.fixture(scope="session")
def canvases() -> list[NDArray[np.uint8]]:
    """(3, 320, 320) of each sample."""
    return [canvas_of(path, QUARTER.letterbox) for path in PICTURES]


@pytest.fixture(scope="session")
def exported(demo_network: YoloNAS) -> Exported:
    return Exported.of(demo_network, QUARTER, COCO_NAMES, "s")


@pytest.fixture(scope="session")
def observed(exported: Exported, canvases: list[NDArray[np.uint8]]) -> dict[str, Observation]:
    return observe(exported.reference, canvases)


@pytest.fixture(scope="session")
def quantizer_of(exported: Exported, observed: dict[str, Observation]) -> Callable[[Scheme], Quantizer]:
    """Of a scheme; rounding takes seconds, once."""
    return functools.cache(lambda scheme: Quantizer(exported, observed, scheme))


@pytest.fixture(scope="session")
def held_out(exported: Exported) -> HeldOut:
    return HeldOut(exported, unlabelled("samples", PICTURES, COCO_NAMES))


@pytest.fixture(scope="session")
def quarter_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's weights, saved with preprocessing for that canvas."""
    path = tmp_path_factory.mktemp("quarter") / "quarter.pth"
    torch.save({"net": load_file(DEMO), "processing_params": QUARTER_PROCESSING}, path)
    return path


@pytest.fixture(scope="session")
def built(quarter_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """That checkpoint in int8."""
    asked, progress = options(quarter_checkpoint, tmp_path_factory.mktemp("built")), Heard()
    return Built(asked, pipeline.build(asked, progress), progress)

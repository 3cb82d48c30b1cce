from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from nas_build.graph.export import Exported
from nas_build.int8 import calibrate, rounding
from nas_build.int8.qdq import insert_qdq
from nas_build.int8.schemes import SIGNED
from nas_build.yolo_nas.network import YoloNAS
from nas_build.yolo_nas.processing import COCO, Processing
from nas_ensembles.letterbox import LetterboxSpec

from support.networks import canvas_of
from support.plans import SIDE
from support.samples import DEMO, PICTURES

SMALL = Processing(LetterboxSpec((SIDE, SIDE), (SIDE - 4, SIDE - 4)), multiply=COCO.multiply)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the builder, and not the user's."""
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def graph(request: pytest.FixtureRequest) -> Callable[[str], onnx.ModelProto]:
    """Of a model, `s_int8`, on a small canvas and as TensorRT wants it."""

    @functools.cache
    def exported(variant: str) -> Exported:
        # M and L have random weights, and take a while to make.
        network: YoloNAS = request.getfixturevalue("demo_network" if variant == "s" else "networks")
        network = network if variant == "s" else network[variant]  # type: ignore[index]
        return Exported.of(network, SMALL, [str(i) for i in range(network.num_classes)], variant)

    @functools.cache
    def of(name: str) -> onnx.ModelProto:
        variant, precision = name.split("_")
        model = exported(variant).graph
        if precision == "int8":
            reference = exported(variant).reference
            observed = calibrate.observe(reference, [canvas_of(PICTURES[0], SMALL.letterbox)])
            grids = {layer: SIGNED.grid(observation.histogram, "max") for layer, observation in observed.items()}
            # To the nearest: how weights are rounded changes nothing for TensorRT.
            modules = {layer: reference.network.get_submodule(layer) for layer in grids}
            weights = {layer: rounding.nearest(module.weight.numpy()) for layer, module in modules.items()}  # type: ignore[operator]
            model = insert_qdq(model, grids, weights)
        return model

    return of


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's weights, with preprocessing for a small canvas: soon built, from the file to the repository."""
    from safetensors.torch import load_file

    side = 5 * SIDE
    steps = [
        {"DetectionLongestMaxSizeRescale": {"output_shape": [side, side]}},
        {"DetectionBottomRightPadding": {"output_shape": [side, side], "pad_value": 114}},
        {"StandardizeImage": {"max_value": 255.0}},
        {"ImagePermute": {"permutation": [2, 0, 1]}},
    ]
    processing = {"image_processor": {"ComposeProcessing": {"processings": steps}}}
    path = tmp_path_factory.mktemp("small") / "small.pth"
    torch.save({"net": load_file(DEMO), "processing_params": processing}, path)
    return path

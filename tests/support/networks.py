"""Networks with random weights, and what a network finds in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nas_build.graph.export import top_candidates
from nas_build.yolo_nas import network, processing
from nas_build.yolo_nas.network import YoloNAS
from nas_ensembles import images
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import Candidates, finish, prepare
from numpy.typing import NDArray

from .samples import PICTURES, QUARTER_PROCESSING

QUARTER = processing.compile_processing(QUARTER_PROCESSING)


def canvas_of(path: Path, spec: LetterboxSpec | None = None) -> NDArray[np.uint8]:
    """(3, H, W) uint8 RGB of a picture file."""
    return prepare(images.decode(path.read_bytes()), spec or LetterboxSpec()).canvas


def in_pytorch(network: YoloNAS, compiled: processing.Processing, path: Path) -> tuple[NDArray[Any], ...]:
    """Unfused float32 network, the same decoding of pictures and the same NMS, in this process."""
    prepared = prepare(images.decode(path.read_bytes()), compiled.letterbox)
    canvas = prepared.canvas[::-1].copy() if compiled.bgr else prepared.canvas
    x = torch.from_numpy(canvas)[None].float() * compiled.multiply[0]
    with torch.inference_mode():
        candidates = Candidates(*(t[0].numpy() for t in top_candidates(*network(x))))
    return finish(candidates, prepared.geometry, compiled.thresholds)


def lively(variant: network.Variant, num_classes: int, pixel_scale: float = 1 / 255) -> YoloNAS:
    """A network with random weights that detects things: its outputs depend on the picture.

    Batch statistics are those of the samples. Batch normalization keeps most values off the ReLU's kink, so that
    rounding is not amplified from layer to layer, as it is not in a trained network.
    """
    torch.manual_seed(7)
    model = network.build(variant, num_classes)
    batch = torch.from_numpy(np.stack([canvas_of(path)[:, ::2, ::2] for path in PICTURES])).float() * pixel_scale
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the running statistics become those of the one batch
            torch.nn.init.constant_(module.weight, 0.5)
            torch.nn.init.constant_(module.bias, 1.0)
    for head in (model.heads.head1, model.heads.head2, model.heads.head3):
        for convolution, spread, bias in ((head.cls_pred, 2.5, -4.0), (head.reg_pred, 1.0, 0.0)):
            weight = torch.randn_like(convolution.weight)
            weight -= weight.mean(dim=1, keepdim=True)
            convolution.weight.data = weight * spread / weight.shape[1] ** 0.5
            torch.nn.init.constant_(convolution.bias, bias)
    with torch.no_grad():
        model.train()(batch)
    return model.eval()

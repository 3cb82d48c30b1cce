"""Write the engine's graph: typed ONNX with uint8 input, decode and top-k inside."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import torch
from nas_ensembles import contract
from numpy.typing import NDArray
from torch import Tensor, nn

from ..yolo_nas.network import YoloNAS, decode, fuse
from ..yolo_nas.processing import Processing

OPSET = 19  # the first whose QuantizeLinear and DequantizeLinear take float16
_KEPT_ANSWERS = 32  # of 3 MB each
BOXES, SCORES = "boxes_xyxy", "scores"  # decoded, before the top-k: inner tensors of the graph


class EndToEnd(nn.Module):
    """What the engine computes, in PyTorch: `images` to the K best candidates.

    Args:
        network: with its weights.
        processing: whose normalization goes into the graph.
        dtype: of the fused network. Exported is float16, with normalization before it and decoding after it in
            float32; float32 and float64 are what it is compared with.
    """

    def __init__(self, network: YoloNAS, processing: Processing, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        fused = fuse(network)
        multiply, add = processing.multiply, processing.add
        if processing.bgr:
            # RGB in, whatever the checkpoint wants: swap the channels of the first kernel, not of every picture.
            stem = fused.get_submodule("backbone.stem.conv.conv")
            assert isinstance(stem, nn.Conv2d)
            stem.weight.data = stem.weight.flip(1).contiguous()
            multiply, add = multiply[::-1], add[::-1]
        self.network = fused.to(dtype)
        self.dtype = dtype
        self._answers: dict[bytes, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        # One number where the channels agree: a scalar multiplication is cheaper than a broadcast.
        self.multiply = multiply[0] if len(set(multiply)) == 1 else torch.tensor(multiply).reshape(1, 3, 1, 1)
        self.add = torch.tensor(add).reshape(1, 3, 1, 1) if any(add) else None

    def normalize(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] uint8 RGB to what the first convolution takes."""
        x = images.float() * self.multiply
        return (x if self.add is None else x + self.add).to(self.dtype)

    def answer(self, canvas: NDArray[np.uint8], fresh: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes (N, 4) xyxy in canvas pixels and scores (N, C) of one canvas, (3, H, W) uint8 RGB.

        Calibration, held-out pictures and check often look at the same ones: some answers are kept. `fresh` runs the
        network in any case, for who watches it.
        """
        key = hashlib.sha256(canvas.tobytes()).digest()
        answer = self._answers.get(key)
        if answer is None or fresh:
            with torch.inference_mode():
                boxes, scores = self.decoded(torch.from_numpy(canvas)[None])
            answer = boxes[0].float().numpy(), scores[0].float().numpy()
            if len(self._answers) < _KEPT_ANSWERS:
                self._answers[key] = answer
        return answer

    def decoded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [B, N, 4] xyxy in canvas pixels and scores [B, N, C]."""
        return decode(self.network.raw(self.normalize(images)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        boxes, scores = self.decoded(images)
        return *top_candidates(boxes, scores), boxes, scores


@dataclass(frozen=True)
class Exported:
    """A network's graph, and what it is compared with.

    Attributes:
        network: with its weights.
        processing: of the model.
        class_names: by label.
        graph: in half precision.
    """

    network: YoloNAS
    processing: Processing
    class_names: Sequence[str]
    graph: onnx.ModelProto

    @classmethod
    def of(cls, network: YoloNAS, processing: Processing, class_names: Sequence[str], name: str) -> Exported:
        """Export a network; the graph gets the name."""
        graph = export(EndToEnd(network, processing), processing.letterbox.size_hw, name)
        return cls(network, processing, class_names, graph)

    @cached_property
    def reference(self) -> EndToEnd:
        """In float64: what is chosen and judged, is by it, so that every CPU chooses alike."""
        return EndToEnd(self.network, self.processing, torch.float64)

    @cached_property
    def float32(self) -> EndToEnd:
        """In float32, for the many pictures whose accuracy is measured."""
        return EndToEnd(self.network, self.processing, torch.float32)


def top_candidates(boxes: Tensor, scores: Tensor, k: int = contract.CANDIDATES) -> tuple[Tensor, Tensor, Tensor]:
    """The k best (anchor, class) pairs, exactly, in two cheap stages.

    Every pair among the k best belongs to one of the k anchors with the best best class.

    Args:
        boxes: [B, N, 4] xyxy.
        scores: [B, N, C].
        k: at most this many candidates; fewer when there are fewer pairs.

    Returns:
        Boxes [B, K, 4], scores [B, K] falling, labels [B, K] int32.
    """
    num_anchors, num_classes = int(scores.shape[1]), int(scores.shape[2])
    first = min(k, num_anchors)
    anchors = scores.amax(dim=2).topk(first, dim=1).indices  # [B, first]
    scores = scores.gather(1, anchors.unsqueeze(-1).expand(-1, -1, num_classes)).flatten(1)
    boxes = boxes.gather(1, anchors.unsqueeze(-1).expand(-1, -1, 4))
    best, pairs = scores.topk(min(k, first * num_classes), dim=1)
    rows = pairs // num_classes
    labels = (pairs - rows * num_classes).int()
    return boxes.gather(1, rows.unsqueeze(-1).expand(-1, -1, 4)), best, labels


def export(network: EndToEnd, size_hw: tuple[int, int], name: str) -> onnx.ModelProto:
    """Trace the network into ONNX with a dynamic batch dimension.

    The result is the same, byte for byte, for the same network and library versions. Initializers and convolutions
    are named after the network's modules (`backbone.stem.conv.conv`).

    Args:
        network: in float16, with its weights.
        size_hw: height and width of the canvas in pixels.
        name: of the graph.
    """
    example = torch.zeros(2, 3, *size_hw, dtype=torch.uint8)
    outputs = [*(tensor.name for tensor in contract.CANDIDATE_TENSORS), BOXES, SCORES]
    model = trace(network, example, contract.IMAGES.name, outputs, OPSET, dynamic_batch=True)
    tidy(model, name)
    del model.graph.output[3:]  # the decoded tensors keep their names inside the graph
    onnx.checker.check_model(model)
    return model


def trace(
    module: nn.Module, example: Tensor, input_name: str, output_names: Sequence[str], opset: int, *, dynamic_batch: bool
) -> onnx.ModelProto:
    """A module of one input named `images` as ONNX, as torch writes it: see `tidy`.

    Args:
        module: to trace.
        example: of its input.
        input_name: in the graph.
        output_names: in the graph.
        opset: of ONNX.
        dynamic_batch: whether the first dimension is any from 1; else it is the example's.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}} if dynamic_batch else None,
            input_names=[input_name],
            output_names=output_names,
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def tidy(model: onnx.ModelProto, name: str) -> None:
    """Drop what ties the file to this machine (paths in stack traces) and name things after the network's modules."""
    graph = model.graph
    graph.name = name
    graph.doc_string = model.doc_string = ""
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.producer_name = "nas-triton"
    renamed = {i.name: i.name.removeprefix("network.") for i in graph.initializer}
    for initializer in graph.initializer:
        initializer.name = renamed[initializer.name]
        initializer.doc_string = ""
        del initializer.metadata_props[:]
    for node in graph.node:
        node.input[:] = [renamed.get(i, i) for i in node.input]
        node.doc_string = ""
        del node.metadata_props[:]
        if node.op_type in ("Conv", "ConvTranspose"):
            node.name = node.input[1].removesuffix(".weight")
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]

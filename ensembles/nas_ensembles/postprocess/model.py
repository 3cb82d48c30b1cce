"""Triton Python-backend model: threshold, class-wise NMS, boxes back to picture pixels."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import triton_python_backend_utils as pb_utils

# The helpers beside this file come before an installed package of another version.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from nas_ensembles import contract, pipeline  # noqa: E402


class TritonPythonModel:
    """Candidates and geometry to `num_detections`, `boxes`, `scores` and `labels`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the thresholds that hold when a request gives none."""
        parameters = contract.read_parameters(json.loads(args["model_config"]))
        # In the order of `contract.THRESHOLDS`.
        self._defaults = (
            parameters[contract.SCORE_THRESHOLD.name],
            parameters[contract.IOU_THRESHOLD.name],
            contract.DETECTIONS,
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request: a threshold out of range fails its own request and no other."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        geometry, *candidates = (
            pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy()
            for tensor in (contract.GEOMETRY, *contract.CANDIDATE_TENSORS)
        )
        batch = len(geometry)
        num_detections, boxes, scores = (tensor.full(batch) for tensor in contract.OUTPUTS[:3])
        labels = contract.LABELS.full(batch, contract.PAD_LABEL)
        values = [
            self._given(request, tensor, default, batch)
            for tensor, default in zip(contract.THRESHOLDS, self._defaults, strict=True)
        ]
        for i in range(batch):
            score, iou, most = (column[i].item() for column in values)
            try:
                thresholds = contract.Thresholds(score, iou, most)
            except ValueError as error:
                message = f"image[{i}] of {batch}: {error}"
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
            found = pipeline.finish(pipeline.Candidates(*(rows[i] for rows in candidates)), geometry[i], thresholds)
            n = len(found.scores)
            num_detections[i] = n
            boxes[i, :n], scores[i, :n], labels[i, :n] = found
        arrays = (num_detections, boxes, scores, labels)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(tensor.name, array) for tensor, array in zip(contract.OUTPUTS, arrays, strict=True)]
        )

    def _given(self, request: Any, tensor: contract.Tensor, default: float, batch: int) -> Any:
        """(batch,) values of an optional input."""
        given = pb_utils.get_input_tensor_by_name(request, tensor.name)
        return (tensor.full(batch, default) if given is None else given.as_numpy()).reshape(batch)

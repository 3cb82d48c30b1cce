"""Triton Python-backend model: threshold, class-wise NMS, boxes back to picture pixels."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The helpers beside this file come before an installed package of another version.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from nas_ensembles import contract, letterbox, nms  # noqa: E402


class TritonPythonModel:
    """Candidates and geometry to `num_detections`, `boxes`, `scores` and `labels`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the thresholds that hold when a request gives none."""
        parameters = contract.read_parameters(json.loads(args["model_config"]))
        self._defaults = {
            key: np.float32(parameters[key]) for key in (contract.SCORE_THRESHOLD, contract.IOU_THRESHOLD)
        } | {contract.MAX_DETECTIONS: np.int32(contract.DETECTIONS)}

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request: a threshold out of range fails its own request and no other."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        def array(name: str) -> Any:
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

        geometry = array(contract.GEOMETRY)
        candidates = zip(
            array(contract.CANDIDATE_BOXES),
            array(contract.CANDIDATE_SCORES),
            array(contract.CANDIDATE_LABELS),
            strict=True,
        )
        batch = len(geometry)
        num_detections = np.zeros((batch, 1), np.int32)
        boxes = np.zeros((batch, contract.DETECTIONS, 4), np.float32)
        scores = np.zeros((batch, contract.DETECTIONS), np.float32)
        labels = np.full((batch, contract.DETECTIONS), contract.PAD_LABEL, np.int32)
        values = {name: self._optional(request, name, batch) for name in self._defaults}
        for i, (all_boxes, all_scores, all_labels) in enumerate(candidates):
            try:
                thresholds = contract.Thresholds(
                    score=float(values[contract.SCORE_THRESHOLD][i]),
                    iou=float(values[contract.IOU_THRESHOLD][i]),
                    max_detections=int(values[contract.MAX_DETECTIONS][i]),
                )
            except ValueError as error:
                message = f"image[{i}] of {batch}: {error}"
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
            kept = nms.select(all_boxes, all_scores, all_labels, thresholds)
            n = len(kept)
            scale, left, top, width, height = geometry[i].tolist()
            num_detections[i] = n
            boxes[i, :n] = letterbox.unletterbox(all_boxes[kept], scale, (left, top), (width, height))
            scores[i, :n] = all_scores[kept]
            labels[i, :n] = all_labels[kept]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(contract.NUM_DETECTIONS, num_detections),
                pb_utils.Tensor(contract.BOXES, boxes),
                pb_utils.Tensor(contract.SCORES, scores),
                pb_utils.Tensor(contract.LABELS, labels),
            ]
        )

    def _optional(self, request: Any, name: str, batch: int) -> Any:
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return np.full(batch, self._defaults[name]) if tensor is None else tensor.as_numpy().reshape(batch)

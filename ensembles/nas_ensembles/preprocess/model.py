"""Triton Python-backend model: decode an encoded picture or take a raw frame, letterbox."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The helpers beside this file come before an installed package of another version.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from nas_ensembles import contract, memory  # noqa: E402


class TritonPythonModel:
    """`image` or `frame` to `images` and `geometry`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the letterbox and the pixel limit from the config's parameters."""
        parameters = contract.read_parameters(json.loads(args["model_config"]))
        # OpenCV reads its limit when it is loaded, so the modules that load it come after.
        os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(parameters[contract.MAX_PIXELS])
        import cv2

        from nas_ensembles import images, pipeline
        from nas_ensembles.letterbox import LetterboxSpec

        cv2.setNumThreads(1)  # the cores are for other requests and the engine
        memory.keep_freed_memory()
        self._images, self._pipeline = images, pipeline
        self._spec = LetterboxSpec.from_dict(parameters[contract.LETTERBOX])
        self._max_pixels = int(parameters[contract.MAX_PIXELS])
        self._restarts = _count_restarts(args["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request: a picture that cannot be read fails its own request and no other."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        encoded, frames = (
            pb_utils.get_input_tensor_by_name(request, name) for name in (contract.IMAGE.name, contract.FRAME.name)
        )
        if (encoded is None) == (frames is None):
            return _refusal(f"expected either {contract.IMAGE.name} or {contract.FRAME.name}")
        pictures = encoded.as_numpy().reshape(-1) if frames is None else frames.as_numpy()
        canvases = np.empty((len(pictures), 3, *self._spec.size_hw), np.uint8)
        geometry = contract.GEOMETRY.full(len(pictures))
        for i, picture in enumerate(pictures):
            try:
                if frames is not None and picture.shape[0] * picture.shape[1] > self._max_pixels:
                    raise ValueError(f"{picture.shape[1]} x {picture.shape[0]} are more than {self._max_pixels} pixels")
                image = self._images.decode(picture) if frames is None else picture
                geometry[i] = self._pipeline.prepare(image, self._spec, out=canvases[i]).geometry
            except ValueError as error:
                return _refusal(f"image[{i}] of {len(pictures)}: {error}")
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(contract.IMAGES.name, canvases), pb_utils.Tensor(contract.GEOMETRY.name, geometry)]
        )


def _count_restarts(name: str) -> Any:
    """A metric beside Triton's own: how often its supervisor had to start the server again; kept while it is wanted."""
    try:
        family = pb_utils.MetricFamily(
            name="nas_server_restarts",
            description="Restarts of the server since its supervisor was started",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        metric = family.Metric(labels={"model": name})
        metric.set(float(os.environ.get("NAS_SERVER_RESTARTS", "0")))
    except pb_utils.TritonModelException:  # the server has no metrics
        return None
    return family, metric


def _refusal(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))

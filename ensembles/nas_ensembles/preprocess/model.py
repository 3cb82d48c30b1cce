"""Triton Python-backend model: decode an encoded picture or take a raw frame, letterbox."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The helpers beside this file come before an installed package of another version.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from nas_ensembles import contract, cores, memory  # noqa: E402


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

        cv2.setNumThreads(1)  # each of the threads below has a picture of its own
        memory.keep_freed_memory()
        self._images, self._pipeline = images, pipeline
        self._spec = LetterboxSpec.from_dict(parameters[contract.LETTERBOX])
        self._scaled = bool(parameters.get(contract.SCALED_DECODING))
        self._max_pixels = int(parameters[contract.MAX_PIXELS])
        self._cores = cores.share(float(parameters[contract.CORE_SHARE]))
        self._threads = ThreadPoolExecutor(self._cores)
        self._restarts = _count_restarts(args["model_name"])

    def execute(self, requests: list[Any]) -> None:
        """A response per request, as soon as its pictures are prepared: one that cannot be read fails no other."""
        pictures = [picture for request in requests for picture in self._pictures(request)]
        side_by_side = self._threads.map if self._cores > 1 and len(pictures) > 1 else map
        deque(side_by_side(self._prepare, pictures), maxlen=0)

    def _pictures(self, request: Any) -> list[tuple[_Request, int]]:
        encoded, frames = (
            pb_utils.get_input_tensor_by_name(request, name) for name in (contract.IMAGE.name, contract.FRAME.name)
        )
        sender = request.get_response_sender()
        if (encoded is None) == (frames is None):
            _send(sender, _refusal(f"expected either {contract.IMAGE.name} or {contract.FRAME.name}"))
            return []
        pictures = encoded.as_numpy().reshape(-1) if frames is None else frames.as_numpy()
        one = _Request(sender, pictures, frames is None, self._spec.size_hw)
        return [(one, i) for i in range(len(pictures))]

    def _divisor(self, size_hw: tuple[int, int]) -> float:
        """What is too large is decoded whole, which OpenCV refuses."""
        fits = size_hw[0] * size_hw[1] <= self._max_pixels
        return self._spec.divisor(size_hw) if self._scaled and fits else 1.0

    def _prepare(self, picture: tuple[_Request, int]) -> None:
        request, i = picture
        given, problem = request.pictures[i], None
        try:
            if request.encoded:
                image, size_hw = self._images.decode_reduced(given, self._divisor)
            elif given.shape[0] * given.shape[1] <= self._max_pixels:
                image, size_hw = given, given.shape[:2]
            else:
                raise ValueError(f"{given.shape[1]} x {given.shape[0]} are more than {self._max_pixels} pixels")
            request.geometry[i] = self._pipeline.prepare(image, self._spec, request.canvases[i], size_hw).geometry
        except Exception as error:  # whatever it is, who asked gets an answer
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            problem = f"image[{i}] of {len(request.pictures)}: {kind}{error}"
        request.done(problem)


class _Request:
    """Pictures of one request; the last that is done sends the response.

    Args:
        sender: of the response.
        pictures: encoded, or frames.
        encoded: which of them.
        size_hw: of a canvas.
    """

    def __init__(self, sender: Any, pictures: Any, encoded: bool, size_hw: tuple[int, int]) -> None:
        self.pictures, self.encoded = pictures, encoded
        self.canvases = np.empty((len(pictures), 3, *size_hw), np.uint8)
        self.geometry = contract.GEOMETRY.full(len(pictures))
        self._sender = sender
        self._left = len(pictures)
        self._problem: str | None = None
        self._lock = Lock()

    def done(self, problem: str | None) -> None:
        """With one of them."""
        with self._lock:
            self._left -= 1
            self._problem = self._problem or problem
            if self._left:
                return
        if self._problem:
            _send(self._sender, _refusal(self._problem))
            return
        tensors = ((contract.IMAGES.name, self.canvases), (contract.GEOMETRY.name, self.geometry))
        _send(self._sender, pb_utils.InferenceResponse([pb_utils.Tensor(*tensor) for tensor in tensors]))


def _send(sender: Any, response: Any) -> None:
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


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

"""An engine that answers at once, whatever it is given: with the candidates that the real graph has for bus.jpg.

A target like any other: the rest of the served model is the builder's own, with the settings of TensorRT.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import openvino
from common import BUS, canvas_of
from nas_build import pipeline
from nas_build.int8.schemes import SIGNED
from nas_build.options import Options
from nas_build.progress import BuildProgress
from nas_build.targets import EngineFile, EngineGraph, Target
from nas_build.targets.tensorrt import TensorRT
from nas_ensembles import contract
from tritonclient.grpc import model_config_pb2 as pb

_MODEL = '''
"""Candidates of one picture, for every picture."""
import base64
import io

import numpy as np
import triton_python_backend_utils as pb_utils

RECORDED = {recorded!r}


class TritonPythonModel:
    def initialize(self, args):
        with np.load(io.BytesIO(base64.b64decode(RECORDED))) as arrays:
            self._recorded = dict(arrays)
        self._answers = {{}}

    def execute(self, requests):
        sizes = [pb_utils.get_input_tensor_by_name(request, {images!r}).shape()[0] for request in requests]
        return [pb_utils.InferenceResponse(self._answer(size)) for size in sizes]

    def _answer(self, size):
        if size not in self._answers:
            self._answers[size] = [pb_utils.Tensor(n, a.repeat(size, 0)) for n, a in self._recorded.items()]
        return self._answers[size]
'''


class Recorded(Target):
    """Its engine file is a Python model that holds the answer."""

    name = "recorded"
    backend = "python"
    engine_file = "model.py"
    scheme = SIGNED
    preprocess_instances = TensorRT.preprocess_instances
    preprocess_core_share = TensorRT.preprocess_core_share
    queue_delay_us = TensorRT.queue_delay_us

    def build(self, graph: EngineGraph, progress: BuildProgress) -> EngineFile:
        """Ask the graph for bus.jpg, once."""
        with progress.step("plan"):
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(graph.serialized()), "CPU")
            found = compiled(canvas_of(BUS.read_bytes()))
            file = io.BytesIO()
            names = [tensor.name for tensor in contract.CANDIDATE_TENSORS]
            np.savez_compressed(file, **{name: found[name] for name in names})
        recorded = base64.b64encode(file.getvalue()).decode()
        return EngineFile(_MODEL.format(recorded=recorded, images=contract.IMAGES.name).encode())

    def tune(self, config: pb.ModelConfig) -> None:
        """As on the CPU: nothing waits for it."""

    def serve_hint(self, model_repository: Path) -> str:
        return f"nas-serve --model-repository {model_repository}"


def build(repository: Path) -> str:
    """Name of the demo model, served with that engine."""
    options = Options(weights="demo", variant="s", precision="fp16", model_repository=repository, target=Recorded.name)
    return pipeline.build(options, target=Recorded(options)).name

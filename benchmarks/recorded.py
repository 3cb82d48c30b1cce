"""An engine that answers at once, whatever it is given: with the candidates that the real graph has for bus.jpg.

A target like any other: the rest of the served model is the builder's own, with the settings of TensorRT. The engine's
file is a Triton backend, `recorded.c` with the candidates compiled in; Triton looks for one beside the model, too.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino
from common import BUS, canvas_of
from nas_build import pipeline
from nas_build.int8.schemes import SIGNED
from nas_build.options import Options
from nas_build.progress import BuildProgress
from nas_build.targets import EngineFile, EngineGraph, Target
from nas_build.targets.tensorrt import TensorRT
from nas_ensembles import contract
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as pb

_SOURCE = Path(__file__).with_name("recorded.c")
_C_TYPES = {"FP32": "float", "INT32": "int"}


def _compiled(recorded: Mapping[str, NDArray[Any]]) -> bytes:
    """The backend's library, with an array of each output, by its name."""
    header = [f"enum {{ CANDIDATES = {contract.CANDIDATES} }};"]
    for tensor in contract.CANDIDATE_TENSORS:
        values = recorded[tensor.name].ravel().tolist()
        written = [value.hex() if isinstance(value, float) else str(value) for value in values]
        header.append(f"static const {_C_TYPES[tensor.datatype]} {tensor.name}[] = {{{', '.join(written)}}};")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "library.so")
        Path(folder, "candidates.h").write_text("\n".join(header))
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", f"-I{folder}", "-o", library, _SOURCE], check=True)
        return library.read_bytes()


class Recorded(Target):
    """Its engine file is the backend that holds the answer."""

    name = "recorded"
    backend = "recorded"
    engine_file = "libtriton_recorded.so"
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
        return EngineFile(_compiled({tensor.name: found[tensor.name] for tensor in contract.CANDIDATE_TENSORS}))

    def tune(self, config: pb.ModelConfig) -> None:
        """As on the CPU: nothing waits for it."""

    def serve_hint(self, model_repository: Path) -> str:
        return f"nas-serve --model-repository {model_repository}"


def build(repository: Path) -> str:
    """Name of the demo model, served with that engine."""
    options = Options(weights="demo", variant="s", precision="fp16", model_repository=repository, target=Recorded.name)
    return pipeline.build(options, target=Recorded(options)).name

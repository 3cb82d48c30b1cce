"""OpenVINO, on the CPU: the engine file is the graph itself, and the server compiles it."""

from __future__ import annotations

import shlex
from pathlib import Path

from nas_ensembles import contract, known_answer
from tritonclient.grpc import model_config_pb2 as pb

from ..int8.schemes import UNSIGNED
from ..progress import BuildProgress
from .base import EngineFile, EngineGraph, Target


class OpenVINO(Target):
    """Preprocessing and engine share the cores, and a larger batch is no faster per picture."""

    name = "openvino"
    backend = "openvino"
    engine_file = "model.onnx"
    scheme = UNSIGNED
    # The default on some CPUs is bfloat16: faster, but not what was compared with PyTorch.
    engine_parameters = {"INFERENCE_PRECISION_HINT": "f32"}

    def build(self, graph: EngineGraph, progress: BuildProgress) -> EngineFile:
        """The graph as it is.

        Whether this machine's OpenVINO computes it is measured and warned of, no more: others may serve it.
        """
        from ..graph.openvino_runner import OpenVINORunner

        with progress.step("engine"):
            engine = OpenVINORunner(graph.model)
            agreement = graph.known_answer.agreement(*engine(graph.known_answer.canvas).candidates)
        if agreement < known_answer.LIMIT:
            progress.warn(
                f"{graph.name}: OpenVINO on this CPU ({engine.cpu}) computes something else than the graph: agreement "
                f"{agreement:.2f}, expected at least {known_answer.LIMIT:g}. The graph is good and was installed. "
                "Served here, it takes the exact path, which is about as slow as fp16; `nas-client check` shows which."
            )
        return EngineFile(graph.serialized(), machine={"cpu": engine.cpu, "agreement": round(agreement, 4)})

    def tune(self, config: pb.ModelConfig) -> None:
        """What computes the graph can be asked for."""
        info = contract.ENGINE_INFO
        config.output.add(name=info.name, data_type=pb.TYPE_STRING, dims=info.dims({}))

    def serve_hint(self, model_repository: Path) -> str:
        return f"nas-serve --model-repository {shlex.quote(str(model_repository))}"

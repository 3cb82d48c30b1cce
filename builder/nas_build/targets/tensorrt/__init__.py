"""TensorRT, on NVIDIA's GPUs: the engine file is a plan, for one release of TensorRT and one kind of GPU."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from ...int8.schemes import SIGNED
from ...options import Options, key_entries
from ...progress import BuildProgress, Warn
from ..base import EngineFile, EngineGraph, Target, tune_for_gpu
from . import servers, ways
from .plan import PlanBuilder, PlanRequest


class TensorRT(Target):
    """The engine is quicker than one preprocessing, and worth waiting a moment for a fuller batch.

    Args:
        options: of the build.
        plan_builder: the way to build plans.
    """

    name = "tensorrt"
    backend = "tensorrt"
    engine_file = "model.plan"
    scheme = SIGNED
    preprocess_instances = 2  # one goes on while the other waits for the last of its pictures
    preprocess_core_share = 1.0
    engine_instances = 2  # one batch is copied while the other is computed
    queue_delay_us = 500

    def __init__(self, options: Options, plan_builder: PlanBuilder) -> None:
        super().__init__(options)
        self._plan_builder = plan_builder

    @classmethod
    def find(cls, options: Options, warn: Warn) -> TensorRT:
        """With the first way that works here and whose plans the server loads."""
        server = options.tensorrt.server or servers.DEFAULT_SERVER
        if servers.below_security_floor(server):
            warn(
                f"Triton {server} has known remote code execution, fixed by {servers.SECURITY_FLOOR}: keep it off "
                "networks."
            )
        return cls(options, ways.find(options.tensorrt))

    def built_with(self) -> dict[str, Any]:
        """The way, TensorRT's release, the GPU."""
        opt_batch_size = self.options.tensorrt.opt_batch_size or self.options.max_batch_size
        return {**self._plan_builder.identity(), "opt_batch_size": opt_batch_size}

    def build(self, graph: EngineGraph, progress: BuildProgress) -> EngineFile:
        """A plan."""
        tensorrt = self.options.tensorrt
        with progress.step("plan"):
            request = PlanRequest.of(graph, tensorrt, self.options.max_batch_size)
            plan = self._plan_builder.build(request, progress)
        return EngineFile(plan.data, {**plan.facts(), **key_entries(tensorrt)})

    def tune(self, config: pb.ModelConfig) -> None:
        """For every GPU."""
        tune_for_gpu(config)
        config.optimization.cuda.graphs = True  # Triton records them for batches of 1 and of the largest size

    def serve_hint(self, model_repository: Path) -> str:
        given = os.environ.get("MODEL_REPOSITORY")  # compose.yaml takes it, and its build image sets it
        if given and Path(given).resolve() == model_repository.resolve():
            return "docker compose up"
        return f"MODEL_REPOSITORY={shlex.quote(str(model_repository.resolve()))} docker compose up"

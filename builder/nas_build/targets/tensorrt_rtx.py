"""TensorRT for RTX: the engine file is for many RTX GPUs, and is built without one.

Its library is not TensorRT's: neither loads the other's files. What is left to the GPU's own machine is compiled there
when the file is loaded. Triton has no backend for it: one that is called `tensorrt_rtx` has to be provided.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from ..errors import OptionError, PlanError
from ..int8.schemes import SIGNED
from ..options import Options, TensorRTOptions, key_entries
from ..progress import BuildProgress, Warn
from .base import EngineFile, EngineGraph, Target, tune_for_gpu
from .tensorrt import in_process
from .tensorrt.plan import PlanRequest


class TensorRTRTX(Target):
    """The builder is TensorRT's with other kernels: the same API, the same int8.

    Args:
        options: of the build.
        trt: the `tensorrt_rtx` module.
    """

    name = "tensorrt-rtx"
    backend = "tensorrt_rtx"
    engine_file = "model.plan"
    scheme = SIGNED
    preprocess_instances = 2  # one goes on while the other waits for the last of its pictures
    preprocess_core_share = 1.0
    engine_instances = 2  # one batch is copied while the other is computed
    queue_delay_us = 500

    def __init__(self, options: Options, trt: ModuleType) -> None:
        super().__init__(options)
        self._trt = trt

    @classmethod
    def find(cls, options: Options, warn: Warn) -> TensorRTRTX:
        """With the installed package."""
        try:
            trt = importlib.import_module("tensorrt_rtx")
        except ImportError as error:
            raise PlanError(
                f"the tensorrt_rtx package cannot be used ({error}); it is installed with: "
                "pip install 'nas-triton[tensorrt-rtx]'"
            ) from None
        wanted = options.tensorrt_rtx.compute_capability
        if wanted is not None and _enumerator(wanted) not in trt.ComputeCapability.__members__:
            offered = ", ".join(name for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
            raise OptionError(
                f"TensorRT for RTX {trt.__version__} builds for {offered}; got compute capability {wanted!r}.",
                options=("tensorrt_rtx.compute_capability",),
            )
        return cls(options, trt)

    def built_with(self) -> dict[str, Any]:
        """The release: files of one are not loaded by another."""
        return {"tensorrt_rtx_version": self._trt.__version__}

    def build(self, graph: EngineGraph, progress: BuildProgress) -> EngineFile:
        """An engine for the kind of GPU that the options name, or for all from Ampere on."""
        started = time.monotonic()
        request = PlanRequest.of(graph, TensorRTOptions(), self.options.max_batch_size)
        with progress.step("plan"):
            data = in_process.build(self._trt, request, progress, configure=self._configure)
        seconds = round(time.monotonic() - started, 1)
        return EngineFile(
            data, {**self.built_with(), **key_entries(self.options.tensorrt_rtx), "build_seconds": seconds}
        )

    def _configure(self, config: Any) -> None:
        if wanted := self.options.tensorrt_rtx.compute_capability:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self._trt.ComputeCapability.__members__[_enumerator(wanted)], 0)

    def tune(self, config: pb.ModelConfig) -> None:
        """For every GPU."""
        tune_for_gpu(config)

    def serve_hint(self, model_repository: Path) -> str:
        return f"a Triton that has a backend {self.backend} of yours; docs/adding-a-target.md says what it must do"


def _enumerator(compute_capability: str) -> str:
    """SM89 of "8.9"."""
    return f"SM{compute_capability.replace('.', '')}"

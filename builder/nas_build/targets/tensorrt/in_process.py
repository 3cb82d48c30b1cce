"""Build a plan in this process, through TensorRT's Python package (10.x and 11.x) or one with its API."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import PlanError
from ...progress import BuildProgress
from . import gpus, servers, timings
from .gpus import Gpu
from .plan import Plan, PlanRequest

_LEVELS = ("error", "error", "warning", "info", "verbose")  # of ILogger.Severity, from 0
_CUDA_NOISE = "catchCudaError"  # said after every other error on a machine without a GPU


class InProcess:
    """Builds with the `tensorrt` module.

    Args:
        trt: the module.
        gpu: that builds.
        configure: has the last word on the builder's config.
    """

    def __init__(self, trt: ModuleType, gpu: Gpu, configure: Callable[[Any], None] = lambda config: None) -> None:
        self._trt = trt
        self._gpu = gpu
        self._configure = configure

    @classmethod
    def find(cls, server: str) -> InProcess:
        """With the installed package and the visible GPU.

        Args:
            server: that will load the plan.

        Raises:
            PlanError: says what is missing and how to get it.
        """
        try:
            trt = importlib.import_module("tensorrt")
        except ImportError as error:
            release = servers.server_tensorrt(server)
            wanted = f"tensorrt=={release}.*" if release else "tensorrt==..."
            raise PlanError(
                f"the tensorrt package cannot be used ({error}). The release of {servers.server_image(server)} is "
                f"installed with: pip install '{wanted}'{'' if release else ', as its release notes say'}"
            ) from None
        return cls(trt, gpus.find_gpu())

    def identity(self) -> dict[str, str]:
        """The package's version and the GPU."""
        return {"built_with": "tensorrt", "tensorrt_version": self._trt.__version__, **self._gpu._asdict()}

    def build(self, request: PlanRequest, progress: BuildProgress) -> Plan:
        """See `plan.PlanBuilder.build`. Ctrl-C stops TensorRT at its next step."""
        started = time.monotonic()
        kept_at = timings.path_of(self._gpu, self._trt.__version__)
        data = build(self._trt, request, progress, configure=self._configure, kept_at=kept_at)
        return Plan(data, self._trt.__version__, self._gpu, "tensorrt", time.monotonic() - started)


def build(
    trt: ModuleType,
    request: PlanRequest,
    progress: BuildProgress,
    *,
    configure: Callable[[Any], None] = lambda config: None,
    kept_at: Path | None = None,
) -> bytes:
    """A serialized plan. Ctrl-C stops TensorRT at its next step.

    Args:
        trt: `tensorrt`, or a module with its API, such as `tensorrt_rtx`.
        request: what to build.
        progress: told how far the build is and what TensorRT says.
        configure: has the last word on the builder's config.
        kept_at: file of kernel timings, read before and kept after; None for none.

    Raises:
        PlanError: if the graph is refused or no plan can be built.
    """
    cancelled = threading.Event()
    outcome: list[bytes | BaseException] = []

    def work() -> None:
        try:
            outcome.append(_build(trt, request, progress, configure, kept_at, cancelled))
        except BaseException as error:  # noqa: B902  raised again below, in the thread that asked
            outcome.append(error)

    # In a thread of its own: signals reach only the main thread, and only between bytecodes.
    worker = threading.Thread(target=work, name="tensorrt")
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.1)
    except BaseException:
        cancelled.set()
        worker.join()
        outcome.clear()
        raise
    # Taken out: an error in the list that its own traceback holds would keep TensorRT's objects until the garbage
    # collector finds them, perhaps while TensorRT logs the next build and holds the lock that freeing them wants.
    result = outcome.pop()
    if isinstance(result, BaseException):
        raise result
    return result


def _build(
    trt: ModuleType,
    request: PlanRequest,
    progress: BuildProgress,
    configure: Callable[[Any], None],
    kept_at: Path | None,
    cancelled: threading.Event,
) -> bytes:
    product = f"{'TensorRT for RTX' if trt.__name__ == 'tensorrt_rtx' else 'TensorRT'} {trt.__version__}"
    logger = _logger(trt, progress)
    builder = trt.Builder(logger)
    # Needed on 10.x; on 11.x every network is strongly typed and the flag changes nothing.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(request.onnx):
        raise PlanError(f"{request.name}: {product} refuses the graph: {_parser_errors(parser)}")
    config = _config(trt, builder, request)
    config.progress_monitor = _monitor(trt, progress, cancelled)
    configure(config)
    if kept_at:
        cache = config.create_timing_cache(timings.read(kept_at))
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    built = builder.build_serialized_network(network, config)
    if built is None:
        if cancelled.is_set():
            raise PlanError(f"{request.name}: cancelled.")
        raise PlanError(f"{request.name}: {product} cannot build a plan: {logger.errors()}")
    if kept_at:
        timings.keep(kept_at, bytes(config.get_timing_cache().serialize()), progress)
    return bytes(built)


def _config(trt: ModuleType, builder: Any, request: PlanRequest) -> Any:
    """A builder's config with the profile and the user's options."""
    profile, options = request.profile, request.options
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    shapes = builder.create_optimization_profile()
    shapes.set_shape(profile.tensor, *profile.shapes())
    config.add_optimization_profile(shapes)
    return config


def _parser_errors(parser: Any) -> str:
    """The nodes that were refused and TensorRT's reasons."""
    reasons = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        lines = [line for line in error.desc().splitlines() if line and _CUDA_NOISE not in line]
        # The first line repeats the node when there are more.
        reasons.append(f"node {error.node_name()} ({error.node_operator()}): {lines[min(1, len(lines) - 1)]}")
    return "; ".join(dict.fromkeys(reasons)) or "it does not say why."


def _logger(trt: ModuleType, progress: BuildProgress) -> Any:
    """Passes on what TensorRT says, and remembers its errors."""

    class Logger(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = _LEVELS[min(int(severity), len(_LEVELS) - 1)]
            if level == "error" and _CUDA_NOISE not in message:
                self._errors.append(message)
            progress.log(level, message)

        def errors(self) -> str:
            return "; ".join(dict.fromkeys(self._errors)) or "it does not say why."

    return Logger()


def _monitor(trt: ModuleType, progress: BuildProgress, cancelled: threading.Event) -> Any:
    """Turns TensorRT's nested phases into one percentage, and stops the build when it is cancelled."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, list[int]] = {}  # steps and steps done, outermost first
            self._best = 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._phases[phase] = [max(steps, 1), 0]

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self._phases:
                self._phases[phase][1] = step + 1
            share, done = 1.0, 0.0
            for steps, finished in self._phases.values():
                done += share * min(finished / steps, 1)
                share /= steps
            self._best = max(self._best, min(int(done * 100), 99))
            progress.count("plan", self._best, 100)
            return not cancelled.is_set()

        def phase_finish(self, phase: str) -> None:
            self._phases.pop(phase, None)

    return Monitor()

"""Build a plan with `trtexec`: on this machine, or inside the server's own image, so that versions match."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Literal

from nas_eval.downloads import Progress

from ...errors import PlanError
from ...progress import BuildProgress
from . import executors, gpus, timings
from .container import container, docker_engine, require_gpu
from .executors import CommandError, Executor
from .gpus import Gpu
from .plan import Plan, PlanRequest

_MODEL, _PLAN, _TIMINGS = "model.onnx", "model.plan", "timing.cache"
# On PATH from Triton 26.06 on, here before.
_FOLDERS = ("/usr/src/tensorrt/bin", "/opt/tensorrt/bin")
_LONGEST_BUILD_S = 4 * 3600
_BANNER = re.compile(r"\[TensorRT v([\d.]+)\]")
_LINE = re.compile(r"^\[[^\]]*\] \[([EWIV])\] (.*)$")
_LEVELS = {"E": "error", "W": "warning", "I": "info", "V": "verbose"}


class Trtexec:
    """Builds with trtexec.

    Args:
        way: "trtexec" or "docker".
        executor: opens the place where it runs.
        identity: what is known of it before it is opened.
    """

    def __init__(
        self,
        way: Literal["trtexec", "docker"],
        executor: Callable[[Progress], contextlib.AbstractContextManager[Executor]],
        identity: dict[str, str],
    ) -> None:
        self._way = way
        self._executor = executor
        self._identity = {"built_with": str(way), **identity}

    @classmethod
    def local(cls) -> Trtexec:
        """With the trtexec and the GPU of this machine, as inside the server's image.

        Raises:
            PlanError: says what is missing.
        """
        with executors.local() as executor:
            _, version = _find(executor)
        return cls("trtexec", lambda _: executors.local(), {"tensorrt_version": version, **gpus.find_gpu()._asdict()})

    @classmethod
    def docker(cls, image: str, *, gpu: bool = True) -> Trtexec:
        """In a container of the server's image.

        Args:
            image: that will serve the plan.
            gpu: ask the engine for a GPU; trtexec needs one.

        Raises:
            PlanError: says what is missing and how to get it.
        """
        with docker_engine() as client:
            if gpu:
                require_gpu(client)
            host = str(client.info().get("Name", ""))
        device = gpus.visible_device() if gpu else None
        return cls(
            "docker",
            lambda progress: container(image, device, _LONGEST_BUILD_S, progress),
            {"image": image, "engine": host, "device": str(device)},
        )

    def identity(self) -> dict[str, str]:
        """TensorRT's version and the GPU, or the image and the engine that has them."""
        return self._identity

    def build(self, request: PlanRequest, progress: BuildProgress) -> Plan:
        """See `plan.PlanBuilder.build`. Whatever was started is gone afterwards, on Ctrl-C too."""
        started = time.monotonic()
        with self._executor(progress.count) as executor:
            # In a container the requested device is the only one.
            gpu = _gpu(executor, gpus.visible_device() if self._way == "trtexec" else "0")
            executable, version = _find(executor)
            kept_at = timings.path_of(gpu, version)
            executor.put(_MODEL, request.onnx)
            if kept := timings.read(kept_at):
                executor.put(_TIMINGS, kept)
            try:
                with contextlib.closing(executor.run([executable, *arguments(request)])) as lines:
                    for line in lines:
                        progress.log(*_parse_line(line))
            except CommandError as failed:
                message = f"{request.name}: TensorRT {version} cannot build a plan: {_errors(failed)}"
                raise PlanError(message) from None
            data = executor.get(_PLAN)
            if not data:
                raise PlanError(f"{request.name}: trtexec reports success but wrote no plan.")
            if new := executor.get(_TIMINGS):
                timings.keep(kept_at, new, progress)
        return Plan(data, version, gpu, self._way, time.monotonic() - started)


def arguments(request: PlanRequest) -> list[str]:
    """What trtexec is told, on 10.x and 11.x alike."""
    profile, options = request.profile, request.options
    shapes = [f"{profile.tensor}:{'x'.join(map(str, shape))}" for shape in profile.shapes()]
    return [
        f"--onnx={_MODEL}",
        f"--saveEngine={_PLAN}",
        "--stronglyTyped",  # needed on 10.x, without effect on 11.x
        "--skipInference",
        f"--minShapes={shapes[0]}",
        f"--optShapes={shapes[1]}",
        f"--maxShapes={shapes[2]}",
        f"--timingCacheFile={_TIMINGS}",
        f"--builderOptimizationLevel={options.optimization_level}",
        "--profilingVerbosity=detailed",
        *([f"--memPoolSize=workspace:{options.workspace_mib}"] if options.workspace_mib else []),
        *(["--hardwareCompatibilityLevel=ampere+"] if options.hardware_compatible else []),
        *(["--versionCompatible"] if options.version_compatible else []),
    ]


def parse_version(banner: str) -> str | None:
    """`[TensorRT v110201]` is 11.2.1; later releases spell it `[TensorRT v11.1.0.106]`."""
    match = _BANNER.search(banner)
    if not match:
        return None
    if "." in match[1]:
        return match[1]
    number = int(match[1])
    if number < 100000:  # before 10.0: one digit for the major version
        return f"{number // 1000}.{number // 100 % 10}.{number % 100}"
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _find(executor: Executor) -> tuple[str, str]:
    """Path of trtexec and the TensorRT release it is of."""
    for executable in ("trtexec", *(f"{folder}/trtexec" for folder in _FOLDERS)):
        try:
            lines = list(executor.run([executable, "--help"]))
        except PlanError:
            continue
        if version := parse_version("\n".join(lines)):
            return executable, version
    raise PlanError(f"there is no trtexec on PATH or in {' or '.join(_FOLDERS)}")


def _gpu(executor: Executor, device: str) -> Gpu:
    try:
        return gpus.parse_gpu("\n".join(executor.run(["nvidia-smi", *gpus.gpu_query(device)])))
    except CommandError as failed:
        raise PlanError(f"no NVIDIA GPU can be used: nvidia-smi says: {' '.join(failed.lines)}") from None


def _parse_line(line: str) -> tuple[str, str]:
    match = _LINE.match(line)
    return (_LEVELS[match[1]], match[2]) if match else ("info", line)


def _errors(failed: CommandError) -> str:
    """TensorRT's own error lines, which name the node; the end of the log if there are none."""
    parsed = [_parse_line(line) for line in failed.lines]
    errors = [text.removeprefix("[TRT] ") for level, text in parsed if level == "error"]
    return "\n  ".join(dict.fromkeys(errors)) or "\n  ".join(failed.lines[-5:]) or "it printed nothing."

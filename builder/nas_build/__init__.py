"""Checkpoint -> network -> ONNX -> engine file -> Triton model repository.

    import nas_build

    result = nas_build.build(weights="best.pth", precision="int8", int8=nas_build.Int8Options(budget=0.3))
    print(result.name, result.version, result.manifest["int8"]["accuracy"])

Importing it is cheap; PyTorch is loaded when a build needs it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_ensembles.release import VERSION as __version__

from .errors import (
    BuildError,
    CalibrationError,
    CheckpointError,
    DisagreementError,
    DownloadError,
    ExportError,
    OptionError,
    PlanError,
    ProcessingError,
    RepositoryError,
)
from .options import Int8Options, Options, TensorRTOptions, TensorRTRTXOptions
from .progress import BuildProgress

if TYPE_CHECKING:
    from .exports.run import ExportResult
    from .pipeline import Result

__all__ = [
    "BuildError",
    "BuildProgress",
    "CalibrationError",
    "CheckpointError",
    "DisagreementError",
    "DownloadError",
    "ExportError",
    "ExportResult",
    "Int8Options",
    "OptionError",
    "Options",
    "PlanError",
    "ProcessingError",
    "RepositoryError",
    "Result",
    "TensorRTOptions",
    "TensorRTRTXOptions",
    "__version__",
    "build",
    "export",
]


def build(options: Options | None = None, *, progress: BuildProgress | None = None, **fields: Any) -> Result:
    """Build one model into a Triton model repository, or find that it is there already.

    Args:
        options: what to build; None takes the defaults.
        progress: told of steps, downloads and warnings; None is silent.
        fields: of `Options`, instead of its own: `weights="best.pth"`, `precision="int8"`,
            `int8=Int8Options(calibration=Path("pictures"))`.

    Returns:
        Name and version of the model, whether it was built, and what was measured.

    Raises:
        BuildError: nothing was installed; the message says why and what to do, `options` which fields mend it.
        nas_eval.errors.DatasetError: labelled pictures cannot be read, or are of other classes than the model's.
        TypeError: there is no such option.
    """
    from . import pipeline

    return pipeline.build(replace(options or Options(), **fields), progress)


def export(weights: str | Path, format: str, *, progress: BuildProgress | None = None, **fields: Any) -> ExportResult:
    """Export a checkpoint as a file of another runtime, compared with PyTorch before it is written.

    Args:
        weights: "demo", "coco", hf://..., a URL or a file.
        format: "onnx", "frigate", "deepstream", "sg-flat" or "sg-batch".
        progress: told of steps, downloads and warnings; None is silent.
        fields: of `exports.options.ExportOptions`: `output=Path("best.onnx")`, `size_hw=(320, 320)`.

    Returns:
        The files, their tensors, what was measured, and what to write into the runtime's configuration.

    Raises:
        BuildError: nothing was written; the message says why and what to do.
        TypeError: there is no such option.
    """
    from .exports import run
    from .exports.options import ExportOptions

    return run.export(ExportOptions(weights, format, **fields), progress)


def __getattr__(name: str) -> Any:
    if name == "ExportResult":
        from .exports.run import ExportResult

        return ExportResult
    if name == "Result":
        from .pipeline import Result

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Checkpoint -> network -> ONNX -> engine file -> Triton model repository.

    import nas_build

    result = nas_build.build(weights="best.pth", precision="int8", int8=nas_build.Int8Options(budget=0.3))
    print(result.name, result.version, result.manifest["int8"]["accuracy"])

Importing it is cheap; PyTorch is loaded when a build needs it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nas_ensembles.release import VERSION as __version__

from .errors import (
    BuildError,
    CalibrationError,
    CheckpointError,
    DisagreementError,
    DownloadError,
    OptionError,
    PlanError,
    ProcessingError,
    RepositoryError,
)
from .options import Int8Options, Options, TensorRTOptions, TensorRTRTXOptions
from .progress import BuildProgress

if TYPE_CHECKING:
    from .pipeline import Result

__all__ = [
    "BuildError",
    "BuildProgress",
    "CalibrationError",
    "CheckpointError",
    "DisagreementError",
    "DownloadError",
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


def __getattr__(name: str) -> Any:
    if name == "Result":
        from .pipeline import Result

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""All that decides what a build writes. Equal keys, equal files: the manifest keeps it as `inputs`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from nas_ensembles import opencv
from nas_eval.dataset import Dataset
from nas_eval.downloads import file_sha256

from ..errors import BuildError, CheckpointError, reason
from ..options import Options, key_entries
from . import code_hash

_LIBRARIES = ("nas-triton", "torch", "onnx", "onnxscript", "openvino", "numpy")


def collect(options: Options, checkpoint: Path, pictures: Sequence[Path], labelled: Dataset | None) -> dict[str, Any]:
    """What the options say and lead to; the target and the name are the pipeline's to add.

    Args:
        options: of the build.
        checkpoint: file.
        pictures: to calibrate and to check with.
        labelled: pictures to measure int8's loss on, if there are.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        BuildError: the class names cannot be read.
    """
    int8 = key_entries(options.int8)
    names = options.class_names
    try:
        names_sha256 = file_sha256(names) if names else None
    except OSError as error:
        raise BuildError(f"{names}: cannot read class names: {reason(error)}", options=("class_names",)) from None
    try:
        checkpoint_sha256 = file_sha256(checkpoint)
    except OSError as error:
        raise CheckpointError(f"{checkpoint}: cannot be read: {reason(error)}") from None
    return {
        **key_entries(options),
        **(int8 if options.precision == "int8" else dict.fromkeys(int8)),
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": checkpoint_sha256,
        "class_names_sha256": names_sha256,
        "pictures": _hashes(pictures),
        "validation": _hashes([picture.path for picture in labelled.pictures]) if labelled else None,
        "truth_sha256": _sha256(labelled.truth) if labelled else None,
        "versions": {**{library: metadata.version(library) for library in _LIBRARIES}, "opencv": opencv.version()},
        "sources_sha256": code_hash.sha256(),
    }


def _hashes(paths: Sequence[Path]) -> list[list[str]]:
    """Name and SHA-256 of each, empty if it cannot be read; names may occur twice."""
    return sorted([f"{path.parent.name}/{path.name}", _file_sha256(path)] for path in paths)


def _file_sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:
        return ""


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

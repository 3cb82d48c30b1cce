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
    """
    int8 = key_entries(options.int8)
    names = options.class_names
    return {
        **key_entries(options),
        **(int8 if options.precision == "int8" else dict.fromkeys(int8)),
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": file_sha256(checkpoint),
        "class_names_sha256": file_sha256(names) if names and names.is_file() else None,
        "pictures": _hashes(pictures),
        "validation": _hashes([picture.path for picture in labelled.pictures]) if labelled else None,
        "truth_sha256": _sha256(labelled.truth) if labelled else None,
        "versions": {**{library: metadata.version(library) for library in _LIBRARIES}, "opencv": opencv.version()},
        "sources_sha256": code_hash.sha256(),
    }


def _hashes(paths: Sequence[Path]) -> list[list[str]]:
    """Name and SHA-256 of each: names may occur twice."""
    return sorted([f"{path.parent.name}/{path.name}", file_sha256(path)] for path in paths)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

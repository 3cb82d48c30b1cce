"""The demo network in every format, on a quarter of COCO's canvas, exported once for all tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest
from nas_build.exports import FORMATS, run
from nas_build.exports.options import ExportOptions
from nas_build.exports.run import ExportResult

Files = dict[str, ExportResult]


@pytest.fixture(scope="session")
def files(quarter_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """By format."""
    folder = tmp_path_factory.mktemp("exports")
    return {
        name: run.export(ExportOptions(quarter_checkpoint, name, output=folder / f"{name}.onnx")) for name in FORMATS
    }
